"""Every line that the page on troubleshooting quotes as ours is one that the code can print."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)\n```$", PAGE, re.DOTALL | re.MULTILINE)
OURS = [text for language, text in BLOCKS if not language]  # those of other programs are marked as text
LEAST = 12  # characters of a message that are not fields, so that a field alone matches nothing


def templates(file: Path) -> Iterator[str]:
    """A regular expression for each text of a Python file, fields of f-strings being anything."""
    for node in ast.walk(ast.parse(file.read_text())):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
        said = [text for text in texts if isinstance(text, str)]
        if sum(map(len, said)) >= LEAST and len(said) + sum(text is None for text in texts) == len(texts):
            yield "".join(".+" if text is None else re.escape(text) for text in texts)


def echoes(file: Path) -> Iterator[str]:
    """The same of a shell script's ``echo``."""
    for text in re.findall(r'echo "([^"]*)"', file.read_text()):
        yield ".+".join(map(re.escape, re.split(r"\$\(\(.*?\)\)|\$\{?\w+\}?", text)))


KNOWN = [
    re.compile(pattern)
    for found, read in (("*.py", templates), ("*.sh", echoes))
    for folder in ("stepneg", "callbacks", "sbatch")
    for file in sorted((ROOT / folder).rglob(found))
    for pattern in read(file)
]


@pytest.mark.parametrize("line", OURS, ids=lambda line: line[:40])
def test_a_quoted_line_is_in_the_code(line: str) -> None:
    assert "\n" not in line
    assert any(pattern.fullmatch(line) for pattern in KNOWN)


def test_a_line_that_nobody_prints_would_be_noticed() -> None:
    assert len(OURS) >= 20
    changed = OURS[0].replace("is missing", "was missing")
    assert not any(pattern.fullmatch(changed) for pattern in KNOWN)
