"""Self-generated data: sample a policy, grade, and value the steps by Monte-Carlo rollouts.

The way of a wrong solution: it is sampled with its problem's other solutions, cut into steps, and each
prefix is continued ``rollouts`` times by the same policy; (n, c) counts of right continuations are the
step values that :mod:`stepneg.credit` turns into advantages, pits and pairs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import count
from pathlib import Path
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from stepneg.credit.pairs import Ids, Trace, distinct
from stepneg.credit.search import Search, patience
from stepneg.credit.steps import Rule, split_steps
from stepneg.credit.values import Count, found_zero
from stepneg.data.rows import decode, encode_prompt
from stepneg.errors import InputError, at_least
from stepneg.fingerprint import PLACE
from stepneg.grading import Form
from stepneg.grading.batch import grade_all
from stepneg.policy_folder import check_stops
from stepneg.problems import Problem
from stepneg.sampling.engine import Decoding
from stepneg.sampling.sampler import Draws
from stepneg.sampling.store import SampleStore
from stepneg.sampling.vllm_engine import VLLMEngine
from stepneg.timing import timed

T = TypeVar("T")


@dataclass
class Generated:
    """Graded samples of a policy.

    Attributes:
        traces: all solutions by problem id, in the order of sampling, without counts.
        valued: some of them with counts.
        continuations: for prompt and response prefix, joined: graded continuations.
        facts: what was sampled, for the report.
    """

    traces: dict[str, list[Trace]]
    valued: list[Trace] = field(default_factory=list)
    continuations: dict[Ids, list[tuple[Ids, bool]]] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)

    def correct(self) -> dict[str, list[Trace]]:
        """The correct solutions by problem."""
        return {name: [t for t in traces if t.correct] for name, traces in self.traces.items()}

    def wrong(self) -> dict[str, list[Trace]]:
        """The valued wrong solutions by problem."""
        found: dict[str, list[Trace]] = {}
        for trace in self.valued:
            if not trace.correct:
                found.setdefault(trace.problem_id, []).append(trace)
        return found


@dataclass(frozen=True)
class Rollouts:
    """How a policy is sampled, graded and valued.

    Args:
        engine: options of the sampling engine.
        store: folder of the sample store; share it between runs, and nothing is drawn twice.
        form: how final answers are written: gsm8k, math, number or text.
        samples: solutions a problem.
        temperature: of solutions and rollouts.
        top_p: of solutions and rollouts.
        max_tokens: longest solution, in tokens.
        rollouts: continuations a prefix, for its value.
        pit_error: None values every prefix. A probability, such as 0.01, looks for the first pit of wrong solutions
            only (:mod:`stepneg.credit.search`), for a part of the tokens: ``rollouts`` (48, say) is then the most
            wrong continuations before a prefix counts as lost.
        negatives: wrong solutions valued a problem.
        positives: correct solutions valued a problem (only the losses of Eq. 4 need them).
        steps: what a step is: a line, the field's rule for MATH, or what a comma ends.
        seed: of all samples.
    """

    engine: VLLMEngine = field(metadata=PLACE)
    store: Path = field(default=Path("runs/samples"), metadata=PLACE)
    form: Form = "gsm8k"
    samples: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    rollouts: int = 8
    pit_error: float | None = None
    negatives: int = 8
    positives: int = 0
    steps: Rule = "line"
    seed: int = 0

    @property
    def decoding(self) -> Decoding:
        """Sampling parameters of solutions."""
        return Decoding(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)

    def draws(self, policy: Path) -> Draws:
        """Samples of a policy, from the store where they are there."""
        return Draws(self.engine, SampleStore(self.store), policy, self.decoding, self.seed)

    def solutions(
        self, policy: Path, problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, template: str
    ) -> Generated:
        """Sample and grade solutions of the problems.

        Raises:
            InputError: a number is out of its range, or the policy's tokenizer does not fit.
        """
        at_least(1, samples=self.samples, rollouts=self.rollouts)
        at_least(0, negatives=self.negatives, positives=self.positives)
        check_stops(policy, tokenizer)
        asked: dict[Ids, list[Problem]] = {}
        for problem in problems:
            asked.setdefault(encode_prompt(tokenizer, template, problem.question), []).append(problem)
        draws = self.draws(policy)
        text = lru_cache(1 << 16)(partial(decode, tokenizer))  # splitting asks for the same few tokens again and again

        def split(response: Ids) -> Ids:
            return tuple(split_steps(response, text, self.steps))

        drawn = (
            ((problem, prompt, done.token_ids, split(done.token_ids)), done.token_ids, problem.answer)
            for prompt, completions in draws.finished(dict.fromkeys(asked, self.samples), "solutions")
            for problem in asked[prompt]
            for done in completions
        )
        traces: dict[str, list[Trace]] = {problem.id: [] for problem in problems}
        for (problem, prompt, response, ends), correct in self.graded(tokenizer, drawn):
            traces[problem.id].append(Trace(problem.id, prompt, response, correct, ends))
        flat = [t for found in traces.values() for t in found]
        facts = {
            "sampled_tokens": float(sum(len(t.response_ids) for t in flat)),
            "solutions": float(len(flat)),
            "correct_solutions": float(sum(t.correct for t in flat)),
            "distinct_solutions": float(sum(len({t.response_ids for t in found}) for found in traces.values())),
            "distinct_correct_solutions": float(
                sum(len({t.response_ids for t in found if t.correct}) for found in traces.values())
            ),
            "mixed_problems": float(sum(len({t.correct for t in found}) == 2 for found in traces.values())),
        }
        return Generated(traces, facts=facts)

    def valued(
        self, policy: Path, problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, template: str
    ) -> Generated:
        """Solutions of the problems, of which ``negatives`` wrong and ``positives`` correct ones carry step values.

        Problems that were never or always solved are not valued: they have no pit. The empty prefix is valued by the
        solutions themselves.
        """
        if self.pit_error is not None and not (0 < self.pit_error < 1 and self.positives == 0):
            raise InputError(
                f"rollouts.pit_error is {self.pit_error}, rollouts.positives {self.positives}: the search is for pits"
                " of wrong solutions and values no steps; give a probability and 0, or leave pit_error out"
            )
        generated = self.solutions(policy, problems, tokenizer, template)
        chosen = self.to_value(generated, tokenizer.eos_token_id)
        find = self.value if self.pit_error is None else self.find_pits
        find(policy, chosen, {p.id: p.answer for p in problems}, tokenizer, generated)
        return generated

    def to_value(self, generated: Generated, eos: int | None) -> list[Trace]:
        """The finished solutions that are to be valued, with the count of the empty prefix."""
        chosen: list[Trace] = []
        for traces in generated.traces.values():
            right = sum(t.correct for t in traces)
            if right in (0, len(traces)):
                continue
            whole = [t for t in distinct(traces) if t.response_ids[-1] == eos]
            some = [t for t in whole if not t.correct][: self.negatives]
            some += [t for t in whole if t.correct][: self.positives]
            chosen += [replace(t, counts=((len(traces), right),)) for t in some]
        return chosen

    def value(
        self,
        policy: Path,
        traces: Sequence[Trace],
        answers: Mapping[str, str],
        tokenizer: PreTrainedTokenizerBase,
        generated: Generated,
        to_the_end: bool = False,
    ) -> None:
        """Value every prefix of traces whose empty prefix has its count; traces and rollouts go to ``generated``.

        Rollouts go wave by wave: after the first step of all traces, then after the second, ...; a wrong trace whose
        prefix is never solved needs no more (its pit is found). A complete solution is valued by its grade.

        Args:
            policy: the rollout policy.
            traces: each with the count of its empty prefix.
            answers: reference answers by problem.
            tokenizer: the policy's.
            generated: takes the valued traces, the continuations and the counts of tokens.
            to_the_end: go on behind the first prefix that is never solved.
        """
        draws = self.draws(policy)
        draws.look_up({prefix(t, step) for t in traces for step in range(1, len(t.ends))})
        active = list(traces)
        step = 0
        while active:
            step += 1
            last = [t for t in active if len(t.ends) == step]
            generated.valued += [replace(t, counts=(*t.counts, by_grade(t, self.rollouts))) for t in last]
            going = [t for t in active if len(t.ends) > step]
            wanted = {prefix(t, step): self.rollouts for t in going}
            new = {prefix(t, step): t for t in going if prefix(t, step) not in generated.continuations}
            drawn = (
                ((key, c.token_ids), t.response_ids[: t.ends[step - 1]] + c.token_ids, answers[t.problem_id])
                for key, completions in draws.finished(wanted, f"rollouts after step {step}")
                if (t := new.get(key)) is not None
                for c in completions
            )
            self.add_continuations(tokenizer, drawn, new, generated)
            active = []
            for trace in going:
                key = prefix(trace, step)
                outcomes = [ok for _, ok in generated.continuations[key]]
                trace = replace(trace, counts=(*trace.counts, (len(outcomes), sum(outcomes))))
                if not (to_the_end or trace.correct) and found_zero(trace.counts):
                    generated.valued.append(trace)
                else:
                    active.append(trace)
        count_rollouts(generated)

    def find_pits(
        self,
        policy: Path,
        traces: Sequence[Trace],
        answers: Mapping[str, str],
        tokenizer: PreTrainedTokenizerBase,
        generated: Generated,
    ) -> None:
        """Find the first pit of wrong traces by sequential tests; arguments as of :meth:`value`.

        All traces search at once: a wave rolls out what each of them asks next.
        """
        assert self.pit_error is not None
        draws = self.draws(policy)
        draws.look_up({prefix(t, step) for t in traces for step in range(1, len(t.ends))})
        searches: dict[str, list[Search]] = {}
        pairs: list[tuple[Trace, Search]] = []
        for trace in traces:
            n, c = trace.counts[0]
            search = Search(trace.response_ids, trace.ends, patience(c / n, self.pit_error, self.rollouts))
            itself = True  # once: it was chosen because it is wrong
            for other in generated.traces.get(trace.problem_id, []):
                if itself and not other.correct and other.response_ids == trace.response_ids:
                    itself = False
                else:
                    search.see(0, other.response_ids, other.correct)
            searches.setdefault(trace.problem_id, []).append(search)
            pairs.append((trace, search))
        for wave in count(1):
            wanted: dict[Ids, int] = {}
            asking: dict[Ids, tuple[Trace, int]] = {}
            for trace, search in pairs:
                if (question := search.ask()) is not None:
                    key = prefix(trace, question[0])
                    have = len(generated.continuations.get(key, ()))
                    wanted[key] = max(wanted.get(key, 0), have + question[1])
                    asking[key] = (trace, trace.ends[question[0] - 1])
            if not wanted:
                break
            drawn = (
                ((key, c.token_ids), t.response_ids[:start] + c.token_ids, answers[t.problem_id])
                for key, completions in draws.finished(wanted, f"rollouts, wave {wave}, {len(wanted)} prefixes")
                for t, start in [asking[key]]
                for c in completions[len(generated.continuations.get(key, ())) :]
            )
            for key, found in self.add_continuations(tokenizer, drawn, asking, generated).items():
                trace, start = asking[key]
                for ids, right in found:
                    for search in searches[trace.problem_id]:
                        search.see(start, trace.response_ids[:start] + ids, right)
        generated.valued += [replace(t, counts=(*t.counts, *s.counts(self.rollouts))) for t, s in pairs]
        count_rollouts(generated)

    def add_continuations(
        self,
        tokenizer: PreTrainedTokenizerBase,
        drawn: Iterable[tuple[tuple[Ids, Ids], Ids, str]],
        order: Iterable[Ids],
        generated: Generated,
    ) -> dict[Ids, list[tuple[Ids, bool]]]:
        """Grade rollouts as they are drawn and add them to ``generated``, prefix by prefix in ``order``.

        Args:
            tokenizer: the policy's.
            drawn: (prefix, rollout) with the whole response and the reference answer.
            order: the prefixes; which prompt finishes first is chance.
            generated: takes the continuations.

        Returns:
            The new ones by prefix.
        """
        found: dict[Ids, list[tuple[Ids, bool]]] = {key: [] for key in order}
        for (key, ids), right in self.graded(tokenizer, drawn):
            found[key].append((ids, right))
        for key, new in found.items():
            generated.continuations.setdefault(key, []).extend(new)
        return found

    def graded(self, tokenizer: PreTrainedTokenizerBase, drawn: Iterable[tuple[T, Ids, str]]) -> list[tuple[T, bool]]:
        """Each thing with r(y) of its response: (thing, response, reference answer), graded while they are drawn."""
        things: list[T] = []

        def items() -> Iterator[tuple[str, str]]:
            for thing, response, answer in drawn:
                things.append(thing)
                yield decode(tokenizer, response), answer

        with timed("grading"):
            right = [verdict.correct for verdict in grade_all(items(), self.form)]
        return list(zip(things, right, strict=True))


def count_rollouts(generated: Generated) -> None:
    """Add the rollouts to the facts."""
    tokens = sum(len(ids) for drawn in generated.continuations.values() for ids, _ in drawn)
    generated.facts["valued_solutions"] = float(len(generated.valued))
    generated.facts["rollout_tokens"] = float(tokens)
    generated.facts["sampled_tokens"] = generated.facts.get("sampled_tokens", 0.0) + tokens


def prefix(trace: Trace, step: int) -> Ids:
    """Prompt and the first steps of a response, in the very ids that were sampled."""
    return trace.prompt_ids + trace.response_ids[: trace.ends[step - 1]]


def by_grade(trace: Trace, n: int) -> Count:
    """Counts of a complete solution: every rollout of it is itself."""
    return n, n * trace.correct
