"""What ``sbatch/run.sh`` makes of how a step ended, with stand-ins for Slurm's commands; the real ones: tests/slurm."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def ended(
    tmp_path: Path,
    step: str,
    told: bool = False,
    tasks: int = 1,
    log: str = "",
    squeue: str = "echo RUNNING",
    scancel: str = ":",
    facts: str = "",
) -> tuple[int, str, bool]:
    """Exit code of a job, what it said, and whether it went back into the queue."""
    commands = {"squeue": squeue, "srun": f"shift; {step}", "scancel": scancel}
    commands["scontrol"] = f"echo $@ >> {tmp_path}/said; echo '{facts}'"
    for name, text in commands.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/bash\n{text}\n")
        file.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "fit", "SLURM_NTASKS": str(tasks), "SLURM_RESTART_COUNT": "5"}
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    output = tmp_path / "log"
    output.write_text(log)
    signal = "(sleep 0.3; kill -USR1 $$) &" if told else ""
    with output.open("a") as out:
        script = f"source sbatch/run.sh\n{signal}\nrun x"
        code = subprocess.run(
            ["bash", "-c", script], cwd=ROOT, env=os.environ | slurm | {"PATH": path}, stderr=out, timeout=20
        ).returncode
    said = tmp_path / "said"
    return code, output.read_text().removeprefix(log), said.exists() and "requeue 7" in said.read_text()


@pytest.mark.parametrize(
    ("preempt", "back"),
    [("None", False), ("2026-01-02T03:04:04", False), ("2026-01-02T03:04:05", True), ("2026-01-03T00:00:00", True)],
)
def test_a_job_of_many_tasks_is_preempted_if_it_has_been_since_it_started(tmp_path: Path, preempt: str, back: bool):
    """What Slurm says of the time may be of a start before the last."""
    facts = f"JobId=7\n   StartTime=2026-01-02T03:04:05 EndTime=Unknown\n   PreemptEligibleTime=0 PreemptTime={preempt}"
    _, said, again = ended(tmp_path, "kill -TERM $$", tasks=2, facts=facts)
    assert again == back
    assert ("fit: preempted; back into the queue" in said) == back


PUT_BACK = "fit: its time is over; back into the queue\nfit: ended by signal 9; back into the queue\n"


def test_a_step_that_succeeds_says_nothing(tmp_path: Path) -> None:
    assert ended(tmp_path, "exit 0") == (0, "", False)


def test_a_step_has_the_jobs_environment_whatever_its_submission_left_out(tmp_path: Path) -> None:
    assert ended(tmp_path, '[ "$SLURM_EXPORT_ENV" = ALL ]') == (0, "", False)


@pytest.mark.parametrize(("step", "back"), [("sleep 1; exit 0", False), ("sleep 1; exit 2", True)])
def test_a_step_that_ends_while_it_is_told_to_keeps_its_exit_code(step: str, back: bool, tmp_path: Path) -> None:
    code, said, again = ended(tmp_path, step, told=True, scancel="sleep 2")
    assert (code, again) == (int(step[-1]), back)
    assert "its time is over" not in said


@pytest.mark.parametrize("log", ["", PUT_BACK * 2])
def test_a_killed_process_is_put_back_whatever_else_put_it_back(log: str, tmp_path: Path) -> None:
    assert ended(tmp_path, "exit 137", log=log) == (137, "fit: ended by signal 9; back into the queue\n", True)


def test_three_times_is_enough(tmp_path: Path) -> None:
    code, said, back = ended(tmp_path, "exit 137", log=PUT_BACK * 3)
    assert (code, back) == (137, False)
    assert "fit: failed with exit code 137" in said


def test_ranks_of_which_one_was_killed_are_not_put_back(tmp_path: Path) -> None:
    assert not ended(tmp_path, "exit 137", tasks=2)[2]


@pytest.mark.parametrize("tasks", [1, 4])
def test_at_its_time_limit_a_job_goes_back_as_often_as_it_takes(tasks: int, tmp_path: Path) -> None:
    said = "fit: its time is over; back into the queue\n"
    assert ended(tmp_path, "sleep 1; exit 138", told=True, tasks=tasks, log=PUT_BACK * 9) == (138, said, True)


@pytest.mark.parametrize("tasks", [1, 4])
def test_an_error_at_the_time_limit_does_not_go_round_for_ever(tasks: int, tmp_path: Path) -> None:
    said = "fit: ended with exit code 2 at its time limit; back into the queue\n"
    assert ended(tmp_path, "sleep 1; exit 2", told=True, tasks=tasks) == (2, said, True)
    (tmp_path / "said").unlink()
    code, last, back = ended(tmp_path, "sleep 1; exit 2", told=True, tasks=tasks, log=said * 3)
    assert (code, back) == (2, False)
    assert "failed with exit code 2" in last


def test_an_engine_that_died_again_and_again_may_live_on_another_node(tmp_path: Path) -> None:
    said = "fit: ended with exit code 75; back into the queue\n"
    assert ended(tmp_path, "exit 75") == (75, said, True)
    (tmp_path / "said").unlink()
    assert not ended(tmp_path, "exit 75", log=said * 3)[2]


def test_an_error_of_its_own_stops_those_that_wait(tmp_path: Path) -> None:
    code, said, back = ended(tmp_path, "exit 2")
    assert (code, back) == (2, False)
    assert "failed with exit code 2, so that the jobs that wait for it are cancelled" in said


def test_a_job_that_slurm_ends_is_left_to_it(tmp_path: Path) -> None:
    code, said, back = ended(tmp_path, "exit 143", squeue="echo COMPLETING")
    assert (code, back) == (143, False)
    assert "ended by Slurm" in said


def test_a_controller_that_is_away_for_a_moment_is_no_end(tmp_path: Path) -> None:
    assert ended(tmp_path, "exit 137", squeue="exit 1")[2]
