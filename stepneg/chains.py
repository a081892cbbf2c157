"""The verbs that run several runs: pipeline, sweep and estimate, and the options that they share."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonargparse
from jsonargparse import ActionYesNo

from stepneg.config_files import Option, read_given
from stepneg.errors import InputError
from stepneg.links import below
from stepneg.options import Parser, parse, parser_of
from stepneg.studies import STUDIES

if TYPE_CHECKING:
    from stepneg.pipeline import Cell, Stage


def pipeline_verb(run: Callable[..., None], argv: list[str]) -> None:
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
    check_stages(config, repeat[0], argv)
    if (said := told(config, repeat)) is not None:
        print(said)
        return
    stages = stages_of(config)
    with chain_record("pipeline", argv, config) as ended:
        each = partial(run, summary=config.only is not None)
        pipeline(each, folder_of(config), stages, repeat, config.only, config.part, config.tensor_parallel_size)
        ended()
        if config.only is None:
            write_tables(config, tested_stages(stages))
    if config.only is None:
        print_places(config.root)


def sweep_verb(run: Callable[..., None], argv: list[str]) -> None:
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
    check_stages(config, every[0], argv)
    if (said := told(config, chosen)) is not None:
        print(said)
        return
    stages = stages_of(config)
    each = partial(run, summary=config.only is not None)
    with chain_record("sweep", argv, config) as ended:
        pipeline(each, folder_of(config), stages, chosen, config.only, config.part, config.tensor_parallel_size)
        ended()
    if config.only is not None:
        return
    if len(chosen) == len(every):
        from stepneg.analysis.scaling import scaling

        print(scaling(config.root, config.baseline, tested_stages(stages), config.sizes))
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


@contextmanager
def chain_record(verb: str, argv: list[str], config: jsonargparse.Namespace) -> Iterator[Callable[[], None]]:
    """The record of a chain that runs, in its root; kept by one of several processes that srun starts.

    The block calls what it is given when all runs have ended.
    """
    from stepneg.pipeline import leads
    from stepneg.record import begun, chain, recorded

    if not leads():
        yield lambda: None
        return
    with recorded(config.root, chain(verb, [verb, *argv], config.as_dict(), folder_of(config), config.root)) as add:
        yield lambda: add({"begun": begun(config.root)})


def print_places(root: Path) -> None:
    """Say where a chain has left what."""
    from stepneg.written import block, of_chain

    print(block(of_chain(root)), flush=True)


def told(config: jsonargparse.Namespace, repeat: list["Cell"]) -> str | None:
    """What a chain would run, for --dry_run and --jobs; None without these.

    Raises:
        InputError: there is no run that --only names.
    """
    from stepneg.pipeline import dry_run

    folder, stages, only = folder_of(config), stages_of(config), config.only
    if config.jobs:
        from stepneg.draw import chain_jobs  # imports of seconds, which --help shall not wait for

        return chain_jobs(folder, stages, repeat, only)
    if config.dry_run:
        return dry_run(folder, stages, repeat, only, config.part, config.tensor_parallel_size)
    return None


def tested_stages(stages: Sequence["Stage"]) -> list[str]:
    """The names of the stages that a chain tests."""
    return [stage.name for stage in stages if "test" in stage.verbs]


def write_tables(config: jsonargparse.Namespace, tested: Sequence[str]) -> None:
    """Report, study and the tables of study commands of a finished chain, as far as it has them."""
    from stepneg.analysis.report import brief, report  # imports of seconds, which --help shall not wait for
    from stepneg.analysis.study import over_seeds, study
    from stepneg.studies import credit, first_hop, spurious

    if below(config.root, "evaluation/test.json"):  # a chain may hold no tested policy
        print(brief(report(config.root, config.order)))
        print(f"\nthe whole page: {config.root / 'report.md'}")
    if config.baseline is not None:
        print(study(config.root, config.baseline, tested))
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


class ChainParser(Parser):
    """The parser of a chain, whose files are named from the folder of the chain's own file."""

    def dump(self, namespace: jsonargparse.Namespace, *args: Any, **kwargs: Any) -> str:
        """What --print_config prints: with whole paths, so that it is the same chain wherever it is put."""
        if not (namespace.get("config") and namespace.get("stages")):  # as of a stage, by a parser of this class
            return super().dump(namespace, *args, **kwargs)
        folder, shown = folder_of(namespace).absolute(), deepcopy(namespace)
        stages = [stage.get("init_args", stage) for stage in shown.stages]
        for of, key in [*((stage, "config") for stage in stages), (shown, "overlays")]:
            of[key] = [os.path.normpath(folder / name) for name in of.get(key) or []]
        return super().dump(shown, *args, **kwargs)


def chain_parser(verb: str, description: str | None) -> jsonargparse.ArgumentParser:
    """The options that chains share."""
    from stepneg.pipeline import Stage, Value

    parser = ChainParser(prog=f"stepneg {verb}", description=description)
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
        said = "with --only of a draw: GPUs that share the model; other runs take it from the options of their engines"
        parser.add_argument("--tensor_parallel_size", type=int | None, default=None, help=said)
    parser.add_argument("--args", type=dict[str, Value], default={}, help="further options of every fit and test")
    parser.add_argument(
        "--overlays",
        type=list[str],
        default=[],
        help="further configuration files of every fit and test, as for a model",
    )
    parser.add_argument(
        "--constants",
        type=dict[str, Value],
        default={},
        help="what else is replaced in the stages' args: {NAME} by its value",
    )
    return parser


def parsed(parser: jsonargparse.ArgumentParser, argv: list[str]) -> jsonargparse.Namespace:
    """The options of a chain; those with a default are there.

    Raises:
        InputError: one of them is null, which jsonargparse lets pass, or seeds or sizes are none, or stand there twice.
    """
    config = parse(parser, argv)
    for name in ("seeds", "sizes", "stages", "args", "overlays", "constants", "order"):
        if name in config and config[name] is None and parser.get_default(name) is not None:
            raise InputError(f"{name}: is null; give it a value, or leave it out")
        if name in ("seeds", "sizes") and config.get(name) == []:
            raise InputError(f"{name}: is empty, so nothing would run; give at least one, or leave it out")
    for name, least in (("seeds", 0), ("sizes", 1)):
        given = config.get(name) or []
        if twice := [number for number in given if given.count(number) > 1]:
            raise InputError(f"{name}: {twice[0]} stands there more than once; name each once")
        if given and min(given) < least:
            raise InputError(f"{name}: {min(given)} is below {least}; give whole numbers from {least}")
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
