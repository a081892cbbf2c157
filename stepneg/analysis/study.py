"""A study's table: means over seeds of each run of a chain, held against one of them, and a plot."""

import sys
from collections.abc import Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stepneg.analysis.layout import gaps, group_of, left_out, not_of_chain, seed_of, tested_homes
from stepneg.analysis.paired import OTHERS, Graded, column, other_problem, read_evaluated
from stepneg.analysis.report import tested_runs
from stepneg.analysis.resampling import resampled_means
from stepneg.analysis.sections import percent, sampled
from stepneg.errors import InputError
from stepneg.escaping import markdown
from stepneg.links import unlinked
from stepneg.reading import json_object, number
from stepneg.whole import write_whole

RESAMPLES = 2000
WHERE = "seed-N of the chain"


def counts(home: Path, root: Path, methods: Sequence[str] | None = None) -> bool:
    """Whether a run is one of the study's: in ``root/seed-N``, and of the methods if they are given."""
    named = methods is None or home.name in methods
    return named and not group_of(home, root) and bool(seed_of(home.parent.name))


def read_study(root: Path, baseline: str, methods: Sequence[str] | None = None, seed: int = 0) -> pd.DataFrame:
    """A row for each run of the chain: means over seeds, the difference to the baseline's, both with 95 % intervals.

    Its runs are those in ``root/seed-N``, if ``methods`` are given those of them; others below the root are left out.

    Columns: method, seeds, accuracy with its ``_low`` and ``_high``, difference, difference_low, difference_high
    (accuracy, same seeds and problems), pass@k for each k that runs were tested with (nan unless all seeds were), and
    the means of what ``summary.json`` says of the data. The intervals are of a bootstrap over seeds and test problems,
    the same draw for all.

    Raises:
        InputError: nothing is tested, a run is damaged, the baseline is missing, or problems are not the same.
    """
    runs, damaged = tested_runs([root])
    for home, error in damaged.items():
        if counts(home, root, methods):
            raise error
    runs = runs[[counts(Path(home), root, methods) for home in runs["home"]]]
    if runs.empty:
        raise InputError(f"{root}: no tested run is in a folder {WHERE}; name the root of a chain")
    methods = list(dict.fromkeys(map(str, runs["method"])))
    if baseline not in methods:
        raise InputError(f"{root}: no tested run is called {baseline}; --baseline is one of {', '.join(methods)}")
    by_seed = {
        str(method): {row["seed"]: Path(str(row["home"])) for row in rows.to_dict("records")}
        for method, rows in runs.groupby("method")
    }
    seeds = sorted(set.intersection(*(set(of) for of in by_seed.values())))
    if not seeds:
        raise InputError(f"{root}: no seed has all of {', '.join(methods)}; finish the chain")
    rows_of = {(method, s): read_evaluated(homes[s]) for method, homes in by_seed.items() for s in seeds}
    names = sorted(rows_of[baseline, seeds[0]])
    known: dict[str, Graded] = {}
    for (method, s), found in sorted(rows_of.items(), key=lambda item: item[0][0] != baseline):  # whose problems count
        if sorted(found) != names or other_problem(known, found) is not None:
            others = "" if sorted(found) != names else f" ({OTHERS})"
            raise InputError(
                f"{root}: {method}, seed {s}, was not tested on the problems of {baseline}{others}; test them again"
            )
        known |= {name: row for name, row in found.items() if row.question}
    correct = {m: np.array([column(rows_of[m, s], "accuracy", names) for s in seeds]) for m in methods}
    drawn = resampled_means(correct, RESAMPLES, seed)
    used = runs[runs["seed"].isin(seeds)]
    above = [name for name in passes(used) if used[name].notna().any()]
    rows: list[dict[str, Any]] = []
    for method in methods:
        low, high = np.quantile(drawn[method], [0.025, 0.975])
        less, more = np.quantile(drawn[method] - drawn[baseline], [0.025, 0.975])
        of = used[used["method"] == method]
        rows.append(
            {"method": method, "seeds": len(seeds), "accuracy": correct[method].mean(), "accuracy_low": low}
            | {"accuracy_high": high, "difference": correct[method].mean() - correct[baseline].mean()}
            | {"difference_low": less, "difference_high": more}
            | {name: of[name].mean(skipna=False) for name in above}
            | facts([by_seed[method][s] for s in seeds])
        )
    return pd.DataFrame(rows)


def facts(homes: list[Path]) -> dict[str, float]:
    """Means over runs of what their data was made of; shares of sampled solutions where there were any."""
    found = []
    for home in homes:
        file = home / "summary.json"
        mend = "test the run again"
        summary = json_object(file, mend) if file.is_file() else {}
        said = partial(number, summary, file=file, mend=mend, missing=0)
        row = {name: float(said(name)) for name in ("problems", "examples", "sampled_tokens", "trained_tokens")}
        solutions = said("solutions")
        for name in ("correct_solutions", "distinct_solutions"):
            row[name] = said(name) / solutions if solutions else float("nan")
        mixed, problems = said("mixed_problems"), row["problems"]
        row["mixed_problems"] = mixed / problems if solutions and problems else float("nan")
        found.append(row)
    return {str(name): float(value) for name, value in pd.DataFrame(found).mean().items()}


def passes(frame: pd.DataFrame) -> list[str]:
    """The columns pass@k of a frame, the least k first."""
    return [name for name in sampled(frame) if name in frame and name.startswith("pass")]


def table(frame: pd.DataFrame, baseline: str) -> str:
    """The table for people."""
    above = passes(frame)
    headers = ["run", "examples", "accuracy (95 %)", f"against {baseline}, points (95 %)", *above, "right samples"]
    headers += ["distinct samples", "problems with both", "sampled tokens", "trained tokens"]
    lines = [f"| {' | '.join(headers)} |", f"|---|{'---:|' * (len(headers) - 1)}"]
    for row in frame.to_dict("records"):
        accuracy = f"{percent(row['accuracy'])} ({100 * row['accuracy_low']:.1f} to {100 * row['accuracy_high']:.1f})"
        change = [100 * row[name] for name in ("difference", "difference_low", "difference_high")]
        against = "" if row["method"] == baseline else f"{change[0]:+.1f} ({change[1]:+.1f} to {change[2]:+.1f})"
        shares = [percent(row[n]) for n in (*above, "correct_solutions", "distinct_solutions", "mixed_problems")]
        cells = [markdown(row["method"]), f"{row['examples']:,.0f}", accuracy, against, *shares]
        lines.append(
            "| " + " | ".join([*cells, f"{row['sampled_tokens']:,.0f}", f"{row['trained_tokens']:,.0f}"]) + " |"
        )
    return "\n".join(lines)


def plot(frame: pd.DataFrame, baseline: str) -> Figure:
    """Accuracy of each run with its interval, pass@k behind it, the baseline as a line."""
    figure = Figure(figsize=(2 + 0.9 * len(frame), 4), layout="constrained")
    axes = figure.subplots()
    x = range(len(frame))
    # Never below 0: at 100 % an end of the interval may lie an ulp inside the mean.
    errors = [
        (frame["accuracy"] - frame["accuracy_low"]).clip(lower=0),
        (frame["accuracy_high"] - frame["accuracy"]).clip(lower=0),
    ]
    axes.errorbar(x, frame["accuracy"], yerr=errors, fmt="o", color="#0072B2", capsize=3, label="greedy (95 %)")
    for name, mark in zip(passes(frame), cycle("^vsD")):
        axes.plot(x, frame[name], mark, color="#999999", label=name)
    axes.axhline(frame.loc[frame["method"] == baseline, "accuracy"].iloc[0], color="#0072B2", linewidth=1, alpha=0.4)
    axes.set_xticks(x, [m.replace("_", "\n") for m in frame["method"]], fontsize=8, parse_math=False)
    axes.set(ylabel="accuracy on held-out problems", xlim=(-0.6, len(frame) - 0.4))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return figure


def over_seeds(root: Path, verb: str) -> pd.DataFrame | None:
    """The rows that a study's command left in each cell, with ``stage`` and ``seed``; also written to ROOT/VERB.csv.

    Returns:
        None if the chain has no such command.
    """
    files = []
    for file in sorted(root.glob(f"seed-*/*/{verb}.csv")):
        if seed_of(file.parent.parent.name):
            files.append(file)
        else:
            print(f"{file} is left out: it is not in a folder seed-N", file=sys.stderr)
    if not files:
        return None
    frames = []
    for file in files:
        try:
            rows = pd.read_csv(file)
        except (OSError, ValueError) as error:  # pandas' own errors are of the latter kind
            raise InputError(f"{file}: no table ({error}); run `stepneg {verb}` again") from error
        frames.append(rows.assign(stage=file.parent.name, seed=seed_of(file.parent.parent.name)))
    frame = pd.concat(frames)
    write_whole(root / f"{verb}.csv", frame.to_csv(index=False))
    return frame


def study(root: Path, baseline: str, methods: Sequence[str] | None = None) -> str:
    """Write study.md, study.csv and study.png into ``root``.

    Args:
        root: a chain's run directory.
        baseline: the run that the others are held against.
        methods: those of the chain; None for all that are there.

    Returns:
        The Markdown text.
    """
    frame = read_study(root, baseline, methods)
    write_whole(root / "study.csv", frame.to_csv(index=False))
    plot(frame, baseline).savefig(unlinked(root / "study.png"), dpi=130)
    homes = tested_homes(root)
    of = [home for home in homes if counts(home, root, methods)]
    earlier = [home for home in homes if counts(home, root) and home not in of]
    text = table(frame, baseline) + gaps((home.name, seed_of(home.parent.name)) for home in of)
    text += not_of_chain(home.name for home in earlier)
    text += left_out([home for home in homes if not counts(home, root)], root, WHERE)
    write_whole(root / "study.md", text + "\n")
    return text
