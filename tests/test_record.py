"""The record of what was run in a directory: attempts in their order, inputs with fingerprints, copies of chains."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stepneg.record import attempts, chain, content, inputs, last_of_verbs, recorded, start, trained


def test_attempts_stay_in_order_whatever_the_clock_does(tmp_path: Path, monkeypatch) -> None:
    hours = ["12", "10", "11", "09"]
    for number, hour in enumerate(hours):
        began = f"2026-11-30T{hour}:00:00.000000+00:00"
        monkeypatch.setattr("stepneg.record.now", lambda began=began: began)
        with recorded(tmp_path, start("fit", [str(number)], {}, tmp_path)):
            pass
        (tmp_path / "attempts" / f"zz{number}-of-others.json").touch()
    assert [attempt["argv"] for attempt in attempts(tmp_path)] == [[str(number)] for number in range(len(hours))]


def test_a_file_that_is_no_record_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "attempts").mkdir()
    for number, text in enumerate(("[" * 100_000, "[]", "{}", '{"verb": "fit"}', "\0", "")):
        (tmp_path / "attempts" / f"{number}.json").write_text(text)
    assert attempts(tmp_path) == []


def test_a_fit_is_repeated_before_what_uses_its_policy() -> None:
    verbs = ["test", "fit", "validate", "fit", "test", "predict"]
    kept = [{"verb": verb, "number": n, "exit": int(verb == "predict")} for n, verb in enumerate(verbs)]
    assert [a["number"] for a in last_of_verbs(kept)] == [3, 4, 2]


@pytest.mark.parametrize(
    ("fits", "expected"),
    [
        ("", None),
        ("killed", None),
        ("good", 0),
        ("good good", 1),
        ("good nothing", 0),  # was left to train
        ("killed nothing", 0),  # behind its last checkpoint
        ("good killed", 0),
        ("old nothing", 1),  # nobody noted which has trained
        ("good refused", 0),
        ("good killed good nothing nothing refused killed", 2),
    ],
)
def test_the_fit_of_a_run_is_the_one_that_has_trained_its_policy(fits: str, expected: int | None) -> None:
    kinds = {
        "good": {"training": "2026", "exit": 0},
        "nothing": {"exit": 0},
        "old": {"exit": 0},
        "killed": {"training": "2026", "exit": None},
        "refused": {"exit": 2},
    }
    kept = [{"verb": "fit", "number": n} | kinds[kind] for n, kind in enumerate(fits.split())]
    found = trained([{"verb": "validate", "exit": 0}, *kept, {"verb": "test", "exit": 0}])
    assert (found and found["number"]) == expected


def test_a_killed_attempt_is_kept(tmp_path: Path) -> None:
    code = (
        "import os; from pathlib import Path; from stepneg.record import recorded, start; home = Path('run')\n"
        "with recorded(home, start('fit', ['fit'], {'seed': 3}, home)): os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert done.returncode == -signal.SIGKILL
    (attempt,) = attempts(tmp_path / "run")
    assert (attempt["ended"], attempt["exit"], attempt["seeds"]) == (None, None, {"seed": 3})
    (tmp_path / "run/attempts/0.json").write_text("{")  # damaged, as by a full disk
    assert attempts(tmp_path / "run") == [attempt]


def test_inputs_are_files_and_policies_outside_of_the_run(tmp_path: Path, tiny: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/last").mkdir(parents=True)
    (tmp_path / "run/last/config.json").touch()
    (tmp_path / "problems.jsonl").write_text("{}\n")
    settings = {
        "a": {"path": "problems.jsonl", "template": "x\0y", "long": "word " * 2000, "n": 3, "none": None, "empty": ""},
        "b": [str(tiny), "run/last", "run", "nowhere", "."],
    }
    found = inputs(settings, Path("run"))
    assert (found[0]["place"], found[0]["near"]) == ("a.path", "../problems.jsonl")
    assert [item["path"] for item in found] == [str(tmp_path / "problems.jsonl"), str(tiny)]
    assert start("fit", [], settings, Path("run"))["inputs"] == found


def test_folders_of_datasets_are_inputs_where_problems_are_read_from(tmp_path: Path, monkeypatch) -> None:
    """Not the sample store and run directories, whose files are JSONL as well."""
    monkeypatch.chdir(tmp_path)
    for folder in ("mine/train", "samples/key", "runs/other/data", "empty", "run/data"):
        (tmp_path / folder).mkdir(parents=True)
        if folder != "empty":
            (tmp_path / folder / "a.jsonl").write_text("{}\n")
    source = {"class_path": "stepneg.problems.jsonl.Jsonl", "init_args": {"path": "mine"}}
    settings = {
        "data": {"problems": source, "store": "samples", "path": "empty"},
        "model": {"path": "samples"},
        "trainer": {"default_root_dir": "runs/other", "callbacks": [{"store": "samples", "test": source}]},
        "checkpoint": {"dirpath": "runs/other"},
        "args": {"root": "runs", "out": "mine", "data.problems.init_args.path": "{here}", "path": "run/data"},
    }
    found = inputs(settings, Path("run"), {"here": "mine", "n": 3})
    assert [(item["place"], item["given"], item["path"]) for item in found] == [
        ("data.problems.init_args.path", "mine", str(tmp_path / "mine")),
        ("trainer.callbacks.0.test.init_args.path", "mine", str(tmp_path / "mine")),
        ("args.data.problems.init_args.path", "{here}", str(tmp_path / "mine")),
    ]
    (mark,) = {item["fingerprint"] for item in found}
    shutil.copytree("mine", "elsewhere")
    (tmp_path / "elsewhere/notes.txt").touch()
    (tmp_path / "elsewhere/.hidden.jsonl").touch()
    assert content(Path("elsewhere"), "problems.path") == mark
    for number, (name, text) in enumerate(
        {"train/b.jsonl": "", "train/a.jsonl": "{} \n", "test/a.jsonl": "{}\n"}.items()
    ):
        other = tmp_path / str(number)
        shutil.copytree("mine", other)
        (other / name).parent.mkdir(exist_ok=True)
        (other / name).write_text(text)
        assert content(other, "problems.path") not in (mark, "")


def test_a_chain_is_copied_also_if_its_files_are_not_as_they_should_be(tmp_path: Path) -> None:
    """What is wrong in them, the stage that names them says."""
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "bomb.yaml").write_text("a: &a [0,0,0,0,0,0,0,0,0]\nb: &b [*a,*a,*a,*a]\n" * 9)
    stage = {"name": "x", "config": ["broken.yaml", "bomb.yaml", "nowhere.yaml"], "args": {"p": "{root}/y"}}
    settings = {"root": Path("run"), "stages": [stage], "overlays": [], "args": {}, "constants": {}, "jobs": False}
    attempt = chain("pipeline", ["pipeline"], settings, tmp_path, tmp_path / "run")
    assert attempt["inputs"] == []
    assert attempt["settings"]["stages"][0]["config"][0] == "configs/broken.yaml"
    assert (tmp_path / "run/chain/configs/broken.yaml").read_text() == "a: ["
    assert yaml.safe_load((tmp_path / "run/chain/chain.yaml").read_text()) == attempt["settings"]
