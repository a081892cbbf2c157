r"""The value of a LaTeX expression in closed form, by interval arithmetic with 300 digits.

Disjoint intervals prove two answers different, a hundred times faster than computer algebra; agreement to 250 digits at
two points is taken as equality. Letters stand for fixed numbers.
"""

import math
import re
from hashlib import blake2b
from typing import Any, TypeAlias

from mpmath.ctx_iv import MPIntervalContext, ivmpc

Bounds: TypeAlias = Any  # ivmpf or, with the imaginary unit, ivmpc: mpmath has no types
CONTEXT = MPIntervalContext()  # an own one: its precision is nobody else's
CONTEXT.prec = 1024
EQUAL = CONTEXT.mpf(10) ** -250
LARGEST = CONTEXT.mpf(10) ** 100  # of a power and its inverse: a short text cannot hide a digit below EQUAL
LARGEST_EXPONENT = 1000
LARGEST_FACTORIAL = 3000
LARGE_FACTORIAL = re.compile(r"(?:[0-9]{3}|[7-9][0-9])!")  # above LARGEST
LETTERS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")  # a product of variables, a unit or a word
GREEK = r"alpha|beta|gamma|delta|theta|lambda|mu|phi|omega"
TOKEN = re.compile(
    rf"(?P<number>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?![0-9.]|\\frac\{{[0-9]|_)"  # not 3\frac12, not 11_2
    r"|(?P<function>\\(?:sin|cos|tan|cot|sec|csc|ln|log(?=_\{))(?![A-Za-z]))"
    rf"|(?P<letter>(?:[A-Za-z]|\\(?:{GREEK})(?![A-Za-z]))(?:_\{{[0-9A-Za-z]+\}}|_[0-9A-Za-z])?)(?!\()"  # no f(x)
    r"|(?P<pi>\\pi(?![A-Za-z]))|(?P<command>\\(?:frac|sqrt)(?![A-Za-z]))|(?P<times>\\(?:cdot|times)(?![A-Za-z])|\*)"
    r"|(?P<symbol>[-+/^_!(){}\[\]])|(?P<space> )"
)


class Unreadable(Exception):
    """Not an expression of this small grammar, or one whose value is not bounded."""


def tokens(latex: str) -> list[tuple[str, str]]:
    """(kind, text) of each token; a symbol is its own kind. A space that parts a command from a letter is dropped.

    Raises:
        Unreadable: there is something else.
    """
    found: list[tuple[str, str]] = []
    end = 0
    for token in TOKEN.finditer(latex):
        if token.start() != end:
            break
        end = token.end()
        kind = token.lastgroup or ""
        if kind == "space":
            if latex[end].isdigit():
                raise Unreadable  # 3 1/2
        else:
            found.append((token.group() if kind == "symbol" else kind, token.group()))
    if end != len(latex) or not found:
        raise Unreadable
    return found


class Reader:
    """Recursive descent over the tokens of one expression; nesting is bounded by the caller."""

    def __init__(self, latex: str, sign: int) -> None:
        self.sign = sign  # of the numbers that letters stand for
        self.tokens = [*tokens(latex), ("end", "")]
        self.at = 0

    @property
    def kind(self) -> str:
        """The next token's kind."""
        return self.tokens[self.at][0]

    def take(self, kind: str) -> str:
        """The next token's text, which must be of this kind."""
        found, text = self.tokens[self.at]
        if found != kind:
            raise Unreadable
        self.at += 1
        return text

    def accept(self, kind: str) -> bool:
        """Whether the next token is of this kind; it is taken then."""
        matches = self.kind == kind
        self.at += matches
        return matches

    def sum(self) -> Bounds:
        """Terms with + and - before and between them."""
        value = CONTEXT.mpf(0)
        sign = self.kind if self.kind in "+-" else "+"
        if self.kind in "+-":
            self.at += 1
        while True:
            term = self.product()
            value = value + term if sign == "+" else value - term
            if self.kind not in ("+", "-"):
                return value
            sign = self.take(self.kind)

    def product(self) -> Bounds:
        r"""Factors side by side, with ``\cdot`` or with a slash; what stands behind a/b without a sign is ambiguous."""
        value = self.power()
        slashed = False
        while True:
            if self.accept("times"):
                value = value * self.power()
            elif self.accept("/"):
                value, slashed = self.quotient(value, self.power()), True
            elif self.kind in ("letter", "pi", "command", "function", "(") and not slashed:
                value = value * self.power()
            else:
                return value

    @staticmethod
    def quotient(over: Bounds, under: Bounds) -> Bounds:
        """The quotient, if the divisor is surely not zero."""
        if 0 in under:
            raise Unreadable
        return over / under

    def power(self) -> Bounds:
        """An atom, raised to what follows ``^``."""
        base = self.atom()
        if not self.accept("^"):
            return base
        exponent = self.group()
        if self.kind == "^" or isinstance(exponent, ivmpc) or not abs(exponent) < LARGEST_EXPONENT:
            raise Unreadable
        value = self.raised(base, exponent)
        if not 1 / LARGEST < abs(value) < LARGEST:
            raise Unreadable
        return value

    @staticmethod
    def raised(base: Bounds, exponent: Bounds) -> Bounds:
        """Whole powers of anything not zero, other powers of positive numbers."""
        whole = int(exponent.mid) if exponent.delta == 0 and exponent.mid == int(exponent.mid) else None
        if whole is None:
            if isinstance(base, ivmpc) or not base > 0:
                raise Unreadable
            return CONTEXT.exp(exponent * CONTEXT.log(base))
        if not abs(base) < LARGEST:
            raise Unreadable
        return Reader.quotient(CONTEXT.mpf(1), base**-whole) if whole < 0 else base**whole

    def group(self) -> Bounds:
        """What braces hold."""
        self.take("{")
        value = self.sum()
        self.take("}")
        return value

    def atom(self) -> Bounds:
        """A number, a letter, a fraction, a root, or an expression in brackets."""
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            return factorial(text) if self.accept("!") else CONTEXT.mpf(text)
        if kind == "letter":
            return letter(text, self.sign)
        if kind == "pi":
            return +CONTEXT.pi
        if kind == "(":
            value = self.sum()
            self.take(")")
            return value
        if text == r"\frac":
            return self.quotient(self.group(), self.group())
        if text == r"\sqrt":
            return self.root()
        if kind == "function":
            return self.function(text)
        raise Unreadable

    def root(self) -> Bounds:
        r"""``\sqrt{x}`` or ``\sqrt[n]{x}`` of a positive number."""
        degree: Bounds = CONTEXT.mpf(2)
        if self.accept("["):
            degree = self.sum()
            self.take("]")
        inside = self.group()
        if isinstance(degree, ivmpc) or isinstance(inside, ivmpc) or not inside > 0:
            raise Unreadable
        return CONTEXT.sqrt(inside) if degree == 2 else CONTEXT.exp(self.quotient(CONTEXT.log(inside), degree))

    def function(self, name: str) -> Bounds:
        r"""``\sin x``, ``\sin^{2} x``, ``\log_{2} x``: what stands behind it up to a sign or the next function."""
        base = self.group() if self.accept("_") else None
        exponent = self.group() if self.accept("^") else CONTEXT.mpf(1)
        start = self.at
        argument = self.power()
        while self.tokens[start][0] != "(" and self.kind in ("letter", "pi", "command"):
            argument = argument * self.power()
        angle = any(kind in ("letter", "pi") for kind, _ in self.tokens[start : self.at])
        if isinstance(argument, ivmpc) or (base is None and name == r"\log") or exponent < 0:  # \sin^{-1}
            raise Unreadable
        if name in (r"\ln", r"\log"):
            if not argument > 0 or isinstance(base, ivmpc) or (base is not None and not base > 0):
                raise Unreadable
            value = CONTEXT.log(argument)
            value = value if base is None else self.quotient(value, CONTEXT.log(base))
        elif angle:
            value = self.trigonometric(name, argument)
        else:
            raise Unreadable  # the degree sign of \cos 15 is no longer there
        return self.raised(value, exponent)

    @staticmethod
    def trigonometric(name: str, angle: Bounds) -> Bounds:
        """A function of an angle in radians, by sine and cosine."""
        sine, cosine, one = CONTEXT.sin(angle), CONTEXT.cos(angle), CONTEXT.mpf(1)
        over, under = {
            r"\sin": (sine, one),
            r"\cos": (cosine, one),
            r"\tan": (sine, cosine),
            r"\cot": (cosine, sine),
            r"\sec": (one, cosine),
            r"\csc": (one, sine),
        }[name]
        return Reader.quotient(over, under)


def factorial(number: str) -> Bounds:
    """n! of a small whole number."""
    if not number.isdigit() or int(number) > LARGEST_FACTORIAL:
        raise Unreadable
    return CONTEXT.mpf(math.factorial(int(number)))


def letter(name: str, sign: int) -> Bounds:
    """The imaginary unit, Euler's number, or for a variable ``sign`` times a number between 1 and 2 for its name."""
    if name == "i":
        return CONTEXT.mpc(0, 1)
    if name == "e":
        return +CONTEXT.e
    digest = int.from_bytes(blake2b(name.encode(), digest_size=16).digest(), "big")
    return sign * (1 + CONTEXT.mpf(digest) / 2**128)


def bounds(latex: str, sign: int = 1) -> Bounds | None:
    """An interval (a rectangle in the complex plane) that holds the value of a normalised expression; None if unknown.

    Its cost grows with the length of the text alone.

    Args:
        latex: at most :data:`~stepneg.grading.compare.DEEPEST` brackets deep.
        sign: +1 or -1, of the numbers that letters stand for.
    """
    try:
        reader = Reader(latex, sign)
        value = reader.sum()
        reader.take("end")
    except (Unreadable, ArithmeticError, ValueError):
        return None
    return value


def same_value(left: str, right: str) -> bool | None:
    """Whether two normalised expressions are equal; None where that is open.

    Different: proven, where letters stand for some positive numbers. Equal: 250 digits agree, for positive and for
    negative numbers. Where only one side has words (``5cm`` against ``5``) they may be a unit: open.
    """
    if LETTERS.findall(left) != LETTERS.findall(right):
        return None
    for sign in (+1, -1):
        a = bounds(left, sign)
        b = None if a is None else bounds(right, sign)
        if a is None or b is None:
            return None
        if 0 not in a - b:
            return False if sign > 0 else None
        if LARGE_FACTORIAL.search(f"{left} {right}") or not abs(a - b) < EQUAL:  # 1/2004! is below any such limit
            return None
    return True
