"""A plan of 1,000,000 problems x 100 samples on 64 nodes, from what was measured: ``python -m benchmarks.scale``.

Sizes and times of the sample store are those of results/writers.json, grown in proportion to the samples; that they do
grow so is what results/store.json measures. The speed of sampling was not measured: for want of a GPU the plan has the
upper bound that follows from a GPU's data sheet, and what a given share of it would mean.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from benchmarks import writers
from stepneg.architecture import Architecture, architecture
from stepneg.costs import in_bytes, in_time

RESULTS = Path(__file__).with_name("results") / "scale.json"
SHARES = (1.0, 0.5, 0.25)  # of the bound
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


def figures(model: Architecture, plan: Plan, measured: Found) -> Found:
    """What the plan takes.

    Args:
        model: that samples.
        plan: what is sampled on what.
        measured: the row of results/writers.json with the most writers and samples.
    """
    total, engines = plan.problems * plan.samples, plan.nodes * plan.gpus
    speed, share = bound(model, plan), plan.problems * plan.samples / engines
    each = {name: value / measured["samples"] for name, value in measured.items() if name != "machine"}
    held = each["held"] * measured["writers"]
    prefixes = plan.problems * plan.negatives * plan.steps
    # A pair of each negative, packed: a problem's prompt once, and of each pair two solutions.
    forward = 2 * model.products * plan.problems * (plan.prompt + 2 * plan.negatives * plan.tokens)
    pass_hours = forward / (plan.flops * SHARES[1]) / 3600  # of one GPU
    return {
        "samples": total,
        "tokens": total * plan.tokens,
        "bound": speed,
        "hours": [total * plan.tokens / (engines * speed * part) / 3600 for part in SHARES],
        "prefixes": prefixes,
        "rollouts": prefixes * plan.rollouts,
        "rollout_hours": prefixes * plan.rollouts * plan.tokens / 2 / (engines * speed * SHARES[1]) / 3600,
        "reference_hours": pass_hours,
        "training_hours": 3 * pass_hours / engines,
        "store_bytes": total * each["bytes"],
        "list_bytes": total * each["list_bytes"],
        "prefix_list_bytes": prefixes * each["list_bytes"] * writers.SAMPLES,
        "prefix_look_up_seconds": prefixes * each["past"] * writers.SAMPLES,
        "files": 2 * engines + 1,  # a shard and a list for each engine, and meta.json
        "engine_samples": share,
        "engine_bytes": share * each["bytes"],
        "engine_held": share * held,
        "engine_rate": share / (total * plan.tokens / (engines * speed)),
        "writers_rate": measured["samples"] / measured["write"],
        "look_up_seconds": total * each["past"] + share * each["read"],
        "look_up_without_lists_seconds": total * each["past_without_lists"] + share * each["read"],
        "scanned_without_lists_bytes": engines * total * each["bytes"],
        "read_seconds": total * each["read"],
        "held": total * held,
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
        ("samples an engine", f"{result['engine_samples']:,.0f}", ""),
        ("samples/s an engine stores, at most", f"{result['engine_rate']:,.0f}", "at the bound"),
        ("samples/s that were stored", f"{result['writers_rate']:,.0f}", "64 writers, 2 cores, one disk"),
        ("store", in_bytes(result["store_bytes"]), "measured bytes a sample"),
        ("lists of prompts", in_bytes(result["list_bytes"]), "measured"),
        ("lists of the rollouts' prefixes", in_bytes(result["prefix_list_bytes"]), "measured bytes a prompt"),
        ("reading those lists once", in_time(result["prefix_look_up_seconds"]), "measured seconds a prompt"),
        ("files in one folder", f"{result['files']:,}", "a shard and a list an engine"),
        ("an engine's shard", in_bytes(result["engine_bytes"]), ""),
        ("an engine's look-up", in_time(result["look_up_seconds"]), "all lists and its own shard"),
        ("the same without lists", in_time(result["look_up_without_lists_seconds"]), "every shard"),
        ("what all engines would read without lists", in_bytes(result["scanned_without_lists_bytes"]), ""),
        ("an engine's samples in memory", in_bytes(result["engine_held"]), "measured bytes a sample held"),
        ("reading everything, one process", in_time(result["read_seconds"]), "measured seconds a sample"),
        ("everything in memory, one process", in_bytes(result["held"]), "measured bytes a sample held"),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [("", "figure", "from"), ("---", "---:", "---"), *rows])


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
