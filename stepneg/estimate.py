"""``stepneg estimate``: what a chain will cost, from a short calibration, before it is run."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from stepneg.calibration import Calibration, Unknown, devices_of
from stepneg.costs import HEADINGS, Cost, in_time, in_words
from stepneg.errors import InputError
from stepneg.jobs import Job, jobs_of
from stepneg.pipeline import Cell, Stage
from stepneg.sampling.vllm_engine import VLLMEngine


def estimates(
    folder: Path, stages: Sequence[Stage], repeat: Sequence[Cell], problems: int, steps: int
) -> tuple[list[tuple[Job, Cost | str]], list[str]]:
    """The cost of each job, ``done`` or why it is unknown; and what was measured and assumed.

    Args:
        folder: where the stages' configuration files are.
        stages: the chain.
        repeat: its cells; those of the same size are calibrated once.
        problems: of each stage's data that are made for the calibration.
        steps: the most that the calibration trains.

    Raises:
        InputError: the policy that the chain starts from is not there.
    """
    if problems < 1 or steps < 1:
        raise InputError(f"estimate: problems is {problems}, steps {steps}; give at least 1 of each")
    started = time.monotonic()
    jobs = jobs_of(folder, stages, repeat)
    with tempfile.TemporaryDirectory(prefix="stepneg-estimate-") as home:
        calibration = Calibration(jobs, problems, steps, Path(home))
        unknown: dict[int, str] = {}
        left = [job for job in jobs if not job.done and job.verb in ("fit", "test")]
        if not left:
            reasons = {True: "done", False: "not estimated"}
            return [(job, reasons[job.done]) for job in jobs], []
        calibration.trained  # noqa: B018  (measured first: the others use it)
        for number, job in enumerate(jobs):
            try:
                if not job.done or samples_for_later(calibration, jobs[number:]):
                    calibration.measure(job)
            except Unknown as reason:
                unknown[number] = str(reason)
        calibration.load_another()
        rows: list[tuple[Job, Cost | str]] = []
        served: dict[VLLMEngine, str] = {}
        for number, job in enumerate(jobs):
            known = "done" if job.done else unknown.get(number)
            rows.append((job, known or calibration.cost(job, served)))
        return rows, notes(calibration, time.monotonic() - started)


def samples_for_later(calibration: Calibration, jobs: Sequence[Job]) -> bool:
    """Whether the samples of the first job, a fit that is done, are also those of a later fit that is not."""
    first, *later = jobs
    if first.verb != "fit" or not hasattr(calibration.options(first).data, "rollouts"):
        return False
    policy = calibration.options(first).data.policy
    same = (job for job in later if job.cell == first.cell and job.verb == "fit" and not job.done)
    return any(getattr(calibration.options(job).data, "policy", None) == policy for job in same)


def notes(calibration: Calibration, seconds: float) -> list[str]:
    """What was measured, and what is assumed."""
    trained, shape = calibration.trained, calibration.trained.shape
    lines = [
        f"Calibrated in {in_time(seconds)}: {trained.steps} training steps at {trained.tokens_per_second:,.0f} "
        f"tokens/s, {trained.overhead:.1f} s for the rest of a fit or test."
    ]
    for meter in calibration.meters.values():
        tokens, waited = sum(d.tokens for d in meter.draws), sum(d.seconds for d in meter.draws)
        lines.append(
            f"The engine starts in {meter.start:.0f} s, loads a policy in {meter.reload:.1f} s, draws "
            f"{tokens / max(waited, 1e-9):,.0f} tokens/s."
        )
    made = next((job.home / "last" for job in calibration.jobs if job.verb == "fit"), None)
    if made is not None:
        like = calibration.stand_in(made)
        which = f"that of those {trained.steps} steps" if like == trained.policy else str(like)
        lines.append(f"Assumed: policies that the chain makes sample like {which}. Better ones leave fewer negatives.")
    fits = (job for job in calibration.jobs if job.verb == "fit" and not job.done)
    if (most := max((devices_of(calibration.options(job).trainer) for job in fits), default=1)) > 1:
        lines.append(f"Assumed: {most} devices train {most} times as fast as the one that was measured.")
    return [
        *lines,
        "Data tokens count as in the report; drawn ones leave out what an earlier run of the chain will have drawn.",
        f"FLOPs: D (6 N + 6 L d T) for D tokens in rows of T; N = {shape.parameters:,} weights without the input "
        f"embedding, L = {shape.layers} layers of width d = {shape.width}.",
    ]


def import_seconds() -> float:
    """What a process of the command takes for its imports."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import stepneg.training, stepneg.analysis.report"], check=True)
    return time.monotonic() - started


def estimate(folder: Path, stages: Sequence[Stage], repeat: Sequence[Cell], problems: int, steps: int) -> str:
    """The costs of a chain as a Markdown table and what they rest on; arguments of :func:`estimates`."""
    with redirect_stdout(sys.stderr):  # Lightning's words; the table alone goes to standard output
        rows, lines = estimates(folder, stages, repeat, problems, steps)
    known = [cost for _, cost in rows if isinstance(cost, Cost)]
    table: list[tuple[str, ...]] = [("cell", "stage", "verb", *HEADINGS)]
    for job, cost in rows:
        words = in_words(cost) if isinstance(cost, Cost) else [cost, *[""] * (len(HEADINGS) - 1)]
        table.append((job.cell.name, job.stage.name, job.verb, *words))
    if known:
        process = Cost(seconds=import_seconds())
        table.append(("", "the command", "", *in_words(process)))
        table.append(("", "total", "", *in_words(sum(known, process))))
    missing = [f"{job.stage.name}: {job.verb}" for job, cost in rows if isinstance(cost, str) and cost != "done"]
    if missing:
        lines.append(f"Not in the total: {', '.join(dict.fromkeys(missing))}.")
    rule = "|---|---|---|" + "---:|" * len(HEADINGS)
    first, *rest = (f"| {' | '.join(row)} |" for row in table)
    return "\n".join([first, rule, *rest, "", *lines])
