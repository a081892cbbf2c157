"""The tables in docs/ are those of the committed results, and the numbers in the text stand in them."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import grading_agreement, grading_speed
from docs.render import BENCHMARKS, MARK, MEASURED, RESULTS, TABLES, rendered

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.glob("*.md") if MARK.search(page.read_text()))
WITH_UNIT = r"[-+]?[0-9][0-9,]*(?:\.[0-9]+)?(?= %| points| nats|x\b)"
DECIMAL = r"(?<![\w.])[-+]?[0-9]+\.[0-9]+(?![\w.]*[0-9])"
NUMBERS = re.compile(f"{WITH_UNIT}|{DECIMAL}")
# Numbers of the paper's and of the studies' settings, said in the text and not measured.
SETTINGS = {"4.5", "6.1", "6.3", "6.3.1", "0.6", "-0.2", "-0.3", "0.25", "-0.25", "0.3", "8", "2", "0.01", "95", "1.1"}


@pytest.mark.parametrize("benchmark", [grading_agreement, grading_speed])
def test_grading_tables(benchmark) -> None:  # type: ignore[no-untyped-def]
    rows = json.loads(benchmark.RESULTS.read_text())["rows"]
    assert benchmark.table(rows) in (DOCS / "grading.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tables_are_those_of_the_results(page: Path) -> None:
    assert rendered(page.read_text()) == page.read_text()


def test_every_table_of_results_is_on_a_page() -> None:
    shown = {found["name"] for page in PAGES for found in MARK.finditer(page.read_text())}
    assert shown == set(TABLES) | set(BENCHMARKS)
    assert set(TABLES) == {file.stem for file in RESULTS.glob("*.csv")}
    others = {"grading_agreement", "grading_speed"}  # whose pages hold their tables without marks
    assert set(BENCHMARKS) == {file.stem for file in MEASURED.glob("*.json")} - others


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_measured_numbers_in_the_text_stand_in_a_table(page: Path) -> None:
    text = page.read_text()
    shown = set(re.findall(r"[-+]?[0-9][0-9,]*(?:\.[0-9]+)?", "".join(found[0] for found in MARK.finditer(text))))
    shown |= {number.lstrip("+-") for number in shown}
    prose = re.sub(r"```.*?```|`[^`]*`|\(results/[^)]*\)", "", MARK.sub("", text), flags=re.DOTALL)
    said = [found[0] for line in prose.splitlines() if not line.startswith("|") for found in NUMBERS.finditer(line)]
    assert [number for number in said if number not in shown | SETTINGS] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_show_pictures_that_are_there_and_say_where_results_come_from(page: Path) -> None:
    text = page.read_text()
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (DOCS / picture).stat().st_size > 10_000
    if {found["name"] for found in MARK.finditer(text)} & set(TABLES):  # a benchmark's command has its settings
        assert re.search(r"made at commit [0-9a-f]{7}\s+with seeds? [0-9]", text)
