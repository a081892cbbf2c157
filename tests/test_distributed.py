"""Two processes on one machine (gloo): rank zero prepares and evaluates, both train."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stepneg.data.rows import Row, collate, encode_prompt
from stepneg.policy import batch_log_probs, load_model
from stepneg.policy_folder import load_tokenizer
from stepneg.problems.arithmetic import Arithmetic
from stepneg.sampling.store import Sampler, fingerprint_policy, prompt_key
from tests.conftest import BASE, ROOT
from tests.test_fit import FIT as SFT

HELD_OUT = Arithmetic(split="validation", size=5)

FIT = """
seed_everything: 0
model: {objective: stepneg.objectives.DPO}
data:
  class_path: stepneg.data.pairs.Pairs
  init_args:
    policy: assets/arithmetic-base
    kind: outcome
    chosen: teacher
    max_pairs: 2
    batch_size: 4
    problems: {class_path: stepneg.problems.arithmetic.Arithmetic, init_args: {size: 9}}
    validation: {class_path: stepneg.problems.arithmetic.Arithmetic, init_args: {split: validation, size: 5}}
    rollouts:
      engine: {class_path: stepneg.sampling.vllm_engine.VLLMEngine}
      store: HOME/samples
      samples: 3
      max_tokens: 200
trainer:
  accelerator: cpu
  strategy: STRATEGY
  devices: 2
  max_epochs: 1
  log_every_n_steps: 1
  enable_progress_bar: false
  callbacks:
    - class_path: stepneg.callbacks.evaluation.VLLMEvaluation
      init_args:
        engine: {class_path: stepneg.sampling.vllm_engine.VLLMEngine}
        store: HOME/samples
        max_tokens: 200
        k: 2
        validation: {class_path: stepneg.problems.arithmetic.Arithmetic, init_args: {split: validation, size: 5}}
"""


STRATEGIES = ["ddp", pytest.param("{class_path: stepneg.sharding.FSDP2}", id="fsdp2")]


def fit(folder: Path, strategy: str, name: str, *more: str) -> Path:
    """A run directory behind a fit on two ranks; fits of one folder share its samples."""
    config, run = folder / "fit.yaml", folder / name
    config.write_text(FIT.replace("HOME", str(folder)).replace("STRATEGY", strategy))
    argv = ["fit", "--config", str(config), f"--trainer.default_root_dir={run}", *more]
    done = subprocess.run(
        [sys.executable, "-m", "stepneg", *argv], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return run


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_evaluations_between_epochs_leave_the_weights_alone(strategy, tmp_path):
    watched = fit(tmp_path, strategy, "watched", "--trainer.max_epochs=3")
    alone = fit(tmp_path, strategy, "alone", "--trainer.max_epochs=3", "--trainer.limit_val_batches=0")
    assert [len(list(run.glob("evaluation/validation-step*.json"))) for run in (watched, alone)] == [3, 0]
    found, wanted = (load_file(run / "last" / "model.safetensors") for run in (watched, alone))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_fit_on_what_rank_zero_sampled(strategy, tmp_path):
    run = fit(tmp_path, strategy, "run")
    assert list(run.glob(".fit-data-*")) == []  # what rank 1 waited for is gone
    summary = json.loads((run / "summary.json").read_text())
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    per_rank = math.ceil(summary["examples"] / 2)
    assert len(events.Scalars("train/loss")) == math.ceil(per_rank / 4)
    (record,) = (run / "evaluation").glob("validation-step*.json")
    evaluation = json.loads(record.read_text())
    assert events.Scalars("validation/accuracy")[0].value == pytest.approx(evaluation["accuracy"])
    # The divergence is that of the log-probabilities that transformers gives to what was drawn at temperature 1.
    (free,) = (
        home for home in (tmp_path / "samples").iterdir()
        if (meta := json.loads((home / "meta.json").read_text()))["decoding"]["temperature"] == 1.0
        and meta["policy"] == fingerprint_policy(run / "evaluation" / "policy")
    )  # fmt: skip
    tokenizer = load_tokenizer(run / "last")
    asked = {prompt_key(p): p for q in HELD_OUT.load() for p in [encode_prompt(tokenizer, "{question}\n", q.question)]}
    drawn = [Row(asked[key], done.token_ids) for key, _, done in Sampler(free).rows()]
    assert len(drawn) == 5
    logps = []
    for folder in (run / "evaluation" / "policy", BASE):
        with torch.no_grad():
            logps.append(batch_log_probs(load_model(folder).eval(), collate([(row,) for row in drawn], 0)).sum(-1))
    kl, low, high = (events.Scalars(f"validation/kl_to_reference{end}")[0].value for end in ("", "_low", "_high"))
    assert low < kl < high
    assert kl == pytest.approx(float((logps[0] - logps[1]).mean()), abs=0.02)
    # Both ranks trained: together they saw every pair's tokens.
    (file,) = (f for f in (run / "data").glob("*.jsonl") if "." not in f.stem)
    rows = [row for line in file.read_text().splitlines() for row in json.loads(line)]
    tokens = sum(len(row["prompt_ids"]) + len(row["response_ids"]) for row in rows)
    assert summary["trained_tokens"] == pytest.approx(tokens, rel=0.2)
    assert (run / "last" / "model.safetensors").is_file()
    assert (run / "config.yaml").is_file()


CHAIN = """
root: HOME/chain
stages:
- name: sft
  config: [sft.yaml]
  args: {trainer.strategy: ddp, trainer.devices: 2, trainer.max_epochs: 1}
"""


# In a job of one task: a batch script's environment, and within it that of srun.
SCRIPT = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
STEP = SCRIPT | {"SLURM_NTASKS_PER_NODE": "1", "SLURM_STEP_ID": "0", "SLURM_NODEID": "0"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "job"), [("lightning", {}), ("torchrun", {}), ("lightning", SCRIPT), ("torchrun", STEP)]
)
def test_each_run_of_a_chain_has_two_ranks(launcher, job, tiny, tmp_path):
    (tmp_path / "sft.yaml").write_text(SFT.replace("POLICY", str(tiny)))
    (tmp_path / "chain.yaml").write_text(CHAIN.replace("HOME", str(tmp_path)))
    command = [sys.executable, "-m", "stepneg", "pipeline", "--config", str(tmp_path / "chain.yaml")]
    if only := launcher == "torchrun":
        command[1:2] = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
        command += ["--only", "sft:fit"]
    environ = os.environ | job
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    home = tmp_path / "chain" / "seed-0" / "sft"
    assert list(home.glob(".*-data-*")) == []
    events = EventAccumulator(str(home / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("train/loss")) == 2  # each rank took 20 problems, 8 a batch, accumulated by two
    assert (home / "last" / "model.safetensors").is_file()
    verbs = ["fit"] if only else ["fit", "test"]
    assert done.stderr.count("GLOBAL_RANK: 1, MEMBER: 2/2") == len(verbs)
    assert sorted(json.loads(f.read_text())["verb"] for f in (home / "attempts").iterdir()) == verbs
    assert len(list((tmp_path / "chain" / "attempts").iterdir())) == 1


@pytest.mark.slow
def test_a_chain_on_two_ranks_is_repeated_by_a_program_that_is_named_from_here(tiny, tmp_path):
    (tmp_path / "sft.yaml").write_text(SFT.replace("POLICY", str(tiny)))
    (tmp_path / "chain.yaml").write_text(CHAIN.replace("HOME", str(tmp_path)))
    script = os.path.relpath(Path(sys.executable).with_name("stepneg"), ROOT)
    for argv in (["pipeline", "--config", str(tmp_path / "chain.yaml")], ["rerun", str(tmp_path / "chain")]):
        done = subprocess.run([script, *argv], cwd=ROOT, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stderr.count("GLOBAL_RANK: 1, MEMBER: 2/2") == 2
    assert "| seed-0/sft/last/model.safetensors | equal | ✓ |" in done.stdout
    assert "everything is the same" in done.stdout
