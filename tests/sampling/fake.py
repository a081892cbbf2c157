"""An engine for tests of logic: its samples are a function of prompt and seed, as the real one's are."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from stepneg.sampling.engine import Completion, Decoding, Request


class FakeEngine:
    """Counts what is drawn; dies after ``lives`` requests if told to."""

    def __init__(self, lives: int | None = None) -> None:
        self.loads = 0
        self.drawn = 0
        self.lives = lives

    def load(self, policy: Path) -> None:
        self.loads += 1

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[tuple[int, list[Completion]]]:
        for index, request in reversed(list(enumerate(requests))):
            if self.lives is not None and self.lives == 0:
                raise RuntimeError("out of lives")
            completions = []
            for i in range(request.start, request.start + request.n):
                rng = random.Random(f"{request.prompt_ids}/{request.seed + i}/{decoding}")
                ids = tuple(rng.randrange(3, 99) for _ in range(rng.randint(1, 9)))
                completions.append(Completion(ids, -rng.random(), "stop"))
            self.drawn += request.n
            if self.lives is not None:
                self.lives -= 1
            yield index, completions
