"""``stepneg report``: one table and one plot over all runs below a directory."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from stepneg import escaping
from stepneg.analysis.paired import column, paired_difference, read_evaluated
from stepneg.errors import InputError
from stepneg.escaping import visible
from stepneg.evaluation_files import read_evaluation
from stepneg.links import unlinked
from stepneg.reading import json_object, number
from stepneg.whole import write_whole

COLUMNS = [
    "method", "seed", "problems", "accuracy", "accuracy_low", "accuracy_high", "pass@5", "maj@5",
    "sampled_tokens", "trained_tokens", "seconds",
]  # fmt: skip
METRICS = ("accuracy", "pass@5", "maj@5")


def read_run(home: Path) -> dict[str, float | str]:
    """The report's row of a run directory that ``stepneg test`` has evaluated.

    The seed is that of ``seed-N``, the directory above; a run without training has no tokens and no seconds.

    Raises:
        InputError: a file of it is not as stepneg writes it.
    """
    file, summary_file, mend = home / "evaluation" / "test.json", home / "summary.json", "test the run again"
    if (shown := visible(str(home))) != str(home):
        raise InputError(f"{shown}: the name hides something or is no UTF-8; rename the directory")
    metrics = read_evaluation(file)
    summary = json_object(summary_file, mend) if summary_file.is_file() else {}
    both = summary | metrics
    row: dict[str, float | str] = {name: number(both, name, file, mend, 0) for name in COLUMNS[2:]}
    row["method"] = home.name
    row["seed"] = home.parent.name.removeprefix("seed-")
    row["problems"] = number(summary, "problems", summary_file, mend, 0)
    row["test_problems"] = number(metrics, "problems", file, mend)
    row["home"] = str(home)
    row["done"] = (home / "evaluation" / "test.json").stat().st_mtime
    return row


def read_runs(root: Path) -> pd.DataFrame:
    """A row for each evaluated run below ``root``, in the order in which they were evaluated within a seed.

    Raises:
        InputError: there is none.
    """
    homes = [file.parent.parent for file in root.glob("**/evaluation/test.json")]
    if not homes:
        raise InputError(f"{root}: no run below it has been tested; run `stepneg pipeline` or `stepneg test` first")
    frame = pd.DataFrame([read_run(home) for home in homes])
    return frame.sort_values(["seed", "done"]).reset_index(drop=True)


def percent(value: float) -> str:
    """0.5 as 50.0 %."""
    return f"{100 * value:.1f} %"


def markdown(frame: pd.DataFrame) -> str:
    """The table for people."""
    lines = [
        "| method | seed | problems | accuracy (95 %) | pass@5 | maj@5 | sampled tokens | trained tokens | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in frame.to_dict("records"):
        interval = f"{percent(row['accuracy'])} ({100 * row['accuracy_low']:.1f} to {100 * row['accuracy_high']:.1f})"
        cells = [
            *(escaping.markdown(str(row[name])) for name in ("method", "seed")), f"{row['problems']:.0f}", interval,
            percent(row["pass@5"]), percent(row["maj@5"]),
            f"{row['sampled_tokens']:,.0f}", f"{row['trained_tokens']:,.0f}", f"{row['seconds']:.0f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def order_finding(frame: pd.DataFrame, methods: Sequence[str]) -> str:
    """Plain words on whether the accuracies are in the order given, and how the intervals lie, seed by seed."""
    lines = []
    for seed, rows in frame.groupby("seed"):
        by_method = rows.set_index("method")
        accuracy = by_method["accuracy"]
        present = [m for m in methods if m in by_method.index]
        for worse, better in pairwise(present):
            low, high = float(accuracy[worse]), float(accuracy[better])
            holds = "<" if low < high else "NOT <"
            apart = "apart" if by_method["accuracy_high"][worse] < by_method["accuracy_low"][better] else "overlapping"
            paired = paired_words(Path(by_method["home"][worse]), Path(by_method["home"][better]))
            lines.append(
                f"- seed {seed}: {worse} {percent(low)} {holds} {better} {percent(high)} (95 % intervals {apart};"
                f" on the same problems {paired})"
            )
        if len(present) > 2:
            first, last = by_method.loc[present[0]], by_method.loc[present[-1]]
            apart = "do not overlap" if first["accuracy_high"] < last["accuracy_low"] else "overlap or are reversed"
            lines.append(f"- seed {seed}: the intervals of {present[0]} and {present[-1]} {apart}")
    return "\n".join(lines)


def paired_words(worse: Path, better: Path) -> str:
    """The paired difference of two runs in words."""
    first, second = read_evaluated(worse), read_evaluated(better)
    shared = [name for name in first if name in second]
    if not shared:
        return "nothing to pair"
    return paired_difference(column(first, "accuracy", shared), column(second, "accuracy", shared)).words


def plot(frame: pd.DataFrame) -> Figure:
    """Accuracy of each method with its interval, a mark a seed, and pass@5 behind it."""
    methods = list(dict.fromkeys(frame["method"]))
    figure = Figure(figsize=(1.6 + 1.1 * len(methods), 4.2), layout="constrained")
    axes = figure.subplots()
    seeds = list(dict.fromkeys(frame["seed"]))
    for s, (_, rows) in enumerate(frame.groupby("seed", sort=False)):
        x = [methods.index(m) + (s - (len(seeds) - 1) / 2) * 0.18 for m in rows["method"]]
        y = rows["accuracy"].to_numpy()
        errors = [y - rows["accuracy_low"], rows["accuracy_high"] - y]
        first = s == 0
        axes.errorbar(x, y, yerr=errors, fmt="o", color="#0072B2", capsize=3, label="greedy (95 %)" if first else None)
        axes.plot(x, rows["pass@5"], "^", color="#999999", label="pass@5" if first else None)
    axes.set_xticks(range(len(methods)), [m.replace("_", "\n") for m in methods], parse_math=False)
    axes.set(ylabel="accuracy on held-out problems", ylim=(0, 1), xlim=(-0.6, len(methods) - 0.4))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, loc="upper left")
    return figure


def log_to_tensorboard(frame: pd.DataFrame, root: Path) -> None:
    """The table's numbers as scalars (step = seed) below ``root/tensorboard``."""
    with SummaryWriter(str(root / "tensorboard" / "report")) as writer:
        for row in frame.to_dict("records"):
            step = int(row["seed"]) if str(row["seed"]).isdigit() else 0
            for name in (*METRICS, "sampled_tokens", "trained_tokens", "seconds"):
                writer.add_scalar(f"report/{row['method']}/{name}", row[name], step)


def report(root: Path, order: Sequence[str] = ("sft", "rft", "step_dpo")) -> str:
    """Write ``report.md``, ``report.csv`` and ``report.png`` into ``root``, and the numbers to TensorBoard.

    Args:
        root: a run directory, or one above several.
        order: methods in the order that the paper leads one to expect; the report says whether it holds.

    Returns:
        The Markdown text.
    """
    frame = read_runs(root)
    write_whole(root / "report.csv", frame[COLUMNS].to_csv(index=False))
    text = "\n\n".join(
        part
        for part in (
            "# Report",
            markdown(frame),
            f"Accuracy is greedy, on {frame['test_problems'].iloc[0]:.0f} held-out problems. Sampled tokens are all"
            " that a method's data was made of, whether this run drew them or found them in the store; seconds are"
            " this run's own sampling, grading and training.",
            order_finding(frame, order),
            "![accuracy by method](report.png)",
        )
        if part
    )
    write_whole(root / "report.md", text + "\n")
    plot(frame).savefig(unlinked(root / "report.png"), dpi=130)
    log_to_tensorboard(frame, root)
    return text
