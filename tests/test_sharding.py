"""Training on several ranks (gloo on CPU) is training in one process on the same global batches."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

from stepneg.cli import main
from tests.conftest import ROOT
from tests.rank import on_ranks

FIT = """
seed_everything: 0
model:
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1.0e-3, eps: 1.0e-6, weight_decay: 0.01}}
data:
  class_path: tests.given.Given
  init_args:
    policy: POLICY
    problems: {class_path: stepneg.problems.arithmetic.Arithmetic, init_args: {size: 13}}
    validation: {class_path: stepneg.problems.arithmetic.Arithmetic, init_args: {split: validation, size: 5}}
trainer:
  max_epochs: 2
  log_every_n_steps: 1
  gradient_clip_val: 1.0
  enable_progress_bar: false
  enable_model_summary: false
"""

OBJECTIVES = {
    "solutions": ["--model.objective=stepneg.objectives.CrossEntropy"],
    "pairs": [
        "--model.objective=stepneg.objectives.DPO",
        "--model.objective.init_args.anchor=0.5",
        "--data.init_args.by_problem=true",
        "--trainer.accumulate_grad_batches=2",
    ],
    "weighted": ["--model.objective=stepneg.objectives.WeightedLikelihood", "--data.init_args.packed=false"],
}
LOGGED = {
    "solutions": ["train/length"],
    "pairs": ["train/rejected_length", "train/chosen_nll", "train/reward_margin"],
    "weighted": ["train/effective_share", "train/weight"],
}
CPU = ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]


def fit(config: Path, root: Path, kind: str, batch_size: int, more: list[str]) -> list[str]:
    """The command line of a fit."""
    argv = ["fit", f"--config={config}", *more, *OBJECTIVES[kind], f"--trainer.default_root_dir={root}"]
    return [*argv, f"--data.init_args.kind={kind}", f"--data.init_args.batch_size={batch_size}"]


def scalars(root: Path, tag: str) -> list[float]:
    """What a run logged."""
    events = EventAccumulator(str(root / "tensorboard"))
    events.Reload()
    return [event.value for event in events.Scalars(tag)]


@pytest.fixture(scope="session")
def untied(tiny: Path) -> Path:
    """The tiny model with a head of its own."""
    folder = tiny.with_name("untied")
    model = AutoModelForCausalLM.from_pretrained(tiny)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 0.01)
    model.config.tie_word_embeddings = False
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    assert "lm_head.weight" in load_file(folder / "model.safetensors")
    return folder


def config_for(policy: Path, folder: Path) -> Path:
    """The configuration file of the fits here."""
    config = folder / "fit.yaml"
    config.write_text(FIT.replace("POLICY", str(policy)))
    return config


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_losses_and_weights_are_those_of_one_process(ranks, tiny, untied, tmp_path):
    """13 problems in global batches of 4: the last holds one (or two pairs), and some ranks nothing."""
    (tmp_path / "untied").mkdir()
    configs = dict.fromkeys(OBJECTIVES, config_for(tiny, tmp_path))
    configs["weighted"] = config_for(untied, tmp_path / "untied")
    for kind, config in configs.items():
        main(fit(config, tmp_path / "alone" / kind, kind, 4, [*CPU, "--trainer.devices=1"]))
    runs = []
    for strategy in ("ddp", "fsdp2"):
        overlay = [f"--config=configs/trainer/{strategy}.yaml", *CPU, f"--trainer.devices={ranks}"]
        runs += [fit(configs[kind], tmp_path / strategy / kind, kind, 4 // ranks, overlay) for kind in OBJECTIVES]
        if ranks == 2:
            continue  # for time's sake
        shipped = [f"--config=configs/trainer/{strategy}.yaml", CPU[0], f"--trainer.devices={ranks}"]
        runs += [fit(configs["solutions"], tmp_path / strategy / "mixed", "solutions", 4 // ranks, shipped)]
    for ended in on_ranks(ranks, runs, timeout=240):
        assert ended.code == 0, ended.output[-3000:]
    (facts,) = (tmp_path / "ddp" / "solutions" / "data").glob("*.json")  # of the first run of these processes
    assert json.loads(facts.read_text()) == {"examples": 13.0, "ranks_had_met": 0.0}
    for kind in OBJECTIVES:
        alone = tmp_path / "alone" / kind
        weights = load_file(alone / "last" / "model.safetensors")
        for strategy in ("ddp", "fsdp2"):
            root = tmp_path / strategy / kind
            for tag in ("train/loss", "validation/nll", "train/gradient_norm", *LOGGED[kind]):
                expected = scalars(alone, tag)
                # Of a norm near 4, float32 holds fewer digits behind the point than of a loss.
                near = {"rel": 1e-5} if tag == "train/gradient_norm" else {"abs": 1e-5}
                assert scalars(root, tag) == pytest.approx(expected, **near), (strategy, kind, tag)
            assert len(scalars(root, "train/loss")) >= 6
            found = load_file(root / "last" / "model.safetensors")
            assert found.keys() == weights.keys()
            for name, value in weights.items():
                torch.testing.assert_close(found[name], value, atol=1e-5, rtol=0)
            AutoModelForCausalLM.from_pretrained(root / "last")
    exact = scalars(tmp_path / "alone" / "solutions", "train/loss")
    for strategy in ("ddp", "fsdp2") if ranks > 2 else ():  # in bfloat16 and float32, as shipped
        root = tmp_path / strategy / "mixed"
        assert scalars(root, "train/loss") == pytest.approx(exact, abs=0.02)
        assert {value.dtype for value in load_file(root / "last" / "model.safetensors").values()} == {torch.float32}


@pytest.mark.slow
def test_a_run_resumes_from_the_parts_of_a_checkpoint(tiny, tmp_path):
    config = config_for(tiny, tmp_path)
    steady = ["--model.schedule=constant_with_warmup", "--model.warmup=0"]
    overlay = ["--config=configs/trainer/fsdp2.yaml", *CPU, "--trainer.devices=2", *steady]
    once, twice = tmp_path / "once", tmp_path / "twice"
    paths = {"class_path": "stepneg.problems.star_graph.StarGraph", "init_args": {"size": 3}}
    hop = [{"class_path": "stepneg.callbacks.first_hop.FirstHop", "init_args": {"problems": paths}}]
    runs = [
        [*fit(config, once, "solutions", 2, overlay), f"--trainer.callbacks={json.dumps(hop)}"],
        [*fit(config, twice, "solutions", 2, overlay), "--trainer.max_epochs=1"],
        [*fit(config, twice, "solutions", 2, overlay), f"--ckpt_path={twice}/checkpoints/last.ckpt"],
    ]
    for ended in on_ranks(2, runs, timeout=240):
        assert ended.code == 0, ended.output[-3000:]
    parts = {file.name for file in (twice / "checkpoints" / "last.ckpt").iterdir()}
    assert {"__0_0.distcp", "__1_0.distcp", ".metadata"} <= parts
    assert len(scalars(once, "first_hop/solved")) == 2  # measured with the weights put together
    expected = load_file(once / "last" / "model.safetensors")
    for name, value in load_file(twice / "last" / "model.safetensors").items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0)
    refuses_another_fit(runs[2], {}, "last.ckpt: cannot be loaded into this policy and optimiser (Missing key")


def refuses_another_fit(argv: list[str], environment: dict[str, str], of_another_optimiser: str) -> None:
    """A fit of other options, or whose optimiser cannot take what the parts hold, ends on all ranks in one line."""
    for change, said in (
        ("--model.optimizer.init_args.lr=0.1", "another fit: model.optimizer.init_args.lr was 0.001, and is 0.1"),
        ("--model.optimizer=torch.optim.SGD", of_another_optimiser),
    ):
        for ended in on_ranks(2, [[*argv, change]], timeout=120, environment=environment):
            assert ended.code == 2, ended.output[-3000:]
            assert said in ended.output.splitlines()[-1], ended.output[-3000:]


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


@pytest.mark.parametrize(
    ("launcher", "rank", "sign"),
    [
        pytest.param((), 0, 0, marks=pytest.mark.slow),
        pytest.param((), 1, 0, marks=pytest.mark.slow),
        ((), 1, signal.SIGKILL),
        pytest.param(TORCHRUN, 0, signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(TORCHRUN, 1, signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_dies_ends_the_job(launcher, rank, sign, tiny, tmp_path):
    """Under Lightning's own launcher and torchrun; in seconds, not when a collective times out. srun: tests/slurm."""
    strategy = "fsdp2" if sign else "ddp"
    death = {"class_path": "tests.given.Dies", "init_args": {"rank": rank, "signal": int(sign)}}
    more = [f"--config=configs/trainer/{strategy}.yaml", *CPU, "--trainer.devices=2"]
    argv = fit(config_for(tiny, tmp_path), tmp_path / "run", "solutions", 2, more)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "stepneg", *argv, f"--trainer.callbacks={json.dumps([death])}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert time.monotonic() - started < 100
    if not sign:
        assert f"RuntimeError: planned death of rank {rank}" in done.stderr
    assert not (tmp_path / "run" / "last").exists()
    assert list((tmp_path / "run").glob(".fit-data-*")) == []  # the ranks had met


@pytest.mark.slow
def test_what_fails_on_one_rank_ends_the_others_with_its_message(tiny, tmp_path):
    """Data that cannot be made, and an evaluation that fails while the others wait; launched as a cluster would."""
    overlay = ["--config=configs/trainer/ddp.yaml", *CPU, "--trainer.devices=2"]
    argv = fit(config_for(tiny, tmp_path), tmp_path / "data", "solutions", 2, overlay)
    first, second = on_ranks(2, [[*argv, "--data.init_args.problems.init_args.size=0"]], timeout=100)
    assert first.code == second.code == 2
    assert "stepneg: error: data.problems:" in first.output
    assert "stepneg: error: rank 0 failed, and rank 1 ends with it: data.problems:" in second.output

    held_out = {"class_path": "stepneg.problems.arithmetic.Arithmetic", "init_args": {"split": "validation", "size": 2}}
    evaluation = {"engine": {"class_path": "stepneg.sampling.vllm_engine.VLLMEngine"}, "validation": held_out}
    callbacks = [{"class_path": "tests.given.FailingEvaluation", "init_args": evaluation}]
    argv = fit(config_for(tiny, tmp_path), tmp_path / "evaluation", "solutions", 2, overlay)
    first, second = on_ranks(2, [[*argv, f"--trainer.callbacks={json.dumps(callbacks)}"]], timeout=100)
    assert first.code == second.code == 2
    assert "stepneg: error: planned failure of the evaluation" in first.output
    assert "evaluation failed on rank 0: InputError: planned failure of the evaluation" in second.output
