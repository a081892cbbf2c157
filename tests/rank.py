"""One rank of several: runs command lines one after the other in this process."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ended:
    """How a rank ended: its exit code, what it printed, and after how many seconds."""

    code: int
    output: str
    seconds: float


def on_ranks(
    ranks: int,
    runs: Sequence[Sequence[str]],
    timeout: float,
    module: str = "tests.rank",
    environment: Mapping[str, str] | None = None,
) -> list[Ended]:
    """The command lines on so many processes, launched as a cluster would; a rank that outlasts ``timeout`` fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = dict(os.environ) | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    shared |= {"OMP_NUM_THREADS": "1", "NODE_RANK": "0"} | dict(environment or {})
    started = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", module, json.dumps(runs)],
            cwd=ROOT,
            env=shared | {"LOCAL_RANK": str(rank), "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    ended = []
    try:
        for process in processes:
            output, _ = process.communicate(timeout=max(0.1, timeout - (time.monotonic() - started)))
            ended.append(Ended(process.returncode, output, time.monotonic() - started))
    finally:
        for process in processes:
            process.kill()
    return ended


if __name__ == "__main__":
    from stepneg.cli import main

    torch.set_num_threads(1)
    for argv in json.loads(sys.argv[1]):
        main(argv)
