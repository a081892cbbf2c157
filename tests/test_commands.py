"""``stepneg grade``, ``evaluate`` and ``compare`` as a user runs them."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from stepneg.cli import main
from stepneg.evaluation import Evaluated, break_down
from stepneg.sampling.vllm_engine import WORKERS, close_all
from tests.conftest import BASE, ROOT
from tests.test_fit import FIT


def write_rows(file: Path, *rows: object) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def read_rows(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def graded(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, object]:
    main(["grade", *map(str, argv)])
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, argv)))
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stepneg: error: ")]
    return line


ROWS = [
    {"response": "17 + 1 = 18\n#### 18", "answer": "18", "model": "a"},
    {"response": r"so \boxed{\frac12}", "answer": "0.5"},
    {"response": "The answer is 7 eggs.", "answer": 7},
    {"response": "5 then 6", "answer": "He has 2 + 4 = 6.\n#### 6"},
    {"response": "#### 19", "answer": "18"},
    {"response": "I cannot say.", "answer": "18"},
]


@pytest.mark.parametrize("dataset", ["gsm8k", "number"])
def test_grade_repeats_the_rows_with_their_verdicts(dataset, tmp_path, capsys):
    file, output = write_rows(tmp_path / "in.jsonl", *ROWS), tmp_path / "new" / "out.jsonl"
    summary = graded(capsys, file, "--dataset", dataset, "--output", output)
    rows = read_rows(output)
    assert [{key: row[key] for key in given} for row, given in zip(rows, ROWS, strict=True)] == ROWS
    assert [row["correct"] for row in rows] == [True, True, True, True, False, False]
    assert [row["mark"] for row in rows] == ["hashes", "boxed", "stated", "last_number", "hashes", None]
    assert [row["rule"] for row in rows[4:]] == ["different", "no_answer"]
    assert all(row["why"] for row in rows)
    assert (summary["rows"], summary["correct"], summary["no_answer"]) == (6, 4, 1)
    assert summary["accuracy_low"] < 4 / 6 < summary["accuracy_high"]


def test_marks_are_switched_off_one_by_one(tmp_path, capsys):
    file = write_rows(tmp_path / "in.jsonl", *ROWS)
    for count, marks in [(1, ["hashes"]), (2, ["hashes", "boxed"]), (3, ["hashes", "boxed", "stated"])]:
        output = tmp_path / f"{count}.jsonl"
        assert graded(capsys, file, "--dataset=gsm8k", f"--output={output}", f"--marks={marks}")["correct"] == count


def test_grade_reads_formulas_and_reference_solutions(tmp_path, capsys):
    rows = [
        {"response": r"\boxed{\left(\dfrac{1}{2}, 3\right)}", "answer": r"Hence $\boxed{(\frac12,3)}$."},
        {"response": r"\boxed{(3, \frac12)}", "answer": r"(\frac12,3)"},
        {"response": r"\boxed{x^2+2x+1}", "answer": "(x+1)^2"},
        {"response": r"\boxed{|1-x|}", "answer": "|x-1|"},
        {"response": r"\boxed{\frac{}{}}", "answer": "(x+1)^2"},
    ]
    output = tmp_path / "out.jsonl"
    summary = graded(capsys, write_rows(tmp_path / "in.jsonl", *rows), "--dataset=math", f"--output={output}")
    assert [row["rule"] for row in read_rows(output)] == ["normalised", "different", "plain", "symbolic", "unparsable"]
    assert (summary["correct"], summary["unparsable"]) == (3, 1)


def test_two_workers_and_one_agree(tmp_path, capsys):
    rows = [{"response": rf"\boxed{{|x-{i}|}}", "answer": f"|{i + i % 2}-x|"} for i in range(1, 9)]
    file = write_rows(tmp_path / "in.jsonl", *rows)
    for workers in (1, 2):
        graded(capsys, file, "--dataset=math", f"--output={tmp_path / str(workers)}", f"--workers={workers}")
    assert (tmp_path / "1").read_text() == (tmp_path / "2").read_text()
    assert [row["correct"] for row in read_rows(tmp_path / "1")] == [i % 2 == 0 for i in range(1, 9)]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "holds no rows"),
        ('{"response": "#### 1"}\n', "line 1: key 'answer'"),
        ('{"response": "#### 1", "answer": "1"}\n{"answer": "1"}\n', "line 2: key 'response'"),
        ('{"response": 5, "answer": "1"}\n', "line 1: key 'response' holds int"),
        ('{"response": "", "answer": "long\\nwork, no mark"}\n', "line 1: key 'answer' is a solution without"),
        ('{"response": \n', "line 1"),
        ("[1]\n", "line 1"),
    ],
)
def test_a_bad_file_leaves_nothing_behind(text, named, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text(text)
    error = refused(capsys, "grade", tmp_path / "in.jsonl", "--dataset=gsm8k", f"--output={tmp_path}/out.jsonl")
    assert named in error
    assert "in.jsonl" in error
    assert [file.name for file in tmp_path.iterdir()] == ["in.jsonl"]


def test_grade_never_overwrites_its_input(tmp_path, capsys):
    file = write_rows(tmp_path / "in.jsonl", ROWS[0])
    assert "name another output" in refused(capsys, "grade", file, "--dataset=gsm8k", "--output", file)
    assert read_rows(file) == [ROWS[0]]


def test_a_place_that_cannot_be_written_is_named(tmp_path, capsys):
    file = write_rows(tmp_path / "in.jsonl", ROWS[0])
    assert str(file) in refused(capsys, "grade", file, "--dataset=gsm8k", f"--output={file}/out.jsonl")


def test_a_wrong_option_is_named(tmp_path, capsys):
    file = write_rows(tmp_path / "in.jsonl", ROWS[0])
    assert "gsm9k" in refused(capsys, "grade", file, "--dataset=gsm9k", f"--output={tmp_path}/out")
    assert "dataset" in refused(capsys, "grade", file, f"--output={tmp_path}/out")
    assert "file" in refused(capsys, "grade", "--dataset=gsm8k", f"--output={tmp_path}/out")
    assert "gsm9k" in refused(capsys, "evaluate", BASE, "--problems=gsm9k")
    assert "limit" in refused(capsys, "evaluate", BASE, "--problems=gsm8k", "--limit=0")
    assert "tokenizer" in refused(capsys, "evaluate", tmp_path, "--problems=gsm8k")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--k=0", "k: is 0; give at least 1"),
        ("--k=-1", "k: is -1;"),
        ("--max_tokens=0", "max_tokens: is 0; give at least 1"),
        ("--temperature=-1", "temperature: is -1"),
        ("--temperature=nan", "temperature is 'nan', not a number"),
        ("--top_p=2", "top_p: is 2"),
        ("--top_p=0", "top_p: is 0"),
        ("--output=/proc/nowhere/x", "/proc/nowhere: No such file or directory; give"),
    ],
)
def test_a_number_out_of_range_is_named_before_anything_is_sampled(option, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, "evaluate", BASE, "--problems=arithmetic", "--limit=3", option)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["samples=0", "rollouts=0", "negatives=-1", "positives=-1", "max_tokens=0"])
def test_rollouts_out_of_range_are_named_before_anything_is_sampled(option, tmp_path, capsys):
    fit = ["fit", f"--config={ROOT}/configs/arithmetic/step_dpo.yaml", f"--trainer.default_root_dir={tmp_path}/run"]
    policy = f"--data.policy={BASE}"
    error = refused(capsys, *fit, policy, f"--data.rollouts.{option}")
    assert f"{option.partition('=')[0]}: is {option.partition('=')[2]}" in error
    assert not list(tmp_path.glob("run/data/*.jsonl"))


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("advantage", "data.beta=0.0"),
        ("advantage", "data.clip=-1.0"),
        ("advantage", "data.k=0"),
        ("step_dpo", "data.k=0"),
        ("step_dpo", "data.max_pairs=0"),
        ("step_dpo", "data.tolerance=-0.5"),
        ("step_dpo", "model.objective.beta=0.0"),
        ("step_dpo", "model.objective.anchor=-1.0"),
    ],
)
def test_a_method_out_of_range_is_named_before_anything_is_sampled(method, option, tmp_path, capsys):
    close_all()
    fit = ["fit", f"--config={ROOT}/configs/arithmetic/{method}.yaml", f"--trainer.default_root_dir={tmp_path}/run"]
    error = refused(capsys, *fit, f"--data.policy={BASE}", f"--{option}")
    assert f"error: {option.replace('=', ': is ')}; give" in error
    assert not WORKERS


@pytest.mark.parametrize("option", ["k=0", "max_tokens=0", "temperature=-0.5", "top_p=1.5", "kl_samples=-1", "show=-1"])
def test_an_evaluation_out_of_range_is_named_before_training(option, tiny, tmp_path, capsys):
    (tmp_path / "fit.yaml").write_text(FIT.replace("POLICY", str(tiny)))
    evaluation = "--trainer.callbacks=stepneg.callbacks.evaluation.VLLMEvaluation"
    fit = ["fit", f"--config={tmp_path}/fit.yaml", f"--trainer.default_root_dir={tmp_path}/run", evaluation]
    error = refused(capsys, *fit, "--trainer.callbacks.engine={}", f"--trainer.callbacks.{option}")
    assert f"{option.partition('=')[0]}: is {option.partition('=')[2]}" in error
    assert not (tmp_path / "run" / "last").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("max_num_seqs=0", "max_num_seqs: is 0;"),
        ("tensor_parallel_size=-1", "tensor_parallel_size: is -1;"),
        ("context=0", "context: is 0;"),
        ("timeout=0", "timeout 0"),
        ("gpu_memory_utilization=1.5", "gpu_memory_utilization is 1.5"),
    ],
)
def test_an_engine_out_of_range_is_named_before_it_is_started(option, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    close_all()
    assert said in refused(capsys, "evaluate", BASE, "--problems=arithmetic", "--limit=3", f"--engine.{option}")
    assert not WORKERS


@pytest.mark.parametrize("output", ["pipe.jsonl", "/dev/stdout", "/dev/null", "folder.jsonl"])
def test_what_is_no_file_is_not_replaced_by_one(output, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.jsonl")
    Path("folder.jsonl").mkdir()
    file = write_rows(tmp_path / "in.jsonl", ROWS[0])
    before = os.lstat(output)
    assert "is no ordinary file" in refused(capsys, "grade", file, "--dataset=gsm8k", f"--output={output}")
    assert os.lstat(output).st_ino == before.st_ino


def test_output_goes_into_shared_memory(tmp_path, capsys):
    with TemporaryDirectory(dir="/dev/shm") as memory:
        graded(capsys, write_rows(tmp_path / "in.jsonl", *ROWS), "--dataset=gsm8k", f"--output={memory}/out.jsonl")
        assert len(read_rows(Path(memory) / "out.jsonl")) == len(ROWS)


def test_output_goes_to_where_a_link_leads(tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "there" / "real.jsonl")
    for _ in range(2):
        graded(capsys, write_rows(tmp_path / "in.jsonl", *ROWS), "--dataset=gsm8k", f"--output={tmp_path}/link.jsonl")
        assert (tmp_path / "link.jsonl").is_symlink()
        assert len(read_rows(tmp_path / "there" / "real.jsonl")) == len(ROWS)


def test_the_name_of_graded_rows_says_what_they_are(tmp_path, capsys):
    file = write_rows(tmp_path / "in.jsonl", ROWS[0])
    error = refused(capsys, "grade", file, "--dataset=gsm8k", f"--output={tmp_path}/out.parquet")
    assert "out.parquet: graded rows are written as JSON lines; name a .jsonl file" in error
    assert "workers: is 0; give at least 1" in refused(
        capsys, "grade", file, "--dataset=gsm8k", f"--output={tmp_path}/out.jsonl", "--workers=0"
    )


@pytest.mark.slow
def test_a_policy_is_evaluated_twice_and_compared(tmp_path, capsys):
    argv = ["evaluate", str(BASE), "--problems=arithmetic", "--limit=40", "--k=3", f"--store={tmp_path}/samples"]
    main([*argv, f"--output={tmp_path}/greedy"])
    table = capsys.readouterr().out
    assert all(word in table for word in ("accuracy", "pass@3", "maj@3", "events", "distractors"))
    stored = {file: file.read_bytes() for file in sorted((tmp_path / "samples").rglob("*.jsonl"))}
    assert stored
    main([*argv, f"--output={tmp_path}/again"])
    capsys.readouterr()
    assert {file: file.read_bytes() for file in sorted((tmp_path / "samples").rglob("*.jsonl"))} == stored
    greedy, again = (tmp_path / name for name in ("greedy", "again"))
    assert (greedy / "evaluation.jsonl").read_text() == (again / "evaluation.jsonl").read_text()

    values, rows = json.loads((greedy / "evaluation.json").read_text()), read_rows(greedy / "evaluation.jsonl")
    assert values["problems"] == len(rows) == 40
    assert values["accuracy"] == sum(row["correct"] is True for row in rows) / 40
    by_events = [group for group in values["breakdown"] if group["by"] == "events"]
    assert sum(group["problems"] for group in by_events) == 40
    assert values["settings"]["k"] == 3

    changed = [dict(row, correct=not row["correct"]) if i < 4 else row for i, row in enumerate(rows)]
    other = write_rows(tmp_path / "other.jsonl", *changed[:30])
    main(["compare", str(greedy), str(other)])
    compared = capsys.readouterr().out
    lost = sum(row["correct"] is True for row in rows[:4])
    assert f"| {4 - lost} | {lost} |" in compared
    assert "30 problems in both; 10 in only one" in compared


def test_compare_names_what_it_cannot_read(tmp_path, capsys):
    assert "no evaluation" in refused(capsys, "compare", tmp_path, tmp_path)
    broken = write_rows(tmp_path / "broken.jsonl", {"problem_id": "1"})
    assert "broken.jsonl, line 1" in refused(capsys, "compare", broken, broken)
    empty = write_rows(tmp_path / "empty.jsonl")
    assert "holds no problem" in refused(capsys, "compare", empty, empty)


def test_the_break_down_counts_each_problem_once_for_each_fact():
    def row(correct: bool, **meta: str | int) -> Evaluated:
        return Evaluated("id", "", "1", correct, None, "exact", False, 0, (), False, meta)

    table = break_down([row(True, level=1, subject="Algebra"), row(False, level=1), row(True, level=10), row(True)])
    assert [(r["by"], r["value"], r["problems"], r["accuracy"]) for r in table] == [
        ("level", 1, 2, 0.5),
        ("level", 10, 1, 1.0),
        ("subject", "Algebra", 1, 1.0),
    ]
    assert all(r["accuracy_low"] <= r["accuracy"] <= r["accuracy_high"] for r in table)
