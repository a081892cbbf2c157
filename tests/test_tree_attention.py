"""Packed forests against padded rows: the same log-probabilities and gradients, whatever the model."""

import os
import random
import socket
import time
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from stepneg import policy, tree_attention
from stepneg.data.forest import batched
from stepneg.data.rows import Example, Row
from stepneg.errors import InputError
from stepneg.objectives import DPO, CrossEntropy, WeightedLikelihood
from stepneg.policy import batch_log_probs, check_packing, head_log_probs
from stepneg.tree_attention import Blocks, attention_plan, blocks, stretches, subtree_ends

VOCABULARY = 40
NARROW: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}  # grouped queries
NO_DROPOUT = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**NARROW, **HEADS),
    "qwen2": Qwen2Config(**NARROW, **HEADS),
    "mistral, window of 5": MistralConfig(**NARROW, **HEADS, sliding_window=5),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=48, n_layer=3, n_head=4, n_positions=64, **NO_DROPOUT),
}


def models(name: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A model with transformers' eager attention and one of the same weights that takes trees."""
    torch.manual_seed(0)
    kind, values = type(CONFIGS[name]), CONFIGS[name].to_dict()
    plain = AutoModelForCausalLM.from_config(kind(**values), attn_implementation="eager")
    tree = AutoModelForCausalLM.from_config(kind(**values), attn_implementation="tree")
    tree.load_state_dict(plain.state_dict())
    for model in (plain, tree):  # larger than at the start: attention is anything but uniform
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2.0)
    return plain, tree


def pairs(seed: int, problems: int = 3) -> list[Example]:
    """Chosen and rejected solutions that share prompts, prefixes and whole chosen solutions."""
    rng = random.Random(seed)

    def some(most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(1, most)))

    made: list[Example] = []
    for _ in range(problems):
        prompt, right = some(8), [some(9), some(9)]
        for _ in range(rng.randint(1, 4)):
            chosen = rng.choice(right)
            cut = rng.randrange(len(chosen))
            rejected = chosen[:cut] + some(5)
            shared = rng.randint(0, min(cut, len(rejected) - 1))
            made.append(
                (
                    Row(prompt, chosen, shared, tuple(rng.random() for _ in chosen), -rng.random()),
                    Row(prompt, rejected, shared, tuple(rng.random() for _ in rejected), -rng.random()),
                )
            )
    rng.shuffle(made)
    return made


OBJECTIVES = {"dpo": DPO(0.3, anchor=0.5), "imitation": CrossEntropy(), "weighted": WeightedLikelihood()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_equal_those_of_padded_rows(name: str, objective: str, checkpointing: bool) -> None:
    plain, tree = (model.train() for model in models(name))
    if checkpointing:
        tree.gradient_checkpointing_enable()
    for seed in range(3):
        examples = pairs(seed)
        for model, packed in ((plain, False), (tree, True)):
            model.zero_grad()
            batch = batched(examples, 0, packed)
            OBJECTIVES[objective](batch, batch_log_probs(model, batch))["loss"].backward()
        for (key, one), other in zip(plain.named_parameters(), tree.parameters(), strict=True):
            assert one.grad is not None
            assert other.grad is not None
            scale = max(1.0, float(one.grad.abs().max()))
            torch.testing.assert_close(other.grad, one.grad, atol=1e-5 * scale, rtol=1e-5, msg=key)


@given(st.integers(0, 10**6), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_log_probs_are_those_of_each_row_alone(seed: int, problems: int) -> None:
    _, tree = models("llama")
    examples = pairs(seed, problems)
    with torch.no_grad():
        together = batch_log_probs(tree, batched(examples, 0, packed=True))
        for i, row in enumerate(row for example in examples for row in example):
            alone = batch_log_probs(tree, batched([(row,)], 0, packed=False))[0]
            torch.testing.assert_close(together[i, : len(alone)], alone, atol=2e-5, rtol=1e-5)
            assert not together[i, len(alone) :].any()


@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_differs_by_its_rounding_only(name: str) -> None:
    plain, tree = models(name)
    for model in (plain, tree):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.5)
    examples = pairs(5)
    with torch.no_grad():
        exact = batch_log_probs(plain, batched(examples, 0, packed=False))
        with torch.autocast("cpu", torch.bfloat16):
            rounded = batch_log_probs(plain, batched(examples, 0, packed=False))
            packed = batch_log_probs(tree, batched(examples, 0, packed=True))
    assert packed.dtype == torch.float32
    noise = float((rounded - exact).abs().max())
    assert float((packed - exact).abs().max()) < 3 * noise < 0.2


@pytest.mark.parametrize("name", CONFIGS)
def test_padded_rows_still_work(name: str) -> None:
    """Validation and users' own batches: without a plan the attention is transformers' own."""
    plain, tree = models(name)
    batch = batched(pairs(1), 0, packed=False)
    torch.testing.assert_close(batch_log_probs(tree, batch), batch_log_probs(plain, batch), atol=1e-5, rtol=1e-5)


def test_an_other_row_in_the_batch_changes_nothing() -> None:
    """No contamination: one problem's log-probabilities do not depend on what is packed beside it."""
    _, tree = models("llama")
    first, second, third = pairs(1, 1), pairs(2, 1), pairs(3, 2)
    with torch.no_grad():
        one = batch_log_probs(tree, batched(first + second, 0, packed=True))[: 2 * len(first)]
        other = batch_log_probs(tree, batched(first + third, 0, packed=True))[: 2 * len(first)]
    width = min(one.shape[1], other.shape[1])
    torch.testing.assert_close(one[:, :width], other[:, :width], atol=1e-6, rtol=1e-6)


depths = st.lists(st.integers(0, 5), min_size=1, max_size=30)


def as_preorder(wishes: list[int]) -> list[int]:
    """Depths that a forest can have: never more than one deeper than the token before."""
    made = [0]
    for wish in wishes[1:]:
        made.append(min(wish, made[-1] + 1))
    return made


def ancestors(depth: list[int], place: int) -> list[int]:
    """A token's ancestors and itself, by going back."""
    path = [place]
    for i in range(place - 1, -1, -1):
        if depth[i] == depth[path[0]] - 1:
            path.insert(0, i)
    return path


@given(depths)
def test_stretches_and_ends_say_who_sees_whom(wishes: list[int]) -> None:
    depth = as_preorder(wishes)
    plan, ends = stretches(torch.tensor(depth)), subtree_ends(torch.tensor(depth)).tolist()
    assert sum(plan.lengths) == len(depth)
    keys, start = plan.keys.split(plan.key_lengths), 0
    for length, seen in zip(plan.lengths, keys, strict=True):
        for place in range(start, start + length):
            assert seen.tolist()[: depth[place] + 1] == ancestors(depth, place)
        start += length
    for place in range(len(depth)):
        assert [k for k in range(place + 1) if place < ends[k]] == ancestors(depth, place)
    branches = sum(b != a + 1 for a, b in pairwise(depth))
    assert len(plan.lengths) <= 1 + 2 * branches  # cut at branches and nowhere else


def test_flex_attention_is_told_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan for a GPU, by the uncompiled kernel (forward: on a CPU torch has no backward of it)."""
    monkeypatch.setattr(tree_attention, "compiled_flex_attention", lambda: flex_attention)
    torch.manual_seed(0)
    depth = torch.tensor(as_preorder([0, *(random.Random(1).randrange(12) for _ in range(299))]))
    grouped = [torch.randn(1, heads, 300, 16) for heads in (4, 2, 2)]
    module = torch.nn.Module()
    one, other = (
        tree_attention.tree_attention(module, *grouped, None, plan=plan, scaling=0.3)[0]
        for plan in (stretches(depth), blocks(depth))
    )
    torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)
    assert isinstance(attention_plan(depth), tree_attention.Stretches)


def test_what_trees_do_not_have_is_refused() -> None:
    q = torch.zeros(1, 2, 3, 8)
    depth = torch.tensor([0, 1, 2])
    with pytest.raises(InputError, match=r"softcap; set data\.packed to false"):
        tree_attention.tree_attention(torch.nn.Module(), q, q, q, None, plan=stretches(depth), softcap=50.0)
    plan = blocks(depth)
    assert isinstance(plan, Blocks)
    with pytest.raises(InputError, match=r"sliding window .* data\.packed"):
        tree_attention.tree_attention(torch.nn.Module(), q, q, q, None, plan=plan, sliding_window=2)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_model_that_does_not_go_with_trees_is_found_out(kind: torch.dtype) -> None:
    scaled = GraniteConfig(**NARROW, **HEADS, logits_scaling=4.0)  # behind the head
    wrong = AutoModelForCausalLM.from_config(scaled, attn_implementation="tree", dtype=kind)
    with torch.no_grad():
        for parameter in wrong.parameters():
            parameter.mul_(3.0)
    batch = batched(pairs(0), 0, packed=True)
    with pytest.raises(InputError, match=r"GraniteForCausalLM do not agree .* set data\.packed to false"):
        check_packing(wrong.train(), batch)
    check_packing(wrong, batched(pairs(0), 0, packed=False))
    for name in CONFIGS:
        _, tree = models(name)
        check_packing(tree.train().to(kind), batch)
        assert tree.training


@pytest.mark.parametrize("most", [1, 39, 40, 120, 10**6])
def test_chunks_of_logits_do_not_matter(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(8, VOCABULARY)
    hidden, targets, weights = torch.randn(17, 8, requires_grad=True), torch.randint(VOCABULARY, (17,)), torch.randn(17)
    expected = head(hidden).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    wanted = torch.autograd.grad((expected * weights).sum(), [hidden, *head.parameters()])
    monkeypatch.setattr(policy, "LOGITS", most)
    found = head_log_probs(head, hidden, targets)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), [hidden, *head.parameters()]), wanted, strict=True
    ):
        torch.testing.assert_close(one, other)


class Loss(torch.nn.Module):
    """What Lightning wraps: a forward from batch to loss."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """DPO with an anchor."""
        return DPO(0.3)(batch, batch_log_probs(self.model, batch))["loss"]


def rank(number: int, port: int, folder: str) -> None:
    """One of two ranks: its half of the pairs, packed, under DDP."""
    torch.set_num_threads(1)
    limit = timedelta(seconds=60)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", limit, rank=number, world_size=2)
    _, tree = models("llama")
    loss = torch.nn.parallel.DistributedDataParallel(Loss(tree))
    loss(batched(pairs(0, 4)[:EVEN][number::2], 0, packed=True)).backward()
    if number == 0:
        torch.save([p.grad for p in tree.parameters()], f"{folder}/grads.pt")
    # One that has all that it needs shall not go while the other waits for its last words, nor wait for what is left.
    Path(folder, f"done-{number}").touch()
    while len(list(Path(folder).glob("done-*"))) < 2:
        time.sleep(0.01)
    os._exit(0)


EVEN = 6  # of the pairs of a seed


@pytest.mark.slow
def test_two_ranks_have_the_gradients_of_one_process_on_padded_rows(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = torch.multiprocessing.spawn(rank, (port, str(tmp_path)), nprocs=2, join=False)
    ended = [ranks.join(timeout=60) for _ in range(2)]  # each call waits for one of them
    for process in ranks.processes:
        process.kill()
    assert ended[-1]
    plain, _ = models("llama")
    examples = pairs(0, 4)[:EVEN]
    assert len(examples) == EVEN
    Loss(plain)(batched(examples, 0, packed=False)).backward()
    grads = torch.load(tmp_path / "grads.pt", weights_only=True)
    for one, other in zip(plain.parameters(), grads, strict=True):
        assert one.grad is not None
        torch.testing.assert_close(other, one.grad, atol=1e-5, rtol=1e-5)
