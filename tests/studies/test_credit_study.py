"""Estimated pits: each rule by hand, and the shares of right, early and late ones against their closed forms."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stepneg.credit.pairs import Trace
from stepneg.credit.values import bok
from stepneg.data.rollouts import Generated, Rollouts
from stepneg.errors import InputError
from stepneg.problems.arithmetic import Arithmetic
from stepneg.studies.credit import (
    GROUPS,
    RULES,
    TOLERANCE,
    Outcomes,
    choose,
    credit,
    estimates,
    find,
    judge,
    plot,
    table,
)
from tests.sampling.fake import FakeEngine

EOS = 0


def solved(steps: int, *outcomes: Sequence[bool], truth: int | None = None) -> Outcomes:
    """A wrong solution of one token a step and the outcomes behind its prefixes."""
    trace = Trace("p", (7,), (*range(1, steps), EOS), False, tuple(range(1, steps + 1)))
    return Outcomes(trace, tuple(map(tuple, outcomes)), truth)


# --- rules


@pytest.mark.parametrize(
    ("values", "argmin", "tolerance", "first_drop", "first_zero"),
    [
        ([0.8, 0.8, 0.0, 0.0], 2, 2, 2, 2),
        ([0.8, 0.4, 0.2, 0.0], 3, 3, 1, 3),  # two falls of more than a quarter
        ([0.2, 0.2, 0.1, 0.0], 3, None, None, 3),  # a small value: nothing to fall from
        ([0.8, 0.7, 0.6, 0.5], 3, 3, None, None),  # a slow decline
        ([0.5, 0.25, 0.25, 0.25], 1, None, None, None),  # exactly a quarter is not more than that
        ([0.5, 0.2, 0.9, 0.0], 3, 3, 1, 3),  # it recovers
        ([0.5, 0.6, 0.6, 0.6], None, None, None, None),
        ([0.5, 0.0, 0.0, 0.0], 1, 1, 1, 1),
        ([0.0, 0.5, 0.0, 0.0], None, None, None, None),  # never solved: nothing to blame
    ],
)
def test_each_rule_finds_its_pit(
    values: list[float],
    argmin: int | None,
    tolerance: int | None,
    first_drop: int | None,
    first_zero: int | None,
) -> None:
    assert [find(values, rule) for rule in RULES] == [argmin, tolerance, first_drop, first_zero]


@given(st.lists(st.integers(0, 8).map(lambda c: c / 8), min_size=2, max_size=8))
def test_the_rules_in_other_words(values: list[float]) -> None:
    found = {rule: find(values, rule) for rule in RULES}
    if values[0] == 0:
        assert set(found.values()) == {None}
        return
    steps = list(enumerate(values))[1:]
    lowest = min(steps, key=lambda step: (step[1], step[0]))
    assert found["argmin"] == (lowest[0] if lowest[1] < values[0] else None)
    assert found["tolerance"] == (lowest[0] if lowest[1] < values[0] - TOLERANCE else None)
    drops = [i for i, value in steps if values[i - 1] - value > TOLERANCE]
    assert found["first drop"] == (min(drops) if drops else None)
    zeros = [i for i, value in steps if not value]
    assert found["first zero"] == (min(zeros) if zeros else None)


# --- estimates

T, F = True, False


def test_each_group_of_rollouts_estimates_for_itself() -> None:
    item = solved(3, [T, T, T, T, F, F], [T, F, F, F, T, F], [F, T, T, F, T, T])
    # Groups of two: counts (2, 1, 1), (2, 0, 1) and (0, 1, 2); behind the last step nothing is right.
    assert estimates(item, "argmin", 2, 1) == [3, 1, None]
    assert estimates(item, "first drop", 2, 1) == [1, 1, None]
    assert estimates(item, "argmin", 6, 1) == [3]
    assert estimates(item, "first drop", 6, 1) == [1]  # 4/6, 2/6
    assert estimates(item, "first drop", 6, 2) == [1]  # 14/15, 9/15
    assert estimates(item, "argmin", 4, 1) == [3]  # the last two are left over
    assert estimates(item, "argmin", 7, 1) == []


def test_best_of_k_is_what_is_compared() -> None:
    item = solved(2, [T, T, T, T], [T, T, F, F])
    assert estimates(item, "first drop", 4, 1) == [1]  # 1, 1/2, 0
    assert estimates(item, "first drop", 4, 2) == [2]  # 1, 5/6, 0
    with pytest.raises(ValueError, match="best of 5"):
        estimates(item, "argmin", 4, 5)


@given(
    outcomes=st.lists(st.lists(st.booleans(), min_size=4, max_size=30), min_size=1, max_size=4),
    n=st.integers(1, 6),
    k=st.integers(1, 2),
    rule=st.sampled_from(RULES),
)
def test_groups_are_disjoint_and_few(outcomes: list[list[bool]], n: int, k: int, rule: str) -> None:
    assume(k <= n)
    item = solved(len(outcomes), *outcomes)
    expected = []
    left = [list(of_prefix) for of_prefix in outcomes]
    while all(len(of_prefix) >= n for of_prefix in left) and len(expected) < GROUPS:
        counts = [sum(of_prefix.pop(0) for _ in range(n)) for of_prefix in left]
        expected.append(find([bok(n, c, k) for c in counts] + [0.0], rule))
    assert estimates(item, rule, n, k) == expected


# --- shares


def simulated(before: float, after: float, n: int, rng: random.Random) -> Outcomes:
    """Six steps, the pit at the fourth: prefixes 0..3 succeed with one probability, 4 and 5 with the other."""
    chances = [before] * 4 + [after] * 2
    return solved(6, *([rng.random() < p for _ in range(GROUPS * n)] for p in chances), truth=4)


@pytest.mark.parametrize(
    ("before", "after", "n", "exact", "early"),
    [  # the working specification's table (shared/paper.md, section 2), as far as it holds with Q_L = 0 known
        (0.8, 0.05, 5, 0.77, 0.01),
        (0.3, 0.0, 5, 0.57, 0.43),
        (0.3, 0.0, 20, 1.0, 0.0),
        (0.1, 0.0, 5, 0.07, 0.93),
        (0.1, 0.0, 20, 0.68, 0.32),
    ],
)
def test_shares_follow_their_closed_form(before: float, after: float, n: int, exact: float, early: float) -> None:
    """The least value is 0, since a wrong solution ends there: the pit is the first prefix that is never solved."""
    rng = random.Random(0)
    items = [simulated(before, after, n, rng) for _ in range(300)]
    shares = judge(items, "argmin", n, 1)
    kept = (1 - (1 - before) ** n) ** 3  # no prefix before the pit fails throughout
    assert shares["found"] == pytest.approx(1 - (1 - before) ** n, abs=0.03)
    assert shares["exact"] == pytest.approx(kept * (1 - after) ** n, abs=0.03)
    assert shares["early"] == pytest.approx(1 - kept, abs=0.03)
    assert shares["exact"] == pytest.approx(exact, abs=0.03)
    assert shares["early"] == pytest.approx(early, abs=0.03)
    assert shares["exact"] + shares["early"] + shares["late"] == pytest.approx(1)


def test_more_rollouts_make_the_estimate_late_where_the_pit_is_not_the_end() -> None:
    rng = random.Random(1)
    shares = judge([simulated(0.8, 0.05, 20, rng) for _ in range(200)], "argmin", 20, 1)
    assert shares["exact"] == pytest.approx(0.95**20, abs=0.04)
    assert shares["late"] == pytest.approx(1 - 0.95**20, abs=0.04)


def test_a_drop_needs_no_zero() -> None:
    """With many rollouts the first drop is at the pit although some rollouts still succeed behind it."""
    rng = random.Random(2)
    items = [simulated(0.8, 0.3, 64, rng) for _ in range(20)]
    assert judge(items, "first drop", 64, 1)["exact"] > 0.95
    assert judge(items, "first zero", 64, 1)["exact"] == 0


def test_shares_by_hand() -> None:
    one = solved(3, [T, T], [T, T], [F, F], truth=2)  # argmin 2: exact
    two = solved(3, [T, T], [F, F], [T, F], truth=3)  # argmin 1: two early
    three = solved(3, [T, T], [T, F], [T, T], truth=1)  # argmin 3: two late
    none = solved(3, [F, F], [T, F], [T, T], truth=1)  # no pit
    assert judge([one, two, three, none], "argmin", 2, 1) == pytest.approx(
        {"found": 3 / 4, "exact": 1 / 3, "early": 1 / 3, "late": 1 / 3, "distance": 4 / 3}
    )
    assert judge([none], "argmin", 2, 1) == {"found": 0, "exact": 0, "early": 0, "late": 0, "distance": 0}
    assert judge([], "argmin", 2, 1) == {"found": 0, "exact": 0, "early": 0, "late": 0, "distance": 0}


def test_without_a_true_pit_that_of_all_rollouts_counts() -> None:
    item = solved(3, [T, T, T, T], [F, F, T, F], [F, F, F, F])
    # Of all four: 1, 1/4, 0, so the pit is 2. Of each two: (2, 0, 0) says 1 and (2, 1, 0) says 2.
    assert judge([item], "argmin", 2, 1) == {"found": 1, "exact": 0.5, "early": 0.5, "late": 0, "distance": 0.5}
    known = replace(item, truth=1)
    assert judge([known], "argmin", 2, 1) == {"found": 1, "exact": 0.5, "early": 0, "late": 0.5, "distance": 0.5}
    unsolved = solved(2, [F, F, F, F], [T, F, F, F])
    assert judge([unsolved], "argmin", 2, 1)["found"] == 0


# --- which solutions


def sampled(problem: str, *solutions: tuple[tuple[int, ...], bool]) -> list[Trace]:
    return [Trace(problem, (7,), ids, correct, (len(ids),)) for ids, correct in solutions]


def test_finished_wrong_solutions_of_solved_problems_are_chosen() -> None:
    mixed = sampled("mixed", ((5, EOS), True), ((6, EOS), False), ((6, EOS), False), ((8, 9), False), ((7, EOS), False))
    never = sampled("never", ((6, EOS), False))
    always = sampled("always", ((5, EOS), True))
    generated = Generated({"mixed": mixed, "never": never, "always": always})
    chosen = choose(generated, 9, EOS, 0)
    assert sorted(t.response_ids for t in chosen) == [(6, EOS), (7, EOS)]
    assert {t.problem_id for t in chosen} == {"mixed"}
    assert choose(generated, 0, EOS, 0) == []


def test_the_choice_is_the_seeds_alone() -> None:
    traces = sampled("p", ((5, EOS), True), *(((i, EOS), False) for i in range(10, 30)))
    other = sampled("q", ((5, EOS), True), *(((i, EOS), False) for i in range(10, 30)))
    chosen = choose(Generated({"p": traces, "q": other}), 3, EOS, 0)
    assert [t.problem_id for t in chosen] == ["p"] * 3 + ["q"] * 3
    assert len({t.response_ids for t in chosen[:3]}) == 3
    assert choose(Generated({"p": traces[::-1]}), 3, EOS, 0) == chosen[:3]
    assert [t.response_ids for t in chosen[:3]] != [t.response_ids for t in chosen[3:]]
    drawn = {t.response_ids for seed in range(40) for t in choose(Generated({"p": traces}), 3, EOS, seed)}
    assert len(drawn) == 20


# --- what is written


def measured() -> pd.DataFrame:
    rows = []
    for policy, better in (("own", 0.0), ("other", 0.1)):
        for rule in RULES:
            for n in (4, 8, 16):
                for k in (1, 2):
                    exact = 0.5 + n / 100 + better + RULES.index(rule) / 50 + (k - 1) / 50
                    rows.append(
                        {"policy": policy, "rule": rule, "n": n, "k": k, "traces": 10, "found": 0.8, "exact": exact}
                        | {"early": 0.1, "late": 0.9 - exact, "distance": 0.25 * k, "tokens": 1000 * n}
                    )
    return pd.DataFrame(rows)


def test_the_table_has_n_then_k_then_policies() -> None:
    head, _, *lines = table(measured()).splitlines()
    assert head.count("|") == 11
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [tuple(row[:4]) for row in cells] == [
        *[("own", rule, n, "1") for rule in RULES for n in ("4", "8", "16")],
        *[("own", rule, "8", "2") for rule in RULES],
        *[("other", rule, "8", "1") for rule in RULES],
    ]
    assert lines[0] == "| own | argmin | 4 | 1 | 80.0 % | 54.0 % | 10.0 % | 36.0 % | 0.25 | 4,000 |"


def test_the_table_of_several_seeds_has_their_means() -> None:
    one, other = measured(), measured()
    other[["exact", "tokens"]] += [0.1, 501]
    found = table(pd.concat([one.assign(seed="0"), other.assign(seed="1")]))
    assert len(found.splitlines()) == len(table(one).splitlines())
    assert found.splitlines()[2] == "| own | argmin | 4 | 1 | 80.0 % | 59.0 % | 10.0 % | 36.0 % | 0.25 | 4,250 |"


def test_the_plot_shows_pits_found_at_their_place() -> None:
    left, right = plot(measured()).axes
    assert [line.get_label() for line in left.lines] == list(RULES)
    assert [line.get_label() for line in right.lines] == ["own", "other"]
    assert list(left.lines[0].get_xdata()) == [4, 8, 16]
    assert left.lines[0].get_ydata() == pytest.approx([0.8 * 0.54, 0.8 * 0.58, 0.8 * 0.66])
    assert right.lines[1].get_ydata() == pytest.approx([0.8 * 0.64, 0.8 * 0.68, 0.8 * 0.76])
    assert "own" in left.get_title()


def test_more_rollouts_than_are_drawn_are_refused(tmp_path: Path) -> None:
    rollouts = Rollouts(engine=FakeEngine(), store=tmp_path, rollouts=16)
    with pytest.raises(InputError, match=r"more than rollouts\.rollouts = 16"):
        credit(tmp_path, {}, Arithmetic(size=1), rollouts, rollout_counts=[4, 32])
