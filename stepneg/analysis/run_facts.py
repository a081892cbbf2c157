"""What run directories hold beside their accuracy: settings, data, versions, dates; and which are not finished."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from stepneg.bounded_yaml import bounded
from stepneg.credit.values import first_pit
from stepneg.errors import InputError
from stepneg.links import below
from stepneg.reading import byte_lines, json_object, number
from stepneg.record import FOLDER, attempts, config_file, data_of, in_training, last_fit, leaves, tests_of

OWN = ("trainer.default_root_dir", "checkpoint.dirpath")  # of each run another
FACTS = ("problems", "solutions", "correct_solutions", "distinct_solutions", "mixed_problems", "valued_solutions",
         "examples")  # fmt: skip
LATER = "a later fit has not ended; all here is of the one before, whose curves are left out"
SECONDS = ("seconds_sampling", "seconds_grading", "seconds_training")


def unfinished(root: Path) -> Iterator[tuple[Path, str]]:
    """The runs below a directory that have no evaluation on test problems, or an older one, each with how far it is."""
    marks = {file.parent for file in below(root, "config.yaml", "fit.started")}
    marks |= {file.parents[1] for file in below(root, f"{FOLDER}/*-fit-*.json")}
    for home in sorted(home for home in marks if "chain" not in home.relative_to(root).parts):
        if (home / "evaluation" / "test.json").exists():
            if in_training(home):
                yield home, f"{LATER}; run its `stepneg fit` again, and test it"
            continue
        if (home / "last" / "config.json").exists():
            yield home, "trained, not tested; run `stepneg test`"
        elif any(home.glob("checkpoints/last*.ckpt")):
            yield home, "interrupted in training; run its `stepneg fit` again, with --ckpt_path last to go on"
        else:
            yield home, "begun, not trained; run its `stepneg fit` again"


def settings(home: Path) -> dict[str, str]:
    """The configuration of a run's last good fit, flat, without what is unset; paths below the directory above the run
    begin with ``ROOT``.

    Raises:
        InputError: ``config.yaml`` (of a run that is only tested, ``config-test.yaml``) cannot be read.
    """
    file = config_file(home)
    if file is None:
        return {}
    fit = last_fit(home)
    try:  # which a later fit that failed has overwritten
        given = fit["settings"] if fit else bounded(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    flat = {place.replace(".init_args", ""): value for place, value in leaves(given) if value is not None}
    above = Path(str(flat.get("trainer.default_root_dir", home))).parent

    def shown(value: Any) -> str:
        if not isinstance(value, str) or above == Path() or not Path(value).is_relative_to(above):
            return str(value)
        return str("ROOT" / Path(value).relative_to(above))

    return {place: shown(value) for place, value in flat.items() if place not in OWN}


def differing(of: Mapping[str, Sequence[Mapping[str, str]]]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Settings that differ between methods, by key and method, and those that all who have them have in common.

    Args:
        of: of each method, the settings of its seeds. What differs between seeds is listed, as ``0, 1, 2``.
    """
    values = {
        method: {key: ", ".join(dict.fromkeys(run[key] for run in runs if key in run)) for run in runs for key in run}
        for method, runs in of.items()
        if any(runs)
    }
    keys = list(dict.fromkeys(key for found in values.values() for key in found))
    rows = {key: {method: found.get(key, "") for method, found in values.items()} for key in keys}
    common = {key: max(row.values()) for key, row in rows.items() if len(set(filter(None, row.values()))) <= 1}
    return {key: row for key, row in rows.items() if key not in common}, common


def data_facts(home: Path) -> dict[str, float]:
    """What a run's data was made of, from ``summary.json``, and the pits in its valued solutions; empty without data.

    Raises:
        InputError: a file is damaged.
    """
    file = home / "summary.json"
    if not file.is_file():
        return {}
    summary = json_object(file, "test the run again")
    facts = {name: float(number(summary, name, file, "", 0)) for name in (*FACTS, *SECONDS) if name in summary}
    traces = own_traces(home)
    if traces is not None and facts.get("valued_solutions"):
        facts["pits"] = float(pits(traces))
    return facts


def own_traces(home: Path) -> Path | None:
    """The valued solutions that a run made; None without any, and where its record does not tell which of several.

    The files' dates do not tell it either: a copy has others.
    """
    found = sorted(home.glob("data/*.traces.jsonl"))
    if len(found) > 1:
        names = data_of(last_fit(home))
        found = [file for file in found if f"data/{file.name}" in names]
    return found[0] if len(found) == 1 else None


def pits(file: Path) -> int:
    """How many valued wrong solutions have a first pit (K = 1, no tolerance).

    Raises:
        InputError: a line is damaged.
    """
    found = 0
    for line, text in byte_lines(file):
        try:
            trace = json.loads(text)
            values = [c / n for n, c in trace["counts"]]
            found += not trace["correct"] and first_pit(values) is not None
        except (ValueError, KeyError, TypeError, ZeroDivisionError, RecursionError) as error:
            raise InputError(f"{file}, line {line}: no valued solution ({error!r})") from error
    return found


def tested(home: Path) -> str:
    """When a run was tested, by its record: UTC, ISO 8601; empty where there is none.

    Not by the evaluation's date, for a copy has another.
    """
    for attempt in tests_of(attempts(home))[-1:]:
        for name in ("ended", "started"):  # a test that was killed has no end
            with suppress(ValueError, OverflowError):
                return datetime.fromisoformat(str(attempt.get(name))).astimezone(UTC).isoformat(timespec="microseconds")
    return ""


def provenance(home: Path) -> dict[str, str]:
    """When a run was tested, by which settings and data, each by its fingerprint; empty if it holds none of these."""
    found: dict[str, str] = {}
    record = home / "fit.json"
    if record.is_file():
        found["settings"] = str(json_object(record, "run the chain again").get("fingerprint", ""))
    listed = data_of(last_fit(home))
    if data := sorted(f.stem for f in home.glob("data/*.json") if not listed or f"data/{f.name}" in listed):
        found["data"] = ", ".join(data)
    kept = tests_of(attempts(home))
    problems = kept[-1].get("problems") if kept else None
    if isinstance(problems, dict) and problems:
        found["test problems"] = ", ".join(str(of.get("fingerprint", "")) for of in problems.values())
    if date := tested(home):
        found["tested"] = date[: len("2026-01-01T12:00")].replace("T", " ")
    return found


def settings_marks(home: Path) -> tuple[str, ...]:
    """The fingerprints of the settings that a chain has fitted and tested a run with; none outside of chains."""
    found = []
    for verb in ("fit", "test"):
        with suppress(InputError):
            found.append(str(json_object(home / f"{verb}.json", "run the chain again").get("fingerprint", "")))
    return tuple(filter(None, found))


def versions(home: Path) -> dict[str, str]:
    """The versions that a run's last attempt recorded, or Lightning's alone, which heads its configuration."""
    kept: list[Any] = [a.get("versions") for a in attempts(home) if isinstance(a, dict)]
    if kept and isinstance(kept[-1], dict):
        return {str(name): str(version) for name, version in kept[-1].items()}
    file = home / "config.yaml"
    head = file.read_bytes()[:200].decode(errors="replace").partition("\n")[0] if file.is_file() else ""
    name, _, version = head.removeprefix("# ").partition("==")
    return {name: version} if head.startswith("# ") and version else {}
