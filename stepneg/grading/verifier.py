"""r(y) of the paper, section 3: 1 if a solution's final answer is the reference answer."""

from dataclasses import dataclass
from typing import Literal, get_args

from stepneg.errors import InputError
from stepneg.grading import extract
from stepneg.grading.compare import EQUAL_RULES, compare_formulas, compare_numbers

Form = Literal["gsm8k", "math", "number"]


@dataclass(frozen=True)
class Verdict:
    """How a response was graded.

    Attributes:
        correct: whether its final answer is the reference answer.
        extracted: the final answer as it stands in the response; None without one.
        rule: what decided: "exact", "normalised", "numeric", "plain" (words, bases, elements of a list) or "symbolic"
            for equal answers, else "different", "unparsable" or "no_answer".
        why: the same in words.
    """

    correct: bool
    extracted: str | None
    rule: str
    why: str


def extract_answer(response: str, form: str, flexible: bool = False) -> str | None:
    r"""The final answer of a response.

    Args:
        response: any text.
        form: "gsm8k": the last ``#### x``. "math": the last balanced ``\boxed{x}``. "number": the last ``#### x``,
            else the last number.
        flexible: where that finds nothing, take what "the answer is" or ``A:`` states and, for gsm8k, then the last
            number. It counts answers that a strict reader would not; say which one a figure was made with.

    Raises:
        InputError: the form is none of the three.
    """
    if form == "math":
        return extract.last_boxed(response) or (extract.stated_formula(response) if flexible else None)
    if form not in get_args(Form):
        raise InputError(f"grading form {form!r} is not known; use one of {', '.join(get_args(Form))}")
    line = extract.after_hashes(response)
    if line is not None:
        return extract.bare_number(line)
    found = extract.stated_number(response) if flexible else None
    return found or (extract.last_number(response) if flexible or form == "number" else None)


def grade(response: str, reference: str, form: str, flexible: bool = False) -> Verdict:
    """Whether the response's final answer is the reference; never raises on any text, in bounded time.

    Args:
        response: a solution.
        reference: the bare answer.
        form: how an answer is marked, see :func:`extract_answer`.
        flexible: accept weaker marks.

    Raises:
        InputError: the form is not known.
    """
    answer = extract_answer(response, form, flexible)
    if answer is None:
        mark = r"\boxed{...}" if form == "math" else "#### ..."
        return Verdict(False, None, "no_answer", f"no {mark} in the response")
    compare = compare_formulas if form == "math" else compare_numbers
    rule, why = compare(answer, reference.strip())
    return Verdict(rule in EQUAL_RULES, answer, rule, why)
