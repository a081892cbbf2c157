"""The worked examples of the how-to pages: their files are written and their commands run, as they stand."""

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stepneg.cli import main
from stepneg.sampling.vllm_engine import close_all
from tests.conftest import ROOT

PAGES = sorted((ROOT / "docs").glob("howto-*.md"))
ENGINE = "<!-- with the engine -->\n"
BLOCK = re.compile(
    rf"(?:^`(?P<file>[\w.-]+)`:\n)?(?P<engine>{ENGINE})?^ *```(?P<kind>\w+)\n(?P<text>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A block of code of a page; one with a name is a file."""

    kind: str
    text: str
    file: str | None
    engine: bool


def blocks(page: Path) -> Iterator[Block]:
    """All blocks of a page, in order."""
    for found in BLOCK.finditer(page.read_text()):
        yield Block(found["kind"], found["text"], found["file"], bool(found["engine"]))


def follow(page: Path, engine: bool, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Do what the page says in the working directory; the verbs that were run."""
    verbs = []
    for block in blocks(page):
        if block.file:
            Path(block.file).write_text(block.text)
        elif block.kind == "python":
            exec(compile(block.text, str(page), "exec"), {})
        elif block.kind == "bash" and (engine or not block.engine):
            for command in block.text.replace("\\\n", " ").splitlines():
                name, *arguments = shlex.split(command)
                if name == "export":
                    assert arguments == ["PYTHONPATH=."]
                    monkeypatch.syspath_prepend(Path.cwd())
                    continue
                assert name == "stepneg", command
                try:
                    main(arguments)
                except SystemExit as end:
                    assert not end.code, command  # noqa: PT017  (--print_config ends so)
                verbs.append(arguments[0])
    return verbs


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory in which the repository's own folders are found, as in a checkout."""
    for folder in ("assets", "configs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]  # the module of one page is not that of another


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verbs = follow(page, engine=False, monkeypatch=monkeypatch)
    assert verbs
    fits = [block for block in blocks(page) if block.file and block.file.endswith(".yaml") and not sampled(block)]
    assert len(list(desk.glob("runs/*/**/last/model.safetensors"))) == len(fits)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if ENGINE in p.read_text()], ids=lambda page: page.stem)
def test_a_page_does_what_it_says_with_the_engine(page: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verbs = follow(page, engine=True, monkeypatch=monkeypatch)
    close_all()
    assert "evaluate" in verbs
    assert list(desk.glob("runs/evaluations/*/evaluation.md"))
    fits = [block for block in blocks(page) if block.file and block.file.endswith(".yaml")]
    assert len(list(desk.glob("runs/*/**/last/model.safetensors"))) == len(fits)


def sampled(block: Block) -> bool:
    """Whether a configuration needs the engine."""
    return "VLLMEngine" in block.text
