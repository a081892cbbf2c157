"""docs/reference is what the docstrings and --help say; the command line that is explained is the one that is there."""

import re
from pathlib import Path

import pytest

from docs.reference import HERE, pages, plain
from stepneg.commands import SUMMARIES


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


def test_the_reference_is_up_to_date(made: dict[str, str]) -> None:
    assert {file.name for file in HERE.iterdir()} == set(made), "python -m docs.reference"
    stale = [name for name, text in made.items() if (HERE / name).read_text() != text]
    assert stale == [], "python -m docs.reference"


def test_every_verb_and_its_options_are_there(made: dict[str, str]) -> None:
    text = made["commands.md"]
    headings = re.findall(r"^### stepneg (\w+)$", text, re.MULTILINE)
    assert headings == [verb for verbs in SUMMARIES.values() for verb in verbs]
    for option in ("--model.objective", "--seeds", "--dry_run", "--problems", "--dataset", "--machines"):
        assert option in text, option
    assert "--trainer.max_epochs" not in text


def test_configuration_has_the_arguments_that_a_class_hands_on(made: dict[str, str]) -> None:
    pairs = made["configuration.md"].partition("### `stepneg.data.pairs.Pairs`")[2].partition("\n### ")[0]
    assert re.search(r"^\| `kind` \| Literal\[.*\| `'first_pit'` \| which pairs", pairs, re.MULTILINE)
    assert re.search(r"^\| `skip_long` \| bool \| `False` \| leave out", pairs, re.MULTILINE)  # of its base
    assert not re.findall(r"^\| `\w+` \|.*\|\s*\|$", made["configuration.md"], re.MULTILINE), (
        "an argument without words"
    )


def test_nothing_of_this_machine_is_in_it(made: dict[str, str]) -> None:
    for name, text in made.items():
        assert str(Path.home()) not in text, name
        assert str(Path.cwd()) not in text, name
        assert " at 0x" not in text, name


def test_docstring_markup_becomes_markdown() -> None:
    said = plain("See :func:`stepneg.credit.values.first_pit` and ``RUN/last``::")
    assert said == "See `first_pit` and `RUN/last`:"
