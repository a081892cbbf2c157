"""Faults, injected: full and read-only disks, flipped bits, torn files, two processes, infinite losses, clocks.

Each ends in what was right before, or in one clear line; benchmarks/faults.py kills whole stages.
"""

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from stepneg import lock
from stepneg.callbacks.export import write
from stepneg.checkpoints import CheckedCheckpoints
from stepneg.cli import main
from stepneg.credit.pairs import Trace
from stepneg.data import handover
from stepneg.data.prepared import Built, files_of, read_built, read_checked, write_built
from stepneg.data.rows import Row
from stepneg.errors import InputError
from stepneg.evaluation_files import read_evaluation, write_evaluation
from stepneg.lock import held
from stepneg.pipeline import is_done
from stepneg.policy import Policy, load_model
from stepneg.sampling.engine import Completion
from stepneg.sampling.store import Sampler, Writer, contents, fingerprint_policy, prompt_key, rows_of
from stepneg.sampling.vllm_engine import EngineDied, Worker, limit_waiting
from stepneg.whole import settle, whole, write_whole
from tests.test_fit import FIT

KEYS = [prompt_key((i,)) for i in range(3)]


def flips(content: bytes, every: int = 1) -> Iterator[bytes]:
    """The content with one bit flipped: each bit, or every so many."""
    for place in range(0, 8 * len(content), every):
        yield content[: place // 8] + bytes([content[place // 8] ^ 1 << place % 8]) + content[place // 8 + 1 :]


def tried(read: Callable[[Path], dict[str, Any]], file: Path) -> dict[str, Any] | str:
    """What is read, or the line that says why not."""
    try:
        return read(file)
    except InputError as error:
        return str(error)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


# --- files


def test_a_file_is_whole_or_as_before(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_whole(file, "before")
    with pytest.raises(ZeroDivisionError), whole(file) as out:
        out.write("half" * (1 // 0))
    assert file.read_text() == "before"
    write_whole(file, "after")
    assert (file.read_text(), names(tmp_path)) == ("after", ["a.json"])


def filled(folder: Path) -> Path:
    with Writer(folder) as writer:
        writer.add(KEYS[0], 0, [Completion((3, 4), -1.5, "stop"), Completion((5,), -0.5, "length")])
        writer.add(KEYS[1], 2, [Completion((6,), -2.0, "stop")])
    (shard,) = folder.glob("*.jsonl")
    return shard


def test_no_bit_of_a_shard_makes_another_sample(tmp_path: Path) -> None:
    shard = filled(tmp_path)
    right = list(Sampler(tmp_path).rows())
    for content in flips(shard.read_bytes()):
        shard.write_bytes(content)
        found = list(Sampler(tmp_path).rows())
        assert all(sample in right for sample in found)
        assert len(found) >= len(right) - 2  # of a newline two lines are one


def test_a_shard_that_is_cut_anywhere_has_the_samples_before(tmp_path: Path) -> None:
    shard = filled(tmp_path)
    content, right = shard.read_bytes(), list(Sampler(tmp_path).rows())
    for end in range(len(content)):
        shard.write_bytes(content[:end])
        assert list(Sampler(tmp_path).rows()) == right[: content[:end].count(b"\n")]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damage_of_a_larger_shard_makes_no_other_sample(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    folder, rng = tmp_path_factory.mktemp("shard"), random.Random(0)
    with Writer(folder) as writer:
        for key in KEYS:
            drawn = [tuple(rng.choices(range(10**5), k=rng.randint(1, 40))) for _ in range(20)]
            writer.add(key, 0, [Completion(ids, -rng.random(), "stop") for ids in drawn])
    (shard,) = folder.glob("*.jsonl")
    right, content = list(rows_of(shard)), bytearray(shard.read_bytes())
    for place in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=30)):
        content[place // 8] ^= 1 << place % 8
    start = data.draw(st.integers(0, len(content)))
    del content[start : start + data.draw(st.integers(0, 300))]
    shard.write_bytes(content)
    assert all(row in right for row in rows_of(shard))


def test_no_bit_of_a_list_of_prompts_hides_a_sample(tmp_path: Path) -> None:
    listed = contents(filled(tmp_path))
    for content in flips(listed.read_bytes()):
        listed.write_bytes(content)
        assert len(list(Sampler(tmp_path).rows({KEYS[0]}))) == 2


def test_damage_of_built_data_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "data" / "x.jsonl"
    trace = Trace("1", (1, 2), (3, 4), False, (1, 2), ((4, 2), (4, 0)))
    built = Built([(Row((1, 2), (3, 4), 1, (0.5, 1.0), -1.25),)], {"problems": 1.0}, [trace])
    write_built(built, file)
    assert read_built(file) == built
    for place in (*files_of(file), file.with_suffix(".sha256")):
        content = place.read_bytes()
        for wrong in (*flips(content, every=5), content[:-1], content + b"\n"):
            place.write_bytes(wrong)
            assert read_checked(file) is None
        place.unlink()
        with pytest.raises(InputError, match=r"x\.jsonl: .* damaged .*; delete it, and it is made again"):
            read_built(file)
        place.write_bytes(content)
    assert read_built(file) == built


def test_damage_of_an_evaluation_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "test.json"
    values = {"accuracy": 0.25, "breakdown": [{"by": "level", "value": 1, "problems": 4}]}
    write_evaluation(file, values, [{"problem_id": "1", "correct": True}])
    assert read_evaluation(file) == values
    for place in (file, file.with_suffix(".jsonl")):
        content = place.read_bytes()
        for wrong in (*flips(content, every=3), content[: len(content) // 2]):
            place.write_bytes(wrong)
            found = tried(read_evaluation, file)
            # A bit in the word sha256 leaves the values without a checksum.
            assert found.startswith(f"{file}: ") if isinstance(found, str) else found.items() >= values.items()
        place.write_bytes(content)


def test_a_damaged_mark_is_of_nothing_that_is_done(tmp_path: Path) -> None:
    record = tmp_path / "fit.json"
    record.write_text(json.dumps({"fingerprint": "abc"}))
    assert is_done(record, "abc", tmp_path)
    for content in flips(record.read_bytes()):
        record.write_bytes(content)
        assert not is_done(record, "abc", tmp_path)


# --- checkpoints and policies


def test_no_bit_of_a_checkpoint_is_resumed_wrong(tmp_path: Path) -> None:
    file, files = tmp_path / "last.ckpt", CheckedCheckpoints()
    files.save_checkpoint({"state_dict": {"w": torch.arange(6.0)}, "epoch": 3, "loops": {"a": [1, "x"]}}, file)
    assert names(tmp_path) == ["last.ckpt"]
    content = file.read_bytes()
    for wrong in (*flips(content, every=23), content[:-1], content[: len(content) // 2], b""):
        file.write_bytes(wrong)
        found = tried(files.load_checkpoint, file)
        if isinstance(found, str):
            assert found.startswith(f"{file}: ")
            assert "delete it" in found or "stepneg fit has written" in found
        else:
            assert found["state_dict"]["w"].tolist() == [0, 1, 2, 3, 4, 5]
            assert (found["epoch"], found["loops"]) == (3, {"a": [1, "x"]})


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (open, (str(self.file), "w"))


@pytest.mark.parametrize("plain", [False, True])
def test_a_checkpoint_executes_nothing(tmp_path: Path, plain: bool) -> None:
    file = tmp_path / "last.ckpt"
    if plain:
        file.write_bytes(pickle.dumps({"state_dict": Bomb(tmp_path / "made")}))
    else:
        torch.save({"state_dict": Bomb(tmp_path / "made")}, file)
    with pytest.raises(InputError, match=r"last\.ckpt: (holds more than tensors|is damaged)"):
        CheckedCheckpoints().load_checkpoint(file)
    assert names(tmp_path) == ["last.ckpt"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    out = tmp_path_factory.mktemp("exported") / "last"
    write(load_model(tiny), None, tiny, out, "{question}\n")
    return out


def test_an_exported_policy_tells_of_damage(tmp_path: Path, exported: Path) -> None:
    policy = tmp_path / "moved"
    shutil.copytree(exported, policy)
    assert fingerprint_policy(policy) == fingerprint_policy(exported)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        content = (policy / name).read_bytes()
        for wrong in flips(content, every=8 * len(content) // 20):
            (policy / name).write_bytes(wrong)
            with pytest.raises(InputError, match="changed or damaged since the export"):
                fingerprint_policy(policy)
        (policy / name).write_bytes(content)
    assert fingerprint_policy(policy) == fingerprint_policy(exported)


def test_a_torn_model_is_one_line(tmp_path: Path, tiny: Path) -> None:
    policy = tmp_path / "policy"
    shutil.copytree(tiny, policy)
    weights = policy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be loaded as a model in safetensors"):
        load_model(policy)


def test_an_export_that_was_killed_while_it_took_the_place_of_another_is_finished(tmp_path: Path) -> None:
    out, partial, old = (tmp_path / name for name in ("best", ".best.partial", ".best.old"))
    for folder in (partial, old):
        folder.mkdir()
        (folder / "of").write_text(folder.name)
    settle(out)
    assert (names(tmp_path), (out / "of").read_text()) == (["best"], ".best.partial")
    partial.mkdir()  # killed while it wrote: what is there stays
    settle(out)
    assert (names(tmp_path), (out / "of").read_text()) == (["best"], ".best.partial")


# --- fits


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line with which a command ends."""
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("stepneg: error: "))
    return line


@pytest.fixture
def command(tmp_path: Path, tiny: Path) -> list[str]:
    file = tmp_path / "fit.yaml"
    file.write_text(FIT.replace("POLICY", str(tiny)))
    few = ["--trainer.limit_val_batches=0", "--trainer.enable_model_summary=false", "--trainer.max_epochs=2"]
    return ["fit", f"--config={file}", *few, f"--trainer.default_root_dir={tmp_path / 'run'}", "--ckpt_path=last"]


def with_callback(name: str, **options: object) -> str:
    return "--trainer.callbacks+=" + json.dumps({"class_path": f"tests.stop.{name}", "init_args": options})


@pytest.mark.parametrize(
    ("what", "said", "more"),
    [
        ("loss", "step 4: loss not finite", []),
        ("loss", "step 4: loss not finite", ["--trainer.precision=bf16-mixed"]),
        ("gradient", "step 4: gradient not finite", []),
        ("weights", "weights not finite", []),
    ],
)
def test_what_is_not_finite_stops_the_fit_and_spoils_nothing(tmp_path, command, capsys, what, said, more) -> None:
    """Of five batches an epoch, accumulated by two: the seventh or the last is spoilt, so step 4 or the end."""
    line = fails(capsys, *command, *more, with_callback("Spoil", what=what))
    assert said in line
    assert "lower the learning rate" in line
    run = tmp_path / "run"
    assert not (run / "last").exists()
    assert names(run / "checkpoints") == ["last.ckpt"]
    kept = CheckedCheckpoints().load_checkpoint(run / "checkpoints" / "last.ckpt")
    assert all(w.isfinite().all() for w in kept["state_dict"].values())
    assert kept["global_step"] == 3
    if (what, more) != ("loss", []):
        return
    main([*command, *more])
    whole_run = [word.replace(str(run), str(tmp_path / "whole")) for word in command]
    main([*whole_run, *more])
    first, second = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("run", "whole"))
    assert all((first[name] == second[name]).all() for name in first)


def test_float16_leaves_steps_out_by_itself() -> None:
    trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=object()), global_step=0)
    scaled = SimpleNamespace(trainer=trainer, is_logged=lambda steps: False)
    Policy.on_before_optimizer_step(scaled, None)  # type: ignore[arg-type]  # looks at no gradient


def test_damage_of_a_run_is_told_and_mended(tmp_path: Path, command: list[str], capsys) -> None:
    """The data is made again by itself; a checkpoint is named and left alone."""
    main(command)
    (file,) = (f for f in (tmp_path / "run" / "data").glob("*.jsonl") if f.suffixes == [".jsonl"])
    content = file.read_bytes()
    file.write_bytes(content.replace(b"1", b"2", 1))
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    whole_checkpoint = checkpoint.read_bytes()
    checkpoint.write_bytes(whole_checkpoint[:-50])
    capsys.readouterr()
    assert f"{checkpoint}: is damaged" in fails(capsys, *command)
    assert file.read_bytes() == content
    assert checkpoint.read_bytes() == whole_checkpoint[:-50]


# --- places


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system takes root and the right to mount")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path, left: int = 0) -> None:
    """Take the space of a file system but for some bytes."""
    space = os.statvfs(place)
    (place / "filler").write_bytes(bytes(space.f_bavail * space.f_frsize - left))


def test_a_full_disk_keeps_the_samples_before(small_disk: Path) -> None:

    def write_on() -> None:
        with Writer(small_disk) as writer:
            for number in range(10**6):
                writer.add(prompt_key((number,)), 0, [Completion(tuple(range(500)), -1.0, "stop")])

    with pytest.raises(OSError, match=r"No space left on device: '.*\.jsonl'"):
        write_on()
    found = list(Sampler(small_disk).rows())
    assert len(found) > 300
    assert [prompt for prompt, _, _ in found] == [prompt_key((i,)) for i in range(len(found))]


def test_a_full_disk_leaves_no_half_of_a_file(small_disk: Path, tiny: Path) -> None:
    file, checkpoint, out = small_disk / "x.jsonl", small_disk / "last.ckpt", small_disk / "last"
    built = Built([(Row((1,), (2,)),)], {})
    write_built(built, file)
    CheckedCheckpoints().save_checkpoint({"epoch": 1}, checkpoint)
    before = names(small_disk)
    fill(small_disk, left=8192)
    many = Built([(Row((1,), tuple(range(4000))),)] * 9, {})
    with pytest.raises(OSError, match=r"No space left on device: '.*jsonl'"):
        write_built(many, small_disk / "y.jsonl")
    with pytest.raises(OSError, match=r"No space left on device: '.*last\.ckpt'"):
        CheckedCheckpoints().save_checkpoint({"epoch": 2, "w": torch.zeros(10**5)}, checkpoint)
    with pytest.raises(InputError, match=r"last: cannot be written: .*[Nn]o space left"):
        write(load_model(tiny), None, tiny, out, "{question}\n")
    assert {name for name in names(small_disk) if not name.startswith("y.")} == {*before, "filler"}
    assert not (small_disk / "y.jsonl").exists()
    assert (read_built(file), CheckedCheckpoints().load_checkpoint(checkpoint)) == (built, {"epoch": 1})


def test_a_fit_on_a_full_disk_is_one_line_and_goes_on_later(tmp_path, command, small_disk, capsys) -> None:
    run = small_disk / "run"
    command = [word.replace(str(tmp_path / "run"), str(run)) for word in command]
    line = fails(capsys, *command)  # checkpoint or export do not fit into 1 MB
    assert "o space left on device" in line
    assert "run" in line
    assert not (run / "last").exists()
    assert subprocess.run(["mount", "-o", "remount,size=64m", small_disk], capture_output=True).returncode == 0
    main(command)
    assert load_model(run / "last").num_parameters() > 0


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path, command, small_disk, capsys) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    command = [word.replace(str(tmp_path / "run"), str(small_disk / "run")) for word in command]
    line = fails(capsys, *command)
    assert line.startswith(f"stepneg: error: {small_disk}")
    assert line.endswith("Read-only file system; give a place that can be written")


# --- two processes

HOLD = """
import sys, time
from pathlib import Path
from stepneg.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    environ = os.environ | {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE, text=True, env=environ
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_told_who_has_the_run_directory(tmp_path, command, holder, capsys) -> None:
    line = fails(capsys, *command)
    assert f"{tmp_path / 'run'}: process {holder.pid} on " in line
    assert "(job 77), is using this run directory; wait until it has ended or give another directory" in line
    assert not (tmp_path / "run" / "data").exists()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with held(tmp_path / "run"), held(tmp_path / "run"):  # nothing is left to be cleared away by hand
        assert json.loads((tmp_path / "run" / ".lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_requeued_job_takes_the_lock_of_its_earlier_attempt(tmp_path, holder, monkeypatch) -> None:
    """Which is dead, whatever the server of the file system still believes."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    with pytest.raises(InputError, match="is using this run directory"), held(tmp_path / "run"):
        pass
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with held(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / ".lock").read_text())["slurm_restart_count"] == "1"


def test_of_many_at_once_one_at_a_time_holds(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from stepneg.errors import InputError
from stepneg.lock import held
run = Path(sys.argv[1])
got = 0
while got < 20:
    try:
        with held(run):
            (run / "inside").touch(exist_ok=False)
            time.sleep(0.001)
            (run / "inside").unlink()
            got += 1
    except InputError:
        time.sleep(0.001)
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "run"]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert names(tmp_path / "run") == []


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys) -> None:
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", none)
    with held(tmp_path / "run"):
        pass
    assert "its file system has no locks; see that one process uses" in capsys.readouterr().err


# --- the engine


def test_half_a_message_is_no_sign_of_life() -> None:
    """As of an engine that was stopped while it wrote."""
    import socket
    from multiprocessing.connection import Connection

    ours, theirs = socket.socketpair()
    limit_waiting(ours, 0.3)
    worker = SimpleNamespace(pipe=Connection(ours.detach()))
    theirs.sendall(b"\x00\x00\x10\x00{")  # the first of 4096 bytes
    started = time.monotonic()
    with pytest.raises(EngineDied, match="within a message"):
        Worker.receive(worker, 10.0)  # type: ignore[arg-type]
    with pytest.raises(EngineDied, match="stopped reading"):
        Worker.send(worker, {"requests": [0] * 10**6})  # type: ignore[arg-type]
    assert time.monotonic() - started < 5


# --- clocks


def test_a_clock_that_is_set_back_hides_no_new_weights(tmp_path: Path, tiny: Path) -> None:
    policy = tmp_path / "policy"
    shutil.copytree(tiny, policy)
    weights = policy / "model.safetensors"
    before, stat = fingerprint_policy(policy), weights.stat()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert weights.stat().st_mtime_ns == stat.st_mtime_ns
    assert fingerprint_policy(policy) != before


def test_waiting_ranks_do_not_look_at_the_clock_on_the_wall(tmp_path: Path, monkeypatch) -> None:
    hours = iter(range(0, 10**9, 7200))
    monkeypatch.setattr(time, "time", lambda: 1e9 + next(hours) * (-1) ** next(hours))
    ended: list[str] = []

    def wait() -> None:
        handover.once(lambda: None, tmp_path / "sign.json", 1, beat=0.05, patience=20.0)
        ended.append("done")

    thread = threading.Thread(target=wait)
    thread.start()
    handover.once(lambda: time.sleep(0.5), tmp_path / "sign.json", 0, beat=0.05)
    thread.join(20)
    assert ended == ["done"]


def test_nothing_that_counts_is_timed_by_the_clock_on_the_wall() -> None:
    root = Path(__file__).parents[1]
    files = [file for folder in ("stepneg", "callbacks") for file in (root / folder).glob("**/*.py")]
    assert len(files) > 50
    found = [file.name for file in files if "time.time(" in file.read_text()]
    assert found == ["doctor.py"]  # which holds the clock of a file system against the machine's
