"""How far a long stage is: a bar with an ETA on a terminal, a line every few seconds elsewhere; on standard error."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SAY_EVERY = 10.0  # seconds between lines where there is no terminal


class Bar:
    """Progress of one stage.

    Args:
        title: what is being done.
        total: of what :meth:`advance` counts.
        unit: of the work whose rate is shown.
    """

    def __init__(self, title: str, total: int, unit: str = "tokens") -> None:
        self.title, self.total, self.done, self.unit = title, total, 0, unit
        self.started = self.said = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        clocks = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[rate]} {task.fields[unit]}/s"))
        console = Console(stderr=True)
        self.progress = Progress(*columns, *clocks, console=console, disable=not sys.stderr.isatty())
        self.task = self.progress.add_task(title, total=total, rate="-", unit=unit)

    def advance(self, done: int, work: int) -> None:
        """``done`` more are done; ``work`` units of work in all."""
        self.done += done
        now = time.monotonic()
        elapsed = max(now - self.started, 1e-9)
        rate = f"{work / elapsed:,.0f}"
        self.progress.update(self.task, advance=done, rate=rate)
        if self.progress.disable and now - self.said > SAY_EVERY:
            self.said = now
            left = elapsed / self.done * (self.total - self.done)
            line = f"{self.title}: {self.done}/{self.total}, {rate} {self.unit}/s, {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> "Bar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
