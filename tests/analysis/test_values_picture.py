"""The picture of a wrong solution draws whatever a policy wrote."""

import io

import pytest

from stepneg.analysis.values import plot_values


@pytest.mark.parametrize("text", ["so $x+&=3=2^{^{^{b$", "$\\frac{1}{$ " * 200, "a$b", "", "\\boxed{\n", "\u202e x"])
def test_any_text_is_drawn(text):
    out = io.BytesIO()
    plot_values([text, "#### 1"], [0.5, 0.0], 1, f"title {text[:20]}").savefig(out, dpi=50)
    assert out.getvalue().startswith(b"\x89PNG")
