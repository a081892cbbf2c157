"""A fit that ends early, because its time is over, its place is taken or its machine fails, goes on where it was."""

import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from stepneg.checkpoints import begins_anew
from stepneg.links import put_aside

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)  # Slurm's --signal, as Lightning's SLURMEnvironment expects it; preemption


class Preemption(L.Callback):
    """Writes ``last.ckpt`` behind each epoch, and on SIGUSR1 or SIGTERM behind the step, to end with 128 + signal.

    So it does one step before each evaluation whose batch is known, as that of one by the clock or by ``max_time`` is
    not: it may last longer than the training between two of them. Behind a step that is evaluated itself it does not;
    Lightning would take that evaluation for done. Where each step is evaluated, only the ends of epochs are left.

    Lightning's own handler saves wherever the signal finds the fit, within a step even, to an ``hpc_ckpt`` that
    ``--ckpt_path last`` does not look at and that any later run below the directory would restore. It leaves the signal
    alone where a handler is there. Outside of training nothing is to be saved, and the process ends at once; so it does
    where an evaluation follows a step. What ends the job, or puts it back into the queue, reads the exit
    code: ``sbatch/run.sh``.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.training = False

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """Note a signal in training; elsewhere, let it do what it does by default."""
        if self.training:
            self.received = number
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Take the first signal before Lightning would, which saves and requeues within any verb."""
        signal.signal(signal.SIGUSR1, self.receive)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the second as well; Lightning's handler of it communicates with other ranks in the middle of a step.

        A fit that begins anew puts the checkpoint of an earlier one aside, lest it be gone on from.
        """
        signal.signal(signal.SIGTERM, self.receive)
        self.training = True
        if begins_anew(trainer) and trainer.is_global_zero and (file := last(trainer)) and file.exists():
            put_aside(file)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """An evaluation may outlast the time that is left."""
        self.training = False
        if self.received is not None:
            self.receive(self.received)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Training goes on, unless this was the check before it."""
        self.training = not trainer.sanity_checking

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and leave if any rank has been told to, but not while gradients accumulate, nor at an epoch's end."""
        told = trainer.strategy.reduce_boolean_decision(self.received is not None, all=False)
        done, step = batch_idx + 1, trainer.accumulate_grad_batches
        if done % step or trainer.is_last_batch or trainer.global_step == trainer.max_steps:
            return
        if evaluated(trainer, done, range(1)):
            return
        if not told:
            ahead = int(min(step, trainer.num_training_batches - done))
            if evaluated(trainer, done, range(1, ahead + 1)):
                save(trainer)
            return
        trainer._logger_connector.update_train_step_metrics()  # else this step would be missing in the curves
        save(trainer)
        raise SystemExit(128 + (self.received or signal.SIGUSR1))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, which ModelCheckpoint with ``save_top_k: 0`` only does behind the last."""
        save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What is left is short and is not to be cut."""
        self.training = False

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the signals as they are by default."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """What SIGTERM ends outside of training has not succeeded, as Lightning's exit without a code would say."""
        if isinstance(exception, SIGTERMException):
            exception.code = 128 + signal.SIGTERM


def evaluated(trainer: L.Trainer, done: int, further: range) -> bool:
    """Whether Lightning validates behind any of some batches, counted from the ``done`` ones of this epoch."""
    epochs, every = trainer.check_val_every_n_epoch, trainer.val_check_batch
    if not trainer.enable_validation or every is None or (epochs and (trainer.current_epoch + 1) % epochs):
        return False
    if epochs is None:  # it counts batches over all epochs
        done = trainer.fit_loop.total_batch_idx + 1
    return any((done + batch) % every == 0 for batch in further)


def last(trainer: L.Trainer) -> Path | None:
    """Where ModelCheckpoint writes ``last.ckpt``; None where it writes none."""
    checkpoint = trainer.checkpoint_callback
    if not isinstance(checkpoint, ModelCheckpoint) or checkpoint.dirpath is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    return Path(checkpoint.dirpath) / f"{checkpoint.CHECKPOINT_NAME_LAST}{checkpoint.FILE_EXTENSION}"


def save(trainer: L.Trainer) -> None:
    """Write ``last.ckpt`` where ModelCheckpoint will."""
    if (file := last(trainer)) is not None:
        trainer.checkpoint_callback.last_model_path = str(file)  # type: ignore[union-attr]  # no last-v1 beside it
        trainer.save_checkpoint(file)
