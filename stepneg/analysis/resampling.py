"""Bootstrap over seeds and test problems together."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

Key = TypeVar("Key")


def resampled_means(correct: Mapping[Key, np.ndarray], resamples: int, seed: int) -> dict[Key, np.ndarray]:
    """Means [R] of each measurement with seeds and test problems drawn again, the same draw for all measurements.

    Args:
        correct: [S, N] each, the same S seeds and N problems everywhere.
        resamples: R.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    seeds, problems = next(iter(correct.values())).shape
    chosen = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds  # [R, S]
    weights = rng.multinomial(problems, np.full(problems, 1 / problems), size=resamples) / problems  # [R, N]
    return {key: np.einsum("rs,sr->r", chosen, values @ weights.T) for key, values in correct.items()}
