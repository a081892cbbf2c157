"""``stepneg draw``: what a fit or a test samples, put into the store by any number of processes; nothing is trained.

A process takes a share of the problems. A sample's seed depends on neither share nor order, so that the fit or test
then finds the very samples that it would have drawn.
"""

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonargparse

from stepneg.data.prepared import Prepared
from stepneg.data.rows import encode_prompt
from stepneg.errors import InputError
from stepneg.evaluation import draw_solutions
from stepneg.jobs import Job, jobs_of, lines, submissions
from stepneg.pipeline import TRAINER_VERBS, Cell, Draw, Stage, part_of, run_name, runs, selected
from stepneg.policy_folder import load_tokenizer
from stepneg.problems import Problem
from stepneg.resolved import evaluation_of, resolver, start_of
from stepneg.sampling.store import SampleStore
from stepneg.sampling.vllm_engine import VLLMEngine


def share_of(problems: Sequence[Problem], part: str) -> list[Problem]:
    """The share n/N of problems: disjoint, within one of equal size, independent of the problems' order.

    Problems of one question stay together, since they have their samples in common.
    """
    questions = sorted({p.question for p in problems}, key=lambda q: hashlib.sha256(q.encode()).digest())
    mine = set(part_of(questions, part))
    return [p for p in problems if p.question in mine]


def drawn_by(given: jsonargparse.Namespace, verb: str) -> tuple[Draw, ...]:
    """What a fit or test as given draws, in the order in which one needs the other."""
    if verb == "fit" and isinstance(given.data, Prepared):
        return given.data.draws()
    callback = evaluation_of(given.trainer)
    return ("evaluation",) if verb == "test" and callback and callback.sources["test"] else ()


def distribution(given: jsonargparse.Namespace, what: Draw) -> Hashable:
    """What a draw's samples are samples of, and where they are kept: draws with the same may have them in common."""
    if what == "evaluation":
        callback = evaluation_of(given.trainer)
        assert callback is not None
        return callback.store.absolute(), start_of(given).absolute(), callback.sampled, callback.seed
    rollouts = given.data.rollouts
    return rollouts.store.absolute(), Path(given.data.policy).absolute(), rollouts.decoding, rollouts.seed


def chain_jobs(folder: Path, stages: Sequence[Stage], repeat: Sequence[Cell], only: str | None = None) -> str:
    """What is left of a chain as jobs, a line each. Each run's options are parsed: what is wrong in them shows here.

    Args:
        folder: where the stages' configuration files are.
        stages: the chain.
        repeat: each cell repeats the chain.
        only: the runs or draws that are listed, see :func:`~stepneg.pipeline.selected`; None for all.

    Raises:
        InputError: there is no run ``only``, or an option of a run is wrong.
    """
    found = None if only is None else selected(runs(list(stages), list(repeat)), only)
    jobs = jobs_of(folder, stages, repeat)
    if found is not None:
        jobs = [job for job in jobs if (job.cell, job.stage, job.verb) in found[0]]
    of_trainer = [job for job in jobs if job.verb in TRAINER_VERBS and not job.done]
    parser = resolver(of_trainer[0].argv) if of_trainer else None

    def draws(job: Job) -> Sequence[tuple[Draw, Hashable]]:
        if parser is None or job.verb not in TRAINER_VERBS:
            return ()
        given = parser.resolve(job.argv)
        return [(what, distribution(given, what)) for what in drawn_by(given, job.verb)]

    names = found and {run_name(cell, stage, found[1] or verb) for cell, stage, verb in found[0]}
    return lines(submissions(jobs, draws, names))


def draw(what: Draw, part: str, argv: Sequence[str], gpus: int | None = None) -> str:
    """Draw a share into the store.

    Args:
        what: ``solutions`` of the training problems, their step ``values``, or the ``evaluation`` of a test.
        part: the share, n/N.
        argv: the options of the fit or test.
        gpus: that share the model; None for what the options say of the engine.

    Returns:
        A line on what is there now.

    Raises:
        InputError: nothing like it is drawn for this fit or test, or an option cannot be used.
    """
    given = resolver(["", *argv]).resolve(["", *argv])
    verb = "test" if what == "evaluation" else "fit"
    if what not in (can := drawn_by(given, verb)):
        data = type(given.data).__name__
        raise InputError(f"draw: a {verb} of {data} as given draws {' and '.join(can) or 'nothing'}, no {what}")
    holder: Any = evaluation_of(given.trainer) if what == "evaluation" else given.data.rollouts
    engine = replace(holder.engine, devices=None)  # nothing trains beside it, and the job's GPUs are others
    if gpus is not None:
        engine = replace(engine, tensor_parallel_size=gpus)
    return (evaluation if what == "evaluation" else training)(given, what, part, engine)


def training(given: jsonargparse.Namespace, what: Draw, part: str, engine: VLLMEngine) -> str:
    """Solutions of a share of the training problems, or step values of those."""
    data: Any = given.data
    problems, rollouts = share_of(data.load_problems(), part), replace(data.rollouts, engine=engine)
    sampled = rollouts.solutions if what == "solutions" else rollouts.valued
    facts = sampled(data.policy, problems, load_tokenizer(data.policy, data.template), data.template).facts
    counts = ", ".join(f"{count:.0f} {name.replace('_', ' ')}" for name, count in facts.items())
    return f"{what} {part}: {len(problems)} problems; {counts}"


def evaluation(given: jsonargparse.Namespace, what: Draw, part: str, engine: VLLMEngine) -> str:
    """Greedy solutions and samples of a share of the test problems."""
    callback, policy = evaluation_of(given.trainer), start_of(given)
    assert callback is not None
    source = callback.sources["test"]
    assert source is not None
    problems, tokenizer = share_of(source.load(), part), load_tokenizer(policy, given.data.template)
    prompts = [encode_prompt(tokenizer, given.data.template, p.question) for p in problems]
    store = SampleStore(callback.store)
    draw_solutions(engine, store, policy, prompts, callback.k, callback.sampled, callback.seed)
    return f"{what} {part}: {len(problems)} problems, each greedily and {callback.k} times sampled"
