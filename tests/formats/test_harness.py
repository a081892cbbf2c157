"""Evaluations in the layout of lm-evaluation-harness, and its samples in our grader."""

import json
import shutil
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from stepneg.cli import main
from stepneg.data.rows import encode_prompt, encode_response
from stepneg.evaluation import evaluate, settings_of
from stepneg.formats import harness
from stepneg.policy_folder import load_tokenizer
from stepneg.problems.arithmetic import Arithmetic
from stepneg.sampling.engine import Completion, Decoding, Request
from stepneg.sampling.store import SampleStore

PROBLEMS = Arithmetic(size=8).load()
TEMPLATE, K, DECODING = "{question}\n", 2, Decoding(0.7, max_tokens=100)
# The keys of lm_eval 0.4.13 (result_schema.py: SampleResult, EvalResults; evaluation_tracker.py).
SAMPLE = {"doc_id": int, "doc": dict, "target": str, "arguments": dict, "resps": list, "filtered_resps": list}
SAMPLE |= {"filter": str, "metrics": list, "doc_hash": str, "prompt_hash": str, "target_hash": str}
RESULTS = {"results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "config"}
RESULTS |= {"git_hash", "date", "transformers_version", "lm_eval_version", "task_hashes", "model_source", "model_name"}
RESULTS |= {"model_name_sanitized", "system_instruction", "system_instruction_sha", "fewshot_as_multiturn"}
RESULTS |= {"chat_template", "chat_template_sha", "total_evaluation_time_seconds"}


class Solver:
    """Greedily solves every other problem; of two samples of a problem the first is right."""

    def __init__(self, policy: Path) -> None:
        self.tokenizer = load_tokenizer(policy)
        self.known = {encode_prompt(self.tokenizer, TEMPLATE, p.question): (i, p) for i, p in enumerate(PROBLEMS)}

    def load(self, policy: Path) -> None:
        """Nothing to load."""

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[tuple[int, list[Completion]]]:
        for index, request in enumerate(requests):
            number, problem = self.known[request.prompt_ids]
            right = [number % 2 == 0] if decoding.temperature == 0 else [i % 2 == 0 for i in range(request.n)]
            texts = [problem.solution if ok else "I do not know." for ok in right]
            yield index, [Completion(encode_response(self.tokenizer, str(t)), -1.0, "stop") for t in texts]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    home = tmp_path_factory.mktemp("evaluated")
    store, tokenizer = SampleStore(home / "store"), load_tokenizer(tiny)
    found = evaluate(Solver(tiny), store, tiny, tokenizer, PROBLEMS, TEMPLATE, "gsm8k", K, DECODING, 0)
    settings = settings_of(tiny, "arithmetic", PROBLEMS, "gsm8k", None, TEMPLATE, K, DECODING, 0)
    found.write(home / "run" / "evaluation" / "test.json", {"settings": settings})
    return home / "run"


@pytest.fixture(scope="module")
def written(evaluated: Path) -> tuple[dict[str, Any], list[dict[str, Any]], Path]:
    out = evaluated.parent / "lm_eval"
    main(["export", "evaluation", str(evaluated), str(out)])
    [home] = out.iterdir()
    [results], [samples] = home.glob("results_*.json"), home.glob("samples_*.jsonl")
    return json.loads(results.read_text()), [json.loads(line) for line in samples.open()], samples


def test_results_have_the_keys_and_figures(written, tiny):
    results, samples, file = written
    assert set(results) == RESULTS
    scores = results["results"]["arithmetic"]
    assert (scores["exact_match,greedy"], scores["pass@2,samples"], scores["maj@2,samples"]) == (0.5, 1.0, 1.0)
    assert scores["exact_match_stderr,greedy"] == pytest.approx((0.25 / 7) ** 0.5)
    assert scores["sample_len"] == results["n-samples"]["arithmetic"]["effective"] == len(samples) == 8
    assert results["n-shot"] == {"arithmetic": 0}
    assert set(results["versions"]) == set(results["configs"]) == set(results["higher_is_better"]) == {"arithmetic"}
    assert results["configs"]["arithmetic"]["doc_to_text"] == "{{question}}\n"
    assert results["config"]["model_args"] == {"pretrained": str(tiny)}
    assert file.parent.name == results["model_name_sanitized"]


def test_samples_have_the_keys_and_open_in_pandas_and_datasets(written, tmp_path):
    _, samples, file = written
    for number, (row, problem) in enumerate(zip(samples, PROBLEMS, strict=True)):
        assert {key: type(value) for key, value in row.items() if key != "exact_match"} == SAMPLE
        assert row["doc_id"] == number
        assert row["doc"]["question"] == problem.question
        assert row["arguments"]["gen_args_0"]["arg_0"] == problem.question + "\n"
        assert row["arguments"]["gen_args_0"]["arg_1"]["max_gen_toks"] == 100
        assert row["exact_match"] == float(number % 2 == 0)
        assert row["resps"] == [[problem.solution if number % 2 == 0 else "I do not know."]]
        assert row["filtered_resps"] == [problem.answer if number % 2 == 0 else ""]
    assert list(pd.read_json(file, lines=True).exact_match) == [1.0, 0.0] * 4
    table = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path))
    assert len(table) == 8


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm_eval is not installed")
def test_lm_eval_reads_what_is_written(written):
    from lm_eval.result_schema import EvalResults, SampleResult
    from lm_eval.utils import get_file_datetime, get_file_task_name, make_table, sanitize_model_name

    results, samples, file = written
    assert set(results) <= set(EvalResults.__annotations__)
    assert set(SampleResult.__annotations__) <= set(samples[0])
    assert get_file_task_name(file.name) == "arithmetic"
    [other] = file.parent.glob("results_*.json")
    assert get_file_datetime(file.name) == get_file_datetime(other.name).replace(".json", "")
    assert sanitize_model_name(results["model_name"]) == results["model_name_sanitized"]
    table = make_table(results)
    assert "|exact_match" in table.replace(" ", "")
    assert "0.5" in table


def test_what_is_written_is_graded_as_it_was(written, tmp_path, capsys):
    _, samples, file = written
    main(["grade", str(file), "--dataset=gsm8k", "--marks=[hashes]", f"--output={tmp_path / 'graded.jsonl'}"])
    assert json.loads(capsys.readouterr().out)["correct"] == 4
    graded = [json.loads(line) for line in (tmp_path / "graded.jsonl").open()]
    assert [float(row["correct"]) for row in graded] == [row["exact_match"] for row in samples]


def of_gsm8k(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Samples as lm_eval's gsm8k logs them: a line a document and filter."""
    kinds = ("strict-match", "flexible-extract")
    lines = [json.dumps({"doc_id": i, "filter": kind, **row}) for kind in kinds for i, row in enumerate(rows)]
    file.write_text("\n".join(lines))
    return file


def test_samples_of_gsm8k_are_graded_once_each(tmp_path, capsys):
    rows = [
        {"target": "3 + 4 = 7\n#### 7", "resps": [["It is 7.\n#### 7"]], "filtered_resps": ["7"]},
        {"target": "#### 8", "resps": [["The answer is $8.00.", "#### 9"]], "filtered_resps": ["8", "9"]},
    ]
    file = of_gsm8k(tmp_path / "samples_gsm8k_x.jsonl", rows)
    main(["grade", str(file), "--dataset=gsm8k", f"--output={tmp_path / 'graded.jsonl'}"])
    summary = json.loads(capsys.readouterr().out)
    assert (summary["rows"], summary["correct"]) == (3, 2)
    graded = [json.loads(line) for line in (tmp_path / "graded.jsonl").open()]
    assert [row["doc_id"] for row in graded] == [0, 1, 1]


def test_samples_that_lm_eval_wrote_are_graded_as_it_graded_them(tmp_path, capsys):
    """lm_eval 0.4.13 with --log_samples on the shipped base model, 20 test problems; it found 7 right as well."""
    file = Path(__file__).with_name("samples_tiny_words.jsonl")
    rows = [json.loads(line) for line in file.open()]
    strict = [row["exact_match"] for row in rows if row["filter"] == "strict-match"]
    main(["grade", str(file), "--dataset=gsm8k", "--marks=[hashes]", f"--output={tmp_path / 'graded.jsonl'}"])
    assert json.loads(capsys.readouterr().out)["correct"] == sum(strict) == 7
    assert [float(json.loads(line)["correct"]) for line in (tmp_path / "graded.jsonl").open()] == strict
    assert {key: type(value) for key, value in rows[0].items() if key != "exact_match"} == SAMPLE


def test_samples_without_text_are_named(tmp_path, capsys):
    file = of_gsm8k(
        tmp_path / "samples_mc.jsonl", [{"target": "1", "resps": [[["-1.5", "True"]], [["-2.5", "False"]]]}]
    )
    with pytest.raises(SystemExit):
        main(["grade", str(file), "--dataset=gsm8k", f"--output={tmp_path / 'graded.jsonl'}"])
    assert "samples_mc.jsonl, line 1: resps holds no generated text" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


def test_a_fact_of_a_problem_takes_no_other_place():
    row = {"problem_id": "a", "question": "q", "answer": "1", "greedy": "1", "extracted": "1", "correct": True}
    settings = {"max_tokens": 3}
    doc = harness.sample(0, row | {"meta": {"id": 7, "answer": "2", "level": 3}}, "q", settings)["doc"]
    assert doc == {"id": "a", "question": "q", "answer": "1", "level": 3}
    assert list(doc)[:3] == ["id", "question", "answer"]


def test_an_evaluation_of_before_is_named(evaluated, tmp_path, capsys):
    (tmp_path / "evaluation.json").write_text('{"accuracy": 1.0}')
    (tmp_path / "evaluation.jsonl").write_text('{"problem_id": "a"}\n')
    for source, said in ((tmp_path, "is no evaluation with settings"), (evaluated.parent, "holds neither")):
        with pytest.raises(SystemExit):
            main(["export", "evaluation", str(source), str(tmp_path / "out")])
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_evaluation_that_is_not_as_it_was_written_is_named(evaluated, tmp_path, capsys):
    source = evaluated / "evaluation"
    for name in ("test.json", "test.jsonl"):
        shutil.copytree(source, tmp_path / name)
        file = tmp_path / name / name
        file.write_text(file.read_text().replace("true", "false", 1).replace('"k": 3', '"k": 2').replace("1", "2", 1))
        with pytest.raises(SystemExit):
            main(["export", "evaluation", str(tmp_path / name / "test.json"), str(tmp_path / "out")])
        assert "was changed or damaged since it was written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("..", "__"), (".", "__"), ("a/../b", "a__..__b"), ("/x/y", "__x__y"), (7, None), ("a\0b", "a__b"),
        ("\ud800", "__"), ("\x1b]0;x\x07", "__0;x__"), ("\u202ex", "\u202ex"),
    ],
)  # fmt: skip
def test_a_policys_name_leads_nowhere(given, said, evaluated, tmp_path, capsys):
    shutil.copytree(evaluated / "evaluation", tmp_path / "e")
    values = json.loads((tmp_path / "e/test.json").read_text())
    del values["sha256"]  # of another origin
    values["settings"]["policy"] = given
    (tmp_path / "e/test.json").write_text(json.dumps(values))
    argv = ["export", "evaluation", str(tmp_path / "e/test.json"), str(tmp_path / "out/here")]
    if said is None:
        with pytest.raises(SystemExit):
            main(argv)
        assert "is no evaluation with settings" in capsys.readouterr().err
        return
    main(argv)
    assert [file.name for file in (tmp_path / "out/here").iterdir()] == [said]
    assert capsys.readouterr().out.strip().isprintable()
