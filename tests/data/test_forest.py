"""Forests of shared tokens: every row is a path, nothing stands twice, and labels are edges."""

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from stepneg.data.forest import batched, forest, plant
from stepneg.data.rows import IGNORED, Row, collate

tokens = st.lists(st.integers(0, 3), min_size=1, max_size=6).map(tuple)
row = st.builds(lambda p, r, s: Row(p[:3], r, min(s, len(r) - 1)), tokens, tokens, st.integers(0, 5))
rows = st.lists(row, min_size=1, max_size=8)


def prefixes(found: list[Row]) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Each distinct token as (prompt, tokens up to it)."""
    texts = [(row.prompt_ids, row.prompt_ids + row.response_ids) for row in found]
    return {(prompt, text[: i + 1]) for prompt, text in texts for i in range(len(text))}


@given(rows)
def test_every_row_is_a_path_and_no_token_stands_twice(found: list[Row]) -> None:
    depth, paths, ids = plant(found)
    assert len(ids) == len(depth) == len(prefixes(found))
    for row, path in zip(found, paths, strict=True):
        assert tuple(ids[i] for i in path) == row.prompt_ids + row.response_ids
        assert depth[path].tolist() == list(range(len(row)))
        assert all(a < b for a, b in pairwise(path.tolist()))  # ancestors come first
    assert {i for path in paths for i in path.tolist()} == set(range(len(ids)))


@given(rows)
def test_it_is_in_preorder(found: list[Row]) -> None:
    """The path back from a token, always to the last token of one less depth, is the row that holds it."""
    depth, paths, ids = plant(found)
    texts = set()
    for place, level in enumerate(depth.tolist()):
        path = [place]
        while depth[path[0]]:
            path.insert(0, max(i for i in range(path[0]) if depth[i] == depth[path[0]] - 1))
        assert len(path) == level + 1
        texts.add(tuple(ids[i] for i in path))
    assert texts == {text for _, text in prefixes(found)}
    assert len(paths) == len(found)


@given(rows)
def test_edges_are_the_labels(found: list[Row]) -> None:
    batch = batched([(row,) for row in found], 0, packed=True)
    carries = batch["labels"][:, 1:] != IGNORED
    edge = batch["tree_edge"]
    assert (edge[~carries] == 0).all()
    assert torch.equal(batch["tree_target"][edge[carries]], batch["labels"][:, 1:][carries])
    parent = batch["tree_parent"][edge[carries]]
    assert torch.equal(batch["tree_ids"][parent], batch["input_ids"][:, :-1][carries])
    assert torch.equal(batch["tree_depth"][parent], carries.nonzero()[:, 1])
    assert sorted(set(edge[carries].tolist())) == list(range(len(batch["tree_target"])))


def test_prompts_that_begin_alike_stay_apart() -> None:
    found = [Row((1, 2), (3,)), Row((1, 2, 4), (3,)), Row((1, 2), (4, 3))]
    depth, _, ids = plant(found)
    assert ids == [1, 2, 3, 4, 3, 1, 2, 4, 3]
    assert depth.tolist() == [0, 1, 2, 2, 3, 0, 1, 2, 3]


def test_a_pair_costs_its_distinct_tokens() -> None:
    chosen, rejected = Row((1, 2), (3, 4, 5), 1, None, -1.0), Row((1, 2), (3, 6), 1, None, -2.0)
    batch = batched([(chosen, rejected)], 0, packed=True)
    assert batch["tree_ids"].tolist() == [1, 2, 3, 4, 5, 6]
    assert batch["tree_target"].tolist() == [4, 5, 6]  # the shared 3 is context
    assert batch["tree_parent"].tolist() == [2, 3, 2]
    assert batch["tree_edge"].tolist() == [[0, 0, 0, 1], [0, 0, 2, 0]]
    plain = collate([(chosen, rejected)], 0)
    assert {name: value.tolist() for name, value in batch.items() if name in plain} == {
        name: value.tolist() for name, value in plain.items()
    }
    assert "tree_ids" not in batched([(chosen, rejected)], 0, packed=False)


def test_nothing_to_learn_is_one_edge_without_a_label() -> None:
    """So that a rank without examples computes the head too, as the others wait for its gradients."""
    row = Row((1, 2), (3, 4), shared=2)
    labels = collate([(row,)], 0)["labels"]
    tree = forest([row], labels)
    assert (tree["tree_parent"].tolist(), tree["tree_target"].tolist()) == ([0], [1])
    assert not tree["tree_edge"].any()
