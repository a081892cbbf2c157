"""Relative links of all Markdown and of the notebook lead somewhere, and the index knows every page."""

import json
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.conftest import ROOT

LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^()\s]+)\)")
CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$", re.DOTALL | re.MULTILINE)


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository, those not yet committed included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    try:
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):  # a source archive
        return sorted(f for p in patterns for f in ROOT.rglob(p) if ".venv" not in f.parts and "runs" not in f.parts)
    return sorted({ROOT / line for line in listed if line and (ROOT / line).is_file()})


def words(page: Path) -> str:
    """The Markdown of a page, a notebook's being that of its cells."""
    text = page.read_text()
    if page.suffix != ".ipynb":
        return text
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", re.sub(r"^ *```.*?^ *```$", "", words(page), flags=re.DOTALL | re.M), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = base = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
        number = 0
        while slug in found:
            number += 1
            slug = f"{base}-{number}"
        found.add(slug)
    return found


def broken(page: Path) -> list[str]:
    """Relative links of a page that lead nowhere."""
    lost = []
    for found in LINK.finditer(CODE.sub("", words(page))):
        target = found["target"]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        there = file.exists() and (file == ROOT or ROOT in file.parents)
        if not there or (anchor and (file.suffix not in (".md", ".ipynb") or anchor not in anchors(file))):
            lost.append(target)
    return lost


PAGES = tracked("*.md", "*.ipynb")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_and_a_broken_anchor_are_found(tmp_path: Path) -> None:
    page = ROOT / "docs" / "index.md"
    assert {"method", "how-to"} & anchors(page)
    twin = page.with_name("a-page-that-is-not.md")
    assert not twin.exists()
    copy = tmp_path / "page.md"
    copy.write_text("# One\n\n[a](#one) [b](#two) [c](nowhere.md) `[d](code.md)`\n")
    assert anchors(copy) == {"one"}
    assert broken(copy) == ["#one", "#two", "nowhere.md"]  # outside of the repository nothing counts


def test_the_index_lists_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    listed = {(index.parent / found["target"]).resolve() for found in LINK.finditer(index.read_text())}
    pages = {page for page in PAGES if index.parent in page.parents and page != index}
    assert pages - listed == set()
    assert index in {(ROOT / found["target"]).resolve() for found in LINK.finditer((ROOT / "README.md").read_text())}
