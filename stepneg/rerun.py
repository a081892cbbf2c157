"""``stepneg rerun``: repeat a run, or a chain of runs, from its directory alone, and say what came out the same."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from stepneg.analysis.repeated import compare, table
from stepneg.commands import run
from stepneg.errors import InputError
from stepneg.record import CHAIN, FOLDER, attempts, content, devices, machine, versions

CHAINS = ("pipeline", "sweep")
SAMPLES = "samples"  # where a repetition draws anew


def rerun(run_dir: Path, root: Path | None = None) -> tuple[str, bool]:
    """Repeat a run or a chain into a new directory and compare; samples are drawn anew, into a store of its own.

    Args:
        run_dir: a run directory of fit or test, or the root of a pipeline or sweep; it may have been moved.
        root: directory of the repetition; by default that of the run with ``-rerun`` behind its name.

    Returns:
        A table of what is the same, and whether everything is.

    Raises:
        InputError: there is no record, an input is gone or has changed, or the new directory is not empty.
    """
    history = attempts(run_dir)
    if not history:
        raise InputError(f"{run_dir}: no {FOLDER}/*.json, so no run; give a run directory, or the root of a chain")
    new = (root or run_dir.with_name(f"{run_dir.resolve().name}-rerun")).absolute()
    if new.exists() and (not new.is_dir() or any(new.iterdir())):
        raise InputError(f"{new}: there is something already; give another --root, or remove it")
    chains = [attempt for attempt in history if attempt["verb"] in CHAINS]
    of_verb = {attempt["verb"]: attempt for attempt in history}  # the last of each, in the order of the first
    again = chains[-1:] or list(of_verb.values())
    places = [located(attempt, run_dir) for attempt in again]
    print(told(again[-1]), flush=True)
    new.mkdir(parents=True, exist_ok=True)
    if chains:
        repeat_chain(chains, run_dir.absolute(), new, places[-1])
    else:
        for attempt, known in zip(again, places, strict=True):
            repeat_run(attempt, run_dir, new, known)
    rows = compare(run_dir, new)
    return f"{table(rows)}\n\nrepeated in {new}", all(row.same for row in rows)


def located(attempt: Mapping[str, Any], run_dir: Path) -> dict[str, str]:
    """Where the inputs of an attempt are now, by what its settings call them.

    Looked for beside the run directory, at the place of then, and as named from the current directory.

    Raises:
        InputError: one is gone, or is not what it was.
    """
    found: dict[str, str] = {}
    for item in attempt["inputs"]:
        places = [os.path.abspath(path) for path in (run_dir / item["near"], item["path"], item["given"])]
        marks = {place: content(Path(place)) for place in places}
        same = next((place for place, mark in marks.items() if mark == item["fingerprint"]), None)
        if same is None:
            changed = next((place for place, mark in marks.items() if mark), None)
            said = f"{changed} has changed since" if changed else f"it is gone; looked for {', '.join(marks)}"
            raise InputError(
                f"{item['place']}: the {attempt['verb']} began from {item['given']}, and {said};"
                f" put the one with fingerprint {item['fingerprint'][:16]} in its place"
            )
        found[item["given"]] = same
    return found


def told(attempt: Mapping[str, Any]) -> str:
    """Versions and machine that differ from those of an attempt, a line each."""
    here = versions() | machine() | (devices() if "threads" in attempt else {})
    then = attempt["versions"] | attempt["machine"] | {name: attempt[name] for name in here if name in attempt}
    names = [name for name in {**then, **here} if then.get(name) != here.get(name)]
    lines = [f"{name}: {then.get(name, 'absent')} then, {here.get(name, 'absent')} now" for name in names]
    return "\n".join(lines or ["the same versions and machine"])


def moved(settings: Any, known: Mapping[str, str], change: Callable[[str, str], str]) -> Any:
    """Settings with inputs where they are now, and every other text as ``change`` (key, text) has it."""

    def walk(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: walk(str(name), inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [walk(key, inner) for inner in value]
        return known.get(value, change(key, value)) if isinstance(value, str) else value

    return walk("", settings)


def repeat_run(attempt: Mapping[str, Any], run_dir: Path, new: Path, known: Mapping[str, str]) -> None:
    """A fit, test, validate or predict once more."""
    home, there = Path(attempt["home"]), Path(attempt["cwd"])

    def change(key: str, text: str) -> str:
        if key == "store":
            return str(new / SAMPLES)
        path = Path(os.path.normpath(there / text)) if os.sep in text else there
        own = path.is_relative_to(home) and (run_dir / path.relative_to(home)).exists()
        return str(new / path.relative_to(home)) if own else text

    settings = moved(attempt["settings"], known, change)
    settings["trainer"]["default_root_dir"] = str(new)
    if attempt["verb"] == "fit":
        settings["ckpt_path"] = None  # a repetition begins at the beginning
    file = new / f"{attempt['verb']}-again.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    run([attempt["verb"], "--config", str(file)])


def repeat_chain(chains: Sequence[Mapping[str, Any]], run_dir: Path, new: Path, known: Mapping[str, str]) -> None:
    """A pipeline or sweep once more, in the new directory, with all seeds and sizes that were run."""

    def change(key: str, text: str) -> str:
        return str(new / SAMPLES) if key.rpartition(".")[2] == "store" else text

    last = chains[-1]
    settings = moved(last["settings"], known, change) | {"root": str(new)}
    for name in ("seeds", "sizes"):
        if name in settings:
            settings[name] = sorted({item for attempt in chains for item in attempt["settings"].get(name, [])})
    written = {"chain.yaml": settings}
    for file in sorted((run_dir / CHAIN / "configs").rglob("*.yaml")):
        written[str(file.relative_to(run_dir / CHAIN))] = moved(yaml.safe_load(file.read_text()), known, change)
    for name, values in written.items():
        (new / "again" / name).parent.mkdir(parents=True, exist_ok=True)
        (new / "again" / name).write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    with contextlib.chdir(new):  # a store that the configurations leave to its default is below, too
        run([last["verb"], "--config", str(new / "again" / "chain.yaml")])
