"""Where the seconds of this process went: sampling, grading, training."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS: Counter[str] = Counter()


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Add the duration of the block to ``SECONDS[what]``, without that of timed blocks in it."""
    start, inside = time.monotonic(), SECONDS.total()
    try:
        yield
    finally:
        SECONDS[what] += time.monotonic() - start - (SECONDS.total() - inside)  # type: ignore[assignment]
