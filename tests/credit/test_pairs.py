"""The builders on small hand-made traces, and what must hold for any traces."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepneg.credit.pairs import (
    Built,
    Ids,
    Trace,
    Traces,
    advantage_weighted,
    distinct_positives,
    edit_distance,
    edit_distance_pairs,
    filtered_steps,
    first_pit_pairs,
    outcome_pairs,
    shared_prefix_pairs,
)

EOS = 0
EOS_IDS = frozenset({EOS, 99})
PROMPT = (7, 7)


def trace(*steps: Sequence[int], correct: bool = False, passes: Sequence[int] = (), problem: str = "p") -> Trace:
    """Steps as lists of tokens; ``passes`` are the correct ones of 5 rollouts a prefix."""
    response = tuple(token for step in steps for token in step)
    ends = tuple(sum(map(len, steps[: i + 1])) for i in range(len(steps)))
    return Trace(problem, PROMPT, response, correct, ends, tuple((5, c) for c in passes))


def pit_pairs(positives: Sequence[Trace], negatives: Sequence[Trace], **options: int) -> Built:
    return first_pit_pairs({"p": positives}, {"p": negatives}, k=5, eos_ids=EOS_IDS, **options)


RIGHT = trace([1, 2], [3], [4, EOS], correct=True)


# --- first_pit


@pytest.mark.parametrize(
    ("negative", "rejected"),
    [
        (trace([5, 6], [8], [9, EOS], passes=[4, 4, 0, 0]), (5, 6, 8)),
        (trace([5, 6], [8], [9, EOS], passes=[4, 0, 0, 0]), (5, 6)),  # the first step
        (trace([5, 6], [8], [9, EOS], passes=[4, 4, 4, 0]), (5, 6, 8, 9)),  # the last step: without EOS
        (trace([5, 6], [8], [9, 99], passes=[4, 4, 4, 0]), (5, 6, 8, 9)),  # whichever EOS
        (trace([5, 6], [8], [9, EOS], passes=[4, 4, 0]), (5, 6, 8)),  # counts end at the pit
        (trace([9, EOS], passes=[4, 0]), (9,)),  # a single step
        (trace([1, 2], [8], [4, EOS], passes=[4, 4, 0]), (1, 2, 8)),  # shares its first step with the positive
    ],
)
def test_first_pit_cuts_behind_the_pit(negative: Trace, rejected: Ids) -> None:
    (pair,), drops = pit_pairs([RIGHT], [negative])
    assert (pair.chosen_ids, pair.rejected_ids, pair.shared) == (RIGHT.response_ids, rejected, 0)
    assert (pair.problem_id, pair.prompt_ids) == ("p", PROMPT)
    assert not drops


@pytest.mark.parametrize(
    ("positives", "negative", "reason"),
    [
        ([], trace([5], [6, EOS], passes=[4, 0]), "no positive"),
        ([RIGHT], trace([1, 2], [3], [9, EOS], passes=[4, 4, 0]), "no positive"),  # the positive goes through the pit
        ([trace([1, 2], correct=True)], trace([5], [6, EOS], passes=[4, 0]), "no positive"),  # unfinished itself
        ([RIGHT], trace([5], [6], passes=[4, 0]), "unfinished"),
        ([RIGHT], trace([5], [6, EOS]), "no values"),
        ([RIGHT], trace([5], [6, EOS], passes=[4]), "no values"),
        ([RIGHT], trace([5], [6, EOS], passes=[0, 0, 0]), "unsolved"),
        ([RIGHT], trace([5], [6, EOS], passes=[1, 2, 1]), "no pit"),
        ([RIGHT], trace([EOS], passes=[4, 0]), "no positive"),  # nothing said: nothing to reject
    ],
)
def test_first_pit_says_why_not(positives: list[Trace], negative: Trace, reason: str) -> None:
    assert pit_pairs(positives, [negative]) == ([], {reason: 1})


def test_tolerance_and_k_are_read_time_choices() -> None:
    negative = {"p": [trace([5], [6, EOS], passes=[4, 3, 3])]}
    found = [
        len(first_pit_pairs({"p": [RIGHT]}, negative, k=k, eos_ids=EOS_IDS, tolerance=tolerance)[0])
        for k, tolerance in [(1, 0.1), (1, 0.3), (5, 0.0)]
    ]
    assert found == [1, 0, 0]


def test_duplicates_and_the_limit_are_counted() -> None:
    same = trace([5], [6, EOS], passes=[4, 0])
    cut_alike = trace([5], [8, EOS], passes=[4, 0])
    pairs, drops = pit_pairs([RIGHT], [same, same, cut_alike])
    assert [pair.rejected_ids for pair in pairs] == [(5,)]
    assert drops == {"duplicate": 2}
    many = [trace([i], [6, EOS], passes=[4, 0]) for i in range(10, 15)]
    pairs, drops = pit_pairs([RIGHT], many, max_pairs=3)
    assert (len(pairs), drops) == (3, {"over max_pairs": 2})


def test_a_duplicate_with_values_stands_for_one_without() -> None:
    pairs, drops = pit_pairs([RIGHT], [trace([5], [6, EOS], passes=[4, 0]), trace([5], [6, EOS])])
    assert (len(pairs), drops) == (1, {"duplicate": 1})


def test_positives_take_turns() -> None:
    positives = [trace([i], [4, EOS], correct=True) for i in range(20, 24)]
    negatives = [trace([i], [6, EOS], passes=[4, 0]) for i in range(10, 18)]
    pairs, _ = pit_pairs(positives, negatives)
    chosen = [pair.chosen_ids for pair in pairs]
    assert [chosen.count(positive.response_ids) for positive in positives] == [2, 2, 2, 2]


# --- shared_prefix


def test_shared_prefix_continues_from_before_the_pit() -> None:
    negative = trace([1, 2], [8, 9], [4, EOS], passes=[4, 4, 0])
    better, not_finished, wrong, same_step = (5, 4, EOS), (5, 4), (6, 4, EOS), (8, 9, 3, EOS)
    rollouts = {(*PROMPT, 1, 2): [(better, True), (not_finished, True), (wrong, False), (same_step, True)]}
    (pair,), drops = shared_prefix_pairs({}, {"p": [negative]}, rollouts, k=5, eos_ids=EOS_IDS)
    assert (pair.chosen_ids, pair.rejected_ids, pair.shared) == ((1, 2, 5, 4, EOS), (1, 2, 8, 9), 2)
    assert not drops


def test_shared_prefix_at_the_first_and_the_last_step() -> None:
    first = trace([8], [4, EOS], passes=[4, 0])
    (pair,), _ = shared_prefix_pairs({"p": [RIGHT]}, {"p": [first]}, {}, k=5, eos_ids=EOS_IDS)
    assert (pair.chosen_ids, pair.rejected_ids, pair.shared) == (RIGHT.response_ids, (8,), 0)
    last = trace([1, 2], [3], [9, EOS], passes=[4, 4, 4, 0])
    (pair,), _ = shared_prefix_pairs({"p": [RIGHT]}, {"p": [last]}, {}, k=5, eos_ids=EOS_IDS)
    assert (pair.chosen_ids, pair.rejected_ids, pair.shared) == (RIGHT.response_ids, (1, 2, 3, 9), 3)


@pytest.mark.parametrize("rollouts", [[], [((6, EOS), False)], [((8, 9, 4, EOS), True)], [((5, 4), True)]])
def test_shared_prefix_needs_a_correct_continuation_with_another_step(rollouts: list[tuple[Ids, bool]]) -> None:
    negative = trace([1, 2], [8, 9], [4, EOS], passes=[4, 4, 0])
    elsewhere = trace([3], [4, EOS], correct=True)
    built = shared_prefix_pairs(
        {"p": [elsewhere]}, {"p": [negative]}, {(*PROMPT, 1, 2): rollouts}, k=5, eos_ids=EOS_IDS
    )
    assert built == ([], {"no continuation": 1})


# --- outcome and edit distance


def test_outcome_pairs_are_whole() -> None:
    negative = trace([5], [6, EOS])
    (pair,), drops = outcome_pairs({"p": [RIGHT]}, {"p": [negative]}, eos_ids=EOS_IDS)
    assert (pair.chosen_ids, pair.rejected_ids, pair.shared) == (RIGHT.response_ids, negative.response_ids, 0)
    assert not drops
    assert outcome_pairs({}, {"p": [negative]}, eos_ids=EOS_IDS) == ([], {"no positive": 1})
    assert outcome_pairs({"p": [RIGHT]}, {"p": [trace([5])]}, eos_ids=EOS_IDS) == ([], {"unfinished": 1})


def test_edit_distance_takes_the_farthest() -> None:
    near, far, between = trace([1, 2], [3], [5, EOS]), trace([8, 8], [8], [8, 99]), trace([1, 8], [8], [4, EOS])
    for seed in range(5):
        pairs, _ = edit_distance_pairs(
            {"p": [RIGHT]}, {"p": [near, far, between]}, eos_ids=EOS_IDS, max_pairs=2, seed=seed
        )
        assert [pair.rejected_ids for pair in pairs] == [far.response_ids, between.response_ids]


def test_edit_distance_gives_each_positive_its_own() -> None:
    other = trace([8, 8], [8], [4, EOS], correct=True)
    near, far = trace([1, 2], [3], [5, EOS]), trace([8, 8], [8], [5, EOS])
    pairs, _ = edit_distance_pairs({"p": [RIGHT, other]}, {"p": [near, far]}, eos_ids=EOS_IDS)
    assert {pair.chosen_ids: pair.rejected_ids for pair in pairs} == {
        RIGHT.response_ids: far.response_ids,
        other.response_ids: near.response_ids,
    }
    assert edit_distance_pairs({}, {"p": [near, far]}, eos_ids=EOS_IDS) == ([], {"no positive": 2})


def levenshtein(a: Sequence[int], b: Sequence[int]) -> int:
    """The textbook table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


@settings(max_examples=300)
@given(st.lists(st.integers(0, 3), max_size=80), st.lists(st.integers(0, 3), max_size=80))
def test_edit_distance_is_levenshtein(a: list[int], b: list[int]) -> None:
    assert edit_distance(a, b) == levenshtein(a, b) / max(len(a), len(b), 1)


# --- positives


def test_distinct_positives_are_diverse() -> None:
    start, near, far = (trace(steps, correct=True) for steps in ([1, 2, 3], [1, 2, 3, 4], [8, 8, 8, 8, 8]))
    found = [near, start, far, start, trace([5]), trace([6], correct=True, problem="q")]
    for order in (found, found[::-1]):
        kept = distinct_positives(order, 2)
        assert kept["p"] == [start, far]
        assert len(kept["q"]) == 1
    assert distinct_positives(found, 9)["p"] == [start, far, near]
    assert distinct_positives(found, 0)["p"] == []


# --- weights


def test_advantage_weights_follow_equation_4() -> None:
    wrong = trace([5, 6], [8], [9, EOS], passes=[2, 4, 0])
    right = trace([1], [4, EOS], correct=True)
    responses = advantage_weighted([wrong, right], k=1, beta=0.5, clip=2.0)
    up, down = exp(0.4 / 0.5), exp(-0.8 / 0.5)
    assert up > 2
    assert responses[0].weights == pytest.approx((2.0, 2.0, down, 1.0, 1.0))
    assert advantage_weighted([wrong], k=1, beta=0.5)[0].weights[0] == pytest.approx(up)
    assert responses[1].weights == (1.0, 1.0, 1.0)
    assert responses[0].response_ids == wrong.response_ids
    assert advantage_weighted([wrong], k=1, beta=1e-6, clip=5.0)[0].weights[:3] == pytest.approx((5.0, 5.0, 0.0))


def test_filtered_steps_keep_the_good_ones() -> None:
    wrong = trace([5, 6], [8], [9, EOS], passes=[2, 4, 0])
    hopeless = trace([5], [EOS], passes=[3, 0])
    level = trace([5], [EOS], passes=[3, 3])
    unknown = trace([1], [4, EOS], correct=True)
    kept = filtered_steps([wrong, hopeless, level, unknown], k=5)
    assert [response.weights for response in kept] == [(0.0,) * 5][:0]  # best of 5: 2 of 5 is already 1
    kept = filtered_steps([wrong, hopeless, level, unknown], k=1)
    assert [(response.response_ids, response.weights) for response in kept] == [
        (wrong.response_ids, (1.0, 1.0, 0.0, 0.0, 0.0))
    ]


# --- checks


def test_what_cannot_be_is_refused() -> None:
    for ends in [(1,), (2, 2), (2, 1), (), (0, 2)]:
        with pytest.raises(ValueError, match="step ends"):
            Trace("p", PROMPT, (1, 2), True, ends)
    with pytest.raises(ValueError, match="counts"):
        trace([1], passes=[5, 5, 5])
    wrong = trace([5, EOS])
    with pytest.raises(ValueError, match="positives must be correct"):
        outcome_pairs({"p": [wrong]}, {"p": [wrong]}, eos_ids=EOS_IDS)
    with pytest.raises(ValueError, match="positives must be correct"):
        outcome_pairs({"p": [RIGHT]}, {"p": [RIGHT]}, eos_ids=EOS_IDS)
    with pytest.raises(ValueError, match="different prompts"):
        outcome_pairs({"p": [replace(RIGHT, prompt_ids=(1,))]}, {"p": [wrong]}, eos_ids=EOS_IDS)
    with pytest.raises(ValueError, match="best of 6"):
        first_pit_pairs({"p": [RIGHT]}, {"p": [trace([5, EOS], passes=[5, 0])]}, k=6, eos_ids=EOS_IDS)


# --- what holds for any traces

step_lists = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), min_size=1, max_size=4)


@st.composite
def traces(draw: st.DrawFn, correct: bool) -> Trace:
    steps = draw(step_lists)
    if draw(st.integers(0, 4)):
        steps[-1] = [*steps[-1], EOS]
    passes = draw(st.lists(st.integers(0, 5), max_size=len(steps) + 1))
    return trace(*steps, correct=correct, passes=passes, problem=draw(st.sampled_from("pq")))


def by_problem(found: Sequence[Trace]) -> dict[str, list[Trace]]:
    return {name: [t for t in found if t.problem_id == name] for name in dict.fromkeys(t.problem_id for t in found)}


def continuations_of(negatives: Traces) -> dict[Ids, list[tuple[Ids, bool]]]:
    """Two correct rollouts from before every step of every wrong solution."""
    return {
        PROMPT + t.response_ids[:end]: [((1, EOS), True), ((3, 3, EOS), True)]
        for found in negatives.values()
        for t in found
        for end in (0, *t.ends)
    }


Builder = Callable[[Traces, Traces], Built]
BUILDERS: dict[str, Builder] = {
    "first_pit": lambda p, n: first_pit_pairs(p, n, k=1, eos_ids=EOS_IDS, max_pairs=3),
    "shared_prefix": lambda p, n: shared_prefix_pairs(p, n, continuations_of(n), k=1, eos_ids=EOS_IDS, max_pairs=3),
    "outcome": lambda p, n: outcome_pairs(p, n, eos_ids=EOS_IDS, max_pairs=3),
    "edit_distance": lambda p, n: edit_distance_pairs(p, n, eos_ids=EOS_IDS, max_pairs=3),
}


@pytest.mark.parametrize("kind", BUILDERS)
@settings(max_examples=150, deadline=None)
@given(
    positives=st.lists(traces(correct=True), max_size=5),
    negatives=st.lists(traces(correct=False), max_size=8),
    shuffle=st.integers(0, 100),
)
def test_any_traces(kind: str, positives: list[Trace], negatives: list[Trace], shuffle: int) -> None:
    if {(t.problem_id, t.response_ids) for t in positives} & {(t.problem_id, t.response_ids) for t in negatives}:
        with pytest.raises(ValueError, match="both correct and wrong"):
            BUILDERS[kind](by_problem(positives), by_problem(negatives))
        return
    pairs, drops = BUILDERS[kind](by_problem(positives), by_problem(negatives))
    assert len(pairs) + sum(drops.values()) == len(negatives)
    assert all(drops.values())
    assert len({(pair.problem_id, pair.rejected_ids) for pair in pairs}) == len(pairs)
    for pair in pairs:
        assert pair.chosen_ids[-1] in EOS_IDS
        assert pair.chosen_ids[: pair.shared] == pair.rejected_ids[: pair.shared]
        assert pair.chosen_ids[: len(pair.rejected_ids)] != pair.rejected_ids
        assert len(pair.rejected_ids) > pair.shared
        own = [t for t in negatives if t.problem_id == pair.problem_id]
        if kind in ("outcome", "edit_distance"):
            assert any(pair.rejected_ids == t.response_ids for t in own)
        else:
            assert pair.rejected_ids[-1] not in EOS_IDS
            cuts = {t.response_ids[:end] for t in own for end in t.ends} | {t.response_ids[:-1] for t in own}
            assert pair.rejected_ids in cuts
        if kind != "shared_prefix":
            assert any(pair.chosen_ids == t.response_ids for t in positives if t.problem_id == pair.problem_id)

    rng = random.Random(shuffle)
    again_positives, again_negatives = rng.sample(positives, len(positives)), rng.sample(negatives, len(negatives))
    again, again_drops = BUILDERS[kind](by_problem(again_positives), by_problem(again_negatives))
    assert sorted(again, key=repr) == sorted(pairs, key=repr)
    assert again_drops == drops
    for name in "pq":
        alone, _ = BUILDERS[kind](by_problem(positives), {name: by_problem(negatives).get(name, [])})
        assert alone == [pair for pair in pairs if pair.problem_id == name]
