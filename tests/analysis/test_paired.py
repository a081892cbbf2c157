"""Paired differences against the exact test by hand and the normal interval."""

import json
from math import comb, sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepneg.analysis.paired import compare_files, mcnemar, paired_difference, read_evaluated
from stepneg.cli import main
from stepneg.errors import InputError


@given(gained=st.integers(0, 40), lost=st.integers(0, 40))
def test_mcnemar_is_the_two_sided_binomial_tail(gained: int, lost: int) -> None:
    n, least = gained + lost, min(gained, lost)
    tail = 2 * sum(comb(n, i) for i in range(least + 1)) / 2**n
    assert mcnemar(gained, lost) == pytest.approx(min(1.0, tail))


def test_the_interval_is_that_of_paired_not_of_separate_samples() -> None:
    rng = np.random.default_rng(1)
    first = rng.random(2000) < 0.5
    second = np.where(rng.random(2000) < 0.1, ~first, first)
    found = paired_difference(first, second)
    change = second.astype(float) - first.astype(float)
    half = 1.96 * change.std() / sqrt(2000)
    assert found.low == pytest.approx(change.mean() - half, abs=0.003)
    assert found.high == pytest.approx(change.mean() + half, abs=0.003)
    assert (found.gained, found.lost) == (int((change > 0).sum()), int((change < 0).sum()))
    assert found.second - found.first == pytest.approx(change.mean())


def test_equal_measurements_differ_by_nothing() -> None:
    same = np.array([1.0, 0.0, 0.5])
    found = paired_difference(same, same)
    assert (found.low, found.high, found.gained, found.lost, found.p) == (0.0, 0.0, 0, 0, 1.0)


def test_the_order_of_the_two_turns_the_sign() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.random(50), rng.random(50)
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert (there.gained, there.lost, there.p) == (back.lost, back.gained, back.p)
    assert there.low == pytest.approx(-back.high, abs=0.02)


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 0.0]), ([], []), ([[1.0]], [[1.0]])])
def test_what_cannot_be_paired_is_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="two vectors of one length"):
        paired_difference(np.array(a), np.array(b))


@pytest.mark.parametrize(
    "change",
    [
        {"correct": 5}, {"correct": "true"}, {"majority_correct": None}, {"samples": []}, {"samples": 5},
        {"samples_correct": 9}, {"samples_correct": -1}, {"samples_correct": "1"}, {"problem_id": ["a"]},
        {"problem_id": "\ud800"}, {"samples_correct": 10**400},
    ],
    ids=str,
)  # fmt: skip
def test_a_row_that_is_no_graded_problem_is_named(change: dict[str, object], tmp_path: Path) -> None:
    good: dict[str, object] = {"problem_id": "a", "correct": True, "majority_correct": False, "samples_correct": 1}
    good |= {"samples": ["1", None]}
    file = tmp_path / "evaluation.jsonl"
    file.write_text("\n".join(map(json.dumps, (good, good | change))))
    with pytest.raises(InputError, match=r"evaluation\.jsonl, line 2: ") as caught:
        read_evaluated(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\n", b"[" * 100_000, b"[]\n", b'{"correct": 1' + b"0" * 5000 + b"}"])
def test_an_evaluation_that_is_no_jsonl_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "evaluation.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=r"evaluation\.jsonl, line 1: "):
        read_evaluated(tmp_path)


def evaluation(file: Path, questions: list[object]) -> Path:
    """An evaluation of the rows of a file of problems called test.jsonl; None for rows that hold no question."""
    good = {"correct": True, "majority_correct": True, "samples_correct": 1, "samples": ["1"]}
    rows = [
        good | {"problem_id": f"test/{row}"} | ({} if question is None else {"question": question})
        for row, question in enumerate(questions)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_other_problems_of_the_same_names_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another file of this name, and the same one after a row was put in."""
    first = evaluation(tmp_path / "a.jsonl", ["1 + 1?", "2 + 2?", "3 + 3?"])
    for number, questions in enumerate((["1 + 1?", "new?", "2 + 2?", "3 + 3?"], ["x", "y", "z"])):
        second = evaluation(tmp_path / f"b{number}.jsonl", list(questions))
        with pytest.raises(SystemExit) as stop:
            main(["compare", str(first), str(second)])
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert (
            f"{first} and {second}: other problems of the same names: 'test/{1 - number}' has another question" in said
        )


@pytest.mark.parametrize("questions", [[None, None, None], ["1 + 1?", None, "3 + 3?"], ["", 5, None]], ids=str)
def test_evaluations_without_questions_are_compared(questions: list[object], tmp_path: Path) -> None:
    first = evaluation(tmp_path / "a.jsonl", ["1 + 1?", "2 + 2?", "3 + 3?"])
    second = evaluation(tmp_path / "b.jsonl", questions)
    assert "3 problems in both." in compare_files(first, second)


def sampled(file: Path, correct: list[int], k: int) -> Path:
    """An evaluation of k samples a problem, of which so many are right."""
    rows = [
        {"problem_id": f"p{i}", "correct": right > 0, "majority_correct": 2 * right > k, "samples_correct": right}
        | {"samples": ["1"] * k}
        for i, right in enumerate(correct)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_the_vote_of_other_numbers_of_samples_is_not_compared(tmp_path: Path) -> None:
    one = sampled(tmp_path / "1.jsonl", [1, 0, 0, 1], 1)
    five = sampled(tmp_path / "5.jsonl", [5, 3, 1, 4], 5)
    for first, second in ((one, five), (five, one)):
        lines = compare_files(first, second).splitlines()
        cells = {line.split(" | ")[0].removeprefix("| "): line.strip("| ").split(" | ") for line in lines[2:4]}
        assert list(cells) == ["accuracy", "mean of the samples"]
        assert len(cells["accuracy"]) == 7
        assert len(cells["mean of the samples"]) == 4  # a sign test would tell who draws more
        assert "maj@" not in "\n".join(lines[:5])
    said = "5 in the first, 1 in the second; maj@k and the test of the samples' mean are left out."
    assert lines[-1] == f"Samples a problem: {said}"
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(one.read_text() + five.read_text().replace('"p', '"q').replace("qroblem", "problem"))
    assert "Samples a problem: 1 to 5 in the first, 1 to 5 in the second; maj@k and" in compare_files(mixed, mixed)


def test_the_vote_is_called_by_its_number_of_samples(tmp_path: Path) -> None:
    five = sampled(tmp_path / "5.jsonl", [5, 3, 1, 4], 5)
    text = compare_files(five, five)
    assert "| maj@5 | 75.0 % | 75.0 % |" in text
    assert "left out" not in text


def test_two_rows_of_a_problem_are_refused(tmp_path: Path) -> None:
    file = sampled(tmp_path / "5.jsonl", [5, 3], 5)
    file.write_text(file.read_text() + file.read_text().splitlines()[0].replace("true", "false") + "\n")
    with pytest.raises(InputError, match=r"5\.jsonl, line 3: problem_id 'p0' stands in an earlier row, too; ") as said:
        read_evaluated(file)
    assert "\n" not in str(said.value)


def test_the_evaluation_of_a_run_is_that_of_its_test(tmp_path: Path) -> None:
    sampled(tmp_path / "evaluation.jsonl", [1], 2)  # by `stepneg evaluate --output RUN`
    assert len(read_evaluated(tmp_path)) == 1
    (tmp_path / "evaluation").mkdir()
    sampled(tmp_path / "evaluation" / "test.jsonl", [1, 0], 2)
    assert len(read_evaluated(tmp_path)) == 2
