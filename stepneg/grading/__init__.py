"""The final-answer verifier: is a response's final answer the reference answer?"""

from stepneg.grading.verifier import Form, Verdict, grade

__all__ = ["Form", "Verdict", "grade"]
