"""What a policy, a data set or a directory's name says appears as it stands: no markup of it counts, nothing hides."""

import html
import json
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tensorboard.plugin_util import markdown_to_safe_html

from stepneg.analysis.report import report
from stepneg.cli import main
from stepneg.errors import InputError
from stepneg.escaping import HIDDEN, LONGEST_LINE, markdown, one_line, visible
from stepneg.evaluation import Evaluation

MARKUP = [
    "|",
    "\\",
    "`",
    "*",
    "_",
    "[",
    "]",
    "(",
    ")",
    "!",
    "<",
    ">",
    "&",
    "#",
    "- ",
    "~~",
    "\n",
    "![x](http://x/y.png)",
]
MARKUP += [
    "<script>",
    "<!--",
    "javascript:",
    "&lt;",
    "\x1b[31m",
    "\u202e",
    "\0",
    "\ud800",
    "$",
    "^",
    "x",
    "1. ",
    "    ",
]
TEXTS = st.lists(st.sampled_from(MARKUP) | st.text(max_size=2), max_size=12).map("".join)


def shown(cell: str) -> str:
    """What a browser shows of a cell, as TensorBoard renders it; tags that are not ours fail."""
    page = markdown_to_safe_html(f"| a | b |\n|---|---|\n| {cell} | end |")
    (inside,) = re.findall(r"<tbody>\n<tr>\n<td>(.*)</td>\n<td>end</td>", page, re.DOTALL)
    text = inside.replace("<br>", "\n")
    assert "<" not in text, page
    return html.unescape(text)


@example("![x](http://evil/track.png) <img src=x onerror=alert(1)> [a](javascript:alert(1)) a|b")
@example("**b** __i__ `c` step_dpo \\frac{1}{2} &lt;b&gt;\n# h\n- l")
@given(TEXTS)
def test_a_cell_shows_the_very_text(text: str) -> None:
    kept = shown(markdown(text))
    assert " ".join(kept.split()) == " ".join(visible(text).split())


@given(TEXTS | st.text(st.characters(categories=list(HIDDEN))))
def test_nothing_hides(text: str) -> None:
    assert not any(c != "\n" and not c.isprintable() and not c.isspace() and ord(c) < 0xE000 for c in visible(text))
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert len(line) <= LONGEST_LINE
    line.encode()


def test_ordinary_text_stays() -> None:
    for text in ("step_dpo", "x² − 4 = 0 …", "100 %, $5", "Größe 你好"):
        assert markdown(text) == visible(text) == one_line(text) == text


def test_an_error_is_one_visible_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {"\x1b]0;owned\x07\u202e\n" + "k" * 5000: 1}
    (tmp_path / "x.jsonl").write_text(json.dumps(keys))
    with pytest.raises(SystemExit):
        main(["grade", str(tmp_path / "x.jsonl"), "--dataset=gsm8k", f"--output={tmp_path}/out.jsonl"])
    error = capsys.readouterr().err
    assert error.startswith(f"stepneg: error: {tmp_path}/x.jsonl, line 1: key 'response' is missing (there are ")
    assert error.endswith("; add it\n")
    assert error[:-1].isprintable()
    assert len(error) < 400


def evaluated(home: Path, **changes: object) -> None:
    """A run directory as ``stepneg test`` leaves it."""
    (home / "evaluation").mkdir(parents=True)
    values: dict[str, object] = {f"{n}{e}": 0.5 for n in ("accuracy", "pass@5", "maj@5") for e in ("", "_low", "_high")}
    (home / "evaluation" / "test.json").write_text(json.dumps(values | {"problems": 2} | changes))


def test_names_of_run_directories_are_text_in_a_report(tmp_path: Path) -> None:
    for name in ("sft", "a|b", "<img src=x>", "$\\frac", "x y", "=cmd", "![i](http:x)"):
        evaluated(tmp_path / "seed-0" / name)
    text = report(tmp_path)
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 7
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 10 for row in rows)
    assert "<img" not in text
    assert "![i]" not in text
    assert "\u202e" not in text
    assert (tmp_path / "report.md").read_text() == text + "\n"
    assert "![accuracy by method](report.png)" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"accuracy": "1"}, "accuracy is '1', no number"),
        ({"accuracy": float("nan")}, "accuracy is nan, no number"),
        ({"pass@5": 10**400}, "no number"),
        ({"problems": None}, "problems is None, no number"),
    ],
)
def test_a_run_with_other_values_is_one_line(change: dict[str, object], said: str, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    evaluated(tmp_path / "run", **change)
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path)])
    error = capsys.readouterr().err
    assert error.startswith(f"stepneg: error: {tmp_path}/run/evaluation/test.json: ")
    assert said in error
    assert error.endswith("; test the run again\n")


def test_facts_of_problems_are_text_in_an_evaluation() -> None:
    row = {"by": "le|vel", "value": "<b>1\n", "problems": 1, "accuracy": 1.0, "accuracy_low": 0.1, "accuracy_high": 1.0}
    scores = {f"{n}{e}": 0.5 for n in ("accuracy", "pass@5", "maj@5") for e in ("", "_low", "_high")}
    metrics = scores | dict.fromkeys(("no_answer", "unparsable", "truncated", "problems"), 0.0)
    text = Evaluation(metrics, [], [row]).markdown(5)  # type: ignore[list-item]
    assert text.splitlines()[-1] == "| le\\|vel | &lt;b&gt;1 | 1 | 100.0 % (10.0 to 100.0) |"


@pytest.mark.parametrize("name", ["x\x1b[31m", "\u202ex", "y\udcff", "a\nb\x07"])
def test_names_that_hide_something_are_refused(name: str, tmp_path: Path) -> None:
    evaluated(tmp_path / name)
    with pytest.raises(InputError) as caught:
        report(tmp_path)
    assert (
        str(caught.value)
        == f"{tmp_path}/{visible(name)}: the name hides something or is no UTF-8; rename the directory"
    )
