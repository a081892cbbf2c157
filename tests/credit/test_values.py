"""Values against brute force, the specification's cases and table, and a decision process with known values."""

import random
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations, product
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepneg.credit.values import advantages, bok, first_pit, found_zero, step_values


def test_bok_counts_subsets() -> None:
    """The share of the K-subsets of the rollouts that hold a correct one."""
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                subsets = list(combinations([True] * c + [False] * (n - c), k))
                assert bok(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-15)


@pytest.mark.parametrize(("n", "c"), [(5, 2), (10**6, 3), (7, 0), (7, 7)])
def test_best_of_one_is_the_share_of_correct(n: int, c: int) -> None:
    assert bok(n, c, 1) == c / n


@given(st.integers(1, 3000), st.data())
def test_bok_is_exact_for_large_counts(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert bok(n, c, k) == float(1 - Fraction(comb(n - c, k), comb(n, k)))
    assert (bok(n, c, k) == 0) == (c == 0)


def test_bok_is_unbiased() -> None:
    """Its mean over c ~ Binomial(n, p) is 1 - (1-p)^K, the value of the best of K, whatever n."""
    for n, k, p in product((5, 9), (1, 3, 5), (0.0, 0.1, 0.7, 1.0)):
        mean = sum(comb(n, c) * p**c * (1 - p) ** (n - c) * bok(n, c, k) for c in range(n + 1))
        assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 2, 5), (0, 0, 1), (5, 6, 1), (5, -1, 1), (5, 2, 0)])
def test_bok_refuses_counts_that_cannot_be(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="best of"):
        bok(n, c, k)
    with pytest.raises(ValueError, match="best of"):
        step_values([(10, 5), (n, c)], k)


def test_equal_fractions_are_equal_values() -> None:
    assert step_values([(5, 3), (10, 6), (30, 18)], 1) == [0.6] * 3


@given(st.lists(st.integers(0, 10), min_size=1, max_size=12), st.integers(1, 10))
def test_advantages_telescope(correct: list[int], k: int) -> None:
    values = step_values([(10, c) for c in correct], k)
    assert len(advantages(values)) == len(values) - 1
    assert sum(advantages(values)) == pytest.approx(values[-1] - values[0], abs=1e-12)


def test_an_advantage_is_the_gain_in_value() -> None:
    assert advantages([0.5, 1.0, 0.25]) == [0.5, -0.75]
    assert advantages([0.5]) == advantages([]) == []


@pytest.mark.parametrize(
    ("values", "tolerance", "pit"),
    [
        ([0.8, 0.9, 0.1, 0.1, 0.0], 0.0, 4),  # the least, not the first drop
        ([0.8, 0.9, 0.0, 0.0, 0.0], 0.0, 2),  # the first of the least
        ([0.8, 0.9, 0.0], 0.0, 2),  # counts end at the pit
        ([0.8, 0.0, 0.5], 0.0, 1),  # at the first step, and values may rise again
        ([0.8, 0.9, 0.9, 0.0], 0.0, 3),  # at the last step
        ([0.0, 0.0, 0.0], 0.0, None),  # never solved: the problem is to blame
        ([0.5, 0.5, 0.7], 0.0, None),  # not below Q_0
        ([0.5, 0.6, 0.7], 0.0, None),
        ([0.5, 0.4, 0.6], 0.1, None),  # below, not by more than the tolerance
        ([0.5, 0.4, 0.6], 0.09, 1),
        ([0.5, 0.6, 0.4], 0.05, 2),
        ([0.5], 0.0, None),
        ([], 0.0, None),
    ],
)
def test_first_pit(values: list[float], tolerance: float, pit: int | None) -> None:
    assert first_pit(values, tolerance) == pit


@given(st.lists(st.integers(0, 5), min_size=2, max_size=9), st.integers(1, 5))
def test_rollouts_behind_a_zero_change_nothing(correct: list[int], k: int) -> None:
    counts = [(5, c) for c in correct]
    stop = next((i for i in range(1, len(counts)) if found_zero(counts[: i + 1])), len(counts) - 1)
    assert first_pit(step_values(counts[: stop + 1], k)) == first_pit(step_values(counts, k))


def test_found_zero() -> None:
    assert found_zero([(5, 3), (5, 0)])
    assert not found_zero([(5, 3), (5, 1)])
    assert not found_zero([])


@pytest.mark.parametrize(
    ("before", "after", "n", "exact", "early"),
    [
        (0.8, 0.05, 5, 0.77, 0.01),
        (0.3, 0.00, 5, 0.57, 0.43),
        (0.1, 0.00, 5, 0.07, 0.93),
        (0.8, 0.05, 20, 0.53, 0.00),
        (0.3, 0.00, 20, 1.00, 0.00),
        (0.1, 0.00, 20, 0.68, 0.32),
    ],
)
def test_the_table_of_pit_errors(before: float, after: float, n: int, exact: float, early: float) -> None:
    """Six steps, the pit at step 4, K = 5, where the problem is known to be solvable (Q_0 = 1).

    The binomials of 20 samples at 0.8 / 0.05 give 0.527 exactly.
    """
    rng = random.Random(0)
    pits = []
    for _ in range(2000):
        rates = [before] * 3 + [after] * 3
        counts = [(n, sum(rng.random() < rate for _ in range(n))) for rate in rates]
        pits.append(first_pit(step_values([(n, n), *counts], 5)))
    share = {step: pits.count(step) / len(pits) for step in range(1, 7)}
    assert share[4] == pytest.approx(exact, abs=0.04)
    assert share[1] + share[2] + share[3] == pytest.approx(early, abs=0.04)


# A walk of four steps of +1 or -1 that is correct if it ends at +2; the policy goes up with probability 0.6.
LENGTH, TARGET, UP = 4, 2, 0.6
Walk = tuple[int, ...]


def exact_pass(prefix: Walk) -> float:
    """The chance of a correct end, by enumeration of all continuations."""
    total = 0.0
    for rest in product((1, -1), repeat=LENGTH - len(prefix)):
        chance = 1.0
        for move in rest:
            chance *= UP if move == 1 else 1 - UP
        total += chance * (sum(prefix) + sum(rest) == TARGET)
    return total


def count_correct(prefix: Walk, n: int, rng: random.Random) -> tuple[int, int]:
    """n rollouts of the policy from a prefix."""
    steps = LENGTH - len(prefix)
    ends = [sum(prefix) + sum(1 if rng.random() < UP else -1 for _ in range(steps)) for _ in range(n)]
    return n, sum(end == TARGET for end in ends)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("walk", [(1, -1, 1, 1), (1, -1, -1, 1), (-1, -1, 1, 1), (1, 1, 1, 1)])
def test_estimates_reach_the_values_of_a_known_process(walk: Walk, k: int) -> None:
    prefixes = [walk[:i] for i in range(LENGTH + 1)]
    best_of: Callable[[float], float] = lambda p: 1 - (1 - p) ** k  # noqa: E731
    exact = [best_of(exact_pass(prefix)) for prefix in prefixes]
    rng = random.Random(1)
    values = step_values([count_correct(prefix, 4000, rng) for prefix in prefixes], k)
    assert values == pytest.approx(exact, abs=0.03)
    assert advantages(values) == pytest.approx(advantages(exact), abs=0.06)
    assert first_pit(values) == first_pit(exact)


def test_the_pit_of_the_process_is_the_step_that_cannot_be_mended() -> None:
    # Up, down, down is at 0 - 1 with one move to go; three times up can still come down.
    for walk, pit in [((1, -1, -1, 1), 3), ((-1, -1, 1, 1), 2), ((1, 1, 1, 1), 4), ((1, -1, 1, 1), None)]:
        assert first_pit([exact_pass(walk[:i]) for i in range(LENGTH + 1)]) == pit
