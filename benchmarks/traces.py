"""The page of ``stepneg traces`` with thousands of solutions in a real browser: ``python -m benchmarks.traces``.

A run with valued solutions of the generated task and random counts, half of them right and half of the wrong ones in a
pair, is written as a fit writes it. The page is made, opened in a headless Chromium without a GPU, searched, filtered,
stepped through and scrolled; times are those of the page's own clock, with layout.
"""

import json
import os
import platform
import random
import subprocess
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from rich.progress import track

from benchmarks.chromium import Tab, chromium, find
from stepneg.analysis.traces import traces
from stepneg.credit.pairs import Trace
from stepneg.credit.steps import split_steps
from stepneg.data.prepared import Built, write_built
from stepneg.data.rows import Example, decode, teacher_row
from stepneg.policy_folder import load_tokenizer
from stepneg.problems.arithmetic import Arithmetic

RESULTS = Path(__file__).with_name("results") / "traces.json"
POLICY = Path(__file__).parents[1] / "assets" / "arithmetic-base"
EACH = 4  # solutions of a problem
TEMPLATE = "{question}\n"
Found = dict[str, float]

MEASURE = """(async () => {
  const settled = (run) => {
    const begin = performance.now();
    run();
    document.body.offsetHeight;
    return performance.now() - begin;
  };
  const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];
  const search = document.getElementById("search");
  const type = (text) => {
    search.value = text;
    search.dispatchEvent(new Event("input"));
  };
  const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const result = { ready: performance.getEntriesByName("ready")[0].startTime };
  result.first_search = settled(() => type("take"));
  const words = ["add.", "stones ann", "skip", '"#### 12"', "zebra", ""];
  result.search = median(words.map((text) => settled(() => type(text))));
  result.filter = median(["w", "r", "x", "w", "x"].map((key) => settled(() => press(key))));
  const keys = Array.from({ length: 200 }, () => settled(() => press("j")));
  Object.assign(result, { key: median(keys), worst_key: Math.max(...keys) });
  const list = document.getElementById("list");
  const frames = [];
  let last;
  for (let i = 0; i < 3; i++) last = await new Promise(requestAnimationFrame); // what came before is painted
  for (let i = 1; i <= 60; i++) {
    list.scrollTop = (i / 60) * list.scrollHeight;
    const now = await new Promise(requestAnimationFrame);
    frames.push(now - last);
    last = now;
  }
  Object.assign(result, { frame: median(frames), worst_frame: Math.max(...frames) });
  result.elements = document.querySelectorAll("*").length;
  return result;
})()"""


def write_run(run: Path, number: int, seed: int) -> None:
    """A run of ``number`` solutions: the teacher's, right, or with two tokens swapped, wrong; counts are random."""
    rng = random.Random(seed)
    tokenizer = load_tokenizer(POLICY)
    problems = Arithmetic(size=number // EACH, seed=seed).load()
    found: list[Trace] = []
    pairs: list[Example] = []
    for problem in problems:
        row = teacher_row(tokenizer, TEMPLATE, problem)
        ends = tuple(split_steps(row.response_ids, partial(decode, tokenizer)))
        for i in range(EACH):
            right = i % 2 == 0
            counts = (*((8, rng.randint(1, 8)) for _ in ends), (8, 8 * right))
            ids = row.response_ids if right else swapped(row.response_ids, rng)
            found.append(Trace(problem.id, row.prompt_ids, ids, right, ends, counts))
            if i % 4 == 1:
                pairs.append((row, replace(row, response_ids=ids)))
    write_built(Built(pairs, {"examples": float(len(pairs))}, found), run / "data" / "benchmark.jsonl", problems)
    data = {"class_path": "stepneg.data.pairs.Pairs", "init_args": {"policy": str(POLICY), "template": TEMPLATE}}
    (run / "config.yaml").write_text(json.dumps({"data": data}))


def swapped(ids: tuple[int, ...], rng: random.Random) -> tuple[int, ...]:
    """The response with two neighbouring tokens in each other's place."""
    place = rng.randrange(1, len(ids) - 2)
    return (*ids[:place], ids[place + 1], ids[place], *ids[place + 2 :])


def measure(tab: Tab, page: Path) -> Found:
    """Times of the page in milliseconds, its heap in MiB."""
    tab.open(page)
    result = dict(tab.run(MEASURE))
    tab.send("HeapProfiler.collectGarbage")
    return result | {"heap": tab.send("Runtime.getHeapUsage")["usedSize"] / 2**20}


def main(sizes: list[int] = [1000, 5000, 20_000], rounds: int = 5, out: Path = RESULTS) -> None:  # noqa: B006
    """Measure and write results/traces.json.

    Args:
        sizes: numbers of solutions.
        rounds: of which the median counts.
        out: the file.
    """
    rows: list[Found] = []
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as home, chromium() as tab:
        for number in track(sizes, "sizes"):
            run = Path(home) / str(number)
            write_run(run, number, seed=0)
            begin = time.perf_counter()
            traces(run)
            row = {"solutions": number, "seconds": time.perf_counter() - begin}
            row["mib"] = (run / "traces.html").stat().st_size / 2**20
            found = [measure(tab, run / "traces.html") for _ in range(rounds)]
            rows.append(row | {name: sorted(f[name] for f in found)[rounds // 2] for name in found[0]})
    browser = subprocess.run([find(), "--version"], check=True, capture_output=True, text=True).stdout.strip()
    machine = {"browser": browser, "machine": platform.machine(), "cores": os.cpu_count(), "load": load}
    result = {"rounds": rounds, "rows": rows} | machine
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """The sizes in Markdown."""
    lines = [
        "| solutions | page made, s | page, MiB | open until ready, ms | first search, ms | search, ms | filter, ms"
        " | key, ms (worst) | frame in scrolling, ms (worst) | heap, MiB | elements |",
        f"|{'---:|' * 11}",
    ]
    for row in result["rows"]:
        cells = [f"{row['solutions']:,}", f"{row['seconds']:.1f}", f"{row['mib']:.1f}", f"{row['ready']:.0f}"]
        cells += [f"{row[name]:.0f}" for name in ("first_search", "search", "filter")]
        cells += [f"{row['key']:.1f} ({row['worst_key']:.1f})", f"{row['frame']:.0f} ({row['worst_frame']:.0f})"]
        cells += [f"{row['heap']:.0f}", f"{row['elements']:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    rounds = f"{result['rounds']} round{'s' if result['rounds'] > 1 else ''}"
    said = f"{result['browser']}; {rounds}; other work on the {result['cores']} cores: a load of {result['load']:.1f}."
    return "\n".join([*lines, "", said])


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
