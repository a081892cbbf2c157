"""Where tested runs stand: ``ROOT/seed-N/METHOD`` in a chain, ``ROOT/size-D/seed-N/METHOD`` in a sweep."""

import re
from collections.abc import Iterable
from pathlib import Path

from stepneg.escaping import markdown
from stepneg.links import below

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
    """The run directories below ``root`` that hold an evaluation on test problems.

    What ``stepneg rerun`` made below it is no further run.
    """
    homes = {file.parent.parent for file in below(root, "evaluation/test.json")}
    above = {home: [home, *home.parents] for home in homes}
    kept = (home for home in homes if not any(map(is_repetition, above[home][: above[home].index(root)])))
    return sorted(kept, key=natural)


def is_repetition(folder: Path) -> bool:
    """Whether a directory is one that ``stepneg rerun`` made."""
    return any(folder.glob("*-again.yaml")) or (folder / "again" / "chain.yaml").is_file()


def gaps(runs: Iterable[tuple[str, str]]) -> str:
    """A paragraph that names the seeds which not all runs have, and which therefore do not count; empty without any.

    Args:
        runs: name and seed of each.
    """
    by_seed: dict[str, set[str]] = {}
    for name, seed in runs:
        by_seed.setdefault(seed, set()).add(name)
    every = set[str]().union(*by_seed.values())
    missing = {seed: every - found for seed, found in sorted(by_seed.items()) if found != every}
    told = [f"{seed} (without {markdown(', '.join(sorted(names)))})" for seed, names in missing.items()]
    return f"\n\nSeeds left out, for not every run was tested with them: {', '.join(told)}." if told else ""


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


def not_of_chain(names: Iterable[str]) -> str:
    """A paragraph that names runs of a chain as it was earlier; empty without any."""
    told = ", ".join(dict.fromkeys(map(markdown, names)))
    return f"\n\nLeft out, for they are not in the chain as it is: {told}." if told else ""
