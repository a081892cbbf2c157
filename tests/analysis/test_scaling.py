"""Efficiency factors: the power law is found again, its inverse is exact, and the bootstrap covers the truth."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stepneg.analysis.scaling import Measured, efficiency, efficiency_table, power_law, read_sweep, scaling
from stepneg.errors import InputError
from tests.analysis.made_run import write_attempt

SIZES = [25, 50, 100, 200, 400]


def measured(factors: dict[str, float], seeds: int, problems: int, rng: np.random.Generator) -> Measured:
    """Correctness drawn from err = 2 D^-0.4, each method behaving as if it had ``factor`` times the problems."""
    correct = {
        (name, size): (rng.random((seeds, problems)) >= 2 * (factor * size) ** -0.4).astype(float)
        for name, factor in factors.items()
        for size in SIZES
    }
    facts = pd.DataFrame(
        [
            {"method": name, "size": size, "seed": str(seed), "sampled_tokens": 10, "trained_tokens": 5, "seconds": 1}
            for name, size in correct
            for seed in range(seeds)
        ]
    )
    return Measured(correct, facts)


def test_a_power_law_is_found_again() -> None:
    sizes = np.array([10.0, 30.0, 500.0])
    a, b = power_law(sizes, 1.7 * sizes**-0.23)
    assert (a, b) == pytest.approx((1.7, 0.23))
    many_a, many_b = power_law(sizes, np.stack([1.7 * sizes**-0.23, 0.5 * sizes**0.1], axis=1))
    assert many_a == pytest.approx([1.7, 0.5])
    assert many_b == pytest.approx([0.23, -0.1])


def test_the_factor_inverts_the_curve() -> None:
    a, b = np.array(1.7), np.array(0.23)
    assert efficiency(a, b, 100, a * 800.0**-b) == pytest.approx(8.0)
    assert np.isnan(efficiency(a, np.array(-0.1), 100, np.array(0.2)))


def test_known_factors_lie_in_their_intervals() -> None:
    """The 95 % interval over all sizes misses the true factor in few of 40 draws."""
    missed = 0
    for draw in range(40):
        truth = {"sft": 1.0, "rft": 2.0, "step_dpo": 8.0}
        table = efficiency_table(measured(truth, 3, 800, np.random.default_rng(draw)), "sft", resamples=300)
        for name in ("rft", "step_dpo"):
            row = table[(table["method"] == name) & (table["size"] == 0)].iloc[0]
            missed += not row["factor_low"] <= truth[name] <= row["factor_high"]
    assert missed <= 12  # of 80; 4 expected, and a bootstrap over 3 seeds is a little narrow


def test_extrapolation_is_marked() -> None:
    rng = np.random.default_rng(0)
    table = efficiency_table(measured({"sft": 1.0, "twice": 2.0, "far": 100.0}, 2, 2000, rng), "sft", resamples=50)
    beyond = table.set_index(["method", "size"])["beyond"]
    assert beyond["far", 400]
    assert not beyond["twice", 25]
    assert not beyond["sft", 400]


def test_no_interval_where_the_baseline_does_not_improve() -> None:
    flat = {("sft", size): np.tile([1.0, 0.0], (2, 50)) for size in SIZES}
    better = {("rft", size): np.tile([1.0, 1.0, 1.0, 0.0], (2, 25)) for size in SIZES}
    facts = measured({"sft": 1.0, "rft": 1.0}, 2, 10, np.random.default_rng(0)).facts
    row = efficiency_table(Measured(flat | better, facts), "sft", resamples=50).iloc[-1]
    assert np.isnan(row["factor_low"])


def write(home: Path, correct: list[bool], **more: str) -> None:
    """An evaluated run as ``stepneg test`` leaves it."""
    (home / "evaluation").mkdir(parents=True)
    rows = [
        {"problem_id": f"p{i}", "correct": ok, "samples_correct": 1, "samples": ["1"], "majority_correct": ok}
        for i, ok in enumerate(correct)
    ]
    (home / "evaluation" / "test.jsonl").write_text("".join(json.dumps(row | more) + "\n" for row in rows))
    metrics = {"accuracy": sum(correct) / len(correct), "problems": len(correct)}
    (home / "evaluation" / "test.json").write_text(json.dumps(metrics))
    (home / "summary.json").write_text(json.dumps({"problems": 3, "sampled_tokens": 7, "trained_tokens": 9}))


def test_a_sweep_is_read_and_written(tmp_path: Path) -> None:
    for size, right in ((10, 4), (20, 6), (40, 8)):
        for seed in (0, 1):
            write(tmp_path / f"size-{size}/seed-{seed}/sft", [i < right for i in range(12)])
            if size < 40:
                write(tmp_path / f"size-{size}/seed-{seed}/rft", [i < right + 2 for i in range(12)])
    write(tmp_path / "size-10/seed-2/sft", [True] * 12)  # not done everywhere: left out, with its costs
    dear = {"problems": 3, "sampled_tokens": 7000, "trained_tokens": 9}
    (tmp_path / "size-10/seed-2/sft/summary.json").write_text(json.dumps(dear))
    found = read_sweep(tmp_path)
    assert found.sizes("sft") == [10, 20, 40]
    assert found.sizes("rft") == [10, 20]
    assert {value.shape for value in found.correct.values()} == {(2, 12)}
    text = scaling(tmp_path)
    assert "| sft | 10 | 66.7 %" in text
    assert "| **rft** | all |" in text
    written = pd.read_csv(tmp_path / "scaling.csv")
    for method, sizes in (("sft", 3), ("rft", 2)):
        assert written.loc[written["method"] == method, "sampled_tokens"].dropna().tolist() == [7.0] * sizes
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_the_methods_are_in_the_order_of_their_tests(tmp_path: Path) -> None:
    """Whatever the dates of the files, of which a copy has others; those without a record stand last, by name."""
    for minutes, name in enumerate(("zero", "sft", "rft", "by_hand", "another")):
        home = tmp_path / "size-10" / "seed-0" / name
        write(home, [True])
        if minutes < 3:
            write_attempt(home, "test", datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes))
    for age, file in enumerate(sorted(tmp_path.rglob("test.json"), reverse=True)):
        os.utime(file, (age, age))
    assert read_sweep(tmp_path).methods == ["zero", "sft", "rft", "another", "by_hand"]


def test_only_cells_of_the_sweep_are_counted(tmp_path: Path) -> None:
    for size, right in ((10, 4), (20, 6)):
        for seed in (0, 1):
            write(tmp_path / f"size-{size}/seed-{seed}/sft", [i < right for i in range(12)])
    before = scaling(tmp_path)
    for folder in ("size-10-old/seed-0", "size-10/seed-0-old", "size-10/backup"):
        write(tmp_path / folder / "sft", [True])
    said = "\n\nLeft out, for they are not in a folder size-N/seed-M of the sweep: "
    said += "size-10-old/seed-0, size-10/backup, size-10/seed-0-old."
    assert scaling(tmp_path) == before + said
    assert (tmp_path / "scaling.md").read_text() == before + said + "\n"


def test_methods_and_sizes_of_an_earlier_sweep_do_not_count(tmp_path: Path) -> None:
    for size, right in ((10, 4), (20, 6)):
        for seed in (0, 1):
            write(tmp_path / f"size-{size}/seed-{seed}/sft", [i < right for i in range(12)])
    before = scaling(tmp_path)
    for run in ("size-10/seed-0/old", "size-40/seed-0/sft"):
        write(tmp_path / run, [True] * 12)
    found = scaling(tmp_path, "sft", ["sft"], [10, 20])
    assert found == before + "\n\nLeft out, for they are not in the chain as it is: old at size 10, sft at size 40."
    assert "1 (without old at size 10, sft at size 40)" in scaling(tmp_path)


def test_other_problems_of_the_same_names_are_said(tmp_path: Path) -> None:
    write(tmp_path / "size-10/seed-0/old", [True])  # without questions
    write(tmp_path / "size-10/seed-0/sft", [True], question="one")
    write(tmp_path / "size-20/seed-0/sft", [True], question="other")
    with pytest.raises(InputError, match="sft at size 20, seed 0 has other problems of the same names; test it again"):
        read_sweep(tmp_path)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run `stepneg sweep` first"):
        read_sweep(tmp_path)
    write(tmp_path / "size-10/seed-0/sft", [True])
    with pytest.raises(InputError, match="a curve needs at least two"):
        scaling(tmp_path)
    write(tmp_path / "size-20/seed-1/sft", [True])
    with pytest.raises(InputError, match="no seed is done"):
        read_sweep(tmp_path)
    write(tmp_path / "size-20/seed-0/sft", [True, False])
    with pytest.raises(InputError, match="other test problems"):
        read_sweep(tmp_path)
