"""Sample the current weights with vLLM and grade: accuracy, pass@k and maj@k during fit, and in ``stepneg test``."""

from pathlib import Path

import lightning as L
from lightning.fabric.utilities.distributed import _InfiniteBarrier
from lightning.pytorch.loggers import TensorBoardLogger
from transformers import PreTrainedTokenizerBase

from stepneg.callbacks.export import export
from stepneg.data.prepared import Prepared
from stepneg.data.rows import Row, encode_prompt
from stepneg.divergence import kl_estimate
from stepneg.errors import InputError, at_least
from stepneg.escaping import markdown
from stepneg.evaluation import Evaluation, evaluate, settings_of
from stepneg.grading import Form
from stepneg.policy import Policy
from stepneg.policy_folder import load_tokenizer
from stepneg.problems import Problem, ProblemSource
from stepneg.sampling.engine import Decoding, Ids
from stepneg.sampling.sampler import sample
from stepneg.sampling.store import SampleStore
from stepneg.sampling.vllm_engine import VLLMEngine, leave_device, make_room


class VLLMEvaluation(L.Callback):
    """Evaluates whenever Lightning validates (``trainer.check_val_every_n_epoch``, ``val_check_interval``) or tests.

    The metrics are logged as ``validation/accuracy``, ``test/pass@5`` ... with ``_low`` and ``_high`` (95 %), can be
    monitored, and are written with every graded solution to ``RUN/evaluation/``. Greedy solutions and samples go
    through the sample store, so a repeated evaluation costs nothing. ``validation/kl_to_reference``
    (:func:`stepneg.divergence.kl_estimate`) is of the policy that the data is made with (``data.policy``).

    Args:
        engine: options of the sampling engine.
        validation: problems during fit, by class_path; None for no evaluation there.
        test: problems of ``stepneg test``.
        form: how final answers are written: gsm8k, math, number or text.
        k: samples a problem for pass@k and maj@k.
        temperature: of the samples.
        top_p: of the samples.
        max_tokens: longest solution, in tokens.
        store: folder of the sample store.
        seed: of the samples.
        show: solutions in TensorBoard's sample table.
        kl_samples: problems of the validation to each of which one more solution is drawn, at temperature 1, for the
            divergence from the reference, which is loaded for it; 0 for none.
    """

    def __init__(
        self,
        engine: VLLMEngine,
        validation: ProblemSource | None = None,
        test: ProblemSource | None = None,
        form: Form = "gsm8k",
        k: int = 5,
        temperature: float = 0.7,
        top_p: float = 1.0,
        max_tokens: int = 256,
        store: Path = Path("runs/samples"),
        seed: int = 0,
        show: int = 10,
        kl_samples: int = 64,
    ) -> None:
        self.engine, self.store = engine, store
        self.sources = {"validation": validation, "test": test}
        self.form, self.k, self.seed, self.show, self.kl_samples = form, k, seed, show, kl_samples
        self.temperature, self.top_p, self.max_tokens = temperature, top_p, max_tokens

    @property
    def sampled(self) -> Decoding:
        """Sampling parameters of the samples."""
        return Decoding(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse numbers out of their range before anything is trained.

        Raises:
            InputError: one is.
        """
        at_least(1, k=self.k, max_tokens=self.sampled.max_tokens)
        at_least(0, show=self.show, kl_samples=self.kl_samples)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate the current weights."""
        if not trainer.sanity_checking:
            self.run(trainer, pl_module, "validation")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate the weights under test."""
        self.run(trainer, pl_module, "test")

    def run(self, trainer: L.Trainer, policy: L.LightningModule, stage: str) -> None:
        """Export together, sample and grade on rank zero, log on all; what fails on rank zero fails on all."""
        source = self.sources[stage]
        if source is None:
            return
        assert isinstance(policy, Policy)
        assert policy.model is not None
        data = trainer.datamodule  # type: ignore[attr-defined]
        folder = policy.start
        if stage != "test" or trainer.ckpt_path is not None:  # a policy on disk is tested as it is
            records = Path(trainer.default_root_dir) / "evaluation"
            records.mkdir(parents=True, exist_ok=True)
            export(policy.model, folder, records / "policy", data.template)
            folder = records / "policy"
        make_room(trainer.strategy.root_device)  # of every rank: the engine may use the GPUs of several
        metrics: dict[str, float] = {}
        failure: Exception | None = None
        # The others wait longer than a collective's time-out.
        with _InfiniteBarrier():
            if trainer.is_global_zero:
                try:
                    metrics = self.measure(trainer, folder, stage, source)
                except Exception as error:
                    failure = error
        metrics, message = trainer.strategy.broadcast((metrics, failure and f"{type(failure).__name__}: {failure}"))
        if failure is not None:
            raise failure
        if message is not None:
            raise InputError(f"evaluation failed on rank 0: {message}")
        policy.log_dict({f"{stage}/{name}": value for name, value in metrics.items()}, rank_zero_only=False)

    def measure(self, trainer: L.Trainer, folder: Path, stage: str, source: ProblemSource) -> dict[str, float]:
        """Sample and grade the policy of a folder; write what was found."""
        problems = source.load()
        data = trainer.datamodule  # type: ignore[attr-defined]
        tokenizer = load_tokenizer(folder, data.template)
        result = self.evaluate(folder, tokenizer, problems, data.template)
        drawn: list[tuple[Row, float]] = []
        # A policy that is validated may be there without its reference.
        if stage == "validation" and self.kl_samples and isinstance(data, Prepared) and data.policy.is_dir():
            drawn = self.draw_freely(folder, [encode_prompt(tokenizer, data.template, p.question) for p in problems])
        leave_device(trainer.strategy.root_device)
        if len(drawn) > 1:
            reference = data.reference_log_probs(
                [row for row, _ in drawn], "evaluate: log-probabilities of the reference"
            )
            result.metrics.update(kl_estimate([logp for _, logp in drawn], [reference[row] for row, _ in drawn]))
        name = "test" if stage == "test" else f"validation-step{trainer.global_step}"
        kind = type(source).__name__.lower()
        settings = settings_of(
            folder, kind, problems, self.form, None, data.template, self.k, self.sampled, self.seed
        )  # fmt: skip
        result.write(Path(trainer.default_root_dir) / "evaluation" / f"{name}.json", {"settings": settings})
        self.table(trainer, stage, problems, result)
        return {key: value for key, value in result.metrics.items() if key != "problems"}

    def evaluate(
        self, folder: Path, tokenizer: PreTrainedTokenizerBase, problems: list[Problem], template: str
    ) -> Evaluation:
        """The metrics of a policy folder."""
        store = SampleStore(self.store)
        return evaluate(
            self.engine, store, folder, tokenizer, problems, template, self.form, self.k, self.sampled, self.seed
        )

    def draw_freely(self, folder: Path, prompts: list[Ids]) -> list[tuple[Row, float]]:
        """A solution to each of the first prompts, from the whole distribution of the policy, with its log pi."""
        free = Decoding(temperature=1.0, top_p=1.0, max_tokens=self.sampled.max_tokens)
        first, store = list(dict.fromkeys(prompts))[: self.kl_samples], SampleStore(self.store)
        drawn = sample(self.engine, store, folder, first, 1, free, self.seed, title="evaluate: at temperature 1")
        found = ((Row(p, done.token_ids), done.logprob) for p, (done, *_) in drawn.completions.items())
        return [(row, logp) for row, logp in found if logp is not None]  # those of other tools may have none

    def table(self, trainer: L.Trainer, stage: str, problems: list[Problem], result: Evaluation) -> None:
        """A few problems with their greedy solutions as text in TensorBoard."""
        if not isinstance(trainer.logger, TensorBoardLogger):
            return
        rows = ["| problem | solution | answer | reference | |", "|---|---|---|---|---|"]
        for problem, done in list(zip(problems, result.problems, strict=True))[: self.show]:
            cells = [problem.question, done.greedy, done.extracted or "", problem.answer, "✓" if done.correct else "✗"]
            rows.append(f"| {' | '.join(map(markdown, cells))} |")
        trainer.logger.experiment.add_text(f"{stage}/solutions", "\n".join(rows), trainer.global_step)
