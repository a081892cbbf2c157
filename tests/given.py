"""What tests of training put into a run: data made without sampling, ranks that die, an evaluation that fails."""

import os
import random
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from transformers import PreTrainedTokenizerBase

from stepneg.callbacks.evaluation import VLLMEvaluation
from stepneg.data.prepared import Built, Prepared
from stepneg.data.rows import Example, Row, teacher_row
from stepneg.errors import InputError
from stepneg.objectives import Kind
from stepneg.problems import Problem, ProblemSource


class Given(Prepared):
    """A problem's worked solution: to imitate, beside two spoilt ones, or with random weights.

    Whether ranks had met in a process group while it was made is a fact.

    Args:
        kind: solutions, pairs (two a problem) or weighted.
    """

    def __init__(self, kind: Kind = "solutions", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind = kind

    def settings(self) -> Any:
        """The kind."""
        return self.kind

    def build(self, problems: list[Problem], tokenizer: PreTrainedTokenizerBase) -> Built:
        """A deterministic function of the problems."""
        rows = [teacher_row(tokenizer, self.template, problem) for problem in problems]
        examples: list[Example] = []
        for number, row in enumerate(rows):
            chance = random.Random(number)
            if self.kind == "pairs":
                for _ in range(2):
                    cut = chance.randrange(1, len(row.response_ids))
                    wrong = (*row.response_ids[:cut], chance.randrange(5, 60), chance.randrange(5, 60))
                    examples.append((row, Row(row.prompt_ids, wrong)))
            elif self.kind == "weighted":
                weights = tuple(chance.choice((0.0, 0.5, 2.0)) for _ in row.response_ids)
                examples.append((Row(row.prompt_ids, row.response_ids, weights=weights),))
            else:
                examples.append((row,))
        if self.kind == "pairs":
            examples = self.with_reference(examples)
        met = torch.distributed.is_initialized()
        return Built(examples, {"examples": float(len(examples)), "ranks_had_met": float(met)})


class Dies(L.Callback):
    """Ends a rank in the middle of training.

    Args:
        rank: which.
        signal: that it sends itself; 0 raises instead.
    """

    def __init__(self, rank: int, signal: int = 0) -> None:
        self.rank, self.signal = rank, signal

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """At the second batch."""
        if batch_idx == 1 and trainer.global_rank == self.rank:
            if self.signal:
                os.kill(os.getpid(), self.signal)
            raise RuntimeError(f"planned death of rank {self.rank}")


class FailingEvaluation(VLLMEvaluation):
    """Fails where it would sample, as with a broken engine."""

    def measure(self, trainer: L.Trainer, folder: Path, stage: str, source: ProblemSource) -> dict[str, float]:
        """After a while in which the other ranks wait."""
        time.sleep(1.0)
        raise InputError("planned failure of the evaluation")
