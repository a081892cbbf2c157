"""The arithmetic of an estimate: how many steps a fit takes, how long an engine draws, what training computes.

Pure functions of counts; :mod:`stepneg.calibration` measures what they need.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from heapq import heapify, heapreplace
from itertools import islice, repeat
from math import ceil

import numpy as np
from scipy.optimize import nnls

from stepneg.data.forest import plant
from stepneg.data.rows import Example

FORWARD = 1 / 3  # share of a training step's time that the forward pass takes


@dataclass(frozen=True)
class Draw:
    """Completions that an engine drew in one go.

    Attributes:
        lengths: tokens of each completion.
        seconds: how long it took.
    """

    lengths: tuple[int, ...]
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens drawn."""
        return sum(self.lengths)

    def grown(self, factor: float) -> "Draw":
        """The draw of ``factor`` times as many completions, the same over and over; of unknown duration."""
        wanted = round(factor * len(self.lengths))
        again = (length for same in repeat(self.lengths) for length in same)
        return Draw(tuple(islice(again, wanted)) if self.lengths else ())


def decoding_steps(lengths: Sequence[int], slots: int) -> int:
    """Forward passes until all completions are drawn, at most ``slots`` at a time, the next as soon as one ends."""
    ends = [0] * min(slots, len(lengths))
    heapify(ends)
    for length in lengths:
        heapreplace(ends, ends[0] + length)
    return max(ends, default=0)


@dataclass(frozen=True)
class Speed:
    """Seconds of an engine that draws ``slots`` sequences at a time: a forward pass, a token and a completion."""

    step: float
    token: float
    completion: float
    slots: int

    def seconds(self, draw: Draw) -> float:
        """How long a draw takes."""
        passes = decoding_steps(draw.lengths, self.slots)
        return self.step * passes + self.token * draw.tokens + self.completion * len(draw.lengths)


def speed(draws: Sequence[Draw], slots: int) -> Speed:
    """The speed that explains measured draws best (least squares, no part below 0)."""
    counts = np.array([(decoding_steps(d.lengths, slots), d.tokens, len(d.lengths)) for d in draws], float)
    scale = counts.max(axis=0, initial=1.0)
    found, _ = nnls(counts / scale, np.array([d.seconds for d in draws]))
    step, token, completion = (found / scale).tolist()
    return Speed(step, token, completion, slots)


@dataclass(frozen=True)
class Schedule:
    """How a fit is limited.

    Attributes:
        batch: examples a step and device.
        devices: how many train together.
        accumulate: batches an optimiser step.
        max_epochs: -1 for no limit.
        max_steps: of the optimiser; -1 for no limit.
        every: epochs between validations; None for no validation.
        interval: batches between validations of such an epoch, or a share of the epoch; 1.0 is its end.
    """

    batch: int
    devices: int = 1
    accumulate: int = 1
    max_epochs: int = -1
    max_steps: int = -1
    every: int | None = None
    interval: int | float = 1.0


@dataclass(frozen=True)
class Fit:
    """Optimiser steps, examples seen, validations, and whether the last of these is of the last weights."""

    steps: int
    examples: int
    validations: int
    ends_validated: bool


def fit_of(rows: int, schedule: Schedule) -> Fit:
    """What a schedule makes of ``rows`` training examples.

    Raises:
        ValueError: neither epochs nor steps are limited.
    """
    of_rank = ceil(rows / schedule.devices)
    batches = ceil(of_rank / schedule.batch)
    an_epoch = ceil(batches / schedule.accumulate)
    limits = [schedule.max_epochs * an_epoch] if schedule.max_epochs >= 0 else []
    limits += [schedule.max_steps] if schedule.max_steps >= 0 else []
    if not limits:
        raise ValueError("neither epochs nor steps are limited")
    if not rows:
        return Fit(0, 0, 0, False)
    steps = min(limits)
    epochs, rest = divmod(steps, an_epoch)
    seen = epochs * of_rank + min(rest * schedule.accumulate * schedule.batch, of_rank)
    if schedule.every is None:
        return Fit(steps, seen * schedule.devices, 0, False)
    interval = schedule.interval
    between = max(1, int(batches * interval) if isinstance(interval, float) else interval)
    validations = epochs // schedule.every * (batches // between)
    if (epochs + 1) % schedule.every == 0:  # the epoch in which the steps end
        validations += rest * schedule.accumulate // between
    at_end = batches % between == 0 and rest == 0 and epochs % schedule.every == 0
    return Fit(steps, seen * schedule.devices, validations, at_end and validations > 0)


@dataclass(frozen=True)
class Shape:
    """What a token costs in a model: N weights that it is multiplied with, layers, width of all heads together."""

    parameters: int
    layers: int
    width: int


def training_flops(shape: Shape, tokens: float, length: float) -> float:
    """Floating-point operations of training: D (6 N + 6 L d T).

    A forward pass multiplies and adds once a weight and token: 2 N. A token attends to T / 2 others on average, with a
    product of width d for the score and one for the value: 2 L d T. The backward pass costs twice the forward pass.

    Args:
        shape: N, L and d.
        tokens: D, trained tokens, prompts included.
        length: T, mean tokens of a row.
    """
    return tokens * (6 * shape.parameters + 6 * shape.layers * shape.width * length)


def trained_tokens(examples: Sequence[Example]) -> int:
    """Tokens of all rows, prompts included, as a fit counts them."""
    return sum(len(row) for example in examples for row in example)


def computed_tokens(examples: Sequence[Example], packed: bool) -> int:
    """Tokens that are computed: what the rows of an example share counts once where rows are packed."""
    if not packed:
        return trained_tokens(examples)
    return sum(len(plant(example)[2]) for example in examples)


@dataclass(frozen=True)
class Cost:
    """What a run costs.

    Attributes:
        data_tokens: of solutions and rollouts in the training data, as the report counts them.
        drawn_tokens: drawn by the engine, evaluations included; the store's own are not.
        trained_tokens: of rows over all epochs.
        flops: of training.
        sample_bytes: added to the sample store.
        run_bytes: checkpoint, exports, training data and evaluation.
        seconds: wall time.
    """

    data_tokens: float = 0.0
    drawn_tokens: float = 0.0
    trained_tokens: float = 0.0
    flops: float = 0.0
    sample_bytes: float = 0.0
    run_bytes: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


HEADINGS = ("data tokens", "drawn tokens", "trained tokens", "trained FLOPs", "samples", "run", "time")
assert len(HEADINGS) == len(fields(Cost))


def in_words(cost: Cost) -> list[str]:
    """The cells of a table."""
    tokens = [f"{count:,.0f}" for count in (cost.data_tokens, cost.drawn_tokens, cost.trained_tokens)]
    return [*tokens, f"{cost.flops:.1e}", in_bytes(cost.sample_bytes), in_bytes(cost.run_bytes), in_time(cost.seconds)]


def in_bytes(size: float) -> str:
    """A size in the largest fitting of MB and GB."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def in_time(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
