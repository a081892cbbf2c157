"""Malformed rows: one line that names the file, the line, the key and the mend."""

import json
import os
from contextlib import suppress
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepneg.errors import InputError
from stepneg.evaluation import evaluate
from stepneg.policy_folder import load_tokenizer
from stepneg.problems import Problem
from stepneg.problems.gsm8k import GSM8K
from stepneg.problems.jsonl import Jsonl
from stepneg.problems.math import MATH
from stepneg.problems.records import any_records
from stepneg.sampling.engine import Decoding
from stepneg.sampling.store import SampleStore
from tests.sampling.fake import FakeEngine

GOOD = {"question": "How many?", "answer": "72"}


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    return path


def message(source: Jsonl | GSM8K | MATH) -> str:
    with pytest.raises(InputError) as caught:
        source.load()
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"question": ' + "1" * 5000 + "}", "not JSON"),
        ("[1]", "holds list"),
        ('"text"', "holds str"),
        ("{}", "key 'question' is missing"),
        ('{"question": "q"}', "key 'answer' is missing (there are question)"),
        ('{"question": ["q"], "answer": "1"}', "key 'question' holds list"),
        ('{"question": 5, "answer": "1"}', "key 'question' holds int"),
        ('{"question": "q", "answer": null}', "key 'answer' holds NoneType"),
        ('{"question": "q", "answer": true}', "key 'answer' holds bool"),
        ('{"question": "q", "answer": 1e999999}', "key 'answer' holds inf; write a number within range, or a text"),
        ('{"question": "q", "answer": NaN}', "key 'answer' holds nan"),
        ('{"' + "k" * 10_000 + '": 1}', "key 'question' is missing (there are [...]); add it"),
        ('{"question": " ", "answer": "1"}', "key 'question' is empty"),
        ('{"question": "q", "answer": ""}', "key 'answer' is empty"),
        ('{"question": "\\ud800", "answer": "1"}', "half a surrogate pair"),
        (b'{"question": "\xff", "answer": "1"}', "not UTF-8 at byte 15"),
    ],
)
def test_malformed_row_names_file_line_and_mend(tmp_path: Path, line: str | bytes, expected: str) -> None:
    path = write(tmp_path / "rows.jsonl", json.dumps(GOOD), "", line)
    text = message(Jsonl(path))
    assert text.startswith(f"{path}, line 3: ")
    assert expected in text
    assert ";" in text  # what is wrong; how to mend it


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("reading", "problems.records"):
        monkeypatch.setattr(f"stepneg.{module}.LONGEST_LINE", 1 << 20)
    path = write(tmp_path / "rows.jsonl", json.dumps(GOOD), json.dumps(GOOD | {"question": "q" * (1 << 20)}))
    assert message(Jsonl(path)) == f"{path}, line 2: longer than 1 MiB; write one JSON object a line"


def test_what_never_ends_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    writer = os.open(tmp_path / "pipe.jsonl", os.O_RDWR)  # else opening it would wait for one
    assert "not an ordinary file" in message(Jsonl(tmp_path / "pipe.jsonl"))
    os.close(writer)
    assert "not an ordinary file" in message(Jsonl("/dev/zero"))


def test_missing_file_folder_and_empty_file(tmp_path: Path) -> None:
    assert message(Jsonl(tmp_path / "none.jsonl")).startswith(f"{tmp_path / 'none.jsonl'}: No such file")
    assert "directory" in message(Jsonl(tmp_path))
    assert "holds no rows" in message(Jsonl(write(tmp_path / "empty.jsonl")))
    assert "holds no rows" in message(Jsonl(write(tmp_path / "blank.jsonl", "", "  ")))


@pytest.mark.parametrize("answer", ["6 / 2 = 3\nso 3\n#### 3", "So\nit is $\\boxed{3}$.", "#### 3\nas said"])
def test_a_worked_solution_is_no_bare_answer(tmp_path: Path, answer: str) -> None:
    path = write(tmp_path / "rows.jsonl", json.dumps(GOOD), json.dumps(GOOD | {"answer": answer}))
    text = message(Jsonl(path))
    assert text.startswith(f"{path}, line 2: key 'answer' holds a worked solution; give the bare final answer")
    assert "stepneg.problems.gsm8k.GSM8K" in text
    assert "stepneg.problems.math.MATH" in text


@pytest.mark.parametrize(
    "answer", ["72", "#### 72", "#### 72\n", "$\\boxed{3}$", "a\nb", "\\begin{cases}\n1\n\\end{cases}"]
)
def test_an_answer_stays_as_it_is(tmp_path: Path, answer: str) -> None:
    (problem,) = Jsonl(write(tmp_path / "rows.jsonl", json.dumps(GOOD | {"answer": answer}))).load()
    assert problem == Problem("rows/0", "How many?", answer)


def test_limit_stops_before_what_follows(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", json.dumps(GOOD), json.dumps(GOOD), "broken")
    assert len(Jsonl(path, limit=2).load()) == 2
    assert "limit is 0" in message(Jsonl(path, limit=0))


def test_jsonl_fields_and_ids(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.jsonl",
        b"\xef\xbb\xbf" + '{"q": "Größe?\u2028", "a": 0.5, "s": "so 0.5"}'.encode(),
        '{"q": "b", "a": 18, "s": "x"}',
    )
    first, second = Jsonl(str(path), question_key="q", answer_key="a", solution_key="s").load()
    assert (first.id, first.question, first.answer, first.solution) == ("mine/0", "Größe?\u2028", "0.5", "so 0.5")
    assert (second.id, second.answer) == ("mine/1", "18")
    assert Jsonl(path, "q", "a").load()[0].solution is None
    assert "key 'steps' is missing" in message(Jsonl(path, "q", "a", "steps"))
    assert [p.id for p in Jsonl(path, "q", "a", split="test").load()] == ["mine/test/0", "mine/test/1"]


def test_facts_come_with_the_problems(tmp_path: Path) -> None:
    row = GOOD | {"level": 3, "subject": "Algebra", "share": 0.5, "of": None, "odd": True, "list": [1]}
    path = write(tmp_path / "mine.jsonl", json.dumps(row))
    (problem,) = Jsonl(path, meta_keys=("subject", "level", "share")).load()
    assert problem.meta == {"subject": "Algebra", "level": 3, "share": "0.5"}
    assert "line 1: key 'type' is missing (there are question," in message(Jsonl(path, meta_keys=("level", "type")))
    for key, kind in (("of", "NoneType"), ("odd", "bool"), ("list", "list")):
        assert f"key '{key}' holds {kind}" in message(Jsonl(path, meta_keys=(key,)))


def test_an_evaluation_is_broken_down_by_the_facts(tmp_path: Path, tiny: Path) -> None:
    path = write(tmp_path / "mine.jsonl", *(json.dumps(GOOD | {"question": f"{n}?", "level": n % 2}) for n in range(4)))
    problems, tokenizer = Jsonl(path, meta_keys=("level",)).load(), load_tokenizer(tiny)
    store = SampleStore(tmp_path / "samples")
    found = evaluate(FakeEngine(), store, tiny, tokenizer, problems, "{question}\n", "number", 1, Decoding(), 0)
    found.write(tmp_path / "evaluation.json")
    rows = (tmp_path / "evaluation.jsonl").read_text().splitlines()
    assert [json.loads(row)["meta"] for row in rows] == [{"level": 0}, {"level": 1}] * 2
    assert [(row["by"], row["value"], row["problems"]) for row in found.breakdown] == [("level", 0, 2), ("level", 1, 2)]


@pytest.mark.parametrize("answer", ["no mark", "worked\n####", "worked\n#### $", ""])
def test_gsm8k_without_final_answer(tmp_path: Path, answer: str) -> None:
    path = write(tmp_path / "g.jsonl", json.dumps({"question": "q", "answer": answer}))
    text = message(GSM8K(path=path))
    assert text.startswith(f"{path}, line 1: key 'answer'")


@pytest.mark.parametrize("solution", ["none", r"\boxed{1", r"\boxed{}", r"so the answer is $\boxed{}$."])
def test_math_without_box(tmp_path: Path, solution: str) -> None:
    row = {"problem": "q", "solution": solution, "level": "Level 1", "type": "Algebra"}
    text = message(MATH(path=write(tmp_path / "m.jsonl", json.dumps(row))))
    assert "line 1: key 'solution' has no \\boxed{...}" in text


@pytest.mark.parametrize("key", ["problem", "solution", "level", "type"])
def test_math_without_a_key(tmp_path: Path, key: str) -> None:
    row = {"problem": "q", "solution": r"\boxed{1}", "level": "Level 1", "type": "Algebra"}
    del row[key]
    assert f"key '{key}' is missing" in message(MATH(path=write(tmp_path / "m.jsonl", json.dumps(row))))


def test_hub_names_go_to_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``datasets`` takes a local folder for a hub name, so the way to the hub is walked without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: test\n    path: rows.jsonl\n---\n"
    )
    write(
        folder / "rows.jsonl", json.dumps({"question": "q", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}), json.dumps(GOOD)
    )
    source = "hub:owner/name:main"
    (problem,) = GSM8K("test", source, limit=1).load()
    assert (problem.id, problem.answer, problem.solution) == ("gsm8k/test/0", "2", "1 + 1 = 2\n#### 2")
    assert message(GSM8K("test", source)).startswith(f"{source}, test row 1: key 'answer' has no")
    assert message(GSM8K("train", source)).startswith(f"{source}, split train: cannot be loaded")
    assert "cannot be loaded" in message(GSM8K("test", "hub:owner/other"))
    assert message(Jsonl(source, split="test")).startswith(
        f"{source}, test row 0: key 'answer' holds a worked solution"
    )
    assert Jsonl(source, answer_key="question", split="test", limit=1).load()[0].id == "name:main/test/0"
    assert "write hub:owner/name[:config]" in message(GSM8K("test", "hub:"))


def test_parquet_and_folders_of_datasets_hold_problems_too(tmp_path: Path) -> None:
    rows = [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(5)]
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(tmp_path / "rows.parquet")
    table.to_json(tmp_path / "rows.jsonl")
    table.save_to_disk(tmp_path / "saved", num_shards=2)
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(tmp_path / "splits")
    (tmp_path / "hub" / "data").mkdir(parents=True)
    table.select(range(3)).to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00002.parquet")
    table.select(range(3, 5)).to_parquet(tmp_path / "hub" / "data" / "train-00001-of-00002.parquet")
    table.select([0]).to_parquet(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet")
    for name in ("rows.parquet", "rows.jsonl", "saved", "splits", "hub"):
        found = Jsonl(tmp_path / name).load()
        assert [{"question": p.question, "answer": p.answer} for p in found] == rows
    assert len(list(any_records(tmp_path / "splits", "test"))) == 1
    for name in ("splits", "hub"):
        assert [p.id for p in Jsonl(tmp_path / name, split="test").load()] == [f"{name}/test/0"]
        assert [p.id for p in Jsonl(tmp_path / name, limit=1).load()] == [f"{name}/0"]
    assert "of split validation" in message(Jsonl(tmp_path / "hub", split="validation"))
    assert "of split test" in message(Jsonl(tmp_path / "saved", split="test"))  # it has none, and all are of train


def test_splits_of_any_name(tmp_path: Path) -> None:
    for number, name in enumerate(("train_sft-00000-of-00001", "test_sft-00000-of-00001", "Part2", "part22")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": str(number), "answer": "1"}))
    for number, split in enumerate(("train_sft", "test_sft", "part2", "Part22")):
        assert [problem.question for problem in Jsonl(tmp_path, split=split).load()] == [str(number)]
    assert "of split part" in message(Jsonl(tmp_path, split="part"))


def test_files_that_name_no_split_are_of_train_where_none_names_another(tmp_path: Path) -> None:
    for name in ("test", "more"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": name, "answer": "1"}))
    assert "of split train" in message(Jsonl(tmp_path))
    (tmp_path / "test.jsonl").unlink()
    assert [problem.question for problem in Jsonl(tmp_path).load()] == ["more"]


def test_a_bad_row_of_a_table_is_named(tmp_path: Path) -> None:
    datasets.Dataset.from_list([{"question": "a", "answer": "1"}, {"question": None, "answer": "2"}]).to_parquet(
        tmp_path / "rows.parquet"
    )
    assert "rows.parquet, row 1: key 'question' holds NoneType" in message(Jsonl(tmp_path / "rows.parquet"))
    (tmp_path / "torn.arrow").write_bytes((tmp_path / "rows.parquet").read_bytes()[:100])
    assert "torn.arrow, behind row 0: not readable as Arrow" in message(Jsonl(tmp_path / "torn.arrow"))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_damaged_table_is_one_line(suffix: str, tmp_path: Path) -> None:
    """Also where only its texts are damaged: they are no UTF-8, or lie where there is nothing."""
    rows = pa.Table.from_pylist([{"question": "how many eggs", "answer": "#### 72"}] * 3)
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(rows, path, compression="none", use_dictionary=False)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, rows.schema) as stream:
            stream.write_table(rows)
    whole = path.read_bytes()
    assert len(GSM8K(path=path).load()) == 3
    path.write_bytes(whole.replace(b"eggs", b"egg\xff"))
    assert f"{path}, behind row 0: not readable as {suffix[1:].capitalize()}: " in message(GSM8K(path=path))
    for start in range(0, len(whole), 16):
        path.write_bytes(whole[:start] + b"\xff" * 8 + whole[start + 8 :])
        with suppress(InputError):
            GSM8K(path=path).load()
