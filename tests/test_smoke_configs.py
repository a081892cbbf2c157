"""The shipped smoke configurations: every stage on the real files of GSM8K and MATH, with a tiny random Llama."""

import json
from pathlib import Path

import pandas as pd
import pytest

from stepneg.cli import main
from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_every_stage_runs_on_real_problems(name, tmp_path, monkeypatch):
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)
    configs = ROOT / "configs" / name
    main(["init", "--config", str(configs / "init_smoke.yaml")])
    main(["pipeline", "--config", str(configs / "smoke.yaml")])
    home = tmp_path / "runs" / f"{name}-smoke" / "seed-0"
    for stage in ("sft", "rft", "step_dpo"):
        assert (home / stage / "last" / "model.safetensors").is_file()
    facts = [json.loads(f.read_text()) for f in (home / "step_dpo" / "data").glob("*.json")]
    assert facts, "no facts of the pairs"
    assert any("accuracy" in line for line in (home / "step_dpo/evaluation/test.json").read_text().splitlines())
    pairs = [f for f in (home / "step_dpo" / "data").glob("*.jsonl") if "." not in f.stem]
    assert sum(len(Path(f).read_text().splitlines()) for f in pairs) > 0


@pytest.mark.slow
@pytest.mark.parametrize("study", ["scaling", "positives", "spurious", "credit", "rounds"])
@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_every_study_runs_on_real_problems(name, study, tmp_path, monkeypatch):
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)
    configs = ROOT / "configs" / name
    main(["init", "--config", str(configs / "init_smoke.yaml")])
    chain = ["--config", str(configs / f"{study}.yaml"), "--config", str(configs / "smoke" / f"{study}.yaml")]
    main(["sweep" if study == "scaling" else "pipeline", *chain])
    root = tmp_path / "runs" / f"{name}-smoke" / study
    table = {"scaling": "scaling.csv", "credit": "credit.csv"}.get(study, "study.csv")
    assert len(pd.read_csv(root / table)) > 1
    if study == "spurious":
        assert set(pd.read_csv(root / "likelihood.csv")["kind"]) >= {"injected"}
