"""Estimators over problems and their 95 % intervals: pure functions."""

import math
from collections.abc import Callable, Sequence

Z = 1.96  # two-sided 95 %
PRIOR = 2.0  # see wilson_mean


def wilson(successes: float, n: int, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927). Without trials it is (0, 1).

    Raises:
        ValueError: counts that cannot be.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and n, got {successes} of {n}")
    if n == 0:
        return 0.0, 1.0
    low, high = wilson_at(successes / n, n, z)
    return 0.0 if successes == 0 else low, 1.0 if successes == n else high


def wilson_at(share: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's interval for a share of n trials; n need not be whole."""
    weight = z * z / n
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def wilson_mean(mean: float, variance: float, n: int, z: float = Z) -> tuple[float, float]:
    """Interval for the mean of n values in [0, 1]: Wilson's, at the number of trials that has this standard error.

    For 0/1 values it is Wilson's own interval; values that vary less count for more trials, n mean (1 - mean) /
    variance. That ratio is drawn towards 1 as if by ``PRIOR`` more of the rarer outcomes: where almost all values are
    1 (or 0) the few others decide it, and may be missing. By simulation (tests) it holds the truth in 93 to 97 % of
    cases where 20 or more of either outcome are to be expected, and more often than that where there are fewer.

    Args:
        mean: of the values.
        variance: of one value, over n (not n - 1).
        n: how many values; none gives (0, 1).
        z: quantile.
    """
    if n == 0:
        return 0.0, 1.0
    spread = mean * (1 - mean)
    if spread <= 0 or variance <= 0:
        return wilson(mean * n, n, z)
    rarer = n * min(mean, 1 - mean)
    ratio = (variance / spread * rarer + PRIOR) / (rarer + PRIOR)
    return wilson_at(mean, n / ratio, z)


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
