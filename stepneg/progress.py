"""How far a long stage is: a bar with an ETA on a terminal, a line now and then elsewhere; on standard error.

A log gets the first line after 10 seconds and later ones ever more rarely, about 50 in an hour and 80 in a day, and no
carriage returns.
"""

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SAY_EVERY = 10.0  # seconds between the first lines where there is no terminal
SAY_SHARE = 0.1  # between the later ones, as a share of the time since the start
DRAW_EVERY = 0.2  # seconds between two changes of a bar


def duration(seconds: float) -> str:
    """A span of time for people: 45 s, 12 min, 1 h 20 min, 2 d 3 h."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"


class Bar:
    """Progress of one stage.

    Args:
        title: what is being done.
        total: of what :meth:`advance` counts.
        unit: of the work whose rate is shown.
        done: how many an earlier process has done.
    """

    def __init__(self, title: str, total: int, unit: str = "tokens", done: int = 0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.before, self.done, self.work = done, done, 0.0
        self.started = self.said = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        clocks = (TimeElapsedColumn(), TimeRemainingColumn())
        rate = TextColumn("{task.fields[rate]}{task.fields[note]}")
        # What is printed goes above the bar, but a standard output that is no terminal is not for the terminal.
        prints = sys.stdout.isatty()
        console, off = Console(stderr=True), not sys.stderr.isatty()
        self.progress = Progress(*columns, *clocks, rate, console=console, disable=off, redirect_stdout=prints)
        self.task = self.progress.add_task(title, total=total, completed=done, rate="", note="")

    def advance(self, done: int, work: float, note: Callable[[], str] = str) -> None:
        """``done`` more are done; ``work`` units of work in all; ``note()`` is asked for when it is shown."""
        self.done, self.work = self.done + done, work
        now = time.monotonic()
        elapsed = now - self.started
        if not self.progress.disable:
            if now - self.said > DRAW_EVERY or self.done >= self.total:
                self.said = now
                self.progress.update(self.task, completed=self.done, rate=self.rate(), note=note())
        elif now - self.said > max(SAY_EVERY, SAY_SHARE * elapsed):
            self.said = now
            new, left = self.done - self.before, ""
            if new >= min(10, self.total / 100):  # the first of many tell of an engine's start
                left = f", {duration(elapsed / new * (self.total - self.done))} left"
            self.say(f"{self.done}/{self.total}, {self.rate()}{note()}{left}")

    def rate(self) -> str:
        """Units of work a second, since the start."""
        rate = self.work / max(time.monotonic() - self.started, 1e-9)
        return f"{rate:,.{0 if rate >= 10 else 1}f} {self.unit}/s"

    def say(self, what: str) -> None:
        """A line where there is no terminal."""
        print(f"{self.title}: {what}", file=sys.stderr, flush=True)

    def pause(self) -> None:
        """Take the bar from the terminal, until :meth:`__enter__` shows it again."""
        self.progress.live.transient = True
        self.progress.stop()
        self.progress.live.transient = False

    def __enter__(self) -> "Bar":
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        self.progress.stop()
        if self.progress.disable and kind is None and self.said > self.started:
            self.say(f"{self.done}/{self.total} in {duration(time.monotonic() - self.started)}, {self.rate()}")
