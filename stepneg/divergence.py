"""How far a policy has gone from its reference."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def kl_estimate(logp: Sequence[float], reference_logp: Sequence[float]) -> dict[str, float]:
    """KL(pi || pi_ref) over whole responses, in nats, from responses that pi has drawn.

    The mean of log pi(y) - log pi_ref(y) over independent y ~ pi (Schulman 2020, "Approximating KL divergence", k1):
    unbiased, so that an estimate of a small divergence may be negative. It is so only for responses drawn at
    temperature 1 from the whole distribution; on the responses of a data set the same mean is no divergence of pi.

    Args:
        logp: log pi(y) of N >= 2 responses, in nats.
        reference_logp: log pi_ref(y) of the same.

    Returns:
        ``kl_to_reference`` with ``_low`` and ``_high``, Student's 95 % interval for its mean.
    """
    ratios = np.subtract(logp, reference_logp)
    mean, error = float(ratios.mean()), float(stats.sem(ratios))
    half = float(stats.t.ppf(0.975, len(ratios) - 1)) * error
    return {"kl_to_reference": mean, "kl_to_reference_low": mean - half, "kl_to_reference_high": mean + half}
