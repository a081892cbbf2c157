"""Where the steps of a response end, as token indices.

A rollout continues the very ids that the policy produced, so a boundary is a place between two tokens. Tokens do
not respect lines (``".\\n\\n"`` may be one token, ``"€"`` may be three), hence the detour: the text that each token
completes, the breaks in that text, and back to the tokens that hold them.

``decode`` must leave special tokens out (``skip_special_tokens=True``), so that an EOS token adds no line.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from itertools import accumulate
from math import inf
from typing import Literal

Decode = Callable[[Sequence[int]], str]
Rule = Literal["line", "math", "comma"]

UNDECODED = "\ufffd"  # what decoders write for bytes that are not a character (yet)
LONGEST_CHARACTER = 4  # bytes in UTF-8, hence tokens at most

BLANK_LINES = re.compile(r"(?:[^\S\n]*\n)*")
SENTENCE_END = re.compile(r"[.!?](?:\$|\\[\])])?(?=[^\S\n]+[A-Z$\\])")  # also "$x = 2.$ Then"
ANSWER = re.compile(r"\\boxed|####|answer is", re.IGNORECASE)
# Escapes stand first so that "\$" opens nothing and "\\[2pt]" is a line break; $...$ does not cross a blank line.
FORMULA = re.compile(
    r"\\[\\$]"
    r"|\$\$.+?\$\$"
    r"|\$(?:\\.|[^$\\\n]|\n(?![^\S\n]*\n))+\$"
    r"|\\\[.+?(?<!\\)\\\]"
    r"|\\\(.+?(?<!\\)\\\)"
    r"|\\begin\{([^{}]*)\}.*?\\end\{\1\}",
    re.DOTALL,
)

SHORTEST_STEP = 20  # characters
SHORTEST_SHARE = 0.3  # of the mean length
MOST_STEPS = 9
FEWEST_STEPS = 3  # up to this many, sentences are split too


def split_steps(token_ids: Sequence[int], decode: Decode, rule: Rule = "line") -> list[int]:
    """End index (exclusive) of every step y_1..y_L; ``token_ids[:end]`` is the prefix that a rollout continues.

    A step ends at the token that holds the end of its text, and takes the tokens of the blank lines after it along.
    What follows the last step without a text of its own (blank lines, EOS) belongs to it.

    Args:
        token_ids: the response, [T].
        decode: ids to text, without special tokens.
        rule: ``line``: a step is a line that is not blank. ``math``: see :func:`math_ends`. ``comma``: a step ends
            with a comma, as a node of a path does.

    Returns:
        Strictly increasing ends, the last one T; empty for an empty response.
    """
    if not token_ids:
        return []
    pieces = token_texts(token_ids, decode)
    text = "".join(pieces)
    filled = list(accumulate(map(len, pieces)))
    boundaries = set()
    for end in ENDS[rule](text):
        holder = bisect_left(filled, end)
        blank = BLANK_LINES.match(text, end)
        blank_end = blank.end() if blank else end
        blank_holder = bisect_left(filled, blank_end)
        # A token that ends the blank lines and goes on with the next line belongs to the next line.
        boundaries.add((blank_holder if filled[blank_holder] == blank_end else holder) + 1)
    return [*sorted(boundaries)[:-1], len(token_ids)]


def token_texts(token_ids: Sequence[int], decode: Decode) -> list[str]:
    """The text that each token completes, [T]; joined, they are the text of the response.

    A character spread over tokens belongs to the last of them. Each token is decoded behind the one before it, because
    decoders treat the beginning of a text differently (SentencePiece drops its space). Linear in T.
    """
    texts: list[str] = []
    context = pending = 0  # tokens [context, pending) are done and stay in sight, the ones from pending on are not done
    done = 0  # characters of the window that are given out
    for i in range(len(token_ids)):
        window = decode(token_ids[context : i + 1])
        complete = window.rstrip(UNDECODED)
        hopeless = i + 1 - pending >= LONGEST_CHARACTER or i + 1 == len(token_ids)
        if window == complete or hopeless:
            texts.append(window[done:])
            context, pending = pending, i + 1
            done = len(decode(token_ids[context:pending]))
        else:
            texts.append(complete[done:])
            done = max(done, len(complete))
    return texts


def line_ends(text: str) -> list[int]:
    """Character index behind each line that is not blank: behind its newline, or, without one, behind its text."""
    ends = []
    position = 0
    for line in text.split("\n"):
        position += len(line) + 1
        if line.strip():
            ends.append(position if position <= len(text) else len(text.rstrip()))
    return ends


def math_ends(text: str) -> list[int]:
    """Character ends of the steps of a MATH solution: lines, merged; sentences too where three steps or fewer remain.

    No step ends inside ``$...$``, ``$$...$$``, ``\\(...\\)``, ``\\[...\\]`` or an environment.
    """
    formulas = [m.span() for m in FORMULA.finditer(text)]  # in order, and none in another
    starts = [start for start, _ in formulas]

    def outside(ends: list[int]) -> set[int]:
        before = [bisect_left(starts, end) for end in ends]  # as many formulas begin before it
        return {end for end, n in zip(ends, before, strict=True) if not n or end >= formulas[n - 1][1]}

    lines = outside(line_ends(text))
    steps = merge_steps(text, sorted(lines))
    if len(steps) > FEWEST_STEPS:
        return steps
    return merge_steps(text, sorted(lines | outside([m.end() for m in SENTENCE_END.finditer(text)])))


def comma_ends(text: str) -> list[int]:
    """Character index behind each comma, and behind the text if it goes on after the last one."""
    ends = [i + 1 for i, character in enumerate(text) if character == ","]
    if not text.strip() or not text[ends[-1] if ends else 0 :].strip():
        return ends
    return [*ends, len(text)]


ENDS: dict[Rule, Callable[[str], list[int]]] = {"line": line_ends, "math": math_ends, "comma": comma_ends}


def merge_steps(text: str, ends: Sequence[int]) -> list[int]:
    """Drop ends so that no step is tiny and at most nine remain.

    A piece under 20 characters or under 0.3 of the mean length is joined with what follows, or with what precedes where
    nothing follows. Then the shortest two neighbours are joined until nine are left. The last piece that shows an
    answer stays a step of its own.

    Args:
        text: the response.
        ends: character ends of its pieces, increasing; no piece is blank.
    """
    pieces = [text[start:end].strip() for start, end in zip([0, *ends], ends, strict=False)]
    lengths: list[float] = [len(piece) for piece in pieces]
    shortest = max(SHORTEST_STEP, SHORTEST_SHARE * sum(lengths) / max(len(lengths), 1))
    answer = max((i for i, piece in enumerate(pieces) if ANSWER.search(piece)), default=len(pieces))
    if answer < len(pieces):
        lengths[answer] = inf  # never among the shortest
    sized = list(zip(ends, lengths, strict=True))
    groups = sized[:answer], sized[answer : answer + 1], sized[answer + 1 :]
    steps = [step for group in groups for step in join_tiny(group, shortest)]
    return join_shortest(steps)


def join_tiny(sized: Sequence[tuple[int, float]], shortest: float) -> list[tuple[int, float]]:
    """Join (end, length) pieces from the left until each has the shortest length; a rest joins the last one."""
    steps: list[tuple[int, float]] = []
    gathered = 0.0
    for end, length in sized:
        gathered += length
        if gathered >= shortest:
            steps.append((end, gathered))
            gathered = 0.0
    if gathered:
        before = steps.pop()[1] if steps else 0.0
        steps.append((sized[-1][0], before + gathered))
    return steps


def join_shortest(steps: Sequence[tuple[int, float]]) -> list[int]:
    """Ends after joining the shortest two neighbours, the first of equal ones, until nine steps are left.

    A step keeps the place of its first piece; the queue is of neighbours by their common length, and what has been
    joined since it was put there is passed over.
    """
    ends, lengths = map(list, zip(*steps, strict=True)) if steps else ([], [])
    after, before = list(range(1, len(steps) + 1)), list(range(-1, len(steps) - 1))
    queue = [(lengths[i] + lengths[i + 1], i, i + 1) for i in range(len(steps) - 1)]
    heapify(queue)
    gone: set[int] = set()
    while len(steps) - len(gone) > MOST_STEPS:
        length, i, j = heappop(queue)
        if i in gone or after[i] != j or lengths[i] + lengths[j] != length:
            continue
        ends[i], lengths[i], after[i] = ends[j], length, after[j]
        gone.add(j)
        if before[i] >= 0:
            heappush(queue, (lengths[before[i]] + length, before[i], i))
        if after[i] < len(steps):
            before[after[i]] = i
            heappush(queue, (length + lengths[after[i]], i, after[i]))
    return [end for i, end in enumerate(ends) if i not in gone]
