"""The main job end to end with the real vLLM and the shipped base, small: undisturbed, and killed again and again."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stepneg.analysis.report import COLUMNS, COSTS
from stepneg.analysis.solutions import read_solutions
from stepneg.analysis.traces import traces
from stepneg.cli import main
from stepneg.sampling.store import rows_of

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "arithmetic"
SMALL = {
    "data.problems.init_args.size": 32,
    "data.validation.init_args.size": 8,
    "trainer.enable_progress_bar": False,
    "trainer.log_every_n_steps": 1,
    "trainer.max_epochs": 2,
    "trainer.check_val_every_n_epoch": 2,
}
ROLLOUTS = {"data.policy": "{root}/sft/last", "data.rollouts.samples": 8, "data.rollouts.store": "STORE"}
UNWATCHED = {"trainer.limit_val_batches": 0}  # no evaluation between epochs: the last of the fits has them
VALUES = {"data.rollouts.negatives": 2, "data.rollouts.rollouts": 4}
METHODS = {
    "base": {"model.path": "assets/arithmetic-base"},
    "sft": UNWATCHED,
    "rft": ROLLOUTS | UNWATCHED,
    "dpo": ROLLOUTS | UNWATCHED,
    "advantage": ROLLOUTS | VALUES | UNWATCHED | {"data.rollouts.positives": 1},
    "step_dpo": ROLLOUTS | VALUES,
}


def chain(folder: Path, methods: list[str]) -> Path:
    """A small pipeline of the shipped configurations with its own store; evaluation on few problems."""
    stages = []
    for name in methods:
        shipped = "sft" if name == "base" else name
        config = yaml.safe_load((CONFIGS / f"{shipped}.yaml").read_text())
        evaluation = config["trainer"]["callbacks"][-1]["init_args"]
        evaluation["store"] = str(folder / "samples")
        for split in ("validation", "test"):
            evaluation[split]["init_args"]["size"] = 16
        (folder / f"{shipped}.yaml").write_text(yaml.safe_dump(config))
        args = SMALL | METHODS[name]
        args = {k: str(folder / "samples") if v == "STORE" else v for k, v in args.items()}
        stages.append({"name": name, "config": [f"{shipped}.yaml"], "args": args})
        if name == "base":
            stages[-1]["verbs"] = ["test"]
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump({"root": str(folder / "run"), "stages": stages}))
    return file


def table(root: Path) -> list[dict[str, str]]:
    with (root / "report.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    os.chdir(ROOT)
    folder = tmp_path_factory.mktemp("pipeline")
    main(["pipeline", "--config", str(chain(folder, list(METHODS)))])
    return folder


def test_every_method_is_in_the_report(done):
    rows = table(done / "run")
    assert [row["method"] for row in rows] == list(METHODS)
    assert [*rows[0], "seconds"] == [*COLUMNS, "pass@5", "maj@5", *COSTS]
    for row in rows:
        assert 0 <= float(row["accuracy_low"]) <= float(row["accuracy"]) <= float(row["accuracy_high"]) <= 1
        assert float(row["maj@5"]) <= float(row["pass@5"]) <= 1
    by_method = {row["method"]: row for row in rows}
    assert float(by_method["base"]["trained_tokens"]) == 0
    assert float(by_method["sft"]["sampled_tokens"]) == 0
    # Step values cost rollouts on top of the samples that standard DPO uses.
    assert float(by_method["step_dpo"]["sampled_tokens"]) > float(by_method["dpo"]["sampled_tokens"]) > 0
    assert "| step_dpo |" in (done / "run" / "report.md").read_text()
    assert (done / "run" / "report.png").stat().st_size > 10_000


def test_events_can_be_read_back(done):
    run = done / "run" / "seed-0" / "step_dpo"
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "train/reward_margin", "validation/accuracy", "validation/pass@5_low"} <= set(tags["scalars"])
    assert {"test/maj@5", "throughput/share_sampling", "throughput/tokens_per_second"} <= set(tags["scalars"])
    assert any(tag.startswith("traces/") for tag in tags["images"])
    assert any(tag.startswith("validation/solutions") for tag in tags["tensors"])
    logged = events.Scalars("test/accuracy")[-1].value
    assert logged == pytest.approx(json.loads((run / "evaluation" / "test.json").read_text())["accuracy"])
    report = EventAccumulator(str(done / "run" / "tensorboard" / "report"))
    report.Reload()
    row = next(r for r in table(done / "run") if r["method"] == "step_dpo")
    assert report.Scalars("report/step_dpo/accuracy")[0].value == pytest.approx(float(row["accuracy"]))


def test_pairs_are_cut_at_the_pit_without_eos(done):
    (file,) = (f for f in (done / "run/seed-0/step_dpo/data").glob("*.jsonl") if "." not in f.stem)
    eos = json.loads((ROOT / "assets/arithmetic-base/config.json").read_text())["eos_token_id"]
    for line in file.read_text().splitlines():
        chosen, rejected = json.loads(line)
        assert chosen["response_ids"][-1] == eos
        assert eos not in rejected["response_ids"]
        assert chosen["prompt_ids"] == rejected["prompt_ids"]
        assert rejected["reference_logp"] < 0


def test_the_page_of_a_run_holds_what_it_was_trained_on_and_how_it_was_evaluated(done, tmp_path):
    for method in METHODS:
        home = done / "run/seed-0" / method
        said = traces(home, tmp_path / "page.html")
        assert "note:" not in said
        _, found = read_solutions(home, 1000)
        tested = [s for s in found.solutions if found.parts[s.part] == "evaluation: test"]
        metrics = json.loads((home / "evaluation" / "test.json").read_text())
        assert sum(s.right for s in tested) / len(tested) == pytest.approx(metrics["accuracy"])
        if method == "base":
            continue
        trained = [s for s in found.solutions if found.parts[s.part] == "training data"]
        assert {found.problems[s.problem]["meta"]["events"] for s in trained} <= {2, 3, 4}
        assert all(found.problems[s.problem]["answer"] for s in trained)
        assert len(found.pairs) == (found.facts["examples"] if method in ("dpo", "step_dpo") else 0)
        assert sum(bool(s.counts) for s in trained) == found.facts.get("valued_solutions", 0)
        if method == "step_dpo":
            rejected = [found.solutions[place] for pair in found.pairs for place in pair.rejected]
            assert all(s.pit and s.values[s.pit] == min(s.values) < s.values[0] for s in rejected)


def test_a_second_run_skips_everything(done, capsys):
    before = (done / "run" / "report.csv").read_text()
    main(["pipeline", "--config", str(done / "pipeline.yaml")])
    assert capsys.readouterr().out.count("is done, unchanged") == 2 * len(METHODS) - 1
    assert (done / "run" / "report.csv").read_text() == before


def test_no_sample_was_drawn_twice(done):
    assert_drawn_once(done / "samples")


def assert_drawn_once(store: Path) -> None:
    for sampler in store.iterdir():
        drawn = Counter((row["prompt"], row["index"]) for shard in sampler.glob("*.jsonl") for row in rows_of(shard))
        assert set(drawn.values()) <= {1}


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 2])
def test_killed_runs_end_in_the_same_table(first, done, tmp_path):
    """kill -9 in sampling, in step values, in training and in between; started again, the table is the same."""
    methods = ["base", "sft", "step_dpo"]
    pipeline = chain(tmp_path, methods)
    samples, step_dpo = tmp_path / "samples", tmp_path / "run" / "seed-0" / "step_dpo"

    def drawn() -> int:
        return sum(file.stat().st_size for file in samples.glob("*/*.jsonl"))

    moments = [
        lambda: drawn() > 2_000,  # in the evaluation of the base
        lambda: (tmp_path / "run/seed-0/sft/checkpoints/last.ckpt").exists(),  # in the training of SFT
        lambda: (tmp_path / "run/seed-0/sft/test.json").exists() and len(list(samples.iterdir())) >= 7,  # in solutions
        lambda: len(list(samples.glob("*/*.jsonl"))) >= 9,  # in step values
        lambda: (step_dpo / "checkpoints/last.ckpt").exists(),  # in the training of per-step DPO
    ]
    killed = 0
    command = [sys.executable, "-m", "stepneg", "pipeline", "--config", str(pipeline)]
    for moment in [*moments[first:], None]:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while process.poll() is None:
            if moment is not None and moment():
                process.send_signal(signal.SIGKILL)
                killed += 1
                break
            time.sleep(0.02)
        process.wait()
        assert moment is not None or process.returncode == 0
    assert killed >= 3 - first // 2
    undisturbed = {row["method"]: row for row in table(done / "run")}
    assert table(tmp_path / "run") == [undisturbed[method] for method in methods]
    assert_drawn_once(samples)


def test_a_run_from_an_empty_store_is_the_same_bit_for_bit(done, tmp_path, monkeypatch, capsys):
    """Its samples were drawn for other methods, in other company, which shows in the last digits of log-probabilities.

    From a copy of the directories, elsewhere; fit and test.
    """
    kept = tmp_path / "kept"
    shutil.copytree(done / "run", kept)
    monkeypatch.chdir(tmp_path)
    main(["rerun", str(kept / "seed-0" / "step_dpo"), f"--root={tmp_path / 'again'}"])
    said = capsys.readouterr().out
    assert "| last/model.safetensors | equal | ✓ |" in said
    assert "| evaluation/test.json | equal | ✓ |" in said
    assert re.search(r"\| data/[0-9a-f]+\.jsonl \| equal \| ✓ \|", said)
    drawn, known, tokens, bits = map(
        int, re.search(r"of (\d+), (\d+) are .*: (\d+) have .*, (\d+) equal", said).groups()
    )
    assert drawn == known == tokens > 32 * 8 + 2 * 16 * 6  # solutions, two evaluations; and rollouts
    assert bits > 0.9 * drawn
    assert "everything is the same" in said
