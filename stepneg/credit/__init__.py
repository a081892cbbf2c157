"""Which step of a wrong solution went wrong: step boundaries, step values, the first pit, and what to train on.

The names here are the public interface; ``docs/api.md`` shows them at work. They need no torch. ``pairs`` is the module
of the builders of pairs.
"""

from stepneg.credit import pairs
from stepneg.credit.pairs import (
    Pair,
    Trace,
    WeightedResponse,
    advantage_weighted,
    distinct_positives,
    edit_distance_pairs,
    filtered_steps,
    first_pit_pairs,
    outcome_pairs,
    shared_prefix_pairs,
)
from stepneg.credit.steps import split_steps
from stepneg.credit.values import Count, advantages, bok, first_pit, step_values

__all__ = [
    "Count",
    "Pair",
    "Trace",
    "WeightedResponse",
    "advantage_weighted",
    "advantages",
    "bok",
    "distinct_positives",
    "edit_distance_pairs",
    "filtered_steps",
    "first_pit",
    "first_pit_pairs",
    "outcome_pairs",
    "pairs",
    "shared_prefix_pairs",
    "split_steps",
    "step_values",
]
