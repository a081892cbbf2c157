"""Links in a run directory: ours to take away and to replace, what they point to is not."""

import shutil
from pathlib import Path


def remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link but not what it points to; nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def unlinked(file: Path) -> Path:
    """The path of a file that is about to be written, where no link leads elsewhere any more."""
    if file.is_symlink():
        file.unlink()
    return file
