"""Tokens and pits of the sequential search beside exhaustive rollouts: ``python -m benchmarks.step_values``.

Every prefix of wrong solutions is continued 64 times, once; the first pit of those is what the others are held
against. The search reads the same recorded rollouts, in their order. Rows with other rollouts, of another seed, show
how far chance moves pits. Needs a policy that is right now and then, as ``make demo`` leaves one.
"""

import json
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from stepneg.credit.pairs import Trace
from stepneg.credit.values import first_pit, step_values
from stepneg.data.rollouts import Generated, Rollouts, prefix
from stepneg.errors import InputError
from stepneg.policy_folder import load_tokenizer
from stepneg.problems.arithmetic import Arithmetic
from stepneg.sampling.vllm_engine import VLLMEngine

RESULTS = Path(__file__).with_name("results") / "step_values.json"
MOST = 64
SURE = 3  # right ones of 64 that are found again by other 64 with a probability of 95 %: 1 - (1 - 3/64)^64


def pit_by(trace: Trace, generated: Generated, n: int) -> int | None:
    """The first pit by the first ``n`` rollouts of each prefix."""
    outcomes = [[ok for _, ok in generated.continuations[prefix(trace, i)]][:n] for i in range(1, len(trace.ends))]
    counts = [trace.counts[0], *((len(found), sum(found)) for found in outcomes), (n, 0)]
    return first_pit(step_values(counts, 1))


def decided(trace: Trace, generated: Generated) -> bool:
    """Whether chance does not move the pit: each prefix before it is solved in ``SURE`` rollouts at least."""
    pit = pit_by(trace, generated, MOST)
    before = range(1, len(trace.ends) if pit is None else pit)
    return all(sum(ok for _, ok in generated.continuations[prefix(trace, i)][:MOST]) >= SURE for i in before)


def tokens_of(traces: list[Trace], generated: Generated, n: int, to_the_end: bool) -> int:
    """Tokens of ``n`` rollouts of every distinct prefix; or only up to the first one that they never solve."""
    used = set()
    for trace in traces:
        for step in range(1, len(trace.ends)):
            used.add(prefix(trace, step))
            if not to_the_end and not any(ok for _, ok in generated.continuations[prefix(trace, step)][:n]):
                break
    return sum(len(ids) for key in used for ids, _ in generated.continuations[key][:n])


def main(
    policy: Path = Path("runs/arithmetic/seed-0/sft/last"),
    size: int = 60,
    seed: int = 300,
    searches: list[tuple[float, int]] = [(0.05, 48), (0.01, 48), (0.001, 64)],  # noqa: B006
    negatives: int = 2,
    samples: int = 16,
    out: Path = RESULTS,
) -> None:
    """Measure and write results/step_values.json.

    Args:
        policy: HF folder, sampled and rolled out.
        size: number of generated problems.
        seed: which.
        searches: error, and the most rollouts of a prefix.
        negatives: most wrong solutions of a problem.
        samples: solutions of a problem.
        out: the file.
    """
    rollouts = Rollouts(VLLMEngine(), samples=samples, max_tokens=100, negatives=negatives, rollouts=MOST)
    loaded, tokenizer = Arithmetic(size=size, max_events=4, seed=seed).load(), load_tokenizer(policy)
    answers = {p.id: p.answer for p in loaded}
    drawn = rollouts.solutions(policy, loaded, tokenizer, "{question}\n")
    traces = rollouts.to_value(drawn, tokenizer.eos_token_id)
    if not traces:
        raise InputError(f"{policy}: no wrong solution of a problem that is sometimes solved; take other problems")
    every = Generated(drawn.traces)
    rollouts.value(policy, traces, answers, tokenizer, every, to_the_end=True)
    again = Generated(drawn.traces)
    replace(rollouts, seed=1).value(policy, traces, answers, tokenizer, again, to_the_end=True)
    truth = [pit_by(t, every, MOST) for t in traces]
    base = tokens_of(traces, every, 16, to_the_end=True)
    sure = [decided(t, every) for t in traces]
    rows: list[dict[str, Any]] = []

    def add(way: str, pits: list[int | None], tokens: int, **setting: float) -> None:
        same = [pit == true for pit, true in zip(pits, truth, strict=True)]
        both = {"same": sum(same) / len(same), "same_decided": sum(compress(same, sure)) / sum(sure)}
        rows.append({"way": way, **setting, **both, "tokens": tokens, "share": tokens / base})

    ways = (
        ("every prefix", every, True),
        ("up to the pit", every, False),
        ("up to the pit, other rollouts", again, False),
    )
    for n in (8, 16, 32, MOST):
        for way, found, to_the_end in ways:
            add(way, [pit_by(t, found, n) for t in traces], tokens_of(traces, found, n, to_the_end), rollouts=n)
    for error, most in searches:
        for drawing, way in ((0, "search"), (1, "search, other rollouts")):
            found = Generated(drawn.traces)
            searching = replace(rollouts, pit_error=error, rollouts=most, seed=drawing)
            searching.find_pits(policy, traces, answers, tokenizer, found)
            of = {(t.problem_id, t.response_ids): first_pit(step_values(t.counts, 1)) for t in found.valued}
            pits = [of[t.problem_id, t.response_ids] for t in traces]
            add(way, pits, int(found.facts["rollout_tokens"]), error=error, rollouts=most)
    result = {
        "traces": len(traces),
        "decided": sum(sure),
        "steps": sum(len(t.ends) for t in traces) / len(traces),
        "rows": rows,
    }
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """The rows in Markdown."""
    lines = [
        "| way | rollouts a prefix | error | same pit as 64 at every prefix | in decided ones | tokens"
        " | of 16 at every prefix |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        most = f"at most {row['rollouts']}" if "error" in row else row["rollouts"]
        lines.append(
            f"| {row['way']} | {most} | {row.get('error', '')} | {100 * row['same']:.1f} %"
            f" | {100 * row['same_decided']:.1f} % | {row['tokens']:,}"
            f" | {100 * row['share']:.1f} % |"
        )
    said = f"{result['traces']:,} wrong solutions of {result['steps']:.1f} steps, {result['decided']:,} decided."
    return "\n".join([*lines, "", said])


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
