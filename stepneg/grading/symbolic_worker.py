"""The child process of :mod:`stepneg.grading.symbolic`: reads a JSON pair a line, answers a word a line.

Run as a script, so that it imports neither stepneg nor the parent's ``__main__``.
"""

import json
import logging
import os
import resource
import signal
import sys

CPU_SECONDS = 2.0  # for one comparison, not wall time: a busy machine changes no verdict
MEMORY_BYTES = 1 << 30


def verdict(answer: str, reference: str) -> str:
    """Says "equal", "different", or "unparsable"."""
    from math_verify import LatexExtractionConfig, parse, verify

    def read(latex: str) -> list[object]:
        return parse(  # type: ignore[no-any-return]
            rf"\boxed{{{latex}}}",
            [LatexExtractionConfig()],
            fallback_mode="no_fallback",
            parsing_timeout=None,  # its own time-outs rest on SIGALRM; this process has ITIMER_PROF
            raise_on_error=True,
        )

    try:
        gold, found = read(reference), read(answer)
        if not gold or not found:
            return "unparsable"
        # Both ways: as it is, verify treats what it takes for the reference differently.
        both = ((gold, found), (found, gold))
        equal = all(verify(one, other, timeout_seconds=None, raise_on_error=True) for one, other in both)
        return "equal" if equal else "different"
    except MemoryError:
        raise  # what sympy has cached may be broken: end, and let the parent start a fresh process
    except Exception:
        return "unparsable"


def main() -> None:
    """Answer until standard input ends, which it does when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [limit for limit in (MEMORY_BYTES, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a library that prints must not answer for us
    logging.disable(logging.CRITICAL)
    verdict("x", "y")  # import and warm up before the clock runs
    print("ready", file=answers)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # SIGPROF ends the process, in C code too
        word = verdict(*json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(word, file=answers)


if __name__ == "__main__":
    main()
