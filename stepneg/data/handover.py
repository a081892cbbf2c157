"""Work that one rank of a job does while the others wait for a file: no collective that would time out after minutes.

The working rank keeps a sign on the shared file system and renews it; the others read it. They learn that the work is
done, that it failed and with which message, or that the working rank is gone.
"""

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from stepneg.errors import InputError
from stepneg.whole import write_whole

BEAT = 10.0  # seconds between two signs of life
PATIENCE = 600.0  # seconds without one after which the working rank counts as dead; file systems show changes late
GRACE = 60.0  # seconds after which a failure that was there before this rank is believed to be of this attempt
# Only what a launcher gives each of its processes alike: a batch system's id is not on nodes that are reached by ssh.
JOB = (
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "SLURM_RESTART_COUNT",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "PMIX_NAMESPACE",
    "OMPI_MCA_ess_base_jobid",
    "MASTER_ADDR",
    "MASTER_PORT",
)
ATTEMPT = "STEPNEG_ATTEMPT"


def attempt() -> str:
    """A name shared by all ranks of this attempt at a job, and by no earlier one where the launcher tells them apart.

    Processes that this one starts inherit it.
    """
    told = "/".join(os.environ.get(name, "") for name in JOB)
    return os.environ.setdefault(ATTEMPT, sha256(told.encode()).hexdigest()[:12])


def once(
    work: Callable[[], None],
    sign: Path,
    rank: int,
    beat: float = BEAT,
    patience: float = PATIENCE,
    grace: float = GRACE,
) -> None:
    """Do the work on rank zero and return on every rank when it is done.

    Args:
        work: what is to be done.
        sign: a file that all ranks see, of this work and, where there is a name for it, of this attempt alone.
        rank: of this process.
        beat: seconds between two signs of life.
        patience: seconds without one after which the others give up.
        grace: seconds that rank zero has to begin where the last attempt's failure is still told.

    Raises:
        InputError: on the other ranks, if the work failed or rank zero gave no sign of life.
    """
    if rank == 0:
        lead(work, sign, beat)
    else:
        follow(sign, rank, min(beat, 1.0), patience, grace)


def lead(work: Callable[[], None], sign: Path, beat: float) -> None:
    """Do the work under a sign that is renewed every ``beat`` seconds and says at the end how it went."""
    done = threading.Event()
    sign.parent.mkdir(parents=True, exist_ok=True)

    def renew() -> None:
        number = 0
        while not done.is_set():
            with suppress(OSError):  # of a network's moment; the next sign may succeed
                show(sign, "working", str(number))
            number += 1
            done.wait(beat)

    pulse = threading.Thread(target=renew, daemon=True)
    pulse.start()
    state, message = "failed", "it was interrupted"
    try:
        work()
        state, message = "done", ""
    except Exception as error:
        message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise
    finally:
        done.set()
        pulse.join()
        show(sign, state, message)


def follow(sign: Path, rank: int, interval: float, patience: float, grace: float) -> None:
    """Wait until the sign says that the work is done."""
    found = seen = read(sign)  # of an earlier attempt, perhaps
    since = time.monotonic()
    while True:
        now = read(sign)
        if now != seen:
            seen, since = now, time.monotonic()
        state, message = json.loads(now) if now else ("", "")
        if state == "done":
            return
        if state == "failed" and (now != found or time.monotonic() - since > grace):
            raise InputError(f"rank 0 failed, and rank {rank} ends with it: {message}")
        if time.monotonic() - since > patience:
            raise InputError(
                f"rank {rank} saw no sign of life of rank 0 for {patience:.0f} s in {sign}; see the output of rank 0,"
                " and that trainer.default_root_dir is on a file system that all nodes share"
            )
        time.sleep(interval)


def show(sign: Path, state: str, message: str) -> None:
    """Write the sign, whole or not at all."""
    write_whole(sign, json.dumps([state, message]))


def read(sign: Path) -> str:
    """What the sign says; empty while there is none, or while NFS has lost the old one and not yet found the new."""
    try:
        return sign.read_text()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE, errno.EIO):
            return ""
        raise
