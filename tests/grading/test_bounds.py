r"""Intervals of LaTeX expressions hold the exact value, and two are called equal or different only rightly."""

import time
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stepneg.grading.bounds import bounds, same_value

Expression = tuple[str, Fraction]
NUMBERS = st.integers(0, 30).map(lambda n: (str(n), Fraction(n)))


def combined(parts: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    """Sums, products, quotients and powers of smaller expressions, as LaTeX with their exact values."""
    pairs = st.tuples(parts, parts)
    return st.one_of(
        pairs.map(lambda p: (f"({p[0][0]}+{p[1][0]})", p[0][1] + p[1][1])),
        pairs.map(lambda p: (f"({p[0][0]}-{p[1][0]})", p[0][1] - p[1][1])),
        pairs.map(lambda p: (rf"({p[0][0]})\cdot({p[1][0]})", p[0][1] * p[1][1])),
        pairs.filter(lambda p: p[1][1] != 0).map(lambda p: (rf"\frac{{{p[0][0]}}}{{{p[1][0]}}}", p[0][1] / p[1][1])),
        st.tuples(parts, st.integers(0, 3)).map(lambda p: (f"({p[0][0]})^{{{p[1]}}}", p[0][1] ** p[1])),
    )


EXPRESSIONS = st.recursive(NUMBERS, combined, max_leaves=8)


@given(EXPRESSIONS)
def test_the_interval_holds_the_exact_value(expression: Expression) -> None:
    latex, value = expression
    interval = bounds(latex)
    assume(interval is not None)  # a power of zero, or beyond the limits
    gap = interval * value.denominator - value.numerator
    assert 0 in gap
    assert abs(gap).b < 1e-200


@given(EXPRESSIONS, EXPRESSIONS)
def test_equal_and_different_as_exact_arithmetic_says(first: Expression, second: Expression) -> None:
    assert same_value(first[0], first[0]) in (True, None)
    assert same_value(first[0], second[0]) in (first[1] == second[1], None)


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("x^{2}-1", "(x-1)(x+1)", True),
        (r"\frac{x^{2}-1}{x-1}", "x+1", True),
        ("x_{1}+x_{2}", "x_{2}+x_{1}", True),
        ("x_{1}", "x_{2}", False),
        (r"\theta", "x", False),
        ("e^{2}", "ee", None),  # ee may be a unit of one side
        (r"\sqrt{x^{2}}", "x", None),  # only where x is positive
        (r"\sqrt{2}\sqrt{3}", r"\sqrt{6}", True),
        (r"\sqrt{5+2\sqrt{6}}", r"\sqrt{2}+\sqrt{3}", True),
        (r"\sqrt{2}+\sqrt{3}", r"\pi", False),  # 3.1463 and 3.1416
        ("10^{20}+1-10^{20}", "1", True),
        ("10^{20}+1-10^{20}", "0", False),
        ("2^{0.5}", r"\sqrt{2}", True),
        ("0^{0}", "1", True),
        ("x^{-1}", r"\frac{1}{x}", True),
        ("5cm", "5", None),
        ("2/3x", r"\frac{2x}{3}", None),  # or 2/(3x)?
        ("2 1/2", "1", None),  # a mixed number is not this grammar's
        (r"2\frac{1}{2}", "1", None),
        ("f(x)", "xf", None),
        ("2^{3^{2}}", "512", True),
        ("10!", "3628800", True),
        ("10!", "3628801", False),
        (r"\frac{1}{2004!}", "0", False),
        (r"1+\frac{1}{2004!}", "1", None),  # 250 digits do not tell
        (r"2\sin x\cos x", r"\cos x\cdot2\sin x", True),
        (r"2\sin x\cos x", r"\sin2x", True),
        (r"\sin^{2}x+\cos^{2}x", "1", True),
        (r"\sin x+1", r"\sin(x+1)", False),
        (r"\tan\frac{\pi}{4}", "1", True),
        (r"\sec x", r"\frac{1}{\cos x}", True),
        (r"\csc x\cot x", r"\frac{\cos x}{\sin^{2}x}", True),
        (r"\sin^{-1}x", r"\frac{1}{\sin x}", None),  # the inverse function
        (r"\cos60", r"\frac{1}{2}", None),  # degrees?
        (r"\tan\frac{\pi}{2}", "1", None),
        (r"\log_{2}8", "3", True),
        (r"\log_{2}9", "3", False),
        (r"\log_{10}100", "2", True),
        (r"\ln e^{2}", "2", True),
        (r"\ln x", r"\log_{2}x", False),
        (r"\ln x^{2}", r"2\ln x", None),  # only where x is positive
        (r"\ln3", r"\log_{2}3", False),
        (r"\log100", "2", None),  # to which base?
        (r"\ln0", "1", None),
        ("5_{6}", "5", None),
        ("", "1", None),
        (r"\frac{1}{0}", "1", None),
        (r"\frac{1}{x-x}", "1", None),
    ],
)
def test_same_value(left: str, right: str, same: bool | None) -> None:
    assert same_value(left, right) is same
    assert same_value(right, left) is same


@pytest.mark.parametrize(
    "latex",
    [
        "9^{9^{9^{9}}}", "((9^{999})^{999})^{999}", "10^{999999999}", "999999!", "((9!)!)!", "9" * 1000 + "^{999}",
        "2^{-999999999}", "(" * 20 + "9^{99}" + ")^{99}" * 20,
    ],
)  # fmt: skip
def test_what_would_grow_is_refused_quickly(latex: str) -> None:
    start = time.process_time()
    assert bounds(latex) is None
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    "latex",
    [
        r"\sqrt[999999999]{2}", r"\sqrt[0.0000001]{2}", "9" * 1000, "x^{9}" * 200, r"\sin" * 300 + "x",
        r"\sin(" + "9" * 900 + "x)", r"\ln" + "9" * 900, "2999!", r"\cdot".join(["2999!"] * 90),
    ],
)  # fmt: skip
def test_long_texts_take_no_longer_than_their_length(latex: str) -> None:
    start = time.process_time()
    bounds(latex)
    assert time.process_time() - start < 0.5
