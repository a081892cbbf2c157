"""The plan of docs/scale.md: its figures are those of the committed measurements, its page those of the commands."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks import scale, writers
from stepneg.architecture import architecture
from stepneg.memory import memory
from stepneg.sampling.store import contents, line, prompt_key
from tests.data.test_rollouts import valued

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
    assert few["files"] == many["files"]
    assert few["look_up_seconds"] < few["look_up_without_lists_seconds"]


def test_the_store_of_the_plan_holds_solutions_and_rollouts():
    """From the parts: half a solution each, so many for each prefix, in the same folder."""
    plan, measured = scale.PLAN, json.loads(writers.RESULTS.read_text())["rows"][-1]
    found = scale.figures(architecture(MODEL), plan, measured)
    solutions, rollouts = 1_000_000 * 100, 1_000_000 * 8 * 5 * 20
    solution = measured["bytes"] / measured["samples"]
    rollout = scale.bare() + (solution - scale.bare()) / 2
    stored = solutions * solution + rollouts * rollout
    assert found["store_bytes"] == pytest.approx(stored)
    assert found["engine_bytes"] == pytest.approx(stored / 512)
    assert found["scanned_without_lists_bytes"] == pytest.approx(512 * stored)
    assert found["engine_samples"] == (solutions + rollouts) / 512
    seconds = measured["read"] / measured["samples"]
    read = solutions * seconds + rollouts * seconds * rollout / solution
    assert found["read_seconds"] == pytest.approx(read)
    held = 64 * measured["held"] / measured["samples"]
    assert found["held"] == pytest.approx(solutions * held + rollouts * (held - 8 * 100))  # a pointer a token less
    assert found["engine_held"] == pytest.approx(found["held"] / 512)
    prompts = measured["samples"] / writers.SAMPLES
    lists = (1_000_000 + 1_000_000 * 8 * 5) * measured["past"] / prompts
    assert found["lists_seconds"] == pytest.approx(lists)
    assert found["look_up_seconds"] == pytest.approx(lists + read / 512)
    assert found["list_bytes"] == pytest.approx(41_000_000 * measured["list_bytes"] / prompts)
    without = scale.figures(architecture(MODEL), replace(plan, rollouts=0), measured)
    assert without["store_bytes"] == found["solution_bytes"] == pytest.approx(solutions * solution)
    assert without["held"] == found["solution_held"]
    assert without["read_seconds"] == found["solution_read_seconds"]


def test_a_line_without_tokens_has_the_bytes_that_the_plan_says():
    lines = [line(prompt_key((1, 2)), index, done) for index, done in enumerate(writers.pool(3))]
    tokens = [json.dumps(list(done.token_ids))[1:-1] for done in writers.pool(3)]
    bare = sum(map(len, lines)) / len(lines) - sum(map(len, tokens)) / len(tokens)
    assert scale.bare() == pytest.approx(bare, abs=2)


def test_an_engine_has_a_shard_and_a_list_for_its_solutions_and_each_wave(tmp_path):
    found = valued(tmp_path, False, [], None)
    assert {len(trace.ends) for trace in found.valued} == {3}  # two prefixes to roll out: two waves
    (folder,) = tmp_path.iterdir()
    model, measured = architecture(MODEL), json.loads(writers.RESULTS.read_text())["rows"][-1]
    one = replace(scale.PLAN, nodes=1, gpus=1, waves=2)
    assert len(list(folder.iterdir())) == scale.figures(model, one, measured)["files"] == 7
    assert scale.figures(model, scale.PLAN, measured)["files"] == 512 * (1 + 12) * 2 + 1


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
