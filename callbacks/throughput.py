"""Tokens a second, and which share of the time went to training, sampling and grading."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from stepneg.timing import SECONDS
from stepneg.whole import write_whole


class Throughput(L.Callback):
    """Logs ``throughput/*`` and writes ``RUN/summary.json`` when the fit ends. Survives a resume from a checkpoint.

    Tokens are those of the rows, without padding. ``throughput/computed_share`` is how many the model computes for each
    of them on this rank: below 1 where rows share tokens, above 1 where they are padded.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self.spent: Counter[str] = Counter()  # seconds: of training, and of sampling and grading before a resume
        self.before = Counter(SECONDS)  # of the runs before this one in this process
        self.step_started = 0.0
        self.started = 0.0
        self.written = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Start the clock; Lightning has prepared the data by now or is about to."""
        self.started = self.started or time.monotonic()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start a step's clock."""
        self.step_started = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step's tokens (without padding) and seconds."""
        seconds = time.monotonic() - self.step_started
        tokens = int(batch["attention_mask"].sum()) * trainer.world_size
        self.tokens += tokens
        self.spent["training"] += seconds  # type: ignore[assignment]
        pl_module.log("throughput/tokens_per_second", tokens / max(seconds, 1e-9))
        computed = batch["tree_ids" if "tree_ids" in batch else "input_ids"].numel() * trainer.world_size
        pl_module.log("throughput/computed_share", computed / tokens)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the shares and write the summary."""
        shares = self.shares()
        built = getattr(trainer.datamodule, "built", None)  # type: ignore[attr-defined]
        facts: dict[str, float] = dict(built.facts) if built else {}
        summary = facts | {"trained_tokens": self.tokens, "seconds": sum(shares.values())}
        summary |= {f"seconds_{name}": seconds for name, seconds in shares.items()}
        if trainer.is_global_zero:
            write_whole(Path(trainer.default_root_dir, "summary.json"), json.dumps(summary, indent=1) + "\n")
            total = max(sum(shares.values()), 1e-9)
            for logger in trainer.loggers:
                logger.log_metrics(
                    {f"throughput/share_{name}": seconds / total for name, seconds in shares.items()}
                    | {"throughput/trained_tokens": self.tokens},
                    trainer.global_step,
                )
        self.written = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make it up where an earlier process was killed behind its last checkpoint: nothing is left to train then."""
        if not self.written:
            rank_zero_info(
                "nothing was left to train: the checkpoint is of the last step, and options that were changed since"
                " have changed nothing; for another fit leave out --ckpt_path"
            )
            self.on_train_end(trainer, pl_module)

    def shares(self) -> dict[str, float]:
        """Seconds by activity: training, and what this fit sampled and graded, in this process and before a resume."""
        spent: dict[str, float] = {"training": self.spent["training"]}
        return spent | {name: self.spent[name] + SECONDS[name] - self.before[name] for name in ("sampling", "grading")}

    def state_dict(self) -> dict[str, Any]:
        """Tokens and seconds so far."""
        return {"tokens": self.tokens, "spent": self.shares()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from an earlier process; what this one has sampled and graded for its fit by now still counts."""
        self.tokens, self.spent = state_dict["tokens"], Counter(state_dict["spent"])
