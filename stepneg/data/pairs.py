"""Preference pairs for DPO: of the first pit, of a shared prefix, of outcomes, of edit distance; and anybody's."""

import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from stepneg.credit.pairs import (
    Pair,
    Trace,
    distinct_positives,
    edit_distance_pairs,
    first_pit_pairs,
    outcome_pairs,
    shared_prefix_pairs,
)
from stepneg.credit.steps import split_steps
from stepneg.data.prepared import Built, Prepared
from stepneg.data.rollouts import Generated, Rollouts
from stepneg.data.rows import Example, Row, decode, teacher_row
from stepneg.errors import InputError, at_least
from stepneg.formats.preferences import Preference, as_rows, read_preference
from stepneg.pipeline import Draw
from stepneg.problems import Problem
from stepneg.problems.records import read_records

PairKind = Literal["first_pit", "shared_prefix", "outcome", "edit_distance"]
BY_STEP: tuple[PairKind, ...] = ("first_pit", "shared_prefix")


class Pairs(Prepared):
    """A better and a worse response to a problem, from the solutions that ``policy`` (also the reference) sampled.

    Args:
        rollouts: how the policy is sampled and its steps are valued.
        kind: which pairs; only the first two need step values.
        chosen: whose correct solutions: the policy's own, the teacher's, or both.
        positives: most of the policy's correct solutions used a problem, the most diverse.
        max_pairs: most pairs a problem.
        k: K of the best-of-K rollout policy whose values are used (1 is the policy itself).
        tolerance: how far below the problem's own value a pit must lie.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        kind: PairKind = "first_pit",
        chosen: Literal["self", "teacher", "both"] = "self",
        positives: int = 4,
        max_pairs: int = 8,
        k: int = 1,
        tolerance: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rollouts, self.kind, self.chosen, self.positives = rollouts, kind, chosen, positives
        self.max_pairs, self.k, self.tolerance = max_pairs, k, tolerance

    def settings(self) -> Any:
        """What the pairs depend on."""
        return self.rollouts, self.kind, self.chosen, self.positives, self.max_pairs, self.k, self.tolerance

    def draws(self) -> tuple[Draw, ...]:
        """Values only for pairs that are cut at a step."""
        return ("solutions", "values") if self.kind in BY_STEP else ("solutions",)

    def build(self, problems: list[Problem], tokenizer: PreTrainedTokenizerBase) -> Built:
        """Sample, value, pair; then the reference log-probabilities.

        Raises:
            InputError: numbers are out of their range, or do not go together.
        """
        at_least(1, **{"data.k": self.k, "data.max_pairs": self.max_pairs})
        at_least(0, **{"data.tolerance": self.tolerance})
        if self.rollouts.pit_error is not None and self.k != 1:
            raise InputError(f"k is {self.k}: with rollouts.pit_error every K finds the same pit; set k to 1")
        draw = self.rollouts.valued if self.kind in BY_STEP else self.rollouts.solutions
        generated = draw(self.policy, problems, tokenizer, self.template)
        pairs, drops = self.pair(generated, self.right(generated, problems, tokenizer), {tokenizer.eos_token_id})
        examples = self.with_reference([as_example(pair) for pair in pairs])
        facts = {"problems": float(len(problems)), "examples": float(len(examples))} | generated.facts
        return Built(
            examples, facts | {f"dropped: {reason}": float(count) for reason, count in drops.items()}, generated.valued
        )

    def right(
        self, generated: Generated, problems: list[Problem], tokenizer: PreTrainedTokenizerBase
    ) -> dict[str, list[Trace]]:
        """The correct solutions by problem."""
        right: dict[str, list[Trace]] = {p.id: [] for p in problems}
        if self.chosen != "teacher":
            traces = [t for found in generated.correct().values() for t in found]
            right |= distinct_positives(traces, self.positives)
        if self.chosen != "self":
            for problem in problems:
                row = teacher_row(tokenizer, self.template, problem)
                ends = tuple(split_steps(row.response_ids, partial(decode, tokenizer), self.rollouts.steps))
                right[problem.id].append(Trace(problem.id, row.prompt_ids, row.response_ids, True, ends))
        return right

    def pair(
        self, generated: Generated, right: dict[str, list[Trace]], eos: set[int]
    ) -> tuple[list[Pair], Counter[str]]:
        """Pairs of the chosen kind, and why wrong solutions made none."""
        limits: dict[str, Any] = {"eos_ids": eos, "max_pairs": self.max_pairs, "seed": self.seed}
        if self.kind == "first_pit":
            return first_pit_pairs(right, generated.wrong(), k=self.k, tolerance=self.tolerance, **limits)
        if self.kind == "shared_prefix":
            return shared_prefix_pairs(
                right, generated.wrong(), generated.continuations, k=self.k, tolerance=self.tolerance, **limits
            )
        wrong = {name: [t for t in traces if not t.correct] for name, traces in generated.traces.items()}
        return (outcome_pairs if self.kind == "outcome" else edit_distance_pairs)(right, wrong, **limits)


def as_example(pair: Pair) -> Example:
    """The two rows of a pair, chosen first."""
    return (
        Row(pair.prompt_ids, pair.chosen_ids, pair.shared),
        Row(pair.prompt_ids, pair.rejected_ids, pair.shared),
    )


@dataclass(frozen=True)
class Preferences:
    """What a file of preferences asks, as problems; their answers are not known.

    Args:
        path: JSONL, Parquet, a folder of datasets, or hub:owner/name.
        split: of a folder or a dataset on the hub.
    """

    path: str
    split: str = "train"

    def rows(self) -> list[Preference]:
        """The rows, in their order."""
        return [read_preference(record) for record in read_records(self.path, self.split, None)]

    def load(self) -> list[Problem]:
        """A problem a row; the id is its number."""
        return [Problem(str(number), row.question, "") for number, row in enumerate(self.rows())]


class GivenPairs(Prepared):
    """Pairs from elsewhere, in TRL's preference format (:mod:`stepneg.formats.preferences`); nothing is sampled.

    Args:
        path: JSONL, Parquet, a folder of datasets, or hub:owner/name.
        split: of a folder or a dataset on the hub.
        cut: rejected texts are beginnings that end behind a wrong step, so no EOS closes them. Token ids say for
            themselves whether they end in EOS.
    """

    def __init__(self, path: str, split: str = "train", cut: bool = False, **kwargs: Any) -> None:
        super().__init__(problems=Preferences(path, split), **kwargs)
        self.preferences, self.cut = Preferences(path, split), cut

    def settings(self) -> Any:
        """All that the rows say, and how it is encoded."""
        return self.cut, [dict(row.record.values) for row in self.preferences.rows()]

    def build(self, problems: list[Problem], tokenizer: PreTrainedTokenizerBase) -> Built:
        """Encode the pairs; then the reference log-probabilities."""
        wanted, examples, changed = {p.id for p in problems}, [], 0
        names = []
        for number, row in enumerate(self.preferences.rows()):
            if str(number) in wanted:
                example, other = as_rows(row, tokenizer, self.template, self.cut)
                examples.append(example)
                names.append(row.record.where)
                changed += other
        if changed:
            print(f"warning: {changed} pairs whose token ids decode to another text than theirs", file=sys.stderr)
        examples = self.with_reference(self.fitting(names, examples))
        return Built(
            examples,
            {
                "problems": len({e[0].prompt_ids for e in examples}),
                "examples": len(examples),
                "sampled_tokens": 0,
                "retokenised": changed,
            },
        )
