"""Configuration files that are made to harm are refused in a line, in no time."""

import json
import time
from pathlib import Path

import pytest

from stepneg.bounded_yaml import LONGEST
from stepneg.cli import main
from tests.test_cli import fails

SHIPPED = Path(__file__).parents[1] / "configs" / "arithmetic"
BOMB = "constants:\n  m0: &m0 {a: 1}\n" + "".join(
    f"  m{i}: &m{i} {{a: *m{i - 1}, b: *m{i - 1}}}\n" for i in range(1, 40)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "aliases stand for more than 100,000 values; write fewer"),
        ("constants: &a {x: *a}\n", "aliases stand for more than 100,000 values"),
        ("root: !!python/object/apply:os.system ['touch ran']\n", "could not determine a constructor"),
        ("root: !!python/name:os.system\n", "could not determine a constructor"),
        ("constants: " + "[" * 100_000, "exceeded maximum nesting depth"),
        ("constants: {a: " + "9" * 5000 + "}\n", "Exceeds the limit"),
        ("root: a\0b\n", "control characters are not allowed"),
        ("root: " + "x" * LONGEST, "a configuration has at most 1,048,576"),
        (b"root: \xff\n", "config.yaml: not UTF-8 at byte 7; save the file as UTF-8"),
    ],
)  # fmt: skip
def test_harmful_yaml_is_one_line(text: str | bytes, said: str, tmp_path: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    started = time.process_time()
    assert said in fails(capsys, "pipeline", "--config=config.yaml", "--dry_run")
    assert time.process_time() - started < 2
    assert not Path("ran").exists()


def test_aliases_that_stand_for_little_are_read(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    config = tmp_path / "config.yaml"
    config.write_text(f"root: {tmp_path}\nconstants: {{a: &a [1, 2], b: *a}}\nstages: []\n")
    main(["pipeline", f"--config={config}", "--dry_run"])


def test_the_environment_is_not_read_into_options(tmp_path: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("STEPNEG_PIPELINE__ROOT", "elsewhere")
    config = tmp_path / "config.yaml"
    sft = SHIPPED / "sft.yaml"
    config.write_text(f"root: '${{HOME}}/$HOME'\nstages: [{{name: a, config: ['{sft}'], verbs: [fit]}}]\n")
    main(["pipeline", f"--config={config}", "--dry_run"])
    assert "'--trainer.default_root_dir=${HOME}/$HOME/seed-0/a'" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["../x", "/tmp/x", "", ".", "..", "a/b", "a b", "a\nb", "$(touch ran)", "a;b", "-rf", "*"]
)
def test_a_stage_is_a_directory_below_the_root(name: str, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    config = tmp_path / "config.yaml"
    config.write_text(f"root: {tmp_path}/runs\nstages: [{{name: {json.dumps(name)}, config: [], verbs: [fit]}}]\n")
    for argv in (["pipeline"], ["pipeline", "--jobs"], ["sweep", "--sizes=[1]"]):
        error = fails(capsys, *argv, f"--config={config}")
        assert f"stages: the name {name!r} is no directory below ROOT; write letters, digits and _ . + - only" in error
    assert not (tmp_path / "runs").exists()


def test_jobs_are_words_of_a_shell(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    config = tmp_path / "config.yaml"
    config.write_text(f"stages: [{{name: a, config: ['{SHIPPED / 'init.yaml'}'], verbs: [init]}}]\n")
    for root in ("a b", "a\tb", "*"):
        error = fails(capsys, "pipeline", f"--config={config}", f"--root={tmp_path}/{root}", "--jobs")
        assert "is no word of a shell; give a --root without blanks" in error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("args: null\nstages: []", "args: is null; give it a value, or leave it out"),
        ("seeds:\nstages: []", "seeds: is null; give it a value"),
        ("stages: [{name: a, config: [], args: }]", "stages: args of a is null; give it a value, or leave it out"),
        ("stages: [{name: a, config: [], verbs: }]", "stages: verbs of a is null; give it a value"),
    ],
)
def test_what_is_null_is_named(text: str, said: str, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    config = tmp_path / "config.yaml"
    config.write_text(f"root: {tmp_path}\n{text}\n")
    assert said in fails(capsys, "pipeline", f"--config={config}", "--dry_run")
