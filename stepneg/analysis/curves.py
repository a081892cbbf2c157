"""Training and evaluation curves of runs, read from their TensorBoard events."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stepneg.errors import InputError

Curve = tuple[np.ndarray, np.ndarray]  # steps [N], values [N]
PANELS = {  # by tag, in the order of the figure
    "train/loss": "training loss",
    "train/reward_margin": "reward margin, nats",
    "train/reward_accuracy": "pairs ranked right",
    "train/chosen_logp": "log-probability of the chosen, nats",
    "train/rejected_logp": "log-probability of the rejected, nats",
    "validation/nll": "validation loss, nats a token",
    "validation/accuracy": "validation accuracy (95 %)",
}
MOST_POINTS = 500
LINES = ("-", "--", ":", "-.")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")  # Okabe and Ito


def read_curves(home: Path) -> dict[str, Curve]:
    """The scalars of a run by tag, of several event files the later ones where steps overlap; empty without events.

    Raises:
        InputError: the events cannot be read.
    """
    folder = home / "tensorboard"
    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    try:
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1, "tensors": 1, "histograms": 1})
        events.Reload()
        found = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    except Exception as error:  # TensorBoard's readers raise whatever a damaged record leads to
        raise InputError(f"{folder}: its events cannot be read ({error})") from error
    return {
        tag: (np.array(sorted(values)), np.array([values[step] for step in sorted(values)]))
        for tag, values in found.items()
    }


def thinned(curve: Curve) -> Curve:
    """At most ``MOST_POINTS`` points, the last among them."""
    steps, values = curve
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MOST_POINTS)).round().astype(int))
    return steps[chosen], values[chosen]


def plot_curves(curves: Mapping[str, Sequence[Mapping[str, Curve]]]) -> Figure | None:
    """A panel a tag that at least one run has with two points; a colour a method, a line a seed.

    Args:
        curves: of each method, those of its seeds.

    Returns:
        None if no run has a curve.
    """

    def there(tag: str) -> bool:
        return any(len(run[tag][0]) > 1 for runs in curves.values() for run in runs if tag in run)

    tags = [tag for tag in PANELS if there(tag)]
    if not tags:
        return None
    columns = min(3, len(tags))
    rows = -(-len(tags) // columns)
    figure = Figure(figsize=(4 * columns, 2.9 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, tag in zip(panels, tags, strict=False):
        for colour, (method, runs) in enumerate(curves.items()):
            for seed, run in enumerate(run for run in runs if tag in run):
                shown = {
                    "color": COLOURS[colour % len(COLOURS)],
                    "linestyle": LINES[colour // len(COLOURS) % len(LINES)],
                }
                steps, values = thinned(run[tag])
                mark = "o" if len(steps) == 1 else None
                axes.plot(steps, values, **shown, linewidth=1, marker=mark, label=None if seed else f"\u200b{method}")
                low, high = run.get(f"{tag}_low"), run.get(f"{tag}_high")
                if low is not None and high is not None and len(low[0]) == len(high[0]):
                    axes.fill_between(low[0], low[1], high[1], color=shown["color"], alpha=0.15, linewidth=0)
                    if mark:  # a band of one step has no width
                        axes.vlines(low[0], low[1], high[1], color=shown["color"], linewidth=1)
        axes.set_title(PANELS[tag], fontsize=9)
        axes.set_xlabel("optimiser step", fontsize=8)
        axes.grid(alpha=0.3)
    for axes in panels[len(tags) :]:
        axes.set_visible(False)
    by_label = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    legend = figure.legend(by_label.values(), by_label, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure
