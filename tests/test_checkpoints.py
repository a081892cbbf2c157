"""A checkpoint in parts replaces the one before when it is whole, whenever its writers are killed."""

import errno
import os
import pickle
from pathlib import Path
from traceback import StackSummary
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.checkpoint.api import CheckpointException

from stepneg.checkpoints import keep_until_whole, refuse_unfit
from stepneg.cli import main
from stepneg.errors import InputError
from stepneg.pipeline import forget_other
from stepneg.sharding import FSDP2
from stepneg.whole import beside, settle
from tests.test_fit import FIT

PARTS = ("meta.pt", "__0_0.distcp", "__1_0.distcp")


class Killed(BaseException):
    """Nothing can be cleaned up behind it."""


class Parts(FSDP2):
    """Writes files of one word into the folder, and is killed when so many are there.

    Args:
        lives: files until the end.
    """

    def __init__(self, lives: int = 99) -> None:
        super().__init__()
        self.lives = lives

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return obj

    def barrier(self, name: str | None = None) -> None:
        pass

    @property
    def is_global_zero(self) -> bool:
        return True

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        Path(filepath).mkdir(exist_ok=True)
        for name in PARTS:
            if self.lives == 0:
                raise Killed
            self.lives -= 1
            (Path(filepath) / name).write_text(checkpoint["word"])


def held(place: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in place.iterdir()}


def save(place: Path, word: str, lives: int = 99) -> None:
    strategy = Parts(lives)
    keep_until_whole(strategy)
    strategy.save_checkpoint({"word": word}, place)


@pytest.mark.parametrize("lives", range(len(PARTS)))
def test_parts_of_two_checkpoints_are_never_mixed(lives: int, tmp_path: Path) -> None:
    place = tmp_path / "last.ckpt"
    save(place, "old")
    with pytest.raises(Killed):
        save(place, "new", lives)
    assert held(place) == dict.fromkeys(PARTS, "old")
    settle(place)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    save(place, "newer")
    assert held(place) == dict.fromkeys(PARTS, "newer")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_first_checkpoint_that_is_not_whole_is_none(tmp_path: Path) -> None:
    place = tmp_path / "last.ckpt"
    with pytest.raises(Killed):
        save(place, "new", lives=2)
    assert not place.exists()
    settle(place)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_killed_in_the_change_there_is_one_that_is_whole(
    renames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, left, rename = tmp_path / "last.ckpt", [renames], os.rename
    save(place, "old")

    def killed(self: Path, target: Path) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        if renames < 2:
            with pytest.raises(Killed):
                save(place, "new")
        else:
            save(place, "new")
    settle(place)
    assert held(place) == dict.fromkeys(PARTS, "old" if renames == 0 else "new")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_settings_that_change_leave_nothing_of_a_checkpoint_behind(tmp_path: Path) -> None:
    """Killed in the change of one checkpoint for another."""
    place = tmp_path / "checkpoints" / "last.ckpt"
    for folder in beside(place):
        folder.mkdir(parents=True)
    (tmp_path / "fit.started").write_text("old settings")
    forget_other(tmp_path, "fit", "new settings")
    settle(place)
    assert not list(place.parent.iterdir())


def test_half_an_old_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    """Killed while the old one was removed; then the new one was, by hand."""
    place = tmp_path / "last.ckpt"
    _, old = beside(place)
    old.mkdir()
    settle(place)
    assert not list(tmp_path.iterdir())


def test_what_was_left_is_looked_at_before_it_counts(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, ran = tmp_path / "run" / "checkpoints" / "last.ckpt", tmp_path / "ran"
    partial, old = beside(place)
    partial.mkdir(parents=True)
    old.mkdir()
    (partial / ".metadata").write_bytes(f"cos\nsystem\n(S'touch {ran}'\ntR.".encode())
    config = tmp_path / "fit.yaml"
    config.write_text(FIT.replace("POLICY", str(tiny)))
    with pytest.raises(SystemExit) as stop:
        main(["fit", f"--config={config}", f"--trainer.default_root_dir={tmp_path / 'run'}", "--trainer.max_epochs=1"])
    assert stop.value.code == 2
    assert "could run code" in capsys.readouterr().err
    assert not ran.exists()


def test_a_checkpoint_of_one_file_is_left_to_its_writer() -> None:
    strategy = DDPStrategy()
    keep_until_whole(strategy)
    refuse_unfit(strategy)
    assert not {"save_checkpoint", "load_checkpoint"} & vars(strategy).keys()


class Fails(Parts):
    """Neither reads nor writes.

    Args:
        error: what ails it.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        raise self.error

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        raise self.error


def of_rank(error: Exception) -> BaseException:
    return CheckpointException("ranks", {1: (error, StackSummary())})


@pytest.mark.parametrize("packed", [lambda error: error, of_rank])
def test_what_a_rank_cannot_read_ends_in_one_line_and_other_errors_are_what_they_are(packed: Any) -> None:
    for error, kind, said in (
        (
            RuntimeError("Missing key: momentum.\nmore"),
            InputError,
            "^last.ckpt: .* optimiser \\(Missing key: momentum.\\)",
        ),
        (ValueError(), InputError, "optimiser \\(ValueError\\): it is damaged, or of another fit"),
        (InputError("said already"), InputError, "^said already"),
        (OSError(errno.EIO, "io"), OSError, "io"),
        (pickle.UnpicklingError("code"), pickle.UnpicklingError, "code"),
        (torch.OutOfMemoryError("memory"), torch.OutOfMemoryError, "memory"),
    ):
        strategy = Fails(packed(error))
        refuse_unfit(strategy)
        with pytest.raises(kind, match=said):
            strategy.load_checkpoint("last.ckpt")


def test_a_full_disk_is_named_by_the_rank_that_writes_to_it(tmp_path: Path) -> None:
    strategy = Fails(of_rank(OSError(errno.ENOSPC, "full", "there")))
    keep_until_whole(strategy)
    with pytest.raises(OSError, match="full: 'there'"):
        strategy.save_checkpoint({}, tmp_path / "last.ckpt")
