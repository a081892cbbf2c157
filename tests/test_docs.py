"""The tables in docs/ are those of the committed results."""

import json
from pathlib import Path

import pytest

from benchmarks import grading_agreement, grading_speed

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("benchmark", [grading_agreement, grading_speed])
def test_grading_tables(benchmark) -> None:  # type: ignore[no-untyped-def]
    rows = json.loads(benchmark.RESULTS.read_text())["rows"]
    assert benchmark.table(rows) in (ROOT / "docs" / "grading.md").read_text()
