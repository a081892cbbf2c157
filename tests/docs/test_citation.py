"""The citation file and the changelog say what the package says; a human name or a year is not misread as YAML."""

import re
from typing import Any

import pytest
import yaml

from stepneg import __version__
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def citation() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_citation_file_has_what_cff_1_2_0_asks_for(citation: dict[str, Any]) -> None:
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "type"} <= set(citation)
    assert citation["version"] == __version__
    assert citation["license"] in (ROOT / "LICENSE").read_text()
    for author in citation["authors"]:
        assert "name" in author or {"family-names", "given-names"} <= set(author)


def test_the_paper_is_the_one_of_the_readme(citation: dict[str, Any]) -> None:
    [paper] = citation["references"]
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert paper["title"] in readme
    assert ", ".join(author["family-names"] for author in paper["authors"]) in readme
    assert paper["year"] == 2024
    assert paper["url"].rpartition("/")[2] in readme


def test_the_changelog_has_keep_a_changelogs_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    releases = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert releases[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", release) for release in releases[1:])
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
