"""What sampling needs of an engine: token ids in, token ids out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stepneg.errors import InputError, at_least

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus; 1 is off.
        max_tokens: longest completion, in tokens.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256

    def __post_init__(self) -> None:
        """Refuse what no engine can do.

        Raises:
            InputError: a number is out of its range.
        """
        at_least(0, temperature=self.temperature)
        at_least(1, max_tokens=self.max_tokens)
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p: is {self.top_p}; give more than 0 and at most 1, which is off")


@dataclass(frozen=True)
class Request:
    """Samples ``start`` to ``start + n - 1`` of a prompt; sample i is drawn with seed ``seed + i``.

    So 40 samples and then 24 are the same as 64 at once, in whatever order and company they are drawn.
    """

    prompt_ids: Ids
    n: int
    seed: int
    start: int = 0


@dataclass(frozen=True)
class Completion:
    """One sample.

    Attributes:
        token_ids: what was sampled, EOS included where it ended so.
        logprob: summed log-probability of the tokens under the policy, in nats; None where it is not known, of samples
            that were drawn elsewhere.
        finish_reason: ``stop`` at EOS, ``length`` where it was cut.
    """

    token_ids: Ids
    logprob: float | None
    finish_reason: str


class Engine(Protocol):
    """Serves one policy at a time."""

    def load(self, policy: Path) -> None:
        """Serve this HF folder from now on; verified against transformers before anything is sampled."""

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[tuple[int, list[Completion]]]:
        """Completions of each request, with its index, in the order in which they finish."""
        ...
