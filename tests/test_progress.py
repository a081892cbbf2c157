"""Bars on a real pseudo-terminal, lines in a log: the very bytes."""

import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from stepneg import progress
from stepneg.callbacks.progress import FitProgress
from stepneg.cli import main
from stepneg.pipeline import Stage, cells, pipeline, time_left
from stepneg.progress import Bar, duration
from stepneg.written import block, of_chain, of_run
from tests.conftest import ROOT
from tests.test_dashboard import FIT


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (44.6, "45 s"), (99.4, "99 s"), (99.6, "2 min"), (3569, "59 min"), (3571, "1 h 0 min"),
     (4800, "1 h 20 min"), (86399, "1 d 0 h"), (184_000, "2 d 3 h")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


def test_a_log_gets_short_lines_at_growing_intervals(monkeypatch, capsys):
    """A stage of an hour, 10 done a second, of which an earlier process did 4,000."""
    clock = Clock(monkeypatch)
    with Bar("solutions", 40_000, done=4_000) as bar:
        for second in range(1, 3601):
            clock.now += 1.0
            bar.advance(10, 50 * second, lambda: ", loss 0.5")
    lines = capsys.readouterr().err.split("\n")
    assert lines.pop() == ""
    assert lines[0] == "solutions: 4110/40000, 50 tokens/s, loss 0.5, 1 h 0 min left"
    assert lines[-1] == "solutions: 40000/40000 in 1 h 0 min, 50 tokens/s"
    assert 20 < len(lines) < 60
    assert not any("\r" in line or "\x1b" in line for line in lines)


def test_a_short_stage_says_nothing_in_a_log_and_a_failed_one_does_not_end_well(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with Bar("short", 2) as bar:
        bar.advance(2, 10)
    bar = Bar("fails", 100).__enter__()
    clock.now += 20.0
    bar.advance(1, 10)
    bar.__exit__(RuntimeError)
    assert capsys.readouterr().err == "fails: 1/100, 0.5 tokens/s, 33 min left\n"


def test_the_first_of_many_are_not_enough_to_tell_what_is_left(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    bar = Bar("slow to start", 1500).__enter__()
    clock.now += 20.0
    bar.advance(1, 10)
    bar.__exit__(RuntimeError)
    assert capsys.readouterr().err == "slow to start: 1/1500, 0.5 tokens/s\n"


@contextmanager
def terminal() -> Iterator[tuple[int, list[bytes]]]:
    """A terminal's end for a program, and what is written to it, complete once the block has ended."""
    ours, theirs = pty.openpty()
    found: list[bytes] = []

    def read() -> None:
        with suppress(OSError):  # the other end is closed
            while data := os.read(ours, 65536):
                found.append(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    yield theirs, found
    with suppress(OSError):
        os.close(theirs)
    reader.join(timeout=30)
    os.close(ours)


SIZE = {"COLUMNS": "100", "TERM": "xterm-256color"}


def test_a_terminal_gets_a_bar_with_the_time_that_is_left():
    code = (
        "import time\nfrom stepneg.progress import Bar\n"
        "with Bar('rollouts', 8) as bar:\n"
        "    for i in range(8):\n"
        "        time.sleep(0.25); bar.advance(1, 30 * (i + 1), lambda: ', loss 0.7')\n"
        "        if i == 4: bar.pause(); print('out of sight'); bar.__enter__()\n"
    )
    with terminal() as (end, found):
        subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=end, cwd=ROOT, env=os.environ | SIZE
        )
    screen = b"".join(found).decode()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
    assert re.search(r"rollouts [━╺╸]+ [67]/8 0:00:\d\d 0:00:\d\d \d+ tokens/s, loss 0.7", plain)
    assert plain.splitlines()[-1].split()[2] == "8/8"
    assert "left" not in screen  # the lines of a log
    assert "out of sight" not in screen  # standard output is no terminal here


@pytest.fixture
def fit(tmp_path: Path, tiny: Path) -> list[str]:
    """A fit with progress: 3 epochs of 5 steps, accumulated by two to 3."""
    file = tmp_path / "fit.yaml"
    file.write_text(FIT.replace("POLICY", str(tiny)).replace("  enable_progress_bar: false\n", ""))
    more = ["--trainer.accumulate_grad_batches=2", "--trainer.check_val_every_n_epoch=2"]
    return ["fit", f"--config={file}", *more, f"--trainer.default_root_dir={tmp_path / 'run'}"]


def test_a_fit_in_a_log_says_where_it_is_and_at_its_end_what_is_where(fit, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(progress, "SAY_EVERY", 0.0)
    monkeypatch.setattr(progress, "SAY_SHARE", 0.0)
    main(fit)
    out, err = capfd.readouterr()
    steps = re.findall(
        r"^training: (\d+)/9, [\d.,]+ steps/s, train_loss [\d.]+.*, \d+ (?:s|min) left$", err, re.MULTILINE
    )
    assert steps == [str(step) for step in range(1, 10)]
    assert re.search(r"^training: 9/9 in \d+ (?:s|min), [\d.,]+ steps/s$", err, re.MULTILINE)
    assert re.search(r"^held-out loss: 1/1", err, re.MULTILINE)
    assert re.search(r"^reference log-probabilities: \d+/\d+", err, re.MULTILINE)
    run = tmp_path / "run"
    written = out[out.index("written:") :].splitlines()[1:]
    assert [line.split()[0] for line in written] == ["policy", "checkpoint", "training", "configuration", "TensorBoard"]
    assert written[0].split() == ["policy", str(run / "last")]
    assert written[-1].endswith(f"tensorboard --logdir {run / 'tensorboard'}")


def test_a_fit_on_a_terminal_shows_the_whole_fit(fit, monkeypatch):
    """In this process: its standard error becomes a terminal."""
    for name, value in SIZE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(progress, "DRAW_EVERY", 0.0)
    with terminal() as (end, found), os.fdopen(end, "w") as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", file)
        main(fit)
    screen = b"".join(found).decode()
    assert re.search(r"training .*9/9.*steps/s, train_loss \d", screen)
    assert "\x1b[2K" in screen  # drawn over itself


def test_a_bar_of_the_users_own_and_none_at_all_are_respected(fit, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(progress, "SAY_EVERY", 0.0)
    monkeypatch.setattr(progress, "SAY_SHARE", 0.0)
    few = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
    main([*fit, *few, "--trainer.enable_progress_bar=false", "--trainer.logger=false"])
    assert "training:" not in capfd.readouterr().err
    assert not (tmp_path / "run" / "tensorboard").exists()  # and no logger at all is not missed
    own = {"class_path": "lightning.pytorch.callbacks.TQDMProgressBar"}
    main([*fit, *few, f"--trainer.callbacks={json.dumps([own])}"])
    said = "".join(capfd.readouterr())
    assert "training:" not in said
    assert "Epoch 0" in said


def test_other_ranks_say_nothing(capfd):
    bar = FitProgress()
    bar.disable()
    bar.start_pass("held-out loss", [3])
    bar.advance_pass()
    assert bar.held_out is None
    assert capfd.readouterr() == ("", "")


def test_the_time_that_a_chain_takes_yet():
    left = [("sft", "fit"), ("sft", "test"), ("dpo", "fit"), ("dpo", "credit")]
    assert time_left(left, {}) is None
    assert time_left(left, {("sft", "fit"): []}) is None
    took = {("sft", "fit"): [10.0, 20.0], ("rft", "test"): [4.0], ("rft", "fit"): [60.0]}
    mean_fit, mean_all = 30.0, 94 / 4
    assert time_left(left, took) == pytest.approx(15.0 + 4.0 + mean_fit + mean_all)
    assert time_left([], took) == 0.0


def test_a_chain_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    """Two seeds of three stages, taking 60, 600 and 1200 s; then resumed with one run undone."""
    clock = Clock(monkeypatch)
    seconds = {"sft": 60.0, "dpo": 600.0, "rft": 1200.0}

    def run(argv: list[str]) -> None:
        home = Path(next(word.split("=")[1] for word in argv if word.startswith("--root")))
        clock.now += seconds[home.name]
        (home / "credit.csv").touch()

    stages = [Stage(name, [], {}, ["credit"]) for name in seconds]
    pipeline(run, tmp_path, stages, cells(tmp_path, [0, 1]))
    assert capsys.readouterr().out.splitlines() == [
        "[1/6 0 s so far] seed 0, sft: credit",
        "[2/6 60 s so far, about 5 min left] seed 0, dpo: credit",
        "[3/6 11 min so far, about 22 min left] seed 0, rft: credit",
        "[4/6 31 min so far, about 31 min left] seed 1, sft: credit",
        "[5/6 32 min so far, about 30 min left] seed 1, dpo: credit",
        "[6/6 42 min so far, about 20 min left] seed 1, rft: credit",
    ]
    (tmp_path / "seed-1" / "dpo" / "credit.csv").unlink()
    pipeline(run, tmp_path, stages, cells(tmp_path, [0, 1]))
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "unchanged" not in line] == [
        "[5/6 0 s so far, about 10 min left] seed 1, dpo: credit"
    ]
    monkeypatch.setenv("SLURM_PROCID", "1")  # of several processes only the first says it
    pipeline(run, tmp_path, stages, cells(tmp_path, [0, 1]))
    assert capsys.readouterr().out == ""


def test_only_what_is_there_is_named_and_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "runs" / "dpo"
    assert block(of_run(home)) == ""
    (home / "last").mkdir(parents=True)
    (home / "tensorboard").mkdir()
    assert block(of_run(home)).splitlines() == [
        "written:",
        "  policy         runs/dpo/last",
        "  TensorBoard    tensorboard --logdir runs/dpo/tensorboard",
    ]
    (home / "report.md").touch()
    (home / "report.png").touch()
    assert "  report         runs/dpo/report.md, runs/dpo/report.png" in block(of_chain(home)).splitlines()
    monkeypatch.chdir("/")
    assert f"  policy         {str(home)[1:]}/last" in block(of_run(home)).splitlines()
