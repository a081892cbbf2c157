"""Tokens and pits of the sequential search beside exhaustive rollouts: ``python -m benchmarks.step_values``.

Every prefix of wrong solutions is continued 64 times, once; the first pit of those is what the others are held
against. The search reads the same recorded rollouts, in their order. Rows with other rollouts, of another seed, show
how far chance moves pits. Needs a policy that is right now and then, as ``make demo`` leaves one.
"""

import json
from dataclasses import replace
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


def pit_by(trace: Trace, generated: Generated, n: int) -> int | None:
    """The first pit by the first ``n`` rollouts of each prefix."""
    outcomes = [[ok for _, ok in generated.continuations[prefix(trace, i)]][:n] for i in range(1, len(trace.ends))]
    counts = [trace.counts[0], *((len(found), sum(found)) for found in outcomes), (n, 0)]
    return first_pit(step_values(counts, 1))


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
    errors: list[float] = [0.05, 0.01],  # noqa: B006
    negatives: int = 2,
    samples: int = 16,
    out: Path = RESULTS,
) -> None:
    """Measure and write results/step_values.json.

    Args:
        policy: HF folder, sampled and rolled out.
        size: number of generated problems.
        seed: which.
        errors: of the search.
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
    rows: list[dict[str, Any]] = []
    ways = (
        ("every prefix", every, True),
        ("up to the pit", every, False),
        ("up to the pit, other rollouts", again, False),
    )
    for n in (8, 16, 32, MOST):
        for way, found, to_the_end in ways:
            same = sum(pit_by(t, found, n) == pit for t, pit in zip(traces, truth, strict=True)) / len(traces)
            rows.append({"way": way, "rollouts": n, "same": same, "tokens": tokens_of(traces, found, n, to_the_end)})
    for error in errors:
        for drawing, way in ((0, "search"), (1, "search, other rollouts")):
            found = Generated(drawn.traces)
            searching = replace(rollouts, pit_error=error, rollouts=48, seed=drawing)
            searching.find_pits(policy, traces, answers, tokenizer, found)
            pits = {(t.problem_id, t.response_ids): first_pit(step_values(t.counts, 1)) for t in found.valued}
            same = sum(pits[t.problem_id, t.response_ids] == p for t, p in zip(traces, truth, strict=True))
            rows.append(
                {"way": way, "error": error, "rollouts": 48, "same": same / len(traces)}
                | {"tokens": int(found.facts["rollout_tokens"])}
            )
    for row in rows:
        row["share"] = row["tokens"] / base
    result = {"traces": len(traces), "steps": sum(len(t.ends) for t in traces) / len(traces), "rows": rows}
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """The rows in Markdown."""
    lines = [
        "| way | rollouts a prefix | error | same pit as 64 at every prefix | tokens | of 16 at every prefix |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        most = f"at most {row['rollouts']}" if "error" in row else row["rollouts"]
        lines.append(
            f"| {row['way']} | {most} | {row.get('error', '')} | {100 * row['same']:.1f} % | {row['tokens']:,}"
            f" | {100 * row['share']:.1f} % |"
        )
    return "\n".join([*lines, "", f"{result['traces']:,} wrong solutions of {result['steps']:.1f} steps."])


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
