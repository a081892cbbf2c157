"""Many responses at once are graded as each alone, in their order."""

import pytest

from stepneg.grading import Form, grade
from stepneg.grading.batch import AHEAD, CHUNK, grade_all


@pytest.mark.parametrize("form", ["gsm8k", "math"])
def test_verdicts_come_in_order(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepneg.grading.batch.AHEAD", 3)
    items = [(f"#### {n} so \\boxed{{{n}}}", str(n - n % 3)) for n in range(10 * CHUNK + 5)]
    items[20] = ("\\boxed{(x+1)^2}", "x^2+2x+1")  # a formula takes longer than a number
    verdicts = list(grade_all(iter(items), form, workers=2))
    assert verdicts == [grade(response, reference, form) for response, reference in items]


def test_no_responses_no_verdicts() -> None:
    assert list(grade_all([], "math")) == []


def test_no_more_is_read_than_may_wait() -> None:
    read = 0

    def items():  # type: ignore[no-untyped-def]
        nonlocal read
        for _ in range(3 * AHEAD * CHUNK):
            read += 1
            yield "\\boxed{1}", "1"

    for done, _ in enumerate(grade_all(items(), "math"), 1):
        assert read - done <= AHEAD * CHUNK
