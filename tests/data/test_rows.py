import json

import pytest
import torch
from transformers import AutoTokenizer

from stepneg.credit.pairs import Pair
from stepneg.data.forest import batched
from stepneg.data.pairs import as_example
from stepneg.data.prepared import Built, read_built, write_built
from stepneg.data.rows import (
    BLANK,
    Examples,
    Row,
    SeededOrder,
    check_lengths,
    collate,
    encode_prompt,
    encode_response,
    teacher_row,
)
from stepneg.errors import InputError
from stepneg.objectives import DPO, CrossEntropy, WeightedLikelihood
from stepneg.policy import batch_log_probs, load_model
from stepneg.problems import Problem


def test_solution_rows_token_by_token():
    batch = collate([(Row((5, 6, 7), (8, 9, 2)),), (Row((5,), (9, 2)),)], pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 2], [5, 9, 2, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]
    # No loss on the prompt and on padding; EOS (2) is learned; labels stay aligned with the inputs.
    assert batch["labels"].tolist() == [[-100, -100, -100, 8, 9, 2], [-100, 9, 2, -100, -100, -100]]
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_pairs_are_neighbours_and_shared_steps_carry_no_loss():
    pair = Pair("p", (5, 6), (7, 8, 9, 2), (7, 8, 3), shared=2)
    rows = [
        Row(r.prompt_ids, r.response_ids, r.shared, None, logp)
        for r, logp in zip(as_example(pair), (-1.5, -2.5), strict=True)
    ]
    batch = collate([tuple(rows)], pad_id=0)
    assert batch["labels"].tolist() == [[-100] * 4 + [9, 2], [-100] * 4 + [3, -100]]
    assert batch["reference_logp"].tolist() == [-1.5, -2.5]


def test_weights_are_aligned_with_the_response():
    batch = collate([(Row((5, 6), (7, 8, 2), weights=(0.5, 0.5, 3.0)),)], pad_id=0)
    assert batch["weights"].tolist() == [[0, 0, 0.5, 0.5, 3.0]]


def test_prompt_and_response_are_encoded_apart(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    problem = Problem("p", "Mia has 12 coins.", "12", "Mia starts with 12.\n#### 12")
    row = teacher_row(tokenizer, "{question}\n", problem)
    assert row.prompt_ids == encode_prompt(tokenizer, "{question}\n", problem.question)
    assert row.response_ids == encode_response(tokenizer, problem.solution)
    assert row.response_ids[-1] == tokenizer.eos_token_id
    assert row.response_ids.count(tokenizer.eos_token_id) == 1
    text = tokenizer.decode(row.prompt_ids + row.response_ids[:-1])
    assert text == "Mia has 12 coins.\nMia starts with 12.\n#### 12"


def test_a_problem_without_solution_or_too_long_is_refused(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    with pytest.raises(InputError, match="problem p has no worked solution"):
        teacher_row(tokenizer, "{question}", Problem("p", "q", "1"))
    with pytest.raises(InputError, match=r"problem p: prompt of 3 and solution of 2 tokens exceed .* context of 4"):
        check_lengths(["p"], [Row((1, 2, 3), (4, 5))], 4)


def test_order_depends_on_seed_and_epoch_alone():
    order = SeededOrder(20, seed=3)
    first = list(order)
    order.set_epoch(1)
    second = list(order)
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    order.set_epoch(0)
    assert list(order) == first
    assert list(SeededOrder(20, seed=4)) != first


@pytest.mark.parametrize(("size", "replicas"), [(20, 2), (21, 2), (7, 3), (1, 4), (2, 5)])
def test_ranks_share_one_order_and_leave_nothing_out(size, replicas):
    ranks = [SeededOrder(size, 3, replicas, rank) for rank in range(replicas)]
    for rank in ranks:
        rank.set_epoch(2)
    alone = SeededOrder(size, 3)
    alone.set_epoch(2)
    taken = [list(rank) for rank in ranks]
    assert len({len(places) for places in taken} | {len(ranks[0])}) == 1
    together = [place for turn in zip(*taken, strict=True) for place in turn]
    assert together[:size] == list(alone)
    assert together[size:] == [BLANK] * (len(together) - size)
    assert len(together) - size < replicas


def test_an_order_without_shuffling_deals_the_examples_out():
    ranks = [list(SeededOrder(5, 3, 2, rank, shuffled=False)) for rank in range(2)]
    assert ranks == [[0, 2, 4], [1, 3, BLANK]]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("objective", [CrossEntropy(), DPO(0.3, anchor=2.0), WeightedLikelihood()])
def test_a_blank_example_changes_no_loss_and_alone_has_none(objective, packed, tiny):
    """It stands where a rank has no example left: its gradients are there, and 0."""
    weights = (0.5, 2.0, 1.0) if objective.kind == "weighted" else None
    row = Row((5, 6, 7), (8, 9, 2), 0, weights, -3.0 if objective.kind == "pairs" else None)
    example = (row, Row((5, 6, 7), (8, 4), 1, None, -2.0)) if objective.kind == "pairs" else (row,)
    examples = Examples([example])
    assert examples[0] == example
    model = load_model(tiny).eval()

    def parts(*places):
        batch = batched([examples[place] for place in places], pad_id=0, packed=packed)
        return objective(batch, batch_log_probs(model, batch))

    for name, value in parts(0).items():
        torch.testing.assert_close(parts(0, BLANK)[name], value)
    alone = parts(BLANK)["loss"]
    assert float(alone) == 0.0
    alone.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_built_data_survives_a_round_trip(tmp_path):
    rows = (Row((1,), (2, 3), 1, (0.5, 1.0), -0.25), Row((1,), (4,), 0, None, None))
    file = tmp_path / "data" / "x.jsonl"
    write_built(Built([rows], {"problems": 1.0}), file)
    back = read_built(file)
    assert back.examples == [rows]
    assert json.loads(file.with_suffix(".json").read_text()) == {"problems": 1.0}
    assert not list(file.parent.glob("*.partial"))


def test_labels_and_log_probs_meet(tiny):
    """The policy's log-prob of a batch is that of each row alone, position by position."""
    model = load_model(tiny).eval()
    rows = [Row((5, 6, 7), (8, 9, 2)), Row((5,), (9, 30, 31, 2)), Row((4, 4), (9, 2), shared=1)]
    batch = collate([(row,) for row in rows], pad_id=0)
    with torch.no_grad():
        logp = batch_log_probs(model, batch)
        for i, row in enumerate(rows):
            ids = torch.tensor([row.prompt_ids + row.response_ids])
            alone = model(ids).logits.log_softmax(-1)[0]
            start = len(row.prompt_ids) + row.shared
            expected = sum(float(alone[t - 1, ids[0, t]]) for t in range(start, ids.shape[1]))
            assert float(logp[i].sum()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("replicas", "block"), [(1, 1), (2, 3), (3, 2), (2, 8)])
def test_problems_stay_together_and_ranks_take_whole_batches(replicas, block):
    groups = [[0, 1, 2], [3], [4, 5, 6, 7], [8, 9]]
    alone = list(SeededOrder(10, 3, groups=groups))
    assert sorted(alone) == list(range(10))
    for group in groups:
        assert alone[alone.index(group[0]) :][: len(group)] == group
    assert alone != list(range(10))
    ranks = [list(SeededOrder(10, 3, replicas, rank, groups, block)) for rank in range(replicas)]
    assert len({len(taken) for taken in ranks}) == 1
    padded = [*alone, *[BLANK] * replicas][: replicas * len(ranks[0])]
    # The batches of all ranks at a step are one batch of a single process.
    for step in range(0, len(ranks[0]), block):
        together = [place for taken in ranks for place in taken[step : step + block]]
        start = step * replicas
        assert together == padded[start : start + len(together)]
