"""A run directory belongs to one process, or to the ranks of one job, at a time.

The first rank holds a lock of the file system on ``RUN/.lock``, which ends with its process however that ends, on this
machine or, on a shared file system, on another. The file says who holds it.
"""

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stepneg.errors import InputError
from stepneg.links import unlinked

HELD: set[Path] = set()  # by this process, which a lock does not keep from itself
WITHOUT = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # of file systems that know no locks


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Hold a run directory; nothing happens if this process holds it already.

    Raises:
        InputError: another process does, which the message names.
    """
    run.mkdir(parents=True, exist_ok=True)
    name = run.resolve()
    if name in HELD:
        yield
        return
    file, place = take(run), run / ".lock"
    HELD.add(name)
    try:
        yield
    finally:
        HELD.discard(name)
        if same(file, place):  # nobody who thinks it stale has replaced it
            place.unlink()
        os.close(file)


def take(run: Path) -> int:
    """The locked file, open, with this process's name in it."""
    place = run / ".lock"
    while True:
        unlinked(place)
        file = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(file, 4096, 0)
            os.close(file)
            if error.errno in WITHOUT:
                print(f"{place}: its file system has no locks; see that one process uses {run}", file=sys.stderr)
                return os.open(place, os.O_RDWR)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            if same_job(holder):
                place.unlink(missing_ok=True)
                continue
            raise InputError(
                f"{run}: {told(holder)} is using this run directory; wait until it has ended or give another directory"
                f" (if it is gone with its machine, delete {place})"
            ) from None
        if same(file, place):  # it was not removed between its opening and its locking
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(this_process()).encode(), 0)
            return file
        os.close(file)


def same(file: int, place: Path) -> bool:
    """Whether an open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(file), place.stat())
    except OSError:
        return False


def this_process() -> dict[str, str | int]:
    """What the lock says of its holder."""
    job = {name.lower(): os.environ[name] for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT") if name in os.environ}
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since, **job}


def read(holder: bytes) -> dict[str, str | int]:
    """What a lock says; nothing if it was just taken or is damaged."""
    try:
        said = json.loads(holder)
        return said if isinstance(said, dict) else {}
    except ValueError:
        return {}


def same_job(holder: bytes) -> bool:
    """Whether the holder is an earlier attempt at this process's job, which Slurm has ended before it requeued the job.

    The server of a network file system may learn of the end of its machine late.
    """
    said, own = read(holder), this_process()
    attempts = (said.get("slurm_restart_count"), own.get("slurm_restart_count"))
    return "slurm_job_id" in own and said.get("slurm_job_id") == own["slurm_job_id"] and attempts[0] != attempts[1]


def told(holder: bytes) -> str:
    """The holder in words."""
    said = read(holder)
    if not said:
        return "another process"
    job = f" (job {said['slurm_job_id']})" if "slurm_job_id" in said else ""
    return f"process {said.get('pid')} on {said.get('host')}, since {said.get('since')}{job},"
