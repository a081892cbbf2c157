"""Solutions and step values with a made-up engine: graded while it draws, whatever finishes first."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from stepneg.credit.pairs import Trace
from stepneg.data import rollouts as module
from stepneg.data.rollouts import Generated, Rollouts
from stepneg.data.rows import encode_response
from stepneg.policy_folder import load_tokenizer
from stepneg.problems import Problem
from stepneg.sampling.engine import Completion, Decoding, Request
from tests.conftest import BASE

PROBLEMS = [Problem(str(i), f"Mia has {i} coins.", "7") for i in range(6)] + [Problem("again", "Mia has 0 coins.", "8")]
TOKENIZER = load_tokenizer(BASE)
RESPONSES = [encode_response(TOKENIZER, f"Mia finds 5: add.\n2 + 5 = {n}\n#### {n}") for n in (7, 8, 9)]


class Engine:
    """Responses by seed, requests in order or the last one first; tells what it has drawn."""

    def __init__(self, events: list[str], reverse: bool) -> None:
        self.events, self.reverse = events, reverse

    def load(self, policy: Path) -> None:
        pass

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[tuple[int, list[Completion]]]:
        for index in list(range(len(requests)))[:: -1 if self.reverse else 1]:
            self.events.append("drawn")
            first = requests[index].seed + requests[index].start
            yield (
                index,
                [Completion(RESPONSES[seed % 3], -1.0, "stop") for seed in range(first, first + requests[index].n)],
            )


def valued(store: Path, reverse: bool, events: list[str], pit_error: float | None) -> Generated:
    rollouts = Rollouts(
        Engine(events, reverse),
        store,
        samples=20,
        negatives=2,
        pit_error=pit_error,  # type: ignore[arg-type]
    )
    return rollouts.valued(BASE, PROBLEMS, TOKENIZER, "{question}\n")


@pytest.mark.parametrize("pit_error", [None, 0.05])
def test_what_finishes_first_makes_no_difference(tmp_path: Path, pit_error: float | None) -> None:
    one = valued(tmp_path / "one", False, [], pit_error)
    other = valued(tmp_path / "other", True, [], pit_error)
    assert (one, list(one.traces), list(one.continuations)) == (other, list(other.traces), list(other.continuations))
    assert list(one.traces) == [p.id for p in PROBLEMS]
    stored = valued(tmp_path / "one", True, [], pit_error)
    assert stored == one


def test_each_solution_is_graded_by_its_own_problem(tmp_path: Path) -> None:
    found = valued(tmp_path, True, [], None)
    by_response = {RESPONSES[0]: "7", RESPONSES[1]: "8", RESPONSES[2]: "9"}
    for problem in PROBLEMS:
        traces: list[Trace] = found.traces[problem.id]
        assert len(traces) == 20
        assert all(t.correct == (by_response[t.response_ids] == problem.answer) for t in traces)
        assert all(len(t.ends) == 3 for t in traces)
    assert [t.response_ids for t in found.traces["0"]] == [t.response_ids for t in found.traces["again"]]


def test_solutions_are_graded_while_the_engine_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real = module.decode

    def decode(tokenizer, ids):  # type: ignore[no-untyped-def]
        events.append("read")
        return real(tokenizer, ids)

    monkeypatch.setattr(module, "decode", decode)
    valued(tmp_path, False, events, 0.05)
    first = [i for i, event in enumerate(events) if event == "drawn"][:6]
    assert all("read" in events[a:b] for a, b in pairwise(first))
