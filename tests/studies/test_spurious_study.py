"""Spurious steps: sets of solutions, injected steps, the detector and likelihoods, each held against a plain loop."""

import json
import random
import re
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from stepneg.credit.pairs import Trace
from stepneg.credit.steps import math_ends, split_steps
from stepneg.data.rollouts import Generated, Rollouts
from stepneg.data.rows import decode, encode_prompt, encode_response
from stepneg.errors import InputError
from stepneg.grading import grade
from stepneg.initialise import init
from stepneg.problems.arithmetic import Arithmetic
from stepneg.problems.jsonl import Jsonl
from stepneg.studies import spurious as study
from stepneg.studies.spurious import (
    CLEAN,
    INJECT,
    THRESHOLDS,
    Marked,
    build_sets,
    detection,
    gain,
    injected,
    least,
    likelihood,
    likelihood_table,
    plot,
    scores,
    step_log_probs,
    step_row,
    table,
    with_foreign_step,
    write_set,
)
from tests.sampling.fake import FakeEngine

EOS = 2


def valued(*passes: int, problem: str = "p", first: int = 5, correct: bool = True, n: int = 8) -> Trace:
    """A solution of two tokens a step; ``passes`` are the correct ones of ``n`` rollouts of its prefixes."""
    steps = len(passes) - 1
    ids = tuple(range(first, first + 2 * steps))
    return Trace(problem, (7, 8), ids, correct, tuple(range(2, 2 * steps + 1, 2)), tuple((n, c) for c in passes))


# --- marks


def test_the_least_advantageous_step_is_marked() -> None:
    marked = least(valued(4, 6, 1, 3, 8))
    assert (marked.step, gain(marked)) == (2, -5 / 8)
    assert least(valued(4, 2, 4, 2, 8)).step == 1  # of two the first
    assert least(valued(2, 4, 8)).step == 1  # the least gain
    assert gain(Marked(valued(4, 6, 1, 3, 8), 4)) == 5 / 8
    assert gain(Marked(valued(4, 6, 1, 3, 8), 1)) == 2 / 8


# --- a line of another solution


def test_a_foreign_line_comes_somewhere_before_the_last() -> None:
    own, other = "a = 1\nb = 2\n\n#### 3", "x = 1\ny = 2\n#### 9"
    inject = with_foreign_step({"own": own, "other": other})
    made = {inject("own", own, random.Random(seed)) for seed in range(60)}
    assert made == {(f"a = 1\n{foreign}\nb = 2\n#### 3", 2) for foreign in ("x = 1", "y = 2")} | {
        (f"a = 1\nb = 2\n{foreign}\n#### 3", 3) for foreign in ("x = 1", "y = 2")
    }
    assert inject("own", own, random.Random(1)) == inject("own", own, random.Random(1))
    assert {line for text, _ in made for line in text.splitlines()} >= {"x = 1", "y = 2"}


@given(
    own=st.lists(st.text("ab=1 ", min_size=0, max_size=5), min_size=1, max_size=5),
    others=st.lists(st.lists(st.text("xy=2", min_size=1, max_size=3), min_size=1, max_size=3), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
def test_a_foreign_step_is_one_line_more(own: list[str], others: list[list[str]], seed: int) -> None:
    made = with_foreign_step({str(i): "\n".join([*lines, "#### 9"]) for i, lines in enumerate(others)})(
        "own", "\n".join(own), random.Random(seed)
    )
    lines = [line for line in own if line.strip()]
    if len(lines) < 2:
        assert made is None
        return
    text, number = made
    changed = text.split("\n")
    assert 1 < number < len(changed)  # neither the first nor the last line
    assert any(changed[number - 1] in other for other in others)
    assert changed[: number - 1] + changed[number:] == lines


def test_a_solution_of_one_line_lends_none() -> None:
    assert with_foreign_step({"other": "#### 9"})("own", "a\n#### 3", random.Random(0)) is None
    assert with_foreign_step({"own": "x\n#### 9"})("own", "a\n#### 9", random.Random(0)) is None  # nobody else


def test_the_others_answer_is_never_lent() -> None:
    inject = with_foreign_step({"other": "x = 1\n#### 9\n"})
    assert all("9" not in inject("own", "a\nb\n#### 3", random.Random(seed))[0] for seed in range(20))


def test_a_foreign_sentence_goes_between_sentences() -> None:
    own = "The first side is $3.5$ long. The second one is four times as long. So the area is $\\boxed{49}$."
    other = "Let $x$ be the number of apples. Then twice that is eight apples. The answer is $\\boxed{4}$."
    inject = with_foreign_step({"own": own, "other": other}, "math")
    for seed in range(20):
        text, number = inject("own", own, random.Random(seed))
        bounds = (0, *math_ends(text))
        assert len(bounds) == 5
        assert text[bounds[number - 1] : bounds[number]].strip() in other
        assert text.replace(text[bounds[number - 1] : bounds[number]], "") == own
        assert number < 4


# --- sets


def test_a_set_has_one_solution_of_each_problem_that_has_both_kinds() -> None:
    clean, spurious, between = valued(4, 5, 8), valued(4, 1, 8, first=20), valued(4, 2, 8, first=40)
    alone = valued(4, 1, 8, problem="q")
    wrong = valued(8, 0, problem="r", correct=False)
    of_r = valued(4, 5, 8, problem="r")
    generated = Generated({}, valued=[spurious, clean, between, alone, of_r, wrong])
    found = build_sets(generated, -0.3, 0)
    assert found["clean"] == [clean]
    assert found["spurious"] == [spurious]
    assert len(found["random"]) == 1
    # Bad steps are put into a clean solution of every problem that has one.
    assert [t.problem_id for t in found["originals"]] == ["p", "r"]
    assert found["originals"] == [clean, of_r]
    drawn = {build_sets(generated, -0.3, seed)["random"][0].response_ids for seed in range(40)}
    assert drawn == {clean.response_ids, spurious.response_ids, between.response_ids}
    apart = build_sets(Generated({}, valued=[clean, alone]), -0.3, 0)
    assert apart == {"clean": [], "random": [], "spurious": [], "originals": [clean]}


@given(
    traces=st.lists(
        st.builds(
            lambda passes, problem, first, correct: valued(*passes, problem=problem, first=first, correct=correct),
            st.lists(st.integers(0, 8), min_size=2, max_size=5),
            st.sampled_from("pqr"),
            st.integers(5, 40),
            st.sampled_from([True, True, True, False]),
        ),
        max_size=12,
    ),
    threshold=st.sampled_from([-0.2, -0.5]),
    seed=st.integers(0, 5),
)
def test_sets_are_of_one_size_and_what_they_say(traces: list[Trace], threshold: float, seed: int) -> None:
    sets = build_sets(Generated({}, valued=traces), threshold, seed)
    kinds: dict[str, list[bool]] = {}
    for trace in traces:
        if trace.correct:
            worst = min(b - a for (_, a), (_, b) in zip(trace.counts, trace.counts[1:], strict=False)) / 8
            kinds.setdefault(trace.problem_id, []).append(worst)
    both = [name for name, of in kinds.items() if any(w >= CLEAN for w in of) and any(w <= threshold for w in of)]
    assert [trace.problem_id for trace in sets["originals"]] == [n for n, of in kinds.items() if max(of) >= CLEAN]
    for name in ("clean", "random", "spurious"):
        assert [trace.problem_id for trace in sets[name]] == both
    assert all(trace.correct and trace in traces for found in sets.values() for trace in found)
    assert all(gain(least(trace)) >= CLEAN for trace in sets["clean"] + sets["originals"])
    assert all(gain(least(trace)) <= threshold for trace in sets["spurious"])
    assert sets == build_sets(Generated({}, valued=traces), threshold, seed)


@pytest.mark.parametrize(("fall", "kind"), [(3, "spurious"), (round(-10 * CLEAN), "clean")])
def test_a_fall_to_the_threshold_counts_wherever_it_begins(fall: int, kind: str) -> None:
    """3 of 10 rollouts lost are spurious at -0.3, and 2 of 10 are clean, from 10 to 8 as from 8 to 6."""
    other = valued(5, 10, first=50, n=10) if kind == "spurious" else valued(5, 0, 10, first=50, n=10)
    for before in range(fall, 11):
        trace = valued(before, before - fall, 10, n=10)
        assert build_sets(Generated({}, valued=[other, trace]), -0.3, 0)[kind] == [trace]


# --- injected steps


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny)


PROBLEMS = Arithmetic(size=40, max_distractors=3).load()


def traces_of(tokenizer: PreTrainedTokenizerBase, texts: dict[str, str]) -> list[Trace]:
    prompts = {p.id: encode_prompt(tokenizer, "{question}\n", p.question) for p in PROBLEMS}
    made = []
    for name, text in texts.items():
        ids = encode_response(tokenizer, text)
        ends = tuple(split_steps(ids, partial(decode, tokenizer)))
        made.append(Trace(name, prompts[name], ids, True, ends, ((8, 4), *((8, 8) for _ in ends))))
    return made


@pytest.mark.parametrize("kind", ["arithmetic", "foreign"])
def test_the_marked_step_is_the_injected_one(kind: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    solutions = {p.id: p.solution for p in PROBLEMS}
    answers = {p.id: p.answer for p in PROBLEMS}
    traces = traces_of(tokenizer, solutions)
    inject = INJECT[kind]({"other": "x = 1\n#### 9"}, "line")
    rollouts = Rollouts(engine=FakeEngine(), store=tmp_path)
    found = injected(traces, inject, rollouts, tokenizer, 0)
    assert found == injected(traces[::-1], inject, rollouts, tokenizer, 0)[::-1]
    assert len(found) == (len(PROBLEMS) if kind == "foreign" else len({m.trace.problem_id for m in found}))
    assert len(found) >= 10
    for marked in found:
        trace = marked.trace
        row = step_row("injected", marked)
        text, step = (decode(tokenizer, ids) for ids in (trace.response_ids, row["step"]))
        assert text != solutions[trace.problem_id]
        assert step.strip() not in solutions[trace.problem_id].splitlines()
        assert step == "x = 1\n" if kind == "foreign" else re.search(r": (add|take)\.\n$", step)
        assert trace.response_ids[-1] == tokenizer.eos_token_id
        assert trace.counts == ((8, 4),)  # of the bare problem; nothing else is known of the new text
        assert len(trace.ends) == len(text.splitlines())
        assert (
            tuple(row["context"])
            == trace.prompt_ids + trace.response_ids[: len(row["context"]) - len(trace.prompt_ids)]
        )
        assert grade(text, answers[trace.problem_id], "gsm8k").correct
    other = injected(traces, inject, rollouts, tokenizer, 1)
    assert [m.trace.response_ids for m in other] != [m.trace.response_ids for m in found]


def test_blank_lines_do_not_move_the_mark(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    (trace,) = traces_of(
        tokenizer, {PROBLEMS[0].id: "Mia finds 5: add.\n\n12 + 5 = 17\n\nMia admires 3: skip.\n\n#### 17"}
    )
    rollouts = Rollouts(engine=FakeEngine(), store=tmp_path)
    (marked,) = injected([trace], INJECT["arithmetic"]({}, "line"), rollouts, tokenizer, 0)
    assert marked.step == 3
    assert decode(tokenizer, step_row("injected", marked)["step"]).startswith("Mia admires 3: ")


# --- the detector

items = st.lists(
    st.lists(st.integers(0, 8), min_size=2, max_size=6).flatmap(
        lambda passes: st.builds(Marked, st.just(valued(*passes)), st.integers(1, len(passes) - 1))
    ),
    min_size=1,
    max_size=6,
)


def plain_scores(found: list[Marked], skip_next: bool) -> list[tuple[float, bool]]:
    """(advantage, whether marked) of each step, in eighths."""
    rows = []
    for marked in found:
        passes = [c for _, c in marked.trace.counts]
        for step in range(1, len(passes)):
            if not (skip_next and step - marked.step == 1):
                rows.append(((passes[step] - passes[step - 1]) / 8, step == marked.step))
    return rows


@given(items, st.booleans())
def test_scores_are_the_falls(found: list[Marked], skip_next: bool) -> None:
    values, labels = scores(found, skip_next)
    assert list(zip((-values).tolist(), labels.tolist(), strict=True)) == plain_scores(found, skip_next)


@given(items, st.booleans())
def test_precision_recall_and_area_by_counting(found: list[Marked], skip_next: bool) -> None:
    rows = plain_scores(found, skip_next)
    marked, others = ([a for a, label in rows if label is wanted] for wanted in (True, False))
    assume(others)
    # The area is the chance that a marked step scores above another one, a tie counting half.
    above = sum((m < o) + (m == o) / 2 for m in marked for o in others) / (len(marked) * len(others))
    result = detection(found, skip_next)
    assert [row["threshold"] for row in result] == list(THRESHOLDS)
    for row in result:
        flagged = [label for a, label in rows if a <= row["threshold"]]
        assert row["steps"] == len(rows)
        assert row["marked"] == len(marked) == len(found)
        assert row["precision"] == pytest.approx(sum(flagged) / max(len(flagged), 1))
        assert row["recall"] == pytest.approx(sum(flagged) / len(marked))
        assert row["area"] == pytest.approx(above, abs=1e-6)


def test_a_perfect_and_a_blind_detector() -> None:
    sharp = [Marked(valued(8, 0, 8, 8), 1), Marked(valued(8, 8, 2, 8), 2)]
    assert detection(sharp, False)[-1] == {
        "threshold": -0.5, "steps": 6, "marked": 2, "precision": 1.0, "recall": 1.0, "area": 1.0
    }  # fmt: skip
    blind = [Marked(valued(8, 8, 8), 1), Marked(valued(8, 8, 8), 2)]
    assert detection(blind, False)[0] == {
        "threshold": -0.1, "steps": 4, "marked": 2, "precision": 0.0, "recall": 0.0, "area": 0.5
    }  # fmt: skip


def test_the_step_that_carries_the_bad_one_out_may_be_left_out() -> None:
    item = Marked(valued(8, 6, 2, 8), 1)
    assert scores([item], True)[1].tolist() == [1, 0]
    assert scores([item], True)[0].tolist() == [0.25, -0.75]
    assert scores([Marked(valued(8, 6, 2, 8), 3)], True)[0].tolist() == [0.25, 0.5, -0.75]  # nothing behind it


def test_the_curves_end_in_the_corners() -> None:
    left, right = plot(*scores([Marked(valued(8, 2, 8), 1), Marked(valued(8, 7, 3, 8), 1)], False)).axes
    false, true = left.lines[0].get_data()
    assert (float(false[0]), float(true[0]), float(false[-1]), float(true[-1])) == (0, 0, 1, 1)
    recall, precision = right.lines[0].get_data()
    assert float(max(recall)) == 1
    assert float(min(precision)) >= 2 / 5 - 1e-6  # all five steps flagged


# --- tables and files


def test_the_tables_say_what_was_found() -> None:
    frame = pd.DataFrame(
        [
            {"threshold": t, "steps": 50, "marked": 9, "precision": p, "recall": r, "area": 0.8765}
            for t, p, r in ((-0.1, 0.5, 1.0), (-0.5, 0.875, 1 / 3))
        ]
    ).assign(solutions=12, correct_valued=40, correct_with_spurious_step=7)
    *rows, blank, words = table(frame).splitlines()
    assert rows[2:] == ["| -0.1 | 50.0 % | 100.0 % |", "| -0.5 | 87.5 % | 33.3 % |"]
    assert not blank
    assert words == (
        "9 injected steps among 50; area under the ROC curve 0.876."
        " 7 of 40 valued correct solutions have a spurious step of their own; 12 problems have a clean and a spurious"
        " one."
    )


def test_over_seeds_shares_are_means_and_numbers_sums() -> None:
    one = [
        {"threshold": t, "steps": 900, "marked": 9, "precision": p, "recall": 0.5, "area": 0.75}
        | {"solutions": 12, "correct_valued": 800, "correct_with_spurious_step": 7}
        for t, p in ((-0.1, 0.5), (-0.5, 0.8))
    ]
    two = [row | {"marked": 5, "precision": row["precision"] + 0.1, "recall": 1.0, "area": 0.8125} for row in one]
    *rows, _, words = table(pd.DataFrame(one + two)).splitlines()
    assert rows[2:] == ["| -0.1 | 55.0 % | 75.0 % |", "| -0.5 | 85.0 % | 75.0 % |"]
    assert words.startswith("14 injected steps among 1,800; area under the ROC curve 0.750 0.812. 14 of 1,600 valued")
    assert words.endswith(" 24 problems have a clean and a spurious one.")


def test_likelihoods_are_held_against_the_first_policy() -> None:
    logps = {("sft", "injected"): -4.0, ("sft", "selected"): -1.0, ("rft", "injected"): -2.5, ("a", "selected"): -1.5}
    logps |= {("rft", "selected"): -1.25, ("a", "injected"): -6.0}
    order = [(policy, kind) for policy in ("sft", "rft", "a") for kind in ("selected", "injected")]
    frame = pd.DataFrame([{"policy": p, "kind": k, "steps": 3, "logp": logps[p, k]} for p, k in order])
    assert likelihood_table(frame).splitlines() == [
        "| policy | selected steps: log-probability | injected steps: log-probability |",
        "|---|---:|---:|",
        "| sft | -1.00 (+0.00) | -4.00 (+0.00) |",
        "| rft | -1.25 (-0.25) | -2.50 (+1.50) |",
        "| a | -1.50 (-0.50) | -6.00 (-2.00) |",
    ]
    again = frame.assign(logp=frame["logp"] - 1.0)
    assert likelihood_table(pd.concat([frame, again])).splitlines()[3] == "| rft | -1.75 (-0.25) | -3.00 (+1.50) |"


def test_a_set_can_be_trained_on(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """What is written is read back as problems with worked solutions, the text as it was sampled."""
    texts = {p.id: p.solution for p in PROBLEMS[:3]}
    file = tmp_path / "clean.jsonl"
    write_set(file, traces_of(tokenizer, texts), {p.id: p for p in PROBLEMS}, tokenizer)
    read = Jsonl(file, solution_key="solution").load()
    assert [(p.question, p.answer, p.solution) for p in read] == [
        (p.question, p.answer, p.solution) for p in PROBLEMS[:3]
    ]


def test_a_step_row_is_the_context_and_the_step() -> None:
    trace = valued(4, 6, 1, 8)
    assert step_row("injected", Marked(trace, 1)) == {"kind": "injected", "context": [7, 8], "step": [5, 6]}
    assert step_row("selected", Marked(trace, 3)) == {
        "kind": "selected", "context": [7, 8, 5, 6, 7, 8], "step": [9, 10]
    }  # fmt: skip


# --- likelihood


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Models as small as these are many times slower on two threads where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def steps_to_score(count: int) -> list[dict[str, object]]:
    """Contexts and steps of all lengths, in no order of length."""
    rng = random.Random(0)
    return [
        {
            "kind": "injected" if i % 2 else "selected",
            "context": [rng.randrange(3, 300) for _ in range(rng.randint(1, 30))],
            "step": [rng.randrange(3, 300) for _ in range(rng.randint(1, 8))],
        }
        for i in range(count)
    ]


@cache
def model_of(policy: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32).eval()


@torch.no_grad()
def token_by_token(policy: Path, item: dict[str, object]) -> float:
    """The log-probability of a step, a forward pass a token, nothing padded."""
    model = model_of(policy)
    seen, total = list(item["context"]), 0.0
    for token in item["step"]:
        total += float(torch.log_softmax(model(torch.tensor([seen])).logits[0, -1], -1)[token])
        seen.append(token)
    return total


@pytest.mark.usefixtures("one_thread")
def test_the_log_probability_of_a_step_is_that_of_its_tokens(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = steps_to_score(7)
    expected = [token_by_token(tiny, row) for row in rows]
    assert step_log_probs(tiny, rows) == pytest.approx(expected, rel=1e-4)
    monkeypatch.setattr(study, "BATCH", 3)
    assert step_log_probs(tiny, rows) == pytest.approx(expected, rel=1e-4)


@pytest.mark.usefixtures("one_thread")
def test_likelihood_compares_policies_on_the_same_steps(tmp_path: Path, tiny: Path) -> None:
    other = tmp_path / "other"
    init(other, Arithmetic(size=200), vocabulary=900, hidden_size=64, layers=1, context=256, seed=1)
    rows = steps_to_score(5)
    file = tmp_path / "steps.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = likelihood(tmp_path / "run", file, {"tiny": tiny, "other": other})
    frame = pd.read_csv(tmp_path / "run" / "likelihood.csv")
    assert frame[["policy", "kind", "steps"]].to_numpy().tolist() == [
        ["tiny", "selected", 3], ["tiny", "injected", 2], ["other", "selected", 3], ["other", "injected", 2]
    ]  # fmt: skip
    for row in frame.to_dict("records"):
        policy = {"tiny": tiny, "other": other}[row["policy"]]
        of = [token_by_token(policy, item) for item in rows if item["kind"] == row["kind"]]
        assert row["logp"] == pytest.approx(sum(of) / len(of), rel=1e-4)
    assert text == likelihood_table(frame)
    assert (tmp_path / "run" / "likelihood.md").read_text() == text + "\n"


@pytest.mark.parametrize(
    "row",
    [
        {}, {"kind": "x", "context": [1], "step": "ab"}, {"kind": "x", "context": [], "step": [1]},
        {"kind": 5, "context": [1], "step": [1]}, {"kind": "x", "context": [-1], "step": [1]},
        {"kind": "x", "context": [1.5], "step": [1]}, {"kind": "x", "context": [True], "step": [1]},
    ],
    ids=str,
)  # fmt: skip
def test_a_row_that_marks_no_step_is_named(row: dict[str, object], tmp_path: Path) -> None:
    good = {"kind": "x", "context": [1], "step": [2]}
    (tmp_path / "steps.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    with pytest.raises(InputError, match=r"steps\.jsonl, line 2: "):
        likelihood(tmp_path, tmp_path / "steps.jsonl", {})
