"""Write docs/reference/ from the docstrings and from ``--help``: ``python -m docs.reference`` after either has changed.

``commands.md`` holds every verb with its options, ``configuration.md`` every class that a configuration file may name,
with all its arguments, and a page a package its public classes and functions. A test regenerates and compares.
Lightning's own options (``trainer.*``, ``checkpoint.*``) are left out: their text belongs to Lightning's version.
"""

import importlib
import inspect
import io
import os
import pkgutil
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import lightning as L
from docstring_parser import Docstring, DocstringStyle, parse

import stepneg
from stepneg.commands import SUMMARIES, run

HERE = Path(__file__).parent / "reference"
# What is Lightning's or jsonargparse's own: its text belongs to their versions.
OTHERS = tuple(
    f"* `{option}"
    for option in "--trainer --checkpoint --optimizer --lr_scheduler --ckpt_path --weights_only --verbose"
    " --return_predictions --seed_everything --print_config --data.help -h".split()
)
NOTE = "<!-- made by python -m docs.reference; change the docstrings -->\n"
TRAINER = "Training, by LightningCLI"
UNSTABLE = re.compile(r", known subclasses: [^)]*|<class '|'>")  # what else is installed is not the reader's matter
ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?(?:[\w.]*\.)?(\w+)`")
PAGES = {
    "problems": "Problems and where they come from",
    "sampling": "The engine and the sample store",
    "grading": "Final answers: extract, compare, count",
    "credit": "Steps, values, the first pit, pairs and weights",
    "data": "DataModules and batches",
    "formats": "The field's formats, in and out",
    "callbacks": "Callbacks of fits and tests",
    "analysis": "Tables and plots",
    "studies": "The paper's experiments that are no chain of fits",
}


def modules(package: ModuleType) -> Iterator[ModuleType]:
    """The modules of a package, its own packages entered; not those that are run as processes."""
    # An editable install maps it from elsewhere, where a walk of the package does not come.
    callbacks = importlib.import_module(f"{package.__name__}.callbacks")
    names = {callbacks.__name__}
    for home in (package, callbacks):
        names |= {found.name for found in pkgutil.walk_packages(home.__path__, f"{home.__name__}.")}
    for name in sorted(names):
        if not name.endswith(("__main__", "worker")):
            yield importlib.import_module(name)


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Classes and functions that a module defines, in the order of the file."""
    defined = [
        (name, thing)
        for name, thing in vars(module).items()
        if not name.startswith("_") and (inspect.isclass(thing) or inspect.isfunction(inspect.unwrap(thing)))
        if getattr(thing, "__module__", "") == module.__name__ and inspect.getdoc(thing)
    ]
    return iter(sorted(defined, key=lambda item: inspect.getsourcelines(inspect.unwrap(item[1]))[1]))


def docstring(thing: Any) -> Docstring:
    """A Google-style docstring in its parts."""
    return parse(inspect.getdoc(thing) or "", DocstringStyle.GOOGLE)


def plain(text: str | None) -> str:
    """Docstring markup as Markdown."""
    text = ROLE.sub(r"`\1`", text or "").replace("``", "`")
    return re.sub(r"::$", ":", text, flags=re.MULTILINE).strip()


def in_a_row(text: str | None) -> str:
    """Text for a cell of a table."""
    return " ".join(plain(text).split()).replace("|", "\\|")


def annotation(kind: Any) -> str:
    """A type as people write it."""
    text = kind if isinstance(kind, str) else inspect.formatannotation(kind)
    return re.sub(r"\b(?:[a-z_0-9]+\.)+(?=[A-Z])", "", text.replace("typing.", "").replace("collections.abc.", ""))


def shown(default: Any) -> str:
    """A default as a configuration or a call would write it."""
    if inspect.isclass(default) or inspect.isfunction(default):
        return default.__name__
    return str(default) if isinstance(default, Path) else repr(default)


def signature(name: str, thing: Callable[..., Any]) -> str:
    """``name(a, b=1)`` without types, which stand in the table of configuration or in the code."""
    parameters = [
        p.replace(annotation=p.empty)
        for n, p in inspect.signature(thing).parameters.items()
        if n not in ("self", "cls")
    ]
    text = re.sub(r"\w*Path\(('[^']*')\)", r"\1", str(inspect.Signature(parameters)))
    text = re.sub(r"<function \S*<lambda> at 0x\w+>", "...", text)
    text = re.sub(r"<(?:function|class) '?([\w.]+)[^>]*>", r"\1", text)
    return name + re.sub(r"VLLMEngine\([^)]*\)", "VLLMEngine()", text)  # its defaults are explained with it


def body(doc: Docstring, heading: str) -> str:
    """Description, arguments or attributes, what is returned and raised."""
    parts = [plain("\n\n".join(t for t in (doc.short_description, doc.long_description) if t))]
    names = {"param": "", "attribute": ""}
    rows = [f"* `{p.arg_name}`: {in_a_row(p.description)}" for p in doc.params if p.args[0] in names]
    if rows:
        parts.append("\n".join(rows))
    if doc.returns:
        parts.append(f"Returns: {in_a_row(doc.returns.description)}")
    if doc.raises:
        parts += [f"Raises `{r.type_name}`: {in_a_row(r.description)}" for r in doc.raises]
    return "\n\n".join([heading, *filter(None, parts)])


def describe(name: str, thing: Any) -> Iterator[str]:
    """A class with its public methods, or a function."""
    yield body(docstring(thing), f"### `{signature(name, thing) if not inspect.isclass(thing) else name}`")
    if inspect.isclass(thing):
        for method, raw in vars(thing).items():
            held = next((getattr(raw, part) for part in ("__func__", "fget", "func") if hasattr(raw, part)), raw)
            function = inspect.unwrap(held)
            if method.startswith("_") or not inspect.isfunction(function) or not inspect.getdoc(function):
                continue
            called = raw is held or hasattr(raw, "__func__")  # neither a property nor a cached one
            first = in_a_row(docstring(function).short_description)
            yield f"* `{signature(method, function) if called else method}`: {first}"


def module_text(module: ModuleType) -> str:
    """A module's own words and everything public in it."""
    parts = [f"## `{module.__name__}`", plain(module.__doc__)]
    for name, thing in public(module):
        parts += describe(name, thing)
    return re.sub(r"(?m)^(\* .*)\n\n(?=\* )", r"\1\n", "\n\n".join(filter(None, parts)))


def package_page(name: str, title: str, found: list[ModuleType]) -> str:
    """The page of a package."""
    return "\n\n".join([NOTE + f"# {title}", *map(module_text, found)]) + "\n"


def arguments(thing: type) -> dict[str, tuple[str, str, str]]:
    """Arguments of a class: type, default and meaning; those that it hands on to its base by ``**kwargs``, too."""
    said = {p.arg_name: p.description for base in reversed(thing.__mro__) for p in docstring(base).params}
    found: dict[str, tuple[str, str, str]] = {}
    more = False
    for name, p in inspect.signature(thing).parameters.items():
        if p.kind is p.VAR_KEYWORD:
            more = True
        elif p.kind is not p.VAR_POSITIONAL:
            default = "" if p.default is p.empty else shown(p.default)
            found[name] = (annotation(p.annotation), default, in_a_row(said.get(name)))
    return found | (arguments(thing.__mro__[1]) if more else {})


def configuration(found: list[ModuleType]) -> str:
    """Every class that a configuration file may name, with all its arguments."""
    from stepneg.data.prepared import Prepared
    from stepneg.data.rollouts import Rollouts
    from stepneg.objectives import Objective
    from stepneg.pipeline import Stage
    from stepneg.policy import Policy
    from stepneg.sampling.vllm_engine import VLLMEngine

    every = [thing for module in found for _, thing in public(module) if inspect.isclass(thing)]
    sections = {
        "The model": [Policy],
        "Objectives": [c for c in every if Objective in c.__mro__[1:]],
        "Training data": [c for c in every if issubclass(c, L.LightningDataModule) and c is not Prepared],
        "Sampling and step values": [Rollouts, VLLMEngine],
        "Problems": [c for c in every if "problems" in c.__module__ and "load" in vars(c) and c.__name__[0] != "P"],
        "Callbacks": [c for c in every if issubclass(c, L.Callback) and "callbacks" in c.__module__],
        "Chains": [Stage],
    }
    parts = [
        NOTE + "# Configuration: classes and their arguments",
        "What a YAML file names by `class_path`, with its `init_args`; `Policy`'s arguments are those of `model`."
        " Lightning's `trainer` and `checkpoint` (its ModelCheckpoint) take Lightning's own options.",
    ]
    for title, classes in sections.items():
        parts.append(f"## {title}")
        for thing in classes:
            doc = docstring(thing)
            parts += [f"### `{thing.__module__}.{thing.__name__}`", plain(doc.short_description)]
            parts.append(plain(doc.long_description))
            rows = [
                f"| `{name}` | {kind.replace('|', 'or')} | {default and f'`{default}`'} | {meaning} |"
                for name, (kind, default, meaning) in arguments(thing).items()
            ]
            if rows:
                parts.append("\n".join(["| argument | type | default | meaning |", "|---|---|---|---|", *rows]))
    return "\n\n".join(filter(None, parts)) + "\n"


def help_of(verb: str) -> tuple[str, list[str]]:
    """What ``--help`` says of a verb, and a line an option; what is Lightning's is left out."""
    said = io.StringIO()
    with patch.dict(os.environ, {"COLUMNS": "10000", "NO_COLOR": "1"}), redirect_stdout(said):
        try:
            run([verb, "--help"])
        except SystemExit as stop:
            if stop.code:
                raise
    about, *groups = re.split(
        r"^(\S.*):\n(?=  \S)", re.sub(r"\Ausage:.*?\n\n", "", said.getvalue(), flags=re.DOTALL), flags=re.M
    )
    lines: list[str] = []
    for heading, listed in zip(groups[0::2], groups[1::2], strict=True):
        entries: list[str] = []
        for line in listed.splitlines():
            if re.match(r" {2}\S", line):
                name, _, meaning = line.strip().partition("  ")
                entries.append(f"* `{name}`: {meaning.strip()}")
            elif re.match(r" {10}", line):
                entries[-1] += f" {line.strip()}"
        ours = [e for e in entries if not e.startswith(OTHERS) and ".help" not in e.split("`")[1]]
        if ours and heading not in ("options", "positional arguments"):
            lines.append(f"\n{plain(heading)}:\n")
        lines += [plain(re.sub(r" +", " ", UNSTABLE.sub("", entry))) for entry in ours]
    return plain(about), lines


def commands() -> str:
    """Every verb with its options."""
    parts = [
        NOTE + "# Commands",
        "Options come from `--config FILE.yaml`, too; several files compose, the later one wins. `--print_config` shows"
        " the result. Of `fit`, `validate`, `test` and `predict` Lightning's own options are left out (`--trainer.*`,"
        " `--checkpoint.*`, `--ckpt_path` ...): `stepneg fit --help`.",
    ]
    for heading, verbs in SUMMARIES.items():
        parts.append(f"## {heading}")
        for verb, summary in verbs.items():
            about, options = help_of(verb)
            if heading == TRAINER:  # Lightning's own words say nothing of stepneg
                about = f"{summary[0].upper()}{summary[1:]}."
                options = options if verb == "fit" else ["Options as of `fit`."]
            parts += [f"### stepneg {verb}", about, "\n".join(options).strip()]
    return "\n\n".join(filter(None, parts)) + "\n"


def pages() -> dict[str, str]:
    """Each page by the name of its file."""
    found = list(modules(stepneg))
    made = {"commands.md": commands(), "configuration.md": configuration(found)}
    for name, title in PAGES.items():
        prefix = f"stepneg.{name}"
        made[f"{name}.md"] = package_page(name, title, [m for m in found if f"{m.__name__}.".startswith(f"{prefix}.")])
    rest = [m for m in found if m.__name__.count(".") == 1 and not hasattr(m, "__path__")]
    made["stepneg.md"] = package_page("stepneg", "Objectives, the policy and the rest", rest)
    return made


if __name__ == "__main__":
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    for file, text in pages().items():
        (HERE / file).write_text(text)
