"""Spurious steps: wrong or useless ones in solutions whose answer is right (the paper, sections 5 and 6.3.1).

Builds sets of correct solutions for RFT, of one size and on the same problems, that differ in their steps, and measures
how well step advantages find steps that were made wrong on purpose.
"""

import json
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from matplotlib.figure import Figure
from torchmetrics.functional.classification import binary_auroc, binary_precision_recall_curve, binary_roc
from transformers import PreTrainedTokenizerBase

from stepneg.credit.pairs import Trace
from stepneg.credit.steps import ENDS, Rule, split_steps
from stepneg.credit.values import advantages, step_values
from stepneg.data.rollouts import Generated, Rollouts
from stepneg.data.rows import Row, collate, decode, encode_response
from stepneg.errors import InputError
from stepneg.links import unlinked
from stepneg.policy import batch_log_probs, load_model
from stepneg.policy_folder import load_tokenizer
from stepneg.problems import Problem, ProblemSource
from stepneg.problems.arithmetic import with_spurious_step
from stepneg.problems.records import Record, jsonl_records
from stepneg.progress import Bar
from stepneg.whole import write_whole

CLEAN = -0.2  # no step of a clean solution has a lower advantage; one rollout of 8 weighs 0.125
ROUNDING = 1e-6  # advantages are differences of shares: 0.4 - 0.7 is not quite -0.3
BATCH = 64
THRESHOLDS = (-0.1, -0.2, -0.3, -0.5)

Inject = Callable[[str, str, random.Random], tuple[str, int] | None]  # of problem id, solution and generator


@dataclass(frozen=True)
class Marked:
    """A correct solution with one of its steps (from 1) marked: the least advantageous, or the injected one."""

    trace: Trace
    step: int


def least(trace: Trace) -> Marked:
    """The trace with its least advantageous step marked."""
    gains = advantages(step_values(trace.counts, 1))
    return Marked(trace, gains.index(min(gains)) + 1)


def gain(marked: Marked) -> float:
    """The advantage of the marked step."""
    return advantages(step_values(marked.trace.counts, 1))[marked.step - 1]


def with_foreign_step(solutions: Mapping[str, str], rule: Rule = "line") -> Inject:
    """Puts a step of another problem's solution somewhere before the last one: useless, and the answer stays.

    Args:
        solutions: of all problems, by id.
        rule: what a step is.
    """

    def whole(solution: str) -> str:
        lines = solution.split("\n")
        return "\n".join(line for line in lines if line.strip()) if rule == "line" else solution

    def inject(problem_id: str, solution: str, rng: random.Random) -> tuple[str, int] | None:
        own = whole(solution)
        others = [whole(of) for name, of in solutions.items() if name != problem_id]
        other = rng.choice(others) if others else ""
        ends, bounds = ENDS[rule](own), (0, *ENDS[rule](other))
        foreign = [other[start:end].strip() for start, end in pairwise(bounds)][:-1]
        if len(ends) < 2 or not foreign:
            return None
        place = ends[rng.randrange(1, len(ends)) - 1]
        step = rng.choice(foreign)
        # A line ends with its newline, a sentence before the space behind it.
        added = f"{step}\n" if own[:place].endswith("\n") else f" {step}"
        text = own[:place] + added + own[place:]
        return text, bisect_right(ENDS[rule](text), place) + 1

    return inject


INJECT: dict[str, Callable[[Mapping[str, str], Rule], Inject]] = {
    "arithmetic": lambda solutions, rule: lambda problem_id, solution, rng: with_spurious_step(solution, rng),
    "foreign": with_foreign_step,
}


def build_sets(generated: Generated, threshold: float, seed: int) -> dict[str, list[Trace]]:
    """Clean, random and spurious correct solutions: one of each from every problem that has a clean and a spurious one.
    And originals: a clean solution of every problem that has one, to put bad steps into.

    Args:
        generated: with valued correct solutions.
        threshold: a spurious solution has a step whose advantage is not above this.
        seed: of the choices.
    """
    by_problem: dict[str, list[Marked]] = {}
    for trace in generated.valued:
        if trace.correct:
            by_problem.setdefault(trace.problem_id, []).append(least(trace))
    sets: dict[str, list[Trace]] = {"clean": [], "random": [], "spurious": [], "originals": []}
    for name, marked in by_problem.items():
        rng = random.Random(f"{seed}/{name}")
        clean = [m for m in marked if gain(m) >= CLEAN - ROUNDING]
        spurious = [m for m in marked if gain(m) <= threshold + ROUNDING]
        if clean:
            sets["originals"].append(rng.choice(clean).trace)
        if clean and spurious:
            sets["clean"].append(rng.choice(clean).trace)
            sets["random"].append(rng.choice(marked).trace)
            sets["spurious"].append(rng.choice(spurious).trace)
    return sets


def injected(
    traces: Sequence[Trace], inject: Inject, rollouts: Rollouts, tokenizer: PreTrainedTokenizerBase, seed: int
) -> list[Marked]:
    """The traces that a bad step can be put into, with it; valued only at the empty prefix."""
    found = []
    for trace in traces:
        rng = random.Random(f"{seed}/{trace.problem_id}/{trace.response_ids}")
        made = inject(trace.problem_id, decode(tokenizer, trace.response_ids), rng)
        if made is None:
            continue
        ids = encode_response(tokenizer, made[0])
        ends = tuple(split_steps(ids, partial(decode, tokenizer), rollouts.steps))
        found.append(Marked(replace(trace, response_ids=ids, ends=ends, counts=trace.counts[:1]), made[1]))
    return found


def scores(items: Sequence[Marked], skip_next: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """-A of every step and whether it is the marked one, [N] each.

    Args:
        items: valued solutions.
        skip_next: leave out the step behind the marked one, which carries the bad one out.
    """
    values, labels = [], []
    for item in items:
        for step, a in enumerate(advantages(step_values(item.trace.counts, 1)), 1):
            if not (skip_next and step == item.step + 1):
                values.append(-a)
                labels.append(step == item.step)
    return torch.tensor(values), torch.tensor(labels, dtype=torch.long)


def detection(items: Sequence[Marked], skip_next: bool) -> list[dict[str, float]]:
    """Precision and recall of "A <= threshold" as a detector of the marked steps, and the area under the ROC curve."""
    values, labels = scores(items, skip_next)
    # Thresholds None: exact, at every value. Scores are made positive, since torchmetrics takes others for logits.
    area = float(binary_auroc((values + 1) / 2, labels))
    rows = []
    for threshold in THRESHOLDS:
        flagged = values >= -threshold - ROUNDING
        hits = float((flagged & (labels == 1)).sum())
        rows.append(
            {"threshold": threshold, "steps": len(labels), "marked": int(labels.sum())}
            | {"precision": hits / max(int(flagged.sum()), 1), "recall": hits / max(int(labels.sum()), 1)}
            | {"area": area}
        )
    return rows


def spurious(
    root: Path,
    policy: Path,
    problems: ProblemSource,
    rollouts: Rollouts,
    inject: Literal["arithmetic", "foreign"] = "arithmetic",
    threshold: float = -0.3,
    template: str = "{question}\n",
    seed: int = 0,
) -> str:
    """Build clean, random, spurious and injected sets of correct solutions; find the injected steps by advantage.

    Writes clean.jsonl, random.jsonl and spurious.jsonl (question, answer, solution; of the same problems),
    originals.jsonl and injected.jsonl (clean solutions without and with the bad step, of the same problems),
    steps.jsonl (the marked steps, for ``stepneg likelihood``), spurious.csv, spurious.png and spurious.md.

    Args:
        root: run directory.
        policy: HF folder that is sampled.
        problems: what is solved, by class_path.
        rollouts: how the policy is sampled; ``rollouts.positives`` correct solutions a problem are valued.
        inject: the bad step: arithmetic takes a step of the generated task that should be skipped and goes on as
            before; foreign inserts a step of another problem's solution.
        threshold: a spurious solution has a step with at most this advantage.
        template: the prompt; {question} is replaced.
        seed: of the choices.

    Returns:
        The table of the detector, in Markdown.
    """
    loaded = problems.load()
    tokenizer = load_tokenizer(policy, template)
    if not rollouts.positives:
        raise InputError("rollouts.positives is 0: correct solutions are not valued; set it to 4 or more")
    generated = rollouts.valued(policy, loaded, tokenizer, template)
    sets = build_sets(generated, threshold, seed)
    if not sets["clean"]:
        raise InputError(
            f"{policy}: no problem has both a clean and a spurious correct solution among"
            f" {sum(t.correct for t in generated.valued)}; sample more, or raise threshold"
        )
    marked = injected(
        sets["originals"],
        INJECT[inject]({p.id: p.solution for p in loaded if p.solution}, rollouts.steps),
        rollouts,
        tokenizer,
        seed,
    )
    if not marked:
        raise InputError(
            f"{policy}: none of {len(sets['originals'])} clean solutions can take a bad step ({inject}): it goes before"
            " the last of two steps or more; sample more, or give problems with longer solutions"
        )
    valued = Generated({})
    rollouts.value(policy, [m.trace for m in marked], {p.id: p.answer for p in loaded}, tokenizer, valued)
    # Injected solutions are correct, so all are valued to the end; several may share a response.
    of = {(t.problem_id, t.response_ids): t for t in valued.valued}
    marked = [Marked(of[m.trace.problem_id, m.trace.response_ids], m.step) for m in marked]
    sets["injected"] = [m.trace for m in marked]
    changed = {m.trace.problem_id for m in marked}
    sets["originals"] = [t for t in sets["originals"] if t.problem_id in changed]
    root.mkdir(parents=True, exist_ok=True)
    named = {p.id: p for p in loaded}
    for name, traces in sets.items():
        write_set(root / f"{name}.jsonl", traces, named, tokenizer)
    with unlinked(root / "steps.jsonl").open("w") as out:
        for kind, items in (("injected", marked), ("selected", [least(t) for t in sets["spurious"]])):
            out.writelines(json.dumps(step_row(kind, item)) + "\n" for item in items)
    frame = pd.DataFrame(detection(marked, inject == "arithmetic"))
    frame["solutions"] = len(sets["clean"])
    frame["correct_valued"] = sum(t.correct for t in generated.valued)
    frame["correct_with_spurious_step"] = sum(
        gain(least(t)) <= threshold + ROUNDING for t in generated.valued if t.correct
    )
    write_whole(root / "spurious.csv", frame.to_csv(index=False))
    plot(*scores(marked, inject == "arithmetic")).savefig(unlinked(root / "spurious.png"), dpi=130)
    text = table(frame)
    write_whole(root / "spurious.md", text + "\n")
    return text


def write_set(
    file: Path, traces: Sequence[Trace], problems: dict[str, Problem], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Solutions as problems with worked solutions, JSONL."""
    with unlinked(file).open("w") as out:
        for trace in traces:
            problem = problems[trace.problem_id]
            row = {"question": problem.question, "answer": problem.answer}
            out.write(json.dumps(row | {"solution": decode(tokenizer, trace.response_ids)}) + "\n")


def step_row(kind: str, item: Marked) -> dict[str, Any]:
    """A marked step in token ids: its context and itself."""
    bounds = (0, *item.trace.ends)
    start, end = bounds[item.step - 1], bounds[item.step]
    return {"kind": kind, "context": list(item.trace.prompt_ids + item.trace.response_ids[:start])} | {
        "step": list(item.trace.response_ids[start:end])
    }


def table(frame: pd.DataFrame) -> str:
    """Precision and recall by threshold, means over seeds where the frame has several."""
    lines = ["| advantage at most | precision | recall |", "|---:|---:|---:|"]
    for threshold, rows in frame.groupby("threshold", sort=False):
        precision, recall = 100 * rows["precision"].mean(), 100 * rows["recall"].mean()
        lines.append(f"| {threshold:g} | {precision:.1f} % | {recall:.1f} % |")
    once = frame[frame["threshold"] == frame["threshold"].iloc[0]]
    total = once.sum(numeric_only=True)
    areas = " ".join(f"{area:.3f}" for area in once["area"])
    lines += [
        "",
        f"{total['marked']:,.0f} injected steps among {total['steps']:,.0f}; area under the ROC curve {areas}."
        f" {total['correct_with_spurious_step']:,.0f} of {total['correct_valued']:,.0f} valued correct solutions have a"
        f" spurious step of their own; {total['solutions']:,.0f} problems have a clean and a spurious one.",
    ]
    return "\n".join(lines)


def plot(values: torch.Tensor, labels: torch.Tensor) -> Figure:
    """ROC and precision-recall curves of -A as a detector of injected steps."""
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    positive = (values + 1) / 2
    false, true, _ = binary_roc(positive, labels)
    left.plot(false, true, color="#0072B2")
    left.plot([0, 1], [0, 1], ":", color="#999999")
    left.set(xlabel="false positives", ylabel="injected steps found", title="ROC")
    precision, recall, _ = binary_precision_recall_curve(positive, labels)
    right.plot(recall, precision, color="#0072B2")
    right.set(xlabel="recall", ylabel="precision", title="precision and recall", ylim=(0, 1.02))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def likelihood(root: Path, steps: Path, policies: dict[str, Path]) -> str:
    """How likely marked steps are under several policies: mean log-probability of a step, in nats.

    Writes likelihood.csv and likelihood.md into the run directory.

    Args:
        root: run directory.
        steps: the file steps.jsonl of ``stepneg spurious``.
        policies: HF folders by name; all have the tokenizer of the sampled policy. The others are held against the
            first.

    Returns:
        The table, in Markdown.
    """
    items = [marked(record) for record in jsonl_records(steps)]
    rows = []
    for name, policy in policies.items():
        logps = step_log_probs(policy, items, f"likelihood: {name}")
        for kind in dict.fromkeys(item["kind"] for item in items):
            of = torch.tensor([p for p, item in zip(logps, items, strict=True) if item["kind"] == kind])
            rows.append({"policy": name, "kind": kind, "steps": len(of), "logp": float(of.mean())})
    frame = pd.DataFrame(rows)
    root.mkdir(parents=True, exist_ok=True)
    write_whole(root / "likelihood.csv", frame.to_csv(index=False))
    text = likelihood_table(frame)
    write_whole(root / "likelihood.md", text + "\n")
    return text


def marked(record: Record) -> dict[str, Any]:
    """A row of steps.jsonl.

    Raises:
        InputError: it is none.
    """
    row = dict(record.values)
    ids = [row.get(name) for name in ("context", "step")]
    if not all(isinstance(some, list) and some and set(map(type, some)) == {int} and min(some) >= 0 for some in ids):
        raise InputError(f"{record.where}: context or step is no list of token ids; run `stepneg spurious` again")
    return row | {"kind": record.text("kind")}


@torch.no_grad()
def step_log_probs(policy: Path, items: Sequence[dict[str, Any]], title: str = "likelihood") -> list[float]:
    """Summed log-probability of each step behind its context; ``title`` is what the progress bar is called."""
    model = load_model(policy).eval()
    found: list[float] = []
    with Bar(title, len(items), "steps") as bar:
        for start in range(0, len(items), BATCH):
            rows = [(Row(tuple(i["context"]), tuple(i["step"])),) for i in items[start : start + BATCH]]
            found += batch_log_probs(model, collate(rows, 0)).sum(-1).tolist()
            bar.advance(len(rows), len(found))
    return found


def likelihood_table(frame: pd.DataFrame) -> str:
    """A row a policy, a column a kind of step; differences to the first policy; means over seeds, if there are any."""
    kinds, policies = (list(dict.fromkeys(frame[name])) for name in ("kind", "policy"))
    wide = frame.pivot_table(index="policy", columns="kind", values="logp", aggfunc="mean").loc[policies, kinds]
    lines = [f"| policy | {' | '.join(f'{kind} steps: log-probability' for kind in kinds)} |"]
    lines.append("|---|" + "---:|" * len(kinds))
    for name, row in wide.iterrows():
        cells = [f"{row[k]:.2f} ({row[k] - wide.iloc[0][k]:+.2f})" for k in kinds]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
