"""Where a solution of the generated task left the right course: wrong choices put in on purpose are found again."""

import random
import re
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stepneg.grading import grade
from stepneg.problems.arithmetic import (
    CHOICES,
    LARGEST,
    NEUTRALS,
    Arithmetic,
    Event,
    Story,
    course,
    draw_story,
    in_range,
    solve,
    true_pit,
    with_spurious_step,
)


def told(start: int, *events: tuple[str, int]) -> Story:
    """A story of Mia's; verbs: finds and loses count, admires does not, "friend finds" is not hers."""
    made = [
        Event("Mia", verb.removeprefix("friend "), amount, "friend" if verb.startswith("friend ") else "own")
        for verb, amount in events
    ]
    return Story("Mia", "coins", start, tuple(made))


def taken(story: Story, steps: Sequence[int], style: int = 0) -> tuple[str, list[int]]:
    """The solution that takes these steps, one an event, and calculates without a mistake."""
    left = iter(steps)
    return solve(story, lambda event: next(left), style)


def line_of(steps: Sequence[int], event: int) -> int:
    """The line (from 1) of the choice for an event: each event before has a line, and one for its sum."""
    return sum(1 + (step != 0) for step in steps[:event]) + 1


stories = st.builds(
    lambda seed, events, distractors: draw_story(random.Random(seed), events, distractors),
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.integers(0, 3),
)
styles = st.integers(0, 2**8 - 1)


# --- one wrong choice


@given(stories, st.data(), styles, styles)
def test_a_wrong_choice_is_the_pit(story: Story, data: st.DataObject, teacher_style: int, style: int) -> None:
    teacher, _ = solve(story, style=teacher_style)
    event = data.draw(st.integers(0, len(story.events) - 1))
    steps = [e.effect for e in story.events]
    steps[event] = data.draw(st.sampled_from([s for s in CHOICES if s != steps[event]]))
    response, _ = taken(story, steps, style)
    pit = true_pit(teacher, response)
    assert pit == line_of(steps, event)
    words = story.events[event].words
    assert response.splitlines()[pit - 1].lower().removeprefix("then ") == f"{words.lower()}: {CHOICES[steps[event]]}."


@given(stories, styles, styles)
def test_a_right_solution_has_no_pit(story: Story, teacher_style: int, style: int) -> None:
    teacher, _ = solve(story, style=teacher_style)
    assert true_pit(teacher, solve(story, style=style)[0]) is None
    assert true_pit(teacher, teacher.replace("\n", "\n\n") + "\n") is None  # blank lines are no lines


@given(stories, st.integers(0, 10))
def test_blank_lines_do_not_count(story: Story, place: int) -> None:
    teacher, quantities = solve(story)
    lines = teacher.splitlines()
    wrong = [*lines[:-1], f"#### {quantities[-1] + 1}"]
    blank = min(place, len(lines) - 1)
    assert true_pit(teacher, "\n".join([*wrong[:blank], "", " ", *wrong[blank:]])) == len(lines)


STORY = told(12, ("finds", 5), ("admires", 3), ("loses", 4))
TEACHER, _ = solve(STORY)
RIGHT = TEACHER.splitlines()


def test_the_teacher_is_as_the_examples_think() -> None:
    assert RIGHT == [
        "Mia finds 5: add.",
        "12 + 5 = 17",
        "Mia admires 3: skip.",
        "Mia loses 4: take.",
        "17 - 4 = 13",
        "#### 13",
    ]


@pytest.mark.parametrize(
    ("changed", "pit"),
    [
        ({2: "12 + 5 = 18", 5: "18 - 4 = 14", 6: "#### 14"}, 2),  # a slip of arithmetic
        ({5: "17 - 4 = 14", 6: "#### 14"}, 5),
        ({6: "#### 14"}, 6),
        ({2: "12 + 5 = 18", 6: "#### 14"}, 6),  # a slip, mended by the next sum
        ({1: "Mia finds 6: add.", 2: "12 + 6 = 18", 5: "18 - 4 = 14", 6: "#### 14"}, 1),  # another amount read
        ({1: "Tom finds 5: add.", 6: "#### 14"}, 1),  # another person: what was read stays wrong
        ({3: "I do not know.", 6: "#### 14"}, 3),  # and the third event was not read
        ({4: "I do not know.\nMia loses 4: take.", 6: "#### 14"}, 7),  # beside the course, and back
        ({3: "Mia admires 3: add.\n17 + 3 = 20", 5: "20 - 4 = 16", 6: "#### 16"}, 3),
        ({3: "", 6: "#### 1"}, 3),  # an event passed over
        ({4: "Mia loses 4: take.\nMia loses 4: take."}, None),
        ({4: "Mia loses 4: take.\nMia loses 4: take.", 6: "#### 9"}, 5),  # an event read twice
    ],
    ids=str,
)
def test_the_line_that_leaves_for_good(changed: dict[int, str], pit: int | None) -> None:
    response = "\n".join(changed.get(number, line) for number, line in enumerate(RIGHT, 1))
    assert true_pit(TEACHER, response) == pit


def test_a_right_answer_has_no_pit_whatever_stands_before() -> None:
    assert true_pit(TEACHER, "Mia admires 3: add.\n12 + 1 = 13\n#### 13") is None
    assert true_pit(TEACHER, "#### 13") is None
    assert true_pit(TEACHER, "") is None


# --- two wrong choices that cancel


@given(
    events=st.lists(
        st.tuples(st.sampled_from(["finds", "loses", "admires"]), st.integers(2, 3)), min_size=2, max_size=7
    ),
    data=st.data(),
)
def test_who_comes_back_has_not_left_for_good(events: list[tuple[str, int]], data: st.DataObject) -> None:
    """Directions are mistaken, nothing else: the pit is the first mistake behind the last place on the course."""
    story = told(30, *events)
    teacher, right = solve(story)
    flips = data.draw(st.lists(st.sampled_from([1, 1, -1]), min_size=len(events), max_size=len(events)))
    steps = [flip * e.effect for flip, e in zip(flips, story.events, strict=True)]
    response, quantities = taken(story, steps)
    pit = true_pit(teacher, response)
    if quantities[-1] == right[-1]:
        assert pit is None
        return
    last = max(k for k in range(len(events)) if quantities[k] == right[k])  # before event `last` all was well
    assert pit == line_of(steps, last)


def test_two_wrong_steps_that_cancel_and_a_later_one() -> None:
    story = told(12, ("finds", 5), ("loses", 5), ("admires", 3), ("finds", 6))
    teacher, _ = solve(story)
    assert true_pit(teacher, taken(story, [-1, 1, 0, 1])[0]) is None
    assert true_pit(teacher, taken(story, [-1, 1, 0, -1])[0]) == 6
    assert true_pit(teacher, taken(story, [-1, 1, 1, 1])[0]) == 5
    assert true_pit(teacher, taken(story, [-1, -1, 0, 1])[0]) == 1
    assert true_pit(teacher, taken(story, [1, 1, 0, 1])[0]) == 3


@pytest.mark.parametrize(
    ("story", "steps", "pit"),
    [
        # Both skipped: back at the teacher's 14 with "skip" where the teacher is "done".
        (told(12, ("finds", 2), ("finds", 5), ("loses", 5), ("finds", 6)), [1, 0, 0, -1], 5),
        # Both skipped, and no sum yet: the quantity is the 12 of the question for both.
        (told(12, ("finds", 5), ("loses", 5), ("finds", 6)), [0, 0, -1], 3),
        # Two distractors counted that cancel: "done" where the teacher is "skip".
        (told(12, ("finds", 2), ("friend finds", 5), ("friend loses", 5), ("finds", 6)), [1, 1, -1, -1], 7),
        # -1 + 9 = 8 is no sum line for course(), since it begins with a minus.
        (told(8, ("finds", 9), ("loses", 9), ("finds", 6)), [-1, 1, -1], 5),
    ],
    ids=["both skipped", "both skipped at the start", "both counted", "from below 0"],
)
def test_every_way_back_is_one(story: Story, steps: list[int], pit: int) -> None:
    assert true_pit(solve(story)[0], taken(story, steps)[0]) == pit


@pytest.mark.parametrize("lines", [1, 2, 5])
def test_a_pit_is_a_line_of_the_solution(lines: int) -> None:
    """It stopped where it should have gone on (EOS is part of the last line)."""
    assert true_pit(TEACHER, "\n".join(RIGHT[:lines])) == lines


def test_a_course_says_what_is_read_and_where_it_stands() -> None:
    places = course(TEACHER)
    assert len(places) == len(RIGHT)
    assert places[0] == ("mia finds 5", "", "add")
    assert places[3] == ("mia finds 5", "mia admires 3", "mia loses 4", "17", "take")
    assert places[4] == ("mia finds 5", "mia admires 3", "mia loses 4", "13", "done")
    assert places[5] == ("#### 13",)
    assert len(set(places)) == len(places)
    assert course("Then Mia finds 5: add.\n\n12 + 5 = 17") == places[:2]
    assert course("so it is\n12 + 5 = 17") == [("so it is",), ("17", "done")]


# --- a step made wrong on purpose

SKIP = re.compile(r".* ([0-9]+): skip\.")
SUM = re.compile(r"([0-9]+) ([+-]) ([0-9]+) = ([0-9]+)")


@given(stories, styles, st.integers(0, 10**6))
def test_a_spurious_step_leaves_the_answer(story: Story, style: int, seed: int) -> None:
    solution, quantities = solve(story, style=style)
    assume(in_range(quantities))
    lines = solution.splitlines()
    made = with_spurious_step(solution, random.Random(seed))
    sums = [i for i, line in enumerate(lines) if SUM.fullmatch(line)]
    places = [i for i, line in enumerate(lines) if SKIP.fullmatch(line) and sums and i > sums[0]]
    assert (made is None) == (not places)
    if made is None:
        return
    text, number = made
    changed = text.splitlines()
    place = number - 1
    assert place in places
    assert changed[:place] == lines[:place]
    assert changed[place + 2 :] == lines[place + 1 :]
    assert re.sub(r"(add|take)\.$", "skip.", changed[place]) == lines[place]
    shown = int(SUM.fullmatch(lines[max(i for i in sums if i < place)])[4])
    old, sign, amount, new = SUM.fullmatch(changed[place + 1]).groups()
    assert int(old) == shown
    assert amount == SKIP.fullmatch(lines[place])[1]
    assert changed[place].endswith(": add." if sign == "+" else ": take.")
    assert int(new) == shown + int(sign + amount)
    assert all(0 <= int(n) <= LARGEST for n in re.findall(r"-?\b[0-9]+", text.replace(" - ", " ")))
    assert grade(text, str(quantities[-1]), "gsm8k").correct
    assert true_pit(solution, text) is None


@pytest.mark.parametrize(("start", "verb"), [(LARGEST, "add"), (0, "take")])
def test_a_spurious_step_stays_in_the_tasks_range(start: int, verb: str) -> None:
    """With the quantity at an end of the range, one of the two choices is left."""
    first = ("loses", 2) if verb == "add" else ("finds", 2)
    back = ("finds", 2) if verb == "add" else ("loses", 2)
    solution, quantities = solve(told(start, first, back, ("admires", 5)))
    assert in_range(quantities)
    made = {with_spurious_step(solution, random.Random(seed)) for seed in range(20)}
    other = "take" if verb == "add" else "add"
    assert {text.splitlines()[number - 1] for text, number in made} == {f"Mia admires 5: {other}."}


def test_every_skip_and_both_choices_are_taken() -> None:
    solution, _ = solve(told(20, ("admires", 9), ("finds", 5), ("admires", 3), ("friend finds", 4), ("loses", 6)))
    made = {with_spurious_step(solution, random.Random(seed)) for seed in range(60)}
    # The skip before the first sum is left alone: the quantity stands in the question only.
    assert {(number, text.splitlines()[number - 1].rsplit(": ", 1)[1]) for text, number in made} == {
        (number, choice) for number in (4, 5) for choice in ("add.", "take.")
    }


@pytest.mark.parametrize("text", ["", "#### 3", "Mia admires 3: skip.\n#### 12", TEACHER.replace("skip", "omit")])
def test_nothing_to_make_wrong(text: str) -> None:
    assert with_spurious_step(text, random.Random(0)) is None


def test_generated_problems_offer_spurious_steps() -> None:
    """Half of the problems or more, if they have distractors: enough for a study."""
    problems = Arithmetic(size=300, max_distractors=3).load()
    made = [with_spurious_step(p.solution, random.Random(p.id)) for p in problems]
    assert sum(m is not None for m in made) > 0.5 * sum(p.meta["distractors"] > 0 for p in problems)
    assert not any(m and m[0] == p.solution for m, p in zip(made, problems, strict=True))
    assert "admires" in NEUTRALS
