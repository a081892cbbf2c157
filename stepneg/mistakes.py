"""What is wrong with options, in one line: where it stands, what it is, and what was probably meant."""

import argparse
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Literal, get_args, get_origin

import jsonargparse

from stepneg.config_files import Given, Option, plain

# A type in jsonargparse's messages, in words, and a value of it.
TYPES = {
    "<class 'int'>": ("a whole number", "8"),
    "<class 'float'>": ("a number", "0.5"),
    "<class 'bool'>": ("true or false", "true"),
    "<class 'str'>": ("text", "text"),
    "<class 'list'>": ("a list", "[0, 1]"),
    "<class 'dict'>": ("a mapping", "{key: value}"),
    "<class 'datetime.timedelta'>": ("a time", "00:08:00:00"),
    "<class 'NoneType'>": ("null", "null"),
}
# What jsonargparse says on the way to a mistake, and what it says of the mistake itself.
SAID = re.compile(
    r"""Parser\ key\ "(?P<key>[^"]+)":
    |Problem\ with\ given\ class_path\ '(?P<inside>[^']+)':
    |Subclasses\ are\ disabled\ for\ (?P<sealed>\w+),\ thus\ '(?P<subclass>[^']+)'
    |(?P<callable>expects\ a\ function\ or\ a\ callable\ class)
    |Option\ '(?P<option>[^']+)'\ is\ not\ accepted
    |Group\ '(?P<group>[^']+)'\ does\ not\ accept\ option\ '(?P<of_group>[^']+)'
    |Subcommand\ '[^']+'\ does\ not\ accept\ option\ '(?P<of_verb>[^']+)'
    |unrecognized\ arguments:\ (?P<unread>\S+)
    |the\ following\ arguments\ are\ required:\ (?P<missing>[\w., ]+)
    |argument\ (?P<bare>\S+):\ expected\ one\ argument
    |module\ '(?P<module>[^']+)'\ has\ no\ attribute\ '(?P<attribute>[^']+)'
    |No\ module\ named\ '(?P<no_module>[^']+)'
    |Import\ path\ (?P<other>\S*?)\ ?does\ not\ (?:correspond\ to\ a\ subclass\ of|implement\ protocol)\ (?P<base>\w+)
    |Expected\ '(?P<no_subclass>[^']+)'\ to\ be\ a\ subclass\ of\ <class\ '(?P<superclass>[^']+)'>
    |Not\ a\ valid\ subclass\ of\ (?P<wanted>\w+)
    |Unable\ to\ load\ config\ '(?P<unloadable>[^']+)'
    |(?P<end>Given\ value\ type:)
    |Expected\ a\ (?P<dotted>dot\ import\ path\ string):
    |Expected\ a\ (?P<type><class\ '[^']+'>|typing\.Literal\[[^\]]*\])""",
    re.VERBOSE,
)


CLASS_LEAVES = ("module", "no_module", "other", "no_subclass", "wanted", "dotted")
EMPTY = {"<class 'list'>", "<class 'NoneType'>"}  # what else may stand where a class does
EXAMPLES = {  # a complete command line of each verb
    "fit": "stepneg fit --config configs/arithmetic/sft.yaml",
    "validate": "stepneg validate --config configs/arithmetic/sft.yaml --model.path runs/arithmetic/sft/last",
    "test": "stepneg test --config configs/arithmetic/sft.yaml --model.path runs/arithmetic/sft/last",
    "predict": "stepneg predict --config configs/arithmetic/sft.yaml --model.path runs/arithmetic/sft/last",
    "pipeline": "stepneg pipeline --config configs/arithmetic/pipeline.yaml",
    "sweep": "stepneg sweep --config configs/arithmetic/scaling.yaml",
    "estimate": "stepneg estimate --config configs/arithmetic/pipeline.yaml",
    "memory": "stepneg memory configs/model/deepseek_math_7b.json",
    "report": "stepneg report runs/arithmetic",
    "compare": "stepneg compare runs/arithmetic/rft runs/arithmetic/step_dpo",
    "init": "stepneg init --config configs/gsm8k/init_smoke.yaml",
    "draw": "stepneg draw values --part 3/8 --config configs/gsm8k/step_dpo.yaml",
    "evaluate": "stepneg evaluate runs/arithmetic/step_dpo/last --problems arithmetic",
    "grade": "stepneg grade outputs.jsonl --dataset math --output graded.jsonl",
    "doctor": "stepneg doctor",
}


@dataclass
class Mistake:
    """What jsonargparse says: the path of keys to the mistake, the classes passed on it, and how it ends."""

    path: tuple[str, ...] = ()
    classes: dict[tuple[str, ...], str] = field(default_factory=dict)
    kind: str = ""
    name: str = ""
    expected: list[str] = field(default_factory=list)


def explain(
    message: str,
    parser: jsonargparse.ArgumentParser,
    argv: Sequence[str],
    given: Given,
    places: Mapping[str, str],
) -> str:
    """A parser's message in one line for people; the message itself where it is of no known kind."""
    said = " ".join(message.split())
    mistake = read_message(said)
    verb = parser.prog.removeprefix("stepneg").strip() or next(iter(argv), "stepneg")
    for_example = f"; for example: {EXAMPLES[verb]}" if verb in EXAMPLES else ""
    if other := of_another_verb(parser, verb, given):
        return f"{other}, none for {verb}{for_example}"
    if mistake.kind == "missing" and not mistake.path:
        needed = [asked(parser, name) for name in mistake.name.split(", ")]
        return f"{verb} needs {' and '.join(filter(None, (', '.join(needed[:-1]), needed[-1])))}{for_example}"
    if mistake.kind == "bare":
        return f"{mistake.name.split('/')[-1]} needs a value{for_example}"
    if mistake.kind == "unread":
        word = mistake.name.partition("=")[0]
        if not word.startswith("--") and not mistake.path:
            return f"{word!r} is no option of {verb}; options begin with --{for_example}"
        mistake.path, mistake.kind = mistake.path + plain(word.lstrip("-").split(".")), "unknown"
    value = echoed(said)
    if mistake.kind == "unknown":
        path, near, whole, others = suggestion(mistake, parser, argv, given)
        where, key, style = located(path, None, given, places)
        if whole and style == "option":
            path, near, key = mistake.path, whole, located(mistake.path, None, given, places)[1]
        if near:
            return f"{where}there is no {style} {key}; did you mean {spelt(near, key, path)}?"
        listed = ", ".join(others) if len(others) <= 12 else f"listed by: stepneg {verb} --help"
        return f"{where}there is no {style} {key}; known there: {listed}"
    if mistake.kind == "sealed":
        path = next((plain(item.path) for _, item in given if item.value == mistake.name), mistake.path)
        where, key, _ = located(path, mistake.name, given, places)
        only = mistake.expected[0]
        return f"{where}{key}: {mistake.name} cannot stand for {only}; leave class_path out, and give options of {only}"
    where, key, style = located(mistake.path, value, given, places)
    if mistake.kind == "unloadable":
        return f"{where}{key}: {mistake.name} is no file of options; give {key}.KEY VALUE, or an existing YAML file"
    if mistake.kind == "class":
        return f"{where}{key}: {class_mend(mistake)}"
    if mistake.kind == "missing":
        wanted = ", ".join(".".join((key.lstrip("-"), name)) for name in mistake.name.split(", "))
        first = ".".join((*mistake.path, mistake.name.split(", ")[0]))
        return f"{where}{wanted}: missing; give it in the file, or as --{first} VALUE"
    if mistake.kind == "type":
        example = example_of(parser, verb, mistake.path)
        mend = type_mend(mistake.expected, value, key, style, example)
        return f"{where}{key} is {shortened(value)!r}, not {mend}"
    return f"{where}{said}" if where else said


def read_message(said: str) -> Mistake:
    """The way to the mistake and its kind, from left to right; of alternatives, the first that leads somewhere."""
    mistake = Mistake()
    for found in SAID.finditer(said):
        names = {name: text for name, text in found.groupdict().items() if text is not None}
        kind, text = next(iter(names.items()))
        if mistake.kind == "type" and kind in CLASS_LEAVES and set(mistake.expected) <= EMPTY:
            mistake.kind, mistake.expected = "", []
        if mistake.kind and (mistake.kind, kind) != ("type", "type"):
            break
        if kind == "type":
            mistake.kind = "type"
            mistake.expected.append(text)
            if said.startswith(". Got value: ", found.end()):  # no alternative follows
                break
        elif kind == "key":
            mistake.path += plain(text.split("."))
        elif kind == "inside":
            mistake.classes[mistake.path] = text
        elif kind == "callable":
            if partial := re.search(r"Got value: Namespace\(class_path='([^']+)'", said):
                mistake.classes[mistake.path] = partial[1]
        elif kind in ("option", "group", "of_verb"):
            mistake.kind = "unknown"
            inside = names.get("of_group")
            mistake.path += plain((f"{text}.{inside}" if inside else text).split("."))
        elif kind == "sealed":
            mistake.kind, mistake.name, mistake.expected = kind, names["subclass"], [text]
        elif kind in ("unread", "missing", "bare", "unloadable"):
            mistake.kind, mistake.name = kind, text.strip()
        else:
            mistake.kind = "class"
            if kind == "module":
                mistake.name = f"{text}.{names['attribute']}"
            elif kind == "no_module":
                mistake.name = mistake.classes.get(mistake.path, text)
            elif kind in ("other", "no_subclass"):
                mistake.name, mistake.expected = text or echoed(said), [names.get("base") or names["superclass"]]
            elif kind == "dotted":
                mistake.name = said.split("dot import path string: ")[-1].split(" ")[0]
            else:
                mistake.name, mistake.expected = echoed(said), [text]
    return mistake


def echoed(said: str) -> str:
    """The value that a message repeats."""
    for found in re.finditer(r"(?:Got|Given) value: (.*?)(?=\.? Got value: | - |\. Got | Given value |$)", said):
        if not found[1].startswith(("NestedArg(", "Namespace(")):
            return found[1]
    nested = re.search(r"NestedArg\(key='[^']*', val='(.*?)'\)", said)
    return nested[1] if nested else ""


def shortened(value: str) -> str:
    """A value of at most 80 characters."""
    return value if len(value) <= 80 else value[:77] + "..."


def of_another_verb(parser: jsonargparse.ArgumentParser, verb: str, given: Given) -> str:
    """Which file holds nothing but a fit's or a chain's options where those are not asked for; empty if none does."""
    asked_for = {key[0] for key in known_keys(parser, verb)}
    tops: dict[Path, set[str]] = {}
    for file, item in given:
        if file is not None:
            tops.setdefault(file, set()).add(item.path[0])
    for file, keys in tops.items():
        if keys & asked_for and not (verb == "pipeline" and {"stages", "sizes"} <= keys):
            continue
        if "stages" in keys:
            return f"{file}: is a file for `stepneg {'sweep' if 'sizes' in keys else 'pipeline'}`"
        if keys & {"model", "data", "trainer"}:
            return f"{file}: is a file for `stepneg fit`"
    return ""


def example_of(parser: jsonargparse.ArgumentParser, verb: str, path: tuple[str, ...]) -> str:
    """A value of an option that is a list: some of its choices, or its default; empty if it is none."""
    action = next((a for a in options_of(parser, verb) if tuple(a.dest.split(".")) == path), None)
    shown = getattr(action, "_typehint", None)
    lists = [hint for hint in (shown, *get_args(shown)) if get_origin(hint) is list]
    if action is None or not lists:
        return ""
    (inner,) = get_args(lists[0]) or (None,)
    if get_origin(inner) is Literal:
        return f"[{','.join(map(str, get_args(inner)[:2]))}]"
    if inner is str:
        return f"[{','.join(action.default or ['text'])}]"
    return TYPES["<class 'list'>"][1] if inner is int else ""


def options_of(parser: jsonargparse.ArgumentParser, verb: str) -> list[argparse.Action]:
    """The options of a parser, or of its verb."""
    for action in parser._actions:
        if isinstance(action.choices, Mapping):
            parser = action.choices.get(verb, parser)
    return [action for action in parser._actions if not isinstance(action.choices, Mapping)]


def known_keys(parser: jsonargparse.ArgumentParser, verb: str) -> list[tuple[str, ...]]:
    """The options of a parser, or of its verb, as paths."""
    names = [action.dest for action in options_of(parser, verb)]
    return [tuple(name.split(".")) for name in names if name.split(".")[-1] != "help"]


def keys_of_class(class_path: str) -> list[tuple[str, ...]]:
    """The options of a class; none if it cannot be imported."""
    module, _, name = class_path.rpartition(".")
    with suppress(ImportError, AttributeError, ValueError, TypeError):
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(getattr(import_module(module), name), fail_untyped=False)
        return known_keys(parser, "")
    return []


def suggestion(
    mistake: Mistake,
    parser: jsonargparse.ArgumentParser,
    argv: Sequence[str],
    given: Given,
) -> tuple[tuple[str, ...], tuple[str, ...] | None, tuple[str, ...] | None, list[str]]:
    """What to say of an unknown key.

    Returns:
        Its path up to where it leaves the known ones, the known path nearest to that, the known path nearest to all of
        it if it goes on, and the names known beside it.
    """
    known = known_keys(parser, next(iter(argv), ""))
    named = {
        plain(item.path[:-1] if item.path[-1] == "class_path" else item.path): item.value
        for _, item in given
        if item.value and re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", item.value)
    }
    own = {key[0] for key in known}
    for path, class_path in sorted({**named, **mistake.classes}.items(), key=lambda of: len(of[0])):
        if path[0] in own:
            known += [path + key for key in keys_of_class(class_path) if key != ("params",)]  # that an optimiser gets
    path = mistake.path
    depth = next((d for d in range(1, len(path) + 1) if not any(k[:d] == path[:d] for k in known)), len(path))
    path, wrong, rest = path[:depth], path[depth - 1], path[depth:]
    beside = list(dict.fromkeys(k[depth - 1] for k in known if k[: depth - 1] == path[:-1] and len(k) >= depth))
    by_leaf = {key[-1]: key for key in sorted(known, key=len, reverse=True) if len(key) > 1}
    by_leaf = {name: key for name, key in by_leaf.items() if key != mistake.path}  # which is no help
    beside = [name for name in beside if (*path[:-1], name) != mistake.path]
    elsewhere = by_leaf.get(mistake.path[-1]) or by_leaf.get(mistake.path[-1] + "s")
    near = get_close_matches(wrong, beside, 1, 0.8 if elsewhere else 0.6)
    near += [name for name in beside if name.replace("_", "") == wrong]
    if near:
        meant = (*path[:-1], near[0])
        return path, meant, meant + rest if rest and meant + rest in known else None, beside
    far = get_close_matches(mistake.path[-1], by_leaf, 1, 0.85)
    return path, elsewhere or (by_leaf[far[0]] if far else None), None, beside


def located(
    path: tuple[str, ...],
    value: str | None,
    given: Given,
    places: Mapping[str, str],
) -> tuple[str, str, str]:
    """Where a key is given, how it is written there, and whether that is a key or an option.

    The last that has the value counts, or else the last.
    """
    found = [(file, item) for file, item in given if plain(item.path)[: len(path)] == path]
    exact = [(file, item) for file, item in found if len(plain(item.path)) == len(path)] or found
    same = [(file, item) for file, item in exact if value and item.value == value]
    if value and not same:  # or in an option that gives more at once
        above = [of for of in given if isinstance(of[1], Option) and of[1].path == path[: len(of[1].path)]]
        same = [of for of in above if value in str(of[1].value)][-1:]
    exact = same or exact
    if not exact:
        return "", ".".join(path), "key"
    file, item = exact[-1]
    if isinstance(item, Option):
        written = item.text.split(".")
        while len(plain(written)) > len(path):
            written.pop()
        text = ".".join(written)
        return f"{places[item.text]}: " if item.text in places else "", text, "option"
    keys = list(item.path)
    while len(plain(keys)) > len(path):
        keys.pop()
    return f"{file}, line {item.line}: ", ".".join(keys), "key"


def spelt(near: tuple[str, ...], key: str, path: tuple[str, ...]) -> str:
    """A known path in the writing of the wrong one: with its dashes, and its init_args."""
    above = key.split(".")[:-1]
    if above and near[:-1] == path[:-1]:
        near = (*above, near[-1])
    dashes = "--" if key.startswith("--") and not near[0].startswith("--") else ""
    return dashes + ".".join(near)


def type_mend(expected: list[str], value: str, key: str, style: str, example: str = "") -> str:
    """What a value should be, in words, and an example of it, which may be given."""
    words = []
    for said in dict.fromkeys(expected):
        if said.startswith("typing.Literal"):
            choices = [choice.strip("'\" ") for choice in said[len("typing.Literal[") : -1].split(",")]
            words.append(f"one of {', '.join(choices)}")
            near = get_close_matches(value, choices, 1)
            if near:
                return f"{words[-1]}; did you mean {near[0]}?"
            example = example or choices[0]
        elif said in TYPES:
            words.append(TYPES[said][0])
            example = example or TYPES[said][1]
    if not words:
        return f"what is expected: {', '.join(expected)}"
    shown = f"{key} {example}" if style == "option" else f"{key.split('.')[-1]}: {example}"
    return f"{' or '.join(words)}; write for example {shown}"


def class_mend(mistake: Mistake) -> str:
    """What is wrong with a class's name, and the nearest class."""
    name = mistake.name
    if mistake.expected:
        return f"{name} is no {mistake.expected[0]}; name one by class_path"
    near = nearest_class(name)
    guess = f"did you mean {near}?" if near else "name a class as package.module.Class"
    return f"there is no class {name}; {guess}"


def nearest_class(name: str) -> str | None:
    """The class of stepneg, torch or Lightning whose path, or bare name, is spelt almost so."""
    for package in ("data", "problems", "callbacks"):
        for module in iter_modules(import_module(f"stepneg.{package}").__path__, f"stepneg.{package}."):
            import_module(module.name)
    modules = [
        m for m in sys.modules if m.startswith("stepneg.") or m in ("torch.optim", "lightning.pytorch.callbacks")
    ]
    classes = {
        f"{module}.{found}": found
        for module in modules
        for found, value in vars(sys.modules[module]).items()
        if inspect.isclass(value) and (value.__module__ == module or not module.startswith("stepneg."))
    }
    near = get_close_matches(name, classes, 1, 0.8)
    if near:
        return near[0]
    by_name = {found: path for path, found in classes.items()}
    near = get_close_matches(name.rpartition(".")[2], by_name, 1, 0.8)
    return by_name[near[0]] if near else None


def asked(parser: jsonargparse.ArgumentParser, name: str) -> str:
    """A missing option as the command line writes it."""
    for action in parser._actions:
        if action.dest == name and not action.option_strings:
            return f"<{name}>"
    parts = name.split(".")
    if any(isinstance(action.choices, Mapping) and parts[0] in action.choices for action in parser._actions):
        parts = parts[1:]  # the verb
    return f"--{'.'.join(parts)}"
