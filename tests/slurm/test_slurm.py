"""Chains on a real Slurm of two nodes: arrays, requeues, preemption, several nodes, failures. ``make test-slurm``."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from stepneg.analysis.repeated import without_times
from stepneg.sampling.store import rows_of
from tests.conftest import ROOT
from tests.slurm.cluster import Cluster, Unavailable, start

pytestmark = pytest.mark.slurm

PLAIN = {
    "trainer.limit_val_batches": 0,
    "trainer.num_sanity_val_steps": 0,
    "trainer.accelerator": "cpu",
    "trainer.devices": 1,  # outside of Slurm; within, the job says how many
}
TESTED = {  # little of everything
    "trainer.callbacks.init_args.k": 2,
    "trainer.callbacks.init_args.test.init_args.size": 12,
}
SAMPLED = {
    "data.problems.init_args.size": 16,
    "data.rollouts.samples": 24,
    "data.rollouts.negatives": 2,
    "data.rollouts.rollouts": 4,
    "data.rollouts.engine.max_num_seqs": 24,  # so that a draw takes a few seconds
    "trainer.max_epochs": 1,
}
SFT = {"name": "sft", "config": ["sft.yaml"], "verbs": ["fit"], "args": {"trainer.max_epochs": 12}}
CHAIN = [SFT, {"name": "step_dpo", "config": ["step_dpo.yaml"], "args": {"data.policy": "{root}/sft/last"} | SAMPLED}]
METHODS = ("rft", "dpo", "advantage", "step_dpo")
DRAWING = re.compile(r"^(solutions|rollouts|evaluate).*tokens/s", re.MULTILINE)  # progress of an engine


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    try:
        cluster = start(Path(tempfile.mkdtemp(prefix="slurm-")))
    except Unavailable as reason:
        pytest.skip(str(reason))
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout as a user has it: the repository's files, and a stepneg on the PATH."""
    folder = tmp_path_factory.mktemp("work")
    for name in ("assets", "callbacks", "configs", "sbatch", "stepneg"):
        (folder / name).symlink_to(ROOT / name)
    command = folder / "bin" / "stepneg"
    command.parent.mkdir()
    command.write_text(f'#!/bin/bash\nexec {sys.executable} -m stepneg "$@"\n')
    command.chmod(0o755)
    return folder


def environment(work: Path, **more: str) -> dict[str, str]:
    path = {"PATH": f"{work / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return os.environ | path | {"OMP_NUM_THREADS": "1"} | more


def chain(work: Path, name: str, stages: list[dict[str, Any]], **options: Any) -> Path:
    """A chain of its own run directory and store, beside the shipped configurations that it is made of."""
    for stage in stages:
        drawn = {"data.rollouts.store": f"{name}/samples"} if "data.policy" in stage["args"] else {}
        tested = TESTED | {"trainer.callbacks.init_args.store": f"{name}/answers"}
        stage["args"] = PLAIN | tested | drawn | stage["args"]
    folder = work / f"chains-{name}"
    folder.mkdir()
    for config in {c for stage in stages for c in stage["config"]}:
        (folder / config).symlink_to(ROOT / "configs" / "arithmetic" / config)
    file = folder / "chain.yaml"
    file.write_text(yaml.safe_dump({"root": f"{name}/run", "stages": stages} | options, sort_keys=False))
    return file


def copy(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(json.dumps(stages))
    return found


def submit(cluster: Cluster, work: Path, file: Path, *argv: str, **more: str) -> dict[str, str]:
    """Submit a chain; the jobs by what they do."""
    command = ["sbatch/pipeline.sh", str(file.relative_to(work)), *argv]
    env = environment(work, SLURM_CONF=str(cluster.home / "slurm.conf"), **more)
    done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    jobs = dict(line.split()[1::-1] for line in done.stdout.splitlines() if line[:1].isdigit())
    assert f"cancel: scancel {' '.join(jobs.values())}\n" in done.stdout
    return {name.rsplit("/", 1)[-1]: job for name, job in jobs.items()}


def log(work: Path, job: str) -> str:
    """The log of a job, or of a task JOB_N of an array."""
    found = next(iter(work.glob(f"logs/*-{job.replace('_', '-')}.out")))
    return found.read_text()


def until(condition: Any, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def samples(store: Path) -> dict[tuple[str, str, int], list[int]]:
    """Every sample by sampler, prompt and index; none is there twice."""
    found = [
        ((sampler.name, row["prompt"], row["index"]), row["token_ids"])
        for sampler in store.iterdir()
        for shard in sampler.glob("*.jsonl")
        for row in rows_of(shard)
    ]
    assert max(Counter(key for key, _ in found).values()) == 1
    return dict(found)


def data(run: Path) -> list[bytes]:
    return sorted(file.read_bytes() for file in run.glob("data/*.jsonl"))


def equal_weights(one: Path, other: Path, within: float = 0.0) -> bool:
    a, b = load_file(one / "last" / "model.safetensors"), load_file(other / "last" / "model.safetensors")
    return set(a) == set(b) and all(float((a[name] - b[name]).abs().max()) <= within for name in a)


def tasks(word: str) -> list[int]:
    """Processes of stepneg that a job started, by a word of their command line."""
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = cmdline.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "stepneg" in words and words[0] == sys.executable and any(word in w for w in words):
            found.append(int(cmdline.parent.name))
    return found


def shipped() -> list[dict[str, Any]]:
    """The stages of the shipped chain, with little data."""
    chain = yaml.safe_load((ROOT / "configs" / "arithmetic" / "pipeline.yaml").read_text())
    less = {"base": {}, "sft": SFT["args"]}
    return [stage | {"args": stage["args"] | less.get(stage["name"], SAMPLED)} for stage in chain["stages"]]


def test_the_whole_chain_by_one_command_with_a_task_killed_equals_a_single_box(cluster: Cluster, work: Path) -> None:
    file = chain(work, "array", shipped(), order=["sft", "rft", "step_dpo"])
    jobs = submit(cluster, work, file, TASKS="2%1", SBATCH_TIMELIMIT="30")
    assert set(jobs) == {
        "base:evaluation", "base:test", "sft:fit", "sft:evaluation", "sft:test",
        *(f"{method}:{what}" for method in METHODS for what in ("solutions", "fit", "evaluation", "test")),
        "advantage:values", "step_dpo:values", "pipeline.tables",
    }  # fmt: skip
    store = work / "array" / "samples"
    until(lambda: any(shard.stat().st_size for shard in store.glob("*/*.jsonl")), 600)
    (victim,) = tasks("rft:solutions")
    os.kill(victim, signal.SIGKILL)
    cluster.wait(list(jobs.values()), 1800)
    assert cluster.states(*jobs.values()) == {"COMPLETED"}
    first = log(work, f"{jobs['rft:solutions']}_1")
    assert "ended by signal 9; back into the queue" in first
    assert first.count("rft: solutions") == 2  # it was begun twice
    for number in (1, 2):
        for drew in ("rft:solutions", "advantage:values", "base:evaluation", "step_dpo:evaluation"):
            assert DRAWING.search(log(work, f"{jobs[drew]}_{number}"))
        for shared in ("dpo:solutions", "advantage:solutions", "step_dpo:solutions"):  # all of them RFT's
            assert not DRAWING.search(log(work, f"{jobs[shared]}_{number}"))
    for name in (f"{method}:{verb}" for method in METHODS for verb in ("fit", "test")):
        assert not DRAWING.search(log(work, jobs[name]))  # what the arrays drew was all that was needed
    table = log(work, jobs["pipeline.tables"])
    assert all(f"| {method} |" in table for method in ("base", "sft", *METHODS))

    single = chain(work, "single", shipped(), order=["sft", "rft", "step_dpo"])
    env = environment(work)
    subprocess.run(["stepneg", "pipeline", "--config", str(single)], cwd=work, env=env, check=True, capture_output=True)
    ours, alone = work / "array", work / "single"
    for kind, least in (("samples", 16 * 24), ("answers", 6 * 12 * 3)):
        drawn = samples(ours / kind)
        assert drawn == samples(alone / kind)
        assert len(drawn) >= least
    for name in ("base", "sft", *METHODS):
        runs = [home / "run" / "seed-0" / name for home in (ours, alone)]
        tested = [without_times(json.loads((run / "evaluation" / "test.json").read_text())) for run in runs]
        assert tested[0] == tested[1]
        if name != "base":
            assert data(runs[0]) == data(runs[1]) != []
            assert equal_weights(*runs)

    # Done runs need no job.
    command = ["sbatch/pipeline.sh", str(file.relative_to(work))]
    env = environment(work, SLURM_CONF=str(cluster.home / "slurm.conf"))
    again = subprocess.run(command, cwd=work, env=env, check=True, capture_output=True, text=True).stdout
    assert again.startswith("every run is done")


def test_a_failing_run_stops_those_that_wait_for_it(cluster: Cluster, work: Path) -> None:
    stages = copy(CHAIN)
    stages[0]["args"]["model.path"] = "models/none"
    jobs = submit(cluster, work, chain(work, "failing", stages), TASKS="2")
    cluster.wait(list(jobs.values()), 120)
    assert cluster.states(jobs["sft:fit"]) == {"FAILED"}
    assert cluster.states(*(job for name, job in jobs.items() if name != "sft:fit")) == {"CANCELLED"}
    said = log(work, jobs["sft:fit"])
    assert "stepneg: error: models/none: no config.json" in said
    assert "failed with exit code 2, so that the jobs that wait for it are cancelled" in said
    assert not (work / "failing" / "samples").exists()


def test_a_mistake_in_an_option_shows_before_anything_is_submitted(cluster: Cluster, work: Path) -> None:
    stages = copy(CHAIN)
    stages[1]["args"]["data.rollouts.smples"] = 3
    file = chain(work, "mistaken", stages)
    env = environment(work, SLURM_CONF=str(cluster.home / "slurm.conf"))
    done = subprocess.run(
        ["sbatch/pipeline.sh", str(file)], cwd=work, env=env, check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "smples" in done.stderr
    assert done.stdout == ""


def rank_of(process: int) -> int:
    """Which of a step's processes it is."""
    words = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return int(next(word for word in words if word.startswith(b"SLURM_PROCID=")).partition(b"=")[2])


def test_a_fit_on_two_nodes_of_two_tasks_with_a_rank_killed_and_its_time_over(cluster: Cluster, work: Path) -> None:
    """It ends with its rank, goes on when it is submitted again, and once more after a real time limit."""
    stages = copy(CHAIN[:1])
    problems = {"data.problems.init_args.size": 64}
    stages[0]["args"] |= {"trainer.max_epochs": 13, "data.batch_size": 2} | problems  # 104 steps
    calm = chain(work, "calm4", copy(stages))
    stages[0]["args"]["trainer.callbacks+"] = "tests.stop.Linger"
    hindered = chain(work, "hindered", stages)
    run = work / "hindered" / "run" / "seed-0" / "sft"
    last = run / "checkpoints" / "last.ckpt"
    fit = "--nodes=2 --ntasks-per-node=2 --exclusive"

    jobs = submit(cluster, work, hindered, FIT=fit, SBATCH_TIMELIMIT="30")
    until(last.exists)
    ranks = {rank_of(process): process for process in tasks("sft:fit") if process != os.getpid()}
    assert sorted(ranks) == [0, 1, 2, 3]
    os.kill(ranks[2], signal.SIGKILL)
    cluster.wait(list(jobs.values()), 60)
    assert cluster.states(jobs["sft:fit"]) == {"FAILED"}
    assert cluster.states(jobs["pipeline.tables"]) == {"CANCELLED"}
    said = log(work, jobs["sft:fit"])
    assert "task 2: Killed" in said
    assert re.search("failed with exit code 1(37|43), so that the jobs that wait for it are cancelled", said)
    assert tasks("sft:fit") == []

    jobs = submit(cluster, work, hindered, FIT=f"{fit} --time=3 --signal=B:USR1@60")
    job = jobs["sft:fit"]

    def ended() -> bool:
        cluster.hurry(job)
        return cluster.states(job) <= {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"}

    until(ended, 900)
    cluster.wait(list(jobs.values()), 120)
    said = log(work, job)
    assert cluster.states(*jobs.values()) == {"COMPLETED"}, said
    assert said.count("its time is over; back into the queue") == int(cluster.facts(job)["Restarts"]) > 0
    assert said.count("Restored all states from the checkpoint at ") == 1 + int(cluster.facts(job)["Restarts"])
    for rank in range(4):
        assert f"GLOBAL_RANK: {rank}, MEMBER: {rank + 1}/4" in said
    assert "DUE TO TIME LIMIT" not in said
    assert json.loads((run / "fit.json").read_text())["argv"][0] == "fit"

    env = environment(work)
    argv = ["stepneg", "pipeline", "--config", str(calm), "--args", json.dumps({"trainer.devices": 4})]
    subprocess.run(argv, cwd=work, env=env, check=True, capture_output=True)
    runs = [work / name / "run" / "seed-0" / "sft" for name in ("calm4", "hindered")]
    assert equal_weights(*runs, within=1e-5)  # DDP begins with other buckets, in which four ranks sum in another order
    (file,) = (f for f in run.glob("data/*.jsonl") if "." not in f.stem)
    rows = [row for line in file.read_text().splitlines() for row in json.loads(line)]
    tokens = sum(len(row["prompt_ids"]) + len(row["response_ids"]) for row in rows)
    trained = [json.loads((run / "summary.json").read_text())["trained_tokens"] for run in runs]
    assert trained[0] == trained[1] == pytest.approx(13 * tokens, rel=0.2)  # the first rank's, four times


def test_a_preempted_fit_ends_with_the_weights_of_an_undisturbed_one(cluster: Cluster, work: Path) -> None:
    stages = copy(CHAIN[:1])
    stages[0]["args"] |= {"trainer.max_epochs": 16, "data.batch_size": 2, "data.problems.init_args.size": 64}
    calm, disturbed = (chain(work, name, copy(stages)) for name in ("calm", "disturbed"))
    jobs = submit(cluster, work, disturbed, SBATCH_TIMELIMIT="30")
    job = jobs["sft:fit"]
    last = work / "disturbed" / "run" / "seed-0" / "sft" / "checkpoints" / "last.ckpt"

    def restarts() -> int:
        return int(cluster.facts(job)["Restarts"])

    until(last.exists)
    cluster.run("scancel", "--batch", "--signal=USR1", job)  # as --signal does before the time limit
    until(lambda: restarts() == 1)
    written = last.stat().st_mtime_ns

    def resumed() -> bool:
        cluster.hurry(job)
        return last.stat().st_mtime_ns > written

    def preempt(times: int) -> None:
        options = ("--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
        urgent = cluster.run("sbatch", "--parsable", *options).strip()
        until(lambda: restarts() == times)
        cluster.wait([urgent], 120)

    until(resumed)
    preempt(2)
    written = last.stat().st_mtime_ns
    until(resumed)
    cluster.run("scontrol", "update", "PartitionName=usual", "GraceTime=60")  # now it may end by itself
    preempt(3)
    cluster.wait(list(jobs.values()), 300)
    said = log(work, job)
    assert cluster.states(*jobs.values()) == {"COMPLETED"}, said
    assert "its time is over; back into the queue" in said
    assert said.count("preempted; back into the queue") == 1
    assert said.count("Restored all states from the checkpoint at ") == 3
    assert not list(work.glob("disturbed/**/hpc_ckpt*"))
    assert [file.name for file in last.parent.iterdir()] == ["last.ckpt"]

    env = environment(work)
    subprocess.run(["stepneg", "pipeline", "--config", str(calm)], cwd=work, env=env, check=True, capture_output=True)
    runs = [work / name / "run" / "seed-0" / "sft" for name in ("calm", "disturbed")]
    assert equal_weights(*runs)
    trained = [json.loads((run / "summary.json").read_text())["trained_tokens"] for run in runs]
    assert trained[0] == trained[1]


def test_tasks_of_an_array_go_back_into_the_queue_each_by_itself(cluster: Cluster, work: Path) -> None:
    """One of them has the array's own number; a signal to each one puts it back once, and none ends for another's."""
    script = work / "sbatch-once.sh"
    mark = work / "times"
    script.write_text(
        "#!/bin/bash\n#SBATCH --output=logs/%x-%A-%a.out\n#SBATCH --open-mode=append\n#SBATCH --requeue\n"
        "source sbatch/run.sh\n"
        f"run bash -c 'echo $SLURM_ARRAY_TASK_ID >> {mark}; [ ${{SLURM_RESTART_COUNT:-0}} = 1 ] || sleep 300'\n"
    )
    (work / "logs").mkdir(exist_ok=True)
    argv = ["sbatch", "--parsable", "--array=1-3", "--job-name=once", "--time=30", script.name]
    env = environment(work, SLURM_CONF=str(cluster.home / "slurm.conf"))
    job = subprocess.run(argv, cwd=work, env=env, check=True, capture_output=True, text=True).stdout.strip()
    until(lambda: mark.is_file() and len(mark.read_text().split()) == 3)
    for task in (3, 2, 1):
        cluster.run("scancel", "--batch", "--signal=USR1", f"{job}_{task}")
    cluster.wait([job], 240)
    assert sorted(mark.read_text().split()) == ["1", "1", "2", "2", "3", "3"]
    assert cluster.states(job) == {"COMPLETED"}
    for task in (1, 2, 3):
        said = log(work, f"{job}_{task}")
        assert said.count("its time is over; back into the queue") == 1
