"""Cost against problems, samples, steps and length, over two decades: ``python -m benchmarks.growth``.

Each stage beside the engine is timed at 1, 10 and 100 times a size. The exponent is that of a power law fitted to the
three times; the one of the last decade stands beside it, since fixed costs flatten the first. The engine of the whole
way (sample, store, grade, split, search) has its samples ready. An edit distance is quadratic in the length, but of
30 tokens at a time: up to 1,000 tokens, the longest of the tasks, that begins to show.
"""

import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from rich.progress import track
from transformers import PreTrainedTokenizerBase

from benchmarks.store import exponent, read, write
from stepneg.credit.pairs import (
    Trace,
    distinct_positives,
    edit_distance_pairs,
    first_pit_pairs,
    outcome_pairs,
    shared_prefix_pairs,
)
from stepneg.credit.search import Search
from stepneg.credit.steps import Rule, split_steps
from stepneg.data.forest import batched
from stepneg.data.rollouts import Rollouts
from stepneg.data.rows import Row, decode, encode_response
from stepneg.grading.batch import grade_all
from stepneg.grading.compare import compare_short_formulas
from stepneg.grading.number import read_number
from stepneg.grading.verifier import Form
from stepneg.policy_folder import load_tokenizer
from stepneg.problems import ASSETS, Problem
from stepneg.sampling.engine import Completion, Decoding, Request

RESULTS = Path(__file__).with_name("results") / "growth.json"
POLICY = ASSETS / "arithmetic-base"
LIMIT = 1.1  # the largest exponent that counts as linear
PROBLEMS, SAMPLES, STEPS, LENGTH = 5, 20, 5, 2  # what does not grow: problems, samples each, steps, tokens a step
# From more wrong solutions than a problem's most pairs, and up to 1,000 tokens, the longest response of the tasks.
LEAST = {"problems": 5, "samples": 20, "steps": 5, "length": 2}
EOS = 2
Run = Callable[[], object]
Prepare = Callable[[int], Run]  # the size to what is timed
Found = dict[str, Any]


def random_traces(problems: int, samples: int, steps: int, length: int) -> dict[str, list[Trace]]:
    """Solutions of each problem, every other one wrong with a pit; a step is one of two at its place, or one of its
    own, so that some solutions begin alike.
    """
    found: dict[str, list[Trace]] = {}
    for number in range(problems):
        rng = random.Random(number)
        prompt = tuple(rng.choices(range(10, 1000), k=20))
        usual = [[tuple(rng.choices(range(10, 1000), k=length)) for _ in range(2)] for _ in range(steps)]
        traces = []
        for sample in range(samples):
            parts = [
                rng.choice(pair) if rng.random() < 0.9 else tuple(rng.choices(range(10, 1000), k=length))
                for pair in usual
            ]
            # The last step tells the solution apart, and right ones from wrong ones.
            response = (*(token for part in parts for token in part), 1000 + sample, EOS)
            ends = (*range(length, length * steps, length), len(response))
            pit = rng.randrange(1, steps + 1)
            counts = ((samples, samples // 2), *((8, 4) for _ in range(pit - 1)), (8, 0)) if sample % 2 else ()
            traces.append(Trace(str(number), prompt, response, sample % 2 == 0, ends, counts))
        found[str(number)] = traces
    return found


def pairs(kind: str, problems: int = PROBLEMS, samples: int = SAMPLES, steps: int = STEPS, length: int = LENGTH) -> Run:
    """Build pairs of a kind, or choose positives."""
    traces = random_traces(problems, samples, steps, length)
    right = {name: [t for t in found if t.correct] for name, found in traces.items()}
    wrong = {name: [t for t in found if not t.correct] for name, found in traces.items()}
    runs: dict[str, Run] = {
        "first pit": lambda: first_pit_pairs(right, wrong, k=4, eos_ids={EOS}),
        "shared prefix": lambda: shared_prefix_pairs(right, wrong, {}, k=4, eos_ids={EOS}),
        "outcome": lambda: outcome_pairs(right, wrong, eos_ids={EOS}),
        "edit distance": lambda: edit_distance_pairs(right, wrong, eos_ids={EOS}),
        "positives": lambda: distinct_positives([t for found in right.values() for t in found], 4),
    }
    return runs[kind]


def search(samples: int = 100, steps: int = STEPS, length: int = LENGTH) -> Run:
    """Show a search all other solutions of its problem, and let it ask."""
    traces = random_traces(1, samples, steps, length)["0"]

    def run() -> None:
        found = Search(traces[1].response_ids, traces[1].ends, 48)
        for trace in traces:
            found.see(0, trace.response_ids, trace.correct)
            found.ask()

    return run


def forest(problems: int = PROBLEMS, samples: int = SAMPLES, steps: int = STEPS, length: int = LENGTH) -> Run:
    """Pack the solutions of all problems into one batch."""
    traces = random_traces(problems, samples, steps, length)
    examples = [(Row(t.prompt_ids, t.response_ids),) for found in traces.values() for t in found]
    return lambda: batched(examples, 0, True)


def splitting(rule: Rule, tokenizer: PreTrainedTokenizerBase, steps: int = 20, length: int = 1) -> Run:
    """Split one response into steps: more of them, or longer ones."""
    rng = random.Random(0)
    line = {"line": "Mia finds 5: add.\n", "math": "Then $x = 12 + 5$ holds. So it is 17.\n", "comma": "12 + 5,"}[rule]
    text = "".join(line if rng.random() < 0.5 else line[:-1] * length + line[-1] for _ in range(steps))
    ids = encode_response(tokenizer, text)
    return lambda: split_steps(ids, partial(decode, tokenizer), rule)


def grading(form: Form, samples: int = 20, length: int = 5) -> Run:
    """Grade responses of some lines, each with an answer of its own."""
    rng = random.Random(0)
    items = []
    for _ in range(samples):
        answer = rng.randrange(10**9)
        text = "".join(
            f"Then {rng.randrange(99)} + {rng.randrange(99)} = {rng.randrange(99)}.\n" for _ in range(length)
        )
        end = f"\\boxed{{\\frac{{{answer}}}{{7}}}}" if form == "math" else f"#### {answer:,}"
        reference = f"{answer}/7" if form == "math" else str(answer)
        items.append((text + end, reference))

    def run() -> None:
        for memo in (compare_short_formulas, read_number):
            memo.cache_clear()
        assert all(verdict.correct for verdict in grade_all(items, form))

    return run


class MadeUp:
    """An engine that has its samples ready: lines, then an answer that is right every other time."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, steps: int, length: int) -> None:
        self.responses = []
        for number in range(20):
            lines = " ".join([f"Mia finds {number}: add."] * length) + "\n"
            self.responses.append(encode_response(tokenizer, lines * (steps - 1) + f"#### {7 + number % 2}"))

    def load(self, policy: Path) -> None:
        """Nothing is to be loaded."""

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[tuple[int, list[Completion]]]:
        """The samples, in order."""
        for index, request in enumerate(requests):
            seeds = range(request.seed + request.start, request.seed + request.start + request.n)
            yield index, [Completion(self.responses[seed % 20], -1.0, "stop") for seed in seeds]


def whole(
    valued: bool,
    tokenizer: PreTrainedTokenizerBase,
    problems: int = PROBLEMS,
    samples: int = SAMPLES,
    steps: int = STEPS,
    length: int = 1,
) -> Run:
    """Sample, store, grade and split; with a search for pits if the solutions are valued."""
    chosen = [Problem(str(i), f"Mia has {i} coins. How many?", "7") for i in range(problems)]
    engine: Any = MadeUp(tokenizer, steps, length)

    def run() -> None:
        with tempfile.TemporaryDirectory() as store:
            rollouts = Rollouts(engine, Path(store), samples=samples, max_tokens=10**6, pit_error=0.01, rollouts=48)
            way = rollouts.valued if valued else rollouts.solutions
            way(POLICY, chosen, tokenizer, "{question}\n")

    return run


def storing(stage: Callable[[Path, int], object], samples: int) -> Run:
    """Write samples, or read them back."""
    folder = tempfile.TemporaryDirectory()
    if stage is read:
        write(Path(folder.name), samples)
    return lambda: folder and stage(Path(folder.name), samples)


def along(name: str, build: Callable[..., Run]) -> Prepare:
    """What is timed where the size is that of one argument."""
    return lambda size: build(**{name: size})


def cases() -> list[tuple[str, str, int, Prepare]]:
    """Stage, what grows, its least size, and what is timed at a size."""
    tokenizer = load_tokenizer(POLICY)
    found: list[tuple[str, str, int, Callable[..., Run]]] = [
        ("store: write", "samples", 1000, partial(storing, write)),
        ("store: read, aggregate", "samples", 1000, partial(storing, read)),
        *(("grading: gsm8k", name, 50, partial(grading, "gsm8k")) for name in ("samples", "length")),
        *(("grading: math", name, 50, partial(grading, "math")) for name in ("samples", "length")),
    ]
    rules: tuple[Rule, ...] = ("line", "math", "comma")
    for rule in rules:
        found += [(f"steps: {rule}", name, 20, partial(splitting, rule, tokenizer)) for name in ("steps", "length")]
    for kind in ("first pit", "shared prefix", "outcome", "edit distance", "positives"):
        found += [(f"pairs: {kind}", name, least, partial(pairs, kind)) for name, least in LEAST.items()]
    found += [("forest", name, least, forest) for name, least in LEAST.items()]
    found += [("search", name, LEAST[name], search) for name in ("samples", "steps", "length")]
    found += [("solutions, whole", name, 4, partial(whole, False, tokenizer)) for name in LEAST]
    found += [("pits, whole", name, 4, partial(whole, True, tokenizer)) for name in ("problems", "samples")]
    return [(stage, name, least, along(name, build)) for stage, name, least, build in found]


def seconds(run: Run, least: float) -> float:
    """The shortest time of one run among as many as fill ``least`` seconds, three at least if that is short."""
    times: list[float] = []
    while (len(times) < 3 and sum(times) < 5 * least) or sum(times) < least:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def main(least: float = 0.2, only: str = "", out: Path = RESULTS) -> None:
    """Measure and write results/growth.json.

    Args:
        least: seconds that a size is repeated for.
        only: stages whose name holds this.
        out: the file.
    """
    rows: list[Found] = []
    chosen = [case for case in cases() if only in case[0]]
    for stage, grows, size, prepare in track(chosen, "stages"):
        sizes = [size, 10 * size, 100 * size]
        times = [seconds(prepare(n), least) for n in sizes]
        fits = {"exponent": exponent(sizes, times), "last": exponent(sizes[1:], times[1:])}
        rows.append({"stage": stage, "grows": grows, "sizes": sizes, "seconds": times} | fits)
    result = {"rows": rows, "limit": LIMIT, "machine": platform.machine(), "cores": os.cpu_count()}
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def table(result: Found) -> str:
    """The stages in Markdown; what grows faster than linearly is bold."""
    lines = ["| stage | grows | sizes | seconds | exponent | last decade |", "|---|---|---|---|---:|---:|"]
    for row in result["rows"]:
        sizes, times = ", ".join(f"{n:,}" for n in row["sizes"]), ", ".join(f"{t:.2g}" for t in row["seconds"])
        fits = [f"**{row[f]:.2f}**" if row[f] > result["limit"] else f"{row[f]:.2f}" for f in ("exponent", "last")]
        lines.append(f"| {row['stage']} | {row['grows']} | {sizes} | {times} | {' | '.join(fits)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
