"""How good is an estimated pit? Rules, best-of-K, rollouts a prefix and rollout policies on the same stored rollouts.

Every prefix of wrong solutions is continued many times, once. All estimates read those outcomes: with n rollouts a
prefix the outcomes fall into disjoint groups of n, so that a rule is judged on several estimates of each trace.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from matplotlib.figure import Figure

from stepneg.credit.pairs import Trace
from stepneg.credit.values import bok, first_pit
from stepneg.data.rollouts import Generated, Rollouts, prefix
from stepneg.data.rows import decode
from stepneg.errors import InputError
from stepneg.links import unlinked
from stepneg.policy_folder import load_tokenizer
from stepneg.problems import Problem, ProblemSource
from stepneg.problems.arithmetic import true_pit
from stepneg.whole import write_whole

Rule = Literal["argmin", "tolerance", "first drop", "first zero"]
RULES: tuple[Rule, ...] = ("argmin", "tolerance", "first drop", "first zero")
TOLERANCE = 0.25  # of the rule of that name, and the size of a drop
GROUPS = 8  # the most groups of n rollouts that a trace is judged by


@dataclass(frozen=True)
class Outcomes:
    """A wrong solution and the outcomes of the rollouts of its prefixes 0..L-1; the whole of it is wrong."""

    trace: Trace
    outcomes: tuple[tuple[bool, ...], ...]
    truth: int | None  # the true pit, where the task knows it


def find(values: Sequence[float], rule: Rule) -> int | None:
    """The pit (from 1) that a rule finds in Q_0..Q_L; None for no pit.

    argmin: the first pit (the paper's). tolerance: the same, if it lies below Q_0 by more than ``TOLERANCE``. first
    drop: the first step with an advantage below -``TOLERANCE``. first zero: the first step behind which nothing
    succeeds.
    """
    if values[0] == 0:
        return None
    if rule in ("argmin", "tolerance"):
        return first_pit(values, TOLERANCE if rule == "tolerance" else 0.0)
    steps = range(1, len(values))
    if rule == "first drop":
        return next((i for i in steps if values[i] - values[i - 1] < -TOLERANCE), None)
    return next((i for i in steps if values[i] == 0), None)


def estimates(item: Outcomes, rule: Rule, n: int, k: int) -> list[int | None]:
    """The pit by each disjoint group of ``n`` rollouts a prefix, under best-of-``k``."""
    groups = min(GROUPS, min(map(len, item.outcomes)) // n)
    found = []
    for group in range(groups):
        counts = [sum(outcomes[group * n : (group + 1) * n]) for outcomes in item.outcomes]
        found.append(find([*(bok(n, c, k) for c in counts), 0.0], rule))
    return found


def judge(items: Sequence[Outcomes], rule: Rule, n: int, k: int) -> dict[str, float]:
    """Shares of estimates: with a pit, and of those on the true pit (or, without one, on the pit of all rollouts),
    before and behind it; the mean distance in steps.
    """
    found = exact = early = late = total = off = 0
    for item in items:
        most = min(map(len, item.outcomes))
        truth = item.truth if item.truth is not None else estimates(item, rule, most, k)[0]
        for pit in estimates(item, rule, n, k):
            total += 1
            if pit is None or truth is None:
                continue
            found += 1
            exact += pit == truth
            early += pit < truth
            late += pit > truth
            off += abs(pit - truth)
    shares = {"exact": exact, "early": early, "late": late, "distance": off}
    return {"found": found / max(total, 1)} | {name: count / max(found, 1) for name, count in shares.items()}


def choose(generated: Generated, per_problem: int, eos: int, seed: int) -> list[Trace]:
    """Distinct finished wrong solutions of problems that are sometimes solved, at most ``per_problem`` each."""
    chosen = []
    for name, traces in generated.traces.items():
        if not any(t.correct for t in traces):
            continue
        wrong = sorted({t.response_ids: t for t in traces if not t.correct and t.response_ids[-1:] == (eos,)}.items())
        rng = random.Random(f"{seed}/{name}")
        chosen += [trace for _, trace in rng.sample(wrong, min(per_problem, len(wrong)))]
    return chosen


def roll_out(
    rollouts: Rollouts, policy: Path, traces: Sequence[Trace], problems: Sequence[Problem], template: str
) -> tuple[list[Outcomes], int]:
    """Outcomes of every prefix of the traces under a policy, and the tokens of the rollouts behind the first step."""
    tokenizer = load_tokenizer(policy, template)
    named = {p.id: p for p in problems}
    again = replace(rollouts, samples=rollouts.rollouts)
    generated = again.solutions(
        policy, [named[i] for i in dict.fromkeys(t.problem_id for t in traces)], tokenizer, template
    )
    empty = {name: tuple(t.correct for t in found) for name, found in generated.traces.items()}
    given = [replace(t, counts=((len(empty[t.problem_id]), sum(empty[t.problem_id])),)) for t in traces]
    again.value(policy, given, {p.id: p.answer for p in problems}, tokenizer, generated, to_the_end=True)
    items = []
    for trace in given:
        behind = [
            tuple(ok for _, ok in generated.continuations[prefix(trace, step)]) for step in range(1, len(trace.ends))
        ]
        solution = named[trace.problem_id].solution
        text = decode(tokenizer, trace.response_ids)
        truth = true_pit(solution, text) if solution is not None else None
        items.append(Outcomes(trace, (empty[trace.problem_id], *behind), truth))
    return items, int(generated.facts["rollout_tokens"])


def credit(
    root: Path,
    policies: dict[str, Path],
    problems: ProblemSource,
    rollouts: Rollouts,
    per_problem: int = 2,
    rollout_counts: list[int] = [4, 8, 16, 32, 64],  # noqa: B006
    ks: list[int] = [1, 2, 5, 10],  # noqa: B006
    template: str = "{question}\n",
) -> str:
    """Judge estimated pits against the true ones: the rule, K of best-of-K, rollouts a prefix, the rollout policy.

    Writes credit.csv, credit.png and credit.md into the run directory.

    Args:
        root: run directory.
        policies: rollout policies by name, HF folders; the first one samples the wrong solutions.
        problems: what is solved, by class_path. The generated arithmetic knows where a solution went wrong; with other
            problems an estimate is held against that of all rollouts.
        rollouts: how policies are sampled; ``rollouts.rollouts`` continuations of every prefix.
        per_problem: most wrong solutions of a problem.
        rollout_counts: n, rollouts a prefix that an estimate is made of.
        ks: K of best-of-K, of those not larger than n.
        template: the prompt; {question} is replaced.

    Returns:
        The table, in Markdown.
    """
    if max(rollout_counts) > rollouts.rollouts:
        raise InputError(
            f"rollout_counts {rollout_counts} ask for more than rollouts.rollouts = {rollouts.rollouts}; raise that"
        )
    loaded = problems.load()
    first = next(iter(policies.values()))
    tokenizer = load_tokenizer(first, template)
    generated = rollouts.solutions(first, loaded, tokenizer, template)
    traces = choose(generated, per_problem, tokenizer.eos_token_id, rollouts.seed)
    if not traces:
        raise InputError(f"{first}: no wrong solution of a problem that is sometimes solved; take other problems")
    rows: list[dict[str, Any]] = []
    for name, policy in policies.items():
        items, tokens = roll_out(rollouts, policy, traces, loaded, template)
        known = [item for item in items if item.truth is not None] or items
        for rule in RULES:
            for n in rollout_counts:
                for k in ks:
                    if k <= n:
                        rows.append(
                            {"policy": name, "rule": rule, "n": n, "k": k, "traces": len(known)}
                            | judge(known, rule, n, k)
                            | {"tokens": tokens * n // rollouts.rollouts}
                        )
    frame = pd.DataFrame(rows)
    root.mkdir(parents=True, exist_ok=True)
    write_whole(root / "credit.csv", frame.to_csv(index=False))
    plot(frame).savefig(unlinked(root / "credit.png"), dpi=130)
    text = table(frame)
    write_whole(root / "credit.md", text + "\n")
    return text


def table(frame: pd.DataFrame) -> str:
    """Rules by n at K = 1; then K at the middle n; then rollout policies. Means over seeds, if there are any."""
    frame = frame.groupby(["policy", "rule", "n", "k"], sort=False, as_index=False).mean(numeric_only=True)
    own = frame["policy"] == frame["policy"].iloc[0]
    middle = sorted(frame["n"].unique())[frame["n"].nunique() // 2]
    parts = [
        frame[own & (frame["k"] == 1)],
        frame[own & (frame["n"] == middle) & (frame["k"] > 1)],
        frame[~own & (frame["n"] == middle) & (frame["k"] == 1)],
    ]
    lines = [
        "| rollout policy | rule | n | K | pit found | on the true pit | before | behind | steps off | tokens |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in pd.concat(parts).to_dict("records"):
        shares = " | ".join(f"{100 * row[name]:.1f} %" for name in ("found", "exact", "early", "late"))
        lines.append(
            f"| {row['policy']} | {row['rule']} | {row['n']} | {row['k']} | {shares} | {row['distance']:.2f}"
            f" | {row['tokens']:,.0f} |"
        )
    return "\n".join(lines)


def plot(frame: pd.DataFrame) -> Figure:
    """Pits on the true place against n, a line a rule (the first policy), and a line a policy (argmin); K = 1."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    plain = frame[frame["k"] == 1]
    colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000"]
    first = plain["policy"].iloc[0]
    for axes, groups in (
        (left, plain[plain["policy"] == first].groupby("rule", sort=False)),
        (right, plain[plain["rule"] == "argmin"].groupby("policy", sort=False)),
    ):
        for colour, (name, rows) in zip(colours, groups, strict=False):
            axes.plot(rows["n"], rows["exact"] * rows["found"], "o-", color=colour, label=str(name))
        ticks = sorted(plain["n"].unique())
        axes.set(xscale="log", xlabel="rollouts a prefix")
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    left.set(ylabel="wrong solutions whose pit is found\nat its true place", ylim=(0, 1))
    left.set_title(f"by rule, rollouts of {first}", fontsize=9)
    right.set_title("by rollout policy, argmin", fontsize=9)
    return figure
