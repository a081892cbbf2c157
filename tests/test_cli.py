"""The command line as a user meets it: every shipped configuration parses, every mistake is one clear line."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from stepneg import __version__
from stepneg.cli import is_rank, main
from stepneg.commands import SUMMARIES, VERBS
from stepneg.errors import EngineLostError, InputError
from stepneg.problems import Problem
from stepneg.problems.arithmetic import Arithmetic
from stepneg.record import attempts, recorded, start

ROOT = Path(__file__).parents[1]
FITS = sorted(
    path.relative_to(ROOT)
    for path in (ROOT / "configs").glob("*/*.yaml")
    if path.parent.name in ("arithmetic", "gsm8k", "math") and "data" in yaml.safe_load(path.read_text())
)
MODELS = sorted(path.relative_to(ROOT) for path in (ROOT / "configs" / "model").glob("*_7b.yaml"))
SMALL = "--config=configs/arithmetic/sft.yaml"


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()
    ours = [line for line in error if line.startswith("stepneg: error: ")]
    assert len(ours) == 1
    return ours[0]


@pytest.mark.parametrize("config", FITS, ids=str)
def test_shipped_configurations_print_themselves(config, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", f"--config={config}", "--print_config"])
    assert stop.value.code == 0
    assert "objective" in yaml.safe_load(capsys.readouterr().out)["model"]


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("task", ["gsm8k", "math"])
@pytest.mark.parametrize("method", ["sft", "rft", "dpo", "step_dpo", "advantage"])
def test_full_size_configurations_print_themselves(task, method, model, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", f"--config=configs/{task}/{method}.yaml", f"--config={model}", "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["gradient_checkpointing"] is True
    assert printed["trainer"]["precision"] == "bf16-mixed"  # AdamW's small steps need float32 weights


def test_help_lists_the_verbs(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in ("fit", "validate", "test", "predict", "init", "pipeline", "report"))


@pytest.mark.parametrize("argv", [["--help"], ["pipeline", "--help"], ["sweep", "--help"]], ids=" ".join)
def test_help_waits_for_no_heavy_import(argv):
    code = (
        "import sys; from stepneg.cli import main\n"
        f"try: main({argv!r})\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'lightning', 'transformers', 'vllm', 'pandas', 'matplotlib', 'scipy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_every_verb_is_in_the_help():
    assert {verb for verbs in SUMMARIES.values() for verb in verbs} == {*VERBS, "fit", "validate", "test", "predict"}


def test_a_misspelt_verb_gets_a_suggestion(capsys):
    assert "there is no verb 'pipline'; did you mean pipeline?" in fails(capsys, "pipline")
    assert "verbs are fit, validate" in fails(capsys, "xyz")


def test_no_verb_shows_the_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "usage: stepneg VERB" in capsys.readouterr().out


def test_a_wrong_key_is_named(tmp_path, capsys):
    config = tmp_path / "wrong.yaml"
    config.write_text("model:\n  gradient_chekpointing: true\n")
    assert "gradient_chekpointing" in fails(capsys, "fit", SMALL, f"--config={config}")


def test_a_missing_configuration_is_named(capsys):
    assert "nowhere.yaml" in fails(capsys, "fit", "--config=configs/arithmetic/nowhere.yaml")


def test_a_missing_data_file_is_named(tmp_path, capsys):
    argv = ["--data.problems=stepneg.problems.gsm8k.GSM8K", f"--data.problems.path={tmp_path}/none.jsonl"]
    error = fails(capsys, "fit", SMALL, *argv, f"--trainer.default_root_dir={tmp_path}/run")
    assert "none.jsonl" in error


def test_an_empty_data_set_is_named(tmp_path, capsys):
    (tmp_path / "empty.jsonl").write_text("")
    argv = ["--data.problems=stepneg.problems.gsm8k.GSM8K", f"--data.problems.path={tmp_path}/empty.jsonl"]
    assert "empty.jsonl" in fails(capsys, "fit", SMALL, *argv, f"--trainer.default_root_dir={tmp_path}/run")


def test_a_malformed_row_is_named(tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_text('{"question": "q", "answer": "#### 1"}\n{"question": "q"}\n')
    argv = ["--data.problems=stepneg.problems.gsm8k.GSM8K", f"--data.problems.path={tmp_path}/bad.jsonl"]
    error = fails(capsys, "fit", SMALL, *argv, f"--trainer.default_root_dir={tmp_path}/run")
    assert "bad.jsonl" in error
    assert "2" in error
    assert "'answer'" in error


def test_a_policy_without_tokenizer_is_named(tmp_path, tiny, capsys):
    folder = tmp_path / "policy"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((tiny / name).read_bytes())
    error = fails(capsys, "fit", SMALL, f"--data.policy={folder}", f"--trainer.default_root_dir={tmp_path}/run")
    assert "holds no tokenizer" in error


def test_a_missing_policy_is_named(tmp_path, capsys):
    error = fails(capsys, "fit", SMALL, f"--data.policy={tmp_path}/no", f"--trainer.default_root_dir={tmp_path}/run")
    assert "no such policy folder" in error


def test_a_problem_longer_than_the_context_is_named(tmp_path, tiny, capsys):
    row = '{"question": "%s", "answer": "#### 1"}\n' % ("word " * 900)
    (tmp_path / "long.jsonl").write_text(row)
    argv = ["--data.problems=stepneg.problems.gsm8k.GSM8K", f"--data.problems.path={tmp_path}/long.jsonl"]
    error = fails(capsys, "fit", SMALL, f"--data.policy={tiny}", *argv, f"--trainer.default_root_dir={tmp_path}/run")
    assert "exceed the model's context of 256" in error


def test_a_report_on_nothing_is_one_line(tmp_path, capsys):
    assert "no run below it has been tested" in fails(capsys, "report", str(tmp_path))


def test_the_console_script_ends_with_the_exit_code(tmp_path):
    script = Path(sys.executable).with_name("stepneg")
    done = subprocess.run([script, "report", tmp_path], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def ended(argv: list[str], script: str = "", **kwargs: Any) -> tuple[int, str]:
    """Exit code and standard error of a command in a process of its own, into a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    code = f"{script}\nfrom stepneg.cli import main\nmain({argv!r})"
    options = {"stdout": write, "env": os.environ | {"PYTHONUNBUFFERED": ""}} | kwargs
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, **options)
    os.close(write)
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        pytest.param(["fit", "--help"], marks=pytest.mark.slow, id="fit --help"),
        ["report", "--help"],
        ["memory", "configs/model/deepseek_math_7b.json"],
    ],
    ids=" ".join,
)
def test_a_reader_that_stops_is_no_mistake(argv, unbuffered):
    code, said = ended(argv, env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    assert said == ""
    assert code in (
        (0, 141) if argv[0] == "report" and unbuffered else (141,)
    )  # some versions' argparse passes over it


def test_a_mistake_is_told_though_nobody_reads_the_output(tmp_path):
    code, said = ended(["report", str(tmp_path)], "print('before')")
    assert code == 2
    assert "no run below it has been tested" in said
    assert len(said.splitlines()) == 1


def test_a_broken_pipe_within_is_not_passed_over():
    script = "import stepneg.commands as c\ndef run(argv): raise BrokenPipeError(32, 'of a worker')\nc.run = run"
    code, said = ended([], script, stdout=subprocess.DEVNULL)
    assert code == 1
    assert "of a worker" in said


def test_closed_outputs_are_no_mistake():
    code = "from stepneg.cli import main; main(['--help'])"
    assert subprocess.run(["sh", "-c", f'"$0" -c "{code}" >&- 2>&-', sys.executable]).returncode == 0


AGAIN = "what was finished is kept; run the same command again for the rest"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["report", "runs"], AGAIN),
        (["pipeline", "--dry_run"], "the same command goes on, runs that are done are skipped"),
        (["fit", SMALL], "the same command takes up data and samples that are there, with --ckpt_path last also the"),
        (["rerun", "runs"], "give another --root, or remove the new directory, to begin again"),
        ([], AGAIN),
    ],
    ids=lambda v: " ".join(v)[:20],
)
def test_ctrl_c_is_one_line(argv, said, monkeypatch, capsys):
    def run(argv: list[str]) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("stepneg.commands.run", run)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which pytest in the background ignores
    try:
        with pytest.raises(SystemExit) as stop:
            main(argv)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop.value.code == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"stepneg: interrupted; {said}")


def test_ctrl_c_before_training_is_in_the_record(tmp_path, monkeypatch, capsys):
    def load(self: Arithmetic) -> list[Problem]:
        raise KeyboardInterrupt

    monkeypatch.setattr("stepneg.problems.arithmetic.Arithmetic.load", load)
    with pytest.raises(SystemExit) as stop:
        main(["fit", SMALL, f"--trainer.default_root_dir={tmp_path}"])
    assert stop.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("stepneg: interrupted; the same command")
    (attempt,) = attempts(tmp_path)
    assert (attempt["exit"], attempt["error"]) == (130, "KeyboardInterrupt: ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "full", "there"), 2),
        (InputError("wrong"), 2),
        (EngineLostError("again and again"), 75),
        (SystemExit(5), 5),
        (SystemExit("said"), 1),
    ],
)
def test_the_record_says_the_exit_code(error, code, tmp_path, monkeypatch):
    def load(self: Arithmetic) -> list[Problem]:
        raise error

    monkeypatch.setattr("stepneg.problems.arithmetic.Arithmetic.load", load)
    with pytest.raises(SystemExit) as stop:
        main(["fit", SMALL, f"--trainer.default_root_dir={tmp_path}"])
    assert stop.value.code in (code, "said")
    (attempt,) = attempts(tmp_path)
    assert attempt["exit"] == code


def test_the_record_of_an_unread_command_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("stepneg.exits.is_unread", lambda stream: True)
    with pytest.raises(BrokenPipeError), recorded(tmp_path, start("fit", [], {}, tmp_path)):
        raise BrokenPipeError(errno.EPIPE, "unread")
    assert attempts(tmp_path)[0]["exit"] == 141


def test_the_version_is_said(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"stepneg {__version__}\n"
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "stepneg --version" in capsys.readouterr().out


@pytest.mark.parametrize(("argv", "code"), [(["fit", "--no.such=1"], 2), (["--help"], 0)])
def test_a_rank_ends_with_its_exit_code_whatever_its_process_group_does(
    argv: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python may abort where the threads of one are still there."""

    def at_once(status: int) -> None:
        raise KeyError(status)

    monkeypatch.setattr("stepneg.cli.is_rank", lambda: True)
    monkeypatch.setattr("os._exit", at_once)
    with pytest.raises(KeyError) as ended:
        main(argv)
    assert ended.value.args == (code,)


@pytest.mark.parametrize(("met", "ranks", "expected"), [(False, 1, False), (True, 1, False), (True, 2, True)])
def test_one_process_alone_is_no_rank(met: bool, ranks: int, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: met)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: ranks)
    assert is_rank() == expected
