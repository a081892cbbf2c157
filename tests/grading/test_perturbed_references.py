"""MATH's 12,500 references: each equals itself, every other spelling of it, and no near miss."""

import pytest

from benchmarks.perturbations import RIGHT, WRONG, cases, references
from stepneg.grading import grade

REFERENCES = references()


def test_each_reference_equals_itself() -> None:
    assert len(REFERENCES) == 12_500
    for reference in filter(None, REFERENCES):
        assert grade(rf"so $\boxed{{{reference}}}$.", reference, "math").rule == "exact"


@pytest.mark.parametrize("name", RIGHT)
def test_other_spellings_are_accepted(name: str) -> None:
    found = cases(REFERENCES, RIGHT[name], name)
    assert len(found) >= 50
    refused = [case for case in found if not grade(rf"\boxed{{{case[1]}}}", case[0], "math").correct]
    assert not refused


@pytest.mark.parametrize("name", WRONG)
def test_near_misses_are_refused(name: str) -> None:
    found = cases(REFERENCES, WRONG[name], name)
    assert len(found) >= 50
    accepted = [case for case in found if grade(rf"\boxed{{{case[1]}}}", case[0], "math").correct]
    assert not accepted
