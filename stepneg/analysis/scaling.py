"""Which method needs how many problems: error against their number, and each method's efficiency factor.

The paper (sections 1 and 5) measures efficiency in teacher problems: fit err = a D^-b to the errors of SFT, find the D'
at which SFT would have a method's error, and divide by the D that the method had.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter

from stepneg.analysis.layout import gaps, left_out, not_of_chain, seed_of, size_of, tested_homes
from stepneg.analysis.paired import OTHERS, Graded, column, other_problem, read_evaluated
from stepneg.analysis.report import read_run
from stepneg.analysis.resampling import resampled_means
from stepneg.analysis.run_facts import tested
from stepneg.errors import InputError
from stepneg.links import unlinked
from stepneg.whole import write_whole

RESAMPLES = 2000
LINES = ["#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999"]  # Okabe and Ito


@dataclass(frozen=True)
class Measured:
    """Correctness by (method, size): [seeds, test problems], on the same problems and seeds; facts of these runs."""

    correct: dict[tuple[str, int], np.ndarray]
    facts: pd.DataFrame  # method, size, seed, sampled_tokens, trained_tokens, seconds

    @property
    def methods(self) -> list[str]:
        """In the order of the first cell."""
        return list(dict.fromkeys(method for method, _ in self.correct))

    def sizes(self, method: str) -> list[int]:
        """The sizes at which a method was run, rising."""
        return sorted(size for name, size in self.correct if name == method)


def cell_of(home: Path, root: Path) -> tuple[int, str] | None:
    """Size and seed of a run of the sweep; None for other runs below its root."""
    match home.relative_to(root).parts:
        case (first, second, _) if (size := size_of(first)) is not None and (seed := seed_of(second)):
            return size, seed
    return None


def cells_of(
    root: Path, methods: Sequence[str] | None = None, sizes: Sequence[int] | None = None
) -> dict[Path, tuple[int, str]]:
    """Size and seed of each tested run of the sweep, with the methods and sizes that are given."""
    cells = {home: cell for home in tested_homes(root) if (cell := cell_of(home, root)) is not None}
    return {
        home: (size, seed)
        for home, (size, seed) in cells.items()
        if (methods is None or home.name in methods) and (sizes is None or size in sizes)
    }


def read_sweep(root: Path, methods: Sequence[str] | None = None, sizes: Sequence[int] | None = None) -> Measured:
    """The evaluated runs in ``root/size-N/seed-M/METHOD``; of each (method, size), the seeds that all of them have.

    Args:
        root: a sweep's run directory.
        methods: those of the sweep; None for all that are there.
        sizes: likewise.

    Raises:
        InputError: there is none, or they were not evaluated on the same problems.
    """
    cells = cells_of(root, methods, sizes)
    if not cells:
        raise InputError(f"{root}: no cell of a sweep below it has been tested; run `stepneg sweep` first")
    found: dict[tuple[str, int], dict[str, dict[str, Graded]]] = {}
    facts = []
    dates = {home: tested(home) for home in cells}
    for home in sorted(cells, key=lambda home: (not dates[home], dates[home])):  # without a record last, by name
        size, seed = cells[home]
        found.setdefault((home.name, size), {})[seed] = read_evaluated(home)
        row = read_run(home)
        names = ("sampled_tokens", "trained_tokens", "seconds")
        facts.append({"method": home.name, "size": size, "seed": seed} | {name: row[name] for name in names})
    seeds = sorted(set.intersection(*(set(of) for of in found.values())))
    if not seeds:
        raise InputError(f"{root}: no seed is done at every size and method; finish the sweep")
    ids = list(next(iter(found.values()))[seeds[0]])
    correct = {}
    known: dict[str, Graded] = {}
    for key, by_seed in found.items():
        for seed in seeds:
            rows = by_seed[seed]
            if list(rows) != ids or other_problem(known, rows) is not None:
                others = "other test problems" if list(rows) != ids else OTHERS
                raise InputError(f"{root}: {key[0]} at size {key[1]}, seed {seed} has {others}; test it again")
            known |= {name: row for name, row in rows.items() if row.question}
        correct[key] = np.array([column(by_seed[seed], "accuracy", ids) for seed in seeds])
    return Measured(correct, pd.DataFrame([fact for fact in facts if fact["seed"] in seeds]))


def power_law(sizes: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a and b of err = a D^-b, by least squares of log err on log D.

    Args:
        sizes: D, [K], at least two different ones.
        errors: [K] or [K, R] for R fits at once, above 0.

    Returns:
        a and b, scalars or [R].
    """
    x = np.log(sizes) - np.log(sizes).mean()
    y = np.log(errors)
    b = -np.tensordot(x, y, axes=1) / (x**2).sum()
    return np.exp(y.mean(axis=0) + b * np.log(sizes).mean()), b


def efficiency(a: np.ndarray, b: np.ndarray, size: float, error: np.ndarray) -> np.ndarray:
    """D' / D: how many times the problems the baseline would need for this error; nan where its errors do not fall."""
    with np.errstate(all="ignore"):
        return np.where(b > 0, (a / error) ** (1 / np.where(b > 0, b, 1.0)) / size, np.nan)


def resampled_errors(measured: Measured, resamples: int, seed: int) -> dict[tuple[str, int], np.ndarray]:
    """Errors [R] of each (method, size), seeds and problems drawn again; at least half a problem's, for logarithms."""
    least = 0.5 / next(iter(measured.correct.values())).shape[1]
    means = resampled_means(measured.correct, resamples, seed)
    return {key: np.maximum(1 - values, least) for key, values in means.items()}


def efficiency_table(measured: Measured, baseline: str, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """A row for each method and size, and one over all sizes (size 0): error, efficiency factor, intervals, cost.

    Columns: method, size, seeds, error, error_low, error_high, factor, factor_low, factor_high (95 %, nan without one),
    beyond (the error is below the baseline's least, so the factor extrapolates), sampled_tokens, trained_tokens,
    seconds (means over seeds).

    Raises:
        InputError: the baseline was run at fewer than two sizes.
    """
    sizes = measured.sizes(baseline)
    if len(sizes) < 2:
        raise InputError(f"the baseline {baseline} was run at sizes {sizes}; a curve needs at least two")
    x = np.array(sizes, dtype=float)
    drawn = resampled_errors(measured, resamples, seed)
    least = 0.5 / next(iter(measured.correct.values())).shape[1]
    exact = {key: np.maximum(1 - correct.mean(), least) for key, correct in measured.correct.items()}
    a, b = power_law(x, np.array([exact[baseline, size] for size in sizes]))
    many_a, many_b = power_law(x, np.array([drawn[baseline, size] for size in sizes]))
    rows: list[dict[Any, Any]] = []
    cost = (
        measured.facts.groupby(["method", "size"])[["sampled_tokens", "trained_tokens", "seconds"]]
        .mean()
        .to_dict("index")
    )
    for method in measured.methods:
        own = measured.sizes(method)
        factors = {
            size: (efficiency(a, b, size, exact[method, size]), efficiency(many_a, many_b, size, drawn[method, size]))
            for size in own
        }
        for size in own:
            error_low, error_high = np.quantile(drawn[method, size], [0.025, 0.975])
            rows.append(
                {"method": method, "size": size, "seeds": len(measured.correct[method, size])}
                | {"error": exact[method, size], "error_low": error_low, "error_high": error_high}
                | factor_row(*factors[size])
                | {"beyond": exact[method, size] < min(exact[baseline, s] for s in sizes)}
                | cost[method, size]
            )
        if method != baseline:
            means = [np.exp(np.mean([np.log(pair[i]) for pair in factors.values()], axis=0)) for i in (0, 1)]
            rows.append(
                {"method": method, "size": 0, "seeds": rows[-1]["seeds"]}
                | factor_row(*means)
                | {"beyond": any(row["beyond"] for row in rows if row["method"] == method)}
            )
    return pd.DataFrame(rows)


def factor_row(value: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """A factor with its interval; none where the baseline's curve does not fall in more than 2.5 % of the resamples."""
    known = drawn[np.isfinite(drawn)]
    row = {"factor": float(value), "factor_low": float("nan"), "factor_high": float("nan")}
    if len(known) >= 0.975 * len(drawn):
        row["factor_low"], row["factor_high"] = (float(q) for q in np.quantile(known, [0.025, 0.975]))
    return row


def curve(table: pd.DataFrame, baseline: str) -> tuple[float, float]:
    """a and b of the baseline's err = a D^-b, from the table's rows."""
    own = table[table["method"] == baseline]
    a, b = power_law(own["size"].to_numpy(float), own["error"].to_numpy(float))
    return float(a), float(b)


def markdown(table: pd.DataFrame, baseline: str) -> str:
    """The table for people."""
    a, b = curve(table, baseline)
    lines = [
        f"Curve of {baseline}: error = {a:.3g} D^-{b:.3g}.",
        "",
        "| method | problems | error (95 %) | efficiency factor (95 %) | sampled tokens | trained tokens |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in table.to_dict("records"):
        factor = f"{row['factor']:.2g}" + (" *" if row["beyond"] else "")
        if np.isfinite(row["factor_low"]):
            factor += f" ({row['factor_low']:.2g} to {row['factor_high']:.2g})"
        if not row["size"]:
            lines.append(f"| **{row['method']}** | all | | **{factor}** | | |")
            continue
        error = f"{100 * row['error']:.1f} % ({100 * row['error_low']:.1f} to {100 * row['error_high']:.1f})"
        tokens = f"{row['sampled_tokens']:,.0f} | {row['trained_tokens']:,.0f}"
        lines.append(f"| {row['method']} | {row['size']} | {error} | {factor} | {tokens} |")
    if table["beyond"].any():
        lines += ["", f"\\* an error below any that {baseline} reached: the factor rests on the curve's extrapolation."]
    return "\n".join(lines)


def plot(table: pd.DataFrame, baseline: str) -> Figure:
    """Error against the number of problems, a line a method with its interval, each method's factor marked."""
    a, b = curve(table, baseline)
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    marked: list[tuple[float, float, float, str]] = []  # error, where the baseline has it, factor, colour
    looks = [(colour, line) for line in ("-o", "-.s", "--^") for colour in LINES] * 9
    for (colour, line), method in zip(looks, dict.fromkeys(table["method"]), strict=False):
        rows = table[(table["method"] == method) & (table["size"] > 0)].sort_values("size")
        overall = table[(table["method"] == method) & (table["size"] == 0)]
        label = method if overall.empty else f"{method}: {overall['factor'].iloc[0]:.2g}x"
        x = rows["size"].to_numpy()
        axes.plot(x, rows["error"], line, color=colour, label=label, markersize=4)
        axes.fill_between(x, rows["error_low"], rows["error_high"], color=colour, alpha=0.12, linewidth=0)
        last = rows.iloc[-1]
        if method != baseline and np.isfinite(last["factor"]):  # from the method's last point to the baseline's curve
            marked.append((last["error"], last["size"] * last["factor"], last["factor"], colour))
            axes.plot([last["size"], marked[-1][1]], [last["error"]] * 2, ":", color=colour, linewidth=1)
    height = 0.0
    for error, place, factor, colour in sorted(marked):
        height = max(error, 1.075 * height)  # labels of near errors stand above each other
        axes.text(1.05 * place, height, f"{factor:.2g}x", color=colour, fontsize=7, va="center")
    sizes = np.geomspace(table.loc[table["size"] > 0, "size"].min(), table["size"].max(), 50)
    axes.plot(sizes, a * sizes**-b, "--", color=LINES[0], linewidth=1, label=f"{a:.2g} D^-{b:.2g}")
    axes.set(xscale="log", yscale="log", xlabel="problems D", ylabel="error on held-out problems (greedy)")
    ticks = sorted(set(table.loc[table["size"] > 0, "size"]))
    axes.set_xticks(ticks, [str(size) for size in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return figure


def scaling(
    root: Path, baseline: str = "sft", methods: Sequence[str] | None = None, sizes: Sequence[int] | None = None
) -> str:
    """Write scaling.md, scaling.csv and scaling.png into ``root``.

    Args:
        root: a sweep's run directory.
        baseline: the method whose curve is fitted.
        methods: those of the sweep; None for all that are there.
        sizes: likewise.

    Returns:
        The Markdown text.
    """
    measured = read_sweep(root, methods, sizes)
    table = efficiency_table(measured, baseline)
    write_whole(root / "scaling.csv", table.to_csv(index=False))
    elsewhere = [home for home in tested_homes(root) if cell_of(home, root) is None]
    every, counted = cells_of(root), cells_of(root, methods, sizes)
    text = markdown(table, baseline)
    text += gaps((f"{home.name} at size {size}", seed) for home, (size, seed) in counted.items())
    text += not_of_chain(f"{home.name} at size {size}" for home, (size, _) in every.items() if home not in counted)
    text += left_out(elsewhere, root, "size-N/seed-M of the sweep")
    write_whole(root / "scaling.md", text + "\n")
    plot(table, baseline).savefig(unlinked(root / "scaling.png"), dpi=130)
    return text
