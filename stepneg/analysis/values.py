"""Pictures and texts of step values: a wrong solution with its pit marked."""

from collections.abc import Sequence
from textwrap import shorten

from matplotlib.figure import Figure

from stepneg.credit.pairs import Trace, find_pit
from stepneg.credit.values import Count, advantages, step_values
from stepneg.escaping import markdown, visible


def search_texts(texts: Sequence[str], counts: Sequence[Count], pit: int | None) -> str:
    """Markdown: a line a step with the rollouts behind it that a search for the pit saw. ``counts``: (n, c)_0..m."""
    lines = ["| step | right / seen |", "|---|---|"]
    for number, text in enumerate(texts, 1):
        seen = f"{counts[number][1]} / {counts[number][0]}" if number < len(counts) else ""
        mark = " **← first pit**" if number == pit else ""
        lines.append(f"| {number} | {markdown(text)}{mark} | {seen} |")
    return "\n".join(lines)


def step_texts(texts: Sequence[str], values: Sequence[float], pit: int | None) -> str:
    """Markdown: a line a step with its value and advantage; the pit is marked. ``values`` holds Q_0..Q_m, m <= L."""
    lines = [f"| step | Q = {values[0]:.2f} before | Q | A |", "|---|---|---|---|"]
    gains = advantages(values)
    for number, text in enumerate(texts, 1):
        known = number < len(values)
        q, a = (f"{values[number]:.2f}", f"{gains[number - 1]:+.2f}") if known else ("", "")
        mark = " **← first pit**" if number == pit else ""
        lines.append(f"| {number} | {markdown(text)}{mark} | {q} | {a} |")
    return "\n".join(lines)


def plot_values(texts: Sequence[str], values: Sequence[float], pit: int | None, title: str, what: str) -> Figure:
    """Q_i over the steps, the pit marked; steps beyond the valued ones are listed without a value."""
    figure = Figure(figsize=(8, 1.2 + 0.42 * (len(texts) + 1)), layout="constrained")
    axes = figure.subplots()
    labels = ["the problem", *(visible(shorten(text, 80)) for text in texts)]
    rows = range(len(values))
    axes.plot(values, rows, color="#888888", linewidth=1, zorder=1)
    colours = ["#D55E00" if i == pit else "#0072B2" for i in rows]
    axes.scatter(values, rows, c=colours, s=60, zorder=2)
    if pit is not None:
        axes.annotate("first pit", (values[pit], pit), xytext=(10, -14), textcoords="offset points", color="#D55E00")
    axes.set(xlim=(-0.05, 1.05), ylim=(len(labels) - 0.5, -0.5), xlabel=what)
    axes.set_yticks(range(len(labels)), labels, fontsize=8, parse_math=False)  # a policy's LaTeX need not parse
    axes.set_title(visible(title), fontsize=9, parse_math=False)
    axes.grid(axis="x", alpha=0.3)
    return figure


def describe(
    trace: Trace, texts: Sequence[str], k: int, tolerance: float = 0.0, searched: bool = False
) -> tuple[str, Figure]:
    """The text and the picture of a valued trace.

    Args:
        trace: with its counts.
        texts: its steps, decoded.
        k: of best-of-k values.
        tolerance: how far below the problem's own value a pit must lie.
        searched: the counts are of a search for the pit (:mod:`stepneg.credit.search`), which stops at the first right
            rollout: they say where the pit is, and no values.
    """
    values = step_values(trace.counts, k)
    found = find_pit(trace, k, tolerance)  # as the pairs of the data find it
    pit, title = found if isinstance(found, int) else None, f"A wrong solution of {trace.problem_id}"
    if not searched:
        of = "share of right continuations" if k == 1 else f"chance that one of {k} continuations is right"
        what = f"step value Q ({of})"
        return step_texts(texts, values, pit), plot_values(texts, values, pit, title, what)
    what = "share of right rollouts that the search saw (no values)"
    return search_texts(texts, trace.counts, pit), plot_values(texts, values, pit, title, what)
