"""Are two answers the same? Cheap rules decide most; what they leave open goes to the symbolic comparison."""

import re
from functools import lru_cache

from stepneg.grading.bounds import same_value
from stepneg.grading.normalise import normalise
from stepneg.grading.number import LONGEST, as_number
from stepneg.grading.symbolic import symbolically_equal

LONGEST_ANSWER = 1000  # characters; the longest reference of MATH has 159
EQUAL_RULES = frozenset({"exact", "normalised", "numeric", "plain", "symbolic"})

DEEPEST = 20  # nested brackets of any kind
RELATION = re.compile(r"=|\\in(?![a-z])")
NAME = re.compile(r"(?:\\?[A-Za-z]+(?:_\{[0-9A-Za-z]+\})?(?:\([a-z](?:,[a-z])*\))?)(?:=|\\in(?![a-z]))")
BASE = re.compile(r"(?P<digits>-?[0-9A-Z]+(?:\.[0-9A-Z]+)?)_\{(?P<base>[0-9]+)\}")
CAPITALS = re.compile(r"[A-Z]{3,}")  # an order or a polygon: CBAD is not ABCD, although the products are equal
WORD = re.compile(r"[A-Za-z]{3,}")
TIME = re.compile(r"[0-9]{1,2}(?::[0-9]{2})*[ap]m", re.IGNORECASE)
CLOCK = re.compile(r"[0-9]+(?::[0-9]+)+")  # a time or a ratio
VARIABLE = re.compile(r"[A-Za-z](?:_\{[0-9A-Za-z]+\})?|\\(?!pi|infty)[a-z]+")
ORDER = re.compile(r"(<|>|\\leq|\\geq)")
NO_LIST = re.compile(r"\\(?:pm|mp|cup|cap|begin|leq|geq|neq|in(?![a-z]))|[<>]")  # for the symbolic comparison
MATRIX = re.compile(r"\\begin\{([pb])matrix\}(?P<inside>(?:(?!\\begin|\\end).)*)\\end\{\1matrix\}", re.DOTALL)
NO_NUMBER = re.compile(r"\\(?:pm|mp|cup|begin\{[pb]|leq|geq|infty|in(?![a-z]))|[<>]")  # says more than one number can
BRACKET = re.compile(r"\\[{}]|[()\[\]{}]|,|;|\\.|.", re.DOTALL)
OPENING = frozenset({"(", "[", "{", r"\{"})
CLOSING = frozenset({")", "]", "}", r"\}"})


def compare_texts(answer: str, reference: str) -> tuple[str, str]:
    """Only the same text is equal. Rules as in :func:`compare_numbers`."""
    if answer == reference:
        return "exact", "the same text"
    return "different", f"{shortened(answer)} is not {shortened(reference)}"


def compare_numbers(answer: str, reference: str) -> tuple[str, str]:
    """The rule that decides, and why, for answers that are numbers (GSM8K).

    Returns:
        A rule of ``EQUAL_RULES``, "different", or "unparsable" where the answer is not a number.
    """
    if answer == reference:
        return "exact", "the same text"
    value, target = as_number(answer), as_number(reference)
    if value is None or target is None:
        if answer.casefold() == reference.casefold():
            return "normalised", "the same text"
        if target is not None:
            return "unparsable", f"{shortened(answer)} is not a number of at most {LONGEST} characters"
        return "different", f"{shortened(answer)} is not {shortened(reference)}"
    if value == target:
        return "numeric", f"{shortened(answer)} and {shortened(reference)} are one number"
    return "different", f"{shortened(answer)} and {shortened(reference)} are two numbers"


def compare_formulas(answer: str, reference: str) -> tuple[str, str]:
    """The rule that decides, and why, for answers in LaTeX (MATH). Rules as in :func:`compare_numbers`."""
    if answer == reference:
        return "exact", "the same text"
    if max(len(answer), len(reference)) > LONGEST_ANSWER:
        return "unparsable", f"{len(answer)} characters against {len(reference)}: too long to compare"
    return compare_short_formulas(answer, reference)


@lru_cache(maxsize=1 << 16)
def compare_short_formulas(answer: str, reference: str) -> tuple[str, str]:
    """:func:`compare_formulas` where both are short enough to keep and to parse."""
    left, right = normalise(answer), normalise(reference)
    if left == right and left:
        return "normalised", f"both are {shortened(left)}"
    if max(deepest(left), deepest(right)) > DEEPEST:
        return "unparsable", f"{shortened(answer)}: brackets nest more than {DEEPEST} deep"
    same, rule = decide(left, right), "plain" if as_number(left) is None or as_number(right) is None else "numeric"
    if same is None:
        same, rule = symbolically_equal(left, right), "symbolic"
    if same is None:
        return "unparsable", f"{shortened(answer)} and {shortened(reference)} could not be compared symbolically"
    if same:
        return rule, f"{shortened(answer)} equals {shortened(reference)}"
    return "different", f"{shortened(answer)} is not {shortened(reference)}"


def decide(left: str, right: str) -> bool | None:
    """Whether two normalised answers are equal, as far as text and exact arithmetic can tell; None if they cannot."""
    left, right = without_one_sided_name(left, right)
    if left == right:
        return True
    a, b = as_number(left), as_number(right)
    if a is not None and b is not None:
        return a == b
    if ("=" in left) != ("=" in right):
        return decide_working(left, right)
    if (a is None) != (b is None) and NO_NUMBER.search(left if a is None else right):
        return False
    for rule in (decide_inequalities, decide_words, decide_bases, decide_matrices, decide_elements, decide_equations):
        decided = rule(left, right)
        if decided is not None:
            return decided
    return same_value(left, right)


def without_one_sided_name(left: str, right: str) -> tuple[str, str]:
    """``x=5`` against ``5`` becomes ``5`` against ``5``; x = 5 against y = 5 stays. So does each part of a list."""
    if not RELATION.search(right):
        left = without_name(left)
    elif not RELATION.search(left):
        right = without_name(right)
    return left, right


def without_name(text: str) -> str:
    """``5`` of ``x=5``, ``3,5`` of ``x=3,x=5`` and ``x=3,5``; the text where parts have different names or none."""
    parts = split_top_level(text)
    name = named.group() if (named := NAME.match(parts[0])) else ""
    bare = [parts[0].removeprefix(name), *(part.removeprefix(name) for part in parts[1:])]
    return text if any(RELATION.search(part) for part in bare) else ",".join(bare)


def decide_inequalities(left: str, right: str) -> bool | None:
    """An interval against the inequality of one variable that says the same: ``[3,\\infty)`` and ``x\\geq3``."""
    a, b = interval_of(left), interval_of(right)
    if (a is None) == (b is None):
        return None
    interval, other = (a, right) if a is not None else (b, left)
    return decide(interval, other) if interval and other.startswith(("(", "[")) else None


def interval_of(inequality: str) -> str | None:
    """The interval, with infinite ends where none is given; None for what is no inequality of one variable."""
    parts = [part.strip() for part in ORDER.split(inequality)]
    if len(parts) == 3 and VARIABLE.fullmatch(parts[2]) and not VARIABLE.fullmatch(parts[0]):
        parts = [*parts, "<", r"\infty"] if parts[1] in ("<", r"\leq") else [*parts, ">", r"-\infty"]
    elif len(parts) == 3:
        parts = [r"-\infty", "<", *parts] if parts[1] in ("<", r"\leq") else [r"\infty", ">", *parts]
    if len(parts) != 5 or not all(parts) or not VARIABLE.fullmatch(parts[2]):
        return None
    low, first, _, second, high = parts
    if (first in ("<", r"\leq")) != (second in ("<", r"\leq")):
        return None  # 1 < x > 3
    if first in (">", r"\geq"):
        low, first, second, high = high, second, first, low
    return ("(" if first in "<>" else "[") + f"{low},{high}" + (")" if second in "<>" else "]")


def decide_working(left: str, right: str) -> bool | None:
    """``2+3=5`` is 5: every part of the working is the other side. ``x^2=5`` is not 5."""
    working, other = (left, right) if "=" in left else (right, left)
    return all_equal([decide(part, other) for part in working.split("=")])


def decide_words(left: str, right: str) -> bool | None:
    """Words and times of day, without case; a word is no number. ``2:05`` is not ``2:5``, and 1:2 not 2:4."""
    if CLOCK.fullmatch(left) and CLOCK.fullmatch(right):
        return left == right
    if any(form.fullmatch(side) for form in (WORD, TIME) for side in (left, right)):
        if left.casefold() == right.casefold():
            return True
        if any(form.fullmatch(side) for form in (CAPITALS, TIME) for side in (left, right)):
            return False
        if as_number(left) is not None or as_number(right) is not None:
            return False
    return None


def decide_bases(left: str, right: str) -> bool | None:
    """``11_2`` is not ``11_3``; a base that only one side states was given by the question."""
    a, b = BASE.fullmatch(left), BASE.fullmatch(right)
    if a and b:
        return a["digits"] == b["digits"] and a["base"] == b["base"]
    if not a and not b:
        return None
    return (a["digits"] if a else left) == (b["digits"] if b else right)


def decide_matrices(left: str, right: str) -> bool | None:
    """Two matrices or vectors in round or square brackets, entry by entry."""
    a, b = MATRIX.fullmatch(left), MATRIX.fullmatch(right)
    if not (a and b):
        return None
    rows, others = matrix_rows(a["inside"]), matrix_rows(b["inside"])
    if [len(row) for row in rows] != [len(row) for row in others]:
        return False
    return all_equal(
        [decide(x, y) for row, other in zip(rows, others, strict=True) for x, y in zip(row, other, strict=True)]
    )


def matrix_rows(inside: str) -> list[list[str]]:
    r"""The entries of each row; a ``\\\\`` behind the last row opens none."""
    return [row.split("&") for row in inside.removesuffix(r"\\").split(r"\\")]


def decide_elements(left: str, right: str) -> bool | None:
    """Tuples, intervals, sets and lists, element by element. A list without brackets and a set have no order."""
    if any(NO_LIST.search(side) for side in (left, right)):
        return None
    (a_shape, a), (b_shape, b) = elements(left), elements(right)
    if len(a) == 1 and len(b) == 1 and a_shape == b_shape == "":
        return None
    if a_shape and b_shape and a_shape != b_shape:
        return False
    if len(a) != len(b):
        return False
    if (a_shape or b_shape) not in ("", "{}"):
        return all_equal([decide(x, y) for x, y in zip(a, b, strict=True)])
    return match_unordered(a, b)


def decide_equations(left: str, right: str) -> bool | None:
    """Equations with one left side are equal if the right sides are; other equations if both sides are."""
    a, b = left.split("="), right.split("=")
    if len(a) != 2 or len(b) != 2:
        return None
    first, second = decide(a[0], b[0]), decide(a[1], b[1])
    return second if first else None


def all_equal(decided: list[bool | None]) -> bool | None:
    """Three-valued conjunction: one difference decides, else one open question leaves it open."""
    return False if False in decided else None if None in decided else True


def match_unordered(left: list[str], right: list[str]) -> bool | None:
    """Whether each element has its own equal on the other side; None if that hangs on an undecided pair."""
    undecided = False
    for x in left:
        decided = [decide(x, y) for y in right]
        if True in decided:
            right = right[: (i := decided.index(True))] + right[i + 1 :]
        elif None in decided:
            undecided = True
        else:
            return False
    return None if undecided else True


def elements(text: str) -> tuple[str, list[str]]:
    r"""The outer brackets (``()``, ``[)``, ``{}`` for a set, or none) and what top-level commas part.

    ``(1,2)`` gives ``("()", ["1", "2"])``; ``(1,2),(3,4)`` gives ``("", ["(1,2)", "(3,4)"])``; ``(x+1)`` stays whole.
    """
    parts, shape = split_top_level(text), ""
    if len(parts) == 1:
        for opening in ("(", "[", r"\{"):
            for closing in (")", "]", r"\}"):
                if text.startswith(opening) and text.endswith(closing):
                    inner = split_top_level(text[len(opening) : -len(closing)])
                    if len(inner) > 1 or opening == r"\{":
                        parts, shape = inner, (opening + closing).replace("\\", "")
    return shape, [part.strip() for part in parts]


def split_top_level(text: str) -> list[str]:
    """The parts between commas and semicolons that stand in no bracket."""
    parts, depth = [""], 0
    for token in BRACKET.findall(text):
        depth += (token in OPENING) - (token in CLOSING)
        if token in ",;" and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return parts


def deepest(text: str) -> int:
    """How deep brackets of any kind nest."""
    depth = most = 0
    for token in BRACKET.findall(text):
        depth += (token in OPENING) - (token in CLOSING)
        most = max(most, depth)
    return most


def shortened(text: str) -> str:
    """The text as one short quotation."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
