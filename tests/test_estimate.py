"""The cost model: its arithmetic against brute force, Lightning and counted FLOPs; a chain estimated and then run."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import Namespace
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from stepneg.calibration import Calibration, Trained, Unknown, devices_of, named_devices, schedule_of
from stepneg.chains import chain_parser, folder_of, stages_of
from stepneg.cli import main
from stepneg.costs import (
    Cost,
    Draw,
    Fit,
    Schedule,
    Shape,
    Speed,
    computed_tokens,
    decoding_steps,
    fit_of,
    in_bytes,
    in_time,
    in_words,
    speed,
    trained_tokens,
    training_flops,
)
from stepneg.data.rows import Row
from stepneg.errors import InputError
from stepneg.estimate import estimates
from stepneg.jobs import Job, jobs_of
from stepneg.metered import Meter, Sample, shape_of, spread
from stepneg.pipeline import Cell, Stage, arguments, cells, stage_fingerprint
from stepneg.problems import Problem
from stepneg.resolved import evaluation_of
from stepneg.sampling.store import rows_of
from tests.conftest import ROOT
from tests.sampling.fake import FakeEngine

CONFIGS = ROOT / "configs" / "arithmetic"

# --- the engine's time


@pytest.mark.parametrize(
    ("lengths", "slots", "steps"),
    [((), 4, 0), ((3,), 4, 3), ((3, 5), 4, 5), ((3, 5), 1, 8), ((3, 5, 2), 2, 5), ((3, 5, 4), 2, 7), ((1,) * 9, 4, 3)],
)
def test_decoding_steps_by_hand(lengths: tuple[int, ...], slots: int, steps: int) -> None:
    assert decoding_steps(lengths, slots) == steps


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 8))
def test_decoding_steps_are_those_of_a_simulation(lengths: list[int], slots: int) -> None:
    waiting, running, steps = list(lengths), [], 0
    while waiting or running:
        while waiting and len(running) < slots:
            running.append(waiting.pop(0))
        running = [left - 1 for left in running if left > 1]
        steps += 1
    assert decoding_steps(lengths, slots) == steps


def test_a_draw_grows() -> None:
    draw = Draw((3, 5, 4, 4), 7.0)
    assert draw.grown(1) == Draw((3, 5, 4, 4))
    assert draw.grown(1.5) == Draw((3, 5, 4, 4, 3, 5))
    assert draw.grown(0.5) == Draw((3, 5))
    assert Draw(()).grown(3) == Draw(())


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_parts_of_an_engines_time_are_found(step: float, token: float, completion: float) -> None:
    true = Speed(step, token, completion, slots=4)
    draws = [Draw((9,)), Draw((2, 2, 9)), Draw((5,) * 8), Draw((1,) * 16), Draw((7, 1) * 8)]
    found = speed([Draw(d.lengths, true.seconds(d)) for d in draws], slots=4)
    grown = draws[-1].grown(40)
    assert found.seconds(grown) == pytest.approx(true.seconds(grown), rel=1e-6, abs=1e-6)


def test_speed_of_one_draw_scales_with_it() -> None:
    found = speed([Draw((6,) * 16, 2.0)], slots=8)
    assert found.seconds(Draw((6,) * 16)) == pytest.approx(2.0)
    assert found.seconds(Draw((6,) * 160)) == pytest.approx(20.0)


# --- the course of a fit


@pytest.mark.parametrize(
    ("rows", "schedule", "fit"),
    [
        (16, Schedule(16, max_epochs=24, every=8), Fit(24, 384, 3, True)),  # SFT of the demo
        (593, Schedule(16, max_epochs=4, every=2), Fit(152, 2372, 2, True)),  # RFT
        (700, Schedule(32, max_epochs=5, every=5), Fit(110, 3500, 1, True)),  # DPO
        (700, Schedule(32, max_epochs=5), Fit(110, 3500, 0, False)),
        (593, Schedule(16, max_steps=64, every=1), Fit(64, 593 + 26 * 16, 1, False)),
        (16, Schedule(16, max_epochs=24, max_steps=10, every=4), Fit(10, 160, 2, False)),
        (100, Schedule(4, accumulate=8, max_epochs=1, every=1), Fit(4, 100, 1, True)),
        (100, Schedule(4, devices=2, accumulate=8, max_epochs=3), Fit(6, 300, 0, False)),
        (0, Schedule(4, max_epochs=3, every=1), Fit(0, 0, 0, False)),
    ],
)
def test_fits_by_hand(rows: int, schedule: Schedule, fit: Fit) -> None:
    assert fit_of(rows, schedule) == fit


def test_a_fit_without_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="neither"):
        fit_of(3, Schedule(1))


class Counting(L.LightningModule):
    """A model that counts what Lightning does with it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = 0
        self.validated: list[int] = []

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        self.seen += len(batch)
        return self.weight.sum()

    def validation_step(self, batch: torch.Tensor, index: int) -> None:
        self.validated.append(self.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(
    ("rows", "schedule"),
    [
        (10, Schedule(4, max_epochs=6, every=2)),
        (10, Schedule(4, max_epochs=5, every=2)),
        (10, Schedule(4, accumulate=2, max_epochs=4, every=1)),
        (10, Schedule(4, max_steps=7, every=1)),
        (10, Schedule(4, max_epochs=9, max_steps=6, every=2)),
        (22, Schedule(2, max_epochs=2, every=1, interval=4)),
        (22, Schedule(2, max_epochs=4, every=2, interval=0.5)),
        (22, Schedule(2, max_steps=17, every=1, interval=5)),
    ],
)
def test_fits_are_lightnings(rows: int, schedule: Schedule, tmp_path: Path) -> None:
    model = Counting()
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        max_epochs=schedule.max_epochs,
        max_steps=schedule.max_steps,
        accumulate_grad_batches=schedule.accumulate,
        check_val_every_n_epoch=schedule.every,
        val_check_interval=schedule.interval,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = torch.utils.data.DataLoader(torch.zeros(rows, 1), schedule.batch)  # type: ignore[arg-type]
    trainer.fit(model, data, torch.utils.data.DataLoader(torch.zeros(1, 1)))  # type: ignore[arg-type]
    fit = fit_of(rows, schedule)
    assert (fit.steps, fit.examples, fit.validations) == (trainer.global_step, model.seen, len(model.validated))
    assert fit.ends_validated == (model.validated[-1:] == [trainer.global_step])


# --- tokens, FLOPs, bytes


def test_shared_tokens_are_computed_once() -> None:
    pair = (Row((1, 2, 3), (4, 5, 6)), Row((1, 2, 3), (4, 7)))
    single = (Row((1, 2), (3,)),)
    assert trained_tokens([pair, single]) == 6 + 5 + 3
    assert computed_tokens([pair, single], packed=True) == 7 + 3
    assert computed_tokens([pair, single], packed=False) == 14


def test_flops_by_hand() -> None:
    assert training_flops(Shape(parameters=10, layers=2, width=3), tokens=5, length=4) == 5 * (60 + 6 * 2 * 3 * 4)


def test_flops_are_those_that_torch_counts(tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny, attn_implementation="eager")
    ids = torch.randint(0, 100, (3, 80))
    with FlopCounterMode(display=False) as counter:
        model(ids).logits.sum().backward()
    shape = shape_of(tiny)
    # Eager attention also computes the half that is masked: T others, not T / 2.
    assert counter.get_total_flops() == pytest.approx(training_flops(shape, 240, 2 * 80), rel=0.01)


def test_weights_leave_out_the_input_embedding(tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny)
    layers = sum(p.numel() for name, p in model.named_parameters() if ".layers." in name or "norm" in name)
    assert shape_of(tiny).parameters == layers + model.get_output_embeddings().weight.numel()


def test_costs_add_up_and_read_well() -> None:
    one = Cost(1, 2, 3, 4e9, 5e6, 6e9, 30)
    assert one + one == Cost(2, 4, 6, 8e9, 10e6, 12e9, 60)
    assert in_words(one) == ["1", "2", "3", "4.0e+09", "5.0 MB", "6.0 GB", "30 s"]
    assert [in_time(s) for s in (99, 120, 7200)] == ["99 s", "2.0 min", "2.0 h"]
    assert in_bytes(1234567890123) == "1,234.6 GB"


def test_a_sample_scales_with_its_problems() -> None:
    sample = Sample(4, 40.0, [Draw((5,) * 8)], other=2.0, sample_bytes=100, run_bytes=10)
    cost = sample.cost(12, Speed(step=1.0, token=0.5, completion=0.25, slots=8))
    assert cost == Cost(120, 120, 0, 0, 300, 30, 3 * 2 + (3 * 5 * 1.0 + 120 * 0.5 + 24 * 0.25))


@given(st.integers(1, 60), st.integers(1, 70))
def test_few_problems_are_spread(size: int, most: int) -> None:
    problems = [Problem(str(i), "", "") for i in range(size)]
    few = spread(problems, most)
    places = [int(p.id) for p in few]
    assert len(few) == min(size, most)
    assert places == sorted(set(places))
    assert places[0] == 0
    assert size - places[-1] <= -(-size // len(few))


# --- what is done


def test_done_runs_are_known_and_what_follows_a_change_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x: 1\n")
    stages = [
        Stage("sft", ["a.yaml"]),
        Stage("rft", ["a.yaml"], {"data.policy": "{root}/sft/last"}),
        Stage("other", ["a.yaml"]),
    ]
    cell = Cell(tmp_path / "seed-0", 0)

    def jobs() -> list[Job]:
        return jobs_of(tmp_path, stages, [cell])

    assert [job.done for job in jobs()] == [False] * 6
    for job in jobs():
        for name in ("last/config.json", "evaluation/test.json"):
            (job.home / name).parent.mkdir(parents=True, exist_ok=True)
            (job.home / name).write_text("{}")
    for job in jobs():
        mark = stage_fingerprint(arguments(job.stage, job.verb, cell, tmp_path))
        (job.home / f"{job.verb}.json").write_text(json.dumps({"fingerprint": mark}))
    assert [job.done for job in jobs()] == [True] * 6
    (cell.home / "sft" / "fit.json").unlink()
    assert [(j.stage.name, j.verb) for j in jobs() if j.done] == [("other", "fit"), ("other", "test")]


# --- the real thing


def test_a_missing_policy_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = chain(tmp_path, ["sft"])
    with pytest.raises(SystemExit) as stop:
        main(["estimate", "--config", str(file), "--args", '{"model.path": "nowhere", "data.policy": "nowhere"}'])
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "nowhere is no policy folder yet" in said


def test_problems_and_steps_are_checked() -> None:
    with pytest.raises(InputError, match="at least 1"):
        estimates(ROOT, [], [], problems=0, steps=3)


def calibrated(folder: Path, args: dict[str, Any], **of_evaluation: int) -> Calibration:
    """Of one problem and step of a chain of one fit and test."""
    file = chain(folder, ["sft"], **of_evaluation)
    config = chain_parser("estimate", None).parse_args(["--config", str(file), "--args", json.dumps(args)])
    jobs = jobs_of(folder_of(config), stages_of(config), cells(config.root, [0]))
    return Calibration(jobs, problems=1, steps=1, home=folder / "calibration")


@pytest.mark.parametrize(
    "limits", [{"trainer.max_epochs": -1}, {"trainer.max_epochs": None, "trainer.max_time": "1:0:0:0"}]
)
def test_a_fit_that_time_alone_limits_is_unknown(limits: dict[str, Any], tmp_path: Path) -> None:
    calibration = calibrated(tmp_path, limits)
    options = calibration.options(calibration.jobs[0])
    with pytest.raises(Unknown, match=r"neither trainer.max_epochs nor"):
        schedule_of(options.trainer, options.data)


@pytest.mark.parametrize(
    ("devices", "nodes", "number"),
    [(1, 1, 1), (8, 2, 16), ("4", 1, 4), ("0,2", 3, 6), ("1,", 1, 1), ([0, 2, 5], 1, 3), ("auto", 2, 2), (-1, 1, 1)],
)
def test_devices_are_counted(devices: Any, nodes: int, number: int) -> None:
    """Those of this machine, where all are asked for, are one CPU or its GPUs."""
    gpus = max(1, torch.cuda.device_count()) if devices in ("auto", -1) else 1
    assert devices_of(Namespace(devices=devices, num_nodes=nodes, accelerator="auto")) == number * gpus


def test_processors_are_counted_as_lightning_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever GPUs stand beside them."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    for devices in ("auto", 3, "2"):
        found = devices_of(Namespace(devices=devices, num_nodes=1, accelerator="cpu"))
        assert found == L.Trainer(accelerator="cpu", devices=devices, logger=False).num_devices
    assert devices_of(Namespace(devices="auto", num_nodes=1, accelerator="gpu")) == 8


@pytest.mark.parametrize(
    ("devices", "named"), [(2, None), ("2", None), ("auto", None), ("6,7", [6, 7]), ("6,", [6]), ([6, 7], [6, 7])]
)
def test_devices_that_are_called_by_number(devices: Any, named: list[int] | None) -> None:
    assert named_devices(Namespace(devices=devices)) == named


def test_two_devices_train_twice_as_fast(tiny: Path, tmp_path: Path) -> None:
    seconds = []
    for devices in (1, 2):
        args = {"trainer.devices": devices, "data.policy": str(tiny), "model.path": str(tiny)}
        calibration = calibrated(tmp_path, args | {"trainer.limit_val_batches": 0, "data.batch_size": 8 // devices})
        calibration.trained = Trained(tiny, tiny, L.Trainer(), 1e-3, 0.0, shape_of(tiny), 0, 0, 1)
        calibration.measure(calibration.jobs[0])
        seconds.append(calibration.cost(calibration.jobs[0], {}).seconds)
    assert seconds[0] == pytest.approx(2 * seconds[1], rel=1e-3)


@pytest.mark.parametrize(("verb", "free"), [("fit", 2), ("test", 0)])
def test_solutions_for_the_divergence_are_counted(verb: str, free: int, tiny: Path, tmp_path: Path) -> None:
    """Of 12 problems 4 are drawn for, and in a validation 2 of these for the divergence, which takes 6 of the 12."""
    calibration = calibrated(tmp_path, {}, kl_samples=6)
    (job,) = (job for job in calibration.jobs if job.verb == verb)
    calibration.trained = Trained(tiny, tiny, L.Trainer(), 1e6, 0.0, shape_of(tiny), 0, 0, 1)
    callback = evaluation_of(calibration.options(job).trainer)
    assert callback is not None
    engine: Any = FakeEngine()
    calibration.meters[callback.engine] = Meter(engine)
    found = calibration.evaluation(job.home / "last", job, "validation" if verb == "fit" else "test")
    assert found.problems == 4
    assert sum(len(draw.lengths) for draw in found.draws) == engine.drawn == 4 * (1 + 2) + free


METHODS: dict[str, dict[str, Any]] = {
    "sft": {},
    "dpo": {"data.policy": "{root}/sft/last", "data.rollouts.samples": 6},
    "step_dpo": {
        "data.policy": "{root}/sft/last",
        "data.rollouts.samples": 6,
        "data.rollouts.negatives": 2,
        "data.rollouts.rollouts": 4,
    },
}


def chain(folder: Path, methods: list[str], **of_evaluation: int) -> Path:
    """A small pipeline of the shipped configurations with a store of its own."""
    stages = []
    for name in methods:
        config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        evaluation = config["trainer"]["callbacks"][-1]["init_args"]
        evaluation |= {"store": str(folder / "samples"), "k": 2} | of_evaluation
        for split in ("validation", "test"):
            evaluation[split]["init_args"]["size"] = 12
        config["data"]["init_args"].get("rollouts", {})["store"] = str(folder / "samples")
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
        shared = {
            "data.problems.init_args.size": 24,
            "data.validation.init_args.size": 8,
            "trainer.enable_progress_bar": False,
            "trainer.max_epochs": 2,
            "trainer.check_val_every_n_epoch": 2,
        }
        stages.append({"name": name, "config": [f"{name}.yaml"], "args": shared | METHODS[name]})
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump({"root": str(folder / "run"), "stages": stages}))
    return file


def estimated(file: Path, problems: int) -> dict[tuple[str, str], Cost | str]:
    config = chain_parser("estimate", None).parse_args(["--config", str(file)])
    rows, _ = estimates(folder_of(config), stages_of(config), cells(config.root, [0]), problems, steps=50)
    return {(job.stage.name, job.verb): cost for job, cost in rows}


@pytest.mark.slow
def test_a_real_chain_costs_what_was_estimated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all problems in the calibration the data of the first policy is known; with a third of them, about."""
    file = chain(tmp_path, list(METHODS))
    every, some = estimated(file, problems=24), estimated(file, problems=8)
    assert not (tmp_path / "samples").exists()  # an estimate leaves nothing behind
    assert not (tmp_path / "run").exists()
    main(["pipeline", "--config", str(file)])
    home = tmp_path / "run" / "seed-0"
    found = {name: json.loads((home / name / "summary.json").read_text()) for name in METHODS}
    for name in METHODS:
        exact, near = every[name, "fit"], some[name, "fit"]
        assert isinstance(exact, Cost)
        assert isinstance(near, Cost)
        assert exact.data_tokens == found[name]["sampled_tokens"]
        assert exact.trained_tokens == found[name]["trained_tokens"]
        assert near.data_tokens == pytest.approx(found[name]["sampled_tokens"], rel=0.4)
        assert near.trained_tokens == pytest.approx(found[name]["trained_tokens"], rel=0.4)
    stored = [row for file in (tmp_path / "samples").glob("*/*.jsonl") for row in rows_of(file)]
    total = sum((cost for cost in every.values() if isinstance(cost, Cost)), Cost())
    assert total.drawn_tokens == pytest.approx(sum(len(row["token_ids"]) for row in stored), rel=0.1)
    size = sum(file.stat().st_size for file in (tmp_path / "samples").glob("*/*.jsonl"))
    assert total.sample_bytes == pytest.approx(size, rel=0.15)
    assert set(estimated(file, problems=8).values()) == {"done"}

    # What is left after a change is estimated alone, with the policy that is there; samples are shared.
    (home / "step_dpo" / "fit.json").unlink()
    rest = estimated(file, problems=24)
    assert [key for key, cost in rest.items() if cost != "done"] == [("step_dpo", "fit"), ("step_dpo", "test")]
    fit, before = rest["step_dpo", "fit"], every["step_dpo", "fit"]
    assert isinstance(fit, Cost)
    assert isinstance(before, Cost)
    assert (fit.data_tokens, fit.trained_tokens) == (before.data_tokens, before.trained_tokens)
    capsys.readouterr()
    monkeypatch.setattr("stepneg.estimate.import_seconds", lambda: 7.0)
    main(["estimate", "--config", str(file), "--problems", "4"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| cell | stage | verb | data tokens | drawn tokens | trained tokens | trained FLOPs |")
    assert [line.split(" | ")[3].strip() for line in lines[2:6]] == ["done"] * 4
    assert any("| total |" in line for line in lines)
    assert any(line.startswith("Assumed: ") for line in lines)
