"""The final-answer verifier: is a response's final answer the reference answer?"""

from stepneg.grading.verifier import EVERY, STRICT, Form, Mark, Verdict, find_answer, grade

__all__ = ["EVERY", "STRICT", "Form", "Mark", "Verdict", "find_answer", "grade"]
