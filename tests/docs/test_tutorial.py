"""The notebook runs and says what it says; the method's figure and table are of the same real samples."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest

from docs import method, tutorial
from stepneg.data.rollouts import Rollouts
from stepneg.policy_folder import load_tokenizer
from stepneg.problems.arithmetic import Arithmetic
from stepneg.sampling import vllm_engine
from stepneg.sampling.store import rows_of
from stepneg.sampling.vllm_engine import VLLMEngine
from tests.conftest import BASE

NUMBER = re.compile(r"[-+]?\d+\.\d+")


@pytest.fixture
def _no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(options: VLLMEngine) -> None:
        raise AssertionError("docs/tutorial-samples lacks samples: python -m docs.tutorial --draw")

    monkeypatch.setattr(vllm_engine, "worker", refuse)


def outputs(notebook: nbformat.NotebookNode) -> list[str]:
    """The text that each cell printed."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in cells]


def test_the_notebook_runs_and_its_outputs_are_the_committed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    committed = nbformat.read(tutorial.NOTEBOOK, as_version=4)
    found = tutorial.executed()
    assert [cell.source for cell in found.cells] == [cell.source for cell in committed.cells]
    assert all(outputs(committed))
    for old, new in zip(outputs(committed), outputs(found), strict=True):
        assert NUMBER.sub("#", new) == NUMBER.sub("#", old)
        # Sums in another order, on another machine: what training changed is equal to rounding, and a little more.
        assert [float(n) for n in NUMBER.findall(new)] == pytest.approx(
            [float(n) for n in NUMBER.findall(old)], abs=0.15
        )
    text = tutorial.NOTEBOOK.read_text()
    assert 'execution_count": null' not in text
    assert not re.search(r"/(home|root|tmp|work)/|20\d\d-\d\d-\d\d", text)


def test_the_samples_are_whole_and_tell_no_machine() -> None:
    [folder] = tutorial.SAMPLES.iterdir()
    assert {file.name for file in folder.iterdir()} == {"meta.json", "samples.jsonl"}
    shard = folder / "samples.jsonl"
    assert len(list(rows_of(shard))) == len(shard.read_text().splitlines()) > 500
    assert shard.stat().st_size < 300_000
    assert '"first_seen_at": "assets/arithmetic-base"' in (folder / "meta.json").read_text()


@pytest.mark.usefixtures("_no_engine")
def test_the_method_shows_the_committed_samples(tmp_path: Path) -> None:
    found = method.example()
    page = method.PAGE.read_text()
    assert method.table(found) in page
    assert found.trace.counts[0] == (24, 20)
    assert found.rejected.splitlines() == [step for step in found.steps[:3]]  # cut after the pit
    method.figure(found).savefig(tmp_path / "method.png", dpi=110)
    assert method.PICTURE.stat().st_size < 100_000
    said = NUMBER.findall(re.sub(r"^\|.*|\$.*?\$|\]\(.*?\)", "", page, flags=re.MULTILINE))
    assert [n for n in said if n not in method.table(found) and n not in ("6.1", "2406.14532")] == []


@pytest.mark.slow
def test_the_engine_draws_the_committed_samples_again(tmp_path: Path) -> None:
    [folder] = tutorial.SAMPLES.iterdir()
    problems = Arithmetic(size=8, seed=100, min_events=2, max_events=3).load()
    engine = VLLMEngine(kv_cache_gib=0.25)
    rollouts = Rollouts(engine, tmp_path, samples=24, max_tokens=80, rollouts=16, negatives=2)
    rollouts.valued(BASE, problems, load_tokenizer(BASE), "{question}\n")
    vllm_engine.close(engine)
    drawn = {tuple(row["token_ids"]) for shard in tmp_path.glob("*/*.jsonl") for row in rows_of(shard)}
    kept = {tuple(row["token_ids"]) for row in rows_of(folder / "samples.jsonl")}
    assert (tmp_path / folder.name).is_dir()  # the same policy, decoding and seed
    # Another processor rounds otherwise, so that a draw here and there is another.
    assert len(drawn & kept) > 0.8 * len(kept)
    shutil.rmtree(tmp_path)
