"""What ``stepneg fit --help`` says: stepneg's own options by groups, a few of Lightning's, and how to see the rest."""

import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from stepneg import objectives
from stepneg.callbacks.evaluation import VLLMEvaluation
from stepneg.callbacks.export import Export
from stepneg.data.pairs import Pairs
from stepneg.data.pretraining import Pretraining
from stepneg.data.solutions import SelfGeneratedSolutions, TeacherSolutions
from stepneg.data.weighted import WeightedSteps
from stepneg.mistakes import EXAMPLES
from stepneg.options import Parser
from stepneg.policy import Policy

DATA = (TeacherSolutions, SelfGeneratedSolutions, Pairs, WeightedSteps, Pretraining)
OBJECTIVES = (objectives.CrossEntropy, objectives.DPO, objectives.WeightedLikelihood)
TRAINER = {  # Lightning's own texts are long
    "default_root_dir PATH": "the run's directory, as runs/sft; required.",
    "max_epochs N": "passes over the data; -1 without end, with max_steps.",
    "max_steps N": "optimiser steps; -1 without end.",
    "max_time DD:HH:MM:SS": "the longest that training goes on, beside max_epochs or max_steps.",
    "accelerator TEXT": "cpu, gpu or auto.",
    "devices N": "processes on this machine, a GPU each; auto takes all.",
    "num_nodes N": "machines.",
    "strategy TEXT": "ddp, or a class: configs/trainer/ has FSDP2 and DeepSpeed.",
    "precision TEXT": "32-true, bf16-true, bf16-mixed ...",
    "accumulate_grad_batches N": "batches an optimiser step.",
    "gradient_clip_val X": "largest norm of the gradient.",
    "check_val_every_n_epoch N": "epochs from one evaluation to the next.",
    "log_every_n_steps N": "steps from one point of TensorBoard's curves to the next.",
}
WIDTH, INDENT = 110, 36
NAMES = {int: "N", float: "X", bool: "true|false", str: "TEXT", Path: "PATH"}


def options(kind: type, before: str, only: Sequence[str] = (), without: Sequence[str] = ()) -> list[str]:
    """A class's options: name, value, default, and the docstring's text; of ``only``, else all but ``without``."""
    parser = Parser()
    parser.add_class_arguments(kind, fail_untyped=False, sub_configs=False)
    lines = []
    for action in parser._actions:
        name, shown = action.dest, getattr(action, "_typehint", None)
        if shown is None or (only and name not in only) or name.startswith(tuple(without)) or name.endswith(".help"):
            continue
        given = isinstance(action.default, str | int | float | Path)
        default = f" [{str(action.default).strip()}]" if given and not action.required else ""
        text = f"{'required; ' if action.required else ''}{action.help}"
        lines += row(f"{before}{name} {placeholder(shown)}{default}", text)
    return lines


def sentence(text: str) -> str:
    """The first sentence."""
    return re.split(r"(?<!Eq)\. ", " ".join(text.split()))[0].rstrip(".") + "."


def row(left: str, text: str) -> list[str]:
    """An option and what it does, side by side if it fits."""
    text = re.sub(r":\w+:`([^`]*)`|``([^`]*)``", r"\1\2", " ".join(text.split()))
    wrapped = textwrap.wrap(text, WIDTH - INDENT, break_long_words=False) or [""]
    first = f"  {left}"
    if len(first) < INDENT - 1:
        return [f"{first:<{INDENT}}{wrapped[0]}", *(" " * INDENT + line for line in wrapped[1:])]
    return [first, *(" " * INDENT + line for line in wrapped)]


def placeholder(shown: Any) -> str:
    """What stands for an option's value: N for a whole number, X for a number, the choices where there are few."""
    if get_origin(shown) is Literal:
        return "|".join(map(str, get_args(shown)))
    if inspect.isclass(shown):
        return NAMES.get(shown, "CLASS")
    if get_origin(shown) is Callable:
        return "CLASS"
    kinds = [placeholder(kind) for kind in get_args(shown) if kind is not type(None)]
    return next((kind for kind in kinds if kind != "CLASS"), "CLASS")


def classes(kinds: Sequence[type]) -> list[str]:
    """Each class with its docstring's first line."""
    lines = []
    for kind in kinds:
        lines += row(f"{kind.__module__}.{kind.__name__}", sentence(inspect.getdoc(kind) or ""))
    return lines


def fit_help(verb: str, what: str) -> str:
    """The help of a verb of LightningCLI, of which ``what`` is the summary."""
    shared = ("policy", "problems", "validation", "template", "batch_size", "seed", "skip_long")
    groups = {
        "Model": options(Policy, "--model."),
        "Objectives, for --model.objective": classes(OBJECTIVES),
        "Data, for --data (by the method; each has further options)": classes(DATA),
        "Options of all data": options(TeacherSolutions, "--data.", shared),
        "Sampling and step values (of all but TeacherSolutions and Pretraining)": options(
            Pairs,
            "--data.",
            without=(*shared, "kind", "chosen", "positives", "max_pairs", "k", "tol", "packed", "by"),
        ),
        "Evaluation (in YAML, of the trainer's callback stepneg.callbacks.evaluation.VLLMEvaluation)": options(
            VLLMEvaluation, "", without=("engine.",)
        ),
        "Trainer (Lightning's most used)": [
            line for name, text in TRAINER.items() for line in row(f"--trainer.{name}", text)
        ],
        "Export, and going on": [
            *options(Export, "--export."),
            *row("--ckpt_path PATH", "checkpoint to go on from; last takes the newest of the run, if there is one."),
            *row("--seed_everything N [0]", "of weights, dropout and the order of examples."),
        ],
    }
    lines = [
        f"usage: stepneg {verb} --config FILE [--config FILE ...] [--KEY VALUE ...]",
        "",
        *textwrap.wrap(f"{what[0].upper()}{what[1:]}. Later files and options change earlier ones.", WIDTH),
        f"For example: {EXAMPLES[verb]}",
        "",
        f"  stepneg {verb} --help all   every option, Lightning's too",
        f"  stepneg {verb} --data.help stepneg.data.pairs.Pairs   those of a class, for data, model.objective and",
        "      model.optimizer by itself, for classes in lists as --trainer.callbacks.help CLASS",
        f"  stepneg {verb} --config FILE --print_config   what files and options come to",
        "",
        "N is a whole number, X a number; [default]. Lengths are in tokens, times in seconds, losses in nats a token.",
    ]
    for heading, rows in groups.items():
        lines += ["", f"{heading}:", *rows]
    return "\n".join(lines)
