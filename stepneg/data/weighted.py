"""Steps of sampled solutions weighted by their advantages: Eq. 4, and filtered imitation of steps."""

from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from stepneg.credit.pairs import advantage_weighted, filtered_steps
from stepneg.data.prepared import Built, Prepared
from stepneg.data.rollouts import Rollouts
from stepneg.data.rows import Example, Row
from stepneg.errors import InputError, above, at_least
from stepneg.pipeline import Draw
from stepneg.problems import Problem


class WeightedSteps(Prepared):
    """Right and wrong solutions that ``policy`` sampled, each token weighted by the advantage of its step.

    Args:
        rollouts: how the policy is sampled and its steps are valued; ``rollouts.positives`` should not be 0.
        kind: exp(A / beta) on every step (Eq. 4), or 1 on the steps with A > 0 and 0 elsewhere.
        beta: temperature of the advantage (Eq. 4).
        clip: largest weight (Eq. 4).
        k: K of the best-of-K rollout policy whose values are used.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        kind: Literal["advantage", "filtered"] = "advantage",
        beta: float = 0.5,
        clip: float = 20.0,
        k: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rollouts, self.kind, self.beta, self.clip, self.k = rollouts, kind, beta, clip, k

    def settings(self) -> Any:
        """What the weights depend on."""
        return self.rollouts, self.kind, self.beta, self.clip, self.k

    def draws(self) -> tuple[Draw, ...]:
        """The values of all steps."""
        return "solutions", "values"

    def build(self, problems: list[Problem], tokenizer: PreTrainedTokenizerBase) -> Built:
        """Sample, value, weigh.

        Raises:
            InputError: the rollouts only look for pits, or a number is out of its range.
        """
        above(0, **{"data.beta": self.beta, "data.clip": self.clip})
        at_least(1, **{"data.k": self.k})
        if self.rollouts.pit_error is not None:
            raise InputError("rollouts.pit_error finds pits, and weights need every step's value; leave it out")
        generated = self.rollouts.valued(self.policy, problems, tokenizer, self.template)
        if self.kind == "advantage":
            responses = advantage_weighted(generated.valued, self.k, self.beta, self.clip)
        else:
            responses = filtered_steps(generated.valued, self.k)
        examples: list[Example] = [(Row(r.prompt_ids, r.response_ids, weights=r.weights),) for r in responses]
        return Built(
            examples, {"problems": len(problems), "examples": len(examples)} | generated.facts, generated.valued
        )
