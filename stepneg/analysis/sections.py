"""The sections of a report: tables and texts over evaluated runs."""

import hashlib
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from stepneg import escaping
from stepneg.analysis import run_facts
from stepneg.analysis.page import Table
from stepneg.analysis.paired import OTHERS, Graded, column, other_problem, paired_difference, read_evaluated
from stepneg.analysis.resampling import resampled_means
from stepneg.errors import InputError
from stepneg.escaping import visible
from stepneg.evaluation_files import read_evaluation

RESAMPLES = 2000
SAMPLED = re.compile(r"(?:pass|maj)@(?P<k>[0-9]{1,6})")


def percent(value: float) -> str:
    """0.5 as 50.0 %; nothing for nan."""
    return "" if np.isnan(value) else f"{100 * value:.1f} %"


def sampled(names: Iterable[object]) -> list[str]:
    """pass@k and maj@k for each k of which one is among the names, the least k first."""
    found = {match["k"] for match in map(SAMPLED.fullmatch, map(str, names)) if match}
    return [f"{metric}@{k}" for k in sorted(found, key=lambda k: (int(k), k)) for metric in ("pass", "maj")]


def results(frame: pd.DataFrame) -> Table:
    """The comparison: a row a run."""
    names = sampled(frame)
    headers = ["method", "seed", "problems", "accuracy (95 %)", *names]
    rows = [
        [
            row["label"], row["seed"], f"{row['problems']:.0f}",
            f"{percent(row['accuracy'])} ({100 * row['accuracy_low']:.1f} to {100 * row['accuracy_high']:.1f})",
            *(percent(row[name]) for name in names),
            f"{row['sampled_tokens']:,.0f}", f"{row['trained_tokens']:,.0f}", f"{row['seconds']:.0f}",
        ]
        for row in frame.to_dict("records")
    ]  # fmt: skip
    tested = sorted({f"{number:.0f}" for number in frame["test_problems"]}, key=int)
    caption = (
        f"Accuracy is greedy, on {' or '.join(tested)} held-out problems, with Wilson's interval. Sampled tokens are"
        " all that a method's data was made of, whether this run drew them or found them in the store; seconds are this"
        " run's own sampling, grading and training."
    )
    return Table("Results", caption, [*headers, "sampled tokens", "trained tokens", "seconds"], rows)


def over_seeds(frame: pd.DataFrame) -> Table | None:
    """Mean and spread of each method that has several seeds; None if none has."""
    rows, names = [], sampled(frame)
    for label, runs in frame.groupby("label", sort=False):
        if len(runs) > 1:
            accuracy = runs["accuracy"]
            spread = f"{100 * accuracy.min():.1f} to {100 * accuracy.max():.1f}"
            means = [percent(runs[name].mean(skipna=False)) for name in names]
            tokens = [f"{runs[name].mean():,.0f}" for name in ("sampled_tokens", "trained_tokens")]
            mean, deviation = percent(accuracy.mean()), f"{100 * accuracy.std():.1f}"
            rows.append([str(label), str(len(runs)), mean, deviation, spread, *means, *tokens])
    headers = ["method", "seeds", "accuracy", "standard deviation", "least to most"]
    headers += names if len(names) > 2 else ["pass@k", "maj@k"][: len(names)]
    caption = "Means over seeds; the standard deviation, in points, is that between seeds (n - 1)."
    return Table("Over seeds", caption, [*headers, "sampled tokens", "trained tokens"], rows) if rows else None


def copies(frame: pd.DataFrame) -> str:
    """A line for each method of which seeds have the same settings and graded solutions, as copied folders have."""
    said = "have the same settings and the same graded solutions; they are copies, and the spread counts each"
    lines = []
    for label, runs in frame.groupby("label", sort=False):
        alike: dict[tuple[str, ...], list[str]] = {}
        for row in runs.to_dict("records"):
            home = Path(row["home"])
            rows = home / "evaluation" / "test.jsonl"
            if (marks := run_facts.settings_marks(home)) and rows.is_file():
                alike.setdefault((*marks, hashlib.sha256(rows.read_bytes()).hexdigest()), []).append(str(row["seed"]))
        many = [", ".join(seeds) for seeds in alike.values() if len(seeds) > 1]
        lines += [f"- {escaping.markdown(str(label))}: seeds {seeds} {said}" for seeds in many]
    return "\n".join(lines)


def differences(frame: pd.DataFrame, baseline: str | None, damaged: dict[Path, InputError]) -> Table | None:
    """Each run against the baseline of its group and seed on the same problems, and over seeds; None without a pair.

    Evaluations that hold other problems of the same names are not compared, and the row says so.

    Args:
        frame: of :func:`tested_runs`.
        baseline: a method; None takes sft, or else the first.
        damaged: takes up the runs whose graded problems cannot be read.

    Raises:
        InputError: no run is the baseline's.
    """
    methods = list(dict.fromkeys(frame["method"]))
    if baseline is not None and baseline not in methods:
        raise InputError(f"baseline: no tested run is called {baseline}; it is one of {', '.join(methods)}")
    first = baseline or ("sft" if "sft" in methods else methods[0])
    rows: list[list[str]] = []
    for _, group in frame.groupby("group", sort=False):
        pairs: dict[str, list[tuple[dict[str, Graded], dict[str, float]]]] = {}  # the baseline's, changes to them
        for seed, runs in group.groupby("seed", sort=False):
            problems = {row["label"]: graded(Path(row["home"]), damaged) for row in runs.to_dict("records")}
            base = next((row["label"] for row in runs.to_dict("records") if row["method"] == first), None)
            for label, others in problems.items():
                of = problems.get(base, {})
                shared = [name for name in of if name in others]
                if label == base or not shared:
                    continue
                if other_problem(of, others) is not None:
                    rows.append([label, str(seed), OTHERS, "", "", "", ""])
                    continue
                before, after = column(of, "accuracy", shared), column(others, "accuracy", shared)
                pairs.setdefault(label, []).append((of, dict(zip(shared, (after - before).tolist(), strict=True))))
                d = paired_difference(before, after)
                change = points(d.second - d.first, d.low, d.high)
                rows.append([label, str(seed), change, str(d.gained), str(d.lost), f"{d.p:.2g}", str(len(shared))])
        for label, found in pairs.items():
            names = list(found[0][1])
            if len(found) < 2 or any(change.keys() != found[0][1].keys() for _, change in found):
                continue
            if other_problem(*(of for of, _ in found)) is not None:
                rows.append([label, "all", OTHERS, "", "", "", ""])
            else:
                changes = np.array([[change[name] for name in names] for _, change in found])
                low, high = np.quantile(resampled_means({0: changes}, RESAMPLES, 0)[0], [0.025, 0.975])
                mean = points(float(changes.mean()), low, high)
                rows.append([label, "all", mean, "", "", "", str(changes.shape[1])])
    caption = (
        f"Against {first}, on the same problems: the difference in points with its 95 % interval (bootstrap over"
        " problems; over all seeds, over seeds and problems), problems gained and lost, and the exact McNemar test, not"
        " adjusted for the number of comparisons."
    )
    headers = ["method", "seed", "points (95 %)", "gained", "lost", "p", "problems"]
    return Table("Differences", caption, headers, rows) if rows else None


def points(change: float, low: float, high: float) -> str:
    """A difference of shares in points, with its interval."""
    return f"{100 * change:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def graded(home: Path, damaged: dict[Path, InputError]) -> dict[str, Graded]:
    """The graded problems of a run; empty if they cannot be read, which is noted."""
    try:
        return read_evaluated(home)
    except InputError as error:
        damaged[home] = error
        return {}


def by_fact(frame: pd.DataFrame) -> list[Table]:
    """Greedy accuracy by each fact that problems have, as level or subject; means over seeds."""
    found: dict[str, dict[str, dict[str, list[tuple[float, float]]]]] = {}
    for row in frame.to_dict("records"):
        file = Path(row["home"]) / "evaluation" / "test.json"
        for item in read_evaluation(file).get("breakdown", []):
            with suppress(KeyError, TypeError, ValueError):  # of another evaluation's making
                cell = float(item["accuracy"]), float(item["problems"])
                of_fact = found.setdefault(str(item["by"]), {})
                of_fact.setdefault(str(item["value"]), {}).setdefault(row["label"], []).append(cell)
    labels, tables = list(dict.fromkeys(frame["label"])), []
    for fact, values in found.items():
        rows = []
        for value, cells in values.items():
            tested = next(iter(cells.values()))[0][1]
            shares = [percent(float(np.mean([a for a, _ in cells[m]]))) if m in cells else "" for m in labels]
            rows.append([value, f"{tested:.0f}", *shares])
        caption = "Greedy accuracy on the test problems, means over seeds."
        tables.append(Table(f"Accuracy by {fact}", caption, [fact, "problems", *labels], rows))
    return tables


def data_table(frame: pd.DataFrame, damaged: dict[Path, InputError]) -> Table | None:
    """What each method's data was made of, means over seeds; None without any."""
    rows = []
    for label, runs in frame.groupby("label", sort=False):
        found = []
        for home in map(Path, runs["home"]):
            try:
                found.append(run_facts.data_facts(home))
            except InputError as error:
                damaged[home] = error
        mean = pd.DataFrame([facts for facts in found if facts]).mean()
        if mean.empty:
            continue
        whole = [f"{mean[name]:,.0f}" if name in mean else "" for name in ("problems", "solutions")]
        of = mean.get("solutions", 0), mean.get("solutions", 0), mean.get("problems", 0) if "solutions" in mean else 0
        names = ("correct_solutions", "distinct_solutions", "mixed_problems")
        shares = [percent(mean[n] / total) if n in mean and total else "" for n, total in zip(names, of, strict=True)]
        made = [f"{mean[name]:,.0f}" if name in mean else "" for name in ("valued_solutions", "pits", "examples")]
        seconds = [f"{mean[name]:.0f}" if name in mean else "" for name in run_facts.SECONDS]
        rows.append([str(label), *whole, *shares, *made, *seconds])
    caption = (
        "Means over seeds. Solutions are those sampled from the policy, with the shares of right and of distinct ones,"
        " and the share of problems that have both right and wrong ones; pits are valued solutions with a first pit"
        " (K = 1); examples are pairs where a method trains on pairs."
    )
    headers = ["method", "problems", "solutions", "right", "distinct", "with both", "valued", "pits", "examples"]
    return Table("Data", caption, [*headers, "s sampling", "s grading", "s training"], rows) if rows else None


def settings_text(frame: pd.DataFrame, damaged: dict[Path, InputError]) -> list[str]:
    """Sections on hyper-parameters: a table of those that differ, a list of those in common."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in frame.to_dict("records"):
        try:
            found.setdefault(row["label"], []).append(run_facts.settings(Path(row["home"])))
        except InputError as error:
            damaged[Path(row["home"])] = error
    differ, common = run_facts.differing(found)
    sections = []
    if differ:
        labels = list(next(iter(differ.values())))
        rows = [[key, *row.values()] for key, row in differ.items()]
        caption = "Settings that differ between methods, without `init_args`; what seeds differ in is listed."
        sections.append(Table("Settings that differ", caption, ["setting", *labels], rows, len(labels) + 1).markdown)
    if common:
        lines = "\n".join(visible(f"{key}: {value}").replace("\n", "\\n") for key, value in common.items())
        fence = "`" * (max((len(run) for run in re.findall("`+", lines)), default=2) + 1)
        sections.append(f"## Settings in common\n\n{max(fence, '```')}yaml\n{lines}\n{max(fence, '```')}")
    return sections


def origin_text(frame: pd.DataFrame) -> str:
    """Dates, fingerprints and versions, as far as the runs hold them."""
    homes = {(row["label"], row["seed"]): Path(row["home"]) for row in frame.to_dict("records")}
    found = {key: run_facts.provenance(home) for key, home in homes.items()}
    if not any(found.values()):
        return ""
    names = ["tested", "settings", "data", "test problems"]
    rows = [[*key, *(of.get(name, "") for name in names)] for key, of in found.items()]
    caption = (
        "When each run was tested (UTC), and the fingerprints of its settings, its training data and its test problems."
    )
    table = Table("Origin", caption, ["method", "seed", *names], rows, 6).markdown
    said = [run_facts.versions(home) for home in homes.values()]
    by_name = {name: ", ".join(dict.fromkeys(of[name] for of in said if name in of)) for of in said for name in of}
    listed = "; ".join(f"{escaping.markdown(name)} {escaping.markdown(version)}" for name, version in by_name.items())
    return f"{table}\n\nVersions: {listed}." if by_name else table
