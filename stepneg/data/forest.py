"""Rows that share tokens, as trees: each token of a prompt, a shared prefix or a repeated solution stands once.

A problem's pairs repeat its prompt and its correct solutions. Sorted, rows share what they have in common with the row
before, so that one pass gives a forest in preorder, a tree a prompt. A token's ancestors are the tokens before it in
every row that holds it; with their number as its position, a causal model computes the same from either form.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepneg.credit.search import common
from stepneg.data.rows import IGNORED, Example, Row, collate


def plant(rows: Sequence[Row]) -> tuple[NDArray[np.int64], list[NDArray[np.int64]], list[int]]:
    """The forest of some rows: depth [N] of each token in preorder, each row's path through it, and the token ids.

    Rows of different prompts share nothing, even where the prompts begin alike: their trees stay apart.
    """
    order = sorted(range(len(rows)), key=lambda i: (rows[i].prompt_ids, rows[i].response_ids))
    paths: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(rows)
    depths: list[NDArray[np.int64]] = []
    ids: list[int] = []
    for before, i in pairwise([None, *order]):
        assert i is not None
        tokens = rows[i].prompt_ids + rows[i].response_ids
        shared = 0
        if before is not None and rows[before].prompt_ids == rows[i].prompt_ids:
            shared = common(rows[before].prompt_ids + rows[before].response_ids, tokens)
        new = np.arange(len(ids), len(ids) + len(tokens) - shared)
        paths[i] = np.concatenate([paths[before][:shared], new]) if before is not None else new
        depths.append(np.arange(shared, len(tokens)))
        ids += tokens[shared:]
    return np.concatenate(depths), paths, ids


def forest(rows: Sequence[Row], labels: Tensor) -> dict[str, Tensor]:
    """What a model needs beside a padded batch to compute its log-probabilities from distinct tokens only.

    Args:
        rows: the rows of the batch.
        labels: theirs, [B, T], -100 where a token carries no loss.

    Returns:
        ``tree_ids`` and ``tree_depth`` [N], the distinct tokens in preorder and how many ancestors each has;
        ``tree_parent`` and ``tree_target`` [E], the edges that carry loss: the place whose logits predict, and what;
        ``tree_edge`` [B, T-1], the edge of each label behind the first place, 0 where there is none. Without any label
        there is one edge, so that the head is computed on every rank of several.
    """
    depth, paths, ids = plant(rows)
    nodes = np.zeros(labels.shape, np.int64)
    for i, path in enumerate(paths):
        nodes[i, : len(path)] = path
    carries = (labels[:, 1:] != IGNORED).numpy()
    child, edge = np.unique(nodes[:, 1:][carries], return_inverse=True)
    parent = np.zeros(len(ids), np.int64)
    parent[nodes[:, 1:][carries]] = nodes[:, :-1][carries]
    edges = np.zeros(carries.shape, np.int64)
    edges[carries] = edge
    child = child if child.size else np.zeros(1, np.int64)
    tokens = torch.tensor(ids)
    return {
        "tree_ids": tokens,
        "tree_depth": torch.from_numpy(depth),
        "tree_parent": torch.from_numpy(parent[child]),
        "tree_target": tokens[torch.from_numpy(child)],
        "tree_edge": torch.from_numpy(edges),
    }


def batched(examples: Sequence[Example], pad_id: int, packed: bool) -> dict[str, Tensor]:
    """The padded batch of :func:`stepneg.data.rows.collate`, with a forest beside it if it is to be packed."""
    batch = collate(examples, pad_id)
    return batch | forest([row for example in examples for row in example], batch["labels"]) if packed else batch
