"""Solutions a second beside TRL's SFTTrainer, plain and packed: ``python -m benchmarks.solution_training``.

All train the same model on the same worked solutions of real problems, in the same order. Without packing the steps
are the same and so are the losses; with packing TRL fills rows of the context's length, so that a step holds other
examples: then only the time of all of them is held against ours. Needs the extra ``benchmark``.
"""

import json
from pathlib import Path
from typing import Any

from jsonargparse import Namespace, auto_cli

from benchmarks.side_by_side import (
    CONTEXT,
    EOS,
    Encoder,
    Found,
    Task,
    alone,
    in_words,
    machine,
    resident,
    serve,
    spread,
    train_stepneg,
    train_trl,
)
from stepneg.data.rows import Row
from stepneg.objectives import CrossEntropy

RESULTS = Path(__file__).with_name("results") / "solution_training.json"


def solutions(task: Task, size: int) -> list[Row]:
    """Worked solutions of ``size`` problems that fit the context."""
    encode = Encoder(task, 0)
    rows = (Row(encode(f"{q}\n"), (*encode(s), EOS)) for q, s in encode.texts)
    return [row for row, _ in zip((row for row in rows if len(row) <= CONTEXT), range(size), strict=False)]


def stepneg_side(folder: Path, setting: Namespace) -> Found:
    """Our fit."""
    examples, before = [(row,) for row in solutions(setting.task, setting.size)], resident()
    return train_stepneg(folder, examples, setting.batch, CrossEntropy(), before)


def trl_side(folder: Path, setting: Namespace, **options: Any) -> Found:
    """SFTTrainer on the same tokens; the loss is on the solutions."""
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    rows = [
        {"input_ids": list(r.prompt_ids + r.response_ids)}
        | {"completion_mask": [0] * len(r.prompt_ids) + [1] * len(r.response_ids)}
        for r in solutions(setting.task, setting.size)
    ]
    options = {"max_length": CONTEXT, "shuffle_dataset": False, "completion_only_loss": True} | options
    return train_trl(folder, rows, options.pop("batch", setting.batch), SFTTrainer, SFTConfig, resident(), **options)


def packed_side(folder: Path, setting: Namespace) -> Found:
    """The same with rows packed to the context's length, about as many tokens a step."""
    mean = sum(map(len, solutions(setting.task, setting.size))) / setting.size
    return trl_side(folder, setting, packing=True, batch=max(1, round(setting.batch * mean / CONTEXT)))


SIDES = {"stepneg": stepneg_side, "trl": trl_side, "trl_packed": packed_side}


def compare(setting: dict[str, Any], rounds: int) -> Found:
    """The row of one setting. All steps but the first of each side count."""
    ratios: dict[str, list[float]] = {"trl": [], "trl_packed": [], "loss": []}
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds):
        order = list(SIDES)[number % 3 :] + list(SIDES)[: number % 3]
        found = {side: alone("benchmarks.solution_training", side, setting) for side in order}
        for side in SIDES:
            steps = len(found[side]["seconds"])
            rates[side].append(setting["size"] * (steps - 1) / steps / sum(found[side]["seconds"][1:]))
        for side in ("trl", "trl_packed"):
            ratios[side].append(rates["stepneg"][-1] / rates[side][-1])
        both = zip(found["stepneg"]["losses"], found["trl"]["losses"], strict=True)
        ratios["loss"].append(max(abs(a - b) for a, b in both))
    return setting | {"rates": {side: spread(rate) for side, rate in rates.items()}} | {
        name: spread(values) for name, values in ratios.items()
    }  # fmt: skip


def table(rows: list[Found]) -> str:
    """The rows in Markdown."""
    lines = [
        "| lengths | solutions a second, stepneg | TRL | TRL, packed | times as fast as TRL | as TRL, packed |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        rates = " | ".join(f"{row['rates'][side][1]:.2f}" for side in SIDES)
        lines.append(f"| {row['task']} | {rates} | {in_words(row['trl'])} | {in_words(row['trl_packed'])} |")
    apart = max(row["loss"][2] for row in rows)
    return "\n".join([*lines, "", f"Largest difference of a step's losses to TRL's without packing: {apart:.0e}."])


def main(
    size: int = 96,
    tasks: list[Task] = ["gsm8k", "math"],  # noqa: B006
    batch: int = 16,
    width: int = 512,
    layers: int = 8,
    rounds: int = 3,
    out: Path = RESULTS,
) -> None:
    """Measure all sides and write results/solution_training.json.

    Args:
        size: solutions.
        tasks: whose.
        batch: solutions a step.
        width: of the model.
        layers: of the model.
        rounds: of all sides.
        out: the file.
    """
    sizes = {"size": size, "batch": batch, "width": width, "layers": layers}
    rows = [compare({"task": task, **sizes}, rounds) for task in tasks]
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"facts": machine(rounds=rounds), "rows": rows}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__" and not serve(SIDES):
    auto_cli(main, as_positional=False)
