"""The final-answer verifier: is a response's final answer the reference answer? And what is made of many verdicts.

The names here are the public interface; ``docs/api.md`` shows them at work.
"""

from stepneg.grading.batch import grade_all
from stepneg.grading.estimators import maj_at_k, pass_at_k, wilson
from stepneg.grading.verifier import EVERY, STRICT, Form, Mark, Verdict, find_answer, grade

__all__ = [
    "EVERY",
    "STRICT",
    "Form",
    "Mark",
    "Verdict",
    "find_answer",
    "grade",
    "grade_all",
    "maj_at_k",
    "pass_at_k",
    "wilson",
]
