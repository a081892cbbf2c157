"""The comma rule: a step a node of a path, on real tokens of star graphs."""

import re
from functools import cache, partial
from itertools import accumulate, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from stepneg.credit.steps import comma_ends, split_steps
from stepneg.data.rows import decode, encode_response
from stepneg.initialise import train_tokenizer
from stepneg.problems.star_graph import StarGraph

PROBLEMS = StarGraph(size=50, arms=3, length=5, nodes=200).load()


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer([f"{p.question}{p.solution}" for p in PROBLEMS], vocabulary=320)


def steps_of(text: str) -> list[str]:
    """The text of each step, where every character is a token."""
    ends = split_steps(range(len(text)), lambda ids: "".join(text[i] for i in ids), "comma")
    return [text[start:end] for start, end in pairwise([0, *ends])]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("", []),
        (" ", []),
        ("\n\n", []),
        ("4", [1]),
        ("4,", [2]),
        ("4,9,2", [2, 4, 5]),
        ("4,9,2,", [2, 4, 6]),
        ("14,9", [3, 4]),
        (",", [1]),
        (",,4", [1, 2, 3]),
    ],
)
def test_a_step_ends_behind_its_comma(text: str, ends: list[int]) -> None:
    assert comma_ends(text) == ends


@given(st.text("0123456789,|/=", max_size=30))
@example("")
@example(",")
def test_steps_are_the_pieces_that_commas_close(text: str) -> None:
    pieces = re.findall("[^,]*,|[^,]+", text)
    assert comma_ends(text) == list(accumulate(map(len, pieces)))
    assert steps_of(text) == pieces


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("4,9,2\n", ["4,", "9,", "2\n"]),
        ("4,9,\n\n", ["4,", "9,\n\n"]),
        ("4,\n9", ["4,\n", "9"]),
        ("4, 9", ["4,", " 9"]),
        (" ", [" "]),
        ("\n", ["\n"]),
    ],
)
def test_blanks_are_no_steps(text: str, steps: list[str]) -> None:
    assert steps_of(text) == steps


@pytest.mark.parametrize("blanks", [" ", "  \t"])
def test_blanks_behind_the_last_comma_belong_to_it(blanks: str) -> None:
    assert steps_of(f"4,9,{blanks}") == ["4,", f"9,{blanks}"]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.id)
def test_a_step_is_a_node(problem) -> None:
    ids = encode_response(tokenizer(), problem.solution)
    ends = split_steps(ids, partial(decode, tokenizer()), "comma")
    *nodes, goal = problem.solution.split(",")
    texts = [tokenizer().decode(list(ids[start:end])) for start, end in pairwise([0, *ends])]
    assert texts == [*(f"{node}," for node in nodes), f"{goal}</s>"]  # EOS belongs to the last one


def test_a_token_over_a_comma_ends_the_step() -> None:
    pieces = ["4", ",9", ",", "2"]
    assert split_steps(range(4), lambda ids: "".join(pieces[i] for i in ids), "comma") == [2, 3, 4]


@given(data=st.data())
def test_any_ids_are_put_together_from_their_steps(data: st.DataObject) -> None:
    comma = tokenizer().convert_tokens_to_ids(",")
    token = st.one_of(st.just(comma), st.integers(0, len(tokenizer()) - 1))
    ids = data.draw(st.lists(token, max_size=40))
    ends = split_steps(ids, partial(decode, tokenizer()), "comma")
    assert [token for start, end in pairwise([0, *ends]) for token in ids[start:end]] == ids
    assert all(start < end for start, end in pairwise([0, *ends]))
    inner = [
        start
        for start, (last, next_) in enumerate(pairwise(ids), 1)
        if last == comma and decode(tokenizer(), [next_]).isalnum()
    ]
    assert set(inner) <= set(ends)  # a comma that something follows


def test_rules_differ() -> None:
    ids = encode_response(tokenizer(), "4,9,2")
    assert [len(split_steps(ids, partial(decode, tokenizer()), rule)) for rule in ("line", "comma")] == [1, 3]
