"""Which verb runs what."""

import argparse
import inspect
import json
import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import jsonargparse

from stepneg import __version__
from stepneg.chains import estimate_verb, pipeline_verb, sweep_verb
from stepneg.errors import InputError
from stepneg.options import Parser, call, parse
from stepneg.studies import STUDIES


def init_verb(argv: list[str]) -> None:
    """A fresh small model folder with its own tokenizer."""
    from stepneg.initialise import init

    call(init, argv, "init", [])


def draw_verb(argv: list[str]) -> None:
    """A share of what a fit or a test samples, into the store; with the options of the fit or test.

    stepneg draw solutions|values|evaluation [--part n/N] [--tensor_parallel_size N] [options of stepneg fit or test]

    --tensor_parallel_size is how many GPUs share the model; without it, what the options say of the engine.
    """
    from stepneg.pipeline import DRAWN_FOR

    what, *rest = argv or [""]
    if what in ("-h", "--help"):
        print(inspect.getdoc(draw_verb))
        return
    if what not in DRAWN_FOR:
        raise InputError(f"draw: {what!r} is none of {', '.join(DRAWN_FOR)}; write for example: {DRAW_EXAMPLE}")
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--part", default="1/1")
    own.add_argument("--tensor_parallel_size")
    config, options = own.parse_known_args(rest)
    size = config.tensor_parallel_size
    if size is not None and not (size.isdecimal() and int(size)):
        raise InputError(f"draw: --tensor_parallel_size is {size!r}, not a number of GPUs; write for example 4")
    from stepneg.draw import draw  # imports of seconds

    print(draw(what, config.part, options, size and int(size)), flush=True)


DRAW_EXAMPLE = "stepneg draw values --part 3/8 --config configs/gsm8k/step_dpo.yaml"


def export_verb(argv: list[str]) -> None:
    """What a run has sampled, trained on or scored, in a format of the field.

    stepneg export samples|pairs|evaluation SOURCE OUTPUT [options]; stepneg export samples --help explains one.
    """
    what, *rest = argv or [""]
    if what in ("-h", "--help"):
        print(inspect.getdoc(export_verb))
        return
    if what not in EXPORTS:
        raise InputError(f"export: {what!r} is none of {', '.join(EXPORTS)}; write for example: {EXPORT_EXAMPLE}")
    module, name = EXPORTS[what]
    function = getattr(import_module(module), name)
    print(call(function, rest, f"export {what}", list(inspect.signature(function).parameters)[:2]))


EXPORTS = {
    "samples": ("stepneg.formats.export", "export_samples"),
    "pairs": ("stepneg.formats.export", "export_pairs"),
    "evaluation": ("stepneg.formats.harness", "export_evaluation"),
}
EXPORT_EXAMPLE = "stepneg export pairs runs/arithmetic/step_dpo pairs.parquet"


def import_verb(argv: list[str]) -> None:
    """Solutions that were sampled elsewhere, into the store of a fit, which then draws only what is missing.

    stepneg import FILE [--split train] [options of stepneg fit]

    FILE is JSONL, Parquet, a folder of datasets or hub:owner/name. A row is a solution: response (text) or response_ids
    (token ids of the fit's policy), and problem_id, question or prompt; optional are logprob and finish_reason.
    """
    source, *rest = argv or [""]
    if source in ("-h", "--help"):
        print(inspect.getdoc(import_verb))
        return
    if source.startswith("-") or not source:
        raise InputError(f"import: names no file; write for example: {IMPORT_EXAMPLE}")
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--split", default="train")
    config, options = own.parse_known_args(rest)
    from stepneg.formats.solutions import import_solutions  # imports of seconds

    print(import_solutions(source, options, config.split))


IMPORT_EXAMPLE = "stepneg import solutions.jsonl --config configs/arithmetic/rft.yaml"


def study_verb(module: str, name: str, argv: list[str]) -> None:
    """Run a study's command: the function ``name`` of the module, which returns its table."""
    print(call(getattr(import_module(module), name), argv, name, []))


def report_verb(argv: list[str]) -> None:
    """Tables, plots and a page over all tested runs below directories: report.md, report.tex, report.csv, *.png."""
    parser = Parser(prog="stepneg report", description=report_verb.__doc__)
    parser.add_argument("root", nargs="+", type=Path, help="a run directory, or one above several; more are compared")
    said = "methods in the order that is checked"
    parser.add_argument("--order", type=list[str], default=["sft", "rft", "step_dpo"], help=said)
    said = "the method that the others are held against on the same problems; by default sft, or else the first"
    parser.add_argument("--baseline", type=str | None, default=None, help=said)
    said = "folder that is written to; by default ROOT, of several it must be named"
    parser.add_argument("--output", type=Path | None, default=None, help=said)
    given = parse(parser, argv)
    from stepneg.analysis.report import brief, report

    print(brief(report(given.root, given.order, given.baseline, given.output)))
    print(f"\nwritten: {(given.output or given.root[0]) / 'report.md'}, report.tex, report.csv")


def evaluate_verb(argv: list[str]) -> None:
    """Greedy accuracy, pass@k and maj@k of a policy folder."""
    from stepneg.evaluation import evaluate_policy

    print(call(evaluate_policy, argv, "evaluate", ["policy"]))


def traces_verb(argv: list[str]) -> None:
    """One HTML page to browse a run's solutions."""
    from stepneg.analysis.traces import traces  # imports of seconds

    print(call(traces, argv, "traces", ["run"]))


def grade_verb(argv: list[str]) -> None:
    """Grade the responses of a JSONL file; the summary goes to standard output as JSON."""
    from stepneg.grading.batch import grade_file

    print(json.dumps(call(grade_file, argv, "grade", ["file"]), indent=1))


def memory_verb(argv: list[str]) -> None:
    """What training a model takes of each GPU, whether it fits and with how many rows."""
    from stepneg.memory import memory

    print(call(memory, argv, "memory", ["model"]))


def rerun_verb(argv: list[str]) -> None:
    """Repeat a run or a chain from its directory alone, and compare; the exit code is 1 where something differs."""
    from stepneg.rerun import rerun

    table, same = call(rerun, argv, "rerun", ["run_dir"])
    print(table)
    if not same:
        raise SystemExit(1)


def compare_verb(argv: list[str]) -> None:
    """Two evaluations of the same problems, paired."""
    from stepneg.analysis.paired import compare_files

    print(call(compare_files, argv, "compare", ["first", "second"]))


def doctor_verb(argv: list[str]) -> None:
    """What this machine has of what stepneg needs, and how to mend what it lacks; exit code 1 if something fails."""
    parser = Parser(prog="stepneg doctor", description=doctor_verb.__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run directories will be")
    parser.add_argument("--store", type=Path, default=Path("runs/samples"), help="folder of the sample store")
    said = "HF folder that vLLM and transformers are compared on; else assets/arithmetic-base, or a tiny random one"
    parser.add_argument("--policy", type=Path | None, default=None, help=said)
    said = "start vLLM for that, which takes up to a minute; --engine false leaves it out"
    parser.add_argument("--engine", type=bool, default=True, help=said)
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    given = parse(parser, argv)
    from stepneg.doctor import doctor

    if not doctor(given.runs, given.store, given.policy, given.engine, given.json):
        raise SystemExit(1)


def usage() -> str:
    """What ``stepneg --help`` says: every verb in a line."""
    lines = [
        "usage: stepneg VERB [options]",
        "",
        "Learn from the step where a wrong solution went wrong: sample a policy with vLLM, grade, find the pit of",
        "wrong solutions by rollouts, train on it with per-step DPO or advantage-weighted losses, evaluate.",
        "",
    ]
    for heading, verbs in SUMMARIES.items():
        lines += [f"{heading}:", *(f"  {name:<12}{what}" for name, what in verbs.items()), ""]
    lines.append("stepneg VERB --help explains a verb; options come from --config FILE.yaml, too.")
    return "\n".join([*lines, "stepneg --version says which this is."])


TRAINING = "Training, by LightningCLI"
SUMMARIES = {
    TRAINING: {
        "fit": "build the data that a method needs and train on it",
        "validate": "loss on the validation problems",
        "test": "accuracy on the test problems, by the evaluation callback",
        "predict": "log-probabilities of held-out solutions, to RUN/predictions.jsonl",
    },
    "Experiments": {
        "pipeline": "a chain of fits and tests over seeds; done ones are skipped",
        "sweep": "the chain at several sizes, and which method needs how many problems",
        "estimate": "what a chain or a sweep will cost, before it is run",
        "memory": "what training a model takes of each GPU, and what fits",
        "report": "tables, plots and a page for an appendix over all tested runs below directories",
        "compare": "two evaluations of the same problems, paired",
        "rerun": "repeat a run or a chain from its directory alone, and compare",
        "traces": "one HTML page to browse a run's solutions: step values, pits, pairs, verdicts",
    },
    "Single steps": {
        "init": "a fresh small model folder with its own tokenizer",
        "draw": "a share of what a fit or test samples, into the store",
        "evaluate": "greedy accuracy, pass@k and maj@k of a policy",
        "grade": "grade the responses of a JSONL file",
        "export": "samples, pairs or an evaluation, in a format of the field",
        "import": "solutions sampled elsewhere, into the store of a fit",
        "doctor": "what this machine has of what stepneg needs, and how to mend what it lacks",
    },
    "Studies": {
        "theorem": "Theorem 6.1 as an experiment",
        "credit": "estimated pits against the true ones",
        "spurious": "wrong steps in right solutions, built and found",
        "likelihood": "how likely marked steps are under several policies",
        "first_hop": "the critical step of star graphs over training",
    },
}


def with_shipped(argv: list[str]) -> list[str]:
    """The command line with ``--config configs/...`` taken from the package where there is no such file here."""
    found, before = [], ""
    for word in argv:
        option, _, name = word.rpartition("=") if word.startswith("--config=") else (before, "", word)
        if option == "--config" and name.startswith("configs/") and not Path(name).exists():
            shipped = files("stepneg.configs").joinpath(name.removeprefix("configs/"))
            if shipped.is_file():
                word = word.removesuffix(name) + str(shipped)
        found.append(word)
        before = word
    return found


def run(argv: list[str], summary: bool = True) -> None:
    """Run the verb that ``argv`` starts with.

    Args:
        argv: the command line.
        summary: print at the end of a fit or test what was written where.

    Raises:
        InputError: an argument or a configuration file does not parse.
    """
    if argv[:1] in ([], ["-h"], ["--help"]):
        print(usage())
        raise SystemExit(0 if argv else 2)
    if argv == ["--version"]:
        print(f"stepneg {__version__}")
        return
    known = [verb for verbs in SUMMARIES.values() for verb in verbs]
    if argv[0] not in known and not argv[0].startswith("-"):
        near = get_close_matches(argv[0], known, 1)
        guess = f"did you mean {near[0]}?" if near else f"verbs are {', '.join(known)}"
        raise InputError(f"there is no verb {argv[0]!r}; {guess}")
    from stepneg.bounded_yaml import bound_yaml, check_files  # imports yaml

    bound_yaml()
    argv = with_shipped(argv)
    check_files(argv)
    if not sys.stderr.isatty():  # the bars of other libraries draw over themselves, which a log cannot
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        if argv[0] in VERBS:
            VERBS[argv[0]](argv[1:])
        elif {"-h", "--help"} & set(argv) and "all" not in argv:  # `--help all` is Lightning's, of 700 lines
            from stepneg.fit_help import fit_help

            print(fit_help(argv[0], SUMMARIES[TRAINING][argv[0]]))
        else:
            from stepneg import training  # lightning takes seconds to import

            places = training.run(argv)
            if summary and places:
                print(places, flush=True)
    except jsonargparse.ArgumentError as error:
        raise InputError(str(error)) from error


VERBS: dict[str, Callable[[list[str]], None]] = {
    "init": init_verb,
    "pipeline": partial(pipeline_verb, run),
    "sweep": partial(sweep_verb, run),
    "estimate": estimate_verb,
    "draw": draw_verb,
    "export": export_verb,
    "import": import_verb,
    "report": report_verb,
    "evaluate": evaluate_verb,
    "grade": grade_verb,
    "traces": traces_verb,
    "compare": compare_verb,
    "memory": memory_verb,
    "rerun": rerun_verb,
    "doctor": doctor_verb,
    **{name: partial(study_verb, module, name) for name, module in STUDIES.items()},
}
