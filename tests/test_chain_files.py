"""Chains from YAML and the command line."""

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from stepneg.chains import chain_parser, folder_of, stages_of
from stepneg.cli import main
from stepneg.pipeline import Stage

STAGES = [
    {"name": "fresh", "config": ["init.yaml"], "verbs": ["init"], "args": {"layers": 1}},
    {
        "name": "sft",
        "config": ["sft.yaml"],
        "args": {
            "data.problems": {"class_path": "stepneg.problems.star_graph.StarGraph", "init_args": {"size": "{8*size}"}},
            "trainer.max_epochs": 2,
            "data.template": "Question: {question}\nAnswer: # a text",
            "others": [0.5, True, None, {"a": "b: c"}, -3],
        },
        "sizes": [25],
    },
    {"name": "look", "config": [], "verbs": ["credit"]},
    {"name": "mixed", "config": [], "verbs": ["fit", "credit"], "args": {"trainer.max_epochs": 2}},
    {"name": "base", "config": [], "verbs": ["test"]},
]
MORE = {"trainer.max_epochs": 5, "trainer.logger": {"class_path": "L", "init_args": {"name": "{size}"}}}


def parsed(tmp_path: Path, *argv: str, **options: Any) -> Any:
    (tmp_path / "chain").mkdir(exist_ok=True)
    file = tmp_path / "chain" / "chain.yaml"
    file.write_text(yaml.safe_dump({"root": "runs/x", "stages": STAGES} | options))
    return chain_parser("pipeline", "A chain.").parse_args(["--config", str(file), *argv])


def test_stages_are_as_the_file_has_them(tmp_path: Path) -> None:
    config = parsed(tmp_path)
    assert (config.root, config.seeds) == (Path("runs/x"), [0])
    assert stages_of(config) == [
        Stage(**({"args": {}, "verbs": ["fit", "test"], "sizes": None} | stage)) for stage in STAGES
    ]
    for kind in (int, float, bool, type(None), str):  # of the very type
        (text,) = [v for v in (3, 0.5, True, None, "x: {y}") if type(v) is kind]
        (stage,) = stages_of(parsed(tmp_path, stages=[STAGES[0] | {"args": {"a": text}}]))
        assert (type(stage.args["a"]), stage.args["a"]) == (kind, text)
    # A class to be made by the stage's run, not here.
    assert stages_of(config)[1].args["data.problems"] == STAGES[1]["args"]["data.problems"]


def test_args_go_to_every_fit_and_test_and_win(tmp_path: Path) -> None:
    fresh, sft, look, mixed, base = stages_of(parsed(tmp_path, args=MORE))
    assert sft.args == STAGES[1]["args"] | MORE
    assert sft.args["trainer.max_epochs"] == 5
    assert base.args == MORE
    assert fresh.args == {"layers": 1}
    assert look.args == {}
    assert mixed.args == {"trainer.max_epochs": 2}  # a study among its verbs would not know them
    assert (sft.name, sft.config, sft.verbs, sft.sizes) == ("sft", ["sft.yaml"], ["fit", "test"], [25])


def test_overlays_go_to_every_fit_and_test(tmp_path: Path) -> None:
    overlays = ["../model/large.yaml", "gpu.yaml"]
    config = [stage.config for stage in stages_of(parsed(tmp_path, overlays=overlays))]
    assert config == [["init.yaml"], ["sft.yaml", *overlays], [], [], overlays]  # behind the stage's own: they count


def test_constants_of_the_file_reach_the_cells(tmp_path: Path) -> None:
    config = parsed(tmp_path, constants={"base": "models/base", "ks": [1, 2]})
    assert config.as_dict()["constants"] == {"base": "models/base", "ks": [1, 2]}


def test_options_and_further_files_change_the_chain(tmp_path: Path) -> None:
    more = tmp_path / "more.yaml"
    more.write_text(yaml.safe_dump({"seeds": [4], "args": {"trainer.max_steps": 1}}))
    config = parsed(tmp_path, "--config", str(more), "--root", "elsewhere", "--args", '{"trainer.max_epochs": 9}')
    assert (config.root, config.seeds) == (Path("elsewhere"), [4])
    assert folder_of(config) == tmp_path / "chain"  # of the first file
    assert stages_of(config)[4].args == {"trainer.max_epochs": 9}
    assert stages_of(parsed(tmp_path, "--config", str(more)))[4].args == {"trainer.max_steps": 1}


@pytest.mark.parametrize(
    ("verb", "name"), [("pipeline", "pipeline"), pytest.param("sweep", "scaling", marks=pytest.mark.slow)]
)
def test_a_chain_that_was_printed_is_the_same_from_anywhere(
    verb: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though a file beside it has the name of one of its stages'."""
    overlay = f"--overlays=[{os.path.relpath('configs/trainer/fsdp2.yaml', 'configs/arithmetic')}]"
    argv = [verb, f"--config={Path('configs/arithmetic').resolve()}/{name}.yaml", overlay]
    main([*argv, "--dry_run"])
    said = [os.path.normpath(word) for word in shlex.split(capsys.readouterr().out)]
    printed = tmp_path / "printed.yaml"
    for words in (argv, [verb, f"--config=configs/arithmetic/{name}.yaml", overlay]):
        with pytest.raises(SystemExit) as stop:
            main([*words, "--print_config"])
        assert stop.value.code == 0
        printed.write_text(capsys.readouterr().out)
        with monkeypatch.context() as elsewhere:
            elsewhere.chdir(tmp_path)
            (tmp_path / "sft.yaml").write_text("model: {}\n")
            main([verb, "--config=printed.yaml", "--only=sft:fit", "--dry_run"])
            assert str(tmp_path) not in capsys.readouterr().out
        main([verb, f"--config={printed}", "--dry_run"])
        assert [os.path.normpath(word) for word in shlex.split(capsys.readouterr().out)] == said


@pytest.mark.parametrize("wrong", [{"verbs": ["train"]}, {"sizes": "all"}, {"stages": []}, {"nme": "x"}], ids=str)
def test_a_stage_that_is_none_does_not_parse(tmp_path: Path, wrong: dict[str, Any]) -> None:
    import jsonargparse

    with pytest.raises(jsonargparse.ArgumentError):
        parsed(tmp_path, stages=[{"name": "x", "config": []} | wrong])
