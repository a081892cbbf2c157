"""The critical step over training: how sure the policy is of it, and what it is worth."""

from functools import partial
from pathlib import Path

import lightning as L
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stepneg.credit.steps import split_steps
from stepneg.data.rows import Row, collate, decode, teacher_row
from stepneg.errors import InputError
from stepneg.policy import Policy
from stepneg.policy_folder import load_tokenizer
from stepneg.problems import ProblemSource

HOP = 2  # the second node of a path; the first one is given
BATCH = 256


class FirstHop(L.Callback):
    """Values of the critical step, exactly: a path problem has one solution, so its probability is its value.

    Logs, whenever Lightning validates, means over the problems of ``first_hop/accuracy`` (the right hop is the
    likeliest), ``first_hop/probability`` (of the right hop: Q_1 is this times the next), ``first_hop/value`` (Q_2, the
    probability of the rest of the solution behind the right hop) and ``first_hop/solved`` (Q_1).

    Args:
        problems: with a unique solution whose second comma-separated step is critical, by class_path.
        name: what stands before the slash; to tell training problems from held-out ones.
    """

    def __init__(self, problems: ProblemSource, name: str = "first_hop") -> None:
        self.problems, self.name = problems, name
        self.rows: list[Row] = []
        self.spans: list[tuple[int, int]] = []  # of the hop in each row

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the current weights; every rank does, so that all log the same."""
        assert isinstance(pl_module, Policy)
        if trainer.sanity_checking:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not self.rows:
            self.encode(load_tokenizer(Path(data.policy), data.template), data.template)
        hop, rest, likeliest = self.measure(pl_module, data.pad_id)
        found = {
            "accuracy": likeliest.mean(),
            "probability": hop.exp().mean(),
            "value": rest.exp().mean(),
            "solved": (hop + rest).exp().mean(),
        }
        pl_module.log_dict({f"{self.name}/{name}": value for name, value in found.items()}, rank_zero_only=False)

    def encode(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        """Rows of the solutions and where the hop is in them."""
        for problem in self.problems.load():
            row = teacher_row(tokenizer, template, problem)
            ends = split_steps(row.response_ids, partial(decode, tokenizer), "comma")
            if len(ends) < HOP:
                raise InputError(
                    f"problem {problem.id}: its path {problem.answer!r} has no hop; take paths of two nodes or more"
                )
            self.rows.append(row)
            self.spans.append((len(row.prompt_ids) + ends[HOP - 2], len(row.prompt_ids) + ends[HOP - 1]))

    @torch.no_grad()
    def measure(self, policy: Policy, pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probability of the hop, of what follows it, and whether it is the likeliest; [N] each."""
        found = []
        for start in range(0, len(self.rows), BATCH):
            rows, spans = self.rows[start : start + BATCH], self.spans[start : start + BATCH]
            batch = {k: v.to(policy.device) for k, v in collate([(row,) for row in rows], pad_id).items()}
            logits = policy.logits(batch)[:, :-1]
            labels = batch["labels"][:, 1:]
            chosen = labels.clamp(min=0)
            logp = torch.log_softmax(logits.float(), -1).gather(-1, chosen[..., None])[..., 0] * (labels >= 0)
            best = (logits.argmax(-1) == chosen) | (labels < 0)
            place = torch.arange(1, labels.shape[1] + 1, device=labels.device)
            first = torch.tensor([a for a, _ in spans], device=labels.device)[:, None]
            last = torch.tensor([b for _, b in spans], device=labels.device)[:, None]
            hop = (place >= first) & (place < last)
            found.append(((logp * hop).sum(1), (logp * (place >= last)).sum(1), (best | ~hop).all(1).float()))
        return torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found]), torch.cat([f[2] for f in found])
