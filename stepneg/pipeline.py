"""``stepneg pipeline`` and ``stepneg sweep``: a chain of fits and tests over seeds and sizes; done runs are skipped."""

import json
import os
import re
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from statistics import mean
from textwrap import shorten
from typing import Any, Literal, TypeVar, get_args

from stepneg import __version__
from stepneg.data.handover import read
from stepneg.errors import InputError
from stepneg.evaluation_files import of_own_policy
from stepneg.fingerprint import fingerprint, fingerprint_datasets, fingerprint_policy, is_source
from stepneg.links import put_aside, remove
from stepneg.lock import held
from stepneg.progress import duration
from stepneg.record import with_constants
from stepneg.sampling.store import exported
from stepneg.whole import write_whole

T = TypeVar("T")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")  # of a stage: also a word of a shell and of Markdown
Verb = Literal["init", "fit", "test", "credit", "spurious", "likelihood", "first_hop"]
Draw = Literal["solutions", "values", "evaluation"]  # what a part of a job array puts into the store
Kind = tuple[str, Verb]  # of a run: the stage's name, and what is run
Took = dict[Kind, list[float]]  # seconds of those that are done
DRAWN_FOR: dict[Draw, Verb] = {"solutions": "fit", "values": "fit", "evaluation": "test"}
TRAINER_VERBS: tuple[Verb, ...] = ("fit", "test")
OUTPUTS: dict[Verb, str] = {  # what a verb leaves below its stage's directory; the others leave VERB.csv
    "init": "last/config.json",
    "fit": "last/config.json",
    "test": "evaluation/test.json",
}
# Of an option or a constant. Text comes first, and a dict has no type inside: where Any is asked for, a text is read as
# YAML, and "Question: {question}" becomes a mapping.
Value = str | bool | int | float | list | dict | None  # type: ignore[type-arg]


@dataclass(frozen=True)
class Stage:
    """One run of the chain.

    Args:
        name: the method's name in the report, and the run directory's.
        config: configuration files of the verbs, beside the pipeline's own file.
        args: further options, such as ``{"data.policy": "{root}/sft/last"}``; ``{root}``, ``{seed}``, in a sweep
            ``{size}``, and the names of the chain's constants are replaced.
        verbs: what is run: fit, then test of the policy that the fit left; only test for a policy as it is; init for
            a fresh policy in ``{root}/NAME/last``; or a study's command, whose run directory is the stage's.
        sizes: in a sweep, the only sizes at which the stage runs.
    """

    name: str
    config: list[str]
    args: dict[str, Value] = field(default_factory=dict)
    verbs: list[Verb] = field(default_factory=lambda: ["fit", "test"])
    sizes: list[int] | None = None

    def __post_init__(self) -> None:
        if null := [f.name for f in fields(self) if getattr(self, f.name) is None and f.name != "sizes"]:
            raise InputError(f"stages: {null[0]} of {self.name} is null; give it a value, or leave it out")
        if not NAME.fullmatch(self.name):
            raise InputError(
                f"stages: the name {shorten(repr(self.name), 80)} is no directory below ROOT; write letters, digits and"
                " _ . + - only, the first a letter, a digit or _"
            )


@dataclass(frozen=True)
class Cell:
    """One repetition of the chain: its directory, its seed, in a sweep its size, and the chain's constants."""

    home: Path
    seed: int
    size: int | None = None
    constants: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The cell in words."""
        return f"seed {self.seed}" if self.size is None else f"size {self.size}, seed {self.seed}"

    def fill(self, text: str) -> str:
        """A text with constants, ``{root}``, ``{seed}``, ``{size}`` and multiples as ``{8*size}`` replaced."""
        text = with_constants(text, self.constants)
        if self.size is not None:
            size = self.size
            text = re.sub(r"\{([0-9]{1,6})\*size\}", lambda found: str(int(found[1]) * size), text)
        for key, value in {"root": self.home, "seed": self.seed, "size": self.size}.items():
            if value is not None:
                text = text.replace(f"{{{key}}}", str(value))
        return text


def cells(
    root: Path, seeds: list[int], sizes: list[int] | None = None, constants: dict[str, Any] | None = None
) -> list[Cell]:
    """The repetitions of a chain: ``root/seed-SEED``, or ``root/size-SIZE/seed-SEED``; all sizes of a seed in a row."""
    same = constants or {}
    if sizes is None:
        return [Cell(root / f"seed-{seed}", seed, None, same) for seed in seeds]
    return [Cell(root / f"size-{size}" / f"seed-{seed}", seed, size, same) for seed in seeds for size in sizes]


def part_of(every: list[T], part: str) -> list[T]:
    """Every N-th cell (or anything else), from number n: part n/N of a job array.

    Raises:
        InputError: not of the form n/N with 1 <= n <= N.
    """
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", part)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"part: {part!r} is not one of 1/N, 2/N, ... N/N; write for example 2/4")
    return every[int(found[1]) - 1 :: int(found[2])]


def arguments(stage: Stage, verb: Verb, cell: Cell, folder: Path) -> list[str]:
    """The command line of a stage's verb."""
    root = cell.home
    argv: list[str] = [verb]
    for name in stage.config:
        if not (folder / name).is_file():
            raise InputError(f"stage {stage.name}: {folder / name}: no such configuration file; mend its `config`")
        argv += ["--config", str(folder / name)]
    if verb in TRAINER_VERBS:
        argv += [f"--trainer.default_root_dir={root / stage.name}", f"--seed_everything={cell.seed}"]
        argv.append(f"--data.seed={cell.seed}")
    elif verb == "init":
        argv += [f"--out={root / stage.name / 'last'}", f"--seed={cell.seed}"]
    else:
        argv.append(f"--root={root / stage.name}")
    for key, value in stage.args.items():
        text = value if isinstance(value, str) else json.dumps(value)
        argv.append(f"--{key}={cell.fill(text)}")
    if verb == "fit":
        argv.append("--ckpt_path=last")
    elif verb == "test" and "fit" in stage.verbs:
        argv.append(f"--model.path={root / stage.name / 'last'}")
    return argv


def stage_fingerprint(argv: list[str]) -> str:
    """Fingerprint of a command line: its words, files and datasets that it names, policies that it starts from.

    Of a configuration file the content counts, not its place: a chain that was printed or copied names them otherwise.
    """
    contents: list[str] = []
    given = [word for word in argv if not word.startswith("--out=")]  # what init makes is no input
    for key, text in (pair for word in given for pair in texts_in(word)):
        # Unlike Path.is_file, this takes a text of any length.
        if os.path.isfile(text):
            contents.append(Path(text).read_text(errors="surrogateescape"))
        elif os.path.isfile(os.path.join(text, "config.json")):
            contents.append(fingerprint_policy(Path(text)))
        elif is_source(key) and os.path.isdir(text) and (datasets := fingerprint_datasets(Path(text))):
            contents.append(datasets)
    words = [word for before, word in pairwise(["", *argv]) if before != "--config"]
    return fingerprint(__version__, words, contents)


def texts_in(word: str) -> list[tuple[str, str]]:
    """Dotted key and text of an option, or of all texts in it where it is a JSON object or list."""
    option = word.startswith("--") and "=" in word  # a file's name may hold one, too
    key, value = word.removeprefix("--").split("=", 1) if option else ("", word)
    left: list[tuple[str, Any]] = [(key, value)]
    with suppress(ValueError, RecursionError):
        left = [(key, json.loads(value))]
    found: list[tuple[str, str]] = []
    while left:
        key, item = left.pop()
        if isinstance(item, str):
            found.append((key, item))
        elif isinstance(item, dict):
            left += [(f"{key}.{name}", inner) for name, inner in item.items()]
        elif isinstance(item, list):
            left += [(key, inner) for inner in item]
    return found


def is_done(record: Path, mark: str, output: Path) -> bool:
    """Whether a stage has run with this fingerprint and its output is there."""
    if not (record.is_file() and output.exists()):
        return False
    try:
        return bool(json.loads(record.read_bytes())["fingerprint"] == mark)
    except (ValueError, KeyError, TypeError, RecursionError):  # damaged: it tells of nothing that is done
        return False


def runs(stages: list[Stage], repeat: list[Cell]) -> list[tuple[Cell, Stage, Verb]]:
    """What a chain runs, in order."""
    return [
        (cell, stage, verb)
        for cell in repeat
        for stage in stages
        if cell.size is None or stage.sizes is None or cell.size in stage.sizes
        for verb in stage.verbs
    ]


def run_name(cell: Cell, stage: Stage, verb: Verb | Draw) -> str:
    """What ``--only`` calls a run or a draw: ``ROOT/seed-0/STAGE:VERB``."""
    return f"{cell.home / stage.name}:{verb}"


def selected(
    todo: list[tuple[Cell, Stage, Verb]], only: str | None
) -> tuple[list[tuple[Cell, Stage, Verb]], Draw | None]:
    """The runs that a selector names, and what is drawn for them; None for the runs themselves.

    Args:
        todo: the runs of a chain.
        only: ``STAGE:VERB`` for those of all cells, ``seed-0/STAGE:VERB`` for one cell's; of the draws, ``solutions``
            and ``values`` belong to a fit, ``evaluation`` to a test. None for all runs.

    Raises:
        InputError: there is none.
    """
    if only is None:
        return todo, None
    draw = next((d for d in get_args(Draw) if only.endswith(f":{d}")), None)
    of_verb = [run for run in todo if draw is None or run[2] == DRAWN_FOR[draw]]
    found = [run for run in of_verb if f"/{run_name(run[0], run[1], draw or run[2])}".endswith(f"/{only}")]
    if not found:
        known = ", ".join(dict.fromkeys(f"{stage.name}:{verb}" for _, stage, verb in todo))
        raise InputError(
            f"only: the chain has no run {only!r}; its runs are {known}; solutions and values are drawn for a fit,"
            " evaluation for a test"
        )
    return found, draw


def dry_run(
    folder: Path,
    stages: list[Stage],
    repeat: list[Cell],
    only: str | None = None,
    part: str = "1/1",
    gpus: int | None = None,
) -> str:
    """The command line of each run or draw that :func:`pipeline` would do were none done, quoted for a shell.

    Raises:
        InputError: a configuration file is missing, there is no run ``only``, or no share ``part``.
    """
    todo, draw = selected(runs(stages, repeat), only)
    if draw is not None:
        part_of(todo, part)
    every = (arguments(stage, verb, cell, folder) for cell, stage, verb in todo)
    return "\n".join(
        shlex.join(["stepneg", *(argv if draw is None else drawing(draw, part, gpus, argv))]) for argv in every
    )


def drawing(draw: Draw, part: str, gpus: int | None, argv: Sequence[str]) -> list[str]:
    """The command line that draws a share of what a fit or test, of which ``argv`` is the command line, samples."""
    shared = [] if gpus is None else [f"--tensor_parallel_size={gpus}"]
    return ["draw", draw, f"--part={part}", *shared, *draw_options(argv)]


def pipeline(
    run: Callable[[list[str]], None],
    folder: Path,
    stages: list[Stage],
    repeat: list[Cell],
    only: str | None = None,
    part: str = "1/1",
    gpus: int | None = None,
) -> None:
    """Run the stages in order in each cell. A stage whose fingerprint and output are there is skipped.

    Args:
        run: executes a ``stepneg`` command line in this process (the sampling engine lives on between stages).
        folder: where the stages' configuration files are.
        stages: the chain.
        repeat: each cell repeats the chain.
        only: the runs or draws that are done of it, see :func:`selected`; None for all runs.
        part: the share n/N of the problems of a draw.
        gpus: that share the model in a draw; None for what the options say of the engine.
    """
    started = time.monotonic()
    todo, draw = selected(runs(stages, repeat), only)
    took: Took = {}
    left: list[Kind] = []
    for cell, stage, verb in todo:
        planned = plan(cell, stage, verb, folder)
        if planned.done():
            took.setdefault((stage.name, verb), []).extend(planned.took())
        else:
            left.append((stage.name, verb))
    for number, (cell, stage, verb) in enumerate(todo, 1):
        planned, kind = plan(cell, stage, verb, folder), (stage.name, verb)
        label = f"{cell.name}, {stage.name}: {draw or verb}"
        if planned.done():
            say(f"[{number}/{len(todo)}] {label} is done, unchanged")
            continue
        ahead = time_left(left, took) if draw is None else None
        about = f", about {duration(ahead)} left" if ahead is not None else ""
        say(f"[{number}/{len(todo)} {duration(time.monotonic() - started)} so far{about}] {label}")
        if draw is not None:
            run(drawing(draw, part, gpus, planned.argv))
            continue
        with held(cell.home / stage.name) if leads() else nullcontext():
            (forget_other if leads() else await_lead)(cell.home / stage.name, verb, planned.mark)
            begun = time.monotonic()
            run(planned.argv)
            seconds = time.monotonic() - begun
            if leads():
                facts = {"fingerprint": planned.mark, "argv": planned.argv, "seconds": seconds}
                if verb == "fit":
                    facts["policy"] = exported(cell.home / stage.name / "last")
                write_whole(planned.record, json.dumps(facts, indent=1))
        took.setdefault(kind, []).append(seconds)
        if kind in left:
            left.remove(kind)


@dataclass(frozen=True)
class Planned:
    """A run of a chain: its command line and its fingerprint, the record of its end, and what it leaves."""

    argv: list[str]
    mark: str
    record: Path
    output: Path

    def done(self) -> bool:
        """Whether it has run, and what it left is there and its own."""
        if not is_done(self.record, self.mark, self.output):
            return False
        said = json.loads(self.record.read_bytes()).get("policy")
        own = said is None or exported(self.record.parent / "last") in (said, None)
        return own and (self.record.name != "test.json" or of_own_policy(self.record.parent))

    def took(self) -> list[float]:
        """The seconds of a run that is done, if they were recorded."""
        seconds = json.loads(self.record.read_text()).get("seconds")
        return [] if seconds is None else [float(seconds)]


def plan(cell: Cell, stage: Stage, verb: Verb, folder: Path) -> Planned:
    """A run as things are now: its fingerprint changes with the policies that it starts from."""
    home, argv = cell.home / stage.name, arguments(stage, verb, cell, folder)
    return Planned(argv, stage_fingerprint(argv), home / f"{verb}.json", home / OUTPUTS.get(verb, f"{verb}.csv"))


def time_left(left: Sequence[Kind], took: Took) -> float | None:
    """How long the runs that are left may take, in seconds; None before one is done.

    Each as long as those of its stage and verb took on the mean, else those of its verb, else all.
    """
    every = [seconds for times in took.values() for seconds in times]
    if not every:
        return None

    def expected(kind: Kind) -> float:
        of_verb = [seconds for (_, verb), times in took.items() if verb == kind[1] for seconds in times]
        return mean(took.get(kind) or of_verb or every)

    return sum(map(expected, left))


def say(line: str) -> None:
    """A line on how far the chain is, of one process for all."""
    if leads():
        print(line, flush=True)


def draw_options(argv: Sequence[str]) -> list[str]:
    """A fit's or test's command line without its verb and without the checkpoint to go on from."""
    return [word for word in argv[1:] if not word.startswith("--ckpt_path")]


def leads() -> bool:
    """Whether this process keeps the books: of several that srun or torchrun starts, the first."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def await_lead(home: Path, verb: Verb, mark: str) -> None:
    """Wait until the process that keeps the books has done :func:`forget_other`.

    Raises:
        TimeoutError: nothing of it after 10 minutes.
    """
    started = home / f"{verb}.started"
    for _ in range(1200):
        if read(started) == mark:
            return
        time.sleep(0.5)
    raise TimeoutError(f"{started}: the first process has not written it; is the run directory on a shared disk?")


def forget_other(home: Path, verb: Verb, mark: str) -> None:
    """Remove what an earlier run of the chain left in the way: checkpoints of a fit with other settings, so that only
    its own are resumed, and the policy of an init, which does not overwrite one. A policy that was there before the
    chain is not the chain's to remove, nor is a checkpoint, which is put aside.
    """
    home.mkdir(parents=True, exist_ok=True)
    started = home / f"{verb}.started"
    if verb == "init" and started.is_file():
        remove(home / "last")
    elif verb == "init" and (home / "last").exists():
        return
    elif verb == "fit" and not started.is_file():
        for old in home.glob("checkpoints/last*.ckpt"):  # of a fit by hand
            put_aside(old)
    elif verb == "fit" and started.read_text() != mark:
        for pattern in ("*.ckpt", ".*.ckpt.partial", ".*.ckpt.old"):  # of several ranks they are folders
            for old in home.glob(f"checkpoints/{pattern}"):
                remove(old)
    write_whole(started, mark)
