"""Fuzzed input at every place that reads something of others: ``python -m benchmarks.hostile``.

A reader of each kind gets a seeded number of inputs of :mod:`benchmarks.hostile_inputs` and
:mod:`benchmarks.hostile_runs` in a process of its own, which ends an input after ``SECONDS`` of CPU time and has
``MEMORY`` bytes to take. An input is read, or refused by the one error that the command line shows in a line; anything
else is a crash.
"""

import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from rich.progress import track

from benchmarks import hostile_inputs, hostile_runs
from benchmarks.hostile_inputs import Reader
from stepneg.errors import InputError
from stepneg.escaping import one_line

RESULTS = Path(__file__).with_name("results") / "hostile.json"
READERS = hostile_inputs.READERS | hostile_runs.READERS
SECONDS, MEMORY = 10.0, 1 << 30
STUCK = 120.0  # seconds of wall time without a finished input
Found = dict[str, Any]

OUTCOMES = ("read", "refused", "crashed", "over time", "over memory")


class OverTime(BaseException):
    """An input took more than ``SECONDS``."""


def over_time(*_: object) -> None:
    """Handler of the timer."""
    raise OverTime


def outcome(reader: Reader, rng: random.Random, folder: Path, seconds: float) -> tuple[str, str]:
    """How one input ended within so many seconds of CPU, and what was said of it."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        reader(rng, folder)
        return "read", ""
    except InputError as error:
        line = one_line(str(error))
        clear = line.isprintable() and len(line) > 20 and "\n" not in line
        return ("refused" if clear else "crashed"), line
    except OverTime:
        return "over time", ""
    except MemoryError:
        return "over memory", ""
    except Exception as error:
        return "crashed", one_line(f"{type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def status(name: str) -> int:
    """A line of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) << 10


def child(name: str, seed: int, start: int, end: int, progress: Path) -> None:
    """Give a reader the inputs ``start`` to ``end`` - 1; a JSON line on each bad one, and one at the end."""
    reader = READERS[name][1]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    signal.signal(signal.SIGPROF, over_time)
    os.fsync = lambda fd: None  # nothing here is to survive
    counts: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as home:
        os.chdir(home)
        for number in range(start, end):
            if number == start + 20:  # imports and caches are there
                resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + MEMORY, resource.RLIM_INFINITY))
                before = status("VmHWM")
            progress.write_text(json.dumps([number, counts]))
            folder = Path(home, "input")
            folder.mkdir()
            began = time.process_time()
            rng, seconds = random.Random(f"{seed}/{name}/{number}"), SECONDS if number >= start + 20 else STUCK
            how, said = outcome(reader, rng, folder, seconds)
            if number >= start + 20:
                slowest = max(slowest, time.process_time() - began)
            counts[how] += 1
            if how not in ("read", "refused"):
                print(json.dumps({"number": number, "how": how, "said": said}), file=answers)
            shutil.rmtree(folder)
            assert not Path("ran").exists()
    took = {"slowest_ms": 1000 * slowest, "grown_mib": (status("VmHWM") - before) / 2**20}
    print(json.dumps({"counts": counts} | took), file=answers)


def alone(name: str, seed: int, inputs: int) -> Found:
    """All inputs of a reader in a process of its own; one that dies or hangs is a crash, and the next goes on."""
    found: Found = {"counts": Counter(), "slowest_ms": 0.0, "grown_mib": 0.0, "bad": []}
    start = 0
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder) / "progress"
        while start < inputs:
            command = [sys.executable, "-m", "benchmarks.hostile", "--child", name, str(seed), str(start), str(inputs)]
            process = subprocess.Popen([*command, str(progress)], stdout=subprocess.PIPE, text=True)
            while process.poll() is None:
                time.sleep(0.2)
                if progress.exists() and time.time() - progress.stat().st_mtime > STUCK:
                    process.kill()
            lines = [json.loads(line) for line in (process.stdout or io.StringIO()).read().splitlines()]
            found["bad"] += [line for line in lines if "how" in line]
            ends = [line for line in lines if "counts" in line]
            for line in ends:
                found["counts"].update(line["counts"])
                found |= {key: max(found[key], line[key]) for key in ("slowest_ms", "grown_mib")}
            if ends:
                break
            died, counts = json.loads(progress.read_text()) if progress.exists() else (start, {})
            found["counts"].update(counts)
            found["counts"]["crashed"] += 1
            found["bad"].append({"number": died, "how": "crashed", "said": f"the process ended ({process.returncode})"})
            start = died + 1
    return found


def main(readers: list[str] = list(READERS), share: float = 1.0, seed: int = 0, out: Path = RESULTS) -> None:  # noqa: B006
    """Measure and write results/hostile.json; readers that are not named keep their results.

    Args:
        readers: which of them.
        share: of their inputs.
        seed: of the inputs.
        out: the file.
    """
    result: Found = json.loads(out.read_text()) if out.exists() else {}
    result = {"seed": seed, "seconds": SECONDS, "mib": MEMORY >> 20, "readers": result.get("readers", {})}
    for name in track(readers, "readers"):
        found = alone(name, seed, max(40, round(share * READERS[name][2])))
        for bad in found.pop("bad"):
            print(f"{name}: {bad}")
        result["readers"][name] = found
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def table(result: Found) -> str:
    """The counts in Markdown."""
    lines = [f"| input | inputs | {' | '.join(OUTCOMES)} | slowest, ms of CPU | memory grown, MiB |"]
    lines.append("|---|" + "---:|" * (len(OUTCOMES) + 3))
    found: dict[str, Found] = result["readers"]
    for name in (name for name in READERS if name in found):
        lines.append(row(READERS[name][0], [found[name]]))
    return "\n".join([*lines, row("all", found.values())])


def row(title: str, found: Iterable[Found]) -> str:
    """A line of the table."""
    some = list(found)
    counts = {how: sum(f["counts"].get(how, 0) for f in some) for how in OUTCOMES}
    cells = [f"{sum(counts.values()):,}", *(f"{counts[how]:,}" for how in OUTCOMES)]
    most = [f"{max(f[key] for f in some):,.0f}" for key in ("slowest_ms", "grown_mib")]
    return f"| {' | '.join([title, *cells, *most])} |"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        seed, start, end = map(int, sys.argv[3:6])
        child(sys.argv[2], seed, start, end, Path(sys.argv[6]))
    else:
        auto_cli(main, as_positional=False)
