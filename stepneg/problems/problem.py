"""One mathematics problem: the object that every stage passes along."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Problem:
    """A question with a reference answer (x and the target of r(y) in the paper, section 3).

    Attributes:
        id: unique and stable across runs, for example ``gsm8k/train/17``.
        question: the text that the prompt template receives.
        answer: the reference final answer, bare (``72``, not ``#### 72``).
        solution: the teacher's worked solution (a line of D_syn), where there is one.
        meta: facts for break-downs, for example ``{"level": "Level 5", "subject": "Algebra"}``.
    """

    id: str
    question: str
    answer: str
    solution: str | None = None
    meta: dict[str, str | int] = field(default_factory=dict)
