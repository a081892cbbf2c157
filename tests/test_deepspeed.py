"""The shipped ZeRO configurations under the real DeepSpeed, on CPU: train as AdamW does, evaluate, resume, export."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from stepneg.cli import main
from tests.conftest import BASE
from tests.rank import on_ranks
from tests.test_distributed import FIT as SAMPLED_FIT
from tests.test_sharding import CPU, OBJECTIVES, config_for, fit, refuses_another_fit, scalars

pytest.importorskip("deepspeed", reason="make test installs DeepSpeed behind the other tests")

# DeepSpeed takes an unfinished accumulation over into the next epoch, where Lightning alone makes a step of it.
WHOLE = ["--trainer.limit_train_batches=6"]
ON_CPU = {"DS_ACCELERATOR": "cpu"}
STAGES = ("deepspeed_zero3", "deepspeed_zero2", "deepspeed_zero3_offload")


def on_two(stage: str) -> list[str]:
    """Options of a fit on two ranks with a shipped configuration, on CPUs."""
    accelerator = "--trainer.accelerator.class_path=tests.on_cpu.OnCPU"
    return [f"--config=configs/trainer/{stage}.yaml", accelerator, "--trainer.devices=2", *WHOLE]


def test_zero3_trains_as_one_process_does(tiny, tmp_path):
    config, stage = config_for(tiny, tmp_path), STAGES[0]
    main([*fit(config, tmp_path / "alone", "pairs", 4, [*CPU, "--trainer.devices=1"]), *WHOLE])
    exact = [*on_two(stage), "--trainer.precision=32-true"]
    for ended in on_ranks(2, [fit(config, tmp_path / "two", "pairs", 2, exact)], timeout=300, environment=ON_CPU):
        assert ended.code == 0, ended.output[-3000:]
    assert scalars(tmp_path / "two", "train/loss") == pytest.approx(scalars(tmp_path / "alone", "train/loss"), abs=1e-4)
    weights, found = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("alone", "two"))
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_zero_trains_as_one_process_does(stage, tiny, tmp_path):
    """In float32 to rounding; in bfloat16, as shipped, the loss falls alike; on 2 ranks, of which one ends up empty."""
    config = config_for(tiny, tmp_path)
    for kind in OBJECTIVES:
        main([*fit(config, tmp_path / "alone" / kind, kind, 4, [*CPU, "--trainer.devices=1"]), *WHOLE])
    overlay = on_two(stage)
    runs = [
        fit(config, tmp_path / stage / kind, kind, 2, [*overlay, "--trainer.precision=32-true"]) for kind in OBJECTIVES
    ]
    runs += [fit(config, tmp_path / stage / "bfloat16", "solutions", 2, overlay)]
    steady = [*overlay, "--trainer.precision=32-true", "--model.schedule=constant_with_warmup", "--model.warmup=0"]
    once, twice = (fit(config, tmp_path / stage / name, "solutions", 2, steady) for name in ("once", "twice"))
    last = tmp_path / stage / "twice" / "checkpoints" / "last.ckpt"
    runs += [once, [*twice, "--trainer.max_epochs=1"], [*twice, f"--ckpt_path={last}"]]
    for ended in on_ranks(2, runs, timeout=300, environment=ON_CPU):
        assert ended.code == 0, ended.output[-3000:]
    for kind in OBJECTIVES:
        alone, root = tmp_path / "alone" / kind, tmp_path / stage / kind
        assert scalars(root, "train/loss") == pytest.approx(scalars(alone, "train/loss"), abs=1e-4)
        norms = [scalars(r, "train/gradient_norm") for r in (root, alone)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-3)
        weights, found = (load_file(r / "last" / "model.safetensors") for r in (alone, root))
        assert found.keys() == weights.keys()
        for name, value in weights.items():
            torch.testing.assert_close(found[name], value, atol=1e-4, rtol=0)
    resumed, expected = (load_file(tmp_path / stage / r / "last" / "model.safetensors") for r in ("twice", "once"))
    for name, value in resumed.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0)
    rounded = scalars(tmp_path / stage / "bfloat16", "train/loss")
    assert rounded == pytest.approx(scalars(tmp_path / "alone" / "solutions", "train/loss"), abs=0.1)
    assert rounded[-1] < rounded[0]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / stage / "bfloat16" / "last", dtype="auto")
    assert model.dtype == torch.bfloat16
    another = "another fit: model.optimizer.class_path was torch.optim.AdamW, and is torch.optim.SGD"
    refuses_another_fit([*twice, f"--ckpt_path={last}"], ON_CPU, another)
    if stage == STAGES[0]:
        refuses_pickles(last, twice, tmp_path / "ran")


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_the_policy_is_evaluated_within_a_fit(stage, tmp_path):
    """Rank 0 samples with the real vLLM from weights that lie in parts; then training goes on."""
    config = tmp_path / "fit.yaml"
    config.write_text(SAMPLED_FIT.replace("HOME", str(tmp_path)).replace("STRATEGY", "auto"))
    run = tmp_path / "run"
    twice = ["--trainer.precision=32-true", "--trainer.max_epochs=2", f"--trainer.default_root_dir={run}"]
    argv = ["fit", f"--config={config}", *on_two(stage), "--trainer.limit_train_batches=1", *twice]
    for ended in on_ranks(2, [argv], timeout=400, environment=ON_CPU):
        assert ended.code == 0, ended.output[-3000:]
    first, second = sorted((run / "evaluation").glob("validation-step*.json"))
    accuracy = scalars(run, "validation/accuracy")
    assert accuracy == [pytest.approx(json.loads(file.read_text())["accuracy"]) for file in (first, second)]
    assert len(scalars(run, "validation/kl_to_reference")) == 2
    assert len(scalars(run, "train/loss")) == 2
    evaluated, last = (load_file(run / name / "model.safetensors") for name in ("evaluation/policy", "last"))
    assert evaluated.keys() == last.keys()
    assert all(torch.equal(evaluated[name], value) for name, value in last.items())
    before = load_file(BASE / "model.safetensors")
    assert any(not torch.equal(before[name], value.to(before[name].dtype)) for name, value in last.items())


class Runs:
    """A pickle of it runs a command when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def refuses_pickles(checkpoint: Path, argv: list[str], ran: Path) -> None:
    """The fit does not go on from a checkpoint whose files hold a command, and ends on all ranks."""
    for file in checkpoint.glob("checkpoint/*.pt"):
        torch.save({"module": {}, "more": Runs(ran)}, file)
    resumed = [*argv, f"--ckpt_path={checkpoint}", "--trainer.max_epochs=9"]
    for ended in on_ranks(2, [resumed], timeout=120, environment=ON_CPU):
        assert ended.code == 2, ended.output[-3000:]
        assert "to load it could run code" in ended.output
    assert not ran.exists()
