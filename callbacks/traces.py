"""Step values of wrong solutions, their pit marked, as text and as pictures."""

from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from stepneg.analysis.values import describe
from stepneg.credit.pairs import Trace
from stepneg.data.prepared import Prepared
from stepneg.data.rows import decode
from stepneg.escaping import markdown
from stepneg.links import unlinked
from stepneg.policy_folder import load_tokenizer


class StepValueTraces(L.Callback):
    """Shows some of the valued wrong solutions that the training data was made of.

    They go to TensorBoard (``traces/*``) and to ``RUN/figures/trace-*.png``.

    Args:
        show: how many, the longest ones of different problems first.
    """

    def __init__(self, show: int = 4) -> None:
        self.show = show

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw them once."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not (trainer.is_global_zero and isinstance(data, Prepared) and data.built and data.built.traces):
            return
        tokenizer = load_tokenizer(data.policy)
        k, tolerance = getattr(data, "k", 1), getattr(data, "tolerance", 0.0)  # not all data have pits
        rollouts = getattr(data, "rollouts", None)
        searched = rollouts is not None and rollouts.pit_error is not None
        folder = Path(trainer.default_root_dir) / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        for number, trace in enumerate(choose(data.built.traces, self.show)):
            bounds = zip((0, *trace.ends), trace.ends, strict=False)
            texts = [decode(tokenizer, trace.response_ids[a:b]) for a, b in bounds]
            text, figure = describe(trace, texts, k, tolerance, searched)
            figure.savefig(unlinked(folder / f"trace-{number}.png"), dpi=120)
            question = decode(tokenizer, trace.prompt_ids)
            if isinstance(trainer.logger, TensorBoardLogger):
                trainer.logger.experiment.add_text(f"traces/{number}", f"{markdown(question)}\n\n{text}", 0)
                trainer.logger.experiment.add_figure(f"traces/{number}", figure, 0)


def choose(traces: list[Trace], most: int) -> list[Trace]:
    """Wrong traces of different problems, those with the most valued steps first."""
    wrong = [t for t in traces if not t.correct]
    by_problem = {t.problem_id: t for t in sorted(wrong, key=lambda t: (len(t.counts), t.response_ids))}
    return sorted(by_problem.values(), key=lambda t: (-len(t.counts), t.problem_id))[:most]
