"""Accuracy, pass@k and maj@k over problems, each with a 95 % interval."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from stepneg.grading.compare import plainly_equal
from stepneg.grading.verifier import Verdict

Z = 1.96  # two-sided 95 %


def wilson(successes: float, n: int, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927). Without trials it is (0, 1).

    Raises:
        ValueError: counts that cannot be.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and n, got {successes} of {n}")
    if n == 0:
        return 0.0, 1.0
    share, weight = successes / n, z * z / n
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return low, 1.0 if successes == n else min(1.0, centre + half)


def normal(mean: float, variance: float, n: int, z: float = Z) -> tuple[float, float]:
    """Normal approximation ``mean -+ z sqrt(variance / n)``, cut to [0, 1]. ``variance``: of one value, over n - 1."""
    half = z * math.sqrt(variance / n)
    return max(0.0, mean - half), min(1.0, mean + half)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that k of n samples, drawn without replacement, hold one of the c correct: 1 - C(n-c, k) / C(n, k).

    The unbiased estimator of Chen et al., arXiv 2107.03374, Eq. 1; as a product, so that large n do not overflow.

    Raises:
        ValueError: fewer than k samples, or counts that cannot be.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} needs at least {k} samples and 0 <= correct <= samples, got n={n}, c={c}")
    fewer, more = sorted((c, k))  # C(n-c, k) / C(n, k) is symmetric in c and k
    if fewer > n - more:
        return 1.0
    return -math.expm1(math.fsum(math.log1p(-more / (n - i)) for i in range(fewer)))


def majority(answers: Sequence[str | None], equal: Callable[[str, str], bool]) -> str | None:
    """The first answer of the largest cluster of equal answers; of equally large ones, of the one seen first.

    None (no answer) is in no cluster and wins only where nothing else is there.
    """
    clusters: list[tuple[str, int]] = []
    for answer in answers:
        if answer is None:
            continue
        for i, (first, size) in enumerate(clusters):
            if equal(answer, first):
                clusters[i] = (first, size + 1)
                break
        else:
            clusters.append((answer, 1))
    return max(clusters, key=lambda cluster: cluster[1])[0] if clusters else None  # max keeps the first of equals


def maj_at_k(answers: Sequence[str | None], reference: str, equal: Callable[[str, str], bool]) -> bool:
    """Whether the majority's answer equals the reference."""
    winner = majority(answers, equal)
    return winner is not None and equal(winner, reference)


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
        self.values.append(torch.zeros(0, dtype=torch.float32, device=self.device))

    def add(self, problem: int, value: float) -> None:
        """Count a problem."""
        self.problems.append(torch.tensor([problem], dtype=torch.long, device=self.device))
        self.values.append(torch.tensor([value], dtype=torch.float32, device=self.device))

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
        return {name: torch.tensor(figure, device=self.device) for name, figure in figures.items()}


class Accuracy(ProblemMean):
    """Share of problems solved by the one (greedy) answer."""

    def update(self, problem: int, correct: bool) -> None:
        """Count a problem by its index and whether its answer was correct."""
        self.add(problem, float(correct))


class PassAtK(ProblemMean):
    """Mean over problems of :func:`pass_at_k`, with the normal approximation's interval.

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
        """:func:`normal`, over values [N]; Wilson's where all are alike, which would have no width."""
        n, variance = len(values), float(values.var()) if len(values) > 1 else 0.0
        return normal(float(values.mean()), variance, n) if variance > 0 else wilson(float(values.sum()), n)


class MajAtK(ProblemMean):
    """Share of problems whose most frequent answer among k is the reference, with Wilson's interval.

    Args:
        k: how many samples vote: the first k.
    """

    def __init__(self, k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.k = k

    def update(self, problem: int, verdicts: Sequence[Verdict], reference: str) -> None:
        """Count a problem by its index and its graded samples.

        Correct answers are one cluster, as the verifier found; wrong ones are joined where they are equal by text or
        by number, not symbolically.

        Raises:
            ValueError: fewer than k samples.
        """
        if len(verdicts) < self.k:
            raise ValueError(f"maj@{self.k} needs at least {self.k} samples, got {len(verdicts)}")
        votes = [reference if verdict.correct else verdict.extracted for verdict in verdicts[: self.k]]
        wrong = {verdict.extracted for verdict in verdicts[: self.k] if not verdict.correct}

        def equal(first: str, second: str) -> bool:
            if first == second:
                return True
            return first in wrong and second in wrong and plainly_equal(first, second)

        self.add(problem, float(maj_at_k(votes, reference, equal)))
