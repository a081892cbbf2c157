"""What the training benchmarks share: real texts, a random model, each side alone in a fresh process, its clock."""

import json
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from datasets import Dataset
from jsonargparse import Namespace
from torch.utils.data import DataLoader, SequentialSampler
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, TrainerCallback

from stepneg.data.forest import batched
from stepneg.data.rows import Example
from stepneg.initialise import train_tokenizer
from stepneg.objectives import Objective
from stepneg.policy import Policy
from stepneg.problems import ASSETS

Task = Literal["gsm8k", "math"]
VOCABULARY, CONTEXT, RATE = 4096, 1024, 3e-4
EOS = 2
Found = dict[str, Any]


def texts(task: Task) -> list[tuple[str, str]]:
    """Question and worked solution of the training problems."""
    question, solution = {"gsm8k": ("question", "answer"), "math": ("problem", "solution")}[task]
    with (ASSETS / task / "train.jsonl").open(encoding="utf-8") as lines:
        return [(row[question], row[solution]) for row in map(json.loads, lines)]


class Encoder:
    """Texts of a task in the ids of a tokenizer that was trained on them; which texts, in an order of the seed."""

    def __init__(self, task: Task, seed: int) -> None:
        self.texts = texts(task)
        self.tokenizer = train_tokenizer([f"{q}\n{s}" for q, s in self.texts], VOCABULARY)
        self.rng = random.Random(seed)
        self.rng.shuffle(self.texts)

    def __call__(self, text: str) -> tuple[int, ...]:
        """Token ids, nothing added."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def save_model(folder: Path, width: int, layers: int) -> None:
    """A random Llama; the clock does not care what it says."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=8 * width // 3 // 32 * 32, num_hidden_layers=layers,
        num_attention_heads=width // 64, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=1, eos_token_id=EOS,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def resident() -> float:
    """The most memory that this process has held, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(before: float) -> dict[str, float]:
    """Peaks in MiB: of the process, and above what it held before it loaded the model; on a GPU what torch held."""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
        return {"peak": peak, "training_peak": peak}
    return {"peak": resident(), "training_peak": resident() - before}


def timed(stamps: Sequence[float], losses: Sequence[float], before: float) -> Found:
    """Seconds and loss of each step, and the memory."""
    return {"losses": list(losses), "seconds": [b - a for a, b in pairwise(stamps)]} | memory(before)


def train_stepneg(folder: Path, examples: Sequence[Example], batch: int, objective: Objective, before: float) -> Found:
    """Each step's seconds and loss by stepneg's policy under Lightning, in the order of the examples."""
    stamps: list[float] = []
    losses: list[float] = []

    class Clock(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            stamps.append(time.perf_counter())

        def on_train_batch_end(
            self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            losses.append(float(outputs["loss"]))
            stamps.append(time.perf_counter())

    policy = Policy(objective, folder, lambda p: torch.optim.AdamW(p, lr=RATE), "constant_with_warmup", 0.0)
    rows: Any = list(examples)
    loader: DataLoader[Example] = DataLoader(rows, batch, collate_fn=lambda some: batched(some, 0, packed=True))
    trainer = L.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Clock()], precision="bf16-mixed" if torch.cuda.is_available() else "32-true",
    )  # fmt: skip
    trainer.fit(policy, loader)
    found = timed(stamps, losses, before)
    return found | {"matmul": matmul_rate()}


def train_trl(
    folder: Path,
    rows: list[dict[str, list[int]]],
    batch: int,
    trainer: type,
    config: type,
    before: float,
    **options: Any,
) -> Found:
    """The same by a trainer of TRL's, which takes the token ids as they are and in the order in which they are."""
    stamps: list[float] = []
    losses: list[float] = []

    class InOrder(trainer):  # type: ignore[misc]
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            stamps.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            stamps.append(time.perf_counter())

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **__: Any) -> None:
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(["a"], 300).backend_tokenizer, pad_token="<pad>", eos_token="</s>"
    )
    cuda = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as out:
        settings = config(
            output_dir=out, learning_rate=RATE, lr_scheduler_type="constant", weight_decay=0.01, num_train_epochs=1,
            per_device_train_batch_size=batch, gradient_checkpointing=False, bf16=cuda, use_cpu=not cuda,
            logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True, max_grad_norm=0.0, **options,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        InOrder(
            model=model,
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Clock()],
        ).train()
    return timed(stamps, losses, before)


def matmul_rate() -> float:
    """Floating-point operations a second of a large matrix product, in the precision of the training."""
    device, kind = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        for _ in range(5):
            product = a @ b
        product[0, 0].item()  # waits for the GPU
        best = min(best, (time.perf_counter() - started) / 5)
    return 2 * size**3 / best


def alone(module: str, side: str, numbers: dict[str, Any]) -> Found:
    """Run a side of a benchmark in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        subprocess.run([sys.executable, "-m", module, "--side", side, json.dumps(numbers), str(out)], check=True)
        return json.loads(out.read_text())  # type: ignore[no-any-return]


def serve(sides: Mapping[str, Callable[[Path, Namespace], Found]]) -> bool:
    """Whether this process is one of :func:`alone`: then the side is run and its result written."""
    if sys.argv[1:2] != ["--side"]:
        return False
    _, side, numbers, out = sys.argv[1:]
    setting = Namespace(json.loads(numbers))
    with tempfile.TemporaryDirectory() as model:
        save_model(Path(model), setting.width, setting.layers)
        Path(out).write_text(json.dumps(sides[side](Path(model), setting)))
    return True


def spread(values: Sequence[float]) -> list[float]:
    """Least, median and largest."""
    ordered = sorted(values)
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def in_words(values: Sequence[float]) -> str:
    """A spread as the median and the ends."""
    return f"{values[1]:.2f} ({values[0]:.2f} to {values[2]:.2f})"


def machine(**settings: Any) -> Found:
    """What a result was measured with."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    versions = {name: version(name) for name in ("torch", "transformers", "trl", "lightning")}
    return settings | {"machine": name, "threads": torch.get_num_threads(), "vocabulary": VOCABULARY} | versions
