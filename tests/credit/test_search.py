"""The search for pits: what is counted, what is asked, and the stated error, by simulation."""

import random
from math import ceil, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepneg.credit.search import LEAST, Search, common, patience
from stepneg.credit.values import first_pit, step_values

ids = st.lists(st.integers(0, 2), min_size=1, max_size=10)


def cut(response: list[int], rng: random.Random) -> tuple[int, ...]:
    """Ends of random steps."""
    return (*sorted(rng.sample(range(1, len(response)), rng.randint(0, len(response) - 1))), len(response))


@given(ids, st.lists(st.tuples(st.integers(0, 9), ids, st.booleans()), max_size=12), st.randoms(use_true_random=False))
def test_a_response_counts_for_the_prefixes_that_it_passes_through(
    response: list[int], others: list[tuple[int, list[int], bool]], rng: random.Random
) -> None:
    ends = cut(response, rng)
    search = Search(response, ends, 99)
    for start, other, right in others:
        search.see(start, other, right)
    for prefix, end in enumerate(ends[:-1], 1):
        through = [right for start, other, right in others if start <= end and other[:end] == response[:end]]
        assert (search.seen[prefix], search.right[prefix]) == (len(through), sum(through))
    solved = [i for i in range(1, len(ends)) if search.right[i]]
    assert search.solved == max(solved, default=0)


def run(values: list[float], many: int, rng: random.Random, jump: float = 0.0) -> tuple[int, int]:
    """The pit that a search finds where a rollout that ends behind prefix i is right with ``values[i - 1]``.

    With probability ``jump`` a rollout goes through the next prefix, and so on. Returns the number of rollouts, too.
    """
    steps = len(values) + 1
    search = Search(range(steps), range(1, steps + 1), many)
    spent = 0
    while (question := search.ask()) is not None:
        prefix, more = question
        for _ in range(more):
            spent += 1
            reached = prefix
            while reached < steps - 1 and rng.random() < jump:
                reached += 1
            search.see(prefix, [*range(reached), -1], rng.random() < values[reached - 1])
    return search.pit, spent


def test_questions_double_and_end() -> None:
    search = Search([1, 2, 3], [1, 2, 3], 12)
    asked = []
    while (question := search.ask()) is not None:
        asked.append(question)
        for _ in range(question[1]):
            search.see(question[0], [*[1, 2, 3][: question[0]], 9], False)
    assert asked == [(1, 1), (1, 1), (1, 2), (1, 4), (1, 4)]
    assert search.pit == 1
    assert search.counts(5) == [(12, 0)]


def test_nothing_known_for_nothing_is_asked_again() -> None:
    search = Search([1, 2, 3, 4], [1, 2, 3, 4], 12)
    search.see(0, [1, 2, 7], True)  # another solution, right: the first two prefixes can be solved
    for _ in range(5):
        search.see(0, [1, 2, 3, 9], False)
    assert search.ask() == (3, 5)
    search.see(3, [1, 2, 3, 8], True)
    assert search.ask() is None
    assert search.pit == 4
    assert search.counts(8) == [(6, 1), (6, 1), (6, 1), (8, 0)]
    assert first_pit(step_values([(16, 8), *search.counts(8)], 1)) == 4


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), max_size=6),
    st.integers(1, 20),
    st.floats(0, 0.9),
    st.randoms(use_true_random=False),
)
def test_the_counts_tell_the_rule_the_same_pit(values: list[float], many: int, jump: float, rng: random.Random) -> None:
    steps = len(values) + 1
    search = Search(range(steps), range(1, steps + 1), many)
    while (question := search.ask()) is not None:
        for _ in range(question[1]):
            reached = question[0] + (rng.random() < jump and question[0] < steps - 1)
            search.see(question[0], [*range(reached), -1], rng.random() < values[reached - 1])
    counts = search.counts(3)
    assert len(counts) == search.pit
    assert [c == 0 for _, c in counts] == [False] * (search.pit - 1) + [True]
    assert first_pit(step_values([(4, 2), *counts], 1)) == search.pit


@pytest.mark.parametrize("jump", [0.0, 0.3, 0.6])
@pytest.mark.parametrize(("value", "many"), [(0.1, 12), (0.2, 12), (0.3, 6), (0.05, 30)])
def test_a_prefix_is_lost_by_mistake_no_oftener_than_stated(value: float, many: int, jump: float) -> None:
    """One prefix of value q before a pit, and three: errors stay below (1 - q)^m a prefix, whatever passes through."""
    rng = random.Random(f"{value}/{many}/{jump}")
    trials = 3000
    for before in (1, 3):
        # The last rollouts before the pit make up for those that fall into it: every prefix has the value.
        values = [value] * (before - 1) + [value / (1 - jump), 0.0, 0.0]
        mistakes = sum(run(values, many, rng, jump)[0] <= before for _ in range(trials))
        bound = min(1.0, before * (1 - value) ** many)
        assert mistakes / trials <= bound + 3 * (bound * (1 - bound) / trials) ** 0.5
    if jump == 0:  # and no more careful than stated
        alone = sum(run([value, 0.0], many, rng)[0] == 1 for _ in range(trials)) / trials
        assert alone >= (1 - value) ** many * 0.8 - 3 * ((1 - value) ** many / trials) ** 0.5


@given(st.lists(st.floats(0, 1), max_size=5), st.integers(1, 12), st.randoms(use_true_random=False))
def test_a_prefix_that_is_never_solved_is_never_passed(values: list[float], many: int, rng: random.Random) -> None:
    lost = values.index(0.0) + 1 if 0.0 in values else len(values) + 1
    assert run(values, many, rng)[0] <= lost


@given(st.floats(0.01, 1), st.floats(0.001, 0.5), st.integers(1, 100))
def test_patience_is_what_the_error_takes(solved: float, error: float, most: int) -> None:
    many = patience(solved, error, most)
    assert many <= most
    if LEAST < many < most:
        assert (1 - solved) ** many <= error < (1 - solved) ** (many - 1) * (1 + 1e-9)
        assert many == ceil(log(error) / log(1 - solved))
    if many < most:
        assert many >= LEAST
    assert patience(1.0, error, 100) == LEAST


@given(ids, ids)
def test_common_tokens(first: list[int], second: list[int]) -> None:
    shared = common(first, second)
    assert first[:shared] == second[:shared]
    assert first[: shared + 1] != second[: shared + 1] or shared == min(len(first), len(second))
