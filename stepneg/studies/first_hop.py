"""The critical first hop of star graphs over training (the paper, section 6.3), read from TensorBoard's events."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stepneg.errors import InputError
from stepneg.links import unlinked
from stepneg.whole import write_whole

SETS = {"first_hop": "held out", "first_hop_train": "training"}
MEASURES = ("accuracy", "probability", "value")
COLOURS = ["#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999"]


def read_hops(home: Path, name: str) -> list[dict[str, str | float]]:
    """What the callback logged in a run: a row for each set of problems and validation.

    Raises:
        InputError: the run has no such events.
    """
    events = EventAccumulator(str(home / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = set(events.Tags()["scalars"])
    rows: list[dict[str, str | float]] = []
    for prefix, problems in SETS.items():
        if f"{prefix}/accuracy" not in tags:
            continue
        series = {measure: events.Scalars(f"{prefix}/{measure}") for measure in MEASURES}
        for i, event in enumerate(series["accuracy"]):
            row: dict[str, str | float] = {"run": name, "problems": problems, "step": event.step}
            rows.append(row | {measure: series[measure][i].value for measure in MEASURES})
    if not rows:
        raise InputError(
            f"{home}: no first_hop events; give runs with the callback stepneg.callbacks.first_hop.FirstHop"
        )
    return rows


def first_hop(root: Path, runs: dict[str, Path]) -> str:
    """The first hop's accuracy, probability and value over training: first_hop.csv, first_hop.png and first_hop.md.

    Args:
        root: run directory.
        runs: run directories of fits with the callback FirstHop, by name.

    Returns:
        The table of the last measurements, in Markdown.
    """
    frame = pd.DataFrame([row for name, home in runs.items() for row in read_hops(home, name)])
    root.mkdir(parents=True, exist_ok=True)
    write_whole(root / "first_hop.csv", frame.to_csv(index=False))
    plot(frame).savefig(unlinked(root / "first_hop.png"), dpi=130)
    text = table(frame)
    write_whole(root / "first_hop.md", text + "\n")
    return text


def table(frame: pd.DataFrame) -> str:
    """A row a run: the last measurement on training and on held-out problems; means over seeds, if there are any."""
    kinds = [kind for kind in ("training", "held out") if kind in set(frame["problems"])]
    names = {"accuracy": "right hop likeliest", "probability": "its probability", "value": "value behind it"}
    lines = [f"| run | {' | '.join(f'{kind}: {what}' for kind in kinds for what in names.values())} |"]
    lines.append("|---|" + "---:|" * (len(kinds) * len(names)))
    by = ["run", "problems", *(["seed"] if "seed" in frame else [])]
    last = frame.sort_values("step", kind="stable").groupby(by, sort=False).last().groupby(["run", "problems"]).mean()
    for run in dict.fromkeys(frame["run"]):
        cells = [
            f"{100 * last.loc[(run, kind), 'accuracy']:.1f} % | {last.loc[(run, kind), 'probability']:.2f}"
            f" | {last.loc[(run, kind), 'value']:.2f}"
            for kind in kinds
        ]
        lines.append(f"| {run} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(frame: pd.DataFrame) -> Figure:
    """Accuracy of the first hop over the steps of each run, training and held-out problems side by side."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, kind in zip(panels, ("training", "held out"), strict=True):
        of_kind = frame[frame["problems"] == kind]
        for i, run in enumerate(dict.fromkeys(frame["run"])):
            means = of_kind[of_kind["run"] == run].groupby("step")["accuracy"].mean()
            style = "-" if i < len(COLOURS) else "--"
            axes.plot(means.index, means, style, marker=".", color=COLOURS[i % len(COLOURS)], label=run)
        axes.set(xlabel="training step", ylim=(0, 1.02))
        axes.set_title(f"{kind} problems", fontsize=9)
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="first hop: the right one is the likeliest")
    panels[1].legend(frameon=False, fontsize=7, ncols=2)
    return figure
