"""The commands of docs/formats.md, in their order, on tiny files."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from stepneg.cli import main
from stepneg.evaluation import Evaluated, Evaluation, settings_of
from stepneg.sampling.engine import Decoding
from tests.conftest import ROOT
from tests.formats.test_round_trip import outside, settings

PAGE = (ROOT / "docs" / "formats.md").read_text()


def commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


def evaluation(file: Path, policy: Path) -> None:
    """An evaluation of one problem."""
    one = Evaluated("p", "#### 3", "3", True, "3", "exact", False, 1, ("3",), True, {}, "How many?")
    metrics = {"accuracy": 1.0, "problems": 1.0}
    said = settings_of(policy, "arithmetic", [], "gsm8k", None, "{question}\n", 1, Decoding(), 0)
    Evaluation(metrics, [one], []).write(file, {"settings": said})


def test_the_commands_run(tiny, tmp_path, monkeypatch, capsys):
    (tmp_path / "fit.yaml").write_text(settings(tmp_path, tiny).read_text())
    outside(tmp_path / "solutions.jsonl")
    row = {"prompt": "How many?\n", "chosen": "3\n#### 3", "rejected": "4\n#### 4"}
    (tmp_path / "preferences.jsonl").write_text(json.dumps(row))
    dpo = yaml.safe_load((tmp_path / "fit.yaml").read_text())
    dpo["trainer"]["default_root_dir"] = "dpo"
    dpo["data"] = {"class_path": "stepneg.data.pairs.GivenPairs", "init_args": {"policy": str(tiny), "path": "x"}}
    (tmp_path / "dpo.yaml").write_text(yaml.safe_dump(dpo))
    evaluation(tmp_path / "EVALUATION" / "evaluation.json", tiny)
    (tmp_path / "RUN").symlink_to("run")
    monkeypatch.chdir(tmp_path)
    for command in commands():
        program, *argv = [str(p) for word in shlex.split(command) for p in (sorted(tmp_path.glob(word)) or [word])]
        assert program == "stepneg"
        main(argv)
    assert {"samples.parquet", "pairs.parquet", "graded.jsonl", "lm_eval_outputs", "dpo"} <= {
        p.name for p in tmp_path.iterdir()
    }
    assert json.loads((tmp_path / "graded.jsonl").read_text())["correct"]


@pytest.mark.parametrize("verb", ["samples", "pairs", "evaluation"])
def test_each_export_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["export", verb, "--help"])
    assert stop.value.code == 0
    assert f"stepneg export {verb}" in capsys.readouterr().out
    main(["export", "--help"])
    main(["import", "--help"])
    assert "FILE is JSONL, Parquet" in capsys.readouterr().out
