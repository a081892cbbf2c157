"""Which verb runs what."""

import argparse
import inspect
import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonargparse
from jsonargparse import ActionYesNo

from stepneg.config_files import Option, read_given
from stepneg.errors import InputError
from stepneg.options import Parser, parse

if TYPE_CHECKING:
    from stepneg.pipeline import Cell, Stage


def init_verb(argv: list[str]) -> None:
    """A fresh small model folder with its own tokenizer."""
    from stepneg.initialise import init

    call(init, argv, "init", [])


def pipeline_verb(argv: list[str]) -> None:
    """A chain of fits and tests, done stages skipped, and the report at the end."""
    from stepneg.pipeline import cells, pipeline

    parser = chain_parser("pipeline", pipeline_verb.__doc__)
    parser.add_argument(
        "--baseline", type=str | None, default=None, help="also write means over seeds, held against this run"
    )
    parser.add_argument("--order", type=list[str], default=[], help="methods in the order that the report checks")
    parser.add_argument("--part", type=str, default="1/1", help="with --only of a draw: which share of the problems")
    config = parsed(parser, argv)
    repeat = cells(config.root, config.seeds, None, config.as_dict()["constants"])
    if (said := told(config, repeat)) is not None:
        print(said)
        return
    check_stages(config, repeat[0], argv)
    stages = stages_of(config)
    with chain_record("pipeline", argv, config):
        each = partial(run, summary=config.only is not None)
        pipeline(each, folder_of(config), stages, repeat, config.only, config.part)
        if config.only is None:
            write_tables(config)
    if config.only is None:
        print_places(config.root)


def chain_record(verb: str, argv: list[str], config: jsonargparse.Namespace) -> AbstractContextManager[Any]:
    """The record of a chain that runs, in its root; kept by one of several processes that srun starts."""
    from stepneg.pipeline import leads
    from stepneg.record import chain, recorded

    if not leads():
        return nullcontext()
    return recorded(config.root, chain(verb, [verb, *argv], config.as_dict(), folder_of(config), config.root))


def print_places(root: Path) -> None:
    """Say where a chain has left what."""
    from stepneg.written import block, of_chain

    print(block(of_chain(root)), flush=True)


def told(config: jsonargparse.Namespace, repeat: list["Cell"]) -> str | None:
    """What a chain would run, for --dry_run and --jobs; None without these."""
    from stepneg.pipeline import dry_run

    if config.jobs:
        from stepneg.draw import chain_jobs  # imports of seconds, which --help shall not wait for

        return chain_jobs(folder_of(config), stages_of(config), repeat)
    return dry_run(folder_of(config), stages_of(config), repeat) if config.dry_run else None


def write_tables(config: jsonargparse.Namespace) -> None:
    """Report, study and the tables of study commands of a finished chain, as far as it has them."""
    from stepneg.analysis.report import brief, report  # imports of seconds, which --help shall not wait for
    from stepneg.analysis.study import over_seeds, study
    from stepneg.studies import credit, first_hop, spurious

    if any(config.root.glob("**/evaluation/test.json")):  # a chain may hold no tested policy
        print(brief(report(config.root, config.order)))
        print(f"\nthe whole page: {config.root / 'report.md'}")
    if config.baseline is not None:
        print(study(config.root, config.baseline))
    tables = {
        "credit": credit.table,
        "spurious": spurious.table,
        "likelihood": spurious.likelihood_table,
        "first_hop": first_hop.table,
    }
    for verb, table in tables.items():
        frame = over_seeds(config.root, verb)
        if frame is not None and len(config.seeds) > 1:  # of one seed the command itself has shown it
            for stage, rows in frame.groupby("stage", sort=False):
                print(f"{stage}, means over seeds:\n{table(rows)}")


def chain_parser(verb: str, description: str | None) -> jsonargparse.ArgumentParser:
    """The options that chains share."""
    from stepneg.pipeline import Stage

    parser = Parser(prog=f"stepneg {verb}", description=description)
    parser.add_argument("--config", action="config", required=True, help="the chain, a YAML file; more change it")
    parser.add_argument("--root", type=Path, required=True, help="run directory")
    parser.add_argument("--seeds", type=list[int], default=[0], help="each repeats the chain in ROOT/seed-N")
    parser.add_argument("--stages", type=list[Stage], required=True, help="name, config, args and verbs of each run")
    if verb != "estimate":  # which runs nothing as it is
        said = "print the command line of each run, run nothing"
        parser.add_argument("--dry_run", action=ActionYesNo, nargs="?", default=False, help=said)
        said = "print what is left to run as jobs of a cluster: name, script, array or single, names that it waits for"
        parser.add_argument("--jobs", action=ActionYesNo, nargs="?", default=False, help=said)
        said = "only STAGE:VERB (seed-0/STAGE:VERB), or STAGE:solutions, :values, :evaluation: what is drawn for it"
        parser.add_argument("--only", type=str | None, default=None, help=said)
    parser.add_argument("--args", type=dict[str, Any], default={}, help="further options of every fit and test")
    parser.add_argument(
        "--overlays",
        type=list[str],
        default=[],
        help="further configuration files of every fit and test, as for a model",
    )
    parser.add_argument(
        "--constants",
        type=dict[str, Any],
        default={},
        help="what else is replaced in the stages' args: {NAME} by its value",
    )
    return parser


def parsed(parser: jsonargparse.ArgumentParser, argv: list[str]) -> jsonargparse.Namespace:
    """The options of a chain; those with a default are there.

    Raises:
        InputError: one of them is null, which jsonargparse lets pass.
    """
    config = parse(parser, argv)
    for name in ("seeds", "sizes", "stages", "args", "overlays", "constants", "order"):
        if name in config and config[name] is None and parser.get_default(name) is not None:
            raise InputError(f"{name}: is null; give it a value, or leave it out")
        if name in ("seeds", "sizes") and config.get(name) == []:
            raise InputError(f"{name}: is empty, so nothing would run; give at least one, or leave it out")
    return config


def folder_of(config: jsonargparse.Namespace) -> Path:
    """The folder of the chain's first file, where the stages' configuration files are."""
    return Path(str(config.config[0])).parent


def stages_of(config: jsonargparse.Namespace) -> list["Stage"]:
    """The stages of a parsed chain; what their options name by class_path stays as it is."""
    from stepneg.pipeline import TRAINER_VERBS, Stage

    plain = config.as_dict()
    stages = [Stage(**stage) for stage in plain["stages"]]
    more, shared = plain["overlays"], plain["args"]
    return [
        replace(s, config=s.config + more, args=s.args | shared) if set(s.verbs) <= set(TRAINER_VERBS) else s
        for s in stages
    ]


def check_stages(config: jsonargparse.Namespace, cell: "Cell", argv: list[str]) -> None:
    """Parse the options of every run of a chain before the first begins, with one cell's values.

    Raises:
        InputError: the first mistake, with the stage's name and the line in the chain's file.
    """
    from stepneg.pipeline import TRAINER_VERBS, arguments

    if config.only is not None:  # a share of a job array parses its own
        return
    parsers: dict[str, jsonargparse.ArgumentParser] = {}
    for stage in stages_of(config):
        for verb in stage.verbs[:1] if stage.verbs[:1] == ["fit"] else stage.verbs:  # a test's options are its fit's
            if verb in TRAINER_VERBS and "trainer" not in parsers:
                from stepneg.resolved import options_parser

                parsers["trainer"] = options_parser()
            elif verb not in TRAINER_VERBS:
                module, name = {"init": "stepneg.initialise", **STUDIES}[verb], verb
                parsers[verb] = parser_of(getattr(import_module(module), name), verb, [])
            words = [w for w in arguments(stage, verb, cell, folder_of(config))[1:] if not w.startswith("--ckpt_path")]
            parser = parsers["trainer" if verb in TRAINER_VERBS else verb]
            try:
                parse(parser, words, lines_of(argv, stage.name))
            except InputError as error:
                raise InputError(f"stage {stage.name}, {verb}: {error}") from error


def lines_of(argv: list[str], stage: str) -> dict[str, str]:
    """File and line of each of a stage's options in the files of a chain."""
    shared: dict[str, str] = {}
    of_stages: list[tuple[dict[str, str | None], dict[str, str]]] = []  # of each: its keys, and lines of its options
    for file, item in read_given(argv):
        if isinstance(item, Option):
            continue
        where = {f"--{item.path[-1]}": f"{file}, line {item.line}"}
        if item.path[:1] == ("args",):
            shared |= where
        elif item.path[:1] == ("stages",) and len(item.path) > 1:
            if not of_stages or (len(item.path) == 2 and item.path[1] in of_stages[-1][0]):
                of_stages.append(({}, {}))  # a key that was there begins the next one, in whichever order they are
            keys, lines = of_stages[-1]
            if len(item.path) == 2:
                keys[item.path[1]] = item.value
            elif item.path[1] == "args":
                lines |= where
    return {
        option: line for keys, lines in of_stages if keys.get("name") == stage for option, line in lines.items()
    } | shared


def sweep_verb(argv: list[str]) -> None:
    """The chain at several sizes of the training set; which method needs how many problems."""
    from stepneg.pipeline import cells, part_of, pipeline

    parser = chain_parser("sweep", sweep_verb.__doc__)
    parser.add_argument("--sizes", type=list[int], required=True, help="training problems; ROOT/size-N/seed-M")
    parser.add_argument(
        "--part", type=str, default="1/1", help="which share of the cells, 1/4 to 4/4; with --only of the problems"
    )
    parser.add_argument(
        "--baseline", type=str, default="sft", help="the method whose curve the others are held against"
    )
    config = parsed(parser, argv)
    every = cells(config.root, config.seeds, config.sizes, config.as_dict()["constants"])
    chosen = part_of(every, config.part) if config.only is None else every
    if (said := told(config, chosen)) is not None:
        print(said)
        return
    check_stages(config, every[0], argv)
    stages = stages_of(config)
    each = partial(run, summary=config.only is not None)
    with chain_record("sweep", argv, config):
        pipeline(each, folder_of(config), stages, chosen, config.only, config.part)
    if config.only is not None:
        return
    if len(chosen) == len(every):
        from stepneg.analysis.scaling import scaling

        print(scaling(config.root, config.baseline))
        print_places(config.root)
    else:
        print(f"part {config.part} is done; once all are, the same command without --part writes the tables")


def estimate_verb(argv: list[str]) -> None:
    """What a chain or a sweep will cost, from a short calibration, before it is run."""
    from stepneg.pipeline import cells

    parser = chain_parser("estimate", estimate_verb.__doc__)
    parser.add_argument("--sizes", type=list[int] | None, default=None, help="training problems, as of a sweep")
    parser.add_argument(
        "--problems", type=int, default=32, help="of each stage's data that the calibration makes; evaluations take 4 x"
    )
    parser.add_argument("--steps", type=int, default=32, help="the most that the calibration trains")
    for name in ("order", "baseline"):
        parser.add_argument(f"--{name}", type=Any, default=None, help="what the chain's file says to the report")
    config = parsed(parser, argv)
    from stepneg.estimate import estimate  # imports of seconds, which --help shall not wait for

    repeat = cells(config.root, config.seeds, config.sizes, config.as_dict()["constants"])
    print(estimate(folder_of(config), stages_of(config), repeat, config.problems, config.steps))


def draw_verb(argv: list[str]) -> None:
    """A share of what a fit or a test samples, into the store; with the options of the fit or test.

    stepneg draw solutions|values|evaluation [--part n/N] [options of stepneg fit or test]
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
    config, options = own.parse_known_args(rest)
    from stepneg.draw import draw  # imports of seconds

    print(draw(what, config.part, options), flush=True)


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


def call(function: Callable[..., Any], argv: list[str], verb: str, positional: list[str]) -> Any:
    """Call a function with command-line arguments, those of ``positional`` by place and all others by name."""
    parser = parser_of(function, verb, positional)
    arguments = parser.instantiate_classes(parse(parser, argv))
    return function(**{name: arguments[name] for name in inspect.signature(function).parameters})


def parser_of(function: Callable[..., Any], verb: str, positional: list[str]) -> jsonargparse.ArgumentParser:
    """The parser of :func:`call`."""
    brief = (function.__doc__ or "").split("Args:")[0]
    parser = Parser(prog=f"stepneg {verb}", description=brief)
    parser.add_argument("--config", action="config", help="options in a YAML file")
    named = [name for name in inspect.signature(function).parameters if name not in positional]
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip=set(named))
    parser.add_function_arguments(function, as_group=False, skip=set(positional))
    return parser


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
    said = "HF folder that vLLM and transformers are compared on"
    parser.add_argument("--policy", type=Path, default=Path("assets/arithmetic-base"), help=said)
    said = "start vLLM for that, which takes up to a minute; --engine false leaves it out"
    parser.add_argument("--engine", type=bool, default=True, help=said)
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    given = parse(parser, argv)
    from stepneg.doctor import doctor

    if not doctor(given.runs, given.store, given.policy, given.engine, given.json):
        raise SystemExit(1)


STUDIES = {  # command and module
    "theorem": "stepneg.studies.theorem",
    "credit": "stepneg.studies.credit",
    "spurious": "stepneg.studies.spurious",
    "likelihood": "stepneg.studies.spurious",
    "first_hop": "stepneg.studies.first_hop",
}
VERBS: dict[str, Callable[[list[str]], None]] = {
    "init": init_verb,
    "pipeline": pipeline_verb,
    "sweep": sweep_verb,
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
    return "\n".join([*lines, "stepneg VERB --help explains a verb; options come from --config FILE.yaml, too."])


TRAINING = "Training, by LightningCLI"
SUMMARIES = {
    TRAINING: {
        "fit": "build the data that a method needs and train on it",
        "validate": "loss on the validation problems",
        "test": "accuracy on the test problems, by the evaluation callback",
        "predict": "log-probabilities of held-out solutions",
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
