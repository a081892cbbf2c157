"""The plan of docs/scale.md: its figures are those of the committed measurements, its page those of the commands."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks import scale, writers
from stepneg.architecture import architecture
from stepneg.memory import memory
from stepneg.sampling.store import contents

MODEL = Path("configs/model/deepseek_math_7b.json")


def test_the_page_shows_what_the_command_prints():
    page = Path("docs/scale.md").read_text()
    facts, *tables = memory(MODEL).split("\n\n")
    assert f"```\n{facts}\n```" in page
    assert "\n\n".join(tables) in page


def test_the_plan_is_that_of_the_measurements():
    measured = json.loads(writers.RESULTS.read_text())["rows"][-1]
    result = json.loads(scale.RESULTS.read_text())
    assert result == {"model": MODEL.stem, "plan": asdict(scale.PLAN)} | scale.figures(
        architecture(MODEL), scale.PLAN, measured
    )


def test_no_engine_is_faster_than_memory_and_arithmetic():
    model = architecture(MODEL)
    one = replace(scale.PLAN, sequences=1, prompt=0, tokens=0)
    assert scale.bound(model, one) == pytest.approx(3.35e12 / (2 * model.parameters))  # weights once a token
    many = replace(one, sequences=10**6)
    assert scale.bound(model, many) == pytest.approx(989e12 / (2 * model.products))  # 2 FLOPs a weight and token
    assert scale.bound(model, replace(one, sequences=256)) > scale.bound(model, scale.PLAN)  # which reads a cache


def test_figures_grow_with_the_plan():
    model, measured = architecture(MODEL), json.loads(writers.RESULTS.read_text())["rows"][-1]
    plan = scale.PLAN
    few, many = (scale.figures(model, replace(plan, problems=n), measured) for n in (1000, 10_000))
    assert many["store_bytes"] == pytest.approx(10 * few["store_bytes"])
    assert many["hours"] == pytest.approx([10 * hours for hours in few["hours"]])
    assert few["files"] == many["files"] == 2 * 64 * 8 + 1
    assert few["look_up_seconds"] < few["look_up_without_lists_seconds"]


def test_writers_at_once_lose_and_change_nothing(tmp_path):
    assert writers.write_all(tmp_path, 4, 2) > 0
    shards = sorted(tmp_path.glob("*.jsonl"))
    assert len(shards) == 4
    assert all(contents(shard).exists() for shard in shards)
    writers.read_all(tmp_path, 4, 2)
    writers.read_share(tmp_path, 2)
    writers.look_past(tmp_path)
    shards[0].write_bytes(shards[0].read_bytes()[:-1])
    with pytest.raises(RuntimeError, match="799 of 800 samples came back"):
        writers.read_all(tmp_path, 4, 2)


def test_a_sample_that_is_not_the_one_written_is_found(tmp_path, monkeypatch):
    writers.write_all(tmp_path, 1, 1)
    real = writers.pool
    monkeypatch.setattr(writers, "pool", lambda number: real(number + 1))
    with pytest.raises(RuntimeError, match="is not what was written"):
        writers.read_all(tmp_path, 1, 1)
