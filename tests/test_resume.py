"""A fit that ends early goes on as if nothing had been; what a job's signals and tasks do to it and to other verbs."""

import json
import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stepneg.callbacks.preemption import Preemption
from stepneg.callbacks.throughput import Throughput
from stepneg.cli import main
from stepneg.data.prepared import ResumableLoader
from stepneg.data.rows import SeededOrder
from stepneg.errors import InputError
from stepneg.training import geometry
from tests.test_fit import configured, scalars

STEP = {"SLURM_STEP_ID": "0"}  # of what srun starts


@pytest.fixture
def config(tmp_path: Path, tiny: Path) -> str:
    return configured(tiny, tmp_path)


def test_a_resumed_fit_ends_with_the_same_weights_bit_for_bit(tmp_path, config):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    # The schedule spans all steps, so both know the length of the whole; the second stops after two epochs.
    main(["fit", config, f"--trainer.default_root_dir={whole}", "--trainer.max_epochs=4"])
    stop = "--trainer.callbacks+=tests.stop.StopAfterEpoch"
    main(["fit", config, f"--trainer.default_root_dir={parts}", "--trainer.max_epochs=4", stop])
    assert (
        json.loads((parts / "summary.json").read_text())["trained_tokens"] * 2
        == (json.loads((whole / "summary.json").read_text())["trained_tokens"])
    )
    main(["fit", config, f"--trainer.default_root_dir={parts}", "--trainer.max_epochs=4", "--ckpt_path=last"])
    first, second = (load_file(run / "last" / "model.safetensors") for run in (whole, parts))
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)
    assert (
        json.loads((parts / "summary.json").read_text())["trained_tokens"]
        == json.loads((whole / "summary.json").read_text())["trained_tokens"]
    )


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(0, marks=pytest.mark.slow),
        pytest.param(1, marks=pytest.mark.slow),
        3,
        pytest.param(8, marks=pytest.mark.slow),
        pytest.param(11, marks=pytest.mark.slow),
    ],
)
def test_a_fit_stopped_by_a_signal_goes_on_from_that_very_step(tmp_path, config, number, batch):
    """Of 5 batches an epoch, accumulated by two: in the middle, while accumulating, at the end of an epoch."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    few = ["--trainer.max_epochs=3", "--trainer.limit_val_batches=0"]
    main(["fit", config, *few, f"--trainer.default_root_dir={whole}"])
    told = {"class_path": "tests.stop.SignalAtBatch", "init_args": {"batch": batch, "number": int(number)}}
    command = ["fit", config, *few, f"--trainer.default_root_dir={parts}", "--ckpt_path=last"]
    command.append(f"--trainer.callbacks+={json.dumps(told)}")
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 128 + number
    assert not (parts / "last").exists()
    main(command)
    first, second = (load_file(run / "last" / "model.safetensors") for run in (whole, parts))
    assert all((first[name] == second[name]).all() for name in first)
    records = [json.loads((run / "summary.json").read_text())["trained_tokens"] for run in (whole, parts)]
    assert records[0] == records[1]
    assert [file.name for file in (parts / "checkpoints").iterdir()] == ["last.ckpt"]
    assert signal.getsignal(number) == signal.SIG_DFL


@pytest.fixture
def interruptible():
    """A process that was started in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_fit_that_breaks_off_goes_on_behind_its_last_epoch(tmp_path, config, interruptible, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    few = ["--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=3"]
    main(["fit", config, *few, f"--trainer.default_root_dir={whole}"])
    told = {"class_path": "tests.stop.SignalAtBatch", "init_args": {"batch": 13, "number": int(signal.SIGINT)}}
    command = ["fit", config, *few, f"--trainer.default_root_dir={parts}", "--ckpt_path=last"]
    with pytest.raises(SystemExit) as stop:
        main([*command, f"--trainer.callbacks+={json.dumps(told)}"])
    assert stop.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("stepneg: interrupted; the same command takes up")
    (record,) = (parts / "attempts").iterdir()
    assert json.loads(record.read_text())["exit"] == 130
    assert torch.load(parts / "checkpoints" / "last.ckpt", weights_only=False)["epoch"] == 1
    main(command)
    first, second = (load_file(run / "last" / "model.safetensors") for run in (whole, parts))
    assert all((first[name] == second[name]).all() for name in first)


def test_a_resumed_fit_knows_the_seconds_of_all_its_processes(monkeypatch):
    clock: Counter[str] = Counter(sampling=50.0)  # of a run before it in the same process
    monkeypatch.setattr("stepneg.callbacks.throughput.SECONDS", clock)
    first = Throughput()
    clock.update(sampling=3 * 3600.0, grading=60.0)
    first.spent["training"] += 100.0
    state = first.state_dict()
    assert state == first.state_dict()
    assert state["spent"] == {"training": 100.0, "sampling": 3 * 3600.0, "grading": 60.0}
    clock.clear()  # another process
    resumed = Throughput()
    clock["sampling"] += 5.0  # Lightning makes the data before it reads a checkpoint's callbacks
    resumed.load_state_dict(state)
    clock["grading"] += 2.0
    resumed.spent["training"] += 1.0
    whole = {"training": 101.0, "sampling": 3 * 3600.0 + 5.0, "grading": 62.0}
    assert resumed.shares() == resumed.state_dict()["spent"] == whole
    following = Throughput()  # the next run of a chain
    clock["sampling"] += 7.0
    assert following.shares() == {"training": 0, "sampling": 7.0, "grading": 0.0}


def test_a_checkpoint_that_knows_only_training_is_read(monkeypatch):
    monkeypatch.setattr("stepneg.callbacks.throughput.SECONDS", clock := Counter[str]())
    resumed = Throughput()
    resumed.load_state_dict({"tokens": 7, "spent": {"training": 3.0}})
    clock["sampling"] += 5.0
    assert (resumed.tokens, resumed.shares()) == (7, {"training": 3.0, "sampling": 5.0, "grading": 0})


def test_a_fit_killed_before_its_export_exports(tmp_path, config, caplog):
    run = tmp_path / "run"
    command = ["fit", config, "--trainer.max_epochs=2", f"--trainer.default_root_dir={run}", "--ckpt_path=last"]
    main(command)
    weights = load_file(run / "last" / "model.safetensors")
    summary = json.loads((run / "summary.json").read_text())
    shutil.rmtree(run / "last")
    (run / "summary.json").unlink()
    assert "nothing was left to train" not in caplog.text
    main(command)
    assert "nothing was left to train" in caplog.text
    assert json.loads((run / "summary.json").read_text())["trained_tokens"] == summary["trained_tokens"]
    again = load_file(run / "last" / "model.safetensors")
    assert all((weights[name] == again[name]).all() for name in weights)


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, {}),
        (
            STEP | {"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"},
            {"devices": 4, "num_nodes": 2},
        ),
        (STEP | {"SLURM_NTASKS": "1", "SLURM_NNODES": "1"}, {"devices": 1, "num_nodes": 1}),
        (STEP | {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "8"}, {"devices": 1, "num_nodes": 1}),  # srun --ntasks 1
        ({"SLURM_NTASKS": "1", "SLURM_NNODES": "1"}, {}),  # without srun
        ({"SLURM_NTASKS": "2", "SLURM_NNODES": "2", "TORCHELASTIC_RUN_ID": "1"}, {}),
        ({"SLURM_NTASKS": "8", "SLURM_NNODES": "1", "SLURM_JOB_NAME": "interactive"}, {}),
        ({"SLURM_JOB_ID": "7"}, {}),
    ],
)
def test_the_trainer_takes_devices_and_nodes_from_the_job(environ, found):
    assert geometry(environ) == found


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}, "put srun before the command, or unset SLURM_NTASKS"),
        (STEP | {"SLURM_NTASKS": "2"}, "give --ntasks-per-node, not --ntasks"),
    ],
)
def test_tasks_that_would_wait_for_ever_are_refused(environ, said):
    with pytest.raises(InputError, match=said):
        geometry(environ)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_test_that_a_job_ends_has_not_succeeded_and_requeues_nothing(number, tmp_path, config, monkeypatch):
    """Lightning's own handlers save what it would restore into later runs, call scontrol, and end with 0."""

    def receive(self: Preemption, number: int, frame: object = None) -> None:
        raise SystemExit(128 + number)  # pytest would end, too

    monkeypatch.setattr(Preemption, "receive", receive)
    task = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1"}
    for name, value in (STEP | task | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}).items():
        monkeypatch.setenv(name, value)
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f"#!/bin/sh\ntouch {tmp_path}/requeued\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    told = {"class_path": "tests.stop.SignalAtBatch", "init_args": {"batch": 0, "number": int(number)}}
    run, callback = tmp_path / "run", f"--trainer.callbacks={json.dumps([told])}"
    with pytest.raises(SystemExit) as stop:
        main(["test", config, "--data.batch_size=2", f"--trainer.default_root_dir={run}", callback])
    assert stop.value.code == 128 + number
    assert not list(run.glob("hpc_ckpt_*"))
    assert not (tmp_path / "requeued").exists()


def test_no_checkpoint_is_restored_unasked(tmp_path, config, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_NNODES", "1")
    (tmp_path / "hpc_ckpt_3.ckpt").touch()
    with pytest.raises(SystemExit) as stop:
        main(["test", config, f"--trainer.default_root_dir={tmp_path}"])
    assert stop.value.code == 2
    assert f"stepneg: error: {tmp_path}/hpc_ckpt_3.ckpt: Lightning would restore it" in capsys.readouterr().err


def test_a_checkpoint_from_within_an_epoch_is_for_the_same_batches():
    loader = ResumableLoader(lambda: False, dataset=[], batch_size=2, sampler=SeededOrder(8, 0, 2))
    loader.load_state_dict({"batches": 0, "ranks": 4})
    for state, said in (
        ({"ranks": 4}, "on 4 devices, these are 2"),
        ({"ranks": 2, "batch_size": 4}, "in batches of 4, these are 2"),
        ({"ranks": 2, "batch_size": 2, "examples": 5}, "of 5 examples, these are 0"),
    ):
        with pytest.raises(InputError, match=said):
            loader.load_state_dict({"batches": 1} | state)
        loader.load_state_dict({"batches": 0} | state)
    loader.load_state_dict({"batches": 1, "ranks": 2})  # of an earlier version


def test_a_fit_that_begins_anew_is_not_gone_on_with_from_an_earlier_one(tmp_path, config, interruptible):
    """Broken off before its first checkpoint it has none."""
    run, other = tmp_path / "run", tmp_path / "other"
    command = ["fit", config, "--trainer.max_epochs=1", f"--trainer.default_root_dir={run}"]
    main(command)
    new = [*command, "--model.optimizer.init_args.lr=0.03"]
    told = {"class_path": "tests.stop.SignalAtBatch", "init_args": {"batch": 2, "number": int(signal.SIGINT)}}
    with pytest.raises(SystemExit):
        main([*new, f"--trainer.callbacks+={json.dumps(told)}"])
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["earlier.ckpt"]
    main([*new, "--ckpt_path=last"])
    main([*new, f"--trainer.default_root_dir={other}"])
    first, second = (load_file(home / "last" / "model.safetensors") for home in (run, other))
    assert all((first[name] == second[name]).all() for name in first)
    assert "\nckpt_path: null\n" in (run / "config.yaml").read_text()


def test_a_fit_that_ends_in_an_evaluation_goes_on_a_step_before_it(tmp_path, config):
    """Of 5 batches an epoch, accumulated by two: the fourth is the last behind which a checkpoint is written."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command = ["fit", config, "--trainer.max_epochs=2", "--trainer.check_val_every_n_epoch=2", "--ckpt_path=last"]
    main([*command, f"--trainer.default_root_dir={whole}"])
    command.append(f"--trainer.default_root_dir={parts}")
    with pytest.raises(KeyError):
        main([*command, "--trainer.callbacks+=tests.stop.EndInEvaluation"])
    loop = torch.load(parts / "checkpoints" / "last.ckpt", weights_only=False)["loops"]["fit_loop"]
    assert loop["epoch_progress"]["current"]["completed"] == 1
    assert loop["epoch_loop.batch_progress"]["current"]["processed"] == 4
    main(command)
    first, second = (load_file(run / "last" / "model.safetensors") for run in (whole, parts))
    assert all((first[name] == second[name]).all() for name in first)
    assert scalars(parts, "validation/nll")[-1] == scalars(whole, "validation/nll")[-1]


@pytest.mark.parametrize(
    ("interval", "epochs", "written"),
    [(1.0, 1, [4, 4]), (1.0, 2, [4]), (2, 1, []), (4, 1, [2, 2]), (4, None, [2, 2]), (3, None, [2, 2])],
)
def test_a_checkpoint_is_written_a_step_before_an_evaluation(interval, epochs, written, tmp_path, config, monkeypatch):
    """Two epochs of 5 batches, accumulated by two; the numbers are batches of an epoch that are done."""
    found = []
    monkeypatch.setattr(
        "stepneg.callbacks.preemption.save",
        lambda trainer: found.append(trainer.fit_loop.epoch_loop.batch_progress.current.processed),
    )
    options = [f"--trainer.val_check_interval={interval}", f"--trainer.check_val_every_n_epoch={epochs or 'null'}"]
    main(["fit", config, "--trainer.max_epochs=2", f"--trainer.default_root_dir={tmp_path / 'run'}", *options])
    assert [done for done in found if done < 5] == written


@pytest.mark.parametrize("interval", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_a_signal_costs_no_evaluation(interval, tmp_path, config, monkeypatch):
    """It comes in the fourth batch of the second epoch, behind which the policy is evaluated."""

    def receive(self: Preemption, number: int, frame: object = None) -> None:
        if not self.training:
            raise SystemExit(128 + number)  # pytest would end, too
        self.received = number

    monkeypatch.setattr(Preemption, "receive", receive)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command = ["fit", config, "--trainer.max_epochs=2", f"--trainer.val_check_interval={interval}", "--ckpt_path=last"]
    main([*command, f"--trainer.default_root_dir={whole}"])
    command.append(f"--trainer.default_root_dir={parts}")
    told = {"class_path": "tests.stop.SignalAtBatch", "init_args": {"batch": 8, "number": int(signal.SIGUSR1)}}
    with pytest.raises(SystemExit):
        main([*command, f"--trainer.callbacks+={json.dumps(told)}"])
    loop = torch.load(parts / "checkpoints" / "last.ckpt", weights_only=False)["loops"]["fit_loop"]
    done = loop["epoch_loop.batch_progress"]["current"]["processed"]
    assert (loop["epoch_progress"]["current"]["completed"], done) == ((1, 2) if interval == 4 else (0, 5))
    main(command)
    assert scalars(parts, "validation/nll") == scalars(whole, "validation/nll")
    first, second = (load_file(run / "last" / "model.safetensors") for run in (whole, parts))
    assert all((first[name] == second[name]).all() for name in first)
