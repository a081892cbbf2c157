"""One rank works, the others wait for its sign: until it is done, has failed, or is gone."""

import errno
import json
import os
import threading
import time
from pathlib import Path

import pytest

from stepneg.data import handover
from stepneg.data.handover import ATTEMPT, attempt, once
from stepneg.errors import InputError
from stepneg.training import Met, StepnegCLI, cli

PLAIN = ["--trainer.accelerator=cpu", "--model.objective=stepneg.objectives.CrossEntropy"]


def waiting(sign, patience=30.0):
    """A thread of rank 1, and the list that takes what it ended with."""
    ended = []

    def wait():
        try:
            once(lambda: ended.append("worked"), sign, 1, beat=0.02, patience=patience)
            ended.append("done")
        except InputError as error:
            ended.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    return thread, ended


def test_the_others_return_when_the_work_is_done_and_do_none(tmp_path):
    thread, ended = waiting(tmp_path / "data" / "sign.json")
    time.sleep(0.1)
    made = []
    once(lambda: (time.sleep(0.2), made.append(list(ended))), tmp_path / "data" / "sign.json", 0, beat=0.02)
    thread.join(10)
    assert made == [[]]  # nobody went on before
    assert ended == ["done"]


def test_a_long_work_outlasts_the_patience_as_long_as_there_are_signs_of_life(tmp_path):
    thread, ended = waiting(tmp_path / "sign.json", patience=0.5)
    once(lambda: time.sleep(1.5), tmp_path / "sign.json", 0, beat=0.05)
    thread.join(10)
    assert ended == ["done"]


def test_a_file_system_that_fails_for_a_moment_is_no_end(tmp_path, monkeypatch):
    """The others read on, and a sign of life that could not be written is followed by one that can."""
    reads, writes = iter([errno.ESTALE, errno.EIO]), iter([errno.EIO] * 3)
    read_text, show = Path.read_text, handover.show

    def stale(path, *args, **options):
        if (number := next(reads, None)) is not None:
            raise OSError(number, os.strerror(number), str(path))
        return read_text(path, *args, **options)

    def failing(sign, state, message):
        if state == "working" and (number := next(writes, None)) is not None:
            raise OSError(number, os.strerror(number), str(sign))
        show(sign, state, message)

    monkeypatch.setattr(Path, "read_text", stale)
    monkeypatch.setattr(handover, "show", failing)
    thread, ended = waiting(tmp_path / "sign.json", patience=1.0)
    once(lambda: time.sleep(2), tmp_path / "sign.json", 0, beat=0.05)
    thread.join(10)
    assert ended == ["done"]
    assert [next(reads, None), next(writes, None)] == [None, None]


@pytest.mark.parametrize(
    ("error", "message"),
    [(InputError("data.problems: none"), ": data.problems: none"), (KeyError("x"), ": KeyError: 'x'")],
)
def test_a_failure_ends_all_with_its_message(error, message, tmp_path):
    thread, ended = waiting(tmp_path / "sign.json")

    def fail():
        raise error

    with pytest.raises(type(error)):
        once(fail, tmp_path / "sign.json", 0, beat=0.02)
    thread.join(10)
    assert ended == [f"rank 0 failed, and rank 1 ends with it{message}"]


def test_an_interruption_is_told_too(tmp_path):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(stop, tmp_path / "sign.json", 0)
    with pytest.raises(InputError, match="it was interrupted"):
        once(stop, tmp_path / "sign.json", 1, grace=0.1)


def test_the_failure_of_an_earlier_attempt_is_not_taken_for_this_ones(tmp_path):
    sign = tmp_path / "sign.json"
    sign.write_text(json.dumps(["failed", "then"]))
    thread, ended = waiting(sign)
    time.sleep(0.3)  # until rank 0 begins
    assert not ended
    once(lambda: time.sleep(0.2), sign, 0, beat=0.02)
    thread.join(10)
    assert ended == ["done"]


def test_a_failure_that_nobody_follows_is_believed_after_a_while(tmp_path):
    sign = tmp_path / "sign.json"
    sign.write_text(json.dumps(["failed", "now"]))
    started = time.monotonic()
    with pytest.raises(InputError, match="rank 0 failed, and rank 1 ends with it: now"):
        once(lambda: None, sign, 1, beat=0.02, grace=0.3)
    assert 0.3 <= time.monotonic() - started < 5


def test_the_sign_goes_when_all_have_met(tmp_path):
    sign = tmp_path / "sign.json"
    once(lambda: None, sign, 0)
    met = Met(sign)
    for _ in range(2):
        met.setup(None, None, "fit")
        assert not sign.exists()


def test_a_sign_is_of_its_settings_of_the_data(tmp_path, tiny, monkeypatch):
    monkeypatch.setenv(ATTEMPT, "same")
    names = []

    class Named(StepnegCLI):
        def _run_subcommand(self, subcommand):
            names.append(self.of_data())

    source = {"class_path": "stepneg.problems.arithmetic.Arithmetic", "init_args": {"size": 8}}
    data = {"policy": str(tiny), "problems": source}
    for more in ({}, {"seed": 1}, {"problems": source | {"init_args": {"size": 9}}}, {}):
        given = {"class_path": "stepneg.data.solutions.TeacherSolutions", "init_args": data | more}
        argv = [f"--trainer.default_root_dir={tmp_path}", f"--model.path={tiny}", *PLAIN]
        cli(["fit", *argv, f"--trainer.max_epochs={len(names) + 1}", f"--data={json.dumps(given)}"], Named)
    assert names[0] == names[3]
    assert len(set(names)) == 3


def test_the_name_of_an_attempt_is_shared_inherited_and_new_after_a_requeue(monkeypatch):
    monkeypatch.setenv(ATTEMPT, "")
    names = []
    for restarts in ("0", "0", "1"):
        monkeypatch.delenv(ATTEMPT)
        monkeypatch.setenv("SLURM_JOB_ID", "17")
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        names.append(attempt())
    assert names[0] == names[1] != names[2]
    monkeypatch.setenv("PMIX_NAMESPACE", "prterun-host-7@1")
    monkeypatch.delenv(ATTEMPT)
    assert attempt() not in names
    monkeypatch.setenv(ATTEMPT, names[2])
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    assert attempt() == names[2] == os.environ[ATTEMPT]
