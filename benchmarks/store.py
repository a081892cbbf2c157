"""Reading back and aggregating up to a million stored samples: ``python -m benchmarks.store``.

Synthetic samples of a fixed number of prompts are written, then read and aggregated by prompt, each in a fresh process
that tells its own peak of memory. Time must grow with the number of samples, memory must not.
"""

import json
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from rich.progress import track

from stepneg.sampling.engine import Completion
from stepneg.sampling.store import Sampler, Writer, prompt_key

RESULTS = Path(__file__).with_name("results") / "store.json"
PROMPTS, TOKENS, VOCABULARY, TOGETHER = 1000, 60, 1200, 10
Found = dict[str, Any]


def write(folder: Path, samples: int) -> Found:
    """Store samples of ``TOKENS`` random tokens on average, ``TOGETHER`` of a prompt at a time."""
    rng = random.Random(0)
    drawn = [
        [
            Completion(tuple(rng.choices(range(VOCABULARY), k=rng.randint(1, 2 * TOKENS))), -30 * rng.random(), "stop")
            for _ in range(TOGETHER)
        ]
        for _ in range(100)
    ]
    keys = [prompt_key((i,)) for i in range(PROMPTS)]
    begin = time.perf_counter()
    with Writer(folder) as writer:
        for number in range(samples // TOGETHER):
            turn, place = divmod(number, PROMPTS)
            writer.add(keys[place], turn * TOGETHER, drawn[number % len(drawn)])
    return {"seconds": time.perf_counter() - begin, "peak_mib": peak_mib()}


def read(folder: Path, samples: int) -> Found:
    """Read all samples; count them, the right ones (a last token that is even stands for a verdict) and their tokens by
    prompt.
    """
    counts: dict[str, list[int]] = {}
    begin = time.perf_counter()
    for prompt, _, completion in Sampler(folder).rows():
        count = counts.setdefault(prompt, [0, 0, 0])
        count[0] += 1
        count[1] += completion.token_ids[-1] % 2 == 0
        count[2] += len(completion.token_ids)
    seconds = time.perf_counter() - begin
    found = sum(count[0] for count in counts.values())
    assert found == samples, f"{found} of {samples} samples came back"
    right = sum(count[1] / count[0] for count in counts.values()) / len(counts)
    tokens = sum(count[2] for count in counts.values())
    return {"seconds": seconds, "peak_mib": peak_mib(), "pass@1": right, "tokens": tokens}


def peak_mib() -> float:
    """Peak of this process's memory; of its own alone, where getrusage counts its parent's before the start, too."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


STAGES: dict[str, Callable[[Path, int], Found]] = {"write": write, "read": read}


def alone(stage: str, folder: Path, samples: int) -> Found:
    """Run a stage in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.store", "--stage", stage, str(folder), str(samples)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # type: ignore[no-any-return]


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """b of the least-squares fit cost = a * size ** b."""
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def main(sizes: list[int] = [10_000, 100_000, 1_000_000], out: Path = RESULTS) -> None:  # noqa: B006
    """Measure and write results/store.json.

    Args:
        sizes: numbers of samples, multiples of 10,000.
        out: the file.
    """
    rows: list[Found] = []
    for samples in track(sizes, "sizes"):
        with tempfile.TemporaryDirectory() as folder:
            row: Found = {"samples": samples} | {stage: alone(stage, Path(folder), samples) for stage in STAGES}
            rows.append(row | {"mib": sum(f.stat().st_size for f in Path(folder).iterdir()) / 2**20})
    result: Found = {"prompts": PROMPTS, "rows": rows, "machine": platform.machine(), "cores": os.cpu_count()}
    for stage in STAGES:
        result[f"{stage}_exponent"] = exponent(sizes, [row[stage]["seconds"] for row in rows])
        result[f"{stage}_memory_exponent"] = exponent(sizes, [row[stage]["peak_mib"] for row in rows])
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def table(result: Found) -> str:
    """The sizes in Markdown."""
    lines = ["| samples | on disk, MiB | write, µs a sample | peak, MiB | read, aggregate, µs a sample | peak, MiB |"]
    lines.append("|---:|---:|---:|---:|---:|---:|")
    for row in result["rows"]:
        cells = [f"{1e6 * row[s]['seconds'] / row['samples']:.1f} | {row[s]['peak_mib']:.1f}" for s in STAGES]
        lines.append(f"| {row['samples']:,} | {row['mib']:,.1f} | {' | '.join(cells)} |")
    fits = [f"{result[f'{s}_exponent']:.2f} | {result[f'{s}_memory_exponent']:.2f}" for s in STAGES]
    return "\n".join([*lines, f"| exponent | | {' | '.join(fits)} |"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stage"]:
        print(json.dumps(STAGES[sys.argv[2]](Path(sys.argv[3]), int(sys.argv[4]))))
    else:
        auto_cli(main, as_positional=False)
