"""Checkpoints that are whole, checked before they are used, and execute no code."""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy, Strategy
from torch.distributed.checkpoint.api import CheckpointException

from stepneg.errors import InputError
from stepneg.exits import PLACES
from stepneg.whole import beside, settle, take_place, whole


class Told(io.RawIOBase):
    """A file that is written to, and keeps the error of that."""

    def __init__(self, out: IO[bytes]) -> None:
        self.out = out
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes.

        Raises:
            OSError: they cannot be written.
        """
        try:
            return self.out.write(data)
        except OSError as error:
            self.error = error
            raise


class CheckedCheckpoints(TorchCheckpointIO):
    """Reads and writes a checkpoint's one file.

    Lightning's own writes to the machine's temporary folder and, where that is another file system, copies: killed in
    the copy, it leaves half a ``last.ckpt`` in the place of a whole one. torch does not look at the checksums of what
    it reads, and with Lightning's settings it would execute code that a checkpoint brings.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write it whole, or leave the one before.

        Raises:
            OSError: with the file's name, if its place is full or cannot be written.
        """
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file, "wb") as out:
            told: Any = Told(out)
            try:
                torch.save(checkpoint, told)
            except Exception:
                if told.error is not None:  # of which torch makes an assertion about positions
                    raise told.error from None
                raise

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any = lambda storage, loc: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read one whose checksums are right; only tensors and plain values.

        Raises:
            InputError: it is damaged, or holds something else.
        """
        with open(path, "rb") as file:
            try:
                with zipfile.ZipFile(file) as archive:
                    if (record := archive.testzip()) is not None:
                        raise zipfile.BadZipFile(f"the checksum of {record} differs")
                file.seek(0)
                loaded: dict[str, Any] = torch.load(file, map_location, weights_only=True)
                return loaded
            except pickle.UnpicklingError as error:
                raise InputError(
                    f"{path}: holds more than tensors and plain values, so loading it could execute code; give a"
                    " checkpoint that stepneg fit has written"
                ) from error
            except Exception as error:  # damage makes zipfile and torch raise about anything
                raise InputError(
                    f"{path}: is damaged ({error}); delete it, and the fit begins anew with the data and samples that"
                    " are there, or restore it from a copy"
                ) from error


def begins_anew(trainer: L.Trainer) -> bool:
    """Whether a fit goes on from no checkpoint of its own run: what an earlier one has left there is not this one's."""
    if trainer.ckpt_path is None:
        return True
    kept = (c.dirpath for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.dirpath)
    own = [Path(folder).resolve() for folder in (trainer.default_root_dir, *kept)]
    return not any(Path(trainer.ckpt_path).resolve().is_relative_to(folder) for folder in own)


def in_parts(strategy: Strategy) -> bool:
    """Whether ranks each write their part of a checkpoint."""
    return isinstance(strategy, ModelParallelStrategy | DeepSpeedStrategy)


def cause(error: BaseException) -> BaseException:
    """What has failed on a rank, which torch packs into an exception of its own that is no ``Exception``."""
    return next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error


def refuse_unfit(strategy: Strategy) -> None:
    """Have what cannot be loaded from a checkpoint in parts end in one line.

    It is loaded at once, weights and state of the optimiser, before anything can be compared.
    """
    if not in_parts(strategy):
        return
    load = strategy.load_checkpoint

    def load_checkpoint(checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        try:
            return load(checkpoint_path, weights_only)
        except (Exception, CheckpointException) as error:  # torch and DeepSpeed raise about anything
            found = cause(error)
            if isinstance(found, InputError | pickle.UnpicklingError | torch.OutOfMemoryError) or (
                isinstance(found, OSError) and found.errno in PLACES
            ):
                raise found from None
            said = (str(found).strip() or type(found).__name__).splitlines()[0]
            raise InputError(
                f"{checkpoint_path}: cannot be loaded into this policy and optimiser ({said}): it is damaged, or of"
                " another fit; give the options of its fit, or leave ckpt_path out to begin anew"
            ) from error

    strategy.load_checkpoint = load_checkpoint  # type: ignore[method-assign]


def keep_until_whole(strategy: Strategy) -> None:
    """Have ranks that each write their part of a checkpoint write to a new folder, which then replaces the old one.

    Else they would overwrite the one checkpoint that there is, part by part, and a kill would leave a mixture.
    """
    if not in_parts(strategy):
        return
    write = strategy.save_checkpoint

    def save_checkpoint(
        checkpoint: dict[str, Any], filepath: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        place = Path(strategy.broadcast(filepath))
        partial, _ = beside(place)
        if strategy.is_global_zero:
            settle(place)
        strategy.barrier("before the parts of a checkpoint")
        try:
            write(checkpoint, partial, storage_options)
        except CheckpointException as error:
            raise cause(error) from error
        strategy.barrier("behind the parts of a checkpoint")
        if strategy.is_global_zero:
            take_place(place)

    strategy.save_checkpoint = save_checkpoint  # type: ignore[method-assign]
