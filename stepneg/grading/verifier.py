"""r(y) of the paper, section 3: 1 if a solution's final answer is the reference answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from stepneg.errors import InputError
from stepneg.grading import extract
from stepneg.grading.compare import EQUAL_RULES, compare_formulas, compare_numbers, compare_texts
from stepneg.grading.normalise import normalise
from stepneg.grading.number import LONGEST, as_number

Form = Literal["gsm8k", "math", "number", "text"]
Mark = Literal["hashes", "boxed", "stated", "last_number", "whole"]
Find = Callable[[str], str | None]

# What is looked for, in this order. The policy is trained to leave its own mark, so nothing else counts by default.
STRICT: dict[Form, tuple[Mark, ...]] = {
    "gsm8k": ("hashes",),
    "math": ("boxed",),
    "number": ("hashes", "last_number"),
    "text": ("whole",),
}
# For responses of other models, which leave other marks.
EVERY: dict[Form, tuple[Mark, ...]] = {
    "gsm8k": ("hashes", "boxed", "stated", "last_number"),
    "math": ("boxed", "stated", "last_number"),
    "number": ("hashes", "boxed", "stated", "last_number"),
    "text": ("whole",),
}
MARK_NAMES: dict[Mark, str] = {
    "hashes": "#### ...",
    "boxed": r"\boxed{...}",
    "stated": "'the answer is ...'",
    "last_number": "number",
    "whole": "text",
}


def number_in(find: Find) -> Find:
    """The same finder, with what it found freed of its unit or, if that is no number, of its LaTeX."""

    def bare(text: str) -> str | None:
        line = find(text)
        if line is None:
            return None
        number = extract.bare_number(line)
        if as_number(number) is None and len(line) <= LONGEST:
            latex = extract.bare_number(normalise(line))
            return number if as_number(latex) is None else latex
        return number

    return bare


def stated_number(text: str) -> str | None:
    """What is stated as a whole, if it is a number; else the first number in it."""
    whole = number_in(extract.stated_formula)(text)
    return whole if whole is not None and as_number(whole) is not None else extract.stated_number(text)


NUMBER_FINDERS: dict[Mark, Find] = {
    "hashes": number_in(extract.after_hashes),
    "boxed": number_in(extract.last_boxed),
    "stated": stated_number,
    "last_number": extract.last_number,
    "whole": number_in(extract.whole),
}
FORMULA_FINDERS: dict[Mark, Find] = {
    "hashes": extract.after_hashes,
    "boxed": extract.last_boxed,
    "stated": extract.stated_formula,
    "last_number": extract.last_number,
    "whole": extract.whole,
}
COMPARE: dict[Form, Callable[[str, str], tuple[str, str]]] = {
    "gsm8k": compare_numbers,
    "math": compare_formulas,
    "number": compare_numbers,
    "text": compare_texts,
}


@dataclass(frozen=True)
class Verdict:
    """How a response was graded.

    Attributes:
        correct: whether its final answer is the reference answer.
        extracted: the final answer as it stands in the response; None without one.
        rule: what decided: "exact", "normalised", "numeric", "plain" (words, bases, elements of a list, values in
            closed form) or "symbolic" for equal answers, else "different", "unparsable" or "no_answer".
        why: the same in words.
        mark: what the answer was found by; None without an answer.
    """

    correct: bool
    extracted: str | None
    rule: str
    why: str
    mark: Mark | None = None


def check_form(form: str) -> None:
    """Refuse a form that is none of these.

    Raises:
        InputError: it is not known.
    """
    if form not in get_args(Form):
        raise InputError(f"grading form {form!r} is not known; use one of {', '.join(get_args(Form))}")


def find_answer(response: str, form: Form, marks: Sequence[Mark] | None = None) -> tuple[str, Mark] | None:
    r"""The final answer of a response and what it was found by; None where none of the marks is there.

    Args:
        response: any text.
        form: "math" reads formulas, "gsm8k" and "number" numbers with their units, "text" takes what stands there.
        marks: what is looked for, in this order; the first that finds something (a number, unless the form is "math")
            counts; a heading such as ``#### Step 2`` is passed over for a box. "hashes": the last ``#### x``.
            "boxed": the last balanced ``\boxed{x}`` or ``\fbox{x}``. "stated": behind "the answer is" or ``A:``.
            "last_number": the last number anywhere. "whole": all of the response. By default the form's own mark, see
            ``STRICT``.

    Raises:
        InputError: the form is not known.
    """
    check_form(form)
    numbers, first = form in ("gsm8k", "number"), None
    finders = NUMBER_FINDERS if numbers else FORMULA_FINDERS
    for mark in STRICT[form] if marks is None else marks:
        answer = finders[mark](response)
        if answer is not None and (not numbers or as_number(answer) is not None):
            return answer, mark
        if answer is not None:
            first = first or (answer, mark)
    return first


def grade(response: str, reference: str, form: Form, marks: Sequence[Mark] | None = None) -> Verdict:
    """Whether the response's final answer is the reference; never raises on any text, in bounded time.

    Args:
        response: a solution.
        reference: the bare answer.
        form: how answers are read and compared, see :func:`find_answer`.
        marks: where the answer is looked for, see :func:`find_answer`.

    Raises:
        InputError: the form is not known.
    """
    found = find_answer(response, form, marks)
    if found is None:
        wanted = [MARK_NAMES[mark] for mark in (STRICT[form] if marks is None else marks)]
        return Verdict(False, None, "no_answer", f"the response has no {', no '.join(wanted)}")
    answer, mark = found
    rule, why = COMPARE[form](answer, reference.strip())
    return Verdict(rule in EQUAL_RULES, answer, rule, why, mark)


def equal_answers(form: Form) -> Callable[[str, str], bool]:
    """Whether two bare answers are the same, under the form's comparison: what maj@k joins votes by."""
    return lambda first, second: COMPARE[form](first, second)[0] in EQUAL_RULES
