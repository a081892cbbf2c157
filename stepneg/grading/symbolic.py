"""Symbolic comparison of LaTeX answers by Math-Verify, in a child process with hard limits.

An answer such as 9^{9^{9^9}} can hang or exhaust a process; it ends only the child, which is started anew for the next
comparison. A subprocess and not :mod:`multiprocessing`: that would import the caller's main script and refuses to run
in the daemonic workers of a data loader.
"""

import atexit
import json
import os
import queue
import re
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

LONGEST = 400  # characters an answer may have
START_SECONDS = 120.0
REPLY_SECONDS = 30.0  # wall time; the child ends itself after two seconds of CPU time


class Worker:
    """One child process, started when first needed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.child: subprocess.Popen[bytes] | None = None

    def ask(self, answer: str, reference: str) -> bool | None:
        """Whether the two are equal; None where they cannot be read or the child ran into a limit.

        Raises:
            RuntimeError: the child does not start.
        """
        with self.lock:
            word = ""
            try:
                child = self.running()
                os.write(pipe(child.stdin), json.dumps([answer, reference]).encode() + b"\n")
                word = read_word(pipe(child.stdout), REPLY_SECONDS)
            except BrokenPipeError:
                pass
            finally:
                if not word:  # also when interrupted: a late reply must not answer the next question
                    self.stop()
            return {"equal": True, "different": False}.get(word)

    def running(self) -> subprocess.Popen[bytes]:
        """The child, started anew if there is none or it has died."""
        if self.child is not None and self.child.poll() is None:
            return self.child
        self.stop()
        script = Path(__file__).with_name("symbolic_worker.py")
        self.child = subprocess.Popen(
            [sys.executable, "-P", str(script)],  # -P: this folder's modules must not hide top-level ones
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        if read_word(pipe(self.child.stdout), START_SECONDS) != "ready":
            self.stop()
            raise RuntimeError(
                f"the process for symbolic comparison did not start; see what `{sys.executable} {script}` says"
            )
        return self.child

    def stop(self) -> None:
        """Kill the child, if there is one."""
        if self.child is not None:
            self.child.kill()
            with self.child:  # closes the pipes and waits
                self.child = None

    def forget(self) -> None:
        """In a forked process the child belongs to the parent: talk to an own one."""
        self.lock = threading.Lock()
        if self.child is not None:
            self.child.returncode = 0  # not ours to wait for
            self.child = None


def pipe(stream: IO[bytes] | None) -> int:
    """The file descriptor of a child's pipe."""
    assert stream is not None  # every stream is opened with PIPE
    return stream.fileno()


def read_word(output: int, seconds: float) -> str:
    """The next line from a pipe; "" if it is closed or the time is over."""
    poll = select.poll()
    poll.register(output, select.POLLIN)
    deadline = time.monotonic() + seconds
    received = b""
    while not received.endswith(b"\n"):
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return ""
        chunk = os.read(output, 64)
        if not chunk:
            return ""
        received += chunk
    return received.decode().strip()


class Pool:
    """As many child processes as there are cores, each started when a thread finds no idle one that runs."""

    def __init__(self, size: int) -> None:
        self.workers = [Worker() for _ in range(size)]
        self.idle = self.fill()

    def fill(self) -> queue.LifoQueue[Worker]:
        """All workers, the first on top: one thread never uses more than one."""
        idle: queue.LifoQueue[Worker] = queue.LifoQueue()
        for worker in reversed(self.workers):
            idle.put(worker)
        return idle

    def ask(self, answer: str, reference: str) -> bool | None:
        """:meth:`Worker.ask` of an idle worker; waits for one."""
        idle = self.idle
        worker = idle.get()
        try:
            return worker.ask(answer, reference)
        finally:
            idle.put(worker)

    def stop(self) -> None:
        """Kill all children."""
        for worker in self.workers:
            worker.stop()

    def forget(self) -> None:
        """In a forked process: as :meth:`Worker.forget`, and nobody else asks."""
        for worker in self.workers:
            worker.forget()
        self.idle = self.fill()


POOL = Pool(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
atexit.register(POOL.stop)
os.register_at_fork(after_in_child=POOL.forget)


def symbolically_equal(answer: str, reference: str) -> bool | None:
    """Whether two LaTeX expressions are equal; None where that cannot be found out within the limits."""
    if max(len(answer), len(reference)) > LONGEST or not (readable(answer) and readable(reference)):
        return None
    return POOL.ask(answer, reference)


def readable(latex: str) -> bool:
    """Whether there is something to parse, with braces that balance."""
    depth = 0
    for brace in re.findall(r"(?:\\.|[^\\{}])+|[{}]", latex, re.DOTALL):
        depth += (brace == "{") - (brace == "}")
        if depth < 0:
            return False
    return bool(latex.strip()) and depth == 0
