"""``stepneg report``: tables, plots and a page over all runs below directories."""

import os
import shlex
from collections.abc import Sequence
from itertools import cycle, pairwise
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from stepneg import __version__, escaping
from stepneg.analysis import curves, run_facts
from stepneg.analysis.layout import group_of, seed_of, tested_homes
from stepneg.analysis.paired import OTHERS, column, other_problem, paired_difference
from stepneg.analysis.sections import (
    by_fact,
    copies,
    data_table,
    differences,
    graded,
    origin_text,
    over_seeds,
    percent,
    results,
    sampled,
    settings_text,
)  # fmt: skip
from stepneg.errors import InputError
from stepneg.escaping import visible
from stepneg.evaluation_files import of_own_policy, read_evaluation
from stepneg.links import unlinked
from stepneg.reading import json_object, number
from stepneg.record import in_training
from stepneg.whole import write_whole

COLUMNS = ["method", "seed", "problems", "accuracy", "accuracy_low", "accuracy_high"]
COSTS = ["sampled_tokens", "trained_tokens", "seconds"]


def read_run(home: Path) -> dict[str, float | str]:
    """The report's row of a run directory that ``stepneg test`` has evaluated.

    The seed is that of ``seed-N``, the directory above, and empty under another name; a run without training has no
    tokens and no seconds. pass@k and maj@k are there for the k of the evaluation, nan where it has only the other.

    Raises:
        InputError: a file of it is not as stepneg writes it.
    """
    file, summary_file, mend = home / "evaluation" / "test.json", home / "summary.json", "test the run again"
    if (shown := visible(str(home))) != str(home):
        raise InputError(f"{shown}: the name hides something or is no UTF-8; rename the directory")
    metrics = read_evaluation(file)
    if not of_own_policy(home):
        raise InputError(f"{home}: was tested with another policy than its own last/, or trained again since; {mend}")
    summary = json_object(summary_file, mend) if summary_file.is_file() else {}
    both = summary | metrics
    row: dict[str, float | str] = {name: number(both, name, file, mend, 0) for name in (*COLUMNS[2:], *COSTS)}
    *_, seed, row["method"] = ("", *Path(os.path.abspath(home)).parts)  # "." has no name
    row["seed"] = seed_of(seed)
    row["problems"] = number(summary, "problems", summary_file, mend, 0)
    row["test_problems"] = number(metrics, "problems", file, mend)
    row["home"] = str(home)
    row["tested"] = run_facts.tested(home)
    for name in sampled(metrics):
        row[name] = number(metrics, name, file, mend) if name in metrics else float("nan")
    return row


def tested_runs(roots: Sequence[Path]) -> tuple[pd.DataFrame, dict[Path, InputError]]:
    """A row for each evaluated run below directories, and the runs that cannot be read with the reason.

    Within a seed they are in the order of their tests; those without a record of it are behind the others, by name.
    Columns more than those of :func:`read_run`: ``group``, where the runs of one seed are together, and ``label``, the
    method with what tells it from others: the root of several, the size of a sweep.

    Raises:
        InputError: none can be read.
    """
    roots = [root for place, root in enumerate(roots) if root.resolve() not in {r.resolve() for r in roots[:place]}]
    rows, damaged = [], {}
    names = {root: root.name if len({r.name for r in roots}) == len(roots) else str(root) for root in roots}
    for root in roots:
        for home in tested_homes(root):
            try:
                row = read_run(home)
            except InputError as error:
                damaged[home] = error
                continue
            above = group_of(home, root)
            where = [names[root], *above] if len(roots) > 1 else above
            rows.append(row | {"group": "/".join(where), "label": "/".join([*where, str(row["method"])])})
    if not rows and damaged:
        raise next(iter(damaged.values()))
    if not rows:
        shown = ", ".join(map(str, roots))
        raise InputError(f"{shown}: no run below it has been tested; run `stepneg pipeline` or `stepneg test` first")
    frame = pd.DataFrame(rows)
    groups = sorted(dict.fromkeys(frame["group"]), key=bool)  # the root's own seeds first
    frame["order"] = frame["group"].map({group: place for place, group in enumerate(groups)})
    frame["unrecorded"] = frame["tested"] == ""
    frame["number"] = [int(seed or -1) for seed in frame["seed"]]
    return frame.sort_values(["order", "number", "unrecorded", "tested"]).reset_index(drop=True), damaged


def order_finding(frame: pd.DataFrame, methods: Sequence[str]) -> str:
    """Plain words on whether the accuracies are in the order given, and how the intervals lie, seed by seed."""
    lines = []
    for (group, number_of), rows in frame.groupby(["group", "seed"], sort=False):
        places = [str(group) if frame["group"].nunique() > 1 else "", f"seed {number_of}" if number_of else ""]
        place = ", ".join(filter(None, places))
        where = f"- {place}: " if place else "- "
        by_method = rows.set_index("method")
        accuracy = by_method["accuracy"]
        present = [m for m in methods if m in by_method.index]
        for worse, better in pairwise(present):
            paired = paired_words(Path(by_method["home"][worse]), Path(by_method["home"][better]))
            if paired is None:
                lines.append(where + not_compared(worse, better))
                continue
            low, high = float(accuracy[worse]), float(accuracy[better])
            holds = "<" if low < high else "NOT <"
            apart = "apart" if by_method["accuracy_high"][worse] < by_method["accuracy_low"][better] else "overlapping"
            lines.append(
                f"{where}{worse} {percent(low)} {holds} {better} {percent(high)} (95 % intervals {apart};"
                f" on the same problems {paired})"
            )
        if len(present) > 2:
            first, last = by_method.loc[present[0]], by_method.loc[present[-1]]
            if other_problem(graded(Path(first["home"]), {}), graded(Path(last["home"]), {})) is not None:
                lines.append(where + not_compared(present[0], present[-1]))
                continue
            apart = "do not overlap" if first["accuracy_high"] < last["accuracy_low"] else "overlap or are reversed"
            lines.append(f"{where}the intervals of {present[0]} and {present[-1]} {apart}")
    return "\n".join(lines)


def not_compared(first: str, second: str) -> str:
    """Why two methods are not held against each other, in words."""
    return f"{first} and {second} are not compared: they were tested on {OTHERS}"


def paired_words(worse: Path, better: Path) -> str | None:
    """The paired difference of two runs in words; None if they hold other problems of the same names."""
    first, second = graded(worse, {}), graded(better, {})
    if other_problem(first, second) is not None:
        return None
    shared = [name for name in first if name in second]
    if not shared:
        return "nothing to pair"
    return paired_difference(column(first, "accuracy", shared), column(second, "accuracy", shared)).words


def plot(frame: pd.DataFrame) -> Figure:
    """Accuracy of each method with its interval, a mark a seed, and pass@k behind it."""
    methods = list(dict.fromkeys(frame["label"]))
    many = len(methods) > 14
    size = (2 + 0.32 * len(methods), 5.5) if many else (1.6 + 1.1 * len(methods), 4.2)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    seeds = list(dict.fromkeys(frame["seed"]))
    above = [name for name in sampled(frame) if name.startswith("pass")]
    for s, (_, rows) in enumerate(frame.groupby("seed", sort=False)):
        x = [methods.index(m) + (s - (len(seeds) - 1) / 2) * 0.18 for m in rows["label"]]
        y = rows["accuracy"].to_numpy()
        errors = [y - rows["accuracy_low"], rows["accuracy_high"] - y]
        first = s == 0
        axes.errorbar(x, y, yerr=errors, fmt="o", color="#0072B2", capsize=3, label="greedy (95 %)" if first else None)
        for name, mark in zip(above, cycle("^vsD")):
            label = name if len(above) > 1 else "pass@k"
            axes.plot(x, rows[name], mark, color="#999999", label=label if first else None)
    names = methods if many else [m.replace("_", "\n") for m in methods]
    axes.set_xticks(range(len(methods)), names, rotation=90 if many else 0, parse_math=False)
    axes.set(ylabel="accuracy on held-out problems", ylim=(0, 1), xlim=(-0.6, len(methods) - 0.4))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, loc="upper left")
    return figure


def log_to_tensorboard(frame: pd.DataFrame, root: Path) -> None:
    """The table's numbers as scalars (step = seed) below ``root/tensorboard``."""
    with SummaryWriter(str(root / "tensorboard" / "report")) as writer:
        for row in frame.to_dict("records"):
            step = int(row["seed"]) if str(row["seed"]).isdigit() else 0
            for name in ("accuracy", *sampled(frame), *COSTS):
                if pd.notna(row[name]):
                    writer.add_scalar(f"report/{row['label']}/{name}", row[name], step)


def runs_left_out(roots: Sequence[Path], damaged: dict[Path, InputError]) -> str:
    """A line for each run that is damaged or not finished."""
    lines = [f"- not wholly in the tables: {escaping.markdown(str(error))}" for error in damaged.values()]
    for root in roots:
        lines += [f"- {escaping.markdown(str(home))}: {state}" for home, state in run_facts.unfinished(root)]
    return "## Runs that are not finished\n\n" + "\n".join(lines) if lines else ""


def read_all_curves(frame: pd.DataFrame, damaged: dict[Path, InputError]) -> dict[str, list[dict[str, curves.Curve]]]:
    """The curves of each method's seeds; of a run that trains anew they are no longer those of its policy."""
    found: dict[str, list[dict[str, curves.Curve]]] = {}
    for row in frame.to_dict("records"):
        if in_training(Path(row["home"])):
            continue
        try:
            found.setdefault(row["label"], []).append(curves.read_curves(Path(row["home"])))
        except InputError as error:
            damaged[Path(row["home"])] = error
    return found


def report(
    root: Path | Sequence[Path],
    order: Sequence[str] = ("sft", "rft", "step_dpo"),
    baseline: str | None = None,
    output: Path | None = None,
) -> str:
    """Write ``report.md`` with its pictures, ``report.tex``, ``report.csv``, and the numbers to TensorBoard.

    Args:
        root: a run directory, one above several, or several of these.
        order: methods in the order that the paper leads one to expect; the report says whether it holds.
        baseline: the method that the others are held against; None takes sft, or else the first.
        output: the folder that is written to; by default the one root.

    Returns:
        The Markdown text.

    Raises:
        InputError: no run is tested, or several roots have no ``output``.
    """
    roots = [root] if isinstance(root, Path) else list(root)
    if output is None and len(roots) > 1:
        raise InputError("report: several directories, and no place for their report; name one by --output FOLDER")
    folder = output or roots[0]
    frame, damaged = tested_runs(roots)
    folder.mkdir(parents=True, exist_ok=True)
    columns = [*COLUMNS, *sampled(frame), *COSTS]
    write_whole(folder / "report.csv", frame.assign(method=frame["label"])[columns].to_csv(index=False))
    tables = [results(frame), over_seeds(frame), differences(frame, baseline, damaged), *by_fact(frame)]
    facts = data_table(frame, damaged)
    drawn = curves.plot_curves(read_all_curves(frame, damaged))
    settings = settings_text(frame, damaged)
    argv = ["stepneg", "report", *map(str, roots), f"--order=[{','.join(order)}]"]
    argv += [f"--baseline={baseline}"] if baseline else []
    argv += [f"--output={output}"] if output else []
    text = "\n\n".join(
        part
        for part in (
            "# Report",
            tables[0].markdown if tables[0] else "",
            order_finding(frame, order),
            copies(frame),
            "![accuracy by method](report.png)",
            *(table.markdown for table in tables[1:] if table),
            "## Curves\n\nFrom the runs' TensorBoard events; a colour a method, a line a seed.\n\n![curves](curves.png)"
            if drawn
            else "",
            facts.markdown if facts else "",
            *settings,
            origin_text(frame),
            runs_left_out(roots, damaged),
            f"Made by `{visible(shlex.join(argv))}`, stepneg {__version__}; the tables stand in report.tex, too.",
        )
        if part
    )
    write_whole(folder / "report.md", text + "\n")
    in_latex = "\n\n".join(table.latex for table in (*tables, facts) if table)
    write_whole(folder / "report.tex", f"% \\usepackage{{booktabs}}\n\n{in_latex}\n")
    plot(frame).savefig(unlinked(folder / "report.png"), dpi=130)
    if drawn:
        drawn.savefig(unlinked(folder / "curves.png"), dpi=130)
    log_to_tensorboard(frame, folder)
    return text


def brief(text: str) -> str:
    """The part of a report for a terminal: the results, and how they lie to each other."""
    return text.partition("\n\n![accuracy by method]")[0].removeprefix("# Report\n\n")
