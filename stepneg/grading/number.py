"""Read a rational number exactly. Nothing is evaluated; lengths and exponents are bounded."""

import re
from fractions import Fraction
from functools import lru_cache

LONGEST = 400  # characters
LARGEST_EXPONENT = 400

DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?:[ ][0-9]{3})+|[0-9]+)"
DECIMAL = rf"(?:{DIGITS}(?:\.[0-9]*)?|\.[0-9]+)"
CURRENCY = r"(?:\\?[$€£]\s?(?P<inner>-?))?"
NUMBER = re.compile(
    rf"""
    (?P<sign>[-+]?)\s?{CURRENCY}
    (?: (?P<whole>[0-9]+)(?: [ ](?P<over>[0-9]+)\s?/\s?(?P<under>[0-9]+)             # 3 1/2
                           | \s?\\frac\{{(?P<latex_over>[0-9]+)\}}\{{(?P<latex_under>[0-9]+)\}} )  # 3\frac{{1}}{{2}}
      | (?P<top>{DECIMAL})\s?/\s?(?P<bottom>-?{DECIMAL})
      | (?P<before>[0-9]*\.[0-9]*)\\overline\{{(?P<period>[0-9]+)\}}                                 # 0.1\overline{{6}}
      | \\frac\{{(?P<latex_top>-?{DECIMAL})\}}\{{(?P<latex_bottom>-?{DECIMAL})\}}
      | (?P<mantissa>{DECIMAL})(?: [eE](?P<exponent>[-+]?[0-9]+)
                                 | (?:\\times|\\cdot)10\^\{{?(?P<power>[-+]?[0-9]+)\}}? )?
      | 10\^\{{?(?P<power_of_ten>[-+]?[0-9]+)\}}?
    )
    (?:\s?\\?%)?\.?
    """,
    re.VERBOSE,
)


def decimal(text: str) -> Fraction:
    """The value of digits with separators: ``1,234.50``, ``.5``, ``-5.``"""
    return Fraction(text.replace(",", "").replace(" ", "").removesuffix("."))


def repeating(before: str, period: str) -> Fraction:
    """The value of ``before`` followed by ``period`` for ever."""
    places = len(before.partition(".")[2])
    return Fraction(f"0{before}0") + Fraction(int(period), 10**places * (10 ** len(period) - 1))


def as_number(text: str) -> Fraction | None:
    r"""The rational number that a text writes, with a currency sign, a per cent sign or a full stop.

    ``-1,250``, ``.5``, ``0.\overline{3}``, ``3/4``, ``\frac{3}{4}``, ``3\frac{1}{2}``, ``2e6``, ``1.5\times10^{3}``.

    Returns:
        None for anything else, a division by zero, and what is too long or too large to read.
    """
    return read_number(text) if len(text) <= LONGEST else None


@lru_cache(maxsize=1 << 16)
def read_number(text: str) -> Fraction | None:
    """:func:`as_number` of a text that is short enough to keep."""
    text = text.strip().replace("\N{MINUS SIGN}", "-")
    found = NUMBER.fullmatch(text)
    if not found:
        return None
    part = found.groupdict()
    exponent = int(part["exponent"] or part["power"] or part["power_of_ten"] or 0)
    if abs(exponent) > LARGEST_EXPONENT:
        return None
    try:
        if part["whole"]:
            over, under = part["over"] or part["latex_over"], part["under"] or part["latex_under"]
            value = int(part["whole"]) + Fraction(int(over), int(under))
        elif part["period"]:
            value = repeating(part["before"], part["period"])
        elif part["power_of_ten"]:
            value = Fraction(10) ** exponent
        elif part["mantissa"]:
            value = decimal(part["mantissa"]) * Fraction(10) ** exponent
        else:
            value = decimal(part["top"] or part["latex_top"]) / decimal(part["bottom"] or part["latex_bottom"])
    except ZeroDivisionError:
        return None
    return -value if (part["sign"] == "-") != (part["inner"] == "-") else value
