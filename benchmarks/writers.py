"""Many processes that append to one folder of the sample store at once: ``python -m benchmarks.writers``.

As in a job array, each writer has prompts of its own and stores all samples of a prompt in one call. They start
together; then one process reads everything back, each row held against what was written, reads one writer's share, and
looks for a prompt that nobody wrote, with the shards' lists of prompts and without them. All of it comes from the
machine's page cache: what a disk or a network takes comes on top.
"""

import json
import multiprocessing
import os
import platform
import random
import tempfile
import time
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from rich.progress import track

from stepneg.errors import InputError
from stepneg.sampling.engine import Completion
from stepneg.sampling.store import Sampler, Writer, contents, prompt_key

RESULTS = Path(__file__).with_name("results") / "writers.json"
SAMPLES, TOKENS, VOCABULARY, POOL = 100, 200, 100_000, 20  # samples a prompt, tokens a sample on average
Found = dict[str, Any]


def pool(number: int) -> list[Completion]:
    """What a writer stores over and over: random tokens, of other lengths and ids for each writer."""
    rng = random.Random(number)
    lengths = [rng.randint(1, 2 * TOKENS - 1) for _ in range(POOL)]
    return [Completion(tuple(rng.choices(range(VOCABULARY), k=n)), -30 * rng.random(), "stop") for n in lengths]


def keys_of(number: int, prompts: int) -> list[str]:
    """The prompts of a writer."""
    return [prompt_key((number, place)) for place in range(prompts)]


def write(folder: Path, number: int, prompts: int, start: Barrier, times: "SimpleQueue[tuple[float, float]]") -> None:
    """Store ``SAMPLES`` samples of each prompt of a writer, once all writers are there; tell begin and end."""
    drawn = pool(number) * (SAMPLES // POOL)
    keys = keys_of(number, prompts)
    start.wait()
    begin = time.monotonic()
    with Writer(folder) as writer:
        for key in keys:
            writer.add(key, 0, drawn)
    times.put((begin, time.monotonic()))


def write_all(folder: Path, writers: int, prompts: int) -> float:
    """Seconds from the begin of the first writer to the end of the last.

    Raises:
        RuntimeError: a writer failed.
    """
    context = multiprocessing.get_context("fork")
    start, times = context.Barrier(writers), context.SimpleQueue()
    processes = [
        context.Process(target=write, args=(folder, number, prompts, start, times)) for number in range(writers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"exit codes of the writers: {[process.exitcode for process in processes]}")
    begins, ends = zip(*(times.get() for _ in processes), strict=True)
    return float(max(ends) - min(begins))


def read_all(folder: Path, writers: int, prompts: int) -> float:
    """Seconds to read every row back and to hold it against what its writer stored.

    Raises:
        RuntimeError: a row is missing or is another.
    """
    expected = {key: pool(number) for number in range(writers) for key in keys_of(number, prompts)}
    found = 0
    begin = time.perf_counter()
    for prompt, index, completion in Sampler(folder).rows():
        if completion != expected[prompt][index % POOL]:
            raise RuntimeError(f"sample {index} of {prompt} is not what was written")
        found += 1
    seconds = time.perf_counter() - begin
    if found != writers * prompts * SAMPLES:
        raise RuntimeError(f"{found} of {writers * prompts * SAMPLES} samples came back")
    return seconds


def read_share(folder: Path, prompts: int) -> float:
    """Seconds to read the samples of the first writer's prompts.

    Raises:
        RuntimeError: a sample is missing.
    """
    wanted = keys_of(0, prompts)
    begin = time.perf_counter()
    found = Sampler(folder).read(wanted)
    seconds = time.perf_counter() - begin
    if {key: len(samples) for key, samples in found.items()} != dict.fromkeys(wanted, SAMPLES):
        raise RuntimeError("samples of the first writer are missing")
    return seconds


def look_past(folder: Path) -> float:
    """Seconds to find that there is no sample of a prompt.

    Raises:
        RuntimeError: there is one.
    """
    begin = time.perf_counter()
    found = Sampler(folder).read({prompt_key((-1,))})
    seconds = time.perf_counter() - begin
    if found:
        raise RuntimeError("a prompt that nobody wrote has samples")
    return seconds


def hold(folder: Path, prompts: int, grown: "SimpleQueue[int]") -> None:
    """Read the samples of the first writer's prompts and tell by how many bytes this process has grown."""
    keys, before = keys_of(0, prompts), resident()
    found = Sampler(folder).read(keys)
    grown.put(resident() - before)
    del found


def held(folder: Path, prompts: int) -> int:
    """Bytes that the samples of the first writer's prompts take in a process of their own, as in a fit's."""
    context = multiprocessing.get_context("spawn")
    grown: SimpleQueue[int] = context.SimpleQueue()
    process = context.Process(target=hold, args=(folder, prompts, grown))
    process.start()
    size = grown.get()
    process.join()
    return size


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(writers: int, prompts: int) -> Found:
    """One number of writers with so many prompts each."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        seconds = write_all(folder, writers, prompts)
        shards = sorted(folder.glob("*.jsonl"))
        row: Found = {"writers": writers, "samples": writers * prompts * SAMPLES, "write": seconds}
        row["files"] = len(list(folder.iterdir()))
        row["bytes"] = sum(shard.stat().st_size for shard in shards)
        row["list_bytes"] = sum(contents(shard).stat().st_size for shard in shards)
        row["read"] = read_all(folder, writers, prompts)
        row["share"] = read_share(folder, prompts)
        row["held"] = held(folder, prompts)
        row["past"] = look_past(folder)
        for shard in shards:
            contents(shard).unlink()
        row["past_without_lists"] = look_past(folder)
    return row


def main(
    writers: list[int] = [1, 8, 64],  # noqa: B006
    prompts: list[int] = [1024, 4096],  # noqa: B006
    out: Path = RESULTS,
) -> None:
    """Measure and write results/writers.json.

    Args:
        writers: processes that write at once.
        prompts: of all writers together, 100 samples each; multiples of each number of writers.
        out: the file.
    """
    if any(total % number for total in prompts for number in writers):
        raise InputError(f"prompts {prompts} cannot be shared evenly among {writers} writers; give multiples of each")
    pairs = [(number, total) for total in prompts for number in writers]
    rows = [measure(number, total // number) for number, total in track(pairs, "writers")]
    result = {"rows": rows, "tokens": TOKENS, "machine": platform.machine(), "cores": os.cpu_count()}
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def table(result: Found) -> str:
    """The numbers of writers in Markdown.

    Reading is in microseconds for each sample that the store holds, memory in bytes for each that was read.
    """
    heads = (
        "writers",
        "samples",
        "files",
        "MB",
        "samples/s",
        "MB/s",
        "read all, µs",
        "a share, µs",
        "none, µs",
        "none, without lists, µs",
        "held, B",
    )
    lines = [f"| {' | '.join(heads)} |", "|" + "---:|" * len(heads)]
    for row in result["rows"]:
        reading = (
            f"{1e6 * row[name] / row['samples']:.3f}" for name in ("read", "share", "past", "past_without_lists")
        )
        cells = [
            f"{row['writers']}",
            f"{row['samples']:,}",
            f"{row['files']}",
            f"{row['bytes'] / 1e6:,.0f}",
            f"{row['samples'] / row['write']:,.0f}",
            f"{row['bytes'] / row['write'] / 1e6:,.0f}",
            *reading,
            f"{row['held'] / row['samples'] * row['writers']:,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
