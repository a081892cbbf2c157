"""Files and folders that readers see whole or not at all, whenever the writer is killed or its disk is full."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from stepneg.links import remove, unlinked


@contextmanager
def whole(file: Path, mode: str = "w") -> Iterator[IO]:  # type: ignore[type-arg]
    """A new ``file``, open for writing; it takes its name when the block ends well, and leaves nothing when it fails.

    Args:
        file: what is written; it may exist, and its folder does.
        mode: ``w`` for text in UTF-8, ``wb`` for bytes.

    Raises:
        OSError: with the name of ``file``, if its place is full or cannot be written.
    """
    # One name a writer, so that two of them do not write into one file.
    partial = unlinked(file.with_name(f".{file.name}.{socket.gethostname()}-{os.getpid()}.partial"))
    try:
        with named(file), partial.open(mode, encoding=None if "b" in mode else "utf-8") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def write_whole(file: Path, text: str) -> None:
    """Write a text as :func:`whole` does."""
    with whole(file) as out:
        out.write(text)


@contextmanager
def named(file: Path) -> Iterator[None]:
    """Give errors of writing, which know no name, that of the file."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise type(error)(error.errno, error.strerror or str(error), str(file)) from error


def beside(folder: Path) -> tuple[Path, Path]:
    """Where a new folder is written, and where the old one goes for the moment in which the new one takes its place."""
    return folder.with_name(f".{folder.name}.partial"), folder.with_name(f".{folder.name}.old")


def settle(folder: Path) -> None:
    """Remove what a killed writer left beside a folder; killed while it changed the old for the new, it had both."""
    partial, old = beside(folder)
    if old.exists() and partial.exists() and not folder.exists():
        partial.rename(folder)
    for left in (partial, old):
        remove(left)


def take_place(folder: Path) -> None:
    """Put the new folder, which is whole, in the place of the old one; of a link, but not of what it points to."""
    partial, old = beside(folder)
    if folder.is_symlink() or folder.exists():
        folder.rename(old)
    partial.rename(folder)
    settle(folder)
