"""The base of the DataModules whose training data is made before training: made once, kept, read back."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from stepneg.credit.pairs import Trace
from stepneg.data.forest import batched
from stepneg.data.rows import Example, Examples, Row, SeededOrder, check_lengths, teacher_row
from stepneg.errors import InputError
from stepneg.fingerprint import fingerprint, fingerprint_policy
from stepneg.pipeline import Draw
from stepneg.policy import batch_log_probs, check_packing, load_model
from stepneg.policy_folder import context_length, load_tokenizer
from stepneg.problems import Problem, ProblemSource
from stepneg.problems.contamination import contamination
from stepneg.progress import Bar
from stepneg.sampling.vllm_engine import leave_device
from stepneg.whole import write_whole

DAMAGED = "it or a file beside it is missing or was damaged since it was written (by its .sha256)"


class ResumableLoader(DataLoader[Example]):
    """A loader of training batches. A fit that was stopped within an epoch goes on behind the last batch it has seen.

    Its state is in the checkpoint. Batches are not fetched ahead.

    Args:
        at_end: whether the epoch ends with the batch that was given last.
        options: of a DataLoader, whose sampler is a :class:`SeededOrder`.
    """

    sampler: SeededOrder

    def __init__(self, at_end: Callable[[], bool], **options: Any) -> None:
        super().__init__(**options)
        self.at_end = at_end
        self.given, self.resumed = 0, 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        assert self.batch_size is not None
        self.given, self.resumed = self.resumed, 0
        self.sampler.behind = self.given * self.batch_size
        for batch in super().__iter__():
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Batches of this epoch that were given, and what they are batches of."""
        return {"batches": 0 if self.at_end() else self.given} | self.of()

    def of(self) -> dict[str, int]:
        """Ranks that share an epoch, examples of a batch, and of all."""
        assert self.batch_size is not None
        return {"ranks": self.sampler.num_replicas, "batch_size": self.batch_size, "examples": len(self.dataset)}  # type: ignore[arg-type]

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leave out those batches in the next pass.

        Raises:
            InputError: they were given to another number of ranks, or are batches of other sizes or other data.
        """
        words = {"ranks": "on {} devices", "batch_size": "in batches of {}", "examples": "of {} examples"}
        for name, here in self.of().items() if state["batches"] else ():
            if (there := state.get(name, here)) != here:
                raise InputError(
                    f"ckpt_path: the checkpoint is from within an epoch {words[name].format(there)}, these are {here};"
                    " give it as many, or delete RUN/checkpoints to begin anew"
                )
        self.resumed = state["batches"]


@dataclass(frozen=True)
class Built:
    """Training examples, facts about their making (numbers for the report), and valued traces to look at."""

    examples: list[Example]
    facts: dict[str, float]
    traces: list[Trace] = field(default_factory=list)


def write_built(built: Built, file: Path, problems: Sequence[Problem] = ()) -> None:
    """Write examples and traces as JSONL, the facts as JSON and a checksum of all three; the examples' file comes last.

    Each file appears whole. Training reads no problems: they are for people who look at the traces.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    examples = "".join(json.dumps([asdict(row) for row in example]) + "\n" for example in built.examples)
    traces = "".join(json.dumps(asdict(trace)) + "\n" for trace in built.traces)
    texts = dict(zip(files_of(file), (examples, traces, json.dumps(built.facts, indent=1)), strict=True))
    write_whole(
        file.with_suffix(".problems.jsonl"), "".join(json.dumps(asdict(problem)) + "\n" for problem in problems)
    )
    write_whole(file.with_suffix(".sha256"), checksum(text.encode() for text in texts.values()))
    for place in reversed(texts):
        write_whole(place, texts[place])


def files_of(file: Path) -> tuple[Path, Path, Path]:
    """Examples, traces and facts of :func:`write_built`."""
    return file, file.with_suffix(".traces.jsonl"), file.with_suffix(".json")


def checksum(contents: Iterable[bytes]) -> str:
    """sha256 over files, of each of which it matters where it ends."""
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()


def read_checked(file: Path) -> list[bytes] | None:
    """Examples, traces and facts as :func:`write_built` wrote them; None if one is missing or is not as it was."""
    try:
        contents = [place.read_bytes() for place in files_of(file)]
        return contents if file.with_suffix(".sha256").read_bytes() == checksum(contents).encode() else None
    except FileNotFoundError:
        return None


def read_built(file: Path) -> Built:
    """What :func:`write_built` wrote.

    Raises:
        InputError: it is not as it was written.
    """
    found = read_checked(file)
    if found is None:
        raise InputError(f"{file}: {DAMAGED}; delete it, and it is made again from the stored samples")
    example_lines, trace_lines, facts = found
    examples = [example_of(json.loads(line)) for line in example_lines.splitlines()]
    traces = [trace_of(json.loads(line)) for line in trace_lines.splitlines()]
    return Built(examples, json.loads(facts), traces)


def example_of(rows: list[dict[str, Any]]) -> Example:
    """An example from its line.

    Raises:
        ValueError: ``shared`` is no number of tokens.
    """
    if not all(type(row["shared"]) is int and row["shared"] >= 0 for row in rows):
        raise ValueError("shared is no number of tokens")
    return tuple(
        Row(
            prompt_ids=tuple(row["prompt_ids"]),
            response_ids=tuple(row["response_ids"]),
            shared=row["shared"],
            weights=None if row["weights"] is None else tuple(row["weights"]),
            reference_logp=row["reference_logp"],
        )
        for row in rows
    )


def trace_of(values: dict[str, Any]) -> Trace:
    """A trace from its line.

    Raises:
        ValueError: its steps or counts do not fit its response.
    """
    return Trace(
        problem_id=values["problem_id"],
        prompt_ids=tuple(values["prompt_ids"]),
        response_ids=tuple(values["response_ids"]),
        correct=values["correct"],
        ends=tuple(values["ends"]),
        counts=tuple((n, c) for n, c in values["counts"]),
    )


class Prepared(L.LightningDataModule):
    """Training data that ``build`` makes once per fingerprint of its settings, problems and policy.

    ``prepare_data`` runs on one process of the whole job (:mod:`stepneg.data.handover`) and leaves
    ``RUN/data/FINGERPRINT.jsonl``; ``setup`` reads that file in every process.

    Args:
        policy: HF folder; its tokenizer is used, and it is the policy that is sampled and the reference.
        problems: training problems, by class_path.
        validation: held-out problems for validation loss.
        template: the prompt; ``{question}`` is replaced. ``chat`` is the tokenizer's own chat template, ``chat:...``
            the same with a system message. The same text trains, samples and evaluates.
        batch_size: examples a step and device (a pair is one example).
        seed: of the order of examples and of what ``build`` draws.
        skip_long: leave out what exceeds the model's context, instead of stopping.
        packed: compute tokens that rows of a batch share once, and no padding. Off, for models whose attention is not
            plain, the rows are padded to the longest.
        by_problem: the examples of a problem follow each other, so that a batch shares as many tokens as possible;
            off, all examples are shuffled.
    """

    def __init__(
        self,
        policy: Path,
        problems: ProblemSource,
        validation: ProblemSource | None = None,
        template: str = "{question}\n",
        batch_size: int = 32,
        seed: int = 0,
        skip_long: bool = False,
        packed: bool = True,
        by_problem: bool = False,
    ) -> None:
        super().__init__()
        self.prepare_data_per_node = False  # behind Lightning's own __init__, which sets it
        self.packed, self.by_problem = packed, by_problem
        self.policy = Path(policy)
        self.stand_in: Path | None = None  # for the tokenizer of a policy that is not there
        self.problems, self.validation = problems, validation
        self.template, self.batch_size, self.seed, self.skip_long = template, batch_size, seed, skip_long
        self.made: Path | None = None  # the file of the examples, once it is there
        self.origin: str | None = None  # and the fingerprint of what they are made of
        self.built: Built | None = None
        self.held_out: list[Example] = []
        self.training: ResumableLoader | None = None
        self.resumed: dict[str, int] | None = None  # the state of an earlier process's loader

    @abstractmethod
    def build(self, problems: list[Problem], tokenizer: PreTrainedTokenizerBase) -> Built:
        """Make the training examples."""

    def draws(self) -> tuple[Draw, ...]:
        """What ``build`` samples the policy for: nothing, ``solutions``, or step ``values`` as well."""
        return ()

    @abstractmethod
    def settings(self) -> Any:
        """The settings, beyond those of this class, that the examples depend on."""

    def load_problems(self) -> list[Problem]:
        """The training problems, without those whose text is also held out.

        Raises:
            InputError: there are none.
        """
        problems = self.problems.load()
        if self.validation is not None:
            leaked = {train for train, _ in contamination(problems, self.validation.load())}
            if leaked:
                print(f"left out {len(leaked)} training problems that are also held out, for example {min(leaked)}")
            problems = [p for p in problems if p.id not in leaked]
        if not problems:
            raise InputError(f"data.problems: {self.problems} holds no problem; check path, split and limit")
        return problems

    def file(self, problems: list[Problem]) -> Path:
        """Where the examples of these problems and settings are kept."""
        assert self.trainer is not None
        # The reference's log-probabilities are computed in it.
        name = fingerprint(*self.made_of(problems), str(self.trainer.precision))
        return Path(self.trainer.default_root_dir) / "data" / f"{name}.jsonl"

    def made_of(self, problems: list[Problem]) -> tuple[Any, ...]:
        """All that tokens and weights of the examples depend on."""
        own = (type(self).__name__, self.settings(), problems, self.template, self.seed, self.skip_long)
        return (*own, fingerprint_policy(self.policy))

    def prepare_data(self) -> None:
        """Make the examples of a fit unless their file is there; other verbs need none."""
        assert self.trainer is not None
        if self.trainer.state.fn not in (None, TrainerFn.FITTING):  # None before Lightning is asked for a fit
            return
        tokenizer = self.tokenizer()
        problems = self.load_problems()
        file = self.made = self.file(problems)
        if file.exists():
            if read_checked(file) is not None:
                return
            print(f"{file}: {DAMAGED}; it is made again from the stored samples", flush=True)
        built = self.build(problems, tokenizer)
        if not built.examples:
            raise InputError(f"data: no training example came of {len(problems)} problems: {json.dumps(built.facts)}")
        write_built(built, file, problems)
        leave_device(self.trainer.strategy.root_device)

    def setup(self, stage: str) -> None:
        """Read the examples back, and encode the held-out problems.

        Where the data's policy is not there, the tokenizer is that of the policy under test, unless this is a fit.
        """
        if stage != "fit" and not self.policy.is_dir() and self.trainer is not None:
            self.stand_in = getattr(self.trainer.lightning_module, "path", None)
        tokenizer = self.tokenizer()
        self.pad_id = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)
        if stage == "fit":
            problems = self.load_problems()
            self.made, self.origin = self.file(problems), fingerprint(*self.made_of(problems))
            self.built = read_built(self.made)
        if self.validation is not None:
            self.held_out = self.teacher_examples(self.validation.load(), tokenizer)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The policy's tokenizer.

        Raises:
            InputError: there is no such policy, or no tokenizer in it.
        """
        folder = self.stand_in or self.policy
        if not folder.is_dir():
            option = "data.policy" if self.stand_in is None else "model.path"
            raise InputError(
                f"{option}: {folder}: no such policy folder; give --{option}, an HF folder, for example"
                " RUN/last of an earlier fit"
            )
        return load_tokenizer(folder, self.template)

    def teacher_examples(self, problems: list[Problem], tokenizer: PreTrainedTokenizerBase) -> list[Example]:
        """Rows of the worked solutions that fit the context."""
        return self.fitting([p.id for p in problems], [(teacher_row(tokenizer, self.template, p),) for p in problems])

    def fitting(self, ids: Sequence[str], examples: Sequence[Example]) -> list[Example]:
        """The examples within the model's context; too long ones are left out or an error, as ``skip_long`` says."""
        context = context_length(self.stand_in or self.policy)
        if not self.skip_long:
            for name, example in zip(ids, examples, strict=True):
                check_lengths([name] * len(example), example, context)
        return [example for example in examples if max(map(len, example)) <= context]

    def with_reference(self, examples: list[Example]) -> list[Example]:
        """The examples with the reference policy's log-probabilities, computed once, in the precision of the fit."""
        logps = self.reference_log_probs(
            {row for example in examples for row in example}, "reference log-probabilities"
        )
        return [
            tuple(Row(r.prompt_ids, r.response_ids, r.shared, r.weights, logps[r]) for r in example)
            for example in examples
        ]

    def reference_log_probs(self, of: Collection[Row], title: str) -> dict[Row, float]:
        """Summed log-probability of each row's labelled tokens under the reference policy, in nats.

        Args:
            of: distinct rows.
            title: what the progress bar is called.
        """
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        leave_device(device)  # the engine that drew the rows may hold most of it
        model = load_model(self.policy).eval().to(device)
        # Rows of one prompt share most of their tokens; all else being equal, rows of like length little padding.
        rows = sorted(of, key=lambda r: (len(r.prompt_ids), r.prompt_ids, len(r)))
        logps: dict[Row, float] = {}
        tokens = 0
        pad_id = int(model.config.eos_token_id) if isinstance(model.config.eos_token_id, int) else 0
        with (
            Bar(title, len(rows)) as bar,
            torch.no_grad(),
            self.trainer.precision_plugin.forward_context(),
        ):
            for i in range(0, len(rows), 2 * self.batch_size):
                some = rows[i : i + 2 * self.batch_size]
                batch = {k: v.to(device) for k, v in batched([(row,) for row in some], pad_id, self.packed).items()}
                if i == 0:
                    check_packing(model, batch)
                logps |= zip(some, batch_log_probs(model, batch).sum(-1).tolist(), strict=True)
                tokens += sum(map(len, some))
                bar.advance(len(some), tokens)
        return logps

    def train_dataloader(self) -> DataLoader[Example]:
        """Training examples in an order that depends on (seed, epoch) alone."""
        assert self.built is not None
        assert self.trainer is not None
        examples, ranks = self.built.examples, (self.trainer.world_size, self.trainer.global_rank)
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, example in enumerate(examples):
            groups.setdefault(example[0].prompt_ids, []).append(i)
        # A rank takes whole batches, so that pairs of one problem are not dealt out over the ranks.
        together: dict[str, Any] = {"groups": list(groups.values()), "block": self.batch_size}
        order = SeededOrder(len(examples), self.seed, *ranks, **(together if self.by_problem else {}))
        trainer = self.trainer
        self.training = self.loader(examples, order, partial(ResumableLoader, lambda: bool(trainer.is_last_batch)))
        if self.resumed is not None:
            self.training.load_state_dict(self.resumed)
        return self.training

    def state_dict(self) -> dict[str, Any]:
        """That of the training batches.

        Lightning would restore the loader's own only if nothing had asked for the number of steps before.
        """
        return {} if self.training is None else {"training": self.training.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on behind the batches that an earlier process has seen."""
        self.resumed = state_dict["training"]
        if self.training is not None:
            self.training.load_state_dict(state_dict["training"])

    def val_dataloader(self) -> DataLoader[Any]:
        """Worked solutions of the held-out problems, each on one rank; one empty batch where there are none.

        Lightning passes over a validation or test without a batch, and over the evaluation at its end.
        """
        assert self.trainer is not None
        ranks = (self.trainer.world_size, self.trainer.global_rank)
        if not self.held_out:
            return DataLoader(Examples([()]), collate_fn=lambda _: {})
        order = SeededOrder(len(self.held_out), self.seed, *ranks, shuffled=False)
        return self.loader(self.held_out, order)  # type: ignore[no-any-return]

    def test_dataloader(self) -> DataLoader[Any]:
        """As in validation."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Example] | list[Any]:
        """As in validation; Lightning deals them out."""
        return self.loader(self.held_out, None) if self.held_out else []

    def loader(
        self, examples: list[Example], order: Iterable[int] | None, kind: Callable[..., Any] = DataLoader
    ) -> Any:
        """Batches of rows, as :func:`stepneg.data.forest.batched` makes them."""
        return kind(
            dataset=Examples(examples),
            batch_size=self.batch_size,
            sampler=order,
            collate_fn=partial(batched, pad_id=self.pad_id, packed=self.packed),
        )
