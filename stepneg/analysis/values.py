"""Pictures and texts of step values: a wrong solution with its pit marked."""

from collections.abc import Sequence
from textwrap import shorten

from matplotlib.figure import Figure

from stepneg.credit.pairs import Trace
from stepneg.credit.values import advantages, first_pit, step_values


def step_texts(texts: Sequence[str], values: Sequence[float], pit: int | None) -> str:
    """Markdown: a line a step with its value and advantage; the pit is marked. ``values`` holds Q_0..Q_m, m <= L."""
    lines = [f"| step | Q = {values[0]:.2f} before | Q | A |", "|---|---|---|---|"]
    gains = advantages(values)
    for number, text in enumerate(texts, 1):
        known = number < len(values)
        q, a = (f"{values[number]:.2f}", f"{gains[number - 1]:+.2f}") if known else ("", "")
        mark = " **← first pit**" if number == pit else ""
        lines.append(f"| {number} | {text.strip().replace('|', chr(92) + '|')}{mark} | {q} | {a} |")
    return "\n".join(lines)


def plot_values(texts: Sequence[str], values: Sequence[float], pit: int | None, title: str) -> Figure:
    """Q_i over the steps, the pit marked; steps beyond the valued ones are listed without a value."""
    figure = Figure(figsize=(8, 1.2 + 0.42 * (len(texts) + 1)), layout="constrained")
    axes = figure.subplots()
    labels = ["the problem", *(shorten(text, 80) for text in texts)]
    rows = range(len(values))
    axes.plot(values, rows, color="#888888", linewidth=1, zorder=1)
    colours = ["#D55E00" if i == pit else "#0072B2" for i in rows]
    axes.scatter(values, rows, c=colours, s=60, zorder=2)
    if pit is not None:
        axes.annotate("first pit", (values[pit], pit), xytext=(10, -14), textcoords="offset points", color="#D55E00")
    axes.set(xlim=(-0.05, 1.05), ylim=(len(labels) - 0.5, -0.5), xlabel="step value Q (share of right continuations)")
    axes.set_yticks(range(len(labels)), labels, fontsize=8, parse_math=False)  # a policy's LaTeX need not parse
    axes.set_title(title, fontsize=9, parse_math=False)
    axes.grid(axis="x", alpha=0.3)
    return figure


def describe(trace: Trace, texts: Sequence[str], k: int) -> tuple[str, Figure]:
    """The text and the picture of a valued trace. ``texts``: its steps, decoded."""
    values = step_values(trace.counts, k)
    pit = first_pit(values)
    return step_texts(texts, values, pit), plot_values(texts, values, pit, f"A wrong solution of {trace.problem_id}")
