"""Gradings a second beside Math-Verify, one process each: ``python -m benchmarks.grading_speed``.

The same responses go to both, in alternating rounds; the ratio of each round gives the median and the spread. Right
verdicts are known, so that a grader that is fast and wrong shows.
"""

import json
import platform
import random
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from rich.progress import track

from benchmarks.mathverify import accepts
from benchmarks.perturbations import RIGHT, WRONG
from stepneg.grading import grade
from stepneg.grading.batch import reference_answer
from stepneg.grading.compare import compare_short_formulas
from stepneg.grading.extract import last_boxed
from stepneg.grading.number import read_number
from stepneg.grading.verifier import EVERY, Form
from stepneg.problems import ASSETS

RESULTS = Path(__file__).with_name("results") / "grading_speed.json"
Row = dict[str, Any]
Case = tuple[str, str, bool]  # response, bare reference, whether the response is right
WARM_UP = 50


def gsm8k_cases() -> list[Case]:
    """The 5,276 solutions of four models with the verdicts that GSM8K's authors published."""
    found = []
    with (ASSETS / "gsm8k" / "graded_solutions.jsonl").open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            reference = reference_answer(row.pop("ground_truth"), "gsm8k") or ""
            solutions = [value for value in row.values() if isinstance(value, dict)]
            found += [(solution["solution"], reference, solution["is_correct"]) for solution in solutions]
    return found


def math_cases() -> dict[str, list[Case]]:
    """MATH's worked solutions as they are, with the answer in another spelling, with a near miss, and with the answer
    of another problem.
    """
    rng = random.Random(0)
    solutions = []
    for split in ("train", "test"):
        with (ASSETS / "math" / f"{split}.jsonl").open(encoding="utf-8") as lines:
            solutions += [row["solution"] for row in map(json.loads, lines)]
    pairs = [(solution, answer) for solution in solutions if (answer := last_boxed(solution))]
    others = [answer for _, answer in pairs]
    rng.shuffle(others)
    found: dict[str, list[Case]] = {"as it is": [], "other spelling": [], "near miss": [], "another answer": []}
    for (solution, answer), other in zip(pairs, others, strict=True):
        found["as it is"].append((solution, answer, True))
        for name, table in (("other spelling", RIGHT), ("near miss", WRONG)):
            rewritten = [text for function in table.values() if (text := function(answer, rng)) is not None]
            if rewritten and (response := with_answer(solution, answer, rng.choice(rewritten))):
                found[name].append((response, answer, table is RIGHT))
        if (response := with_answer(solution, answer, other)) and not grade(response, answer, "math").correct:
            found["another answer"].append((response, answer, False))
    return found


def with_answer(solution: str, answer: str, other: str) -> str | None:
    """The solution with another answer in its last box; None where the answer stands behind the box, too."""
    head, _, tail = solution.rpartition(answer)
    changed = head + other + tail
    return changed if last_boxed(changed) == other.strip() else None


def seconds(grader: Callable[[str, str], bool], cases: list[Case]) -> tuple[float, list[bool]]:
    """How long all cases take, and the verdicts."""
    start = time.perf_counter()
    verdicts = [grader(response, reference) for response, reference, _ in cases]
    return time.perf_counter() - start, verdicts


def measure(name: str, cases: list[Case], form: Form, rounds: int) -> Row:
    """Both graders on the same cases, round by round."""

    def ours(response: str, reference: str) -> bool:
        return grade(response, reference, form, EVERY[form]).correct

    def theirs(response: str, reference: str) -> bool:
        return accepts(response, rf"\boxed{{{reference}}}")

    for grader in (ours, theirs):
        seconds(grader, cases[:WARM_UP])
    for memo in (compare_short_formulas, read_number):
        memo.cache_clear()  # what the warm-up and the sets before have left
    times, graded = [], []
    for i in range(rounds):
        part = cases[i::rounds]
        mine, my_verdicts = seconds(ours, part)
        other, their_verdicts = seconds(theirs, part)
        times.append((mine, other))
        graded += list(zip(part, my_verdicts, their_verdicts, strict=True))
    worse = [case for case, mine, other in graded if mine != case[2] and other == case[2]]
    return {
        "set": name,
        "cases": len(cases),
        "seconds": times,
        "stepneg_errors": sum(mine != case[2] for case, mine, _ in graded),
        "math_verify_errors": sum(other != case[2] for case, _, other in graded),
        "worse": [(response[-200:], reference) for response, reference, _ in worse],
    }


def together(name: str, rows: Sequence[Row]) -> Row:
    """Several sets as one."""
    rounds = zip(*(row["seconds"] for row in rows), strict=True)
    row: Row = {"set": name, "seconds": [[sum(side) for side in zip(*times, strict=True)] for times in rounds]}
    for key in ("cases", "stepneg_errors", "math_verify_errors"):
        row[key] = sum(r[key] for r in rows)
    return row | {"worse": [case for r in rows for case in r["worse"]]}


def table(rows: Sequence[Row]) -> str:
    """A line for each set."""
    lines = ["| set | cases | stepneg /s | Math-Verify /s | ratio (rounds) | our errors | their errors | only ours |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        ours, theirs = sum(mine for mine, _ in row["seconds"]), sum(other for _, other in row["seconds"])
        rounds = [other / mine for mine, other in row["seconds"]]
        lines.append(
            f"| {row['set']} | {row['cases']} | {row['cases'] / ours:,.0f} | {row['cases'] / theirs:,.0f}"
            f" | **{theirs / ours:.0f}** ({min(rounds):.0f} to {max(rounds):.0f}) | {row['stepneg_errors']}"
            f" | {row['math_verify_errors']} | {len(row['worse'])} |"
        )
    return "\n".join(lines)


def main(most: int = 2500, rounds: int = 5, output: Path = RESULTS) -> None:
    """Time both graders.

    Args:
        most: cases of each set of MATH; GSM8K is graded whole.
        rounds: parts into which a set is cut; each part goes to both graders.
        output: JSON with the results.
    """
    sets: list[tuple[str, list[Case], Form]] = [("GSM8K: solutions of four models", gsm8k_cases(), "gsm8k")]
    for name, cases in math_cases().items():
        random.Random(0).shuffle(cases)
        sets.append((f"MATH: {name}", cases[:most], "math"))
    rows = [measure(*chosen, rounds) for chosen in track(sets, "sets")]
    rows.append(together("MATH: all four", rows[1:]))
    machine = {"machine": platform.machine(), "python": platform.python_version()}
    machine |= {name: version(name) for name in ("math-verify", "sympy", "mpmath")}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"versions": machine, "rows": rows}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    auto_cli(main)
