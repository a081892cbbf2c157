"""The critical step of star graphs, measured in batches and, here once more, token by token."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from stepneg.callbacks import first_hop
from stepneg.callbacks.first_hop import FirstHop
from stepneg.errors import InputError
from stepneg.initialise import init
from stepneg.objectives import CrossEntropy
from stepneg.policy import Policy
from stepneg.problems import Problem
from stepneg.problems.star_graph import StarGraph

TEMPLATE = "{question}\n"


@dataclass(frozen=True)
class Mixed:
    """Paths of two, four and six nodes, so that rows are padded, and hops of one to three tokens."""

    size: int = 5

    def load(self) -> list[Problem]:
        """The problems in turns."""
        sizes = [{"length": 4, "nodes": 20}, {"length": 2, "nodes": 500}, {"length": 6, "nodes": 900, "arms": 3}]
        sets = [StarGraph(size=self.size, **one).load() for one in sizes]
        return [problem for turn in zip(*sets, strict=True) for problem in turn]


PROBLEMS = Mixed().load()


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Models as small as these are many times slower on two threads where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that was taught the hop of every other path: quite sure of these, of others not, and of no rest."""
    folder = tmp_path_factory.mktemp("star") / "policy"
    init(folder, StarGraph(size=50), vocabulary=270, hidden_size=64, layers=2, context=256)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows = [split(tokenizer, p)[:2] for p in PROBLEMS[::2]]
    losses, passes = [1.0], 0
    while max(losses) > 0.3:  # whatever the machine's rounding; of surer ones, logarithms would have too few digits
        losses = []
        for before, hop in rows:
            ids, labels = torch.tensor([before + hop]), torch.tensor([[-100] * len(before) + hop])
            optimizer.zero_grad()
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
        assert (passes := passes + 1) < 500
    model.save_pretrained(folder)
    return folder


def split(tokenizer, problem: Problem) -> tuple[list[int], list[int], list[int], list[int]]:
    """Token ids before the hop, of it, behind it, and all: the hop is the second node with its comma or EOS."""
    before = tokenizer(TEMPLATE.replace("{question}", problem.question))["input_ids"]
    start, hop, *rest = problem.solution.split(",")
    before = before + tokenizer(f"{start},")["input_ids"]
    hop_ids = tokenizer(f"{hop}," if rest else hop)["input_ids"] + ([] if rest else [tokenizer.eos_token_id])
    rest_ids = [*tokenizer(",".join(rest))["input_ids"], tokenizer.eos_token_id] if rest else []
    return before, hop_ids, rest_ids, [*before, *hop_ids, *rest_ids]


@torch.no_grad()
def loop(folder: Path) -> list[tuple[float, float, float]]:
    """Log-probability of the hop and of the rest, and whether each token of the hop is the likeliest at its place."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    found = []
    for problem in PROBLEMS:
        before, hop, rest, ids = split(tokenizer, problem)
        logp = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
        sums, likeliest = [0.0, 0.0], True
        for place in range(len(before), len(ids)):
            in_rest = place >= len(before) + len(hop)
            sums[in_rest] += float(logp[place - 1, ids[place]])
            likeliest &= in_rest or int(logp[place - 1].argmax()) == ids[place]
        assert bool(rest) == (problem.solution.count(",") > 1)
        found.append((sums[0], sums[1], float(likeliest)))
    return found


def policy_of(folder: Path) -> Policy:
    policy = Policy(CrossEntropy(), folder)
    policy.configure_model()
    return policy.eval()


def encoded(folder: Path) -> FirstHop:
    callback = FirstHop(Mixed())
    callback.encode(AutoTokenizer.from_pretrained(folder), TEMPLATE)
    return callback


def test_the_span_is_the_second_node(folder: Path) -> None:
    callback, tokenizer = encoded(folder), AutoTokenizer.from_pretrained(folder)
    assert len(callback.rows) == len(callback.spans) == len(PROBLEMS)
    lengths = set()
    for row, (start, end), problem in zip(callback.rows, callback.spans, PROBLEMS, strict=True):
        before, hop, rest, ids = split(tokenizer, problem)
        everything = [*row.prompt_ids, *row.response_ids]
        assert everything == ids
        assert (everything[:start], everything[start:end], everything[end:]) == (before, hop, rest)
        lengths.add(end - start)
    assert len(lengths) > 1


@pytest.mark.parametrize("batch", [256, 4])
def test_measured_in_batches_as_token_by_token(folder: Path, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_hop, "BATCH", batch)
    hop, rest, likeliest = encoded(folder).measure(policy_of(folder), 0)
    expected_hop, expected_rest, expected_likeliest = (list(column) for column in zip(*loop(folder), strict=True))
    assert hop.tolist() == pytest.approx(expected_hop, rel=1e-4)
    assert rest.tolist() == pytest.approx(expected_rest, rel=1e-4)
    assert likeliest.tolist() == expected_likeliest
    assert set(expected_likeliest) == {0.0, 1.0}  # or the comparison says little
    assert [value == 0 for value in expected_rest] == [p.solution.count(",") == 1 for p in PROBLEMS]


def test_padding_does_not_matter(folder: Path) -> None:
    callback, policy = encoded(folder), policy_of(folder)
    of_zero, of_nine = callback.measure(policy, 0), callback.measure(policy, 9)
    assert all(torch.allclose(a, b, rtol=1e-4) for a, b in zip(of_zero, of_nine, strict=True))


def test_no_gradient_is_kept(folder: Path) -> None:
    assert not any(found.requires_grad for found in encoded(folder).measure(policy_of(folder), 0))


def test_means_of_probabilities_are_logged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, float]] = []
    policy, callback = policy_of(folder), FirstHop(Mixed())
    monkeypatch.setattr(policy, "log_dict", lambda values, **_: logged.append(values))
    data = SimpleNamespace(policy=folder, template=TEMPLATE, pad_id=0)
    callback.on_validation_epoch_end(SimpleNamespace(sanity_checking=True, datamodule=data), policy)
    assert not logged
    trainer = SimpleNamespace(sanity_checking=False, datamodule=data)
    callback.on_validation_epoch_end(trainer, policy)
    callback.on_validation_epoch_end(trainer, policy)
    assert len(callback.rows) == len(PROBLEMS)  # encoded once
    hop, rest, likeliest = (torch.tensor(column, dtype=torch.float64) for column in zip(*loop(folder), strict=True))
    expected = {
        "first_hop/accuracy": likeliest.mean(),
        "first_hop/probability": hop.exp().mean(),
        "first_hop/value": rest.exp().mean(),
        "first_hop/solved": (hop + rest).exp().mean(),
    }
    for values in logged:
        assert {name: float(value) for name, value in values.items()} == pytest.approx(
            {name: float(value) for name, value in expected.items()}, rel=1e-4
        )
    assert len(logged) == 2
    other = FirstHop(Mixed(2), name="first_hop_train")  # beside the first one, on other problems
    other.on_validation_epoch_end(trainer, policy)
    assert set(logged[2]) == {name.replace("/", "_train/") for name in expected}


def test_a_path_without_a_hop_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Problem("alone", "1,2/1,1=", "1", "1")
    monkeypatch.setattr(Mixed, "load", lambda self: [PROBLEMS[0], alone])
    with pytest.raises(InputError, match=r"problem alone: its path '1' has no hop; take"):
        encoded(folder)
