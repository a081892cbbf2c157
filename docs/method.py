"""The figure and the table of docs/method.md: ``python -m docs.method``.

They follow one wrong solution that vLLM sampled of the shipped base model, kept in docs/tutorial-samples.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from stepneg.credit.pairs import Pair, Trace, distinct_positives, first_pit_pairs
from stepneg.credit.values import advantages, first_pit, step_values
from stepneg.data.rollouts import Rollouts
from stepneg.data.rows import decode
from stepneg.policy_folder import load_tokenizer
from stepneg.problems import ASSETS, Problem
from stepneg.problems.arithmetic import Arithmetic
from stepneg.sampling.vllm_engine import VLLMEngine

DOCS = Path(__file__).parent
PAGE, PICTURE = DOCS / "method.md", DOCS / "method.png"
PROBLEM = 1  # of the eight whose samples are kept
BLUE, RED, GREY = "#0072B2", "#D55E00", "#888888"


@dataclass(frozen=True)
class Example:
    """A wrong solution on its way through the method, in text."""

    problem: Problem
    trace: Trace
    steps: list[str]
    chosen: str
    rejected: str


def example() -> Example:
    """The samples of the notebook, of which one wrong solution and its pair."""
    policy = ASSETS / "arithmetic-base"
    tokenizer = load_tokenizer(policy)
    problems = Arithmetic(size=8, seed=100, min_events=2, max_events=3).load()
    rollouts = Rollouts(VLLMEngine(), DOCS / "tutorial-samples", samples=24, max_tokens=80, rollouts=16, negatives=2)
    generated = rollouts.valued(policy, problems, tokenizer, "{question}\n")
    problem = problems[PROBLEM]
    trace = next(t for t in generated.valued if t.problem_id == problem.id)
    right = distinct_positives(generated.traces[problem.id], limit=4)
    pairs, _ = first_pit_pairs(right, {problem.id: [trace]}, k=1, eos_ids={tokenizer.eos_token_id or 0})
    pair: Pair = pairs[0]
    bounds = zip((0, *trace.ends), trace.ends, strict=False)
    steps = [decode(tokenizer, trace.response_ids[a:b]).strip() for a, b in bounds]
    return Example(problem, trace, steps, decode(tokenizer, pair.chosen_ids), decode(tokenizer, pair.rejected_ids))


def table(found: Example) -> str:
    """Counts, values and advantages of the steps, in Markdown."""
    values = step_values(found.trace.counts, k=1)
    lines = ["| $i$ | step $y_i$ | right of 16 | $Q_i$ | $A_i$ |", "|---:|---|---:|---:|---:|"]
    (n, c), gains = found.trace.counts[0], advantages(values)
    lines.append(f"| 0 | (the problem: {c} of {n} solutions) | | {values[0]:.2f} | |")
    for number, step in enumerate(found.steps, 1):
        known = number < len(values)
        right, value, gain = (
            (found.trace.counts[number][1], f"{values[number]:.2f}", f"{gains[number - 1]:+.2f}")
            if known
            else ("", "", "")
        )
        pit = " **← first pit**" if number == first_pit(values) else ""
        lines.append(f"| {number} | {step}{pit} | {right} | {value} | {gain} |")
    return "\n".join(lines)


def figure(found: Example) -> Figure:
    """Left the values of the steps with the counts that they come from, right the pair that is made of it."""
    values = step_values(found.trace.counts, k=1)
    pit = first_pit(values)
    picture = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = picture.subplots(1, 2, width_ratios=[1.35, 1])
    labels = ["the problem", *found.steps]
    left.plot(values, range(len(values)), color=GREY, linewidth=1, zorder=1)
    left.scatter(values, range(len(values)), c=[RED if i == pit else BLUE for i in range(len(values))], s=60, zorder=2)
    for number, (value, (n, c)) in enumerate(zip(values, found.trace.counts, strict=True)):
        said = f"first pit: {c}/{n}" if number == pit else f"{c}/{n}"
        left.annotate(
            said, (value, number), xytext=(8, -14 if number == pit else -3), textcoords="offset points", fontsize=8
        )
    left.set(xlim=(-0.05, 1.15), ylim=(len(labels) - 0.5, -0.5), xlabel="step value Q: right continuations / all")
    left.set_yticks(range(len(labels)), labels, fontsize=8)
    for number, label in enumerate(left.get_yticklabels()):
        label.set_color(RED if number == pit else "black" if number < len(values) else GREY)
    left.set_title(fill(found.problem.question, 70), fontsize=8)
    left.grid(axis="x", alpha=0.3)
    right.axis("off")
    texts = [
        ("chosen: complete, with EOS", BLUE, found.chosen),
        ("rejected: cut after the pit, no EOS", RED, found.rejected),
    ]
    for place, (title, colour, text) in zip((0.02, 0.54), texts, strict=True):
        box = FancyBboxPatch((place, 0.38), 0.44, 0.52, boxstyle="round,pad=0.01", fill=False, edgecolor=colour)
        right.add_patch(box)
        right.text(place + 0.01, 0.94, title, color=colour, fontsize=7.5)
        right.text(place + 0.02, 0.86, text.strip(), fontsize=7.5, va="top", linespacing=1.6)
    right.set(xlim=(0, 1), ylim=(0, 1))
    return picture


if __name__ == "__main__":
    made = example()
    figure(made).savefig(PICTURE, dpi=110)
    if PAGE.exists():  # the page holds the table behind its heading
        text = PAGE.read_text()
        PAGE.write_text(re.sub(r"\| \$i\$ \|.*?\n(?=\n)", lambda _: table(made) + "\n", text, flags=re.DOTALL))
    print(table(made))
