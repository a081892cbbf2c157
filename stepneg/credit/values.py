"""From stored counts to step values, advantages and the first pit (paper, section 6).

A count (n, c) is c correct among n rollouts of a prefix. ``counts[0]`` belongs to the bare problem and ``counts[i]`` to
the prefix y_1..y_i. Counts may end early: nothing behind the pit needs a rollout.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import comb

Count = tuple[int, int]


def bok(n: int, c: int, k: int) -> float:
    """Unbiased value of a prefix under best-of-K: 1 - C(n-c, K) / C(n, K), in [0, 1]. K = 1 is c / n.

    Computed on integers and rounded once, so equal fractions are equal floats.

    Raises:
        ValueError: fewer than k rollouts, or counts that cannot be.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"best of {k} needs at least {k} rollouts and 0 <= correct <= rollouts, got n={n}, c={c}")
    return (comb(n, k) - comb(n - c, k)) / comb(n, k)


def step_values(counts: Sequence[Count], k: int) -> list[float]:
    """Q_0..Q_m under best-of-K, from the counts of the prefixes 0..m.

    Raises:
        ValueError: a prefix has fewer than k rollouts.
    """
    return [bok(n, c, k) for n, c in counts]


def advantages(values: Sequence[float]) -> list[float]:
    """A_i = Q_i - Q_{i-1} for the steps 1..m (Eq. 3), from Q_0..Q_m."""
    return [after - before for before, after in pairwise(values)]


def first_pit(values: Sequence[float], tolerance: float = 0.0) -> int | None:
    """The first pit: the first step (from 1) whose Q_i is the least of Q_1..Q_m.

    Args:
        values: Q_0..Q_m.
        tolerance: the least value must lie below Q_0 by more than this.

    Returns:
        None without a step to blame: no values, a problem that is never solved (Q_0 = 0: its first step would be
        blamed for its difficulty), or a least value that is not clearly below Q_0.
    """
    if len(values) < 2 or values[0] == 0:
        return None
    least = min(values[1:])
    return values.index(least, 1) if values[0] - least > tolerance else None


def found_zero(counts: Sequence[Count]) -> bool:
    """Whether a prefix has no correct rollout: nothing lies below, so the first pit is decided and rollouts can stop.

    Holds for every K, since Q = 0 exactly where c = 0.
    """
    return any(c == 0 for _, c in counts)
