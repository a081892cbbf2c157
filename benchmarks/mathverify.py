"""Math-Verify as the other side of the grading benchmarks, with its defaults but no time-outs: it is faster so."""

import logging

from math_verify import parse, verify

logging.getLogger("math_verify").setLevel(logging.CRITICAL)


def accepts(response: str, reference: str) -> bool:
    """Whether Math-Verify finds the response's answer equal to the reference."""
    try:
        gold = parse(reference, parsing_timeout=None)
        return bool(verify(gold, parse(response, parsing_timeout=None), timeout_seconds=None))
    except Exception:  # what it cannot read it does not accept
        return False
