"""Losses on token log-probabilities: pure functions, and the classes that YAML names.

Batch contract: ``input_ids``, ``attention_mask`` and ``labels`` are [B, T] and aligned; ``labels`` is -100 where a
token carries no loss (prompt, shared context, padding). The policy computes ``logp`` [B, T-1], the log-probability of
``labels[:, 1:]``, 0 where the label is -100. ``kind`` says what the data must hold besides.

A loss is a mean: over tokens, or over pairs. A rank of several divides its sum not by its own count but by the mean
count of a rank, which ``shared`` gives. The mean over ranks, as which gradients and logs are taken, is then the mean
over all that the ranks hold together, however unevenly.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "DPO",
    "CrossEntropy",
    "Objective",
    "WeightedLikelihood",
    "cross_entropy",
    "dpo",
    "token_log_probs",
    "weighted_log_likelihood",
]

IGNORED = -100
Kind = Literal["solutions", "pairs", "weighted"]
Shared = Callable[[Tensor], Tensor]  # from counts of this rank to the mean counts of a rank
Means = Mapping[str, tuple[Tensor, Tensor]]  # values and which of them count


def alone(count: Tensor) -> Tensor:
    """The mean counts of a rank where there is one rank."""
    return count


def token_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of each label under the logits at its own place, in float32; 0 where the label is -100.

    Args:
        logits: [B, T, V], in any floating type.
        labels: [B, T], already shifted: ``labels[:, t]`` is the token that ``logits[:, t]`` predicts.

    Returns:
        [B, T].
    """
    losses = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return -losses.view_as(labels)


def mean(values: Tensor, counts: Tensor, shared: Shared = alone) -> Tensor:
    """Mean of the values that count, a scalar; 0 where no rank holds any.

    Args:
        values: in any shape.
        counts: true where a value counts, in the same shape.
        shared: the mean count of a rank.
    """
    return means({"mean": (values, counts)}, shared)["mean"]


def means(parts: Means, shared: Shared = alone) -> dict[str, Tensor]:
    """The :func:`mean` of each part, with one communication for all of them."""
    every = shared(torch.stack([counts.sum().float() for _, counts in parts.values()]))
    every = every.where(every > 0, 1.0)
    return {name: (v * c).sum() / n for (name, (v, c)), n in zip(parts.items(), every, strict=True)}


def effective_share(weights: Tensor, counts: Tensor, shared: Shared = alone) -> Tensor:
    """Kish's effective sample size of weights as a share of their number, a scalar in (0, 1]; 0 for none.

    (sum w)^2 / (n sum w^2): with all weights alike it is 1, with one weight that outweighs all others 1 / n.

    Args:
        weights: not negative, in any shape.
        counts: true where a weight counts, in the same shape.
        shared: the mean count of a rank.
    """
    w = weights * counts
    total, squares, n = shared(torch.stack([w.sum(), w.square().sum(), counts.sum().to(w)]))
    return torch.where(squares > 0, total.square() / (n * squares).clamp(min=torch.finfo(w.dtype).tiny), 0.0)


def cross_entropy(logp: Tensor, mask: Tensor, shared: Shared = alone) -> Tensor:
    """Mean negative log-likelihood of the tokens under the mask: SFT and RFT. Scalar; 0 for an empty mask.

    Args:
        logp: [B, T].
        mask: [B, T], true where a token counts.
        shared: the mean count of a rank.
    """
    return mean(-logp, mask, shared)


def dpo(
    chosen_logp: Tensor, rejected_logp: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Direct preference optimisation (Rafailov et al. 2023, Eq. 7; the paper's section 6).

    -log sigmoid(beta [log pi(y+)/pi_ref(y+) - log pi(y-)/pi_ref(y-)])

    Args:
        chosen_logp: log pi(y+), summed over its tokens, [P].
        rejected_logp: log pi(y-), [P].
        ref_chosen: log pi_ref(y+), [P].
        ref_rejected: log pi_ref(y-), [P].
        beta: strength of the pull to the reference.

    Returns:
        The loss of each pair and the implicit rewards beta log pi/pi_ref of the chosen and the rejected, all [P].
    """
    chosen_reward = beta * (chosen_logp - ref_chosen)
    rejected_reward = beta * (rejected_logp - ref_rejected)
    return -F.logsigmoid(chosen_reward - rejected_reward), chosen_reward, rejected_reward


def weighted_log_likelihood(logp: Tensor, weights: Tensor, shared: Shared = alone) -> Tensor:
    """Negative weighted log-likelihood, a mean over the tokens that have a weight (Eq. 4). Scalar.

    With all weights 1 this is :func:`cross_entropy`. Weights are not normalised: their size is part of Eq. 4.

    Args:
        logp: [B, T].
        weights: [B, T], not negative; 0 where a token does not count.
        shared: the mean count of a rank.
    """
    return mean(-weights * logp, weights > 0, shared)


class Objective(Protocol):
    """What the policy needs of an objective: the kind of data it takes and a loss."""

    kind: ClassVar[Kind]

    def __call__(self, batch: Mapping[str, Tensor], logp: Tensor, shared: Shared = alone) -> dict[str, Tensor]:
        """From a batch and ``logp`` [B, T-1] to ``loss`` (a scalar with gradient) and scalars to log."""


class CrossEntropy(Objective):
    """Imitation of whole solutions: SFT and RFT."""

    kind: ClassVar[Kind] = "solutions"

    def __call__(self, batch: Mapping[str, Tensor], logp: Tensor, shared: Shared = alone) -> dict[str, Tensor]:
        """The mean loss of a response token.

        Returns:
            ``loss``, nats a token, and ``length``, the mean number of tokens of a row that carry loss.
        """
        mask = response_mask(batch)
        return means({"loss": (-logp, mask), "length": lengths(mask)}, shared)


class DPO(Objective):
    """DPO on pairs of any kind: rows 2i are chosen and rows 2i+1 rejected.

    The batch also holds ``reference_logp`` [B], log pi_ref summed over the labelled tokens of each row.

    Args:
        beta: strength of the pull to the reference.
        anchor: weight of the cross-entropy on the chosen responses, per token. Ours: plain DPO may lower the
            probability of the chosen ones too.
    """

    kind: ClassVar[Kind] = "pairs"

    def __init__(self, beta: float = 0.1, anchor: float = 0.0) -> None:
        self.beta = beta
        self.anchor = anchor

    def __call__(self, batch: Mapping[str, Tensor], logp: Tensor, shared: Shared = alone) -> dict[str, Tensor]:
        """The mean loss of a pair. A pair without labels does not count.

        Returns:
            ``loss``, that is ``preference_loss`` (Eq. 7) and ``anchor`` times ``chosen_nll`` (nats a token). Means over
            pairs: ``chosen_reward`` and ``rejected_reward``, beta log pi/pi_ref of a response; ``reward_margin``, their
            difference; ``reward_accuracy``, the share of pairs with a positive one; ``chosen_logp`` and
            ``rejected_logp``, log pi of a response, in nats; ``chosen_length`` and ``rejected_length``, its tokens.
            Log-probabilities and lengths are of the tokens that carry loss, without a shared prefix.
        """
        chosen, rejected = logp[0::2].sum(dim=1), logp[1::2].sum(dim=1)
        reference = batch["reference_logp"]
        losses, chosen_reward, rejected_reward = dpo(chosen, rejected, reference[0::2], reference[1::2], self.beta)
        mask = response_mask(batch)
        pairs = (mask[0::2] | mask[1::2]).any(dim=1)
        margin = (chosen_reward - rejected_reward).detach()
        of_pairs = {
            "preference_loss": losses,
            "reward_margin": margin,
            "reward_accuracy": (margin > 0).float(),
            "chosen_reward": chosen_reward.detach(),
            "rejected_reward": rejected_reward.detach(),
            "chosen_logp": chosen.detach(),
            "rejected_logp": rejected.detach(),
            "chosen_length": mask[0::2].sum(dim=1),
            "rejected_length": mask[1::2].sum(dim=1),
        }
        values: Means = {name: (value, pairs) for name, value in of_pairs.items()}
        parts = means({**values, "chosen_nll": (-logp[0::2], mask[0::2])}, shared)
        anchored = self.anchor * parts["chosen_nll"] if self.anchor else 0.0
        return {"loss": parts["preference_loss"] + anchored} | parts


class WeightedLikelihood(Objective):
    """Advantage-weighted RL (Eq. 4) and filtered imitation of steps. The batch also holds ``weights`` [B, T]."""

    kind: ClassVar[Kind] = "weighted"

    def __call__(self, batch: Mapping[str, Tensor], logp: Tensor, shared: Shared = alone) -> dict[str, Tensor]:
        """The mean weighted loss of a token that has a weight.

        Returns:
            ``loss``; of all response tokens ``nll``, nats a token, and ``weight``, the mean weight, both of them
            without regard to whether a token has a weight; ``effective_share`` of their weights; ``length``, the mean
            number of tokens of a response.
        """
        mask = response_mask(batch)
        weights = batch["weights"][:, 1:] * mask
        parts = means(
            {
                "loss": (-weights * logp, weights > 0),
                "nll": (-logp.detach(), mask),
                "weight": (weights, mask),
                "length": lengths(mask),
            },
            shared,
        )
        return parts | {"effective_share": effective_share(weights, mask, shared)}


def response_mask(batch: Mapping[str, Tensor]) -> Tensor:
    """Which places of ``logp`` carry loss, [B, T-1]."""
    return batch["labels"][:, 1:] != IGNORED


def lengths(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens under the mask in each row, and which rows have any; [B] each."""
    found = mask.sum(dim=1)
    return found, found > 0
