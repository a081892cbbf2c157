r"""The references of MATH, rewritten: other spellings of the same answer, and answers that are near but wrong.

Every function takes a reference (the inside of its box) and a random generator, and returns the rewritten answer, or
None where the rewriting does not apply to it.
"""

import json
import random
import re
from collections.abc import Callable
from fractions import Fraction

from stepneg.grading.extract import last_boxed
from stepneg.problems import ASSETS

Perturbation = Callable[[str, random.Random], str | None]

INTEGER = re.compile(r"(?<![0-9.])-?[0-9]+(?![0-9.])")
FRACTION = re.compile(r"(?P<sign>-?)\\d?frac\{(?P<over>[0-9]+)\}\{(?P<under>[0-9]+)\}")
DECIMAL = re.compile(r"-?[0-9]*\.[0-9]+")
INTERVAL = re.compile(r"(?P<open>[(\[])(?P<low>[^,()\[\]]+),(?P<high>[^,()\[\]]+)(?P<close>[)\]])")
TERMS = re.compile(r"(?P<first>[^-+=,<>&|()\[\]{}\s]+)\+(?P<second>[^-+=,<>&|()\[\]{}\s]+)")
LIST = re.compile(r"[^,()\[\]{}|]+(?:,[^,()\[\]{}|]+)+")
UNITS = (r"\text{ cm}", r"\text{ cm}^2", r"\text{ units}", r"\mbox{ inches}", " square feet", r"^\circ")
IN_WORDS = re.compile(r"\\(?:text|mbox|textbf)|\\begin\{(?!pmatrix)|_")  # bases, orders of letters, sentences


def references() -> list[str]:
    """The answers of MATH's 12,500 problems, training problems first; two are empty."""
    found = []
    for split in ("train", "test"):
        with (ASSETS / "math" / f"{split}.jsonl").open(encoding="utf-8") as lines:
            found += [last_boxed(json.loads(line)["solution"]) or "" for line in lines]
    return found


def bare(answer: str) -> str:
    r"""Without spaces and ``\left``, ``\right``, for matching only where that cannot join commands and letters."""
    return (
        re.sub(r"\\(?:left|right)(?![A-Za-z])|\\[,;! ]|\s", "", answer)
        if not re.search(r"[a-z] +[a-z]", answer)
        else ""
    )


# The same answer.


def display_fraction(answer: str, _: random.Random) -> str | None:
    r"""``\frac`` as ``\dfrac``, ``\dfrac`` as ``\frac``."""
    if r"\frac" in answer:
        return answer.replace(r"\frac", r"\dfrac")
    return answer.replace(r"\dfrac", r"\frac") if r"\dfrac" in answer else None


def short_fraction(answer: str, _: random.Random) -> str | None:
    r"""``\frac{1}{2}`` as ``\frac12``."""
    short = re.sub(r"\\frac\{([0-9])\}\{([0-9])\}", r"\\frac\1\2", answer)
    return short if short != answer else None


def slashed_fraction(answer: str, _: random.Random) -> str | None:
    r"""``\frac{1}{2}`` as ``1/2``, where it is the whole answer."""
    found = FRACTION.fullmatch(answer)
    return f"{found['sign']}{found['over']}/{found['under']}" if found else None


def spaced(answer: str, rng: random.Random) -> str | None:
    """Blanks, thin or plain, around signs, commas and brackets."""
    if IN_WORDS.search(answer):
        return None
    blank = rng.choice([" ", r"\, ", r"\;", "~"])
    wide = re.sub(
        r"(?<![\\^_{])([-+=<>]|,(?!\\!|[0-9]{3}(?![0-9])))(?!\\)", lambda sign: f"{blank}{sign[1]}{blank}", answer
    )
    return f" {wide} " if wide != answer else None


def sized_brackets(answer: str, _: random.Random) -> str | None:
    r"""``(a, b]`` as ``\left(a, b\right]``, or the other way round."""
    if r"\left" in answer:
        return re.sub(r"\\(?:left|right)(?![A-Za-z])", "", answer)
    if IN_WORDS.search(answer) or not re.fullmatch(r"[(\[].*[)\]]", answer, re.DOTALL):
        return None
    return rf"\left{answer[:-1]}\right{answer[-1]}"


def with_unit(answer: str, rng: random.Random) -> str | None:
    """A unit behind a number."""
    unit = rng.choice(UNITS)
    return answer + unit if re.fullmatch(r"-?[0-9.]+", answer) or FRACTION.fullmatch(answer) else None


def with_percent(answer: str, _: random.Random) -> str | None:
    """A per cent sign behind a number: the same to the graders of MATH, a hundredth to others."""
    return rf"{answer}\%" if re.fullmatch(r"-?[0-9.]+", answer) else None


def with_currency(answer: str, _: random.Random) -> str | None:
    """A dollar sign before a number."""
    return rf"\${answer}" if re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", answer) else None


def with_thousands(answer: str, rng: random.Random) -> str | None:
    """Separators in whole numbers from 1000 on."""
    if not re.fullmatch(r"-?[0-9]{4,}", answer):
        return None
    return f"{int(answer):,}".replace(",", rng.choice([",", r",\!", "{,}", r"\,"]))


def with_zeros(answer: str, _: random.Random) -> str | None:
    """5 as 5.0, 2.5 as 2.50."""
    if re.fullmatch(r"-?[0-9]+", answer):
        return f"{answer}.0"
    return f"{answer}0" if DECIMAL.fullmatch(answer) else None


def decimal_of_fraction(answer: str, _: random.Random) -> str | None:
    r"""``\frac{3}{8}`` as 0.375, where that is exact."""
    found = FRACTION.fullmatch(answer)
    if not found or int(found["under"]) == 0:
        return None
    value = Fraction(int(found["over"]), int(found["under"]))
    text = f"{float(value):.12f}".rstrip("0")
    return found["sign"] + text if Fraction(text) == value else None


def fraction_of_decimal(answer: str, _: random.Random) -> str | None:
    r"""0.375 as ``\frac{3}{8}``."""
    if not DECIMAL.fullmatch(answer):
        return None
    value = Fraction(answer)
    return rf"{'-' if value < 0 else ''}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def expanded_fraction(answer: str, rng: random.Random) -> str | None:
    r"""``\frac{1}{2}`` as ``\frac{3}{6}``."""
    found, by = FRACTION.fullmatch(answer), rng.randint(2, 9)
    return rf"{found['sign']}\frac{{{by * int(found['over'])}}}{{{by * int(found['under'])}}}" if found else None


def mixed_number(answer: str, _: random.Random) -> str | None:
    r"""``\frac{7}{2}`` as ``3\frac{1}{2}``."""
    found = FRACTION.fullmatch(answer)
    if not found or int(found["over"]) < int(found["under"]) or int(found["over"]) % int(found["under"]) == 0:
        return None
    whole, rest = divmod(int(found["over"]), int(found["under"]))
    return rf"{found['sign']}{whole}\frac{{{rest}}}{{{found['under']}}}"


def reordered_list(answer: str, rng: random.Random) -> str | None:
    """A list without brackets in another order."""
    if IN_WORDS.search(answer) or re.search(r"\\[!,;$]", answer) or not LIST.fullmatch(answer):
        return None
    if re.fullmatch(r"[0-9]{1,3}(?:,[0-9]{3})+", answer) or re.search(r"[=<>]", answer):
        return None
    parts = answer.split(",")
    shuffled = rng.sample(parts, len(parts))
    return ", ".join(part.strip() for part in shuffled) if shuffled != parts else None


def as_set(answer: str, rng: random.Random) -> str | None:
    r"""A list without brackets as ``\{...\}``, in another order."""
    shuffled = reordered_list(answer, rng)
    return rf"\{{{shuffled}\}}" if shuffled else None


def reordered_sum(answer: str, _: random.Random) -> str | None:
    """``a + b`` as ``b + a``, where that is the whole answer."""
    found = TERMS.fullmatch(answer.replace(" ", "")) if not re.search(r"[A-Za-z] |\\text|\\pm", answer) else None
    return f"{found['second']}+{found['first']}" if found and found["first"] != found["second"] else None


def named(answer: str, _: random.Random) -> str | None:
    """``x = 5`` for 5."""
    return f"x = {answer}" if re.fullmatch(r"-?[0-9.]+", answer) or FRACTION.fullmatch(answer) else None


def in_math_marks(answer: str, _: random.Random) -> str | None:
    """Dollar signs and a full stop inside the box."""
    return f"${answer}$." if "$" not in answer and answer else None


def unicode_minus(answer: str, _: random.Random) -> str | None:
    """The minus sign that word processors write."""
    return answer.replace("-", "\N{MINUS SIGN}") if "-" in answer and not IN_WORDS.search(answer) else None


def braced_exponents(answer: str, _: random.Random) -> str | None:
    """``x^2`` as ``x^{2}``."""
    braced = re.sub(r"\^([0-9a-z])", r"^{\1}", answer)
    return braced if braced != answer else None


def without_text(answer: str, _: random.Random) -> str | None:
    r"""``\text{Evelyn}`` as Evelyn."""
    found = re.fullmatch(r"\\text\{([A-Z]?[a-z]+)\}", answer)
    return found[1] if found else None


RIGHT: dict[str, Perturbation] = {
    r"\frac as \dfrac": display_fraction,
    r"\frac{1}{2} as \frac12": short_fraction,
    "fraction with a slash": slashed_fraction,
    "expanded fraction": expanded_fraction,
    "mixed number": mixed_number,
    "fraction as decimal": decimal_of_fraction,
    "decimal as fraction": fraction_of_decimal,
    "trailing zeros": with_zeros,
    "thousands separators": with_thousands,
    "unit added": with_unit,
    "currency added": with_currency,
    "per cent sign added": with_percent,
    "spacing": spaced,
    r"\left and \right": sized_brackets,
    "braces of exponents": braced_exponents,
    "dollar signs and full stop": in_math_marks,
    "Unicode minus": unicode_minus,
    r"word without \text": without_text,
    "list in another order": reordered_list,
    "list as a set": as_set,
    "sum in another order": reordered_sum,
    "x = ...": named,
}


# A wrong answer.


def wrong_sign(answer: str, _: random.Random) -> str | None:
    """The other sign for a number, or for the first number of a tuple."""
    if IN_WORDS.search(answer) or answer in ("0", "") or answer.startswith("+"):
        return None
    plain = bare(answer)
    if re.fullmatch(r"-?(?:[0-9.]+|\\d?frac\{[0-9]+\}\{[0-9]+\}|[0-9]*\\sqrt\{[0-9]+\}|[0-9]*\\pi)", plain):
        return plain[1:] if plain.startswith("-") else f"-{plain}"
    found = re.fullmatch(r"\((-?)([1-9][0-9]*)(,.*\))", plain)
    return f"({'' if found[1] else '-'}{found[2]}{found[3]}" if found else None


def off_by_one(answer: str, rng: random.Random) -> str | None:
    """One whole number in it is larger by one."""
    numbers = (
        list(INTEGER.finditer(answer)) if not re.search(r"\\(?:text|mbox|[dt]?frac[0-9]|sqrt[0-9])", answer) else []
    )
    if not numbers:
        return None
    found = rng.choice(numbers)
    value = int(found.group()) + 1
    # -1 becomes 0 with its sign kept, so that x-1 does not become x0.
    text = "-0" if value == 0 and found.group().startswith("-") else str(value)
    return answer[: found.start()] + text + answer[found.end() :]


def swapped_ends(answer: str, _: random.Random) -> str | None:
    """``(a, b)`` as ``(b, a)``."""
    found = INTERVAL.fullmatch(bare(answer))
    if not found or found["low"] == found["high"]:
        return None
    return f"{found['open']}{found['high']},{found['low']}{found['close']}"


def other_brackets(answer: str, rng: random.Random) -> str | None:
    """An interval that holds an end that it should not, or the other way round."""
    found = INTERVAL.fullmatch(bare(answer))
    if not found:
        return None
    swap = {"(": "[", "[": "(", ")": "]", "]": ")"}
    if rng.random() < 0.5:
        return f"{swap[found['open']]}{found['low']},{found['high']}{found['close']}"
    return f"{found['open']}{found['low']},{found['high']}{swap[found['close']]}"


def inverted_fraction(answer: str, _: random.Random) -> str | None:
    r"""``\frac{3}{4}`` as ``\frac{4}{3}``."""
    found = FRACTION.fullmatch(answer)
    if not found or found["over"] == found["under"]:
        return None
    return rf"{found['sign']}\frac{{{found['under']}}}{{{found['over']}}}"


def rounded_fraction(answer: str, _: random.Random) -> str | None:
    r"""``\frac{1}{3}`` as 0.333: exact answers are asked for."""
    found = FRACTION.fullmatch(answer)
    if not found or int(found["under"]) == 0:
        return None
    value = Fraction(int(found["over"]), int(found["under"]))
    return None if Fraction(f"{float(value):.3f}") == value else f"{found['sign']}{float(value):.3f}"


def shifted_point(answer: str, _: random.Random) -> str | None:
    """Ten times too large."""
    return f"{answer}0" if re.fullmatch(r"-?[1-9][0-9]*", answer) else None


def element_missing(answer: str, rng: random.Random) -> str | None:
    """A list without one of its elements."""
    if reordered_list(answer, random.Random(0)) is None:
        return None
    parts = answer.split(",")
    left_out = rng.randrange(len(parts))
    rest = [part for i, part in enumerate(parts) if i != left_out]
    return ",".join(rest).strip() if parts[left_out].strip() not in {part.strip() for part in rest} else None


def element_added(answer: str, rng: random.Random) -> str | None:
    """A list with one element too many."""
    return f"{answer}, {rng.randint(100, 999)}" if reordered_list(answer, random.Random(0)) else None


def root_missing(answer: str, _: random.Random) -> str | None:
    r"""``\sqrt{x}`` as ``(x)``."""
    wrong = re.sub(r"\\sqrt\{([^{}]+)\}", r"(\1)", answer, count=1)
    return wrong if wrong != answer and not re.search(r"\\sqrt\{[01]\}", answer) else None


def pi_missing(answer: str, _: random.Random) -> str | None:
    r"""Without ``\pi``."""
    wrong = re.sub(r"(?<=[0-9}])\s*\\pi(?![A-Za-z])", "", answer, count=1)
    return wrong if wrong != answer else None


def other_variable(answer: str, _: random.Random) -> str | None:
    """An expression in another variable."""
    if not re.fullmatch(r"[-+0-9x^{}() ]*x[-+0-9x^{}() ]*", answer) or not re.search("[0-9]", answer):
        return None
    return answer.replace("x", "w")


def other_choice(answer: str, _: random.Random) -> str | None:
    """Another letter of a multiple choice."""
    found = re.fullmatch(r"(?:\\text\{)?\(?([A-E])\)?\}?", answer)
    return None if not found else answer.replace(found[1], "ABCDE"["ABCDE".index(found[1]) - 1])


WRONG: dict[str, Perturbation] = {
    "wrong sign": wrong_sign,
    "off by one": off_by_one,
    "interval or pair with ends swapped": swapped_ends,
    "interval with other brackets": other_brackets,
    "fraction upside down": inverted_fraction,
    "fraction rounded to 3 places": rounded_fraction,
    "ten times too large": shifted_point,
    "element missing": element_missing,
    "element too many": element_added,
    "root missing": root_missing,
    "pi missing": pi_missing,
    "other variable": other_variable,
    "other choice": other_choice,
}


def cases(answers: list[str], perturbation: Perturbation, name: str, most: int | None = None) -> list[tuple[str, str]]:
    """(reference, rewritten answer) wherever a perturbation applies, in a fixed random order; at most ``most``."""
    rng = random.Random(name)
    found = [(a, b) for a in answers if (b := perturbation(a, rng)) is not None]
    rng.shuffle(found)
    return found[:most]
