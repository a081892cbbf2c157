"""``stepneg traces`` up to the page: what is read of a run, what is left out of a damaged one, what the page holds."""

import json
import os
import re
from dataclasses import replace
from inspect import signature
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepneg.analysis import solutions
from stepneg.analysis.solutions import LONGEST, Browsed, Settings, read_solutions
from stepneg.analysis.traces import SCRIPT, STYLE, contents, embedded, page, source_hash, traces
from stepneg.cli import main
from stepneg.credit.values import advantages, bok, first_pit
from stepneg.data.prepared import Built
from stepneg.data.rows import Row
from stepneg.errors import InputError
from stepneg.evaluation_files import write_evaluation
from stepneg.record import start
from stepneg.studies import spurious
from tests.analysis import made_run
from tests.analysis.made_run import (
    ADA,
    BOB,
    DETOUR,
    ENDLESS,
    NO_PIT,
    RIGHT,
    SAME_PIT,
    WRONG,
    made,
    pair,
    prompt,
    write_run,
)
from tests.test_commands import refused

FILE = "0123456789abcdef"


def read(run: Path, limit: int = 1000) -> Browsed:
    return read_solutions(run, limit)[1]


def texts(found: Browsed) -> list[str]:
    return ["".join(solution.steps) for solution in found.solutions]


def test_values_pits_and_spurious_steps_are_those_of_credit(tmp_path):
    found = read(made(tmp_path))
    assert found.notes == []
    right, detour, wrong, same, no_pit, endless = found.solutions[:6]
    for shown, trace in [(right, RIGHT), (detour, DETOUR), (wrong, WRONG), (same, SAME_PIT), (no_pit, NO_PIT)]:
        assert shown.counts == trace.counts
        assert shown.values == [c / n for n, c in trace.counts]
        assert shown.right is trace.correct
        assert not shown.unfinished
    assert wrong.steps == ["Ada gets 2.\n", "3 - 2 = 1\n", "So 1.\n", "#### 1"]
    assert (wrong.pit, same.pit) == (first_pit(wrong.values), 2)
    assert (right.pit, detour.pit, no_pit.pit, endless.pit) == (0, 0, 0, 0)  # a right solution has no pit
    assert (no_pit.no_pit, endless.no_pit, wrong.no_pit, right.no_pit) == ("unsolved", "no values", "", "")
    assert advantages(detour.values)[1] == -0.5
    assert (right.spurious, detour.spurious, wrong.spurious) == ([], [2], [])
    assert endless.unfinished
    assert [p["id"] for p in found.problems] == ["made/0", "made/1", "test/0", "test/1", "test/2"]
    assert found.problems[0]["meta"] == {"level": "Level 2", "steps": 2}
    assert found.problems[0]["solution"] == ADA.solution


def test_the_settings_of_the_run_are_those_of_its_values(tmp_path):
    settings, found = read_solutions(made(tmp_path, k=2, tolerance=0.8), 1000)
    assert (settings.k, settings.tolerance, settings.method) == (2, 0.8, "Pairs")
    assert found.solutions[0].values == [round(bok(n, c, 2), 4) for n, c in RIGHT.counts]
    assert (found.solutions[2].pit, found.solutions[2].no_pit) == (0, "no pit")  # 0.79 - 0 is not above 0.8


def test_a_spurious_step_is_one_at_the_threshold_too(tmp_path):
    trace = made_run.trace(ADA, ["a\n", "b\n"], True, (10, 4), (10, 7), (10, 4))
    (found,) = read(write_run(tmp_path, Built([], {}, [trace]), [ADA])).solutions
    assert found.spurious == [2]  # 0.4 - 0.7 is -0.29999999999999993


def test_searched_pits_have_counts_and_no_values(tmp_path):
    found = read(made(tmp_path, rollouts={"pit_error": 0.01, "steps": "line"}))
    wrong = found.solutions[2]
    assert (wrong.pit, wrong.values, wrong.counts) == (2, [], WRONG.counts)
    assert not any(solution.values or solution.spurious for solution in found.solutions)


def test_a_pair_hangs_on_all_solutions_that_go_through_its_pit(tmp_path):
    found = read(made(tmp_path))
    (shown,) = found.pairs
    assert (shown.chosen, shown.rejected, shown.steps, shown.context) == (0, [2, 3], 2, 0)
    assert shown.common == len("Ada gets 2.\n3 ")
    assert shown.logp == [-3.25, -7.5]


def test_pairs_of_complete_and_of_shared_responses(tmp_path):
    whole = pair(ADA, RIGHT, ENDLESS.response_ids)
    context = WRONG.ends[0]
    step = pair(ADA, RIGHT, WRONG.response_ids[: WRONG.ends[1]], shared=context)
    found = read(write_run(tmp_path, Built([whole, step], {}, [WRONG]), [ADA, BOB]))
    assert texts(found) == ["".join(["Ada gets 2.\n", "3 - 2 = 1\n", "So 1.\n", "#### 1"]), *texts(found)[1:]]
    first, second = found.pairs
    assert (first.chosen, first.rejected, first.steps, first.common) == (1, [2], 1, 0)
    assert (second.chosen, second.rejected, second.context) == (1, [0], len("Ada gets 2.\n"))
    assert [s.right for s in found.solutions] == [False, True, False]


def test_shared_beginnings_are_counted_as_a_browser_counts(tmp_path):
    one, two = (made_run.trace(ADA, [f"\U0001f600é{end}\n"], end == "a") for end in "ab")
    found = read(write_run(tmp_path, Built([pair(ADA, one, two.response_ids)], {}), [ADA]))
    assert found.pairs[0].common == 3  # the emoji is two units


def test_steps_are_cut_between_characters_however_tokens_lie(tmp_path):
    word = "né €\n\U0001f600"
    response = made_run.ids(word)
    split = replace(WRONG, response_ids=(*response, made_run.EOS), ends=(2, 6, len(response) + 1), counts=())
    (found,) = read(write_run(tmp_path, Built([], {}, [split]), [ADA])).solutions
    assert "".join(found.steps) == word
    assert found.steps == ["n", "é ", "€\n\U0001f600"]  # a character belongs to the token that completes it


def test_imitated_solutions_are_right_and_cut_into_steps(tmp_path):
    rows = [(Row(prompt(ADA), RIGHT.response_ids),), (Row(prompt(BOB), (*made_run.ids("a, b"), made_run.EOS)),)]
    found = read(write_run(tmp_path, Built(rows, {}), [ADA, BOB], rollouts={"steps": "comma"}))
    assert [s.steps for s in found.solutions] == [["Ada gets 2.\n3 + 2 = 5\n#### 5"], ["a,", " b"]]
    assert all(s.right and s.imitated and not s.values for s in found.solutions)
    assert [s.problem for s in found.solutions] == [0, 1]


def test_weights_are_those_of_the_steps(tmp_path):
    weights = tuple(
        0.25 if i < WRONG.ends[0] else float("inf") if i < WRONG.ends[1] else 1.0 for i in range(WRONG.ends[-1])
    )
    row = Row(prompt(ADA), WRONG.response_ids, weights=weights)
    (found,) = read(write_run(tmp_path, Built([(row,)], {}, [WRONG]), [ADA])).solutions
    assert found.weights == [0.25, None, 1.0, 1.0]
    assert (found.right, found.imitated) == (False, True)


def test_evaluations_come_with_their_questions_and_verdicts(tmp_path):
    found = read(made(tmp_path))
    assert found.parts == ["training data", "evaluation: test"]
    right, wrong, cut = found.solutions[6:]
    assert [s.right for s in (right, wrong, cut)] == [True, False, False]
    assert right.graded == {"extracted": "5", "rule": "exact", "samples": 3, "samples_correct": 2, "majority": True}
    assert (cut.graded["extracted"], cut.unfinished) == (None, True)
    assert found.problems[right.problem]["question"] == "How many?"
    assert wrong.steps == ["So 4.\n", "#### 4"]


def test_a_test_of_an_earlier_policy_is_named(tmp_path):
    run = made(tmp_path)
    (run / "evaluation" / "test.json").write_text(json.dumps({"settings": {"policy_fingerprint": "own"}}))
    for policy, notes in (
        ("own", []),
        ("new", ["the solutions of the test are another policy's than RUN/last; test the run again"]),
    ):
        (run / "last" / "stepneg.json").write_text(json.dumps({"fingerprint": policy}))
        assert read(run).notes == notes


def test_an_evaluation_alone_is_enough(tmp_path):
    file = made_run.write_evaluation(tmp_path, [made_run.evaluated("x", "#### 5", True, "5")], "evaluation")
    file.rename(tmp_path / "evaluation.jsonl")
    found = read(tmp_path)
    assert (found.parts, len(found.solutions), found.notes) == (["evaluation"], 1, [])


def test_runs_of_an_earlier_version_show_their_prompts(tmp_path):
    run = made(tmp_path)
    (run / "data" / f"{FILE}.problems.jsonl").unlink()
    file = run / "evaluation" / "test.jsonl"
    file.write_text(re.sub(r', "question": "[^"]*"', "", file.read_text()))
    found = read(run)
    assert found.problems[0] == {
        "id": "made/0", "question": f"{ADA.question}\n", "answer": None, "solution": None, "meta": {}
    }  # fmt: skip
    assert [p["question"] for p in found.problems[2:]] == ["", "", ""]
    (note,) = found.notes
    assert "an earlier version" in note


def test_the_newest_data_is_shown(tmp_path):
    run = made(tmp_path)
    older = write_run(tmp_path, Built([], {}, [WRONG]), [ADA], "aaaabbbbccccdddd") / "data" / "aaaabbbbccccdddd.jsonl"
    for file in older.parent.glob(f"{older.stem}*"):
        os.utime(file, (1, 1))
    found = read(run)
    assert len(found.solutions) == 9
    assert found.notes == ["data of other settings is left out: aaaabbbbccccdddd"]


def test_a_copy_shows_the_data_of_the_last_fit_whatever_the_dates_of_its_files(tmp_path):
    run = made(tmp_path)
    write_run(tmp_path, Built([], {}, [WRONG]), [ADA], "aaaabbbbccccdddd")
    settings = json.loads((run / "config.yaml").read_text())
    record = start("fit", ["fit"], settings, run) | {"exit": 0, "data": {f"data/{FILE}.jsonl": "mark"}}
    (run / "attempts").mkdir()
    (run / "attempts" / "0.json").write_text(json.dumps(record))
    for number, stem in enumerate((FILE, "aaaabbbbccccdddd")):
        for file in (run / "data").glob(f"{stem}*"):
            os.utime(file, (number, number))
    assert read(run).notes == ["data of other settings is left out: aaaabbbbccccdddd"]


def test_data_and_settings_are_of_the_same_fit(tmp_path):
    """Fits A, B, and A again, which was stopped: A's configuration is the last, B's are the policy and the data."""
    run, other = made(tmp_path), "aaaabbbbccccdddd"
    write_run(tmp_path, Built([], {}, [WRONG]), [ADA], other)
    records = [
        start("fit", ["fit"], {"data": {"class_path": "x.Pairs", "init_args": {"policy": "p", "k": k}}}, run)
        | {"training": "2026-01-01", "exit": 0, "data": {f"data/{stem}.jsonl": "mark"}}
        for k, stem in ((3, FILE), (5, other), (3, FILE))
    ]
    (run / "attempts").mkdir()
    left_out = [f"data of other settings is left out: {FILE}"]
    later = "a later fit has not ended well; shown is the data of the last that has"
    for attempts, k, notes in (
        ([records[0], records[1]], 5, left_out),
        ([records[0], records[1], records[2] | {"exit": 1}], 5, [*left_out, later]),
        ([records[0], records[1], records[2] | {"exit": 2, "training": None}], 5, left_out),  # refused
        ([records[0] | {"exit": 1}, records[1] | {"exit": 1}], 5, left_out),  # of those that never ended, the last
        ([], 1, left_out),  # of an earlier version: as the dates and config.yaml have it
    ):
        for file in (run / "attempts").iterdir():
            file.unlink()
        for number, attempt in enumerate(attempts):
            (run / "attempts" / f"{number}.json").write_text(json.dumps(attempt))
        for number, stem in enumerate((FILE, other)):
            for file in (run / "data").glob(f"{stem}*"):
                os.utime(file, (number, number))
        settings, found = read_solutions(run, 1000)
        assert (settings.k, found.notes) == (k, notes)


def test_long_texts_are_cut_and_say_so(tmp_path):
    row = made_run.evaluated("x", "1\n" * 500_000, False, "7" * 30_000)
    made_run.write_evaluation(tmp_path, [row])
    (found,) = read(tmp_path).solutions
    assert sum(map(len, found.steps)) < LONGEST + 100
    assert found.steps[-1].endswith("[980,000 more characters]")
    assert found.graded["extracted"].endswith("[10,000 more characters]")


def test_a_limit_is_said(tmp_path):
    found = read(made(tmp_path), limit=2)
    assert len(found.solutions) == 2 + 1 + 2  # the pair's rejected side is not among the first two traces
    assert f"{FILE}.traces.jsonl: 4 of 6 rows are left out; --limit 6 shows all" in found.notes
    assert "test.jsonl: 1 of 3 rows are left out; --limit 3 shows all" in found.notes


# --- damage

ROW = {"prompt_ids": [1], "response_ids": [2], "shared": 0, "weights": None, "reference_logp": None}
TRACE = json.loads(json.dumps(WRONG.__dict__))


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"null",
        b"[]",
        b"3",
        b'{"problem_id": "made/0"}',
        *(
            json.dumps(TRACE | change).encode()
            for change in [
                {"correct": "yes"},
                {"problem_id": ["made/0"]},
                {"response_ids": []},
                {"response_ids": [1, 2, -1], "ends": [3]},
                {"response_ids": [1, 2, 99_999], "ends": [3]},
                {"response_ids": [1, 2, 1.5], "ends": [3]},
                {"response_ids": "abc", "ends": [3]},
                {"prompt_ids": [True]},
                {"ends": [1, 2]},
                {"ends": ["1"]},
                {"counts": [[8, 9]]},
                {"counts": [[0, 0]]},
                {"counts": [[8.5, 1]]},
                {"counts": [[8, 4]] * 9},
                {"counts": [["8", "4"]]},
                {"counts": [[8, 4, 1]]},
                {"counts": 7},
            ]
        ),
    ],
    ids=lambda line: line[:60].decode(errors="replace"),
)
def test_a_damaged_trace_is_left_out_and_the_rest_is_shown(line, tmp_path):
    run = made(tmp_path)
    file = run / "data" / f"{FILE}.traces.jsonl"
    good = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([good[0], line, b"\n", *good[1:]]))
    found = read(run)
    assert texts(found) == texts(read(made(tmp_path / "whole")))
    assert found.notes == [f"{FILE}.traces.jsonl: 1 of 7 lines are damaged and left out, the first is 2"]
    json.dumps(contents("run", Settings(), found), allow_nan=False)


@pytest.mark.parametrize(
    "line",
    ["[]", "{}", "[{}]", "[3]", '"x"', "[null]"]
    + [
        json.dumps([ROW | change])
        for change in [
            {"response_ids": [9999]}, {"prompt_ids": None}, {"weights": 1}, {"weights": ["a"]}, {"reference_logp": "a"},
            {"weights": [[1]]}, {"shared": "a"}, {"shared": 1.5}, {"shared": -1}, {"shared": True},
        ]
    ],
)  # fmt: skip
def test_a_damaged_example_is_left_out(line, tmp_path):
    run = made(tmp_path)
    file = run / "data" / f"{FILE}.jsonl"
    file.write_text(f"{line}\n{file.read_text()}")
    found = read(run)
    assert (len(found.pairs), len(found.solutions)) == (1, 9)
    assert found.notes == [f"{FILE}.jsonl: 1 of 2 lines are damaged and left out, the first is 1"]


def test_damage_that_can_be_read_is_said(tmp_path):
    run = made(tmp_path)
    file = run / "data" / f"{FILE}.traces.jsonl"
    whole = file.read_text()
    file.write_text(whole.replace("[8, 0]", "[8, 1]", 1))
    assert file.read_text() != whole
    (note,) = read(run).notes
    assert note.startswith(f"{FILE}.jsonl: it or a file beside it is missing or was damaged")
    file.write_text(whole)
    assert read(run).notes == []
    values = run / "evaluation" / "test.json"
    rows = [json.loads(line) for line in values.with_suffix(".jsonl").read_text().splitlines()]
    write_evaluation(values, {"accuracy": 0.5}, rows)
    assert read(run).notes == []
    values.with_suffix(".jsonl").write_text("".join(json.dumps(row | {"correct": True}) + "\n" for row in rows))
    assert read(run).notes == [
        f"{values}: it or its .jsonl was changed or damaged since it was written; evaluate again"
    ]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_have_are_not_shown(value, tmp_path):
    run = made(tmp_path)
    file = run / "data" / f"{FILE}.jsonl"
    file.write_text(file.read_text().replace("-3.25", value))
    (run / "data" / f"{FILE}.json").write_text(f'{{"a": {value}, "b": 2}}')
    found = read(run)
    assert found.pairs[0].logp == [None, -7.5]
    assert found.facts == {"b": 2.0}


@pytest.mark.parametrize(
    "change",
    [{"greedy": None}, {"correct": 1}, {"answer": 5}, {"meta": None}, {"samples": None}, {"extracted": 5},
     {"rule": None}, {"problem_id": None}, {"question": 5}, {"samples_correct": None}, {"truncated": "no"}],
)  # fmt: skip
def test_a_damaged_evaluation_is_left_out(change, tmp_path):
    run = made(tmp_path)
    file = run / "evaluation" / "test.jsonl"
    first, *rest = file.read_text().splitlines()
    file.write_text("\n".join([json.dumps(json.loads(first) | change), *rest]))
    found = read(run)
    assert len(found.solutions) == 8
    assert found.notes == ["test.jsonl: 1 of 3 lines are damaged and left out, the first is 1"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "data: 1",
        "data: [",
        "\x00",
        "!!python/object/apply:os.system [exit]",
        "data: {class_path: a.B}",
        "data: &a {class_path: [*a]}",
        "data: {class_path: A, init_args: {policy: p, k: many}}",
        "data: {class_path: A, init_args: {policy: p, tolerance: .nan}}",
        "data: {class_path: A, init_args: {policy: p, rollouts: {steps: x}}}",
    ],
)
def test_a_damaged_configuration_is_said_and_does_without(text, tmp_path):
    run = made(tmp_path)
    (run / "config.yaml").write_text(text)
    found = read(run)
    (note,) = found.notes
    assert note.startswith("config.yaml cannot be read")
    assert found.solutions[2].pit == 2


def test_a_run_that_was_stopped_shows_the_traces_that_it_has(tmp_path):
    run = made(tmp_path)
    (run / "data" / f"{FILE}.jsonl").unlink()
    (run / "data" / f"{FILE}.json").write_text("{")
    found = read(run)
    assert len(found.solutions) == 9
    assert found.pairs == []
    assert [note.partition(":")[0] for note in found.notes] == [
        f"{FILE}.json, the facts of the data's making, cannot be read", f"{FILE}.jsonl is missing",
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["missing", "empty", "noise"])
def test_without_a_tokenizer_the_evaluation_is_left(damage, tmp_path):
    run = made(tmp_path)
    file = run / "last" / "tokenizer.json"
    if damage == "missing":
        file.unlink()
    else:
        file.write_text("" if damage == "empty" else '{"version": "1.0", "model": {"type": "BPE"}}')
    found = read(run)
    assert len(found.solutions) == 3
    (note,) = found.notes
    assert "neither" in note
    assert "holds a tokenizer" in note


def test_the_tokenizer_of_the_sampled_policy_will_do(tmp_path):
    run = made(tmp_path / "run", policy=str(tmp_path / "policy"))
    (run / "last").rename(tmp_path / "policy")
    assert len(read(run).solutions) == 9


def test_what_is_no_run_is_named(tmp_path, capsys):
    assert "no such directory" in refused(capsys, "traces", tmp_path / "none")
    file = tmp_path / "file"
    file.write_text("")
    assert "no such directory" in refused(capsys, "traces", file)
    (tmp_path / "empty").mkdir()
    assert "no run; give the directory of a fit" in refused(capsys, "traces", tmp_path / "empty")
    run = tmp_path / "runs" / "sft"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("data:\n")
    assert "its fit was stopped before it had made data" in refused(capsys, "traces", run)
    assert f"for example {run}" in refused(capsys, "traces", tmp_path / "runs")
    made_run.write_evaluation(run, [])
    assert "no solution can be read: its files are empty" in refused(capsys, "traces", run)
    assert "limit: is 0" in refused(capsys, "traces", made(tmp_path / "made"), "--limit=0")
    assert not list(tmp_path.rglob("traces.html*"))


# --- the page


def test_the_command_writes_a_page_and_says_what_it_holds(tmp_path, capsys):
    run = made(tmp_path / "run")
    main(["traces", str(run)])
    said = capsys.readouterr().out
    assert "9 solutions of 5 problems (3 right, 6 wrong), 5 of them with step values, 1 pair(s)" in said
    assert f"written to {run}/traces.html" in said
    html = (run / "traces.html").read_text()
    assert data_of(html)["solutions"][2] == {
        "problem": 0, "part": 0, "right": False, "steps": ["Ada gets 2.\n", "3 - 2 = 1\n", "So 1.\n", "#### 1"],
        "counts": [[8, 4], [8, 5], [8, 0]], "values": [0.5, 0.625, 0.0], "pit": 2,
    }  # fmt: skip
    assert not list(run.glob("*.partial"))
    elsewhere = tmp_path / "page.html"
    assert traces(run, elsewhere).endswith(f"written to {elsewhere}")
    assert elsewhere.read_text() == html


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    run = made(tmp_path)
    with pytest.raises(InputError, match="name another place with --output"):
        traces(run, run / "config.yaml" / "page.html")


def data_of(html: str) -> dict[str, object]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


@given(
    st.text(st.characters(codec=None))
    | st.sampled_from(["</script>", "<!--<script>", "]]>", "@@script@@", "\u2028\ud800"])
)
def test_any_text_is_embedded_whole_and_begins_no_tag(text):
    made = embedded({"text": text})
    assert json.loads(made) == {"text": text}
    assert made.isascii()
    assert "<" not in made
    assert made.isprintable()


def test_the_policy_of_the_page_names_its_own_style_and_script_alone():
    html = page({"run": "</script><script>alert(1)</script>"})
    assert html.count("<script") == html.count("</script>") == 2
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert f"script-src '{source_hash(SCRIPT.read_text())}'" in policy
    assert f"style-src '{source_hash(STYLE.read_text())}'" in policy
    assert policy.startswith("default-src 'none'")
    assert not re.search(
        r"""(src|href)=|url\(|@import|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(""", html
    )


def test_what_the_package_needs_is_shipped():
    text = Path("pyproject.toml").read_text()
    for file in (SCRIPT, STYLE, SCRIPT.with_suffix(".html")):
        assert f'"*{file.suffix}"' in text


def test_a_spurious_step_is_what_the_study_of_spurious_steps_calls_so():
    assert signature(spurious.spurious).parameters["threshold"].default == solutions.SPURIOUS
    assert spurious.ROUNDING == solutions.ROUNDING
