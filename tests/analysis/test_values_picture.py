"""The picture of a wrong solution draws whatever a policy wrote."""

import io

import pytest

from stepneg.analysis.values import describe, plot_values
from stepneg.credit.pairs import Trace


@pytest.mark.parametrize("text", ["so $x+&=3=2^{^{^{b$", "$\\frac{1}{$ " * 200, "a$b", "", "\\boxed{\n", "\u202e x"])
def test_any_text_is_drawn(text):
    out = io.BytesIO()
    plot_values([text, "#### 1"], [0.5, 0.0], 1, f"title {text[:20]}").savefig(out, dpi=50)
    assert out.getvalue().startswith(b"\x89PNG")


def test_counts_of_a_search_are_not_said_to_be_values() -> None:
    trace = Trace("p", (1,), (2, 3, 4), False, (1, 2, 3), ((16, 4), (1, 1), (12, 0)))
    text, figure = describe(trace, ["one", "two | a half", "three"], k=1, searched=True)
    assert text.splitlines()[2:] == [
        "| 1 | one | 1 / 1 |",
        "| 2 | two \\| a half **← first pit** | 0 / 12 |",
        "| 3 | three |  |",
    ]
    assert "no values" in figure.axes[0].get_xlabel()
    text, figure = describe(trace, ["one", "two", "three"], k=1)
    assert "Q = 0.25 before" in text
    assert "step value" in figure.axes[0].get_xlabel()
