"""Where the time of a packed step on pairs goes, by torch's profiler: ``python -m benchmarks.training_profile``."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch.profiler import ProfilerActivity, profile

from benchmarks.pair_training import BETA, pairs
from benchmarks.side_by_side import RATE, Task, machine, save_model
from stepneg.data.forest import batched
from stepneg.data.rows import Row
from stepneg.objectives import DPO
from stepneg.policy import batch_log_probs, load_model

RESULTS = Path(__file__).with_name("results") / "training_profile.json"
PARTS = {  # by what an operator's name holds; the first that fits
    "attention": ("scaled_dot_product", "flash_attention", "flex_attention"),
    "optimiser": ("Optimizer", "_foreach", "_fused_adam", "addcdiv", "addcmul", "lerp", "sqrt_"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "softmax of the head": ("softmax", "logsumexp", "gather"),
    "gathers, copies": ("index", "copy", "cat", "clone", "embedding", "repeat", "zeros", "zero_", "fill", "empty"),
}
REST = "elementwise and the rest"


def part_of(name: str) -> str:
    """The part that an operator belongs to."""
    return next((part for part, words in PARTS.items() if any(word in name for word in words)), REST)


def shares(times: dict[str, float]) -> dict[str, float]:
    """Share of each part in the sum of the operators' own times, largest first."""
    sums = dict.fromkeys([*PARTS, REST], 0.0)
    for name, time in times.items():
        sums[part_of(name)] += time
    total = sum(sums.values())
    return {part: time / total for part, time in sorted(sums.items(), key=lambda item: -item[1])}


def main(
    task: Task = "math",
    count: int = 32,
    batch: int = 16,
    width: int = 512,
    layers: int = 8,
    out: Path = RESULTS,
) -> None:
    """Measure and write results/training_profile.json.

    Args:
        task: whose lengths.
        count: pairs; the first batch warms up.
        batch: pairs a step.
        width: of the model.
        layers: of the model.
        out: the file.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), width, layers)
        model = load_model(Path(folder)).train().to(device)
    # The clock does not care what the reference says.
    examples = [
        tuple(Row(row.prompt_ids, row.response_ids, 0, None, -1.0) for row in pair)
        for pair in pairs(task, count, 8, 1, 0)
    ]
    objective, optimizer = DPO(BETA), torch.optim.AdamW(model.parameters(), lr=RATE)
    batches = [batched(examples[i : i + batch], 0, packed=True) for i in range(0, len(examples), batch)]

    def step(given: dict[str, Any]) -> None:
        given = {name: value.to(device) for name, value in given.items()}
        objective(given, batch_log_probs(model, given))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    step(batches[0])
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as found:
        for given in batches[1:]:
            step(given)
    own = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    times = {event.key: float(getattr(event, own)) for event in found.key_averages()}
    result = machine(task=task, batch=batch, width=width, layers=layers) | {"shares": shares(times)}
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """The parts in Markdown."""
    return "\n".join(
        ["| part of a step | share |", "|---|---:|"]
        + [f"| {part} | {100 * share:.1f} % |" for part, share in result["shares"].items()]
    )


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
