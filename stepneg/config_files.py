"""Configuration files before they are parsed: readable, YAML without duplicates, and the line of each key."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import yaml

from stepneg.errors import InputError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SUFFIXES = (".yaml", ".yml", ".json")
TAGS = {f"tag:yaml.org,2002:{name}" for name in "map seq str int float bool null timestamp merge value".split()}
BETWEEN = ("init_args", "dict_kwargs")  # what stands in a file between a class and its options


@dataclass(frozen=True)
class Place:
    """A key of a file, with its value if that is a scalar, and its path as the file has it."""

    path: tuple[str, ...]
    line: int
    value: str | None


@dataclass(frozen=True)
class Option:
    """A word of the command line that gives an option."""

    path: tuple[str, ...]
    text: str
    value: str


Given = list[tuple[Path | None, Place | Option]]  # each key with its file; None is the command line


def read_given(argv: Sequence[str]) -> Given:
    """All keys given by the command line and its files, in order, each with its file.

    Raises:
        InputError: a file is missing or malformed.
    """
    given: Given = []
    for number, word in enumerate(argv):
        if not word.startswith("-") or word in ("-", "--"):
            continue
        text, equals, value = word.partition("=")
        if not equals:
            value = argv[number + 1] if number + 1 < len(argv) and not argv[number + 1].startswith("--") else ""
        file = Path(value)
        named = value.endswith(SUFFIXES)
        if text in ("--config", "-c") and value and (named or not set(value) & set(":{\n")):
            if not file.exists() or file.is_file():  # a pipe can be read once, and not by us
                given += [(file, place) for place in read_config(file)]
            elif file.is_dir():
                raise InputError(f"{text}: {file} is a folder; name a YAML file in it")
            continue
        path = plain(text.lstrip("-").rstrip("+").split("."))
        given.append((None, Option(path, text, value)))
    return given


def read_config(file: Path) -> list[Place]:
    """The keys of a configuration file in order, those of a list's items under the list's key.

    Raises:
        InputError: the file is not there, not UTF-8, not YAML, holds a key twice, or holds no options; with the line.
    """
    if not file.exists():
        near = nearest_file(file)
        guess = f"did you mean {near}?" if near else "name an existing YAML file, as in configs/arithmetic/sft.yaml"
        raise InputError(f"{file}: no such configuration file; {guess}")
    try:
        text = file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); name a readable YAML file") from None
    try:
        root = yaml.compose(text, Loader=LOADER)
    except yaml.MarkedYAMLError as error:
        raise InputError(f"{file}, {syntax(text, error)}") from None
    except yaml.reader.ReaderError as error:  # a character that YAML does not allow, as NUL
        raise InputError(f"{file}: not YAML ({error.reason} at character {error.position + 1}); remove it") from None
    if root is None:
        raise InputError(f"{file}: holds no options; write some as `key: value`, or leave it out")
    if not isinstance(root, yaml.MappingNode):
        kind = "a list" if isinstance(root, yaml.SequenceNode) else "text"
        raise InputError(f"{file}, line {root.start_mark.line + 1}: {kind} where options belong; write `key: value`")
    try:
        return list(places(file, root, (), set()))
    except RecursionError:
        raise InputError(f"{file}: nested too deeply to be read; flatten it") from None


def syntax(text: str, error: yaml.MarkedYAMLError) -> str:
    """Where and why a text is no YAML."""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return f"not YAML: {error.problem}"
    lines = text.split("\n")
    line = lines[mark.line] if mark.line < len(lines) else ""
    where = f"line {mark.line + 1}, column {mark.column + 1}"
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return f"{where}: a tab before the key; indent YAML by spaces"
    begun = error.context_mark
    since = f", {error.context} that begins in line {begun.line + 1}" if error.context and begun is not None else ""
    return f"{where}: not YAML ({error.problem}{since}); mend it there or in the line before"


def places(file: Path, node: yaml.Node, above: tuple[str, ...], seen: set[int]) -> Iterator[Place]:
    """The keys below a node; what an alias repeats comes once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if node.tag not in TAGS:
        where = f"{file}, line {node.start_mark.line + 1}"
        raise InputError(
            f"{where}: could not determine a constructor for the tag {shown(node.tag)}; write plain values"
        )
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from places(file, item, above, seen)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in first and name != "<<":
            dotted = ".".join((*above, name))
            raise InputError(f"{file}, line {line}: {dotted} stands already in line {first[name]}; keep one of the two")
        first[name] = line
        yield Place((*above, name), line, value.value if isinstance(value, yaml.ScalarNode) else None)
        yield from places(file, value, (*above, name), seen)


def shown(tag: str) -> str:
    """A tag as files have it."""
    return tag.replace("tag:yaml.org,2002:", "!!")


def plain(path: Sequence[str]) -> tuple[str, ...]:
    """A path of keys without what only files need."""
    return tuple(key for key in path if key not in BETWEEN)


def nearest_file(file: Path) -> Path | None:
    """An existing file whose path is spelt almost so, folder by folder."""
    found = Path(file.anchor)
    for part in file.parts[1 if file.anchor else 0 :]:
        if not (found / part).exists():
            try:
                names = [child.name for child in found.iterdir()]
            except OSError:
                return None
            near = get_close_matches(part, names, 1)
            if not near:
                return None
            part = near[0]
        found /= part
    return found if found.is_file() else None
