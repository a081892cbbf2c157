"""A plan of 1,000,000 problems x 100 samples on 64 nodes, from what was measured: ``python -m benchmarks.scale``.

Sizes and times of the sample store are those of results/writers.json, grown in proportion to the samples; that they do
grow so is what results/store.json measures. A rollout is half a solution: what tokens take of its line and of its place
in memory is half as large, and the time to read it is in proportion to its line. The speed of sampling was not
measured: for want of a GPU the plan has the upper bound that follows from a GPU's data sheet, and what a given share of
it would mean.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from benchmarks import writers
from stepneg.architecture import Architecture, architecture
from stepneg.costs import in_bytes, in_time
from stepneg.sampling.store import line, prompt_key

RESULTS = Path(__file__).with_name("results") / "scale.json"
SHARES = (1.0, 0.5, 0.25)  # of the bound
HALF = 0.5  # of a solution's tokens: a rollout's, on average
POINTER = 8  # bytes of a token in a tuple; the ids themselves are kept once
Found = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is to be sampled on what; by default an H100 SXM (NVIDIA's data sheet: 3.35 TB/s, 989 TFLOP/s in bfloat16).

    Attributes:
        problems: how many.
        samples: of each.
        tokens: of a sample, on average.
        prompt: tokens of a prompt.
        negatives: wrong solutions of a problem whose pit is looked for, as in configs/gsm8k/step_dpo.yaml.
        rollouts: from each of their prefixes, as there.
        steps: of a solution; GSM8K's worked solutions have 4.6 lines.
        waves: of rollouts that an engine draws one after another, as many as the longest of its solutions has prefixes:
            the 512 tokens that configs/gsm8k/step_dpo.yaml allows are 12 steps of the mean length.
        nodes: machines.
        gpus: of each machine, an engine on each.
        sequences: decoded together by an engine.
        bandwidth: of a GPU's memory, bytes/s.
        flops: of a GPU, in bfloat16.
    """

    problems: int = 1_000_000
    samples: int = 100
    tokens: int = 200
    prompt: int = 100
    negatives: int = 8
    rollouts: int = 20
    steps: int = 5
    waves: int = 12
    nodes: int = 64
    gpus: int = 8
    sequences: int = 256
    bandwidth: float = 3.35e12
    flops: float = 989e12


PLAN = Plan()


def bound(model: Architecture, plan: Plan) -> float:
    """Most tokens a second of one engine.

    A decoding step of ``sequences`` tokens reads the weights once and the cache of each sequence, which is half grown
    on average, and multiplies and adds once a weight and token. Neither can be faster than the data sheet.
    """
    cache = plan.sequences * (plan.prompt + plan.tokens / 2) * model.cached
    reading = (2 * model.parameters + cache) / plan.bandwidth
    computing = 2 * model.products * plan.sequences / plan.flops
    return plan.sequences / max(reading, computing)


def bare() -> float:
    """Mean bytes of a sample's line without its tokens."""
    lines = [line(prompt_key(()), 0, replace(done, token_ids=())) for done in writers.pool(0)]
    return sum(map(len, lines)) / len(lines)


def of_rollout(solution: Found, without_tokens: float) -> Found:
    """Bytes, bytes in memory and seconds of a rollout, from those of a solution.

    Args:
        solution: a sample's ``bytes``, ``held``, ``read`` and ``past_without_lists``.
        without_tokens: bytes of a line that do not depend on its length.
    """
    size = without_tokens + HALF * (solution["bytes"] - without_tokens)
    times = {name: solution[name] * size / solution["bytes"] for name in ("read", "past_without_lists")}
    return {"bytes": size, "held": solution["held"] - POINTER * (1 - HALF) * writers.TOKENS} | times


def figures(model: Architecture, plan: Plan, measured: Found) -> Found:
    """What the plan takes; solutions and rollouts lie in one folder of the store.

    Args:
        model: that samples.
        plan: what is sampled on what.
        measured: the row of results/writers.json with the most writers and samples.
    """
    total, engines = plan.problems * plan.samples, plan.nodes * plan.gpus
    speed = bound(model, plan)
    solution = {name: value / measured["samples"] for name, value in measured.items() if name != "machine"}
    solution["held"] *= measured["writers"]
    rollout = of_rollout(solution, bare())
    prefixes = plan.problems * plan.negatives * plan.steps
    rollouts = prefixes * plan.rollouts

    def both(name: str) -> float:
        return float(total * solution[name] + rollouts * rollout[name])

    prompts = (total, prefixes * writers.SAMPLES)  # a list is as long as its prompts, however often each is sampled
    lists, look_up = (sum(prompts) * solution[name] for name in ("list_bytes", "past"))
    # A pair of each negative, packed: a problem's prompt once, and of each pair two solutions.
    forward = 2 * model.products * plan.problems * (plan.prompt + 2 * plan.negatives * plan.tokens)
    pass_hours = forward / (plan.flops * SHARES[1]) / 3600  # of one GPU
    return {
        "samples": total,
        "tokens": total * plan.tokens,
        "bound": speed,
        "hours": [total * plan.tokens / (engines * speed * part) / 3600 for part in SHARES],
        "prefixes": prefixes,
        "rollouts": rollouts,
        "rollout_hours": rollouts * HALF * plan.tokens / (engines * speed * SHARES[1]) / 3600,
        "reference_hours": pass_hours,
        "training_hours": 3 * pass_hours / engines,
        "engine_samples": (total + rollouts) / engines,
        "engine_rate": speed / (HALF * plan.tokens),
        "writers_rate": measured["samples"] / measured["write"],
        "solution_bytes": total * solution["bytes"],
        "rollout_bytes": rollouts * rollout["bytes"],
        "store_bytes": both("bytes"),
        "list_bytes": lists,
        # A shard and a list for each writer: one for the solutions, one for each wave; and meta.json.
        "files": 2 * engines * (1 + plan.waves) + 1,
        "engine_bytes": both("bytes") / engines,
        "engine_held": both("held") / engines,
        "lists_seconds": look_up,
        "look_up_seconds": look_up + both("read") / engines,
        "look_up_without_lists_seconds": both("past_without_lists") + both("read") / engines,
        "scanned_without_lists_bytes": engines * both("bytes"),
        "solution_read_seconds": total * solution["read"],
        "read_seconds": both("read"),
        "solution_held": total * solution["held"],
        "held": both("held"),
    }


def main(model: Path = Path("configs/model/deepseek_math_7b.json"), plan: Plan = PLAN, out: Path = RESULTS) -> None:
    """Compute the plan and write results/scale.json.

    Args:
        model: its config.json.
        plan: what is sampled on what.
        out: the file.
    """
    measured = json.loads(writers.RESULTS.read_text())["rows"][-1]
    result = {"model": model.stem, "plan": asdict(plan)} | figures(architecture(model), plan, measured)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def table(result: Found) -> str:
    """The plan in Markdown."""
    plan = Plan(**result["plan"])
    bounds = zip(SHARES, result["hours"], strict=True)
    rows = [
        ("samples", f"{result['samples']:,}", f"{plan.problems:,} problems x {plan.samples}"),
        ("tokens", f"{result['tokens']:.1e}", f"{plan.tokens} a sample"),
        ("engines", f"{plan.nodes * plan.gpus}", f"{plan.nodes} nodes x {plan.gpus} GPUs"),
        ("tokens/s an engine, at most", f"{result['bound']:,.0f}", f"data sheet, {plan.sequences} sequences"),
        *((f"hours of sampling at {part:.0%} of that", f"{hours:.1f}", "") for part, hours in bounds),
        ("rollouts for pits, from every prefix", f"{result['rollouts']:,}", f"{result['prefixes']:,} prefixes"),
        (f"hours of those at {SHARES[1]:.0%}", f"{result['rollout_hours']:.1f}", "half a solution each"),
        ("hours of the reference's log-probabilities at 50%", f"{result['reference_hours']:.1f}", "one GPU, all pairs"),
        ("hours of training at 50%, one epoch", f"{result['training_hours']:.1f}", "all GPUs; back is twice forth"),
        ("samples an engine", f"{result['engine_samples']:,.0f}", "solutions and rollouts"),
        ("samples/s an engine stores, at most", f"{result['engine_rate']:,.0f}", "rollouts, at the bound"),
        ("samples/s that were stored", f"{result['writers_rate']:,.0f}", "64 writers, 2 cores, one disk"),
        ("solutions in the store", in_bytes(result["solution_bytes"]), "measured bytes a sample"),
        ("rollouts in the store", in_bytes(result["rollout_bytes"]), "the same with half the tokens"),
        ("store", in_bytes(result["store_bytes"]), "both"),
        ("lists of prompts and prefixes", in_bytes(result["list_bytes"]), "measured bytes a prompt"),
        (
            "files in one folder",
            f"{result['files']:,}",
            f"a shard and a list a writer; an engine opens {1 + plan.waves}: for solutions and {plan.waves} waves",
        ),
        ("an engine's shards", in_bytes(result["engine_bytes"]), ""),
        ("reading all lists once", in_time(result["lists_seconds"]), "measured seconds a prompt"),
        ("an engine's look-up", in_time(result["look_up_seconds"]), "all lists and its own shards"),
        ("the same without lists", in_time(result["look_up_without_lists_seconds"]), "every shard"),
        ("what all engines would read without lists", in_bytes(result["scanned_without_lists_bytes"]), ""),
        ("an engine's samples in memory", in_bytes(result["engine_held"]), "measured bytes a sample held"),
        ("reading the solutions, one process", in_time(result["solution_read_seconds"]), "measured seconds a sample"),
        ("reading everything, one process", in_time(result["read_seconds"]), "rollouts in proportion to their bytes"),
        ("the solutions in memory, one process", in_bytes(result["solution_held"]), "measured bytes a sample held"),
        ("everything in memory, one process", in_bytes(result["held"]), "rollouts with half the tokens"),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [("", "figure", "from"), ("---", "---:", "---"), *rows])


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
