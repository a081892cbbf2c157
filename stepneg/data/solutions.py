"""Solutions to imitate: the teacher's (SFT) and the policy's own correct ones (RFT)."""

from typing import Any

from transformers import PreTrainedTokenizerBase

from stepneg.credit.pairs import Choice, distinct_positives
from stepneg.data.prepared import Built, Prepared
from stepneg.data.rollouts import Rollouts
from stepneg.data.rows import Example, Row
from stepneg.pipeline import Draw
from stepneg.problems import Problem


class TeacherSolutions(Prepared):
    """SFT: the worked solutions of the problems (D_syn)."""

    def settings(self) -> Any:
        """Nothing beyond the problems."""
        return None

    def build(self, problems: list[Problem], tokenizer: PreTrainedTokenizerBase) -> Built:
        """A row a problem."""
        examples = self.teacher_examples(problems, tokenizer)
        return Built(examples, {"problems": len(problems), "examples": len(examples), "sampled_tokens": 0})


class SelfGeneratedSolutions(Prepared):
    """RFT: distinct correct solutions that ``policy`` sampled; the model that is trained is the base (model.path).

    Args:
        rollouts: how the policy is sampled.
        per_problem: most correct solutions kept a problem.
        choice: which are kept: those farthest from each other in edit distance, random ones, or the nearest.
        with_teacher: train on the worked solutions as well.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        per_problem: int = 4,
        choice: Choice = "farthest",
        with_teacher: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rollouts, self.per_problem, self.choice, self.with_teacher = rollouts, per_problem, choice, with_teacher

    def settings(self) -> Any:
        """What the choice depends on."""
        return self.rollouts, self.per_problem, self.choice, self.with_teacher

    def draws(self) -> tuple[Draw, ...]:
        """Solutions only."""
        return ("solutions",)

    def build(self, problems: list[Problem], tokenizer: PreTrainedTokenizerBase) -> Built:
        """A row a kept solution."""
        generated = self.rollouts.solutions(self.policy, problems, tokenizer, self.template)
        traces = [t for found in generated.correct().values() for t in found]
        kept = distinct_positives(traces, self.per_problem, self.choice, self.seed)
        examples: list[Example] = [(Row(t.prompt_ids, t.response_ids),) for found in kept.values() for t in found]
        if self.with_teacher:
            examples += self.teacher_examples(problems, tokenizer)
        return Built(examples, {"problems": len(problems), "examples": len(examples)} | generated.facts)
