"""Causal attention on a forest of tokens in preorder: each token sees its ancestors and itself, nothing else.

Registered with transformers as "tree", so that its causal models take it. On a CPU each unbranched stretch of a tree
attends to the path that leads to it, so that no masked product is computed; on a GPU flex_attention leaves out the
blocks that the mask empties.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from stepneg.errors import InputError


@dataclass(frozen=True)
class Stretches:
    """The unbranched stretches of a forest: their lengths, and the tokens that each attends to.

    Attributes:
        lengths: tokens of each stretch; in order they are the whole forest.
        keys: places of the ancestors of each stretch and of itself, one stretch behind the other.
        key_lengths: how many of ``keys`` belong to each.
    """

    lengths: list[int]
    keys: Tensor
    key_lengths: list[int]


def stretches(depth: Tensor) -> Stretches:
    """Cut a forest at its roots and branches.

    Args:
        depth: number of ancestors of each token, in preorder, [N].
    """
    of = depth.tolist()
    path: list[int] = []
    starts, paths = set(), {}
    for place, level in enumerate(of):
        if level <= len(path) - 1 or level == 0:  # a root, or a further child
            starts.add(place)
            if level and path[level - 1] + 1 not in starts:
                first = path[level - 1] + 1
                starts.add(first)
                paths[first] = path[:level]
            del path[level:]
            paths[place] = path[:]
        path.append(place)
    bounds = [*sorted(starts), len(of)]
    keys: list[int] = []
    lengths, key_lengths = [], []
    for start, end in pairwise(bounds):
        keys += paths[start]
        keys += range(start, end)
        lengths.append(end - start)
        key_lengths.append(len(paths[start]) + end - start)
    return Stretches(lengths, torch.tensor(keys), key_lengths)


def subtree_ends(depth: Tensor) -> Tensor:
    """Behind which place the subtree of each token ends, [N]: the next token that is not deeper.

    Args:
        depth: number of ancestors of each token, in preorder, [N].
    """
    of = depth.tolist()
    ends = [len(of)] * len(of)
    path: list[int] = []
    for place, level in enumerate(of):
        for done in path[level:]:
            ends[done] = place
        del path[level:]
        path.append(place)
    return torch.tensor(ends, device=depth.device)


@dataclass(frozen=True)
class Blocks:
    """The ancestors of each token for flex_attention, and the most tokens on a path."""

    mask: BlockMask
    longest: int


def blocks(depth: Tensor) -> Blocks:
    """For :func:`tree_attention` on a GPU.

    Args:
        depth: number of ancestors of each token, in preorder, [N].
    """
    ends, size = subtree_ends(depth), len(depth)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends[key])

    mask = create_block_mask(sees, None, None, size, size, device=str(depth.device))
    return Blocks(mask, int(depth.max()) + 1)


Plan = Stretches | Blocks


def attention_plan(depth: Tensor) -> Plan:
    """What :func:`tree_attention` needs of a forest, the same for all layers: for the device that ``depth`` is on."""
    return stretches(depth) if depth.device.type == "cpu" else blocks(depth)


@cache
def compiled_flex_attention() -> Callable[..., Any]:
    """flex_attention as one kernel; dynamic, since otherwise each new length would be compiled anew."""
    return torch.compile(flex_attention, dynamic=True)


def by_stretch(
    query: Tensor, key: Tensor, value: Tensor, plan: Stretches, window: int | None, **options: Any
) -> Tensor:
    """Attention of each stretch to the path that leads to it; shapes as of :func:`tree_attention`, [1, H, N, D]."""
    # Tokens first: one gather of whole rows, and one scatter of their gradients.
    keys, values = (x[0].transpose(0, 1).index_select(0, plan.keys) for x in (key, value))
    if keys.shape[1] != query.shape[1]:
        keys, values = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (keys, values))
    found = []
    for q, k, v in zip(
        query.split(plan.lengths, 2), keys.split(plan.key_lengths), values.split(plan.key_lengths), strict=True
    ):
        rows, columns = q.shape[2], k.shape[0]
        k, v = k.transpose(0, 1)[None], v.transpose(0, 1)[None]
        if rows == columns and (window is None or window >= columns):
            found.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, **options))
            continue
        mask = torch.ones(rows, columns, dtype=torch.bool).tril(columns - rows)
        if window is not None:
            mask = mask.triu(columns - rows - window + 1)
        found.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **options))
    return torch.cat(found, 2)


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    plan: Plan | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of one packed sequence; without a plan that of ordinary padded batches.

    Args:
        module: the attention layer.
        query: [1, H, N, D].
        key: [1, G, N, D]; H is a multiple of G.
        value: as key.
        attention_mask: of ordinary batches; not used with a plan.
        dropout: of the attention weights.
        scaling: of the scores; by default 1 / sqrt(D).
        plan: of the forest.
        sliding_window: how many tokens, itself included, a token sees.
        others: what the model hands on besides.

    Returns:
        [1, N, H, D].

    Raises:
        InputError: the model's attention has something that trees do not have.
    """
    if plan is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, sliding_window=sliding_window, **others
        )
    extra = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if extra:
        raise InputError(f"this model's attention has {', '.join(extra)}; set data.packed to false")
    if isinstance(plan, Stretches):
        out = by_stretch(query, key, value, plan, sliding_window, dropout_p=dropout, scale=scaling)
    elif dropout or (sliding_window is not None and sliding_window < plan.longest):
        raise InputError("dropout of attention and a sliding window do not go with packing; set data.packed to false")
    else:
        out = compiled_flex_attention()(query, key, value, block_mask=plan.mask, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register("tree", tree_attention)
AttentionMaskInterface.register("tree", sdpa_mask)
