"""Training through the real command line on a tiny model: what it writes, and that a resumed run is the same run."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stepneg.cli import main

FIT = """
seed_everything: 0
model:
  objective: stepneg.objectives.CrossEntropy
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.003}}
data:
  class_path: stepneg.data.solutions.TeacherSolutions
  init_args:
    policy: POLICY
    batch_size: 8
    problems: {class_path: stepneg.problems.arithmetic.Arithmetic, init_args: {size: 40}}
    validation: {class_path: stepneg.problems.arithmetic.Arithmetic, init_args: {split: validation, size: 8}}
trainer:
  accelerator: cpu
  log_every_n_steps: 1
  accumulate_grad_batches: 2
  gradient_clip_val: 1.0
  enable_progress_bar: false
"""


@pytest.fixture
def config(tmp_path: Path, tiny: Path) -> str:
    file = tmp_path / "fit.yaml"
    file.write_text(FIT.replace("POLICY", str(tiny)))
    return f"--config={file}"


def scalars(run: Path, tag: str) -> list[float]:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [event.value for event in events.Scalars(tag)]


def test_a_fit_learns_and_leaves_everything_behind(tmp_path, config):
    run = tmp_path / "run"
    main(["fit", config, f"--trainer.default_root_dir={run}", "--trainer.max_epochs=8"])
    losses = scalars(run, "train/loss")
    assert len(losses) == 8 * 3  # five batches of 8, accumulated by two, the last alone
    assert losses[-1] < 0.7 * losses[0]
    assert scalars(run, "validation/nll")[-1] < scalars(run, "validation/nll")[0]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["problems"] == 40
    assert summary["trained_tokens"] > 8 * 40 * 30
    assert {file.name for file in (run / "last").iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert "seed_everything: 0" in (run / "config.yaml").read_text()


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


@pytest.mark.parametrize("options", [["--trainer.precision=bf16-mixed"], ["--model.gradient_checkpointing=true"]])
def test_bf16_and_gradient_checkpointing_train(tmp_path, config, options):
    run = tmp_path / "run"
    main(["fit", config, f"--trainer.default_root_dir={run}", "--trainer.max_epochs=4", *options])
    losses = scalars(run, "train/loss")
    assert losses[-1] < losses[0]


def test_validate_test_and_predict_run(tmp_path, config):
    run = f"--trainer.default_root_dir={tmp_path / 'run'}"
    for verb in ("validate", "test", "predict"):
        main([verb, config, run])
