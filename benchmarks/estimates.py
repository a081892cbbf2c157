"""What a chain was estimated to cost and what it then took: ``python -m benchmarks.estimates``.

Both in a temporary folder without samples, in this process, the estimate first, as `stepneg estimate` and then
`stepneg pipeline` would; about half an hour for the chain of `make demo`.
"""

import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from stepneg.chains import chain_parser, folder_of, stages_of
from stepneg.costs import Cost, in_time
from stepneg.estimate import estimates
from stepneg.jobs import Job
from stepneg.pipeline import cells, pipeline
from stepneg.training import run

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results") / "estimates.json"
Found = dict[str, Any]


def measured(job: Job, seconds: float) -> Found:
    """What a job that has run took: seconds, and of a fit the tokens that it counted."""
    facts = json.loads((job.home / "summary.json").read_text()) if job.verb == "fit" else {}
    return {"seconds": seconds} | {name: facts.get(name, 0) for name in ("sampled_tokens", "trained_tokens")}


def row_of(job: Job, cost: Cost, took: Found) -> Found:
    """Both sides of a run."""
    guess = {"seconds": cost.seconds, "sampled_tokens": cost.data_tokens, "trained_tokens": cost.trained_tokens}
    return {"stage": job.stage.name, "verb": job.verb, "estimated": guess, "measured": took}


def compare(config: Path, seed: int, problems: int, steps: int, args: Sequence[str]) -> list[Found]:
    """Estimate a chain, run it, and give a row a run; in the current folder."""
    parser = chain_parser("pipeline", None)
    for name in ("order", "baseline"):
        parser.add_argument(f"--{name}", type=Any, default=None)
    given = parser.parse_args([f"--config={config}", f"--seeds=[{seed}]", *args])
    folder, stages = folder_of(given), stages_of(given)
    repeat = cells(given.root, given.seeds, None, given.as_dict()["constants"])
    guessed = estimates(folder, stages, repeat, problems, steps)[0]
    seconds: list[float] = []

    def timed_run(argv: list[str]) -> None:
        begin = time.monotonic()
        run(argv)
        seconds.append(time.monotonic() - begin)

    pipeline(timed_run, folder, stages, repeat)
    rows = []
    for (job, cost), took in zip(guessed, seconds, strict=True):
        assert isinstance(cost, Cost), f"{job.stage.name} {job.verb}: {cost}"
        rows.append(row_of(job, cost, measured(job, took)))
    return rows


def main(
    config: Path = ROOT / "configs" / "arithmetic" / "pipeline.yaml",
    seed: int = 0,
    problems: int = 32,
    steps: int = 32,
    args: list[str] = [],  # noqa: B006
    out: Path = RESULTS,
) -> None:
    """Measure and write results/estimates.json.

    Args:
        config: the chain.
        seed: of its one cell.
        problems: as of `stepneg estimate`.
        steps: as of `stepneg estimate`.
        args: further options of the chain, such as --args.data.rollouts.samples=4.
        out: the file.
    """
    config, out = config.resolve(), out.resolve()
    with tempfile.TemporaryDirectory() as home:
        os.chdir(home)
        Path("assets").symlink_to(ROOT / "assets")
        rows = compare(config, seed, problems, steps, args)
        os.chdir(ROOT)
    result = {"machine": platform.machine(), "cores": os.cpu_count(), "rows": rows}
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def apart(guess: float, took: float) -> str:
    """How far an estimate is off."""
    return f"{100 * (guess / took - 1):+.0f} %" if took else ""


def table(result: Found) -> str:
    """The runs in Markdown, and their sum."""
    lines = [
        "| run | time, estimated | measured | off | data tokens, estimated | counted | off"
        " | trained tokens, estimated | counted | off |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    names = ("seconds", "sampled_tokens", "trained_tokens")
    sides = ("estimated", "measured")
    total = {side: {name: sum(row[side][name] for row in result["rows"]) for name in names} for side in sides}
    for row in [*result["rows"], {"stage": "total", "verb": ""} | total]:
        cells = [f"{row['stage']}: {row['verb']}" if row["verb"] else "**total**"]
        for name in names:
            guess, took = row["estimated"][name], row["measured"][name]
            tokens = [f"{guess:,.0f}", f"{took:,.0f}"] if guess or took else ["", ""]
            cells += [in_time(guess), in_time(took)] if name == "seconds" else tokens
            cells.append(apart(guess, took))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
