"""Chains without training: command lines, what is run again and what is not."""

import json
import os
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from stepneg import __version__
from stepneg.chains import chain_parser, folder_of, stages_of
from stepneg.cli import main
from stepneg.errors import InputError
from stepneg.fingerprint import fingerprint, fingerprint_policy
from stepneg.pipeline import OUTPUTS, Cell, Stage, Verb, arguments, cells, dry_run, pipeline, stage_fingerprint

# --- command lines

CELL = Cell(Path("runs/s/size-25/seed-3"), 3, 25)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("{}\n")
    return tmp_path


def test_the_command_line_of_a_fit_and_its_test(folder: Path) -> None:
    args = {
        "data.policy": "{root}/base/last",
        "data.problems.init_args.size": "{8*size}",
        "trainer.max_epochs": 3,
        "model.warmup": 0.5,
        "trainer.enable_progress_bar": False,
        "model.path": None,
        "seeds": [1, 2],
        "data.problems": {"class_path": "X", "init_args": {"size": "{size}"}},
    }
    stage = Stage("sft", ["a.yaml", "b.yaml"], args)
    given_args = [
        "--data.policy=runs/s/size-25/seed-3/base/last",
        "--data.problems.init_args.size=200",
        "--trainer.max_epochs=3",
        "--model.warmup=0.5",
        "--trainer.enable_progress_bar=false",
        "--model.path=null",
        "--seeds=[1, 2]",
        '--data.problems={"class_path": "X", "init_args": {"size": "25"}}',
    ]
    common = [
        "--config",
        str(folder / "a.yaml"),
        "--config",
        str(folder / "b.yaml"),
        "--trainer.default_root_dir=runs/s/size-25/seed-3/sft",
        "--seed_everything=3",
        "--data.seed=3",
        *given_args,
    ]
    assert arguments(stage, "fit", CELL, folder) == ["fit", *common, "--ckpt_path=last"]
    path = "--model.path=runs/s/size-25/seed-3/sft/last"  # behind the stage's own, so that it is the one that counts
    assert arguments(stage, "test", CELL, folder) == ["test", *common, path]


def test_a_policy_as_it_is_is_tested_where_it_is(folder: Path) -> None:
    stage = Stage("base", [], {"model.path": "assets/base"}, ["test"])
    argv = arguments(stage, "test", CELL, folder)
    assert [word for word in argv if "model.path" in word] == ["--model.path=assets/base"]
    assert "--ckpt_path=last" not in argv


def test_a_fresh_policy_and_a_study(folder: Path) -> None:
    assert arguments(Stage("fresh", ["a.yaml"], {"layers": 2}, ["init"]), "init", CELL, folder) == [
        "init", "--config", str(folder / "a.yaml"), "--out=runs/s/size-25/seed-3/fresh/last", "--seed=3", "--layers=2",
    ]  # fmt: skip
    for verb in ("credit", "spurious", "likelihood"):
        stage = Stage("looked", [], {"steps": "{root}/spurious/steps.jsonl"}, [verb])
        assert arguments(stage, verb, CELL, folder) == [
            verb,
            "--root=runs/s/size-25/seed-3/looked",
            "--steps=runs/s/size-25/seed-3/spurious/steps.jsonl",
        ]


def test_a_missing_configuration_of_a_stage_is_named(folder: Path) -> None:
    with pytest.raises(InputError) as error:
        arguments(Stage("sft", ["a.yaml", "c.yaml"]), "fit", CELL, folder)
    assert "stage sft" in str(error.value)
    assert str(folder / "c.yaml") in str(error.value)
    assert "\n" not in str(error.value)


# --- running a chain


class Runner:
    """Stands in for the command line: leaves what each verb would leave."""

    def __init__(self) -> None:
        self.ran: list[list[str]] = []
        self.fails: Callable[[list[str]], bool] = lambda argv: False

    def __call__(self, argv: list[str]) -> None:
        self.ran.append(argv)
        if self.fails(argv):
            raise KeyboardInterrupt
        options = dict(word.removeprefix("--").split("=", 1) for word in argv if "=" in word)
        verb: Verb = argv[0]  # type: ignore[assignment]
        home = Path(options.get("trainer.default_root_dir") or options.get("root") or Path(options["out"]).parent)
        output = home / OUTPUTS.get(verb, f"{verb}.csv")
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("{}")

    @property
    def words(self) -> list[str]:
        """Verb and stage of each run."""
        return [f"{argv[0]} {self.stage(argv)}" for argv in self.ran]

    @staticmethod
    def stage(argv: list[str]) -> str:
        (home,) = (w.split("=")[1] for w in argv if w.startswith(("--trainer.default_root_dir=", "--root=", "--out=")))
        return home.removesuffix("/last").split("/run/")[1]


@pytest.fixture
def runner() -> Runner:
    return Runner()


CHAIN = [Stage("sft", ["a.yaml"], {"trainer.max_epochs": 1}), Stage("look", [], {}, ["credit"])]


def test_a_chain_runs_in_order_and_once(folder: Path, runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    repeat = cells(folder / "run", [0, 1])
    pipeline(runner, folder, CHAIN, repeat)
    of_seed = ("fit seed-{}/sft", "test seed-{}/sft", "credit seed-{}/look")
    assert runner.words == [words.format(seed) for seed in (0, 1) for words in of_seed]
    out = capsys.readouterr().out
    assert "[1/6 " in out
    assert "seed 1, sft: test" in out
    record = json.loads((folder / "run/seed-0/sft/test.json").read_text())
    assert record["argv"] == runner.ran[1]
    pipeline(runner, folder, CHAIN, repeat)
    assert len(runner.ran) == 6
    assert capsys.readouterr().out.count("is done, unchanged") == 6


def test_a_fresh_policy_is_made_once(folder: Path, runner: Runner) -> None:
    """And not again, which ``stepneg init`` would refuse: the chain could not go on."""
    for _ in range(2):
        pipeline(runner, folder, [Stage("fresh", [], {"layers": 2}, ["init"])], cells(folder / "run", [0]))
    assert runner.words == ["init seed-0/fresh"]


def test_a_fresh_policy_of_other_options_replaces_the_chains_own_only(folder: Path, runner: Runner) -> None:
    """What stood there before the chain was run is the user's: ``stepneg init`` refuses to overwrite it."""
    here, last = cells(folder / "run", [0]), folder / "run/seed-0/fresh/last"
    last.mkdir(parents=True)
    runner.fails = lambda argv: (last / "mine").exists()  # as the real one does
    (last / "mine").touch()
    for layers in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            pipeline(runner, folder, [Stage("fresh", [], {"layers": layers}, ["init"])], here)
    (last / "mine").unlink()
    last.rmdir()
    runner.fails = lambda argv: last.exists()
    for layers in (2, 2, 3):
        pipeline(runner, folder, [Stage("fresh", [], {"layers": layers}, ["init"])], here)
    assert len(runner.ran) == 4
    (last.parent / "init.json").unlink()  # killed before it was written down
    pipeline(runner, folder, [Stage("fresh", [], {"layers": 3}, ["init"])], here)
    assert len(runner.ran) == 5


def test_a_dry_run_says_what_would_run(folder: Path, runner: Runner) -> None:
    """Word for word, whatever the words hold."""
    args = {"data.template": "it's {question}\n", "data.problems": {"path": "{base}/a b.jsonl"}}
    stages = [Stage("sft", ["a.yaml"], args), Stage("rft", [], verbs=["fit"], sizes=[50])]
    repeat = cells(folder / "run", [0], [25, 50], {"base": "x y"})
    said = dry_run(folder, stages, repeat)
    assert not (folder / "run").exists()
    pipeline(runner, folder, stages, repeat)
    assert shlex.split(said) == [word for argv in runner.ran for word in ("stepneg", *argv)]
    assert len(runner.ran) == 2 * 2 + 1
    with pytest.raises(InputError, match=r"c\.yaml"):
        dry_run(folder, [Stage("sft", ["c.yaml"])], repeat)


def test_sizes_of_a_stage_are_kept_to(folder: Path, runner: Runner) -> None:
    stages = [Stage("sft", [], verbs=["fit"]), Stage("rft", [], verbs=["fit"], sizes=[50, 100])]
    pipeline(runner, folder, stages, cells(folder / "run", [0], [25, 50]))
    assert runner.words == ["fit size-25/seed-0/sft", "fit size-50/seed-0/sft", "fit size-50/seed-0/rft"]


def test_without_sizes_every_stage_runs(folder: Path, runner: Runner) -> None:
    pipeline(runner, folder, [Stage("rft", [], verbs=["fit"], sizes=[50])], cells(folder / "run", [0]))
    assert runner.words == ["fit seed-0/rft"]


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("nothing", []),
        ("config", ["fit", "test"]),
        ("args", ["fit", "test"]),
        ("output", ["test"]),
        ("record", ["fit"]),
        ("policy", ["test"]),
    ],
)
def test_what_has_changed_is_run_again(folder: Path, runner: Runner, change: str, again: list[str]) -> None:
    stage = Stage("sft", ["a.yaml"], {"trainer.max_epochs": 1})
    home = folder / "run" / "seed-0" / "sft"
    repeat = cells(folder / "run", [0])
    pipeline(runner, folder, [stage], repeat)
    before = len(runner.ran)
    if change == "config":
        (folder / "a.yaml").write_text("model: {}\n")
    elif change == "args":
        stage = Stage("sft", ["a.yaml"], {"trainer.max_epochs": 2})
    elif change == "output":
        (home / OUTPUTS["test"]).unlink()
    elif change == "record":
        (home / "fit.json").unlink()
    elif change == "policy":
        (home / "last" / "config.json").write_text('{"layers": 2}')
    pipeline(runner, folder, [stage], repeat)
    assert [argv[0] for argv in runner.ran[before:]] == again


def test_where_configuration_files_are_does_not_count(
    folder: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A chain that is done stays so under its printed file; one whose content changes does not."""
    (folder / "lr=1.yaml").write_text("model: {}\n")
    stages = [{"name": "sft", "config": ["a.yaml"]}]
    told = {"root": str(folder / "run"), "stages": stages, "overlays": ["lr=1.yaml"]}
    (folder / "chain.yaml").write_text(yaml.safe_dump(told))
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit):
        main(["pipeline", "--config=chain.yaml", "--print_config"])
    other = folder / "other"
    other.mkdir()
    (other / "printed.yaml").write_text(capsys.readouterr().out)

    def left(file: str | Path) -> int:
        """How many runs of the chain are begun."""
        before = len(runner.ran)
        parser = chain_parser("pipeline", None)
        for name in ("baseline", "order", "part"):  # which the verb adds for its report
            parser.add_argument(f"--{name}", type=Any)
        config = parser.parse_args([f"--config={file}"])
        pipeline(runner, folder_of(config), stages_of(config), cells(config.root, config.seeds))
        return len(runner.ran) - before

    assert left("chain.yaml") == 2
    assert [left("chain.yaml"), left(folder / "chain.yaml"), left(other / "printed.yaml")] == [0, 0, 0]
    monkeypatch.chdir(other)
    assert left("printed.yaml") == left(os.path.relpath(folder / "chain.yaml")) == 0
    monkeypatch.chdir(folder)
    (folder / "lr=1.yaml").write_text("model:\n  learning_rate: 1\n")
    assert left(other / "printed.yaml") == 2


@pytest.mark.parametrize("make", [Path.touch, partial(Path.mkdir, exist_ok=True)], ids=["file", "parts of ranks"])
def test_only_checkpoints_of_the_same_settings_are_gone_on_from(
    folder: Path, runner: Runner, make: Callable[[Path], None]
) -> None:
    repeat = cells(folder / "run", [0])
    checkpoint = folder / "run/seed-0/sft/checkpoints/last.ckpt"
    runner.fails = lambda argv: True

    def start(epochs: int) -> bool:
        """Begin a fit, be interrupted; whether an earlier checkpoint was left to go on from."""
        with pytest.raises(KeyboardInterrupt):
            pipeline(runner, folder, [Stage("sft", [], {"trainer.max_epochs": epochs})], repeat)
        there = checkpoint.exists()
        checkpoint.parent.mkdir(exist_ok=True)
        make(checkpoint)
        return there

    assert [start(1), start(1), start(2), start(2), start(1)] == [False, True, False, True, False]
    assert not (folder / "run/seed-0/sft/fit.json").exists()


def test_what_was_fitted_or_tested_by_hand_since_is_not_the_chains(folder: Path, runner: Runner) -> None:
    repeat, home = cells(folder / "run", [0]), folder / "run/seed-0/sft"

    def export(policy: str) -> str:
        last = home / "last"
        (last / "stepneg.json").unlink(missing_ok=True)
        (last / "config.json").write_text(json.dumps(policy))
        mark = fingerprint_policy(last)
        (last / "stepneg.json").write_text(json.dumps({"fingerprint": mark}))
        return mark

    def run(argv: list[str]) -> None:
        runner(argv)
        if argv[0] == "fit":
            export("own")
        if argv[0] == "test":
            settings = {"policy_fingerprint": fingerprint_policy(home / "last")}
            (home / "evaluation/test.json").write_text(json.dumps({"settings": settings}))

    def again() -> list[str]:
        runner.ran.clear()
        pipeline(run, folder, CHAIN, repeat)
        return [argv[0] for argv in runner.ran]

    assert [again(), again()] == [["fit", "test", "credit"], []]
    (home / "evaluation/test.json").write_text('{"settings": {"policy_fingerprint": "base"}}')
    assert [again(), again()] == [["test"], []]
    export("another")
    assert [again(), again()] == [["fit"], []]
    (home / "last/stepneg.json").write_text("{}")  # changed on purpose, see check_export
    assert again() == []


@pytest.mark.parametrize("make", [Path.touch, partial(Path.mkdir, exist_ok=True)], ids=["file", "parts of ranks"])
def test_the_checkpoint_of_a_fit_by_hand_is_put_aside(
    folder: Path, runner: Runner, make: Callable[[Path], None]
) -> None:
    checkpoints = folder / "run/seed-0/sft/checkpoints"
    checkpoints.mkdir(parents=True)
    make(checkpoints / "last.ckpt")
    pipeline(runner, folder, CHAIN, cells(folder / "run", [0]))
    assert [file.name for file in checkpoints.iterdir()] == ["earlier.ckpt"]


def test_an_interrupted_chain_goes_on_where_it_was(folder: Path, runner: Runner) -> None:
    repeat = cells(folder / "run", [0])
    runner.fails = lambda argv: argv[0] == "test"
    with pytest.raises(KeyboardInterrupt):
        pipeline(runner, folder, CHAIN, repeat)
    runner.fails = lambda argv: False
    pipeline(runner, folder, CHAIN, repeat)
    assert [argv[0] for argv in runner.ran] == ["fit", "test", "test", "credit"]


@pytest.mark.parametrize("where", ["plain", "in JSON", "file"])
def test_a_stage_depends_on_what_its_options_name(folder: Path, runner: Runner, where: str) -> None:
    policy, file = folder / "policy", folder / "steps.jsonl"
    policy.mkdir()
    (policy / "config.json").write_text("{}")
    file.write_text("1\n")
    args = {
        "plain": {"data.policy": str(policy)},
        "in JSON": {"policies": {"sft": {"path": ["x", str(policy)]}, "n": 3}},
        "file": {"steps": str(file)},
    }[where]
    stage, repeat = Stage("look", [], args, ["likelihood"]), cells(folder / "run", [0])
    for _ in range(2):
        pipeline(runner, folder, [stage], repeat)
    assert len(runner.ran) == 1
    (policy / "config.json").write_text('{"layers": 2}')
    file.write_text("2\n")
    pipeline(runner, folder, [stage], repeat)
    assert len(runner.ran) == 2


@pytest.mark.parametrize("where", ["plain", "in JSON"])
def test_a_stage_depends_on_the_folder_of_its_problems(folder: Path, runner: Runner, where: str) -> None:
    """And not on a folder of such files that is written to."""
    problems, store = folder / "mine", folder / "samples"
    for place in (problems / "train", store):
        place.mkdir(parents=True)
        (place / "a.jsonl").write_text("1\n")
    source = {"class_path": "stepneg.problems.jsonl.Jsonl", "init_args": {"path": str(problems)}}
    args: dict[str, Any] = {"data.problems.init_args.path": str(problems)} if where == "plain" else {"problems": source}
    stage = Stage("look", [], args | {"store": str(store), "model.path": str(store)}, ["likelihood"])
    repeat = cells(folder / "run", [0])

    def again() -> bool:
        before = len(runner.ran)
        pipeline(runner, folder, [stage], repeat)
        return len(runner.ran) > before

    assert again()
    (store / "b.jsonl").write_text("2\n")
    (problems / "README.md").write_text("of no account")
    assert not again()
    (problems / "train" / "a.jsonl").write_text("2\n")
    assert again()
    (problems / "train" / "a.jsonl").rename(problems / "train" / "b.jsonl")
    assert again()
    (problems / "test").mkdir()
    (problems / "test" / "a.arrow").write_text("1\n")
    assert again()
    assert not again()


def test_without_folders_of_problems_the_fingerprint_is_of_words_and_contents(folder: Path) -> None:
    (folder / "mine").mkdir()  # holds no data file
    (folder / "a.json").write_text("7")
    argv = ["credit", f"--file={folder}/a.json", f"--path={folder}/mine", "--path=hub:owner/name", "--x=[1]"]
    assert stage_fingerprint(argv) == fingerprint(__version__, argv, ["7"])


def test_an_option_may_be_long(folder: Path, runner: Runner) -> None:
    """A prompt with worked examples, say."""
    args = {"data.template": "Question: how many are left?\nAnswer: none.\n" * 8 + "Question: {question}\nAnswer:"}
    pipeline(runner, folder, [Stage("sft", [], args)], cells(folder / "run", [0]))
    assert [argv[0] for argv in runner.ran] == ["fit", "test"]
