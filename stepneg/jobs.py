"""The runs of a chain as jobs: which are done, which wait for which, and which draw for others in job arrays."""

import re
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepneg.errors import InputError
from stepneg.pipeline import (
    OUTPUTS,
    Cell,
    Draw,
    Stage,
    Verb,
    arguments,
    is_done,
    run_name,
    runs,
    stage_fingerprint,
    texts_in,
)

ARRAYS: dict[Draw, str] = {"solutions": "sample", "values": "values", "evaluation": "evaluate"}  # scripts in sbatch/


@dataclass(frozen=True)
class Job:
    """A run of the chain.

    Attributes:
        cell: its repetition.
        stage: its stage.
        verb: its verb.
        argv: its command line.
        done: whether it is done and unchanged.
        after: names of the runs that are not done and whose results it names.
    """

    cell: Cell
    stage: Stage
    verb: Verb
    argv: tuple[str, ...]
    done: bool
    after: tuple[str, ...] = ()

    @property
    def home(self) -> Path:
        """The run directory."""
        return self.cell.home / self.stage.name

    @property
    def name(self) -> str:
        """What ``--only`` calls it."""
        return run_name(self.cell, self.stage, self.verb)

    def leaves(self, path: Path) -> bool:
        """Whether a path is of its results: a test's are in ``evaluation``, those of other verbs beside it."""
        below = path.is_relative_to(self.home) and path != self.home
        return below and path.is_relative_to(self.home / "evaluation") == (self.verb == "test")


def jobs_of(folder: Path, stages: Sequence[Stage], repeat: Sequence[Cell]) -> list[Job]:
    """The runs of a chain in order. What starts from a run that is not done is not done either."""
    jobs: list[Job] = []
    for cell, stage, verb in runs(list(stages), list(repeat)):
        argv = arguments(stage, verb, cell, folder)
        home = cell.home / stage.name
        words = [Path(text) for word in argv for _, text in texts_in(word)]
        after = tuple(job.name for job in jobs if not job.done and any(map(job.leaves, words)))
        output = home / OUTPUTS.get(verb, f"{verb}.csv")
        done = not after and is_done(home / f"{verb}.json", stage_fingerprint(argv), output)
        jobs.append(Job(cell, stage, verb, tuple(argv), done, after))
    return jobs


@dataclass(frozen=True)
class Submission:
    """A job for a cluster.

    Attributes:
        name: of the run, or of what is drawn for it; ``--only`` takes it.
        script: of the folder ``sbatch``, without its ending.
        array: whether any number of tasks share it.
        after: names of those that have to succeed before.
    """

    name: str
    script: str
    array: bool
    after: tuple[str, ...]


def submissions(
    jobs: Sequence[Job],
    draws: Callable[[Job], Sequence[tuple[Draw, Hashable]]],
    only: Collection[str] | None = None,
) -> list[Submission]:
    """What is submitted for the jobs that are not done: before a run, one after the other, the arrays that draw for it.

    Arrays that draw from one distribution go one after the other, too: each finds what the earlier ones have stored.

    Args:
        jobs: of a chain, in order.
        draws: what is drawn for a job before it runs, each with the distribution that it is drawn from.
        only: names of those that are submitted, and that others can wait for; None for all.
    """
    found: list[Submission] = []
    latest: dict[Hashable, str] = {}
    for job in jobs:
        if job.done:
            continue
        after = tuple(name for name in job.after if only is None or name in only)
        for draw, distribution in draws(job):
            name = run_name(job.cell, job.stage, draw)
            if only is not None and name not in only:
                continue
            before = latest.get(distribution)
            after = after if before is None or before in after else (*after, before)
            found.append(Submission(name, ARRAYS[draw], True, after))
            latest[distribution] = name
            after = (name,)
        if only is None or job.name in only:
            found.append(Submission(job.name, "fit" if job.verb == "fit" else "evaluate", False, after))
    return found


def lines(found: Sequence[Submission]) -> str:
    """A line each, of words: name, script, ``array`` or ``single``, and the names that it waits for.

    Raises:
        InputError: a shell would take a name for several words or a pattern.
    """
    if stray := next((s.name for s in found if re.search(r"[\s*?\[\]\\]", s.name)), None):
        raise InputError(f"jobs: {stray!r} is no word of a shell; give a --root without blanks and without * ? [ ] \\")
    return "\n".join(" ".join([s.name, s.script, "array" if s.array else "single", *s.after]) for s in found)
