"""Finding the first pit of a wrong solution with few rollouts: sequential tests, prefix after prefix.

The first pit is the first prefix that is never solved (:mod:`stepneg.credit.values`). One right rollout settles that a
prefix is not it, so rollouts of a prefix stop at the first right one, and go on to a next prefix; a prefix counts as
lost after ``patience`` wrong ones. Whatever is known of the problem counts: other solutions and rollouts of other
prefixes that pass through a prefix are rollouts of it, too.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import ceil, log

from stepneg.credit.values import Count

LEAST = 12  # wrong rollouts before a prefix counts as lost, however easy the problem


def patience(solved: float, error: float, most: int) -> int:
    """How many wrong rollouts make a prefix count as lost.

    A prefix of value q is lost by mistake with probability (1 - q)^patience at most, whichever rollouts were seen
    before and however their number came about. For a prefix that is solved as often as the problem itself that is
    ``error``, unless ``most`` is reached first. A prefix that was never solved is never passed by mistake.

    Args:
        solved: share of the problem's solutions that are right, in (0, 1].
        error: the probability, in (0, 1).
        most: never more than these.
    """
    needed = 1 if solved == 1 else ceil(log(error) / log(1 - solved))
    return min(max(needed, LEAST), most)


class Search:
    """What is known of one wrong solution's prefixes, and what to ask next.

    Args:
        response_ids: the solution.
        ends: end of each step in it; the last prefix is the whole solution, which is wrong.
        patience: see :func:`patience`.
    """

    def __init__(self, response_ids: Sequence[int], ends: Sequence[int], patience: int) -> None:
        self.ids, self.ends, self.patience = tuple(response_ids), tuple(ends), patience
        self.seen = [0] * (len(self.ends) + 1)  # rollouts by prefix, from 1
        self.right = [0] * (len(self.ends) + 1)
        self.solved = 0  # the last prefix with a right rollout

    def see(self, start: int, ids: Sequence[int], right: bool) -> None:
        """Count a response, drawn behind its first ``start`` tokens, for every prefix that it passes through."""
        through = bisect_right(self.ends, common(self.ids, ids), hi=len(self.ends) - 1)
        for prefix in range(bisect_left(self.ends, start) + 1, through + 1):
            self.seen[prefix] += 1
            self.right[prefix] += right
            if right:
                self.solved = max(self.solved, prefix)

    def ask(self) -> tuple[int, int] | None:
        """The prefix to roll out (from 1) and how often, at first once, then as often as before; None at the end."""
        prefix = self.solved + 1
        if prefix == len(self.ends) or self.seen[prefix] >= self.patience:
            return None
        seen = self.seen[prefix]
        return prefix, min(max(1, seen), self.patience - seen)

    @property
    def pit(self) -> int:
        """The first pit, once there is nothing to ask."""
        return self.solved + 1

    def counts(self, rollouts: int) -> list[Count]:
        """(n, c) of the prefixes 1..pit: c = 0 for the pit only. They say where the pit is, and no values.

        Args:
            rollouts: n of the whole solution.
        """
        found = [(self.seen[i], self.right[i]) for i in range(1, min(self.pit + 1, len(self.ends)))]
        return found if self.pit < len(self.ends) else [*found, (rollouts, 0)]


def common(first: Sequence[object], second: Sequence[object]) -> int:
    """How many leading tokens (or characters) two responses share."""
    shared = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        shared += 1
    return shared
