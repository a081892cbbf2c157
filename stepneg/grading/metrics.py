"""Accuracy, pass@k and maj@k over problems, each with a 95 % interval."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from stepneg.grading.estimators import maj_at_k, pass_at_k, wilson, wilson_mean
from stepneg.grading.verifier import Verdict, equal_answers


class ProblemMean(Metric):
    """Mean over problems of a value in [0, 1]; a problem that several processes count is counted once.

    State: problem indices [N] and values [N], gathered from all processes. A distributed sampler fills up the last
    batch with problems it has already given out; the first value of a problem is kept.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    problems: list[Tensor]
    values: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("problems", [], dist_reduce_fx="cat")
        self.add_state("values", [], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forget all problems."""
        super().reset()
        # Never an empty list: torchmetrics would gather it as one of another type, and gloo aborts the processes.
        self.problems.append(torch.zeros(0, dtype=torch.long, device=self.device))
        self.values.append(torch.zeros(0, dtype=torch.float64, device=self.device))

    def add(self, problem: int, value: float) -> None:
        """Count a problem."""
        self.problems.append(torch.tensor([problem], dtype=torch.long, device=self.device))
        self.values.append(torch.tensor([value], dtype=torch.float64, device=self.device))

    def interval(self, values: Tensor) -> tuple[float, float]:
        """95 % interval of the mean of 0/1 values [N]: Wilson."""
        return wilson(float(values.sum()), len(values))

    def compute(self) -> dict[str, Tensor]:
        """``value`` (the mean; NaN without problems), ``low``, ``high`` and ``n``."""
        problems, values = dim_zero_cat(self.problems), dim_zero_cat(self.values)
        seen: dict[int, float] = {}
        for problem, value in zip(problems.tolist(), values.tolist(), strict=True):
            seen.setdefault(problem, value)
        kept = torch.tensor(list(seen.values()), dtype=torch.float64)
        low, high = self.interval(kept)
        figures = {"value": float(kept.mean()), "low": low, "high": high, "n": len(kept)}
        return {name: torch.tensor(figure, dtype=torch.float64, device=self.device) for name, figure in figures.items()}


class Accuracy(ProblemMean):
    """Share of problems solved by the one (greedy) answer."""

    def update(self, problem: int, correct: bool) -> None:
        """Count a problem by its index and whether its answer was correct."""
        self.add(problem, float(correct))


class PassAtK(ProblemMean):
    """Mean over problems of :func:`pass_at_k`, with the interval of :func:`wilson_mean`.

    Args:
        k: how many samples may be tried.
    """

    def __init__(self, k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.k = k

    def update(self, problem: int, corrects: Sequence[bool]) -> None:
        """Count a problem by its index and which of its samples (k or more) were correct."""
        self.add(problem, pass_at_k(len(corrects), sum(corrects), self.k))

    def interval(self, values: Tensor) -> tuple[float, float]:
        """:func:`wilson_mean` of values [N]."""
        if not len(values):
            return 0.0, 1.0
        return wilson_mean(float(values.mean()), float(values.var(correction=0)), len(values))


class MajAtK(ProblemMean):
    """Share of problems whose most frequent answer among k is the reference, with Wilson's interval.

    Answers vote together where ``equal`` finds them the same; of equally large groups the one seen first wins.

    Args:
        k: how many samples vote: the first k.
        equal: whether two answers are the same, by default :func:`~stepneg.grading.verifier.equal_answers` of numbers.
    """

    def __init__(self, k: int, equal: Callable[[str, str], bool] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.k, self.equal = k, equal or equal_answers("number")

    def update(self, problem: int, verdicts: Sequence[Verdict], reference: str) -> None:
        """Count a problem by its index and its graded samples.

        Raises:
            ValueError: fewer than k samples.
        """
        if len(verdicts) < self.k:
            raise ValueError(f"maj@{self.k} needs at least {self.k} samples, got {len(verdicts)}")
        # A correct answer votes as the reference, which it was found equal to already.
        votes = [reference if verdict.correct else verdict.extracted for verdict in verdicts[: self.k]]
        wrong = {verdict.extracted for verdict in verdicts[: self.k] if not verdict.correct} - {reference}

        def same(first: str, second: str) -> bool:
            return first == second or (first in wrong and second in wrong and self.equal(first, second))

        self.add(problem, float(maj_at_k(votes, reference, same)))
