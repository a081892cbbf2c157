"""Whole stages killed by SIGKILL at random moments, as benchmarks/faults.py does in large numbers."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SMALL = ["sampling/stand-in", "step values/stand-in", "grading", "export"]
LARGE = ["building data", "fit", "evaluation/stand-in", "chain"]


@pytest.mark.parametrize(
    ("stages", "kills"),
    [
        pytest.param(SMALL, 3, id="small"),
        pytest.param([*SMALL, *LARGE], 6, id="large", marks=pytest.mark.slow),
        pytest.param(["vLLM"], 2, id="vllm", marks=pytest.mark.slow),
    ],
)
def test_a_killed_stage_loses_nothing_and_ends_as_an_undisturbed_one(stages, kills, tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.faults", f"--kills={kills}", "--minutes=30"]
    command += [f"--only={json.dumps(stages)}", f"--out={tmp_path / 'faults.json'}"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "faults.json").read_text())["rows"]
    killed: dict[str, int] = {}
    for row in rows:
        assert (row["lost"], row["twice"], row["other"], row["wrong"]) == (0, 0, 0, 0), row
        assert row["samples"] or row["files"]
        killed[row["stage"]] = killed.get(row["stage"], 0) + row["kills"]
    assert len(killed) == (3 if stages == ["vLLM"] else len(stages))
    assert min(killed.values()) >= kills
