"""Checkpoints that a fit goes on from hold tensors and plain values, or are refused: any other pickle can run code.

Files are read by torch with ``weights_only``, those of DeepSpeed's folders too, with the four classes of its own that
it puts there. FSDP2's folders have an index beside the parts, which torch unpickles without looking: it is read here
first, by a reader that knows no other classes.
"""

import os
import pickle
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, Strategy
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING

from stepneg.errors import InputError

INDEX = ".metadata"
FORCE = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
# What an index of torch.distributed.checkpoint is made of.
KNOWN = {
    "pathlib": ("PosixPath",),
    "pathlib._local": ("PosixPath",),  # of Python 3.13
    "collections": ("OrderedDict",),
    "torch": ("Size", "float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool", "strided"),
    "torch.serialization": ("_get_layout",),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.distributed.checkpoint.metadata": (
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    ),
}  # fmt: skip


def member(kind: type[Enum]) -> Callable[[object, object], Enum]:
    """What stands for ``getattr``, by which some versions of Python, as 3.11.2, pickle members of an enumeration.

    It gives members of this enumeration, and nothing else.
    """

    def of(owner: object, name: object) -> Enum:
        if owner is not kind or not isinstance(name, str) or name not in kind.__members__:
            raise pickle.UnpicklingError("Unsupported global builtins.getattr")
        return kind[name]

    return of


class IndexReader(pickle.Unpickler):
    """Reads an index and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """A class of ``KNOWN``."""
        if (module, name) == ("builtins", "getattr"):
            return member(_MEM_FORMAT_ENCODING)
        if name not in KNOWN.get(module, ()):
            raise pickle.UnpicklingError(f"Unsupported global {module}.{name}")
        return super().find_class(module, name)


def check_index(checkpoint: Path) -> None:
    """Refuse a folder of parts whose index would have more made than an index.

    Raises:
        InputError: it does, is damaged, or was written by another version of Python.
    """
    if not (checkpoint / INDEX).is_file():
        return
    try:
        with (checkpoint / INDEX).open("rb") as file:
            IndexReader(file).load()
    except ModuleNotFoundError as error:
        raise InputError(
            f"{checkpoint / INDEX}: names {error.name}, which Python {platform.python_version()} does not have: the fit"
            " was run by another version of Python or torch; resume it with that"
        ) from error
    except Exception as error:  # a damaged one can raise anything
        raise refusal(checkpoint / INDEX, error) from error


def plain_values_only(strategy: Strategy) -> None:
    """From now on torch loads tensors and plain values alone, whoever asks; and what DeepSpeed's checkpoints hold."""
    for name in FORCE:
        os.environ.pop(name, None)
    os.environ[FORCE[0]] = "1"
    if isinstance(strategy, DeepSpeedStrategy):
        from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
        from deepspeed.runtime.zero.config import ZeroStageEnum
        from deepspeed.utils.tensor_fragment import fragment_address

        known = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
        torch.serialization.add_safe_globals([*known, (member(ZeroStageEnum), "builtins.getattr")])


@contextmanager
def refused_in_a_line() -> Iterator[None]:
    """What torch refuses to load within it is an error of the input.

    Raises:
        InputError: a checkpoint holds more than tensors and plain values.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        raise refusal("the checkpoint that was to be resumed", error) from error


def refusal(what: object, error: Exception) -> InputError:
    """The line for a checkpoint that is not loaded."""
    said = next((line.strip() for line in str(error).splitlines() if "nsupported" in line), None)
    mend = "delete it to begin anew"
    if said is None:
        return InputError(f"{what}: is damaged or no checkpoint ({type(error).__name__}); {mend}")
    said = said.rstrip(".")
    return InputError(f"{what}: to load it could run code, for it holds more than tensors and values: {said}; {mend}")
