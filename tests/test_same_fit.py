"""A checkpoint is for the fit that wrote it; and a fit that begins anew leaves nothing of an earlier one as its own."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stepneg.cli import main
from stepneg.data.rollouts import Rollouts
from stepneg.errors import InputError
from stepneg.fingerprint import fingerprint
from stepneg.initialise import init
from stepneg.links import put_results_aside
from stepneg.problems.arithmetic import Arithmetic
from stepneg.record import last_fit
from stepneg.rerun import rerun
from stepneg.same_fit import KEY, START, Identity, differing, gone_on, identity, in_words
from stepneg.sampling.vllm_engine import VLLMEngine
from tests.test_fit import configured

LR = "model.optimizer.init_args.lr"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> str:
    return configured(tiny, tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def done(config: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("done") / "run"
    main(["fit", config, f"--trainer.default_root_dir={run}", "--trainer.max_epochs=1"])
    return run


def contents(run: Path) -> dict[Path, bytes]:
    """All that a run holds but for the records of attempts, and the sign that it is held."""
    files = (file for file in run.rglob("*") if file.is_file() and file.parent.name != "attempts")
    return {file.relative_to(run): file.read_bytes() for file in files if not file.name.startswith(".")}


@pytest.fixture
def larger(tmp_path: Path) -> Path:
    init(tmp_path / "larger", Arithmetic(size=200), vocabulary=900, hidden_size=96, layers=2, context=256)
    return tmp_path / "larger"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (f"--{LR}=0.03", f"{LR} was 0.003, and is 0.03"),
        ("--model.optimizer=torch.optim.SGD", "model.optimizer.class_path was torch.optim.AdamW, and is torch.optim"),
        ("--data.problems.init_args.size=41", "the fingerprint of its training data (data.*) was "),
        ("--model.path=LARGER", "the policy that it starts from was "),
        ("--model.objective=stepneg.objectives.WeightedLikelihood", "model.objective.class_path was stepneg.obj"),
    ],
)
def test_the_checkpoint_of_another_fit_is_refused_and_the_run_stays_as_it_is(
    change: str, said: str, config: str, done: Path, tmp_path: Path, larger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(done, run)
    before = contents(run)
    command = ["fit", config, f"--trainer.default_root_dir={run}", "--trainer.max_epochs=1", "--ckpt_path=last"]
    with pytest.raises(SystemExit) as stop:
        main([*command, change.replace("LARGER", str(larger))])
    assert stop.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"ckpt_path: the checkpoint is of another fit: {said}" in error
    assert {name: text for name, text in contents(run).items() if name in before} == before
    assert {name.parts[0] for name in contents(run).keys() - before.keys()} <= {"data", "tensorboard"}


def test_weights_of_another_model_are_refused(
    config: str, done: Path, tmp_path: Path, larger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a verb that is no fit, or where the checkpoint does not say which fit it is of."""
    last = done / "checkpoints" / "last.ckpt"
    values = torch.load(last, weights_only=True)
    del values[KEY]
    torch.save(values, tmp_path / "old.ckpt")
    for verb, checkpoint in (("validate", last), ("fit", tmp_path / "old.ckpt")):
        options = [f"--trainer.default_root_dir={tmp_path / verb}", f"--model.path={larger}"]
        with pytest.raises(SystemExit) as stop:
            main([verb, config, *options, f"--ckpt_path={checkpoint}", "--trainer.max_epochs=1"])
        assert stop.value.code == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"the checkpoint is of another model than {larger}: " in error
        assert " has the shape [" in error


def test_a_fit_whose_epochs_were_changed_on_its_way_says_so(
    config: str, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(done, run)
    options = [config, f"--trainer.default_root_dir={run}", "--ckpt_path=last"]
    stop = "--trainer.callbacks+=tests.stop.StopAfterEpoch"
    main(["fit", *options, "--trainer.max_epochs=3", stop])
    main(["fit", *options, "--trainer.max_epochs=3"])  # which changes nothing, and does not forget
    *_, last = sorted((run / "attempts").iterdir())
    assert json.loads(last.read_text())["changed"] == [{"trainer.max_epochs": [1, 3]}]
    assert json.loads(last.read_text())["training"]
    assert "the fit goes on, with changes: trainer.max_epochs from 1 to 3" in caplog.text
    table, same = rerun(run, tmp_path / "again")
    assert not same, "a schedule of 3 epochs is not one of 1 and then of 3"
    assert "weights differ" in table
    assert f"{run}: the fit went on with changes (trainer.max_epochs from 1 to 3); its rep" in capsys.readouterr().out


def test_where_nothing_was_left_to_train_the_fit_is_the_one_that_trained(
    config: str, done: Path, tmp_path: Path
) -> None:
    """And not one with other options that trained nothing."""
    run = tmp_path / "run"
    shutil.copytree(done, run)
    options = [config, f"--trainer.default_root_dir={run}", "--ckpt_path=last", "--trainer.max_epochs=1"]
    main(["fit", *options, "--data.batch_size=4"])
    first, last = (json.loads(file.read_text()) for file in sorted((run / "attempts").iterdir()))
    assert first["training"]
    assert not {"training", "changed"} & last.keys()
    assert last_fit(run) == first
    assert "batch_size: 8" in (run / "config.yaml").read_text()
    table, same = rerun(run, tmp_path / "again")
    assert same, table


def test_a_fit_goes_on_in_another_precision_and_with_another_engine(config: str, done: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(done, run)
    options = [config, f"--trainer.default_root_dir={run}", "--ckpt_path=last", "--trainer.precision=bf16-mixed"]
    main(["fit", *options, "--trainer.max_epochs=2"])
    *_, last = sorted((run / "attempts").iterdir())
    (changed,) = json.loads(last.read_text())["changed"]
    assert changed.keys() == {"trainer.max_epochs", "trainer.precision"}
    engines = (VLLMEngine(), VLLMEngine(gpu_memory_utilization=0.5))
    assert len({fingerprint(Rollouts(engine)) for engine in engines}) == 1


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_fit_does_not_start_from_what_it_replaces(
    name: str, config: str, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(done, run)
    (run / "best").symlink_to(run / "last")
    before = contents(run)
    once = ["fit", config, f"--trainer.default_root_dir={run}", "--trainer.max_epochs=1"]
    for option in ("model.path", "data.policy"):
        with pytest.raises(SystemExit):
            main([*once, f"--{option}={run / name}"])
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"{option}: {run / name} is in the fit's own run directory, and is replaced by this fit" in error
    assert contents(run) == before


def test_data_modules_that_make_nothing_are_compared_by_their_options(tmp_path: Path, tiny: Path) -> None:
    trainer = SimpleNamespace(datamodule=SimpleNamespace(), world_size=1)
    settings = {"data": {"init_args": {"policy": str(tiny), "seed": 1, "batch_size": 3, "curriculum": {0: 2}}}}
    found = identity(settings, trainer, tiny)  # type: ignore[arg-type]
    shutil.copytree(tiny, tmp_path / "moved")
    settings["data"]["init_args"]["policy"] = str(tmp_path / "moved")
    assert identity(settings, trainer, tmp_path / "moved") == found  # type: ignore[arg-type]
    assert found.fixed.keys() == {START, "data.init_args.policy", "data.init_args.seed", "data.init_args.curriculum.0"}
    assert found.loose["data.init_args.batch_size"] == 3


def test_only_what_both_versions_know_is_compared() -> None:
    assert differing({"a": 1, "b": 2, "d": None}, {"b": 3, "c": 4, "d": None}) == {"b": [2, 3]}
    new = Identity({"c": 1}, {"epochs": 3})
    assert gone_on({}, new) == new
    assert gone_on({KEY: asdict(Identity({"d": 1}, {"epochs": 3}))}, new) == new
    old = Identity({"c": 1}, {"epochs": 2}, [{"epochs": [1, 2]}])
    assert gone_on({KEY: asdict(old)}, new).changed == [{"epochs": [1, 2]}, {"epochs": [2, 3]}]
    assert in_words(gone_on({KEY: asdict(old)}, new).changed) == "epochs from 1 to 2, then epochs from 2 to 3"
    for strange in (7, {"epoch": 1}, asdict(new) | {"more": 1}):
        with pytest.raises(InputError, match="of another version of stepneg, or of another tool"):
            gone_on({KEY: strange}, new)


def test_a_fit_that_begins_anew_puts_aside_what_is_not_its_own(config: str, done: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(done, run)
    for name in ("best/config.json", "figures/trace-0.png", "evaluation/validation-step3.json"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("old")
    main(["fit", config, f"--trainer.default_root_dir={run}", "--trainer.max_epochs=1"])
    assert not (run / "best").exists()
    assert not (run / "figures").exists()
    assert not list((run / "evaluation").iterdir())
    assert {name: text for name, text in contents(run / "earlier").items() if text != b"old"} == {}
    assert len(contents(run / "earlier")) == 3


def test_a_fit_that_goes_on_from_another_run_begins_anew_in_its_own(config: str, done: Path, tmp_path: Path) -> None:
    """An earlier fit's results, curves and checkpoint are there; it does not go on from that."""
    run = tmp_path / "run"
    shutil.copytree(done, run)
    (run / "best").mkdir()
    from_there = f"--ckpt_path={done}/checkpoints/last.ckpt"
    main(["fit", config, f"--trainer.default_root_dir={run}", "--trainer.max_epochs=2", from_there])
    assert (run / "earlier" / "best").is_dir()
    assert len(list((run / "tensorboard").glob("events.out.earlier.*"))) == 1
    assert sorted(file.name for file in (run / "checkpoints").iterdir()) == ["earlier.ckpt", "last.ckpt"]
    (run / "best").mkdir()
    main(["fit", config, f"--trainer.default_root_dir={run}", "--trainer.max_epochs=3", "--ckpt_path=last"])
    assert (run / "best").is_dir()
    assert len(list((run / "tensorboard").glob("events.out.earlier.*"))) == 1


def test_what_was_put_aside_is_replaced_by_its_like(tmp_path: Path) -> None:
    put_results_aside(tmp_path)
    assert not list(tmp_path.iterdir())
    for step, text in ((1, "first"), (2, "second")):
        for name in ("best/model", f"evaluation/validation-step{step}.jsonl", "evaluation/test.json"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        put_results_aside(tmp_path)
    assert contents(tmp_path) == {
        Path("evaluation/test.json"): b"second",
        Path("earlier/best/model"): b"second",
        Path("earlier/evaluation/validation-step1.jsonl"): b"first",
        Path("earlier/evaluation/validation-step2.jsonl"): b"second",
    }
