"""Which rewritten references of MATH are accepted: ``python -m benchmarks.grading_agreement``.

Grades each rewriting with stepneg and with Math-Verify, prints a Markdown table and writes its rows, with every case
that is graded wrongly, as JSON.
"""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from rich.progress import track

from benchmarks.mathverify import accepts
from benchmarks.perturbations import RIGHT, WRONG, cases, references
from stepneg.grading import grade

RESULTS = Path(__file__).with_name("results") / "grading_agreement.json"
GRADERS = ("stepneg", "math_verify")
Row = dict[str, Any]


def measure(name: str, right: bool, found: Sequence[tuple[str, str]]) -> Row:
    """How many cases of one rewriting each grader accepts, and the cases that it grades wrongly."""
    verdicts = {
        "stepneg": [grade(rf"\boxed{{{answer}}}", reference, "math").correct for reference, answer in found],
        "math_verify": [accepts(rf"\boxed{{{answer}}}", rf"\boxed{{{reference}}}") for reference, answer in found],
    }
    row: Row = {"rewriting": name, "right": right, "cases": len(found)}
    for grader, accepted in verdicts.items():
        row[f"{grader}_accepts"] = sum(accepted)
        row[f"{grader}_wrong"] = [case for case, verdict in zip(found, accepted, strict=True) if verdict != right]
    return row


def table(rows: Sequence[Row]) -> str:
    """A line for each rewriting, and one for all right and all wrong ones."""
    lines = ["| rewriting | is | cases | stepneg accepts | Math-Verify accepts |", "| --- | --- | ---: | ---: | ---: |"]
    for row in rows:
        shares = [f"{100 * row[f'{grader}_accepts'] / row['cases']:.1f} %" for grader in GRADERS]
        side = "right" if row["right"] else "wrong"
        lines.append(f"| `{row['rewriting']}` | {side} | {row['cases']} | {shares[0]} | {shares[1]} |")
    for side in ("right", "wrong"):
        chosen = [row for row in rows if row["right"] == (side == "right")]
        total = sum(row["cases"] for row in chosen)
        shares = [f"{100 * sum(row[f'{g}_accepts'] for row in chosen) / total:.2f} %" for g in GRADERS]
        lines.append(f"| **all** | {side} | {total} | **{shares[0]}** | **{shares[1]}** |")
    return "\n".join(lines)


def main(most: int = 1000, output: Path = RESULTS) -> None:
    """Grade every rewriting with both.

    Args:
        most: cases of one kind of rewriting.
        output: JSON with the rows and the cases graded wrongly.
    """
    answers = references()
    kinds = [(True, *item) for item in RIGHT.items()] + [(False, *item) for item in WRONG.items()]
    rows = [
        measure(name, right, cases(answers, function, name, most))
        for right, name, function in track(kinds, "kinds of rewriting")
    ]
    output.parent.mkdir(parents=True, exist_ok=True)
    versions = {name: version(name) for name in ("math-verify", "sympy")}
    output.write_text(json.dumps({"versions": versions, "most": most, "rows": rows}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    auto_cli(main)
