"""``stepneg report`` over run directories that stepneg's own code wrote, with numbers known by hand."""

import csv
import json
import os
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from stepneg.analysis.curves import MOST_POINTS, read_curves, thinned
from stepneg.analysis.page import Table, latex
from stepneg.analysis.report import brief, report
from stepneg.analysis.run_facts import differing, settings
from stepneg.cli import main
from stepneg.errors import InputError
from stepneg.evaluation import Evaluated, Evaluation, break_down
from stepneg.grading.estimators import wilson
from tests.analysis.made_run import write_attempt


def run(home: Path, correct: list[bool], k: int = 5, question: str = "", **settings: object) -> Path:
    """A run with this verdict on each problem, levels 1 and 2 in turn, every sample as the greedy solution.

    The later it is made the later it was tested.
    """
    rows = [
        Evaluated(
            f"p{i}", "", "1", right, None, "exact", False, k * right, (None,) * k, right, {"level": i % 2 + 1}, question
        )
        for i, right in enumerate(correct)
    ]
    low, high = wilson(sum(correct), len(correct))
    share = sum(correct) / len(correct)
    metrics = {
        f"{name}{end}": value
        for name in ("accuracy", f"pass@{k}", f"maj@{k}")
        for end, value in (("", share), ("_low", low), ("_high", high))
    }
    Evaluation(metrics | {"problems": len(rows)}, rows, break_down(rows)).write(home / "evaluation" / "test.json")
    config = {"seed_everything": 0, "trainer": {"default_root_dir": str(home)}, "data": {"init_args": settings}}
    (home / "config.yaml").write_text("# lightning.pytorch==2.6.6\n" + json.dumps(config))
    (home / "fit.json").write_text(json.dumps({"fingerprint": f"mark-{home.name}", "argv": []}))
    run.clock += timedelta(minutes=1)
    write_attempt(home, "test", run.clock, versions={"lightning.pytorch": "2.6.6"})
    return home


run.clock = datetime(2026, 1, 1, 12, tzinfo=UTC)


def logged(home: Path, scalars: dict[str, list[float]]) -> None:
    with SummaryWriter(str(home / "tensorboard")) as writer:
        for tag, values in scalars.items():
            for step, value in enumerate(values):
                writer.add_scalar(tag, value, step)


def scalars(root: Path, label: str = "sft") -> dict[str, float]:
    """The last scalar of each name that a report has written of a run."""
    events = EventAccumulator(str(root / "tensorboard" / "report"))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith(f"report/{label}/")]
    return {tag.rpartition("/")[2]: events.Scalars(tag)[-1].value for tag in tags}


RIGHT = [True] * 20
HALF = [True, False] * 10


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two seeds of two methods, with data, traces and curves, a damaged run and three that are not finished."""
    root = tmp_path / "chain"
    for seed in (0, 1):
        home = root / f"seed-{seed}"
        run(home / "sft", HALF, lr=1e-3, size=16, policy=f"{home}/base/last")
        best = run(home / "step_dpo", RIGHT if seed == 0 else [*RIGHT[:15], *[False] * 5], lr=1e-4, size=16, kind=1)
        summary = {"problems": 10, "solutions": 40, "correct_solutions": 30, "distinct_solutions": 20}
        summary |= {"mixed_problems": 5, "valued_solutions": 3, "examples": 7, "sampled_tokens": 1234}
        (best / "summary.json").write_text(json.dumps(summary | {"seconds": 12.3, "seconds_training": 10}))
        (best / "data").mkdir()
        (best / "data" / "abc.json").write_text("{}")
        traces = [
            {"correct": False, "counts": [[4, 2], [4, 0]]},  # a pit
            {"correct": False, "counts": [[4, 0], [4, 0]]},  # never solved: none to blame
            {"correct": True, "counts": [[4, 2], [4, 0]]},
        ]
        (best / "data" / "abc.traces.jsonl").write_text("".join(json.dumps(t) + "\n" for t in traces))
        curve = {"train/loss": [3.0, 2.0, 1.0 + seed], "validation/accuracy": [0.1, 0.5]}
        logged(best, curve | {"validation/accuracy_low": [0.0, 0.4], "validation/accuracy_high": [0.2, 0.6]})
    for name, files in {"begun": [], "cut": ["checkpoints/last.ckpt"], "trained": ["last/config.json"]}.items():
        for file in ["fit.started", *files]:
            (root / "seed-0" / name / file).parent.mkdir(parents=True, exist_ok=True)
            (root / "seed-0" / name / file).write_text("{}")
    run(root / "seed-0" / "torn", HALF)
    (root / "seed-0" / "torn" / "evaluation" / "test.json").write_text('{"accuracy": 0.')
    return root


def section(text: str, heading: str) -> list[str]:
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0].strip().splitlines()


def test_the_page(root: Path) -> None:
    text = report(root, ["sft", "step_dpo"])
    assert (root / "report.md").read_text() == text + "\n"
    low, high = wilson(10, 20)
    row = f"| sft | 0 | 0 | 50.0 % ({100 * low:.1f} to {100 * high:.1f}) | 50.0 % | 50.0 % | 0 | 0 | 0 |"
    assert row in section(text, "Results")
    means = "| step_dpo | 2 | 87.5 % | 17.7 | 75.0 to 100.0 | 87.5 % | 87.5 % | 1,234 | 0 |"
    assert means in section(text, "Over seeds")
    differences = section(text, "Differences")
    assert re.fullmatch(r"\| step_dpo \| 0 \| \+50.0 \(\+[23].*\) \| 10 \| 0 \| 0.002 \| 20 \|", differences[4])
    assert re.fullmatch(r"\| step_dpo \| 1 \| \+25.0 \(.*\) \| 7 \| 2 \| 0.18 \| 20 \|", differences[5])
    assert re.fullmatch(r"\| step_dpo \| all \| \+37.5 \(.*\) \|  \|  \|  \| 20 \|", differences[6])
    assert section(text, "Accuracy by level")[-2:] == ["| 1 | 10 | 100.0 % | 90.0 % |", "| 2 | 10 | 0.0 % | 85.0 % |"]
    data = "| step_dpo | 10 | 40 | 75.0 % | 50.0 % | 50.0 % | 3 | 1 | 7 |  |  | 10 |"
    assert data in section(text, "Data")
    assert section(text, "Settings that differ")[4:] == [
        "| data.lr | 0.001 | 0.0001 |",
    ]
    common = section(text, "Settings in common")
    assert common[1:-1] == ["seed_everything: 0", "data.size: 16", "data.policy: ROOT/base/last", "data.kind: 1"]
    origin = section(text, "Origin")
    assert re.fullmatch(r"\| step_dpo \| 1 \| 20..-..-.. ..:.. \| mark-step_dpo \| abc \|  \|", origin[7])
    assert "Versions: lightning.pytorch 2.6.6." in origin
    left_out = "\n".join(section(text, "Runs that are not finished"))
    for said in ("begun: begun, not trained", "cut: interrupted in training", "trained: trained, not tested"):
        assert said in left_out
    assert "torn/evaluation/test.json: not JSON" in left_out
    assert "seed 0: sft 50.0 % < step_dpo 100.0 %" in brief(text)
    assert "Over seeds" not in brief(text)
    assert text.endswith(f"Made by `stepneg report {root} '--order=[sft,step_dpo]'`, stepneg 0.1.0; the tables stand in"
                         " report.tex, too.")  # fmt: skip
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (root / picture).stat().st_size > 10_000
    frame = pd.read_csv(root / "report.csv")
    assert list(frame["method"]) == ["sft", "step_dpo"] * 2
    assert list(frame["accuracy"]) == [0.5, 1.0, 0.5, 0.75]


def test_of_a_run_that_is_fitted_anew_no_curves_are_shown(tmp_path: Path) -> None:
    """Its accuracy is still that of its policy."""
    home = run(tmp_path / "seed-0" / "sft", HALF)
    logged(home, {"train/loss": [3.0, 2.0, 1.0]})
    write_attempt(home, "fit", run.clock, training="2026-01-01")
    assert "## Curves" in report(tmp_path)
    for facts, shown in (({"exit": 2}, True), ({"exit": 1, "training": "2026-01-02"}, False)):
        run.clock += timedelta(minutes=1)
        write_attempt(home, "fit", run.clock, **facts)
        text = report(tmp_path)
        assert ("## Curves" in text) == shown
        assert ("sft: a later fit has not ended; all here is of the one before" in text) != shown
        assert "| sft | 0 | 0 | 50.0 %" in text


def test_runs_behind_links_are_in_the_report_once(tmp_path: Path) -> None:
    run(tmp_path / "scratch" / "seed-1" / "sft", HALF)
    run(tmp_path / "root" / "seed-0" / "sft", RIGHT)
    (tmp_path / "root" / "seed-1").symlink_to(tmp_path / "scratch" / "seed-1")
    (tmp_path / "root" / "latest").symlink_to(tmp_path / "root" / "seed-0")
    report(tmp_path / "root")
    frame = pd.read_csv(tmp_path / "root" / "report.csv")
    assert list(zip(frame["seed"], frame["accuracy"], strict=True)) == [(0, 1.0), (1, 0.5)]


def test_the_tables_in_latex(root: Path) -> None:
    report(root)
    text = (root / "report.tex").read_text()
    assert text.startswith("% \\usepackage{booktabs}\n")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 5
    assert r"step\_dpo & all & +37.5 (" in text
    for row in (line for line in text.splitlines() if line.endswith(r"\\")):
        assert not re.search(r"(?<!\\)[%_#$]", row)
    table = Table("A b", "c_d", ["x"], [["50 % & more"]]).latex
    assert r"\label{tab:a-b}" in table
    assert r"50 \% \& more \\" in table
    assert latex(r"\input{x}") == r"\textbackslash{}input\{x\}"


def copy(root: Path, to: Path) -> Path:
    """A copy whose files are dated by their names, backwards, as ``cp -r`` leaves them in any order."""
    shutil.copytree(root, to)
    for age, file in enumerate(sorted(to.rglob("*"))):
        os.utime(file, (2_000_000_000 - age, 2_000_000_000 - age))
    return to


def test_a_report_over_a_copy_is_the_same(tmp_path: Path) -> None:
    """Its rows are in the order of the tests, its dates and its data are those of the records."""
    root = tmp_path / "chain"
    for name, verdicts in (("second", HALF), ("first", RIGHT), ("unrecorded", HALF), ("not_recorded", HALF)):
        home = run(root / "seed-0" / name, verdicts)
        (home / "data").mkdir()
        for traces, number in (("new", 3), ("old", 1), ("stopped", 2)):
            pit = json.dumps({"correct": False, "counts": [[4, 2], [4, 0]]}) + "\n"
            (home / "data" / f"{traces}.traces.jsonl").write_text(pit * number)
        (home / "summary.json").write_text(json.dumps({"valued_solutions": 3}))
        if "recorded" in name:
            shutil.rmtree(home / "attempts")
        for minutes, data, code in ((-30, "old", 0), (-20, "new", 0), (30, "stopped", 1)):
            if "recorded" not in name:
                files = {f"data/{data}.jsonl": "", f"data/{data}.traces.jsonl": ""}
                write_attempt(home, "fit", run.clock + timedelta(minutes=minutes), data=files, exit=code)
        if "recorded" not in name:  # which makes no data
            write_attempt(home, "validate", run.clock + timedelta(minutes=40), data={})
    # A test that has failed has left no evaluation.
    write_attempt(root / "seed-0" / "second", "test", run.clock + timedelta(hours=1), exit=1, problems={"a": {}})
    other = copy(root, tmp_path / "other")
    text = report(root)
    assert report(other) == text.replace(str(root), str(other))
    assert (other / "report.csv").read_text() == (root / "report.csv").read_text()
    names = ["second", "first", "not_recorded", "unrecorded"]
    assert [line.split(" | ")[0] for line in section(text, "Results")[4:8]] == [f"| {name}" for name in names]
    assert section(text, "Differences")[0].startswith("Against second, ")
    tested = [line.split(" | ")[2] for line in section(text, "Origin")[4:8]]
    assert re.fullmatch(r"2026-01-01 ..:.., 2026-01-01 ..:.., , ", ", ".join(tested))
    assert tested[0] < tested[1]
    pits = [line.split(" | ")[7] for line in section(text, "Data")[4:]]
    assert pits == ["3", "3", "", ""]  # of several, no record says which are the run's


def test_seeds_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for seed in (10, 2, 0):
        run(tmp_path / f"seed-{seed}" / "sft", RIGHT)
    report(tmp_path)
    assert list(pd.read_csv(tmp_path / "report.csv")["seed"]) == [0, 2, 10]


def test_a_backup_of_a_seed_is_no_further_seed(tmp_path: Path) -> None:
    root = tmp_path / "chain"
    for seed, verdicts in ((0, HALF), (1, RIGHT)):
        run(root / f"seed-{seed}" / "sft", verdicts)
    shutil.copytree(root / "seed-0", root / "seed-0-old")
    run(root / "plain", HALF)
    run(root / "seed-0" / "inner" / "rft", RIGHT)
    text = report(root)
    rows = [tuple(line.strip("| ").split(" | ")[:2]) for line in section(text, "Results")[4:9]]
    assert rows[:3] == [("plain", ""), ("sft", "0"), ("sft", "1")]
    assert rows[3:] == [("seed-0-old/sft", ""), ("seed-0/inner/rft", "")]
    assert section(text, "Over seeds")[4].startswith("| sft | 2 | 75.0 % | 35.4 |")
    assert len(section(text, "Over seeds")) == 5
    assert "0-old |" not in text
    frame = pd.read_csv(root / "report.csv", dtype=str, keep_default_na=False)
    assert dict(zip(frame["method"], frame["seed"], strict=True))["seed-0-old/sft"] == ""
    assert scalars(root, "seed-0-old/sft")["accuracy"] == 0.5
    other = copy(root, tmp_path / "other")
    assert report(other) == text.replace(str(root), str(other))


def test_a_run_that_was_trained_again_since_its_test_is_left_out(root: Path) -> None:
    home, values = root / "seed-0" / "step_dpo", root / "seed-0" / "step_dpo" / "evaluation" / "test.json"
    said = json.loads(values.read_text()) | {"settings": {"policy_fingerprint": "own"}}
    values.write_text(json.dumps({name: value for name, value in said.items() if name != "sha256"}))
    for name, policy in (("last", "own"), ("last", "another"), ("best", "own")):
        (home / name).mkdir(exist_ok=True)
        (home / name / "stepneg.json").write_text(json.dumps({"fingerprint": policy}))
        text = report(root)
        assert ("| step_dpo | 0 | 10 |" in text) == (policy == "own")
        assert ("was tested with another policy" in text) == (policy != "own")


def test_a_directory_is_the_same_however_it_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = root / "seed-1"
    rows = section(report(home, ["sft", "step_dpo"]), "Results")
    monkeypatch.chdir(home)
    assert section(report(Path(), ["sft", "step_dpo"]), "Results") == rows
    twice = [home, Path("../seed-1"), Path()]
    assert section(report(twice, ["sft", "step_dpo"], output=root), "Results") == rows
    monkeypatch.chdir(home / "sft")
    assert "| sft | 1 | 0 | 50.0 %" in report(Path())


@pytest.mark.parametrize("name", ["e/x", "x"])
def test_only_paths_of_settings_are_shortened(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = run(Path(name), HALF, lr=0.002, policy=f"{Path(name).parent}/sft/last", kind="outcome")
    shown = settings(home)
    policy = "ROOT/sft/last" if name == "e/x" else "./sft/last"
    assert [shown[f"data.{key}"] for key in ("lr", "policy", "kind")] == ["0.002", policy, "outcome"]


def test_seeds_that_are_copies_are_said(tmp_path: Path) -> None:
    """By the settings' fingerprints and the graded solutions; a policy that starts all seeds has only the latter."""
    for seed in (0, 1, 2):
        for name, verdicts in (("sft", RIGHT if seed == 1 else HALF), ("base", HALF), ("by_hand", HALF)):
            home = run(tmp_path / f"seed-{seed}" / name, verdicts)
            mark = "same" if name == "sft" else f"of seed {seed}"
            (home / "test.json").write_text(json.dumps({"fingerprint": mark}))
            (home / "fit.json").unlink()
            if name == "by_hand":
                (home / "test.json").unlink()
    text = report(tmp_path)
    said = "- sft: seeds 0, 2 have the same settings and the same graded solutions; they are copies, "
    assert f"{said}and the spread counts each" in brief(text).splitlines()
    assert text.count("they are copies") == 1


def test_several_directories_are_compared(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    shutil.copytree(root, other, ignore=shutil.ignore_patterns("torn", "begun", "cut", "trained"))
    main(["report", str(root), str(other), f"--output={tmp_path}/both", "--baseline=step_dpo"])
    said = capsys.readouterr().out
    assert "| other/step_dpo | 1 |" in said
    assert f"written: {tmp_path}/both/report.md" in said
    text = (tmp_path / "both" / "report.md").read_text()
    assert "| other/sft | 0 | -50.0 (" in text  # each against the baseline of its own chain
    assert not (root / "report.md").exists()
    with pytest.raises(InputError, match="several directories, and no place"):
        report([root, other])
    with pytest.raises(InputError, match="baseline: no tested run is called sft2; it is one of sft, step_dpo"):
        report(root, baseline="sft2")


def test_the_sizes_of_a_sweep_are_told_apart(tmp_path: Path) -> None:
    for size, verdicts in ((16, HALF), (32, RIGHT)):
        run(tmp_path / f"size-{size}" / "seed-0" / "sft", verdicts)
        run(tmp_path / f"size-{size}" / "seed-0" / "rft", RIGHT)
    text = report(tmp_path)
    assert "| size-16/rft | 0 | +50.0 (" in text
    assert "| size-32/rft | 0 | +0.0 (" in text
    assert "- size-16, seed 0: sft 50.0 % < rft 100.0 %" in text


def test_other_problems_of_the_same_names_are_not_compared(tmp_path: Path) -> None:
    """Those of a method in one of three seeds; then in each seed others, which are not averaged."""
    for seed in range(3):
        home = tmp_path / "one" / f"seed-{seed}"
        run(home / "sft", HALF, question="one")
        run(home / "rft", RIGHT, question="other" if seed == 1 else "one")
        run(home / "old", RIGHT)  # an evaluation without questions is held against any
        run(home / "step_dpo", RIGHT, question="one")
        run(tmp_path / "each" / f"seed-{seed}" / "sft", HALF, question=f"of seed {seed}")
        run(tmp_path / "each" / f"seed-{seed}" / "rft", RIGHT, question=f"of seed {seed}")
    text = report(tmp_path / "one", ["sft", "rft", "step_dpo"])
    differences = section(text, "Differences")
    assert "| rft | 1 | other problems of the same names |  |  |  |  |" in differences
    for begin in ("rft | 0", "rft | 2", "rft | all", "old | 1", "step_dpo | 1"):
        assert any(line.startswith(f"| {begin} | +50.0 (") for line in differences)
    assert "- seed 0: sft 50.0 % < rft 100.0 %" in text
    assert "- seed 1: sft 50.0 %" not in text
    assert "- seed 1: sft and rft are not compared: they were tested on other problems of the same names\n" in text
    assert "- seed 1: rft and step_dpo are not compared: they were tested on other problems of the same names\n" in text
    assert "- seed 1: the intervals of sft and step_dpo do not overlap" in text
    differences = section(report(tmp_path / "each"), "Differences")
    assert any(line.startswith("| rft | 2 | +50.0 (") for line in differences)
    assert "| rft | all | other problems of the same names |  |  |  |  |" in differences


def test_other_numbers_of_samples(tmp_path: Path) -> None:
    run(tmp_path / "seed-0" / "sft", HALF, k=8)
    lines = section(report(tmp_path), "Results")
    assert "| pass@8 | maj@8 |" in lines[2]
    assert "| 50.0 % | 50.0 % |" in lines[4]
    frame = pd.read_csv(tmp_path / "report.csv")
    assert list(frame)[6:8] == ["pass@8", "maj@8"]
    assert frame[["pass@8", "maj@8"]].to_numpy().tolist() == [[0.5, 0.5]]
    assert set(scalars(tmp_path)) == {"accuracy", "pass@8", "maj@8", "sampled_tokens", "trained_tokens", "seconds"}
    assert scalars(tmp_path)["pass@8"] == 0.5


def test_what_was_not_measured_is_empty(tmp_path: Path) -> None:
    """Runs of k = 1 and of k = 10, and an evaluation of another origin that drew no samples."""
    for seed in (0, 1):
        run(tmp_path / f"seed-{seed}" / "sft", HALF, k=1)
        run(tmp_path / f"seed-{seed}" / "rft", RIGHT, k=10 if seed else 1)
    only = tmp_path / "seed-0" / "greedy" / "evaluation" / "test.json"
    only.parent.mkdir(parents=True)
    only.write_text(json.dumps({"accuracy": 0.25, "accuracy_low": 0.2, "accuracy_high": 0.3, "problems": 20}))
    text = report(tmp_path)
    results = section(text, "Results")
    assert " | pass@1 | maj@1 | pass@10 | maj@10 | sampled tokens | " in results[2]
    cells = {tuple(line.split(" | ")[:2]): line.split(" | ")[4:8] for line in results[4:]}
    assert cells["| sft", "0"] == ["50.0 %", "50.0 %", "", ""]
    assert cells["| rft", "1"] == ["", "", "100.0 %", "100.0 %"]
    assert cells["| greedy", "0"] == ["", "", "", ""]
    seeds = section(text, "Over seeds")
    assert "| pass@1 | maj@1 | pass@10 | maj@10 |" in seeds[2]
    assert "| sft | 2 | 50.0 % | 0.0 | 50.0 to 50.0 | 50.0 % | 50.0 % |  |  | 0 | 0 |" in seeds
    assert "| rft | 2 | 100.0 % | 0.0 | 100.0 to 100.0 |  |  |  |  | 0 | 0 |" in seeds  # no mean of some seeds
    with (tmp_path / "report.csv").open() as file:
        rows = {(row["method"], row["seed"]): row for row in csv.DictReader(file)}
    names = ("pass@1", "maj@1", "pass@10", "maj@10")
    assert [rows["sft", "1"][name] for name in names] == ["0.5", "0.5", "", ""]
    assert [rows["rft", "1"][name] for name in names] == ["", "", "1.0", "1.0"]
    assert [rows["greedy", "0"][name] for name in names] == ["", "", "", ""]
    assert {"pass@1", "maj@1"} <= set(scalars(tmp_path))
    assert "pass@10" not in scalars(tmp_path)
    assert set(scalars(tmp_path, "greedy")) == {"accuracy", "sampled_tokens", "trained_tokens", "seconds"}


def test_damage_beside_the_numbers_is_noted(root: Path) -> None:
    best = root / "seed-0" / "step_dpo"
    values = json.loads((best / "evaluation" / "test.json").read_text())
    del values["sha256"]  # as older evaluations have none; with one, the run is damaged as a whole
    (best / "evaluation" / "test.json").write_text(json.dumps(values))
    (root / "seed-1" / "sft" / "evaluation" / "test.jsonl").write_text("")
    (best / "evaluation" / "test.jsonl").write_text('{"problem_id": "p0"}\n')
    (root / "seed-0" / "sft" / "config.yaml").write_text("a: [")
    (root / "seed-1" / "step_dpo" / "data" / "abc.traces.jsonl").write_text("{}\n")
    text = report(root)
    left_out = "\n".join(section(text, "Runs that are not finished"))
    for said in (
        "test.jsonl, line 1: not a graded problem",
        "config.yaml: cannot be read",
        "abc.traces.jsonl, line 1:",
    ):
        assert said in left_out
    assert "seed-1/sft/evaluation/test.json: it or its .jsonl was changed or damaged" in left_out
    results = "\n".join(section(text, "Results"))
    assert "| step_dpo | 0 | " in results
    assert "| sft | 1 | " not in results
    assert not any(line.startswith("| step_dpo | 0") for line in section(text, "Differences"))


def test_curves_are_those_of_the_events(root: Path) -> None:
    home = root / "seed-0" / "step_dpo"
    steps, values = read_curves(home)["train/loss"]
    assert steps.tolist() == [0, 1, 2]
    assert values.tolist() == [3.0, 2.0, 1.0]
    (file,) = (home / "tensorboard").glob("events*")
    file.write_bytes(file.read_bytes()[:-7])  # as a kill leaves it
    assert read_curves(home)["train/loss"][1].tolist() == [3.0, 2.0, 1.0]
    assert read_curves(root) == {}
    long = np.arange(10_000), np.arange(10_000.0)
    short = thinned(long)
    assert len(short[0]) == MOST_POINTS
    assert (short[0][0], short[0][-1]) == (0, 9999)


def test_settings_that_only_some_have_are_in_common_if_they_agree() -> None:
    runs = {"a": [{"x": "1", "s": "0"}, {"x": "1", "s": "1"}], "b": [{"x": "2", "y": "3", "s": "0"}, {"s": "1"}]}
    assert differing(runs) == ({"x": {"a": "1", "b": "2"}}, {"s": "0, 1", "y": "3"})
