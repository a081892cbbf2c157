"""``stepneg pipeline``: a chain of fits and tests over seeds; what is done and unchanged is skipped."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stepneg import __version__
from stepneg.errors import InputError
from stepneg.fingerprint import fingerprint, fingerprint_policy

Verb = Literal["fit", "test"]


@dataclass(frozen=True)
class Stage:
    """One run of the chain.

    Args:
        name: the method's name in the report, and the run directory's.
        config: configuration files of ``stepneg fit``, beside the pipeline's own file.
        args: further options, such as ``{"data.policy": "{root}/sft/last"}``; ``{root}`` and ``{seed}`` are replaced.
        verbs: what is run: fit, then test of the policy that the fit left; only test for a policy as it is.
    """

    name: str
    config: list[str]
    args: dict[str, Any] = field(default_factory=dict)
    verbs: list[Verb] = field(default_factory=lambda: ["fit", "test"])


def arguments(stage: Stage, verb: Verb, root: Path, seed: int, folder: Path) -> list[str]:
    """The command line of a stage's verb."""
    argv: list[str] = [verb]
    for name in stage.config:
        if not (folder / name).is_file():
            raise InputError(f"stage {stage.name}: {folder / name}: no such configuration file; mend its `config`")
        argv += ["--config", str(folder / name)]
    argv += [f"--trainer.default_root_dir={root / stage.name}", f"--seed_everything={seed}", f"--data.seed={seed}"]
    for key, value in stage.args.items():
        text = value if isinstance(value, str) else json.dumps(value)
        argv.append(f"--{key}={text.replace('{root}', str(root)).replace('{seed}', str(seed))}")
    if verb == "fit":
        argv.append("--ckpt_path=last")
    elif "fit" in stage.verbs:
        argv.append(f"--model.path={root / stage.name / 'last'}")
    return argv


def stage_fingerprint(argv: list[str]) -> str:
    """Fingerprint of a command line: its words, the files that it names and the policies that it starts from."""
    contents: list[str] = []
    for word in argv:
        path = Path(word.split("=", 1)[-1])
        if path.is_file():
            contents.append(path.read_text())
        elif (path / "config.json").is_file():
            contents.append(fingerprint_policy(path))
    return fingerprint(__version__, argv, contents)


def is_done(record: Path, mark: str, output: Path) -> bool:
    """Whether a stage has run with this fingerprint and its output is there."""
    if not (record.is_file() and output.exists()):
        return False
    return bool(json.loads(record.read_text()).get("fingerprint") == mark)


def pipeline(run: Callable[[list[str]], None], folder: Path, root: Path, stages: list[Stage], seeds: list[int]) -> None:
    """Run the stages in order for each seed. A stage whose fingerprint and output are there is skipped.

    Args:
        run: executes a ``stepneg`` command line in this process (the sampling engine lives on between stages).
        folder: where the stages' configuration files are.
        root: the run directory; a seed's runs are in ``root/seed-SEED/STAGE``.
        stages: the chain.
        seeds: each seed repeats the chain.
    """
    started = time.monotonic()
    todo = [(seed, stage, verb) for seed in seeds for stage in stages for verb in stage.verbs]
    for number, (seed, stage, verb) in enumerate(todo, 1):
        home = root / f"seed-{seed}"
        argv = arguments(stage, verb, home, seed, folder)
        mark = stage_fingerprint(argv)
        record = home / stage.name / f"{verb}.json"
        output = home / stage.name / ("last/config.json" if verb == "fit" else "evaluation/test.json")
        label = f"[{number}/{len(todo)} {time.monotonic() - started:4.0f}s] seed {seed} {stage.name}: {verb}"
        if is_done(record, mark, output):
            print(f"{label} is done, unchanged", flush=True)
            continue
        print(label, flush=True)
        forget_other(home / stage.name, verb, mark)
        run(argv)
        record.write_text(json.dumps({"fingerprint": mark, "argv": argv}, indent=1))


def forget_other(home: Path, verb: Verb, mark: str) -> None:
    """Remove the checkpoints of a run with other settings, so that only its own run is resumed."""
    home.mkdir(parents=True, exist_ok=True)
    started = home / f"{verb}.started"
    if verb == "fit" and started.is_file() and started.read_text() != mark:
        for old in home.glob("checkpoints/*.ckpt"):
            old.unlink()
    started.write_text(mark)
