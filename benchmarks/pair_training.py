"""Pairs a second and peak memory beside TRL's DPOTrainer: ``python -m benchmarks.pair_training``.

Both train the same model on the same per-step pairs in the same order: the prompt and the worked solution of a real
problem, and wrong solutions of real length that end behind their pit. Each side runs alone in a fresh
process, in alternating rounds; the ratio of each round gives the median and the spread. The losses of every step must
agree. The wrong solutions are beginnings of other problems' solutions, so that they share nothing with each other:
sampled ones share more. Needs the extra ``benchmark``.
"""

import json
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace, auto_cli

from benchmarks.side_by_side import (
    CONTEXT,
    EOS,
    VOCABULARY,
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
from stepneg.data.forest import batched
from stepneg.data.rows import Example, Row
from stepneg.objectives import DPO
from stepneg.policy import batch_log_probs, load_model

RESULTS = Path(__file__).with_name("results") / "pair_training.json"
BETA = 0.1
# Wrong solutions of a problem in a row, and the chosen ones that take turns. The last: problems in any order, so that
# no two pairs of a batch share one.
SHARING = ((8, 1), (8, 4), (1, 1))


def pairs(task: Task, count: int, negatives: int, positives: int, seed: int) -> list[Example]:
    """So many per-step pairs, a problem's in a row; ``positives`` chosen solutions of real length take turns."""
    encode = Encoder(task, seed)
    made: list[Example] = []
    for question, solution in encode.texts:
        prompt, right = encode(f"{question}\n"), encode(solution)
        if len(prompt) + len(right) >= CONTEXT:
            continue
        room = CONTEXT - len(prompt) - 1
        chosen = [right, *(encode(encode.rng.choice(encode.texts)[1])[:room] for _ in range(positives - 1))]
        for i in range(negatives):
            lines = [line for line in encode.rng.choice(encode.texts)[1].split("\n") if line.strip()]
            wrong = encode("\n".join(lines[: encode.rng.randint(1, len(lines))]) + "\n")[:room]
            made.append((Row(prompt, (*chosen[i % positives], EOS)), Row(prompt, wrong)))
        if len(made) >= count:
            return made[:count]
    raise ValueError(f"{task} has no {count} pairs of less than {CONTEXT} tokens")


def made_for(setting: Namespace) -> list[Example]:
    """The pairs of a setting, the same in every process."""
    return pairs(setting.task, setting.pairs, setting.negatives, setting.positives, 0)


def stepneg_side(folder: Path, setting: Namespace) -> Found:
    """Reference log-probabilities once, then the fit."""
    examples, before = made_for(setting), resident()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(folder).eval().to(device)
    referenced: list[Example] = []
    for start in range(0, len(examples), setting.batch):
        some = examples[start : start + setting.batch]
        with torch.no_grad():
            inputs = {k: v.to(device) for k, v in batched(some, 0, packed=True).items()}
            logps = batch_log_probs(model, inputs).sum(-1).tolist()
        rows = [row for example in some for row in example]
        given = [Row(r.prompt_ids, r.response_ids, 0, None, logp) for r, logp in zip(rows, logps, strict=True)]
        referenced += zip(given[0::2], given[1::2], strict=True)
    del model
    return train_stepneg(folder, referenced, setting.batch, DPO(BETA), before)


def trl_side(folder: Path, setting: Namespace) -> Found:
    """DPOTrainer with precomputed reference log-probabilities; padding-free it does not offer at present."""
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    class Given(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset  # has token ids already; text would be encoded and the rejected ones get an EOS

    rows = [
        {"prompt_ids": list(a.prompt_ids), "chosen_ids": list(a.response_ids), "rejected_ids": list(b.response_ids)}
        for a, b in made_for(setting)
    ]
    options = {"beta": BETA, "max_length": None, "precompute_ref_log_probs": True}
    return train_trl(folder, rows, setting.batch, Given, DPOConfig, resident(), **options)


SIDES = {"stepneg": stepneg_side, "trl": trl_side}


def flops(batch: dict[str, Any], width: int, layers: int) -> float:
    """What a step must compute: 6 a parameter and distinct token, the head where a label stands; without attention."""
    inner = 8 * width // 3 // 32 * 32
    return 6 * (
        layers * (4 * width**2 + 3 * width * inner) * len(batch["tree_ids"])
        + VOCABULARY * width * len(batch["tree_target"])
    )


def tokens(made: list[dict[str, Any]]) -> dict[str, int]:
    """Tokens of ordinary pairs, the same padded, and distinct ones, summed over batches."""
    return {
        "plain": sum(int(b["attention_mask"].sum()) for b in made),
        "padded": sum(b["attention_mask"].numel() for b in made),
        "distinct": sum(len(b["tree_ids"]) for b in made),
    }


def compare(setting: dict[str, Any], rounds: int, warm_up: int) -> Found:
    """The row of one setting."""
    examples, size = made_for(Namespace(setting)), setting["batch"]
    made = [batched(examples[i : i + size], 0, packed=True) for i in range(0, len(examples), size)]
    work = sum(flops(batch, setting["width"], setting["layers"]) for batch in made[warm_up:])
    kinds = ("speed", "training_memory", "process_memory", "loss", "of_matmul")
    ratios: dict[str, list[float]] = {kind: [] for kind in kinds}
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds):
        order = list(SIDES) if number % 2 == 0 else list(SIDES)[::-1]
        found = {side: alone("benchmarks.pair_training", side, setting) for side in order}
        took = {side: sum(found[side]["seconds"][warm_up:]) for side in SIDES}
        for side in SIDES:
            rates[side].append(setting["batch"] * len(found[side]["seconds"][warm_up:]) / took[side])
        ours, theirs = found["stepneg"], found["trl"]
        ratios["speed"].append(took["trl"] / took["stepneg"])
        ratios["training_memory"].append(ours["training_peak"] / theirs["training_peak"])
        ratios["process_memory"].append(ours["peak"] / theirs["peak"])
        ratios["loss"].append(max(abs(a - b) for a, b in zip(ours["losses"], theirs["losses"], strict=True)))
        ratios["of_matmul"].append(work / took["stepneg"] / ours["matmul"])
    return setting | tokens(made) | {
        "pairs_per_second": {side: spread(rate) for side, rate in rates.items()},
        **{name: spread(values) for name, values in ratios.items()}, "last_losses": found["trl"]["losses"][-2:],
    }  # fmt: skip


def table(rows: list[Found]) -> str:
    """The rows in Markdown."""
    heads = [
        "lengths", "wrong solutions a problem", "chosen ones", "tokens in pairs", "distinct", "pairs a second, stepneg",
        "TRL", "times as fast", "memory for training", "of the whole process", "of a matrix product's speed",
    ]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for row in rows:
        rate = row["pairs_per_second"]
        cells = [
            row["task"], row["negatives"], row["positives"], f"{row['plain']:,}", f"{row['distinct']:,}",
            f"{rate['stepneg'][1]:.2f}", f"{rate['trl'][1]:.2f}", in_words(row["speed"]),
            in_words(row["training_memory"]), in_words(row["process_memory"]), f"{100 * row['of_matmul'][1]:.0f} %",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    apart = max(row["loss"][2] for row in rows)
    return "\n".join([*lines, "", f"Largest difference of a step's losses: {apart:.0e}."])


def main(
    count: int = 48,
    tasks: list[Task] = ["gsm8k", "math"],  # noqa: B006
    batch: int = 16,
    width: int = 512,
    layers: int = 8,
    rounds: int = 3,
    warm_up: int = 1,
    out: Path = RESULTS,
) -> None:
    """Measure both sides and write results/pair_training.json.

    Args:
        count: pairs.
        tasks: whose lengths.
        batch: pairs a step.
        width: of the model.
        layers: of the model.
        rounds: of both sides.
        warm_up: steps that are not counted.
        out: the file.
    """
    size = {"pairs": count, "batch": batch, "width": width, "layers": layers}
    rows = [
        compare({"task": t, "negatives": n, "positives": p, **size}, rounds, warm_up) for t in tasks for n, p in SHARING
    ]
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"facts": machine(rounds=rounds), "rows": rows}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__" and not serve(SIDES):
    auto_cli(main, as_positional=False)
