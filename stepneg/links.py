"""Links in a run directory: ours to follow, to take away and to replace, what they point to is not."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from stepneg.errors import InputError

EARLIER = "earlier"  # in a run directory: what a fit has left there before another began anew
BEHIND = 3  # folders behind a link that are looked into: size-N/seed-M/METHOD


def folders(root: Path) -> Iterator[Path]:
    """A directory and all below it, also what is up to ``BEHIND`` deep behind a link that lies there.

    Each comes once, under its own name if it has one there.
    """
    seen: set[str] = set()
    waiting: list[tuple[Path, int | None]] = [(root, None)]  # and how many levels may follow
    links: list[tuple[Path, int | None]] = []
    while waiting or links:
        folder, left = waiting.pop() if waiting else links.pop(links.index(min(links)))
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        yield folder
        with suppress(OSError), os.scandir(folder) as entries:  # of a folder that may not be read, nothing is known
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if left != 0:
                        waiting.append((folder / entry.name, left and left - 1))
                elif left is None and entry.is_symlink() and os.path.isdir(entry.path):  # False for one to itself
                    links.append((folder / entry.name, BEHIND))


def below(root: Path, *patterns: str) -> list[Path]:
    """The files of these patterns in a directory and the :func:`folders` below it, sorted."""
    return sorted(file for folder in folders(root) for pattern in patterns for file in folder.glob(pattern))


def remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link but not what it points to; nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put_aside(checkpoint: Path) -> None:
    """Rename the checkpoint of a fit behind which another begins anew, so that ``--ckpt_path last`` passes over it."""
    aside = checkpoint.with_stem("earlier")
    remove(aside)
    checkpoint.rename(aside)


def put_results_aside(run: Path) -> None:
    """Move what a fit leaves besides policy, data and checkpoint to ``RUN/earlier``, in the place of its like there."""
    evaluations = [f"evaluation/{file.name}" for file in run.glob("evaluation/validation-step*.json*")]
    for name in ("best", "figures", *evaluations):
        if os.path.lexists(run / name):
            remove(run / EARLIER / name)
            (run / EARLIER / name).parent.mkdir(parents=True, exist_ok=True)
            (run / name).rename(run / EARLIER / name)


def place_of(output: Path) -> Path:
    """Where a file that a user names for output is: behind links, which stay.

    Raises:
        InputError: there is a pipe, a device or a folder, which a file would take the place of.
    """
    place = output.absolute()
    device = place.is_relative_to("/dev") and not place.is_relative_to("/dev/shm")  # which is memory, for files
    if device or (output.exists() and not output.is_file()):
        raise InputError(f"{output}: is no ordinary file; name a file, which appears when it is whole")
    return output.resolve()


def unlinked(file: Path) -> Path:
    """The path of a file that is about to be written, where no link leads elsewhere any more."""
    if file.is_symlink():
        file.unlink()
    return file
