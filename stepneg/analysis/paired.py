"""Two evaluations of the same problems, paired: exact McNemar test and bootstrap of the difference."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest, bootstrap

from stepneg.errors import InputError
from stepneg.evaluation_files import read_evaluation
from stepneg.problems.records import jsonl_records

RESAMPLES = 9999
OTHERS = "other problems of the same names"  # said where two evaluations are not paired


@dataclass(frozen=True)
class Difference:
    """Second minus first, over the same problems.

    Attributes:
        first: mean of the first.
        second: mean of the second.
        low: lower end of the difference's 95 % interval (percentile bootstrap over problems).
        high: upper end.
        gained: problems where the second is better.
        lost: problems where the first is better.
        p: two-sided exact McNemar test (a sign test where values are shares) of gained against lost.
    """

    first: float
    second: float
    low: float
    high: float
    gained: int
    lost: int
    p: float

    @property
    def words(self) -> str:
        """The difference in points, its interval and the test."""
        points = f"{100 * (self.second - self.first):+.1f} points ({100 * self.low:+.1f} to {100 * self.high:+.1f})"
        return f"{points}, {self.gained} gained and {self.lost} lost, p = {self.p:.2g}"


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p-value of ``gained`` against ``lost`` discordant problems (McNemar 1947); 1 without any."""
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def paired_difference(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Difference:
    """The difference of two measurements [N] in [0, 1] of the same N problems.

    Raises:
        ValueError: the lengths differ, or there is no problem.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"expected two vectors of one length, got shapes {first.shape} and {second.shape}")
    change = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    low = high = float(change.mean())
    if len(set(change.tolist())) > 1:
        # In batches: all resamples of 5,000 problems at once would take 400 MB.
        found = bootstrap(
            (change,), np.mean, n_resamples=RESAMPLES, method="percentile", batch=100, rng=np.random.default_rng(seed)
        )
        low, high = map(float, found.confidence_interval)
    gained, lost = int((change > 0).sum()), int((change < 0).sum())
    return Difference(float(np.mean(first)), float(np.mean(second)), low, high, gained, lost, mcnemar(gained, lost))


@dataclass(frozen=True)
class Graded:
    """A graded problem.

    Attributes:
        question: its text; empty in evaluations that do not hold it.
        measured: of its solutions, each in [0, 1], by name.
        k: how many samples it has beside the greedy solution.
    """

    question: str
    measured: dict[str, float]
    k: int


def read_evaluated(place: Path) -> dict[str, Graded]:
    """The graded problems of an evaluation by id: its JSONL file, or the folder of a run or an evaluation.

    Raises:
        InputError: there is none, a row is malformed, or a problem has two.
    """
    files = [place, place / "evaluation" / "test.jsonl", place / "evaluation.jsonl"]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        raise InputError(f"{place}: no evaluation; give a run that `stepneg test` has tested, or evaluation.jsonl")
    if (values := file.with_suffix(".json")).is_file():
        read_evaluation(values)
    rows: dict[str, Graded] = {}
    for record in jsonl_records(file):
        said = record.values
        right, majority, correct = (said.get(name) for name in ("correct", "majority_correct", "samples_correct"))
        samples = said.get("samples")
        k = len(samples) if isinstance(samples, list) else 0
        verdicts = isinstance(right, bool) and isinstance(majority, bool)
        if not (verdicts and isinstance(correct, int) and 0 <= correct <= k != 0):
            raise InputError(f"{record.where}: not a graded problem; evaluate again")
        question = said.get("question")  # one object for all runs that were tested on it
        measured = {
            "accuracy": float(right is True),
            "mean of the samples": correct / k,
            "maj@k": float(majority is True),
        }
        if (name := record.text("problem_id")) in rows:
            raise InputError(f"{record.where}: problem_id {name!r} stands in an earlier row, too; evaluate again")
        rows[name] = Graded(sys.intern(question) if isinstance(question, str) else "", measured, k)
    if not rows:
        raise InputError(f"{file}: holds no problem; evaluate again")
    return rows


def other_problem(*evaluations: Mapping[str, Graded]) -> str | None:
    """The id of a problem that has different questions in evaluations; None if there is no such.

    Ids of :class:`~stepneg.problems.jsonl.Jsonl` are a file's name and a row: another file of this name, or the file
    after a row was put in, has others of the same ids.
    """
    questions: dict[str, str] = {}
    for rows in evaluations:
        for name, row in rows.items():
            if row.question and questions.setdefault(name, row.question) != row.question:
                return name
    return None


def column(rows: Mapping[str, Graded], name: str, ids: list[str]) -> np.ndarray:
    """One measurement of the problems, [N]."""
    return np.array([rows[i].measured[name] for i in ids])


def numbers_of_samples(rows: Iterable[Graded]) -> str:
    """How many samples problems have: ``5``, or ``1 to 5`` where not all have as many."""
    found = {row.k for row in rows}
    return str(min(found)) if len(found) == 1 else f"{min(found)} to {max(found)}"


def compare_files(first: Path, second: Path) -> str:
    """Is the second evaluation better than the first? Paired over the problems that both have.

    Args:
        first: a tested run, an evaluation's folder, or its JSONL file.
        second: the same, of the other policy.

    Returns:
        A table in Markdown: the means, the difference with its 95 % bootstrap interval, McNemar's exact test. Where the
        numbers of samples differ, without the majority's vote and the test of the samples' mean, which they decide.

    Raises:
        InputError: one of them cannot be read or holds a problem twice, they share no problem, or problems of one id
            have other questions.
    """
    a, b = read_evaluated(first), read_evaluated(second)
    shared = [name for name in a if name in b]
    if not shared:
        raise InputError(f"{first} and {second}: not one problem in both; evaluate both on the same problems")
    if (other := other_problem(a, b)) is not None:
        raise InputError(
            f"{first} and {second}: {OTHERS}: {other!r} has another question in each; evaluate both on the same"
        )
    k, other_k = (numbers_of_samples(rows[name] for name in shared) for rows in (a, b))
    same = k == other_k and k.isdecimal()
    lines = ["| | first | second | difference (95 %) | gained | lost | p |", "|---|---:|---:|---:|---:|---:|---:|"]
    for name in ("accuracy", "mean of the samples", *(["maj@k"] if same else [])):
        d = paired_difference(column(a, name, shared), column(b, name, shared))
        change = f"{100 * (d.second - d.first):+.1f} ({100 * d.low:+.1f} to {100 * d.high:+.1f})"
        test = [d.gained, d.lost, f"{d.p:.2g}"] if same or name == "accuracy" else [""] * 3
        cells = [name.replace("@k", f"@{k}"), f"{100 * d.first:.1f} %", f"{100 * d.second:.1f} %", change, *test]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    left = (len(a) - len(shared)) + (len(b) - len(shared))
    lines += ["", f"{len(shared)} problems in both" + (f"; {left} in only one are left out" if left else "") + "."]
    if not same:
        said = f"Samples a problem: {k} in the first, {other_k} in the second"
        lines += ["", f"{said}; maj@k and the test of the samples' mean are left out."]
    return "\n".join(lines)
