"""The search for pits with the real engine: what it asks of the store, and that it ends where the rollouts say."""

from dataclasses import replace
from pathlib import Path

import pytest

from stepneg.credit.values import first_pit, step_values
from stepneg.data.pairs import Pairs
from stepneg.data.rollouts import Generated, Rollouts, prefix
from stepneg.data.weighted import WeightedSteps
from stepneg.errors import InputError
from stepneg.policy_folder import load_tokenizer
from stepneg.problems import Problem
from stepneg.problems.arithmetic import Arithmetic
from stepneg.sampling.vllm_engine import VLLMEngine
from tests.conftest import BASE

PROBLEMS = Arithmetic(size=10, max_events=3, seed=5).load()
ANSWERS = {p.id: p.answer for p in PROBLEMS}
TEMPLATE = "{question}\n"


@pytest.mark.slow
def test_the_pit_is_where_rollouts_stop_succeeding(tmp_path: Path) -> None:
    rollouts = Rollouts(VLLMEngine(), tmp_path, samples=12, max_tokens=80, negatives=3, rollouts=20, pit_error=0.05)
    tokenizer = load_tokenizer(BASE)
    found = rollouts.valued(BASE, PROBLEMS, tokenizer, TEMPLATE)
    assert len(found.valued) >= 3
    for trace in found.valued:
        pit = first_pit(step_values(trace.counts, 1))
        assert pit == len(trace.counts) - 1
        if pit < len(trace.ends):  # lost after 12 wrong ones at least, and none was right
            n, c = trace.counts[pit]
            assert (c, n >= 12) == (0, True)
            assert not any(right for _, right in found.continuations.get(prefix(trace, pit), []))
        else:
            assert trace.counts[pit] == (20, 0)
    # Again: everything is in the store, and the same comes out, whatever the order of the problems.
    again = rollouts.valued(BASE, PROBLEMS[::-1], tokenizer, TEMPLATE)
    assert {t.response_ids: t.counts for t in again.valued} == {t.response_ids: t.counts for t in found.valued}
    lines = sum(len(file.read_text().splitlines()) for file in tmp_path.rglob("*.jsonl"))
    assert lines == 120 + sum(map(len, found.continuations.values()))
    assert found.facts["rollout_tokens"] == sum(len(i) for d in found.continuations.values() for i, _ in d)
    # Exhaustive rollouts of the same prefixes begin with the same samples.
    every = Generated(found.traces)
    traces = [replace(t, counts=t.counts[:1]) for t in found.valued]
    replace(rollouts, pit_error=None).value(BASE, traces, ANSWERS, tokenizer, every, to_the_end=True)
    for key, drawn in found.continuations.items():
        assert every.continuations[key][: len(drawn)] == drawn[: len(every.continuations[key])]


def test_what_a_search_cannot_give_is_refused(tmp_path: Path) -> None:
    searching = Rollouts(VLLMEngine(), tmp_path, pit_error=0.01)
    with pytest.raises(InputError, match=r"rollouts\.positives 2"):
        replace(searching, positives=2).valued(BASE, PROBLEMS, load_tokenizer(BASE), TEMPLATE)
    with pytest.raises(InputError, match=r"pit_error is 1\.5"):
        replace(searching, pit_error=1.5).valued(BASE, PROBLEMS, load_tokenizer(BASE), TEMPLATE)
    problems: list[Problem] = []
    with pytest.raises(InputError, match=r"k is 5: .* set k to 1"):
        Pairs(searching, k=5, policy=BASE, problems=Arithmetic()).build(problems, load_tokenizer(BASE))
    with pytest.raises(InputError, match="weights need every step's value"):
        WeightedSteps(searching, policy=BASE, problems=Arithmetic()).build(problems, load_tokenizer(BASE))
