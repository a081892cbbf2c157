"""Links in a run directory: ours to take away and to replace, what they point to is not."""

import shutil
from pathlib import Path

from stepneg.errors import InputError


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
