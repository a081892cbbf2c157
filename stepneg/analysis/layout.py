"""Where tested runs stand: ``ROOT/seed-N/METHOD`` in a chain, ``ROOT/size-D/seed-N/METHOD`` in a sweep."""

import re
from collections.abc import Iterable
from pathlib import Path

from stepneg.escaping import markdown

SEED, SIZE = re.compile("seed-(?P<n>[0-9]+)"), re.compile("size-(?P<n>[1-9][0-9]*)")


def seed_of(folder: str) -> str:
    """N of a folder called ``seed-N``; empty for any other, as the backup ``seed-0-old``, which is no further seed."""
    found = SEED.fullmatch(folder)
    return found["n"] if found else ""


def size_of(folder: str) -> int | None:
    """D of a folder called ``size-D``; None for any other."""
    found = SIZE.fullmatch(folder)
    return int(found["n"]) if found else None


def natural(home: Path) -> list[str]:
    """A key that sorts size-16 before size-128."""
    return [part.zfill(20) if part.isdecimal() else part for part in re.split(r"(\d+)", str(home))]


def tested_homes(root: Path) -> list[Path]:
    """The run directories below ``root`` that hold an evaluation on test problems."""
    return sorted({file.parent.parent for file in root.glob("**/evaluation/test.json")}, key=natural)


def group_of(home: Path, root: Path) -> tuple[str, ...]:
    """The folders between ``root`` and a run, without that of its seed."""
    above = home.relative_to(root).parts[:-1]
    return above[:-1] if above and seed_of(above[-1]) else above


def left_out(homes: Iterable[Path], root: Path, where: str) -> str:
    """A paragraph that names the folders of runs which are not counted; empty without any.

    Args:
        homes: the runs.
        root: the folders are named from here; a run that stands in it itself is named.
        where: in words, where counted runs are.
    """
    folders = [home if home.parent == root else home.parent for home in homes]
    names = dict.fromkeys(markdown(str(folder.relative_to(root))) for folder in folders)
    return f"\n\nLeft out, for they are not in a folder {where}: {', '.join(names)}." if names else ""
