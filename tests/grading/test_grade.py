"""Tables of (reference, answer) by phenomenon; the spellings of the references occur in GSM8K and MATH."""

import pytest

from stepneg.grading import grade
from stepneg.grading.normalise import normalise
from stepneg.grading.number import as_number

SPELLING = [
    (r"\frac{1}{2}", r"\dfrac12"),
    (r"\frac{1}{2}", r"\tfrac{1}2"),
    (r"\frac{\sqrt{3}}{2}", r"\frac{\sqrt3}{2}"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}2)"),
    (r"43_5.", r"43_{5}"),
    (r"x^2", r"x^{2}"),
    (r"x^{10}", "x^10"),
    (r"-1,\; -5", "-1,-5"),
    (r"4\!:\!51\!:\!06 \text{ p.m.}", r"4:51:06 \text{ pm}"),
    (r"(\text{E})", r"\text{(E)}"),
    (r"(\text{E})", "E"),
    (r"\text{June 20}", "June 20"),
    (r"2 \leq x", r"2 \le x"),
    (r"2 \leq x", "2<=x"),
    (r"\begin{pmatrix} 2 \\ -11 \end{pmatrix}", r"\begin{pmatrix}2\\-11\end{pmatrix}"),
    (r"2\sin x", r"2\;\sin\,x"),
    (r"\begin{pmatrix} 1\\(2) \end{pmatrix}", r"\begin{pmatrix}1 \\ (2)\end{pmatrix}"),
    ("13", "$13$."),
    ("-1", "\N{MINUS SIGN}1"),
]
UNITS = [
    (r"4 \text{ feet}", "4"),
    ("4", r"4\text{ ft.}"),
    ("4", "4 square feet"),
    ("4", "4 cm^2"),
    ("4", r"4 \text{ (the smallest)}"),
    ("4", r"4\\"),
    (r"\overline{AB}", "AB"),
    (r"864 \mbox{ inches}^2", "864"),
    (r"8\sqrt{3} \text { square inches}", r"8\sqrt3"),
    (r"1.85\ \text{USD}", r"\$1.85"),
    (r"\$115,000", "115000"),
    (r"6\%", "6"),
    (r"30^\circ", "30"),
    (r"30^\circ", "30°"),
    (r"(6,235^\circ)", r"(6,235^{\circ})"),
]
NUMBERS = [
    (r"\frac{1}{2}", "0.5"),
    (r"\frac{1}{2}", "1/2"),
    (r"\frac{1}{2}", r"\frac{2}{4}"),
    ("0.5", ".5"),
    (r"10,\!080", "10080"),
    (r"10,\!080", "10,080"),
    (r"1{,}008{,}016", "1008016"),
    (r"10\frac{1}{12}", r"\frac{121}{12}"),
    (r"3 \frac{3}{8}", "3.375"),
    ("137 1/2", "137.5"),
    (r"-15\frac{3}{5}", "-15.6"),
    (r"k = \frac{-33}{2}", r"-\frac{33}{2}"),
    ("1500", r"1.5 \times 10^3"),
    ("1500", "1.5e3"),
    ("1000", "10^{3}"),
    ("x=5", "5"),
    ("5", "x = 5"),
    (r"x \in [-2,7]", "[-2, 7]"),
    (r"y=-2x+1", "-2x+1"),
    (r"0.\overline{3}", r"\frac13"),
    (r"0.1\overline{6}", r"\frac{1}{6}"),
    (r"0.\overline{12}", r"0.\bar{12}"),
]
LISTS = [
    ("81, 256", "256,81"),
    ("81, 256", "81,256"),
    (r"2, 3, \text{ and } 4", r"\{4, 3, 2\}"),
    (r"-2 \text{ or } -12", "-12, -2"),
    ("(4,112)", "(4, 112.0)"),
    (r"\left[-3,-\frac{4}{3}\right)", "[-3,-4/3)"),
    ("(-4, 27);(2, 15)", "(2,15),(-4,27)"),
    (r"\text{B,C}", r"\text{C, B}"),
    ("(3,4)", "3,4"),
    ("1,i,-i", "i,-i,1"),
    ("3, 5", r"x=3 \text{ or } x=5"),
    (r"\emptyset", r"\varnothing"),
]
WORDS = [(r"\text{Evelyn}", "evelyn"), (r"\text{even}", "Even"), (r"\text{1:03 PM}", r"1:03 \text{ p.m.}")]
BASES = [("43_5", "43"), ("-37_8", "-37_{8}"), (r"\text{A5}_{11}", "A5_{11}")]
VALUES = [
    (r"\frac{\sqrt{3}}{2}", r"\sqrt{3}/2"),
    (r"3\sqrt{13}", r"\sqrt{117}"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
    (r"\sqrt{7+4\sqrt{3}}", r"2+\sqrt{3}"),
    (r"2\sqrt[3]{2}", r"\sqrt[3]{16}"),
    ("(x+1)^2", "x^2+2x+1"),
    ("9c+6", "6+9c"),
    (r"(1+i)^2", "2i"),
    (r"\frac{1}{1+i}", r"\frac{1-i}{2}"),
    (r"\frac{3}{4}\pi\text{ inches}", r"\frac{3\pi}{4}"),
    (r"\frac{\pi}{4} \text{ square feet}", r"\pi/4 square feet"),
    ("2^{10}", "1024"),
    ("4!", "24"),
    (r"2\sin x\cos x", r"\cos x \cdot 2\sin x"),
    (r"\sin x", "sin(x)"),
    (r"\log_2 8", "3"),
    (r"\approx 8.24 \text{ mph}", "8.24"),
    ("6", r"2 \cdot 3 = 6"),
]
INEQUALITIES = [
    (r"x \geq 3", r"[3,\infty)"),
    (r"[3,\infty)", r"3 \le x"),
    (r"(2,5]", r"2<x\leq 5"),
    (r"(2,5]", "5 >= x > 2"),
    (r"(-\infty,\frac{1}{2})", "k<0.5"),
    (r"(-\infty,-2]", r"-2 \geq t"),
]
EQUATIONS = [
    ("y=-2x+1", "y=1-2x"),
    ("x + y - z + 1 = 0", "x-z+y+1=0"),
    ("AB=12+12\\sqrt{3}", "AB = 12(1+\\sqrt3)"),
    ("AB=9, CD=4", "CD=4,AB=9"),
]
MATRICES = [
    (r"\begin{pmatrix} 2 \\ -11 \end{pmatrix}", r"\begin{bmatrix}2\\-11\end{bmatrix}"),
    (r"\begin{pmatrix} 1/2 & 0 \\ 0 & 2 \end{pmatrix}", r"\begin{pmatrix} 0.5 & 0 \\ 0 & \frac42 \\ \end{pmatrix}"),
    (r"\begin{pmatrix} \sqrt{12} \\ 1 \end{pmatrix}", r"\begin{pmatrix} 2\sqrt3 \\ 1 \end{pmatrix}"),
]
SYMBOLIC = [
    (r"\frac{9}{4}, -\frac{9}{4}", r"\pm\frac94"),
    (r"(-\infty,2]\cup[3,\infty)", r"[3,\infty)\cup(-\infty,2]"),
    (r"\binom{5}{2}", "10"),
    (r"|x-1|", "|1-x|"),
    (r"\lfloor 2.5 \rfloor", "2"),
]
DIFFERENT = [
    (r"\frac{1}{2}", "0.51"),
    (r"\frac{1}{3}", "0.333"),
    (r"6\%", "0.06"),
    ("(4,112)", "(112,4)"),
    ("(4,112)", "4112"),
    ("81, 256", "81"),
    ("81, 256", "81, 257"),
    ("1,1,2", "1,2,2"),
    (r"[-3,-4)", "(-3,-4)"),
    (r"\{1,2\}", "(1,2)"),
    (r"\text{CBAD}", "ABCD"),
    (r"\text{(A)}", r"\text{B}"),
    (r"\text{A,B,E}", "A,B"),
    (r"\text{even}", r"\text{odd}"),
    (r"9\text{ a.m.}", r"9 \text{ p.m.}"),
    (r"\text{1:03 PM}", r"1:03 \text{ a.m.}"),
    ("2", r"2\text{ million}"),
    ("43_5", "43_6"),
    ("43_5", "23"),
    ("x=5", "y=5"),
    ("5", "x^2=5"),
    ("5", "x>5"),
    ("x<3", "x>3"),
    (r"\infty", r"-\infty"),
    (r"\pi", "3.14"),
    (r"\sin x", r"\cos x"),
    (r"\frac{\sqrt{3}}{2}", r"\frac{\sqrt{2}}{2}"),
    (r"(-\infty,2]\cup[3,\infty)", r"(-\infty,2)\cup[3,\infty)"),
    (r"\begin{pmatrix} 2 \\ -11 \end{pmatrix}", r"\begin{pmatrix}-11\\2\end{pmatrix}"),
    (r"\emptyset", "0"),
    (r"\frac{1}{2004!}", r"\frac{1}{2005!}"),
    ("0.0011_2", "0.0011_3"),
    ("y=2x", "y=3x"),
    ("2:05", "2:5"),
    ("1:2", "2:4"),
    ("3, 5", "x=3, y=5"),
    (r"[3,\infty)", "x>3"),
    (r"(2,5)", "2<x>5"),
    (r"(2,5)", "5<x<2"),
    (r"0.\overline{3}", "0.3"),
    ("x + y = 2", "x + y = 3"),
    (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", "1"),
    ("1", "1+10^{-1000}"),
    (r"\pi", r"\frac{355}{113}"),
    (r"2\sqrt{3}", r"3\sqrt{2}"),
    ("1+i", "1-i"),
    (r"\sqrt{x^2}", "-x"),
    ("5", r"\text{five}"),
    (r"\text{Evelyn}", "3"),
    ("6", r"2 \cdot 2 = 6"),
    ("3x+2", "3x+3"),
]


@pytest.mark.parametrize(
    ("reference", "answer"),
    [*SPELLING, *UNITS, *NUMBERS, *LISTS, *WORDS, *BASES, *VALUES, *INEQUALITIES, *EQUATIONS, *MATRICES],
)
def test_equal_without_the_symbolic_comparison(monkeypatch: pytest.MonkeyPatch, reference: str, answer: str) -> None:
    monkeypatch.setattr("stepneg.grading.compare.symbolically_equal", pytest.fail)
    verdict = grade(rf"so $\boxed{{{answer}}}$.", reference, "math")
    assert verdict.correct, verdict
    assert verdict.rule in ("normalised", "numeric", "plain")


@pytest.mark.parametrize(("reference", "answer"), SYMBOLIC)
def test_equal_symbolically(reference: str, answer: str) -> None:
    verdict = grade(rf"so $\boxed{{{answer}}}$.", reference, "math")
    assert (verdict.correct, verdict.rule) == (True, "symbolic"), verdict


@pytest.mark.parametrize(("reference", "answer"), DIFFERENT)
def test_different(reference: str, answer: str) -> None:
    verdict = grade(rf"so $\boxed{{{answer}}}$.", reference, "math")
    assert (verdict.correct, verdict.rule) == (False, "different"), verdict


@pytest.mark.parametrize(
    ("response", "reference", "correct", "rule"),
    [
        ("#### 18", "18", True, "exact"),
        ("#### 18.00", "18", True, "numeric"),
        ("#### $1,800", "1800", True, "numeric"),
        ("#### -5", "5", False, "different"),
        ("#### 18 + 4 = 22", "18", False, "unparsable"),
        ("#### 5 million", "5", False, "unparsable"),
        ("#### Janet", "18", False, "unparsable"),
        ("#### 1/0", "18", False, "unparsable"),
        ("#### \N{ARABIC-INDIC DIGIT THREE}", "3", False, "unparsable"),
        ("#### inf", "18", False, "unparsable"),
        ("18", "18", False, "no_answer"),
        ("", "18", False, "no_answer"),
        ("#### left", "Left", True, "normalised"),
        ("#### left", "right", False, "different"),
    ],
)
def test_gsm8k_verdicts(response: str, reference: str, correct: bool, rule: str) -> None:
    verdict = grade(response, reference, "gsm8k")
    assert (verdict.correct, verdict.rule) == (correct, rule)
    assert verdict.why


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,234.50", "1234.5"),
        ("10 000", "10000"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("5.", "5"),
        ("3/4", "3/4"),
        ("-3 1/2", "-7/2"),
        (r"-3\frac{1}{2}", "-7/2"),
        (r"\frac{-1}{-2}", "1/2"),
        ("2E-3", "1/500"),
        (r"1.5\cdot10^{-1}", "3/20"),
        ("50%", "50"),
    ],
)
def test_as_number(text: str, number: str) -> None:
    value = as_number(text)
    assert value is not None
    assert str(value) == number or float(value) == float(number)


@pytest.mark.parametrize(
    "text", ["", ".", "-", "12,34", "1,2345", "1_000", "0x10", "1/0", "1e401", "9" * 401, "--5", "x"]
)
def test_no_number(text: str) -> None:
    assert as_number(text) is None


def test_normalising_twice_changes_nothing() -> None:
    for reference, answer in [
        *SPELLING,
        *UNITS,
        *NUMBERS,
        *LISTS,
        *WORDS,
        *BASES,
        *VALUES,
        *EQUATIONS,
        *MATRICES,
        *SYMBOLIC,
        *DIFFERENT,
    ]:
        for text in (reference, answer):
            assert normalise(normalise(text)) == normalise(text)
