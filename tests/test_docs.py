"""The tables in docs/ are those of the committed results."""

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import grading_agreement, grading_speed
from stepneg.studies import theorem

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("benchmark", [grading_agreement, grading_speed])
def test_grading_tables(benchmark) -> None:  # type: ignore[no-untyped-def]
    rows = json.loads(benchmark.RESULTS.read_text())["rows"]
    assert benchmark.table(rows) in (ROOT / "docs" / "grading.md").read_text()


def test_theorem_table() -> None:
    frame = pd.read_csv(ROOT / "docs" / "results" / "theorem.csv")
    assert theorem.table(frame) in (ROOT / "docs" / "theorem.md").read_text()
