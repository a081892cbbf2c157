"""The ``stepneg`` command: LightningCLI's verbs and stepneg's own."""

import errno
import sys
from collections.abc import Sequence

from stepneg.errors import InputError

# What ails a place, and its mend. Whatever was finished before is kept.
PLACES = {
    errno.ENOSPC: "free space there and run the same command again",
    errno.EDQUOT: "free space of your quota there and run the same command again",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f) and run the same command again",
    errno.EROFS: "give a place that can be written",
    errno.EACCES: "give a place that you may read and write",
    errno.EPERM: "give a place that you may read and write",
    errno.ENOENT: "give one that is there, or whose folder can be made",
    errno.ENOTDIR: "what is above it is a file; give another place",
    errno.EISDIR: "it is a folder; name a file",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "its links lead in a circle; give another place",
    errno.EIO: "its disk or network fails; see dmesg",
    errno.ESTALE: "its network file system has lost it; run the same command again",
}


def main(args: Sequence[str] | None = None) -> None:
    """Run a verb; bad input or a place that cannot be used ends in one line on standard error and exit code 2."""
    from stepneg.commands import run

    argv = list(sys.argv[1:] if args is None else args)
    try:
        run(argv)
    except InputError as error:
        end(str(error))
    except OSError as error:
        if error.errno not in PLACES:
            raise
        end(f"{error.filename or 'a file'}: {error.strerror}; {PLACES[error.errno]}")


def end(message: str) -> None:
    """End with one line on standard error."""
    from stepneg.escaping import one_line

    sys.stderr.write(f"stepneg: error: {one_line(message)}\n")
    raise SystemExit(2) from None
