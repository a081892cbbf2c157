"""Estimators against enumeration and closed forms; aggregation over problems and processes."""

import math
import subprocess
import sys
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import beta as beta_function
from scipy.stats import binom, binomtest

from stepneg.credit.values import bok
from stepneg.grading import Verdict
from stepneg.grading.estimators import maj_at_k, majority, pass_at_k, wilson, wilson_mean
from stepneg.grading.metrics import Accuracy, MajAtK, PassAtK
from stepneg.grading.verifier import equal_answers


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 50), (7, 50), (25, 50), (50, 50), (1007, 1319)])
def test_wilson_is_scipys(successes: int, n: int) -> None:
    expected = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson(successes, n, z=1.959963984540054) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_without_trials_and_with_impossible_counts() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    for successes, n in ((-1, 5), (6, 5), (0, -1)):
        with pytest.raises(ValueError, match="between 0 and n"):
            wilson(successes, n)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (3, 7), (50, 50), (1007, 1319)])
def test_wilson_mean_of_zeros_and_ones_is_wilson(successes: int, n: int) -> None:
    share = successes / n
    assert wilson_mean(share, share * (1 - share), n) == pytest.approx(wilson(successes, n), abs=1e-12)


def test_wilson_mean_narrows_with_the_variance_and_stays_within_its_bounds() -> None:
    wide, narrow = wilson_mean(0.9, 0.09, 500), wilson_mean(0.9, 0.02, 500)
    assert 0 < wide[0] < narrow[0] < 0.9 < narrow[1] < wide[1] < 1
    assert wilson_mean(0.5, 0.0, 4) == wilson(2, 4)  # no spread seen is no proof of none
    assert wilson_mean(math.nan, math.nan, 0) == (0.0, 1.0)


@pytest.mark.parametrize("n", [100, 500, 1319])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 0.97])
def test_wilson_covers(n: int, rate: float) -> None:
    """Exactly, by summing the binomial distribution over the counts whose interval holds the rate."""
    held = [c for c in range(n + 1) if wilson(c, n)[0] <= rate <= wilson(c, n)[1]]
    assert 0.93 <= binom.pmf(held, n, rate).sum() <= 0.97


@pytest.mark.parametrize("n", [100, 500])
@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("difficulty", [(0.3, 0.3), (2.0, 1.0), (0.5, 2.0), (4.0, 0.5)])
def test_the_interval_of_pass_at_k_covers(n: int, k: int, difficulty: tuple[float, float]) -> None:
    """Problems of every difficulty, eight samples each, 2,000 repetitions; the truth is E[1 - (1 - p)^k]."""
    a, b = difficulty
    rng = np.random.default_rng(n * k)
    truth = 1 - beta_function(a, b + k) / beta_function(a, b)
    by_count = np.array([pass_at_k(8, c, k) for c in range(9)])
    values = by_count[rng.binomial(8, rng.beta(a, b, (2000, n)))]
    found = [wilson_mean(float(v.mean()), float(v.var()), n) for v in values]
    held = np.mean([low <= truth <= high for low, high in found])
    few = n * min(truth, 1 - truth) < 20  # then it may be wider than it need be, never narrower
    assert 0.93 <= held <= (1.0 if few else 0.97)


def test_maj_at_k_is_brute_force() -> None:
    """Every sequence of up to five answers out of four, one of them another spelling and one missing."""
    spelt = {"a": "1/2", "b": "0.5", "c": "7", "-": None}
    for k in range(1, 6):
        for votes in product(spelt, repeat=k):
            classes = ["half" if v in "ab" else v for v in votes if v != "-"]
            most = max((classes.count(c) for c in classes), default=0)
            winner = next((c for c in classes if classes.count(c) == most), None)
            for reference in ("0.50", "7"):
                expected = winner == ("half" if reference == "0.50" else "c")
                assert maj_at_k([spelt[v] for v in votes], reference, equal_answers("number")) == expected


def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample() -> None:
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                subsets = list(combinations(range(n), k))
                share = sum(min(subset) < c for subset in subsets) / len(subsets)
                assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(200, 3, 100), (1000, 1, 1), (5000, 2500, 10), (5000, 10, 2500)])
def test_pass_at_k_is_best_of_k(n: int, c: int, k: int) -> None:
    """The step values' estimator is the same quantity, computed on integers."""
    assert pass_at_k(n, c, k) == pytest.approx(bok(n, c, k), rel=1e-12)


def test_pass_at_k_for_large_n() -> None:
    n = 10**9
    assert pass_at_k(n, 1, 1) == pytest.approx(1e-9, rel=1e-12)
    assert pass_at_k(n, n // 2, 10) == pytest.approx(1 - 2.0**-10, rel=1e-6)
    assert pass_at_k(n, 0, n) == 0.0
    assert pass_at_k(n, 1, n) == 1.0
    for wrong in ((4, 1, 5), (4, 5, 1), (4, -1, 1), (4, 1, 0)):
        with pytest.raises(ValueError, match="needs at least"):
            pass_at_k(*wrong)


def same_number(first: str, second: str) -> bool:
    return float(first) == float(second)


@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        (["1", "2", "2"], "2"),
        (["1", "2", "2", "1"], "1"),  # a tie goes to what was seen first
        (["3", "1", "2", "2", "1"], "1"),
        (["1", "2.0", "2", "2.00"], "2.0"),
        ([None, None, None, "4"], "4"),
        ([None, "4", None, "5"], "4"),
        ([None], None),
        ([], None),
    ],
)
def test_majority(answers: list[str | None], winner: str | None) -> None:
    assert majority(answers, same_number) == winner
    assert maj_at_k(answers, "4", same_number) == (winner == "4")


def verdicts(*answers: str | None, reference: str = "4") -> list[Verdict]:
    return [Verdict(a is not None and float(a) == float(reference), a, "", "") for a in answers]


def test_maj_at_k_joins_correct_spellings_and_equal_wrong_numbers() -> None:
    metric = MajAtK(4)
    metric.update(0, verdicts("4", "4.0", "5", "6"), "4")  # 2 against 1 and 1
    metric.update(1, verdicts("4", "5", "5.0", None), "4")  # 1 against 2
    metric.update(2, verdicts("5", "4", None, None), "4")  # tie: the wrong one came first
    metric.update(3, verdicts(None, None, None, "4"), "4")
    metric.update(4, verdicts("4", "4", "5", "5", "5", "5"), "4")  # the first four vote; a tie
    result = metric.compute()
    assert float(result["value"]) == pytest.approx(3 / 5)
    assert (float(result["low"]), float(result["high"])) == pytest.approx(wilson(3, 5))
    with pytest.raises(ValueError, match="maj@4 needs at least 4 samples, got 1"):
        metric.update(5, verdicts("4"), "4")


def test_maj_at_k_joins_what_only_symbols_show_to_be_equal() -> None:
    metric = MajAtK(4, equal_answers("math"))
    answers = [r"\sqrt{8}", "3", r"2\sqrt{2}", "3.0x"]
    metric.update(0, [Verdict(False, a, "", "") for a in answers], "3x")
    metric.update(1, [Verdict(a == "3", a, "", "") for a in answers], "3")
    assert metric.compute()["value"] == 0.0
    assert majority(answers, equal_answers("math")) == r"\sqrt{8}"


def test_accuracy_and_its_interval() -> None:
    metric = Accuracy()
    for problem in range(10):
        metric.update(problem, problem < 7)
    result = metric.compute()
    assert {name: round(float(value), 4) for name, value in result.items()} == {
        "value": 0.7,
        "low": round(wilson(7, 10)[0], 4),
        "high": round(wilson(7, 10)[1], 4),
        "n": 10,
    }
    metric.reset()
    metric.update(0, True)
    assert float(metric.compute()["value"]) == 1.0


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_problems() -> None:
    for metric in (Accuracy(), PassAtK(2), MajAtK(2)):
        result = metric.compute()
        assert math.isnan(float(result["value"]))
        assert (float(result["low"]), float(result["high"]), int(result["n"])) == (0.0, 1.0, 0)


def test_pass_at_k_mean_and_interval() -> None:
    metric = PassAtK(2)
    corrects = [[True, False, False, False], [False] * 4, [True] * 4]
    for problem, row in enumerate(corrects):
        metric.update(problem, row)
    values = torch.tensor([0.5, 0.0, 1.0])
    result = metric.compute()
    assert float(result["value"]) == pytest.approx(0.5)
    low, high = wilson_mean(0.5, float(values.var(correction=0)), 3)
    assert (float(result["low"]), float(result["high"])) == pytest.approx((low, high))
    # The standard error at the centre is that of the values, not of coin flips.
    assert high - low < wilson(1.5, 3)[1] - wilson(1.5, 3)[0]


def test_pass_at_k_interval_keeps_a_width_where_all_values_agree() -> None:
    metric = PassAtK(1)
    for problem in range(20):
        metric.update(problem, [False, False])
    result = metric.compute()
    assert float(result["low"]) == 0.0
    assert float(result["high"]) == pytest.approx(wilson(0, 20)[1])


def test_a_problem_on_two_ranks_counts_once() -> None:
    """Five problems on two ranks: the sampler fills up with problem 0; a third rank saw nothing."""
    ranks = [Accuracy(), Accuracy(), Accuracy()]
    for problem in (0, 2, 4):
        ranks[0].update(problem, True)
    for problem in (1, 3, 0):
        ranks[1].update(problem, problem == 0)
    for other in ranks[1:]:
        ranks[0].merge_state(other)
    result = ranks[0].compute()
    assert (int(result["n"]), float(result["value"])) == (5, pytest.approx(3 / 5))


RANK = """
import sys
import torch.distributed
from stepneg.grading.metrics import Accuracy, PassAtK
store, rank = sys.argv[1], int(sys.argv[2])
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
empty, uneven = Accuracy(), PassAtK(1)
for problem in (0, 1, 2) if rank == 0 else ():
    empty.update(problem, problem < 2)
for problem in (0, 2, 4) if rank == 0 else (1, 3, 0, 5):
    uneven.update(problem, [True, problem == 0])
for metric in (empty, uneven):
    result = metric.compute()
    print(int(result["n"]), round(float(result["value"]), 4))
"""


@pytest.mark.slow
def test_two_processes_one_of_them_without_problems(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", RANK, str(tmp_path / "store")]
    ranks = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in (0, 1)]
    for rank in ranks:
        output, _ = rank.communicate(timeout=120)
        assert output.split() == ["3", "0.6667", "6", "0.5833"]
