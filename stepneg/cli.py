"""The ``stepneg`` command: LightningCLI's verbs and stepneg's own."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from stepneg.errors import InputError
from stepneg.exits import PLACES, UNREAD, exit_code

# How a command goes on after Ctrl-C.
AGAIN = {
    "pipeline": "the same command goes on, runs that are done are skipped",
    "sweep": "the same command goes on, runs that are done are skipped",
    "fit": "the same command takes up data and samples that are there, with --ckpt_path last also the checkpoint",
    "rerun": "give another --root, or remove the new directory, to begin again",
}
ANY_AGAIN = "what was finished is kept; run the same command again for the rest"


def main(args: Sequence[str] | None = None) -> None:
    """Run a verb.

    Bad input or a place that cannot be used ends in one line on standard error and exit code 2, Ctrl-C in one line and
    130, and a reader of our output that stops, as ``head`` does, in 141 without a word.
    """
    argv = list(sys.argv[1:] if args is None else args)
    try:
        from stepneg.commands import run  # within: its imports take long enough for a Ctrl-C

        try:
            run(argv)
        except SystemExit as stop:
            flush()
            if is_rank() and isinstance(stop.code, int):
                leave(stop.code)
            raise
        flush()
    except InputError as error:
        end(f"error: {error}", exit_code(error))
    except KeyboardInterrupt as error:
        end(f"interrupted; {AGAIN.get(argv[0] if argv else '', ANY_AGAIN)}", exit_code(error))
    except OSError as error:
        if (code := exit_code(error)) == UNREAD:
            leave(code)
        if error.errno not in PLACES:
            raise
        end(f"error: {error.filename or 'a file'}: {error.strerror}; {PLACES[error.errno]}", code)


def end(message: str, code: int) -> NoReturn:
    """End with one line on standard error and an exit code."""
    from stepneg.escaping import one_line

    with suppress(BrokenPipeError):
        sys.stderr.write(f"stepneg: {one_line(message)}\n")
        sys.stderr.flush()
    leave(code)


def leave(code: int) -> NoReturn:
    """End with an exit code; what is left in the buffers and cannot be written is dropped.

    Python would write it at exit, complain, and end with 120. A rank ends at once: its process group's threads can
    make Python abort as it takes itself down, and that be the exit code.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):  # none where it is closed
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if is_rank():
        os._exit(code)
    raise SystemExit(code) from None


def is_rank() -> bool:
    """Whether this process is one of several ranks that have met."""
    distributed = sys.modules.get("torch.distributed")
    met = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return met and distributed.get_world_size() > 1  # type: ignore[union-attr]


def flush() -> None:
    """Write out what is buffered of standard output, if there is one.

    Raises:
        OSError: the other end of its pipe is gone, or its disk is full.
    """
    if sys.stdout:
        sys.stdout.flush()
