"""Checkpoints that would run code when they are loaded are refused; those of a run are read back."""

import os
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.distributed import checkpoint as parts
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING as Layout

from stepneg.errors import InputError
from stepneg.pickles import check_index, member, plain_values_only, refused_in_a_line
from tests.test_cli import SMALL, fails


class Runs:
    """A pickle of it would run a command when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def evil_builtin() -> Any:
    class Prints:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, ("open('ran', 'w')",)

    return Prints()


@dataclass
class Gets:
    """Pickled as some versions of Python, as 3.11.2, pickle the members of an enumeration."""

    owner: object
    name: str

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.owner, self.name)


class Stage(Enum):
    weights = 3


class Other(Enum):
    weights = 3


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint in parts, as FSDP2 writes it."""
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    state = {"state_dict": model.state_dict(), "optimizer_0": optimizer.state_dict(), "more": {"step": 1}}
    parts.save(state, checkpoint_id=tmp_path / "last.ckpt", no_dist=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "last.ckpt"


def test_the_index_of_a_run_is_read(folder: Path) -> None:
    check_index(folder)
    check_index(folder / "nothing")


def test_an_index_holds_members_of_its_enumeration_as_any_version_of_python_writes_them(folder: Path) -> None:
    for of in Layout:
        for pickled in (of, Gets(Layout, of.name)):
            (folder / ".metadata").write_bytes(pickle.dumps(pickled))
            check_index(folder)


def test_torch_reads_members_of_the_one_enumeration(tmp_path: Path) -> None:
    file, read = tmp_path / "of.pt", member(Stage)
    with torch.serialization.safe_globals([(read, "builtins.getattr"), Stage, Other, Layout]):
        torch.save({"stage": Gets(Stage, "weights")}, file)
        assert torch.load(file, weights_only=True) == {"stage": Stage.weights}
        for other in (Gets(Stage, "mro"), Gets(Stage, "__class__"), Gets(Other, "weights"), Gets(Layout, "mro")):
            torch.save({"stage": other}, file)
            with pytest.raises(pickle.UnpicklingError, match=r"Unsupported global builtins\.getattr"):
                torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    "make",
    [
        Runs, evil_builtin, lambda: {"a": [Runs()]}, lambda: os.getcwd, lambda: torch.load,
        lambda: Gets(Layout, "mro"), lambda: Gets(OrderedDict, "fromkeys"), lambda: Gets(Stage, "weights"),
    ],
)  # fmt: skip
def test_an_index_that_would_run_code_is_refused(make: Callable[[], Any], folder: Path) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (folder / ".metadata").write_bytes(pickle.dumps(make(), protocol))
        with pytest.raises(InputError) as caught:
            check_index(folder)
        assert str(caught.value).startswith(f"{folder}/.metadata: to load it could run code, for it holds more than")
        assert not Path("ran").exists()


def test_an_index_of_a_newer_python_is_read_by_it_and_else_named(folder: Path) -> None:
    (folder / ".metadata").write_bytes(b"cpathlib._local\nPosixPath\n.")
    if sys.version_info >= (3, 13):
        check_index(folder)
        return
    with pytest.raises(InputError, match=r"names pathlib\._local, which Python 3.* resume it with that"):
        check_index(folder)


def test_a_damaged_index_is_refused(folder: Path) -> None:
    whole = (folder / ".metadata").read_bytes()
    for cut in range(0, len(whole), 7):
        (folder / ".metadata").write_bytes(whole[:cut])
        with pytest.raises(InputError, match="is damaged or no checkpoint"):
            check_index(folder)


def test_torch_loads_plain_values_only_whoever_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"a": torch.ones(2), "b": Runs()}, "evil.pt")
    torch.save({"a": torch.ones(2), "b": [1, "x", None]}, "plain.pt")
    plain_values_only(SingleDeviceStrategy())
    with refused_in_a_line():
        assert torch.load("plain.pt", weights_only=False)["b"] == [1, "x", None]
    with pytest.raises(InputError, match="nsupported"), refused_in_a_line():
        torch.load("evil.pt", weights_only=False)
    assert not Path("ran").exists()


def test_a_fit_does_not_go_on_from_a_pickle(tmp_path: Path, tiny: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Neither from a file nor from a folder that lies where its own checkpoints would."""
    place = tmp_path / "run" / "checkpoints"
    place.mkdir(parents=True)
    argv = [f"--data.policy={tiny}", f"--model.path={tiny}", f"--trainer.default_root_dir={tmp_path}/run"]
    argv += ["--trainer.limit_val_batches=0", "--ckpt_path=last", "--data.problems.size=8"]
    torch.save({"state_dict": {}, "epoch": Runs(), "pytorch-lightning_version": "2.6.0"}, place / "last.ckpt")
    error = fails(capsys, "fit", SMALL, *argv)
    assert "holds more than tensors and" in error
    assert "could" in error
    assert "code" in error
    (place / "last.ckpt").unlink()
    (place / "last.ckpt").mkdir()
    (place / "last.ckpt" / ".metadata").write_bytes(pickle.dumps(Runs()))
    assert f"{place}/last.ckpt/.metadata: to load it could run code" in fails(capsys, "fit", SMALL, *argv)
    assert not Path("ran").exists()
