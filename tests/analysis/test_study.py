"""A study's table: means over seeds by hand, intervals that cover, and refusals where runs do not belong together."""

import json
import math
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stepneg.analysis import report
from stepneg.analysis.study import over_seeds, plot, read_study, study, table
from stepneg.errors import InputError
from tests.analysis.made_run import write_attempt

TESTED = 40
SUMMARY = {"problems": 8, "examples": 20, "sampled_tokens": 1000, "trained_tokens": 3000}
SAMPLED = {"solutions": 80, "correct_solutions": 20, "distinct_solutions": 60, "mixed_problems": 6}


def write(
    home: Path,
    correct: list[bool],
    pass_at_k: float = 0.5,
    names: str = "p",
    question: str = "",
    k: int = 5,
    **summary: float,
) -> None:
    """An evaluated run as ``stepneg test`` leaves it; the later it is written the later it is in the table."""
    (home / "evaluation").mkdir(parents=True)
    rows = [
        {"problem_id": f"{names}{i}", "correct": ok, "samples_correct": 1, "samples": ["1"], "majority_correct": ok}
        for i, ok in enumerate(correct)
    ]
    asked = {"question": question} if question else {}  # an older evaluation has none
    (home / "evaluation" / "test.jsonl").write_text("".join(json.dumps(row | asked) + "\n" for row in rows))
    metrics = {"accuracy": sum(correct) / max(len(correct), 1), "problems": len(correct), f"pass@{k}": pass_at_k}
    (home / "evaluation" / "test.json").write_text(json.dumps(metrics))
    write.clock += timedelta(minutes=1)
    write_attempt(home, "test", write.clock)
    if summary:
        (home / "summary.json").write_text(json.dumps(summary))


write.clock = datetime(2026, 1, 1, tzinfo=UTC)


def first(right: int, of: int = TESTED) -> list[bool]:
    return [i < right for i in range(of)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three runs over two seeds, and a seed that is not finished."""
    for seed, (base, sft, rft) in enumerate([(4, 16, 28), (8, 20, 24)]):
        home = tmp_path / f"seed-{seed}"
        write(home / "zero", first(base), 0.3 + seed / 10)
        write(home / "sft", first(sft), 0.6, **SUMMARY, **{"seconds": 9})
        write(home / "rft", first(rft), 0.7, **SUMMARY | {"examples": 30 + 2 * seed}, **SAMPLED)
    write(tmp_path / "seed-2" / "sft", first(TESTED), 1.0, **SUMMARY | {"examples": 9000})
    return tmp_path


def test_means_and_differences_by_hand(root: Path) -> None:
    for age, file in enumerate(sorted(root.rglob("*.json"))):  # of a copy the dates tell nothing
        os.utime(file, (age, age))
    frame = read_study(root, "sft").set_index("method")
    assert list(frame.index) == ["zero", "sft", "rft"]  # as they were tested
    assert frame["seeds"].tolist() == [2, 2, 2]
    assert frame["accuracy"].tolist() == pytest.approx([6 / 40, 18 / 40, 26 / 40])
    assert frame["difference"].tolist() == pytest.approx([-12 / 40, 0, 8 / 40])
    assert frame["pass@5"].tolist() == pytest.approx([0.35, 0.6, 0.7])
    assert frame["examples"].tolist() == [0, 20, 31]
    assert frame["trained_tokens"].tolist() == [0, 3000, 3000]
    assert frame["sampled_tokens"].tolist() == [0, 1000, 1000]
    shares = frame.loc["rft", ["correct_solutions", "distinct_solutions", "mixed_problems"]]
    assert shares.tolist() == [20 / 80, 60 / 80, 6 / 8]
    assert frame.loc[["zero", "sft"], ["correct_solutions", "distinct_solutions", "mixed_problems"]].isna().all().all()


def test_intervals_lie_around_the_means(root: Path) -> None:
    frame = read_study(root, "sft").set_index("method")
    assert (frame["accuracy_low"] < frame["accuracy"]).all()
    assert (frame["accuracy"] < frame["accuracy_high"]).all()
    assert frame.loc["sft", ["difference_low", "difference", "difference_high"]].tolist() == [0, 0, 0]
    assert frame.loc["rft", "difference_low"] < 8 / 40 < frame.loc["rft", "difference_high"]
    again, other = read_study(root, "sft"), read_study(root, "sft", seed=1)
    assert again.equals(frame.reset_index())
    assert not other["accuracy_low"].equals(again["accuracy_low"])


def test_the_baseline_is_the_readers_choice(root: Path) -> None:
    frame = read_study(root, "zero").set_index("method")
    assert frame["difference"].tolist() == pytest.approx([0, 12 / 40, 20 / 40])


def test_the_interval_is_the_bootstraps(tmp_path: Path) -> None:
    """One seed: normal theory over the problems. Seeds that are all alike add nothing, seeds that differ do."""
    correct = np.random.default_rng(0).random(400) < 0.6
    for run in ("one", "alike"):
        for seed in range(1 if run == "one" else 4):
            write(tmp_path / run / f"seed-{seed}" / "sft", correct.tolist())
    widths = []
    for run in ("one", "alike"):
        row = read_study(tmp_path / run, "sft").iloc[0]
        widths.append(row["accuracy_high"] - row["accuracy_low"])
        assert row["accuracy"] == pytest.approx(correct.mean())
        assert row["accuracy_low"] == pytest.approx(correct.mean() - 1.96 * correct.std() / 20, abs=0.008)
        assert row["accuracy_high"] == pytest.approx(correct.mean() + 1.96 * correct.std() / 20, abs=0.008)
    assert widths[0] == pytest.approx(widths[1], abs=0.01)
    for seed, right in enumerate((0, 400, 0, 400)):
        write(tmp_path / "apart" / f"seed-{seed}" / "sft", first(right, 400))
    row = read_study(tmp_path / "apart", "sft").iloc[0]
    # The mean of four draws of 0 or 1: at most 1/16 of the weight on either end.
    assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx((0, 1))


def test_the_difference_is_paired(tmp_path: Path) -> None:
    """The same problems and seeds are drawn for both: 12 problems more of 400, with every seed, are a narrow gain."""
    rng = np.random.default_rng(0)
    for seed in range(3):
        sft = rng.random(400) < 0.3 + 0.2 * seed
        rft = sft.copy()
        rft[np.flatnonzero(~sft)[:12]] = True
        write(tmp_path / f"seed-{seed}" / "sft", sft.tolist())
        write(tmp_path / f"seed-{seed}" / "rft", rft.tolist())
    row = read_study(tmp_path, "sft").set_index("method").loc["rft"]
    assert row["difference"] == pytest.approx(0.03)
    assert row["difference_low"] > 0.01
    assert row["difference_high"] - row["difference_low"] < 0.05
    assert row["accuracy_high"] - row["accuracy_low"] > 0.2


def test_problems_are_paired_by_name(tmp_path: Path) -> None:
    """The order of the rows of a file does not matter."""
    write(tmp_path / "seed-0" / "sft", first(10))
    write(tmp_path / "seed-0" / "rft", first(10))
    file = tmp_path / "seed-0" / "rft" / "evaluation" / "test.jsonl"
    file.write_text("".join(line + "\n" for line in reversed(file.read_text().splitlines())))
    row = read_study(tmp_path, "sft").set_index("method").loc["rft"]
    assert (row["difference_low"], row["difference_high"]) == (0, 0)


def test_only_seeds_of_the_chain_are_counted(root: Path) -> None:
    """Not a seed's backup, nor what stands elsewhere below the root; which is said."""
    before = study(root, "sft")
    for name in ("zero", "sft", "rft"):
        write(root / "seed-0-old" / name, first(TESTED))
        write(root / "backup" / "seed-0" / name, first(TESTED), question="other")
    write(root / "plain", first(TESTED))
    said = "\n\nLeft out, for they are not in a folder seed-N of the chain: backup/seed-0, plain, seed-0-old."
    assert study(root, "sft") == before + said
    assert (root / "study.md").read_text() == before + said + "\n"
    (root / "seed-0-old" / "sft" / "evaluation" / "test.json").write_text("{")  # damaged, but not looked at
    assert study(root, "sft") == before + said


def test_a_damaged_run_of_the_chain_is_named(root: Path) -> None:
    file = root / "seed-1" / "sft" / "evaluation" / "test.json"
    file.write_text("{")
    assert str(file) in refusal(root)


def refusal(root: Path, baseline: str = "sft") -> str:
    with pytest.raises(InputError) as error:
        read_study(root, baseline)
    assert "\n" not in str(error.value)
    assert str(root) in str(error.value)
    return str(error.value)


def test_a_missing_baseline_is_named(root: Path) -> None:
    message = refusal(root, "dpo")
    assert "no tested run is called dpo" in message
    assert all(name in message for name in ("zero", "sft", "rft"))


def test_a_root_without_seeds_is_said(tmp_path: Path) -> None:
    write(tmp_path / "chain" / "seed-0" / "sft", first(3))
    assert "no tested run is in a folder seed-N of the chain; name the root of a chain" in refusal(tmp_path)


def test_nothing_tested_is_said(tmp_path: Path) -> None:
    assert "no run below it has been tested" in refusal(tmp_path)


def test_an_unfinished_chain_is_said(tmp_path: Path) -> None:
    write(tmp_path / "seed-0" / "sft", first(3))
    write(tmp_path / "seed-1" / "rft", first(3))
    assert "no seed has all of sft, rft; finish the chain" in refusal(tmp_path)


def test_runs_on_other_numbers_of_problems_are_not_compared(tmp_path: Path) -> None:
    write(tmp_path / "seed-0" / "sft", first(3, 10))
    write(tmp_path / "seed-0" / "rft", first(3, 11))
    assert "rft, seed 0, was not tested on the problems of sft; test them again" in refusal(tmp_path)


def test_seeds_on_other_numbers_of_problems_are_not_averaged(tmp_path: Path) -> None:
    write(tmp_path / "seed-0" / "sft", first(3, 10))
    write(tmp_path / "seed-1" / "sft", first(3, 11))
    assert "test them again" in refusal(tmp_path)


def test_runs_on_other_problems_are_not_compared(tmp_path: Path) -> None:
    write(tmp_path / "seed-0" / "sft", first(3))
    write(tmp_path / "seed-0" / "rft", first(3), names="q")
    refusal(tmp_path)


def test_runs_on_other_problems_of_the_same_names_are_not_compared(tmp_path: Path) -> None:
    write(tmp_path / "seed-0" / "zero", first(3), question="other")
    write(tmp_path / "seed-0" / "sft", first(3), question="one")
    write(tmp_path / "seed-0" / "old", first(3))
    assert "zero, seed 0, was not tested on the problems of sft (other problems of the same names)" in refusal(tmp_path)


def test_what_is_written(root: Path) -> None:
    text = study(root, "sft")
    assert (root / "study.md").read_text() == text + "\n"
    assert (root / "study.png").stat().st_size > 5_000
    frame = pd.read_csv(root / "study.csv")
    pd.testing.assert_frame_equal(frame, read_study(root, "sft"), check_dtype=False)
    text, _, said = text.partition("\n\n")
    assert said == "Seeds left out, for not every run was tested with them: 2 (without rft, zero)."
    lines = text.splitlines()
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1
    cells = {line.split(" | ")[0].removeprefix("| "): line.strip("| ").split(" | ") for line in lines[2:]}
    assert cells["sft"][3] == ""  # nothing to hold it against
    assert cells["rft"][1:3] == ["31", f"65.0 % ({points(frame, 'accuracy_low')} to {points(frame, 'accuracy_high')})"]
    assert cells["rft"][3].startswith("+20.0 (")
    assert cells["zero"][3].startswith("-30.0 (-")
    assert cells["rft"][4:] == ["70.0 %", "25.0 %", "75.0 %", "75.0 %", "1,000", "3,000"]
    assert cells["sft"][4:] == ["60.0 %", "", "", "", "1,000", "3,000"]
    assert not any(isinstance(cell, float) and math.isnan(cell) for row in cells.values() for cell in row)
    assert "nan" not in text
    assert "against sft" in lines[0]
    assert table(read_study(root, "sft"), "sft") == text


def test_other_numbers_of_samples(tmp_path: Path) -> None:
    for seed in (0, 1):
        write(tmp_path / f"seed-{seed}" / "sft", first(3), 0.25, k=1)
        write(tmp_path / f"seed-{seed}" / "rft", first(3), 0.75, k=16 if seed else 1)
        write(tmp_path / f"seed-{seed}" / "all", first(3), 0.75, k=16)
    write(tmp_path / "seed-2" / "sft", first(3), 0.25, k=3)  # a seed that is not finished
    text, _, said = study(tmp_path, "sft").partition("\n\n")
    assert "2 (without all, rft)" in said
    lines = [line.split(" | ") for line in text.splitlines()]
    assert lines[0][4:6] == ["pass@1", "pass@16"]
    assert {line[0]: line[4:6] for line in lines[2:]} == {
        "| sft": ["25.0 %", ""],
        "| rft": ["", ""],  # no mean of some seeds
        "| all": ["", "75.0 %"],
    }
    frame = pd.read_csv(tmp_path / "study.csv").set_index("method")
    assert frame["pass@1"].dropna().to_dict() == {"sft": 0.25}
    assert frame["pass@16"].dropna().to_dict() == {"all": 0.75}
    assert not any("@3" in name or "@5" in name for name in frame)
    assert table(pd.read_csv(tmp_path / "study.csv"), "sft") == text
    (axes,) = plot(read_study(tmp_path, "sft"), "sft").axes
    assert [text.get_text() for text in axes.get_legend().get_texts()][:2] == ["pass@1", "pass@16"]


def test_a_repetition_and_an_earlier_stage_do_not_count(root: Path) -> None:
    """Neither takes the other seeds away from a study."""
    methods = ["zero", "sft", "rft"]
    before = study(root, "sft", methods)
    write(root / "seed-0" / "old", first(TESTED))
    again = root / "seed-1" / "rft-rerun"
    write(again, first(TESTED))
    (again / "test-again.yaml").touch()
    after = study(root, "sft", methods)
    assert after == before + "\n\nLeft out, for they are not in the chain as it is: old."
    assert set(report.tested_runs([root])[0]["method"]) == {*methods, "old"}
    assert report.tested_runs([again])[0]["method"].tolist() == ["rft-rerun"]  # but where it is asked for


def test_a_run_that_solves_everything_is_plotted(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path / f"seed-{seed}" / "sft", first(0, 1000))
        write(tmp_path / f"seed-{seed}" / "step_dpo", first(1000, 1000))
    assert "| step_dpo | 0 | 100.0 % (100.0 to 100.0) | +100.0 (+100.0 to +100.0) |" in study(tmp_path, "sft")


def points(frame: pd.DataFrame, name: str) -> str:
    return f"{100 * frame.set_index('method').loc['rft', name]:.1f}"


def test_the_plot_shows_each_run(root: Path) -> None:
    frame = read_study(root, "rft")
    (axes,) = plot(frame, "rft").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["zero", "sft", "rft"]
    points, above, line = axes.lines[0], *axes.lines[-2:]
    assert points.get_ydata().tolist() == pytest.approx(frame["accuracy"].tolist())
    assert above.get_ydata().tolist() == pytest.approx(frame["pass@5"].tolist())
    assert list(line.get_ydata()) == pytest.approx([26 / 40] * 2)  # the baseline's accuracy


def test_the_rows_of_a_studys_command_are_gathered_over_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert over_seeds(tmp_path, "credit") is None
    (tmp_path / "seed-0-old" / "look").mkdir(parents=True)
    (tmp_path / "seed-0-old" / "look" / "credit.csv").write_text("policy,exact\nsft,0.9\n")
    assert over_seeds(tmp_path, "credit") is None
    said = f"{tmp_path}/seed-0-old/look/credit.csv is left out: it is not in a folder seed-N\n"
    assert capsys.readouterr().err == said
    for seed in (0, 11):
        (tmp_path / f"seed-{seed}" / "look").mkdir(parents=True)
        rows = pd.DataFrame([{"policy": "sft", "exact": seed / 100}, {"policy": "rft", "exact": 0.5}])
        rows.to_csv(tmp_path / f"seed-{seed}" / "look" / "credit.csv", index=False)
        rows.to_csv(tmp_path / f"seed-{seed}" / "look" / "spurious.csv", index=False)
    for _ in range(2):  # what is written is not read again
        frame = over_seeds(tmp_path, "credit")
        assert frame.to_numpy().tolist() == [
            ["sft", 0.0, "look", "0"],
            ["rft", 0.5, "look", "0"],
            ["sft", 0.11, "look", "11"],
            ["rft", 0.5, "look", "11"],
        ]
        assert list(frame) == ["policy", "exact", "stage", "seed"]
        assert pd.read_csv(tmp_path / "credit.csv")["seed"].tolist() == [0, 0, 11, 11]
    assert over_seeds(tmp_path, "likelihood") is None


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\xff", b'a,b\n"x\n'])
def test_a_table_that_is_none_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "seed-0" / "credit").mkdir(parents=True)
    (tmp_path / "seed-0" / "credit" / "credit.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"credit/credit\.csv: no table .*; run `stepneg credit` again"):
        over_seeds(tmp_path, "credit")
