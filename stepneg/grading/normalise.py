r"""One spelling for LaTeX answers that print alike: ``\dfrac 12`` and ``\frac{1}{2}``, ``x^{2}`` and ``x^2``."""

import re

UNICODE = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "\N{NO-BREAK SPACE}": " ",
        "\N{DEGREE SIGN}": r"^\circ ",
        "\N{MULTIPLICATION SIGN}": r"\times ",
        "\N{GREEK SMALL LETTER PI}": r"\pi ",
        "\N{INFINITY}": r"\infty ",
        "\N{LESS-THAN OR EQUAL TO}": r"\leq ",
        "\N{GREATER-THAN OR EQUAL TO}": r"\geq ",
        "\N{UNION}": r"\cup ",
        "\0": "",
    }
)
TEXT = r"\\(?:text|mbox|textrm|textnormal|textbf|textit|mathrm|mathbf|emph|rm)\s*"
NO_UNIT = r"(?:[ap]\.?\s?m|pi|hundred|thousand|million|billion|dozen|and|or)\b"  # part of the answer
# \text{ cm}^2
UNIT = re.compile(rf"{TEXT}\{{\s*(?!{NO_UNIT})(?:[a-z]|[A-Za-z(][^{{}}]+)\}}(?:\^\s?\{{?[0-9]\}}?)?$")
PLAIN_UNIT = re.compile(
    rf"(?<=[0-9}}]) (?!{NO_UNIT})[A-Za-z]{{2,}}(?: [A-Za-z]{{2,}})*(?:\^\{{?[23]\}}?)?$"
)  # 12 square inches
MEASURED = re.compile(r"[0-9]|\\pi|\\sqrt")  # what a unit may stand behind
TRAILING = ".,;: "
ROW_END = re.compile(r"\\\\\s*$")

Rewrites = tuple[tuple[re.Pattern[str], str], ...]


def rewrites(*pairs: tuple[str, str]) -> Rewrites:
    """Compiled patterns with their replacements, applied in order."""
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


SPACING = rewrites(
    (r"(?<=[0-9])(?:,\\!|\{,\}|\{,\\!\}|,\{\\!\})(?=[0-9]{3})", ""),  # thousands: 40,\!320 and 1{,}008
    (r"(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))", ""),  # 10\,000
    # Spacing commands; \\ ends a row and is no part of the next command.
    (r"(\\\\)|\\(?:[,;:! \n]|q?quad(?![A-Za-z])|displaystyle(?![A-Za-z])|allowbreak(?![A-Za-z]))|~", r"\1 "),
    (r"\\\$|\$|\\[()\[\]]", ""),  # currency and math marks
    (r"\\(?:left|right|[Bb]igg?[lr]?)(?![A-Za-z])\s*\.?", " "),
    (r"\s+", " "),
)
SPELLING = rewrites(
    (r"^ ?\\approx(?![A-Za-z])", ""),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\(le|ge|ne)(?![A-Za-z])", r"\\\1q"),
    (r"<=", r"\\leq "),
    (r">=", r"\\geq "),
    (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
    (r"\\bar(?![A-Za-z])", r"\\overline"),
    (r"\\overline ?\{ ?([A-Z]+) ?\}", r"\1"),  # a segment
    (r"(?<![A-Za-z\\])(sin|cos|tan|cot|sec|csc|ln|pi)(?![A-Za-z])", r"\\\1 "),
    (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
    (r"\^ ?\{? ?\\circ ?\}?|\\degree(?![A-Za-z])|\\?%", " "),  # degrees and per cent
    (r",? ?(?:" + TEXT + r"\{[ ,]*(?:and|or) ?\}|\b(?:and|or)\b) ?", ", "),
    (TEXT + r"\{([^{}]*)\}", r"\1"),
    (r"\b([ap])\. ?m\b\.?", r"\1m"),
    (r"\\frac ?([0-9A-Za-z])", r"\\frac{\1}"),
    (r"(\\frac ?\{[^{}]*\}) ?([0-9A-Za-z])", r"\1{\2}"),
    (r"\\sqrt ?([0-9A-Za-z])", r"\\sqrt{\1}"),
    (r"([\^_]) ?([0-9]+|[A-Za-z])", r"\1{\2}"),
    (r"^ ?\( ?([A-Z]) ?\) ?$", r"\1"),  # a choice: (A)
)
TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\s+|.", re.DOTALL)


def without_spaces(latex: str) -> str:
    r"""Spaces only where they part something: ``\sin x``, ``3 1/2``, and ``81, 256`` (two numbers, not 81,256)."""
    kept: list[str] = []
    space = False
    for token in TOKEN.findall(latex):
        if token.isspace():
            space = True
            continue
        if space and kept:
            before = kept[-1]
            command = before[0] == "\\" and before[-1].isalpha() and token[0].isalpha()
            digits = token.isdigit() and (before.isdigit() or (before == "," and len(kept) > 1 and kept[-2].isdigit()))
            if command or digits:
                kept.append(" ")
        kept.append(token)
        space = False
    return "".join(kept)


def without_unit(latex: str) -> str:
    r"""The answer without the words behind its number: ``5\text{ cm}^2`` and ``5 cm`` become ``5``."""
    unit = UNIT.search(latex) or PLAIN_UNIT.search(latex)
    value = latex[: unit.start()] if unit else latex
    return value if MEASURED.search(value) else latex


def normalise(latex: str) -> str:
    r"""The one spelling of a LaTeX answer: no spacing, no ``\left``, no units, no degrees, per cent or currency.

    Meant for answers of bounded length: nested constructs are rewritten by regular expressions, not parsed.
    """
    latex = latex.translate(UNICODE)
    for pattern, replacement in SPACING:
        latex = pattern.sub(replacement, latex)
    latex = without_unit(ROW_END.sub("", latex).strip().rstrip(TRAILING))
    for pattern, replacement in SPELLING:
        latex = pattern.sub(replacement, latex)
    return without_spaces(latex).rstrip(TRAILING)
