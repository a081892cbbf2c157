"""Which correct solutions are kept, and what each token weighs, against plain second writings of both."""

import random
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations
from math import comb, exp

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stepneg.credit.pairs import (
    Choice,
    Trace,
    advantage_weighted,
    distinct_positives,
    edit_distance,
    filtered_steps,
)

CHOICES: tuple[Choice, ...] = ("farthest", "random", "nearest")
each_choice = pytest.mark.parametrize("choice", CHOICES)


def solution(*ids: int, correct: bool = True, problem: str = "p") -> Trace:
    return Trace(problem, (7,), ids, correct, (len(ids),))


solutions = st.lists(
    st.builds(
        lambda ids, correct, problem: solution(*ids, correct=correct, problem=problem),
        st.lists(st.integers(1, 3), min_size=1, max_size=6),
        st.sampled_from([True, True, True, False]),
        st.sampled_from("pq"),
    ),
    max_size=14,
)


# --- positives


@each_choice
@given(traces=solutions, limit=st.integers(0, 5), seed=st.integers(0, 20))
def test_as_many_different_correct_solutions_as_there_are(
    choice: Choice, traces: list[Trace], limit: int, seed: int
) -> None:
    kept = distinct_positives(traces, limit, choice, seed)
    assert set(kept) == {t.problem_id for t in traces if t.correct}
    for name, found in kept.items():
        there = {t.response_ids for t in traces if t.correct and t.problem_id == name}
        assert len(found) == min(limit, len(there))
        assert len({t.response_ids for t in found}) == len(found)
        assert {t.response_ids for t in found} <= there
        assert all(t.correct and t.problem_id == name for t in found)


@each_choice
@given(traces=solutions, limit=st.integers(1, 5), shuffle=st.integers(0, 100))
def test_the_order_of_sampling_and_other_problems_do_not_matter(
    choice: Choice, traces: list[Trace], limit: int, shuffle: int
) -> None:
    kept = distinct_positives(traces, limit, choice, 3)
    assert distinct_positives(random.Random(shuffle).sample(traces, len(traces)), limit, choice, 3) == kept
    alone = distinct_positives([t for t in traces if t.problem_id == "p"], limit, choice, 3)
    assert alone.get("p") == kept.get("p")


@given(traces=solutions, limit=st.integers(1, 5))
def test_nearest_keeps_what_is_nearest_to_the_shortest(traces: list[Trace], limit: int) -> None:
    for name, found in distinct_positives(traces, limit, "nearest").items():
        there = {t.response_ids for t in traces if t.correct and t.problem_id == name}
        first = found[0].response_ids
        assert len(first) == min(map(len, there))
        near = [edit_distance(first, t.response_ids) for t in found]
        assert near == sorted(near)
        left = there - {t.response_ids for t in found}
        assert all(edit_distance(first, ids) >= near[-1] for ids in left)


@given(traces=solutions, limit=st.integers(1, 5))
def test_farthest_takes_the_one_whose_nearest_kept_one_is_farthest(traces: list[Trace], limit: int) -> None:
    for name, found in distinct_positives(traces, limit, "farthest").items():
        left = {t.response_ids for t in traces if t.correct and t.problem_id == name}
        assert len(found[0].response_ids) == min(map(len, left))
        for number, trace in enumerate(found):
            before = [t.response_ids for t in found[:number]]

            def gap(ids: Sequence[int], before: Sequence[Sequence[int]] = before) -> float:
                return min((edit_distance(ids, other) for other in before), default=0.0)

            assert gap(trace.response_ids) == max(map(gap, left))
            left.remove(trace.response_ids)


def spread(traces: Sequence[Trace]) -> float:
    """Mean edit distance of two of them."""
    gaps = [edit_distance(a.response_ids, b.response_ids) for a, b in combinations(traces, 2)]
    return sum(gaps) / len(gaps)


def test_nearest_are_closer_together_than_random_than_farthest() -> None:
    rng = random.Random(0)
    nearest = randoms = farthest = 0.0
    for _ in range(20):
        traces = [solution(*(rng.randrange(4) for _ in range(rng.randint(6, 9)))) for _ in range(16)]
        close, some, far = (spread(distinct_positives(traces, 4, choice)["p"]) for choice in CHOICES[::-1])
        assert close < far
        nearest, randoms, farthest = nearest + close, randoms + some, farthest + far
    assert nearest < 0.9 * randoms
    assert randoms < 0.95 * farthest


def test_a_random_choice_is_fair_and_the_seeds() -> None:
    traces = [solution(i, 1) for i in range(10, 16)]
    counts = dict.fromkeys((t.response_ids for t in traces), 0)
    for seed in range(600):
        kept = distinct_positives(traces, 2, "random", seed)["p"]
        assert kept == distinct_positives(traces, 2, "random", seed)["p"]
        for trace in kept:
            counts[trace.response_ids] += 1
    assert all(150 < count < 250 for count in counts.values())  # 200 expected, 11.5 a standard deviation
    two = [solution(i, 1, problem=name) for name in "pq" for i in range(10, 26)]
    kept = distinct_positives(two, 4, "random")
    assert [t.response_ids for t in kept["p"]] != [t.response_ids for t in kept["q"]]


def test_the_other_choices_ask_for_no_seed() -> None:
    traces = [solution(i, i % 3, 1) for i in range(10, 30)]
    for choice in ("farthest", "nearest"):
        assert distinct_positives(traces, 3, choice, 0) == distinct_positives(traces, 3, choice, 1)


def test_of_two_of_a_kind_the_valued_one_is_kept() -> None:
    plain = solution(1, 2)
    valued = Trace("p", (7,), (1, 2), True, (2,), ((4, 2), (4, 4)))
    for choice in CHOICES:
        assert distinct_positives([plain, valued, plain], 2, choice)["p"] == [valued]


# --- weights


@st.composite
def counted(draw: st.DrawFn) -> Trace:
    """A trace with counts of unlike numbers of rollouts for some of its first prefixes."""
    lengths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    ends = tuple(sum(lengths[: i + 1]) for i in range(len(lengths)))
    numbers = draw(st.lists(st.sampled_from([3, 4, 6, 8]), max_size=len(ends) + 1))
    counts = tuple((n, draw(st.integers(0, n))) for n in numbers)
    return Trace("p", (7,), tuple(range(1, ends[-1] + 1)), draw(st.booleans()), ends, counts)


def exact_value(n: int, c: int, k: int) -> Fraction:
    """The share of the subsets of k rollouts with a correct one among them."""
    return 1 - Fraction(comb(n - c, k), comb(n, k))


def exact_advantages(trace: Trace, k: int) -> list[Fraction | None]:
    """The advantage of the step of each token; None without counts."""
    of_token: list[Fraction | None] = []
    for step, (start, end) in enumerate(zip((0, *trace.ends), trace.ends, strict=False), 1):
        known = step < len(trace.counts)
        gain = exact_value(*trace.counts[step], k) - exact_value(*trace.counts[step - 1], k) if known else None
        of_token += [gain] * (end - start)
    return of_token


@given(trace=counted(), k=st.integers(1, 3), beta=st.sampled_from([0.01, 0.3, 1.0]), clip=st.sampled_from([1.5, 20.0]))
def test_a_token_weighs_what_equation_4_says(trace: Trace, k: int, beta: float, clip: float) -> None:
    (found,) = advantage_weighted([trace], k, beta, clip)
    assert (found.problem_id, found.prompt_ids, found.response_ids) == ("p", (7,), trace.response_ids)
    expected = [1.0 if gain is None else min(clip, exp(float(gain) / beta)) for gain in exact_advantages(trace, k)]
    assert found.weights == pytest.approx(expected, rel=1e-9)


def test_no_advantage_is_too_large_for_a_small_beta() -> None:
    trace = Trace("p", (7,), (1, 2), True, (1, 2), ((4, 0), (4, 4), (4, 0)))
    (found,) = advantage_weighted([trace], 1, 1e-12)
    assert found.weights == pytest.approx((20.0, 0.0))


@given(traces=st.lists(counted(), max_size=4), k=st.integers(1, 3))
def test_steps_that_gain_are_imitated(traces: list[Trace], k: int) -> None:
    """Equal values of unlike counts, as 3 of 6 and 4 of 8, are no gain."""
    expected = [
        (t.response_ids, tuple(float(gain is not None and gain > 0) for gain in exact_advantages(t, k))) for t in traces
    ]
    found = [(response.response_ids, response.weights) for response in filtered_steps(traces, k)]
    assert found == [(ids, weights) for ids, weights in expected if any(weights)]


@given(trace=counted(), k=st.integers(1, 3))
def test_both_agree_on_what_gains(trace: Trace, k: int) -> None:
    (weighted,) = advantage_weighted([trace], k, 0.5)
    kept = filtered_steps([trace], k)
    assume(kept)
    assert [weight > 1 for weight in weighted.weights] == [weight == 1 for weight in kept[0].weights]
