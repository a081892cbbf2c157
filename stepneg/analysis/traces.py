"""``stepneg traces``: one HTML page to browse a run's solutions, which loads nothing and runs no markup of theirs."""

import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from stepneg.analysis.solutions import SPURIOUS, Browsed, Settings, Solution, read_solutions
from stepneg.errors import InputError
from stepneg.escaping import visible
from stepneg.links import place_of, unlinked

TEMPLATE = Path(__file__).with_name("traces.html")
STYLE, SCRIPT = TEMPLATE.with_suffix(".css"), TEMPLATE.with_suffix(".js")


def traces(run: Path, output: Path | None = None, limit: int = 20_000) -> str:
    """Write a page to browse the solutions of a run: steps, values, pits, pairs, verdicts.

    The page is one file and works offline. Text of problems and models is shown as text, whatever it holds.

    Args:
        run: the run directory of a fit or test, or the folder of an evaluation.
        output: the page; by default traces.html in the run directory.
        limit: most rows of each of the run's files.

    Returns:
        What the page holds and what was left out.

    Raises:
        InputError: there is nothing to show, or the page cannot be written.
    """
    if limit < 1:
        raise InputError(f"limit: is {limit}; give at least 1")
    settings, found = read_solutions(run, limit)
    file = place_of(output) if output else run / "traces.html"
    partial = file.with_name(f"{file.name}.partial")
    try:
        unlinked(partial).write_text(page(contents(run.resolve().name, settings, found)))
        partial.replace(file)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; name another place with --output") from error
    return "\n".join([*(f"note: {visible(note)}" for note in found.notes), summary(found), f"written to {file}"])


def summary(found: Browsed) -> str:
    """What the page holds, in a line."""
    right = sum(solution.right for solution in found.solutions)
    valued = sum(len(solution.counts) > 1 for solution in found.solutions)
    return (
        f"{len(found.solutions):,} solutions of {len(found.problems):,} problems ({right:,} right,"
        f" {len(found.solutions) - right:,} wrong), {valued:,} of them with step values, {len(found.pairs):,} pair(s)"
    )


def contents(name: str, settings: Settings, found: Browsed) -> dict[str, Any]:
    """What the page's script reads: all of it, fields of solutions that are as by default left out."""
    return {
        "run": name,
        "settings": asdict(settings),
        "spurious": SPURIOUS,
        "problems": found.problems,
        "solutions": [brief(solution) for solution in found.solutions],
        "pairs": [vars(pair) for pair in found.pairs],
        "parts": found.parts,
        "facts": found.facts,
        "notes": found.notes,
    }


def brief(solution: Solution) -> dict[str, Any]:
    """The fields of a solution that say something."""
    values = {field.name: getattr(solution, field.name) for field in fields(solution)}
    kept = ("problem", "part", "right")
    return {name: value for name, value in values.items() if value or name in kept}


def page(values: Mapping[str, Any]) -> str:
    """The page with its data. Its policy lets the page's own style and script in, by their hashes, and nothing else."""
    style, script = STYLE.read_text(), SCRIPT.read_text()
    policy = (
        f"default-src 'none'; style-src '{source_hash(style)}'; script-src '{source_hash(script)}';"
        " base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    parts = {"policy": policy, "style": style, "script": script, "data": embedded(values)}
    pieces = TEMPLATE.read_text().split("@@")  # text, name, text, name, ..., text
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def source_hash(text: str) -> str:
    """The hash by which a Content-Security-Policy names an inline style or script."""
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def embedded(values: Mapping[str, Any]) -> str:
    """JSON that is safe within a script element: ASCII, and no ``<``, so that no tag and no comment can begin."""
    return json.dumps(values, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
