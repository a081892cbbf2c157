"""Solutions of elsewhere go into a store, a fit finds them there, and what it made opens in the tools of the field."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import yaml
from transformers import AutoTokenizer

from stepneg.cli import main
from stepneg.data.prepared import checksum, files_of
from stepneg.data.rows import decode
from stepneg.errors import InputError
from stepneg.formats import solutions
from stepneg.formats.export import COLUMNS
from stepneg.problems import Problem
from stepneg.problems.arithmetic import Arithmetic
from stepneg.record import content
from stepneg.sampling.engine import Decoding
from stepneg.sampling.store import SampleStore, read_meta

SIZE, SAMPLES = 6, 4
PROBLEMS = Arithmetic(size=SIZE).load()
WRONG = "#### 123456"


def answers(problem: Problem) -> list[tuple[str, bool]]:
    """Two right and two wrong solutions of a problem."""
    steps = str(problem.solution).rsplit("####", 1)[0]
    return [
        (str(problem.solution), True),
        (steps + WRONG, False),
        ("So.\n" + str(problem.solution), True),
        ("So.\n" + steps + WRONG, False),
    ]


def outside(file: Path, **more: Any) -> Path:
    """A file of somebody's: texts, the problems' solutions mixed, one problem that is nobody's."""
    rows = [{"question": p.question, "response": answers(p)[i][0], **more} for i in range(SAMPLES) for p in PROBLEMS]
    rows.append({"question": "Who is there?", "response": "Nobody.", **more})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def settings(home: Path, policy: Path) -> Path:
    """A fit of DPO on outcome pairs, which needs solutions and no step values."""
    problems = {"class_path": "stepneg.problems.arithmetic.Arithmetic", "init_args": {"size": SIZE}}
    rollouts = {"engine": {"class_path": "stepneg.sampling.vllm_engine.VLLMEngine"}, "store": str(home / "store")}
    rollouts |= {"samples": SAMPLES, "max_tokens": 120}
    data = {"policy": str(policy), "problems": problems, "rollouts": rollouts, "kind": "outcome", "batch_size": 4}
    config = {
        "model": {"objective": "stepneg.objectives.DPO"},
        "data": {"class_path": "stepneg.data.pairs.Pairs", "init_args": data},
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "logger": False}
        | {"default_root_dir": str(home / "run")},
    }
    file = home / "dpo.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """Import, then the fit: it samples nothing, so no engine is ever started."""
    home = tmp_path_factory.mktemp("formats")
    config = settings(home, tiny)
    main(["import", str(outside(home / "outside.jsonl")), f"--config={config}"])
    main(["fit", f"--config={config}"])
    return home


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


def test_the_fit_has_drawn_nothing_and_trained_on_the_imported(home, tokenizer):
    kept = [json.loads(line) for shard in (home / "store").glob("*/*.jsonl") for line in shard.open()]
    assert len(kept) == SIZE * SAMPLES
    assert {row["logprob"] for row in kept} == {None}  # an engine would have told it
    [file] = (home / "run" / "data").glob("*[0-9a-f].jsonl")
    pairs = [json.loads(line) for line in file.open()]
    assert len(pairs) == 2 * SIZE
    texts = {decode(tokenizer, row["response_ids"]) for pair in pairs for row in pair}
    assert texts == {text for p in PROBLEMS for text, _ in answers(p)}
    assert all(row["response_ids"][-1] == tokenizer.eos_token_id for pair in pairs for row in pair)


def load(file: Path) -> tuple[pd.DataFrame, datasets.Dataset]:
    """What pandas and datasets make of an export."""
    if file.suffix == ".jsonl":
        return pd.read_json(file, lines=True), datasets.load_dataset("json", data_files=str(file), split="train")
    kind = {"path": "parquet", "data_files": str(file)} if file.suffix else {"path": str(file)}
    return pd.read_parquet(file), datasets.load_dataset(**kind, split="train")


@pytest.mark.parametrize("name", ["samples.jsonl", "samples.parquet", "samples"])
def test_samples_open_in_pandas_and_datasets(name, home, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("stepneg.formats.tables.BATCH", 5)  # several row groups
    main(["export", "samples", str(home / "run"), str(tmp_path / name)])
    frame, table = load(tmp_path / name)
    assert list(frame.columns) == table.column_names == COLUMNS.names
    assert len(frame) == len(table) == SIZE * SAMPLES
    right = {(p.question, text): ok for p in PROBLEMS for text, ok in answers(p)}
    for row in table:
        assert row["correct"] == right[row["question"], row["response"]]
        assert decode(tokenizer, row["response_ids"]) == row["response"]
        assert row["response_ids"][-1] == tokenizer.eos_token_id
        assert (row["logprob"], row["finish_reason"], row["max_tokens"]) == (None, "stop", 120)
    assert sorted(frame.problem_id.unique()) == sorted(p.id for p in PROBLEMS)
    assert list(tmp_path.glob(".*")) == []


def test_samples_of_a_run_are_those_of_the_policy_that_it_sampled(home, tmp_path, tiny, capsys):
    """Whatever is in its place now: it is looked for, and no other policy's samples are taken for the run's."""
    run, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(home / "run", run)
    shutil.copytree(tiny, other)
    (other / "config.json").write_text((tiny / "config.json").read_text() + " ")
    (record,) = (run / "attempts").iterdir()
    attempt = json.loads(record.read_text())
    attempt["settings"]["data"]["init_args"]["policy"] = str(other)
    record.write_text(json.dumps(attempt))
    main(["export", "samples", str(run), str(tmp_path / "samples.jsonl")])
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == SIZE * SAMPLES
    record.write_text(record.read_text().replace(content(tiny), "0" * 64))
    error = bad(capsys, "export", "samples", str(run), str(tmp_path / "again.jsonl"))
    assert f"{other}: is gone, or is another policy than the fit of {run} has sampled" in error


def test_a_store_is_exported_without_a_run_and_graded_again(home, tmp_path, tiny, capsys, monkeypatch):
    monkeypatch.setattr("stepneg.progress.SAY_EVERY", 0.0)
    monkeypatch.setattr("stepneg.progress.SAY_SHARE", 0.0)
    out = tmp_path / "all.jsonl"
    argv = ["export", "samples", str(home / "store"), str(out), f"--policy={tiny}", "--form=gsm8k"]
    main([*argv, "--problems=stepneg.problems.arithmetic.Arithmetic", "--problems.size=3"])
    said = capsys.readouterr()
    assert "12 samples of 3 problems" in said.out
    assert "export: problems: 3/3 in 0 s" in said.err
    main(["grade", str(out), "--dataset=gsm8k", f"--output={tmp_path / 'graded.jsonl'}"])
    assert json.loads(capsys.readouterr().out)["correct"] == 6
    stranger = tmp_path / "stranger"
    shutil.copytree(tiny, stranger)
    (stranger / "generation_config.json").write_text('{"eos_token_id": 2, "top_k": 3}')
    argv[4] = f"--policy={stranger}"
    with pytest.raises(SystemExit):
        main([*argv, "--problems=stepneg.problems.arithmetic.Arithmetic"])
    assert f"holds no samples of {stranger} as it is now" in capsys.readouterr().err


def test_an_exported_table_goes_back_into_another_store_by_its_ids(home, tmp_path, capsys):
    for name in ("s.jsonl", "s.parquet", "s"):
        main(["export", "samples", str(home / "run"), str(tmp_path / name)])
        store = f"--data.rollouts.store={tmp_path / 'store' / name}"
        command = ["import", str(tmp_path / name), f"--config={home / 'dpo.yaml'}", store]
        main(command)
        assert "24 solutions of 6 problems imported" in capsys.readouterr().out
        main(command)
        said = capsys.readouterr().out
        assert "0 solutions of 6 problems" in said
        assert "24 were there already" in said
        policy = Path(yaml.safe_load((home / "dpo.yaml").read_text())["data"]["init_args"]["policy"])
        decoding = Decoding(max_tokens=120)
        first, second = (
            sorted(SampleStore(place).sampler(policy, decoding, 0).rows(), key=lambda row: row[:2])
            for place in (home / "store", tmp_path / "store" / name)
        )
        assert first == second


def bad(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"response_ids": [1, 99999]}, "line 2: key 'response_ids' holds no list of token ids below 900"),
        ({"response_ids": []}, "line 2: key 'response_ids' holds no list of token ids"),
        ({"response": 7}, "line 2: key 'response' holds int"),
        ({}, "line 2: holds neither response nor response_ids"),
        ({"response": "a " * 200}, r"at most 120 tokens (data.rollouts.max_tokens)"),
        ({"response": "a", "logprob": "-1"}, "line 2: logprob is str"),
        ({"response": "a", "logprob": -(10**400)}, "line 2: logprob is not finite"),
        ({"response": "a", "logprob": float("nan")}, "line 2: logprob is not finite"),
        ({"response": "a", "finish_reason": "tired"}, "finish_reason is 'tired'; write stop or length"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_stored(row, said, home, tmp_path, capsys):
    good = {"question": PROBLEMS[0].question, "response": "#### 1"}
    file = tmp_path / "bad.jsonl"
    file.write_text("\n".join(json.dumps(r) for r in (good, {"question": good["question"]} | row)))
    store = tmp_path / "store"
    error = bad(capsys, "import", str(file), f"--config={home / 'dpo.yaml'}", f"--data.rollouts.store={store}")
    assert "bad.jsonl" in error
    assert said in error
    assert not list(store.glob("*/*.jsonl"))


def test_what_a_table_leaves_open_is_told_by_the_ids(home, tmp_path, tokenizer):
    """A column of finish_reason is null where nothing is said, which is as if it were not there."""
    ids = tokenizer("#### 1", add_special_tokens=False)["input_ids"]
    rows = [{"response_ids": ids}, {"response_ids": [*ids, tokenizer.eos_token_id]}, {"response": "#### 1"}]
    rows = [{"question": PROBLEMS[0].question, "finish_reason": None} | row for row in rows]
    file = tmp_path / "open.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["import", str(file), f"--config={home / 'dpo.yaml'}", f"--data.rollouts.store={tmp_path / 'store'}"])
    [shard] = (tmp_path / "store").glob("*/*.jsonl")
    assert [json.loads(line)["finish_reason"] for line in shard.open()] == ["length", "stop", "stop"]


def test_what_does_not_fit_is_said(home, tmp_path, capsys, tiny):
    argv = [f"--config={home / 'dpo.yaml'}", f"--data.rollouts.store={tmp_path / 'store'}"]
    file = tmp_path / "one.jsonl"
    rows = [{"prompt": [{"role": "user", "content": PROBLEMS[0].question}], "response": "#### 1"}]
    file.write_text(json.dumps(rows[0]))
    main(["import", str(file), *argv])
    capsys.readouterr()
    file.write_text(json.dumps(rows[0] | {"response": "#### 2"}))
    assert "holds another sample 0 of its prompt already, and nothing was imported" in bad(
        capsys, "import", str(file), *argv
    )
    file.write_text(json.dumps({"question": "Who?", "response": "#### 2"}))
    assert "none of its 1 rows answers a problem" in bad(capsys, "import", str(file), *argv)
    sft = "--config=configs/arithmetic/sft.yaml"
    assert "TeacherSolutions samples nothing" in bad(capsys, "import", str(file), sft)
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    error = bad(capsys, "import", str(tmp_path / "torn.parquet"), *argv)
    assert "torn.parquet, behind row 0: not readable as Parquet" in error
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "train-0.jsonl").touch()
    error = bad(capsys, "import", str(tmp_path / "parts"), "--split=test", *argv)
    assert "a directory without .parquet, .arrow or .jsonl file of split test" in error
    assert "no run" in bad(capsys, "export", "samples", str(tmp_path), str(tmp_path / "x.jsonl"))
    assert ".csv is not written" in bad(capsys, "export", "samples", str(home / "run"), str(tmp_path / "x.csv"))
    assert "there is a folder already" in bad(capsys, "export", "pairs", str(home / "run"), str(tmp_path))
    assert "'model' is none of samples, pairs, evaluation" in bad(capsys, "export", "model")


def test_text_that_is_encoded_to_other_text_is_counted(home, tmp_path, capsys, monkeypatch):
    """A byte-level tokenizer loses nothing; one that lower-cases would."""
    plain = solutions.decode
    monkeypatch.setattr(solutions, "decode", lambda tokenizer, ids: plain(tokenizer, ids).lower())
    file = outside(tmp_path / "loud.jsonl")
    main(["import", str(file), f"--config={home / 'dpo.yaml'}", f"--data.rollouts.store={tmp_path / 'store'}"])
    said = capsys.readouterr().out
    assert "1 of other problems left out" in said
    assert "warning: 24 whose token ids decode to another text" in said


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.parquet", "pairs"])
def test_pairs_have_trls_columns_and_types(name, home, tmp_path, tokenizer, monkeypatch, capsys):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("stepneg.progress.SAY_EVERY", 0.0)
    monkeypatch.setattr("stepneg.progress.SAY_SHARE", 0.0)
    main(["export", "pairs", str(home / "run"), str(tmp_path / name)])
    said = capsys.readouterr()
    assert "12 pairs, of which 0 are other token ids" in said.out
    assert "export: 12/12 in 0 s" in said.err
    frame, table = load(tmp_path / name)
    assert {"prompt", "chosen", "rejected"} <= set(frame.columns)
    questions = {p.question + "\n": p for p in PROBLEMS}
    for row in table:
        assert all(isinstance(row[column], str) for column in ("prompt", "chosen", "rejected"))
        right = dict(answers(questions[row["prompt"]]))
        assert right[row["chosen"]]
        assert not right[row["rejected"]]
        assert row["problem_id"] == questions[row["prompt"]].id
        for column in ("prompt", "chosen", "rejected"):
            ids = tokenizer(row[column], add_special_tokens=column == "prompt")["input_ids"]
            assert row[f"{column}_ids"] == ids + [tokenizer.eos_token_id] * (column != "prompt")


@pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed (pip install -e '.[benchmark]')")
def test_trl_trains_on_exported_pairs(home, tmp_path, tiny, tokenizer):
    """Its own preparation gives the very ids that stepneg trained on where both answers are complete.

    A rejected answer that was cut gets the EOS that it must not have, as docs/formats.md says.
    """
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    main(["export", "pairs", str(home / "run"), str(tmp_path / "pairs.parquet")])
    table = datasets.Dataset.from_parquet(str(tmp_path / "pairs.parquet"), cache_dir=str(tmp_path / "cache"))
    complete = len(table)
    cut = table[0]["rejected"].partition("\n")[0] + "\n"
    table = table.add_item(table[0] | {"rejected": cut})
    options = DPOConfig(
        output_dir=str(tmp_path / "trl"), max_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True,
        bf16=False, max_length=None, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tiny)
    trainer = DPOTrainer(model=model, args=options, train_dataset=table, processing_class=tokenizer)
    prepared = trainer.train_dataset
    assert prepared[complete]["rejected_ids"][-1] == tokenizer.eos_token_id
    for ours, theirs in zip(table.select(range(complete)), prepared.select(range(complete)), strict=True):
        for column in ("prompt_ids", "chosen_ids", "rejected_ids"):
            assert ours[column] == theirs[column]
    assert trainer.train().training_loss == pytest.approx(0.6931, abs=1e-3)


def given(home: Path, path: Path, *more: str) -> list[list[dict[str, Any]]]:
    """The training data of a fit on given pairs."""
    policy = yaml.safe_load((home / "dpo.yaml").read_text())["data"]["init_args"]["policy"]
    run = path.with_name(f"run-{path.name}")
    main(["fit", "--data=stepneg.data.pairs.GivenPairs", f"--data.path={path}", f"--data.policy={policy}",
          "--model.objective=stepneg.objectives.DPO", "--trainer.accelerator=cpu", "--trainer.max_epochs=1",
          "--trainer.enable_progress_bar=false", "--trainer.logger=false", f"--trainer.default_root_dir={run}",
          *more])  # fmt: skip
    [file] = (run / "data").glob("*[0-9a-f].jsonl")
    return [json.loads(line) for line in file.open()]


def test_exported_pairs_train_again_with_the_same_ids(home, tmp_path):
    main(["export", "pairs", str(home / "run"), str(tmp_path / "pairs.parquet")])
    [file] = (home / "run" / "data").glob("*[0-9a-f].jsonl")
    assert given(home, tmp_path / "pairs.parquet") == [json.loads(line) for line in file.open()]


def test_damaged_pairs_are_not_exported(home, tmp_path, capsys):
    shutil.copytree(home / "run", tmp_path / "run")
    (file,) = (f for f in (tmp_path / "run" / "data").glob("*.jsonl") if f.suffixes == [".jsonl"])
    whole = file.read_text()
    for damage in (whole.replace("1", "2", 1), whole[:-20], ""):
        file.write_text(damage)
        error = bad(capsys, "export", "pairs", str(tmp_path / "run"), str(tmp_path / "pairs.jsonl"))
        assert f"{file}: it or a file beside it is missing or was damaged" in error
        assert not (tmp_path / "pairs.jsonl").exists()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        *[(row, "holds no pair") for row in ({}, [[], []], ["x", "y"], [{"prompt_ids": 7}] * 2)],
        *[([{"prompt_ids": [1], "response_ids": [i]}] * 2, "holds what are no token ids") for i in (-1, 10**6, 1.0)],
    ],
)
def test_what_is_no_pair_under_a_checksum_that_fits_is_named(row, said, home, tmp_path, capsys):
    shutil.copytree(home / "run", tmp_path / "run")
    (file,) = (f for f in (tmp_path / "run" / "data").glob("*.jsonl") if f.suffixes == [".jsonl"])
    if isinstance(row, list) and all(isinstance(r, dict) for r in row):
        row = [{"shared": 0, "weights": None, "reference_logp": None} | r for r in row]
    file.write_text(json.dumps(row) + "\n")
    file.with_suffix(".sha256").write_text(checksum(place.read_bytes() for place in files_of(file)))
    error = bad(capsys, "export", "pairs", str(tmp_path / "run"), str(tmp_path / "pairs.jsonl"))
    assert f"{file}, line 1: {said}" in error


@pytest.mark.parametrize("text", ["", "[]", "[" * 10_000])
def test_a_run_without_settings_is_named(text, home, tmp_path, capsys):
    shutil.copytree(home / "run", tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(text)
    shutil.rmtree(tmp_path / "run" / "attempts")  # which would tell them
    error = bad(capsys, "export", "pairs", str(tmp_path / "run"), str(tmp_path / "pairs.jsonl"))
    assert "holds no config.yaml that can be read" in error


def test_no_bit_of_what_a_store_says_of_itself_labels_samples_otherwise(home, tmp_path):
    (meta,) = (home / "store").glob("*/meta.json")
    assert read_meta(meta.parent)["seed"] == 0
    file = tmp_path / meta.parent.name / "meta.json"
    file.parent.mkdir()
    whole = meta.read_bytes()
    told = json.loads(whole)
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            found = read_meta(file.parent)
        except InputError:
            continue
        assert {key: found[key] for key in ("policy", "decoding", "seed")} == {
            key: told[key] for key in ("policy", "decoding", "seed")
        }
    for cut in range(len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(InputError):
            read_meta(file.parent)


def test_rows_are_checked_before_an_output_appears(home, tmp_path, monkeypatch):
    def fails(rows: Any, form: Any) -> Any:
        yield next(rows)
        raise InputError("planned")

    monkeypatch.setattr("stepneg.formats.export.graded", fails)
    for name in ("s.jsonl", "s.parquet", "s"):
        with pytest.raises(SystemExit):
            main(["export", "samples", str(home / "run"), str(tmp_path / name)])
    assert list(tmp_path.iterdir()) == []
