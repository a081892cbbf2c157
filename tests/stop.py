"""Callbacks that end a fit early, as a time limit or a cluster would."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning as L
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


class StopAfterEpoch(L.Callback):
    """Stop when the second epoch ends."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch >= 1


class SignalAtBatch(L.Callback):
    """Send this process a signal when a batch begins, counted over all epochs; when there was none before it."""

    def __init__(self, batch: int, number: int = signal.SIGUSR1) -> None:
        self.batch, self.number, self.seen = batch, number, 0

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        if self.seen == self.batch:
            os.kill(os.getpid(), self.number)
        self.seen += 1

    def on_test_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        self.on_train_batch_start(trainer)

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.seen = state_dict["seen"]


class Spoil(L.Callback):
    """Makes a number of the seventh batch's loss or gradient, or of the weights behind the last batch, infinite.

    Args:
        what: loss, gradient or weights.
    """

    def __init__(self, what: str) -> None:
        self.what, self.seen = what, 0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        self.seen += 1
        if self.what == "loss" and self.seen == 7:
            next(pl_module.parameters()).data.fill_(float("nan"))

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.what == "gradient" and self.seen == 7:
            gradient = next(pl_module.parameters()).grad
            assert gradient is not None
            gradient.view(-1)[0] = float("inf")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        if self.what == "weights" and self.seen == 10:
            next(pl_module.parameters()).data.view(-1)[0] = float("inf")


class KillBehindCheckpoint(L.Callback):
    """End where the first checkpoint has just been written, and keep which steps of the loss were on disk then."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        home = Path(trainer.default_root_dir)
        checkpoint: Any = trainer.checkpoint_callback
        trainer.save_checkpoint(Path(checkpoint.dirpath) / "last.ckpt")
        events = EventAccumulator(str(home / "tensorboard"))
        events.Reload()
        (home / "seen.json").write_text(json.dumps([event.step for event in events.Scalars("train/loss")]))
        raise KeyError("killed behind a checkpoint")


class Linger(L.Callback):
    """Wait before each batch, so that a time limit finds a fit at its work."""

    def on_train_batch_start(self, *_: object) -> None:
        time.sleep(1.5)


class EndInEvaluation(L.Callback):
    """End when the first evaluation of a fit begins."""

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            raise KeyError("ended in an evaluation")
