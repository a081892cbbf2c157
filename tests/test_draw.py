"""Shares of problems, what is drawn for which run, and chains as jobs of a cluster."""

import json
import random
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepneg.chains import pipeline_verb
from stepneg.cli import main
from stepneg.draw import share_of
from stepneg.errors import InputError
from stepneg.jobs import jobs_of, lines, submissions
from stepneg.pipeline import OUTPUTS, Stage, arguments, cells, pipeline, run_name, runs, selected, stage_fingerprint
from stepneg.problems import Problem
from stepneg.sampling.engine import Completion, Decoding, Request
from stepneg.sampling.store import rows_of
from stepneg.sampling.vllm_engine import VLLMEngine

QUESTIONS = st.lists(st.text(max_size=3), max_size=60)


def problems(questions: list[str]) -> list[Problem]:
    return [Problem(id=str(i), question=question, answer="1") for i, question in enumerate(questions)]


@given(QUESTIONS, st.integers(1, 12), st.randoms())
def test_shares_are_disjoint_complete_even_and_independent_of_order(
    questions: list[str], parts: int, order: random.Random
) -> None:
    every = problems(questions)
    shares = [share_of(every, f"{n}/{parts}") for n in range(1, parts + 1)]
    assert sorted((p for share in shares for p in share), key=lambda p: int(p.id)) == every
    asked = [{p.question for p in share} for share in shares]
    assert sum(map(len, asked)) == len(set(questions))  # problems of one question stay together
    assert max(map(len, asked)) - min(map(len, asked)) <= 1
    shuffled = order.sample(every, len(every))
    assert [{p.id for p in share_of(shuffled, f"{n}/{parts}")} for n in range(1, parts + 1)] == [
        {p.id for p in share} for share in shares
    ]


def test_a_share_keeps_the_order_of_its_problems() -> None:
    every = problems([f"q{i}" for i in range(50)])
    assert share_of(every, "1/1") == every
    assert [int(p.id) for p in share_of(every, "2/3")] == sorted(int(p.id) for p in share_of(every, "2/3"))


def test_no_share_is_one_clear_line() -> None:
    with pytest.raises(InputError, match="'0/3' is not one of 1/N"):
        share_of(problems(["a"]), "0/3")


# --- which runs

STAGES = [
    Stage("base", [], {"model.path": "assets/base"}, ["test"]),
    Stage("sft", ["a.yaml"]),
    Stage("dpo", ["a.yaml"], {"data.policy": "{root}/sft/last"}),
    Stage("step_dpo", ["a.yaml"], {"data.policy": "{root}/sft/last"}),
    Stage("look", [], {"policies": {"dpo": "{root}/dpo/last", "seen": "{root}/sft/evaluation/test.jsonl"}}, ["credit"]),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.yaml").write_text("{}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("only", "names", "draw"),
    [
        ("sft:fit", ["r/seed-0/sft:fit", "r/seed-1/sft:fit"], None),
        ("seed-1/sft:fit", ["r/seed-1/sft:fit"], None),
        ("r/seed-1/sft:fit", ["r/seed-1/sft:fit"], None),
        ("dpo:fit", ["r/seed-0/dpo:fit", "r/seed-1/dpo:fit"], None),  # and not step_dpo
        ("look:credit", ["r/seed-0/look:credit", "r/seed-1/look:credit"], None),
        ("seed-0/step_dpo:solutions", ["r/seed-0/step_dpo:fit"], "solutions"),
        ("seed-0/step_dpo:values", ["r/seed-0/step_dpo:fit"], "values"),
        ("seed-0/base:evaluation", ["r/seed-0/base:test"], "evaluation"),
    ],
)
def test_a_selector_names_runs_or_what_is_drawn_for_them(only: str, names: list[str], draw: str | None) -> None:
    found, what = selected(runs(STAGES, cells(Path("r"), [0, 1])), only)
    assert ([run_name(*run) for run in found], what) == (names, draw)


@pytest.mark.parametrize("only", ["sft", "rft:fit", "base:fit", "base:values", "seed-2/sft:fit", "", ":fit", "t:fit"])
def test_a_selector_of_nothing_is_one_clear_line(only: str) -> None:
    with pytest.raises(InputError, match="its runs are base:test, sft:fit, sft:test, dpo:fit") as error:
        selected(runs(STAGES, cells(Path("r"), [0, 1])), only)
    assert "\n" not in str(error.value)


def test_only_what_is_selected_runs_and_a_done_run_draws_nothing(folder: Path) -> None:
    ran: list[list[str]] = []

    def run(argv: list[str]) -> None:
        ran.append(argv)
        output = folder / "run/seed-0/sft" / OUTPUTS.get(argv[0], "draw")  # type: ignore[call-overload]
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("{}")

    repeat = cells(folder / "run", [0])
    given_to_fit = arguments(STAGES[1], "fit", repeat[0], folder)[1:-1]  # without the checkpoint
    for only in ("sft:solutions", "sft:fit", "sft:values", "sft:fit"):
        pipeline(run, folder, STAGES, repeat, only, "2/3", 4)
    assert [argv[:2] for argv in ran] == [["draw", "solutions"], ["fit", "--config"]]
    assert ran[0][2:4] == ["--part=2/3", "--tensor_parallel_size=4"]
    assert ran[0][4:] == given_to_fit
    assert not any("tensor_parallel_size" in word for word in ran[1])
    assert not (folder / "run/seed-0/sft/solutions.json").exists()


@pytest.mark.parametrize("launcher", ["SLURM_PROCID", "RANK"])  # srun's and torchrun's
@pytest.mark.parametrize(("rank", "record"), [("0", True), ("3", False)])
def test_the_first_of_several_processes_keeps_the_books(
    folder: Path, launcher: str, rank: str, record: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    repeat = cells(folder / "run", [0])
    home = folder / "run/seed-0/sft"
    if rank != "0":  # what the first has done by then
        home.mkdir(parents=True)
        (home / "fit.started").write_text(stage_fingerprint(arguments(STAGES[1], "fit", repeat[0], folder)))
    monkeypatch.setenv(launcher, rank)
    pipeline(lambda argv: None, folder, STAGES, repeat, "sft:fit")
    assert (home / "fit.json").exists() == record


# --- jobs


def draws(job: Any) -> tuple[Any, ...]:
    if job.verb == "test":
        return (("evaluation", job.stage.name),)
    drawn = (("solutions", "of sft"), ("values", "of sft"))
    return drawn if job.verb == "fit" and "dpo" in job.stage.name else ()


def test_a_chain_as_jobs(folder: Path) -> None:
    found = submissions(jobs_of(folder, STAGES, cells(Path("r"), [7])), draws)
    assert lines(found).replace("r/seed-7/", "").split("\n") == [
        "base:evaluation evaluate array",
        "base:test evaluate single base:evaluation",
        "sft:fit fit single",
        "sft:evaluation evaluate array sft:fit",
        "sft:test evaluate single sft:evaluation",
        "dpo:solutions sample array sft:fit",
        "dpo:values values array dpo:solutions",
        "dpo:fit fit single dpo:values",
        "dpo:evaluation evaluate array sft:fit dpo:fit",
        "dpo:test evaluate single dpo:evaluation",
        "step_dpo:solutions sample array sft:fit dpo:values",
        "step_dpo:values values array step_dpo:solutions",
        "step_dpo:fit fit single step_dpo:values",
        "step_dpo:evaluation evaluate array sft:fit step_dpo:fit",
        "step_dpo:test evaluate single step_dpo:evaluation",
        "look:credit evaluate single sft:test dpo:fit",
    ]


def test_what_is_done_needs_no_job(folder: Path) -> None:
    """Nor does a test that is still to be run hold up what only needs the policy."""
    repeat = cells(folder / "run", [0])
    home = repeat[0].home / "sft"
    (home / "last").mkdir(parents=True)
    (home / "last" / "config.json").write_text("{}")
    mark = stage_fingerprint(arguments(STAGES[1], "fit", repeat[0], folder))
    (home / "fit.json").write_text(json.dumps({"fingerprint": mark}))
    jobs = {job.name.split("/")[-1]: job for job in jobs_of(folder, STAGES, repeat)}
    assert [name for name, job in jobs.items() if job.done] == ["sft:fit"]
    assert jobs["dpo:fit"].after == jobs["sft:test"].after == ()
    assert "sft:fit" not in {s.name.split("/")[-1] for s in submissions(list(jobs.values()), draws)}


def test_the_shipped_chain_as_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["pipeline", "--config", "configs/arithmetic/pipeline.yaml", "--root", str(tmp_path / "r"), "--seeds", "[3]"]
    main([*argv, "--jobs"])
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {(words[0].split("/")[-1], words[1]) for words in said} >= {
        ("rft:solutions", "sample"), ("step_dpo:values", "values"), ("sft:fit", "fit"), ("base:evaluation", "evaluate"),
    }  # fmt: skip
    assert not any(words[0].endswith(("sft:solutions", "rft:values", "/dpo:values")) for words in said)
    arrays = [[word.split("/")[-1] for word in words] for words in said if words[1] in ("sample", "values")]
    assert [(words[0], words[3:]) for words in arrays] == [  # all of them sample the one policy
        ("rft:solutions", ["sft:fit"]),
        ("dpo:solutions", ["sft:fit", "rft:solutions"]),
        ("advantage:solutions", ["sft:fit", "dpo:solutions"]),
        ("advantage:values", ["advantage:solutions"]),
        ("step_dpo:solutions", ["sft:fit", "advantage:values"]),
        ("step_dpo:values", ["step_dpo:solutions"]),
    ]
    evaluations = [words for words in said if words[1] == "evaluate" and words[2] == "array"]
    assert not any(name.endswith(":evaluation") for words in evaluations for name in words[3:])  # of a policy each
    assert not (tmp_path / "r").exists()


SHIPPED = ["pipeline", "--config", "configs/arithmetic/pipeline.yaml"]


@pytest.mark.parametrize("what", ["--dry_run", "--jobs"])
@pytest.mark.parametrize("only", ["nope", "seed-1/sft:fit", "base:solutions"])
def test_what_is_told_of_a_run_that_there_is_not_is_one_clear_line(
    what: str, only: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*SHIPPED, what, "--only", only])
    assert stop.value.code == 2
    assert f"only: the chain has no run {only!r}; its runs are base:test, sft:fit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("only", "more"),
    [
        ("seed-0/sft:fit", []),
        ("sft:test", []),
        ("rft:solutions", ["--part=2/3"]),
        ("base:evaluation", ["--part=1/2", "--tensor_parallel_size=4"]),
    ],
)
def test_a_dry_run_of_one_job_says_what_it_would_run(
    only: str, more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*SHIPPED[1:], "--only", only, "--seeds", "[0,1]", f"--root={tmp_path}/r", *more]
    main(["pipeline", *argv, "--dry_run"])
    said = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    ran: list[list[str]] = []
    pipeline_verb(lambda words, summary: ran.append(["stepneg", *words]), argv)
    assert said == ran
    assert len(said) == (1 if "seed-0" in only else 2)


def test_the_order_of_arrays_of_one_policy_holds_among_those_that_are_listed(folder: Path) -> None:
    jobs = jobs_of(folder, STAGES, cells(Path("r"), [7]))
    names = {f"r/seed-7/{stage}:{what}" for stage in ("dpo", "step_dpo") for what in ("solutions", "fit")}
    assert lines(submissions(jobs, draws, names)).replace("r/seed-7/", "").split("\n") == [
        "dpo:solutions sample array",
        "dpo:fit fit single dpo:solutions",
        "step_dpo:solutions sample array dpo:solutions",
        "step_dpo:fit fit single step_dpo:solutions",
    ]


def test_arrays_of_two_cells_that_sample_one_policy_keep_their_order(folder: Path) -> None:
    jobs = jobs_of(folder, STAGES, cells(Path("r"), [0, 1]))
    assert lines(submissions(jobs, draws, {f"r/seed-{n}/dpo:solutions" for n in (0, 1)})).split("\n") == [
        "r/seed-0/dpo:solutions sample array",
        "r/seed-1/dpo:solutions sample array r/seed-0/dpo:solutions",
    ]


def test_jobs_of_one_selector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it waits for is only named where it is listed, as the script that submits looks it up."""
    for only, script in (("step_dpo:values", "values"), ("seed-1/dpo:test", "evaluate")):
        main([*SHIPPED, "--jobs", "--only", only, "--seeds", "[0,1]", f"--root={tmp_path}/r"])
        said = [line.split() for line in capsys.readouterr().out.splitlines()]
        seeds = [1] if "seed-1" in only else [0, 1]
        assert [words[0] for words in said] == [f"{tmp_path}/r/seed-{n}/{only.split('/')[-1]}" for n in seeds]
        assert all(words[1:] == [script, "array" if script == "values" else "single"] for words in said)


def test_a_dry_run_refuses_a_share_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*SHIPPED, "--dry_run", "--only", "rft:solutions", "--part", "4/3"])
    assert "'4/3' is not one of 1/N" in capsys.readouterr().err


# --- the verb


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "'' is none of solutions, values, evaluation"),
        (["pairs"], "'pairs' is none of solutions, values, evaluation"),
        (["values", "--config", "configs/arithmetic/rft.yaml"], "draws solutions, no values"),
        (["solutions", "--config", "configs/arithmetic/sft.yaml"], "draws nothing, no solutions"),
        (["solutions", "--config", "configs/arithmetic/rft.yaml", "--part", "9/8"], "'9/8' is not one of 1/N"),
        (["solutions", "--config", "configs/arithmetic/rft.yaml", "--data.rollouts.smples", "4"], "smples"),
        (["solutions", "--tensor_parallel_size", "0"], "--tensor_parallel_size is '0', not a number of GPUs"),
        (["solutions", "--tensor_parallel_size=two"], "--tensor_parallel_size is 'two', not a number of GPUs"),
    ],
)
def test_a_draw_of_nothing_is_one_clear_line(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["draw", *argv])
    assert stop.value.code == 2
    (line,) = (s for s in capsys.readouterr().err.splitlines() if s.startswith("stepneg: error: "))
    assert said in line


@pytest.mark.parametrize("what", ["solutions", "evaluation"])
def test_gpus_of_a_draw_change_its_engine_and_no_sample(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines: set[tuple[int, str | None]] = set()

    def generate(
        engine: VLLMEngine, requests: Sequence[Request], decoding: Decoding
    ) -> Iterator[tuple[int, list[Completion]]]:
        engines.add((engine.tensor_parallel_size, engine.devices))
        for index, request in enumerate(requests):
            yield index, [Completion((request.seed % 90 + 3,), -1.0, "stop")] * request.n

    monkeypatch.setattr(VLLMEngine, "load", lambda engine, policy: None)
    monkeypatch.setattr(VLLMEngine, "generate", generate)
    argv = ["draw", what, "--config", "configs/arithmetic/rft.yaml", "--data.policy=assets/arithmetic-base"]
    argv += ["--model.path=assets/arithmetic-base", "--data.problems.init_args.size=3"]
    argv += ["--trainer.callbacks.init_args.test.init_args.size=3"]
    argv += ["--data.rollouts.engine.devices=7", "--trainer.callbacks.init_args.engine.devices=7"]  # of a fit's job
    for gpus in ("1", "4"):
        store = tmp_path / gpus
        stores = [f"--data.rollouts.store={store}", f"--trainer.callbacks.init_args.store={store}"]
        main([*argv, *stores, f"--tensor_parallel_size={gpus}"])
    assert engines == {(1, None), (4, None)}
    drawn = [sorted(row["token_ids"] for f in (tmp_path / n).glob("*/*.jsonl") for row in rows_of(f)) for n in "14"]
    assert drawn[0] == drawn[1]
    assert [p.name for p in sorted((tmp_path / "1").iterdir())] == [p.name for p in sorted((tmp_path / "4").iterdir())]
