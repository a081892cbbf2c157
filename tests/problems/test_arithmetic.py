import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepneg.problems.arithmetic import (
    GAINS,
    LOSSES,
    MISREADINGS,
    NEUTRALS,
    Arithmetic,
    careless_reading,
    careless_texts,
    draw_story,
    in_range,
    misreading,
    solve,
)
from stepneg.problems.splits import split_of

CHOICE = re.compile(r"^(?:Then )?(.+) (\d+): (add|take|skip)\.$")
SUM = re.compile(r"^(\d+) ([+-]) (\d+) = (-?\d+)$")


def test_splits_are_disjoint_and_stable():
    sets = {
        split: {p.question for p in Arithmetic(split=split, size=400).load()}
        for split in ("train", "validation", "test")
    }
    assert not sets["train"] & sets["validation"]
    assert not sets["train"] & sets["test"]
    assert not sets["validation"] & sets["test"]
    assert all(split_of(q) == split for split, questions in sets.items() for q in questions)


def test_a_larger_set_begins_with_the_smaller_one():
    assert Arithmetic(size=50).load() == Arithmetic(size=80).load()[:50]
    assert Arithmetic(size=50).load() != Arithmetic(size=50, seed=1).load()


@pytest.mark.parametrize("problem", Arithmetic(size=100, seed=5, max_distractors=3).load(), ids=lambda p: p.id)
def test_solutions_are_right_line_by_line(problem):
    *lines, last = problem.solution.splitlines()
    told = [sentence.rsplit(" ", 2)[:2] for sentence in re.findall(r"[^.?]+(?=\.)", problem.question)]
    (opening, start), *events = [(words.strip(), amount) for words, amount in told]
    name = opening.removesuffix(" has")
    quantity, changes = int(start), 0
    left = iter(lines)
    for words, amount in events:
        said, stated, choice = CHOICE.match(next(left)).groups()
        assert (said.lower(), stated) == (words.lower(), amount)
        subject, verb = words.rsplit(" ", 1)
        meaning = "add" if verb in GAINS else "take" if verb in LOSSES else "skip"
        assert choice == (meaning if subject == name else "skip")
        if choice != "skip":
            old, sign, change, new = SUM.match(next(left)).groups()
            assert (int(old), sign, change) == (quantity, "+" if choice == "add" else "-", amount)
            quantity += int(change) if sign == "+" else -int(change)
            assert int(new) == quantity
            changes += 1
    assert not list(left)
    assert last == f"#### {quantity}" == f"#### {problem.answer}"
    assert changes == problem.meta["events"]
    assert len(events) == problem.meta["events"] + problem.meta["distractors"]


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 4))
@settings(max_examples=200, deadline=None)
def test_a_careless_author_never_breaks_arithmetic(seed, events, distractors):
    rng = random.Random(seed)
    story = draw_story(rng, events, distractors)
    solution, quantities = solve(story, careless_reading(rng))
    assert solution.endswith(f"#### {quantities[-1]}")
    quantity = story.start
    for line in solution.splitlines():
        if found := re.match(r"(-?\d+) ([+-]) (\d+) = (-?\d+)$", line):
            assert int(found[1]) == quantity
            quantity += int(found[2] + found[3])
            assert int(found[4]) == quantity
    assert quantity == quantities[-1]


def test_wrong_steps_sometimes_meet_the_right_answer():
    rng = random.Random(0)
    wrong = spurious = 0
    for _ in range(3000):
        story = draw_story(rng, 3, 1)
        solution, quantities = solve(story, careless_reading(rng))
        truth, right = solve(story)
        wrong += solution != truth
        spurious += solution != truth and quantities[-1] == right[-1]
    assert 0.02 < spurious / wrong < 0.3


def test_misreadings_are_half_rare_half_common_and_wrong():
    rates = [m.rate for m in MISREADINGS.values()]
    assert 0.35 < sum(r > 0.4 for r in rates) / len(rates) < 0.65
    assert misreading("own", "finds") == MISREADINGS["own", "finds"]
    rng = random.Random(1)
    for _ in range(300):
        for event in draw_story(rng, 3, 2).events:
            assert MISREADINGS[event.role, event.verb].step != event.effect


def test_a_problem_has_several_right_solutions():
    story = draw_story(random.Random(0), 3, 1)
    solutions = {solve(story, style=style)[0] for style in range(2**4)}
    assert len(solutions) == 2**4
    assert len({solution.rsplit("#### ", 1)[1] for solution in solutions}) == 1


def test_no_verb_has_two_meanings():
    assert len({*GAINS, *LOSSES, *NEUTRALS}) == len(GAINS) + len(LOSSES) + len(NEUTRALS)


def test_pretraining_text_comes_from_the_train_split_only():
    texts = careless_texts(0, 4, 2)
    for _ in range(300):
        question, solution = next(texts)
        assert split_of(question) == "train"
        assert in_range([int(n) for n in re.findall(r"\d+", solution)])
