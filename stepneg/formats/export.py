"""``stepneg export samples`` and ``pairs``: what was sampled and trained on, as tables for other tools."""

import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from stepneg.chat_template import is_chat, opening
from stepneg.data.prepared import DAMAGED, example_of, read_checked
from stepneg.data.rollouts import Rollouts
from stepneg.data.rows import Row, decode, encode_prompt, encode_text
from stepneg.errors import InputError
from stepneg.fingerprint import fingerprint_policy
from stepneg.formats.preferences import ID_COLUMNS
from stepneg.formats.tables import check_output, write_rows
from stepneg.grading import Form
from stepneg.grading.batch import grade_all
from stepneg.policy_folder import exported_template, load_tokenizer
from stepneg.problems import Problem, ProblemSource
from stepneg.progress import Bar
from stepneg.record import content, data_of, fit_of
from stepneg.resolved import resolve_run
from stepneg.sampling.engine import Decoding, Ids
from stepneg.sampling.store import Sampler, prompt_key, read_meta

IDS = pa.list_(pa.int32())
TURNS = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
COLUMNS = pa.schema(
    {
        "problem_id": pa.string(), "index": pa.int64(), "question": pa.string(), "answer": pa.string(),
        "response": pa.string(), "prompt_ids": IDS, "response_ids": IDS, "logprob": pa.float64(),
        "finish_reason": pa.string(), "correct": pa.bool_(), "extracted": pa.string(), "rule": pa.string(),
        "temperature": pa.float64(), "top_p": pa.float64(), "max_tokens": pa.int64(), "seed": pa.int64(),
    }
)  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """Whose samples are looked for, and what they answer.

    Attributes:
        store: folder of the sample store.
        policy: HF folder.
        problems: what was asked.
        template: the prompt.
        form: how answers are read and compared.
        decoding: of the samples; None for any.
        seed: of the samples; None for any.
        samples: how many a problem; None for all.
    """

    store: Path
    policy: Path
    problems: Sequence[Problem]
    template: str
    form: Form
    decoding: Decoding | None = None
    seed: int | None = None
    samples: int | None = None

    def samplers(self) -> Iterator[tuple[Sampler, dict[str, Any]]]:
        """Those of the store that are asked for, with what each is."""
        policy = fingerprint_policy(self.policy)
        for file in sorted(self.store.glob("*/meta.json")):
            meta = read_meta(file.parent)
            wanted = (
                self.decoding is None or meta["decoding"] == asdict(self.decoding),
                self.seed is None or meta["seed"] == self.seed,
            )
            if meta["policy"] == policy and all(wanted):
                yield Sampler(file.parent), meta

    def rows(self, tokenizer: PreTrainedTokenizerBase, bar: Bar) -> Iterator[dict[str, Any]]:
        """A row a sample and problem, in the store's order, without its grade.

        Args:
            tokenizer: of the policy.
            bar: counts each sampler's problems as their samples, which lie together, are reached.
        """
        number = 0
        asked: dict[str, list[tuple[Problem, Ids]]] = {}
        for problem in self.problems:
            ids = encode_prompt(tokenizer, self.template, problem.question)
            asked.setdefault(prompt_key(ids), []).append((problem, ids))
        for sampler, meta in self.samplers():
            left = set(asked)
            for key, index, done in sampler.rows(asked):
                number += 1
                bar.advance(len(asked[key]) * (key in left), number)
                left.discard(key)
                if self.samples is not None and index >= self.samples:
                    continue
                for problem, ids in asked[key]:
                    yield {
                        "problem_id": problem.id, "index": index, "question": problem.question,
                        "answer": problem.answer, "response": decode(tokenizer, done.token_ids),
                        "prompt_ids": list(ids), "response_ids": list(done.token_ids), "logprob": done.logprob,
                        "finish_reason": done.finish_reason, **meta["decoding"], "seed": meta["seed"],
                    }  # fmt: skip


def graded(rows: Iterator[dict[str, Any]], form: Form) -> Iterator[dict[str, Any]]:
    """The rows with ``correct``, ``extracted`` and ``rule``; a bounded number of them waits for its grade."""
    waiting: deque[dict[str, Any]] = deque()

    def items() -> Iterator[tuple[str, str]]:
        for row in rows:
            waiting.append(row)
            yield row["response"], row["answer"]

    for verdict in grade_all(items(), form):
        row = waiting.popleft() | {"correct": verdict.correct, "extracted": verdict.extracted, "rule": verdict.rule}
        yield {name: row[name] for name in COLUMNS.names}


def of_run(run: Path) -> Drawn:
    """What a fit has sampled, from its own configuration.

    Raises:
        InputError: it is no run, or one that samples nothing.
    """
    data: Any = resolve_run(run).data
    rollouts = getattr(data, "rollouts", None)
    if not isinstance(rollouts, Rollouts):
        raise InputError(f"{run}: is a fit on {type(data).__name__}, which samples nothing; name another run")
    return Drawn(
        rollouts.store, policy_of(run, data.policy), data.load_problems(), data.template, rollouts.form,
        rollouts.decoding, rollouts.seed, rollouts.samples,
    )  # fmt: skip


def policy_of(run: Path, named: Path) -> Path:
    """Where the policy is now that the run's last good fit sampled; as named where the fit has no record of it.

    Raises:
        InputError: it is gone, or another policy is in its place.
    """
    fit = fit_of(run)
    for item in fit["inputs"] if fit else ():
        if item["place"] in ("data.policy", "data.init_args.policy"):
            places = [named, run / item["near"], Path(item["path"])]
            there = (place for place in places if content(place, item["place"]) == item["fingerprint"])
            if (found := next(there, None)) is None:
                raise InputError(
                    f"{named}: is gone, or is another policy than the fit of {run} has sampled; put that one in its"
                    " place, or export the store, with --policy"
                )
            return found
    return named


def export_samples(
    source: Path,
    output: Path,
    policy: Path | None = None,
    problems: ProblemSource | None = None,
    form: Form | None = None,
    template: str | None = None,
) -> str:
    """Write sampled solutions with their grades as a table: of a run, or of a store.

    A row holds problem_id, index, question, answer, response, prompt_ids, response_ids, logprob (nats), finish_reason,
    correct, extracted, rule, and the decoding and seed it was drawn with. `stepneg grade` and `stepneg import` read it.

    Args:
        source: a run directory (of a fit that samples), or the folder of a sample store.
        output: a .jsonl or .parquet file, or a folder, which datasets.load_dataset opens.
        policy: of a store: the HF folder whose samples are written, under every decoding and seed.
        problems: of a store: what was asked, by class_path; samples of other prompts are left out.
        form: of a store: how answers are read and compared (gsm8k, math, number, text).
        template: of a store: the prompt; by default that of the fit which exported the policy.

    Returns:
        A line that says what was written.

    Raises:
        InputError: there are no such samples, or the output cannot be written.
    """
    check_output(output)
    if (source / "config.yaml").is_file():
        drawn = of_run(source)
    elif policy is None or problems is None or form is None:
        raise InputError(
            f"{source}: has no config.yaml, so it is no run; of a sample store say --policy, --problems and --form"
        )
    else:
        text = template or exported_template(policy) or "{question}\n"
        drawn = Drawn(source, policy, problems.load(), text, form)
    samplers = len(list(drawn.samplers()))
    if not samplers:
        raise InputError(
            f"{drawn.store}: holds no samples of {drawn.policy} as it is now under these settings; check the policy"
        )
    tokenizer = load_tokenizer(drawn.policy, drawn.template)
    with Bar("export: problems", samplers * len(drawn.problems), "samples") as bar:
        number = write_rows(graded(drawn.rows(tokenizer, bar), drawn.form), output, COLUMNS)
    return f"{output}: {number} samples of {len(drawn.problems)} problems"


def export_pairs(run: Path, output: Path) -> str:
    """Write the pairs that a fit was trained on in TRL's preference format.

    A row holds prompt, chosen and rejected (messages if the run's template is chat, else text), prompt_ids, chosen_ids,
    rejected_ids, shared (leading answer tokens that are context), problem_id and question. TRL closes a text by EOS
    itself, a rejected answer that was cut behind its pit, too; the ids are what stepneg trained on.

    Args:
        run: the run directory.
        output: a .jsonl or .parquet file, or a folder, which datasets.load_dataset opens.

    Returns:
        A line that says what was written.

    Raises:
        InputError: the run has no pairs or damaged ones, or the output cannot be written.
    """
    check_output(output)
    files = [f for f in (run / "data").glob("*.jsonl") if f.suffixes == [".jsonl"]]  # no traces, no problems
    if not files:
        raise InputError(f"{run}: is no run directory with training data; name one of stepneg fit")
    own = data_of(fit_of(run))  # a fit with other settings leaves another, and a copy other times
    file = max(files, key=lambda f: (f"data/{f.name}" in own, f.stat().st_mtime))
    contents = read_checked(file)
    if contents is None:
        raise InputError(f"{file}: {DAMAGED}; run its fit again, which makes it from the stored samples")
    lines = contents[0].splitlines()
    data: Any = resolve_run(run).data
    tokenizer = load_tokenizer(data.policy, data.template)
    asked = {encode_prompt(tokenizer, data.template, p.question): p for p in data.load_problems()}
    chat, changed = is_chat(data.template), 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal changed
        with Bar("export", len(lines), "pairs") as bar:
            for number, line in enumerate(lines, 1):
                pair = pair_of(line)
                if pair is None:
                    raise InputError(f"{file}, line {number}: holds no pair; {type(data).__name__} makes none")
                if not known(pair, len(tokenizer)):
                    raise InputError(
                        f"{file}, line {number}: holds what are no token ids of {data.policy}, which has"
                        f" {len(tokenizer)}; give that policy its own tokenizer back, or run the fit again"
                    )
                row = as_preference(tokenizer, data.template, asked, *pair)
                changed += any(differs(tokenizer, row[f"{name}_ids"]) for name in ("chosen", "rejected"))
                bar.advance(1, number)
                yield row

    kind = TURNS if chat else pa.string()
    fields = {name: kind for name in ("prompt", "chosen", "rejected")} | dict.fromkeys(ID_COLUMNS, IDS)
    schema = pa.schema(fields | {"shared": pa.int64(), "problem_id": pa.string(), "question": pa.string()})
    number = write_rows(rows(), output, schema)
    return f"{output}: {number} pairs, of which {changed} are other token ids when their text is encoded again"


def pair_of(line: bytes) -> tuple[Row, Row] | None:
    """The rows of a stored example; None if it is no pair."""
    try:
        chosen, rejected = example_of(json.loads(line))
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return chosen, rejected


def known(pair: tuple[Row, Row], size: int) -> bool:
    """Whether all that a pair holds are token ids below ``size``."""
    return all(type(i) is int and 0 <= i < size for row in pair for i in (*row.prompt_ids, *row.response_ids))


def as_preference(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    asked: dict[tuple[int, ...], Problem],
    chosen: Row,
    rejected: Row,
) -> dict[str, Any]:
    """A row of the table, from the rows of a pair."""
    prompt_ids = chosen.prompt_ids
    problem = asked.get(prompt_ids)
    question = decode(tokenizer, prompt_ids) if problem is None else problem.question
    texts = {
        "chosen": decode(tokenizer, chosen.response_ids),
        "rejected": decode(tokenizer, rejected.response_ids),
    }
    row: dict[str, Any] = {"prompt": question if problem is None else template.replace("{question}", question)} | texts
    if is_chat(template):
        row = {name: [{"role": "assistant", "content": text}] for name, text in texts.items()}
        row["prompt"] = [*opening(template), {"role": "user", "content": question}]
    ids = (prompt_ids, chosen.response_ids, rejected.response_ids)
    row |= {name: list(some) for name, some in zip(ID_COLUMNS, ids, strict=True)}
    return row | {"shared": chosen.shared, "problem_id": problem and problem.id, "question": question}


def differs(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> bool:
    """Whether a response's text is encoded to other ids, EOS aside."""
    ids = ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids
    try:
        return encode_text(tokenizer, decode(tokenizer, ids)) != ids
    except InputError:
        return True
