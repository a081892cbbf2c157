"""``stepneg rerun``: repeat a run, or a chain of runs, from its directory alone, and say what came out the same."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import yaml

from stepneg.analysis.repeated import compare, table
from stepneg.bounded_yaml import bounded
from stepneg.commands import run
from stepneg.errors import InputError
from stepneg.escaping import one_line
from stepneg.fingerprint import is_source
from stepneg.links import below
from stepneg.record import (
    CHAIN,
    FOLDER,
    attempts,
    content,
    devices,
    ended_well,
    last_fit,
    last_of_verbs,
    machine,
    of_all,
    versions,
)  # fmt: skip
from stepneg.same_fit import in_words

CHAINS = ("pipeline", "sweep")
RUNS = ("fit", "validate", "test", "predict")
NEEDED = {"settings", "inputs", "versions", "machine", "home", "cwd"}
SAMPLES = "samples"  # where a repetition draws anew


def rerun(run_dir: Path, root: Path | None = None) -> tuple[str, bool]:
    """Repeat a run or a chain into a new directory and compare; samples are drawn anew, into a store of its own.

    Of each verb the last attempt that ended well is repeated; of a chain, the last of all of it, not of one job.

    Args:
        run_dir: a run directory of fit or test, or the root of a pipeline or sweep; it may have been moved.
        root: directory of the repetition; by default that of the run with ``-rerun`` behind its name.

    Returns:
        A table of what is the same, and whether nothing differs.

    Raises:
        InputError: there is no record, no attempt has ended well, one that has not has overwritten what is to be
            repeated, an input is gone or has changed, or the new directory is not empty.
    """
    run_dir = Path(os.path.abspath(run_dir))  # "." has no name
    history = [a for a in attempts(run_dir) if a.get("verb") in (*CHAINS, *RUNS) and a.keys() >= NEEDED]
    if not history:
        raise InputError(f"{run_dir}: no {FOLDER}/*.json, so no run; give a run directory, or the root of a chain")
    done = [attempt for attempt in ended_well(history) if of_all(attempt)]
    if not done:
        raise InputError(f"{run_dir}: no attempt has ended well; {end_of(history[-1])}; run it to its end first")
    new = (root or run_dir.with_name(f"{run_dir.resolve().name}-rerun")).absolute()
    if new.exists() and (not new.is_dir() or any(new.iterdir())):
        raise InputError(f"{new}: there is something already; give another --root, or remove it")
    chains = [attempt for attempt in done if attempt["verb"] in CHAINS]
    again = chains[-1:] or last_of_verbs(history)
    for place, mark in again[-1].get("begun", {}).items():
        if (file := run_dir / place).is_file() and file.read_text() != mark:
            raise InputError(
                f"{file.with_suffix('')}: was run again with other settings, by a chain that has not ended well;"
                " run it to its end first"
            )
    places = [located(attempt, run_dir) for attempt in again]
    print("\n".join([told(again[-1]), *changes(run_dir)]), flush=True)
    new.mkdir(parents=True, exist_ok=True)
    if chains:
        repeat_chain(chains, run_dir.absolute(), new, places[-1])
    else:
        for attempt, known in zip(again, places, strict=True):
            repeat_run(attempt, run_dir, new, known)
    rows = compare(run_dir, new)
    return f"{table(rows)}\n\nrepeated in {new}", all(row.same is not False for row in rows)


def end_of(attempt: Mapping[str, Any]) -> str:
    """How an attempt that did not end well ended, in a line."""
    if attempt.get("exit") is None:
        end = "was killed, or still runs"
    elif of_all(attempt):
        end = str(attempt.get("error") or f"exit code {attempt['exit']}")
    else:
        end = f"one job, {attempt.get('only') or 'part ' + attempt['part']}"
    return f"the last, {attempt['verb']}: {one_line(end)}"


def located(attempt: Mapping[str, Any], run_dir: Path) -> dict[tuple[bool, str], str]:
    """Where the inputs of an attempt are now, by whether they are sources of problems, and what its settings call them.

    Looked for beside the run directory, at the place of then, and as named from the current directory.

    Raises:
        InputError: one is gone, or is not what it was.
    """
    found: dict[tuple[bool, str], str] = {}
    for item in attempt["inputs"]:
        places = [os.path.abspath(path) for path in (run_dir / item["near"], item["path"], item["given"])]
        marks = {place: content(Path(place), item["place"]) for place in places}
        same = next((place for place, mark in marks.items() if mark == item["fingerprint"]), None)
        if same is None:
            changed = next((place for place, mark in marks.items() if mark), None)
            said = f"{changed} has changed since" if changed else f"it is gone; looked for {', '.join(marks)}"
            raise InputError(
                f"{item['place']}: the {attempt['verb']} began from {item['given']}, and {said};"
                f" put the one with fingerprint {item['fingerprint'][:16]} in its place"
            )
        found[is_source(item["place"]), item["given"]] = same
    return found


def told(attempt: Mapping[str, Any]) -> str:
    """Versions and machine that differ from those of an attempt, a line each."""
    here = versions() | machine() | (devices() if "threads" in attempt else {})
    then = attempt["versions"] | attempt["machine"] | {name: attempt[name] for name in here if name in attempt}
    names = [name for name in {**then, **here} if then.get(name) != here.get(name)]
    lines = [f"{name}: {then.get(name, 'absent')} then, {here.get(name, 'absent')} now" for name in names]
    return "\n".join(lines or ["the same versions and machine"])


def changes(run_dir: Path) -> list[str]:
    """The fits below a directory whose options were changed on their way, from a checkpoint on; a line each."""
    fits = {home: last_fit(home) for home in dict.fromkeys(f.parents[1] for f in below(run_dir, f"{FOLDER}/*.json"))}
    return [
        f"{home}: the fit went on with changes ({in_words(fit['changed'])}); its repetition has the last options from"
        " the beginning, and may come out otherwise"
        for home, fit in fits.items()
        if fit and fit.get("changed")
    ]


def moved(settings: Any, known: Mapping[tuple[bool, str], str], change: Callable[[str, str], str]) -> Any:
    """Settings with inputs where they are now, and every other text as ``change`` (key, text) has it.

    A source of problems is only looked for under its key: a folder may be called gsm8k, as a form is.
    """

    def walk(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: walk(str(name), inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [walk(key, inner) for inner in value]
        if not isinstance(value, str):
            return value
        there = known.get((False, value)) or (known.get((True, value)) if is_source(key) else None)
        return there or change(key, value)

    return walk("", settings)


def repeat_run(attempt: Mapping[str, Any], run_dir: Path, new: Path, known: Mapping[tuple[bool, str], str]) -> None:
    """A fit, test, validate or predict once more."""
    home, there = Path(attempt["home"]), Path(attempt["cwd"])

    def change(key: str, text: str) -> str:
        if key == "store":
            return str(new / SAMPLES)
        path = Path(os.path.normpath(there / text))
        own = os.sep in text and path.is_relative_to(home) and (run_dir / path.relative_to(home)).exists()
        return str(new / path.relative_to(home)) if own else text

    settings = moved(attempt["settings"], known, change)
    settings["trainer"]["default_root_dir"] = str(new)
    if attempt["verb"] == "fit":
        settings["ckpt_path"] = None  # a repetition begins at the beginning
    file = new / f"{attempt['verb']}-again.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    run([attempt["verb"], "--config", str(file)])


def repeat_chain(
    chains: Sequence[Mapping[str, Any]], run_dir: Path, new: Path, known: Mapping[tuple[bool, str], str]
) -> None:
    """A pipeline or sweep once more, in the new directory, with all seeds and sizes of those that ended well."""

    def change(key: str, text: str) -> str:
        return str(new / SAMPLES) if key.rpartition(".")[2] == "store" else text

    last = chains[-1]
    settings = moved(last["settings"], known, change) | {"root": str(new)}
    for name in ("seeds", "sizes"):
        if name in settings:
            settings[name] = sorted({item for attempt in chains for item in attempt["settings"].get(name, [])})
    written = {"chain.yaml": settings}
    copies = sorted((run_dir / CHAIN / "configs").rglob("*.yaml"))  # which a later attempt may have overwritten
    texts = last.get("configs") or {str(file.relative_to(run_dir / CHAIN)): file.read_text() for file in copies}
    written |= {name: moved(bounded(text), known, change) for name, text in texts.items()}
    for name, values in written.items():
        (new / "again" / name).parent.mkdir(parents=True, exist_ok=True)
        (new / "again" / name).write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    with working_in(new):  # a store that the configurations leave to its default is below, too
        run([last["verb"], "--config", str(new / "again" / "chain.yaml")])


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Work in a folder, from where the processes of other ranks find this program and what it can import."""
    here, script, path = os.getcwd(), sys.argv[0], os.environ.get("PYTHONPATH")
    sys.argv[0] = os.path.abspath(script)
    own = [here] if here in sys.path else []  # as python -m has it
    own += [os.path.abspath(name) for name in (path or "").split(os.pathsep) if name]
    os.environ["PYTHONPATH"] = os.pathsep.join(own)
    try:
        with chdir(folder):
            yield
    finally:
        sys.argv[0] = script
        del os.environ["PYTHONPATH"]
        if path is not None:
            os.environ["PYTHONPATH"] = path
