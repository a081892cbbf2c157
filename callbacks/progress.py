"""Progress of a whole fit, in optimiser steps, and of each pass over held-out solutions."""

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from stepneg.progress import Bar


def held_out(trainer: L.Trainer, batches: list[int | float]) -> list[int | float]:
    """The batches of each loader; none of data without held-out solutions, whose one batch is empty."""
    return batches if getattr(trainer.datamodule, "held_out", True) else []  # type: ignore[attr-defined]


class FitProgress(ProgressBar):
    """A :class:`stepneg.progress.Bar` over all steps of a fit, with the losses, and one over each pass.

    Lightning's own bars count the batches of one epoch, do not say how long the fit still takes, and come to a log as
    drawings. While an evaluation shows its bars, that of the fit is away.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True
        self.fit: Bar | None = None
        self.held_out: Bar | None = None  # the pass
        self.steps = self.first = 0

    def disable(self) -> None:
        """Say nothing, as on all ranks but the first."""
        self.enabled = False

    def enable(self) -> None:
        """Speak again."""
        self.enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count from the step that an earlier process has reached."""
        self.steps = self.first = trainer.global_step
        if self.enabled:
            self.fit = Bar("training", int(trainer.estimated_stepping_batches), "steps", self.steps).__enter__()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a step once its last batch is done."""
        new, self.steps = trainer.global_step - self.steps, trainer.global_step
        if self.fit is not None and new:
            self.fit.advance(new, self.steps - self.first, lambda: losses(trainer))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """All steps are done."""
        if self.fit is not None:
            self.fit.__exit__()
            self.fit = None

    def start_pass(self, title: str, batches: Sequence[int | float]) -> None:
        """Show a bar for the batches of each loader."""
        total = sum(batches)
        if self.fit is not None:
            self.fit.pause()
        if self.enabled and 0 < total < math.inf:
            self.held_out = Bar(title, int(total), "batches").__enter__()

    def advance_pass(self) -> None:
        """Count a batch; behind the last come the bars of an evaluation."""
        if self.held_out is not None:
            self.held_out.advance(1, self.held_out.done + 1)
            if self.held_out.done == self.held_out.total:
                self.end_pass()

    def end_pass(self, error: BaseException | None = None) -> None:
        """Take the pass's bar away, if it is there."""
        if self.held_out is not None:
            self.held_out.__exit__(type(error) if error else None)
            self.held_out = None

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make room for the pass and the evaluation behind it."""
        if not trainer.sanity_checking:
            self.start_pass("held-out loss", held_out(trainer, trainer.num_val_batches))

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """One is done."""
        self.advance_pass()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Training goes on."""
        self.end_pass()
        if self.fit is not None:
            self.fit.__enter__()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As in validation."""
        self.start_pass("held-out loss", held_out(trainer, trainer.num_test_batches))

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """One is done."""
        self.advance_pass()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log-probabilities of held-out solutions."""
        self.start_pass("log-probabilities", trainer.num_predict_batches)

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """One is done."""
        self.advance_pass()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the terminal as it was."""
        self.end_pass(exception)
        if self.fit is not None:
            self.fit.__exit__(type(exception))
            self.fit = None


def losses(trainer: L.Trainer) -> str:
    """What the policy logs for a progress bar."""
    return "".join(f", {name} {value:.3g}" for name, value in trainer.progress_bar_metrics.items())
