"""With which exit code a command ends, for the shell and for the record of what was run."""

import errno
import os
import select
import sys
from typing import TextIO

from stepneg.errors import EngineLostError, InputError

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

REFUSED, INTERRUPTED, UNREAD = 2, 130, 141  # the last two: 128 + SIGINT, 128 + SIGPIPE, as a shell has them


def exit_code(error: BaseException) -> int:
    """The exit code of a command that an exception ends."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, EngineLostError):
        return os.EX_TEMPFAIL  # sbatch/run.sh puts the job back into the queue
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EPIPE and any(map(is_unread, (sys.stdout, sys.stderr))):
        return UNREAD
    return REFUSED if isinstance(error, InputError) or number in PLACES else 1


def is_unread(stream: TextIO | None) -> bool:
    """Whether a stream is a pipe whose other end is gone: a broken pipe may also be one to a process of ours."""
    poll = select.poll()
    try:
        if stream:
            poll.register(stream, select.POLLOUT)
    except (OSError, ValueError):  # one in memory
        return False
    return any(events & select.POLLERR for _, events in poll.poll(0))
