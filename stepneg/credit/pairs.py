"""What to train on, chosen from sampled solutions and their step values: pairs for DPO and weighted responses.

Everything is token ids. A finished response ends in an EOS token; one that does not was cut off by the token limit,
never reached an answer, and makes no pair. The builders of pairs return the pairs and how many wrong solutions were
dropped for what reason: pairs and drops add up to the wrong solutions given. Which pairs a problem gets depends on the
seed and on its own traces only, not on their order or on other problems.
"""

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Literal

from rapidfuzz.distance import Levenshtein

from stepneg.credit.values import Count, advantages, first_pit, step_values

Ids = tuple[int, ...]
Drop = Literal[
    "unfinished",  # no EOS: truncated
    "duplicate",  # the same rejected ids again
    "no positive",  # no finished correct solution to set against it (none that leaves the rejected prefix)
    "no values",  # no counts of prefixes
    "unsolved",  # Q_0 = 0
    "no pit",  # no value clearly below Q_0
    "no continuation",  # no correct continuation that takes another step
    "over max_pairs",
]


@dataclass(frozen=True)
class Trace:
    """A graded response and what is known of its steps.

    Attributes:
        problem_id: the problem.
        prompt_ids: the prompt, x.
        response_ids: the response, y; with EOS at the end if it is finished.
        correct: r(y).
        ends: end (exclusive) of each step in ``response_ids``.
        counts: (n, c) of the prefixes 0..m, m <= L. Q_L needs no rollouts: it is r(y), so (n, n) or (n, 0).
    """

    problem_id: str
    prompt_ids: Ids
    response_ids: Ids
    correct: bool
    ends: Ids
    counts: tuple[Count, ...] = ()

    def __post_init__(self) -> None:
        bounds = (0, *self.ends)
        if list(bounds) != sorted(set(bounds)) or bounds[-1] != len(self.response_ids):
            raise ValueError(f"{self.problem_id}: step ends {self.ends} do not cover {len(self.response_ids)} tokens")
        if len(self.counts) > len(bounds):
            raise ValueError(f"{self.problem_id}: {len(self.counts)} counts for {len(self.ends)} steps")


@dataclass(frozen=True)
class Pair:
    """A better and a worse response to a prompt. Their first ``shared`` tokens are equal and belong to the context."""

    problem_id: str
    prompt_ids: Ids
    chosen_ids: Ids
    rejected_ids: Ids
    shared: int = 0


@dataclass(frozen=True)
class WeightedResponse:
    """A response with a weight for the log-likelihood of each of its tokens."""

    problem_id: str
    prompt_ids: Ids
    response_ids: Ids
    weights: tuple[float, ...]


Traces = Mapping[str, Sequence[Trace]]  # by problem id
Outcome = Pair | Drop
Built = tuple[list[Pair], Counter[str]]
Continuations = Mapping[Ids, Sequence[tuple[Ids, bool]]]


def first_pit_pairs(
    positives: Traces,
    negatives: Traces,
    *,
    k: int,
    eos_ids: Collection[int],
    tolerance: float = 0.0,
    max_pairs: int = 8,
    seed: int = 0,
) -> Built:
    """A complete correct solution against a wrong one cut after its first pit, without EOS (Algorithm 1).

    Args:
        positives: correct solutions by problem.
        negatives: wrong solutions with counts, by problem.
        k: K of the best-of-K rollout policy.
        eos_ids: the tokens that end a response.
        tolerance: see :func:`stepneg.credit.values.first_pit`.
        max_pairs: the most pairs a problem gives.
        seed: of the choice of negatives and positives.
    """

    def propose(right: list[Trace], wrong: list[Trace], rng: random.Random) -> Iterator[Outcome]:
        turn = 0
        for negative in wrong:
            pit = find_pit(negative, k, tolerance)
            if isinstance(pit, str):
                yield pit
                continue
            rejected = strip_eos(negative.response_ids[: negative.ends[pit - 1]], eos_ids)
            # A correct solution that goes through the pit says nothing against it.
            leaving = (p for p in rotate(right, turn) if p.response_ids[: len(rejected)] != rejected)
            if (positive := next(leaving, None)) is None:
                yield "no positive"
                continue
            turn += 1
            yield Pair(negative.problem_id, negative.prompt_ids, positive.response_ids, rejected)

    return build(positives, negatives, propose, eos_ids, max_pairs, seed)


def shared_prefix_pairs(
    positives: Traces,
    negatives: Traces,
    continuations: Continuations,
    *,
    k: int,
    eos_ids: Collection[int],
    tolerance: float = 0.0,
    max_pairs: int = 8,
    seed: int = 0,
) -> Built:
    """After y_1..y_{c-1}: a correct continuation against the first pit y_c alone (the pairs of Theorem 6.1).

    The context is part of both responses, ``shared`` tokens long. A continuation that begins with y_c does not count.

    Args:
        positives: correct solutions by problem; those that begin with the context are continuations too.
        negatives: wrong solutions with counts, by problem.
        continuations: for prompt and response prefix, joined: graded continuations in token ids.
        k: K of the best-of-K rollout policy.
        eos_ids: the tokens that end a response.
        tolerance: see :func:`stepneg.credit.values.first_pit`.
        max_pairs: the most pairs a problem gives.
        seed: of the choice of negatives and continuations.
    """

    def propose(right: list[Trace], wrong: list[Trace], rng: random.Random) -> Iterator[Outcome]:
        known: dict[tuple[Ids, Ids], list[Ids]] = {}  # many wrong solutions may take one wrong step
        for negative in wrong:
            pit = find_pit(negative, k, tolerance)
            if isinstance(pit, str):
                yield pit
                continue
            context = negative.response_ids[: (0, *negative.ends)[pit - 1]]
            step = strip_eos(negative.response_ids[len(context) : negative.ends[pit - 1]], eos_ids)
            if (context, step) not in known:
                rollouts = [tuple(ids) for ids, ok in continuations.get(negative.prompt_ids + context, ()) if ok]
                solutions = [p.response_ids for p in right if p.response_ids[: len(context)] == context]
                rests = {ids for ids in [*rollouts, *(ids[len(context) :] for ids in solutions)] if ended(ids, eos_ids)}
                known[context, step] = sorted(ids for ids in rests if ids[: len(step)] != step)
            better = known[context, step]
            if not better:
                yield "no continuation"
                continue
            chosen = context + rng.choice(better)
            yield Pair(negative.problem_id, negative.prompt_ids, chosen, context + step, len(context))

    return build(positives, negatives, propose, eos_ids, max_pairs, seed)


def outcome_pairs(
    positives: Traces, negatives: Traces, *, eos_ids: Collection[int], max_pairs: int = 8, seed: int = 0
) -> Built:
    """A correct solution against a wrong one, both complete, at random: standard DPO (Fig. 7c).

    Args:
        positives: correct solutions by problem.
        negatives: wrong solutions by problem.
        eos_ids: the tokens that end a response.
        max_pairs: the most pairs a problem gives.
        seed: of the pairing.
    """

    def propose(right: list[Trace], wrong: list[Trace], rng: random.Random) -> Iterator[Outcome]:
        for turn, negative in enumerate(wrong):
            yield whole_pair(rotate(right, turn)[0], negative) if right else "no positive"

    return build(positives, negatives, propose, eos_ids, max_pairs, seed)


def edit_distance_pairs(
    positives: Traces, negatives: Traces, *, eos_ids: Collection[int], max_pairs: int = 8, seed: int = 0
) -> Built:
    """A correct solution against the wrong one farthest from it in edit distance, both complete (Fig. 7c).

    The correct solutions take turns, each taking the farthest wrong solution that is left, so the pairs are as many as
    of the other kinds.

    Args:
        positives: correct solutions by problem.
        negatives: wrong solutions by problem.
        eos_ids: the tokens that end a response.
        max_pairs: the most pairs a problem gives.
        seed: of the order of turns.
    """

    def propose(right: list[Trace], wrong: list[Trace], rng: random.Random) -> Iterator[Outcome]:
        left = sorted(wrong, key=lambda trace: trace.response_ids)
        for turn in range(len(wrong)):
            if not right:
                yield "no positive"
                continue
            positive = rotate(right, turn)[0]
            distances = [edit_distance(positive.response_ids, trace.response_ids) for trace in left]
            yield whole_pair(positive, left.pop(distances.index(max(distances))))

    return build(positives, negatives, propose, eos_ids, max_pairs, seed)


def build(
    positives: Traces,
    negatives: Traces,
    propose: Callable[[list[Trace], list[Trace], random.Random], Iterator[Outcome]],
    eos_ids: Collection[int],
    max_pairs: int,
    seed: int,
) -> Built:
    """What all kinds share: finished and distinct traces in an order drawn from (seed, problem), limits and counts.

    ``propose`` gives one outcome for each wrong solution; it is not asked further once a problem has its pairs.

    Raises:
        ValueError: a wrong solution among the positives (or the reverse), a response that is both, or two prompts for
            one problem.
    """
    pairs: list[Pair] = []
    drops: Counter[str] = Counter()
    for problem_id, traces in negatives.items():
        given = positives.get(problem_id, ())
        if any(trace.correct for trace in traces) or not all(trace.correct for trace in given):
            raise ValueError(f"{problem_id}: positives must be correct and negatives wrong")
        if len({trace.prompt_ids for trace in (*given, *traces)}) > 1:
            raise ValueError(f"{problem_id}: its traces answer different prompts")
        if {trace.response_ids for trace in given} & {trace.response_ids for trace in traces}:
            raise ValueError(f"{problem_id}: the same response is graded both correct and wrong")
        finished = [trace for trace in traces if ended(trace.response_ids, eos_ids)]
        right = distinct([trace for trace in given if ended(trace.response_ids, eos_ids)])
        wrong = distinct(finished)
        drops["unfinished"] += len(traces) - len(finished)
        drops["duplicate"] += len(finished) - len(wrong)
        rng = random.Random(f"{seed}/{problem_id}")
        rng.shuffle(right)
        rng.shuffle(wrong)
        found: dict[Ids, Pair] = {}
        for seen, outcome in enumerate(propose(right, wrong, rng)):
            if len(found) == max_pairs:
                drops["over max_pairs"] += len(wrong) - seen
                break
            if not isinstance(outcome, Pair):
                drops[outcome] += 1
            elif outcome.rejected_ids in found:
                drops["duplicate"] += 1
            else:
                found[outcome.rejected_ids] = outcome
        pairs += found.values()
    return pairs, +drops


def find_pit(trace: Trace, k: int, tolerance: float) -> int | Drop:
    """The first pit of a trace (from 1), or why it has none."""
    if len(trace.counts) < 2:
        return "no values"
    values = step_values(trace.counts, k)
    if values[0] == 0:
        return "unsolved"
    return first_pit(values, tolerance) or "no pit"


Choice = Literal["farthest", "random", "nearest"]


def distinct_positives(
    traces: Iterable[Trace], limit: int, choice: Choice = "farthest", seed: int = 0
) -> dict[str, list[Trace]]:
    """Up to ``limit`` distinct correct solutions a problem: RFT's data and the positives of pairs.

    Args:
        traces: sampled solutions, right and wrong.
        limit: the most kept a problem.
        choice: farthest: the most diverse, see :func:`most_diverse`; nearest: the shortest one and those that are
            nearest to it in edit distance; random: drawn from (seed, problem).
        seed: of the random choice.
    """
    by_problem: dict[str, list[Trace]] = {}
    for trace in traces:
        if trace.correct:
            by_problem.setdefault(trace.problem_id, []).append(trace)
    kept = {}
    for problem_id, found in by_problem.items():
        left = distinct(found)
        if choice == "farthest":
            kept[problem_id] = most_diverse(left, limit)
        elif choice == "random":
            kept[problem_id] = random.Random(f"{seed}/{problem_id}").sample(left, min(limit, len(left)))
        else:
            first = min(left, key=lambda trace: (len(trace.response_ids), trace.response_ids))
            near = sorted(left, key=lambda trace: edit_distance(first.response_ids, trace.response_ids))
            kept[problem_id] = near[:limit]
    return kept


def most_diverse(traces: Sequence[Trace], limit: int) -> list[Trace]:
    """Greedy max-min choice of at most ``limit`` traces: the shortest one first, then always the one whose nearest
    among the kept is farthest in edit distance. Ties go to the shorter and then to the smaller ids.
    """
    left = sorted(traces, key=lambda trace: (len(trace.response_ids), trace.response_ids))
    nearest = [float("inf")] * len(left)
    kept: list[Trace] = []
    while left and len(kept) < limit:
        farthest = nearest.index(max(nearest))
        kept.append(left.pop(farthest))
        nearest.pop(farthest)
        nearest = [
            min(old, edit_distance(kept[-1].response_ids, trace.response_ids))
            for old, trace in zip(nearest, left, strict=True)
        ]
    return kept


def edit_distance(a: Sequence[int], b: Sequence[int]) -> float:
    """Levenshtein distance over the longer length, in [0, 1]; 0 for two empty sequences."""
    return Levenshtein.normalized_distance(a, b)


def advantage_weighted(traces: Iterable[Trace], k: int, beta: float, clip: float = 20.0) -> list[WeightedResponse]:
    """Weight exp(A_i / beta) on the tokens of step i, for all samples, right and wrong (Eq. 4).

    A step without counts has weight 1, that of A_i = 0. Behind a prefix of value 0 this is exact: what cannot be solved
    any more has no better and no worse steps. A trace without any counts is plain imitation.

    Args:
        traces: sampled solutions, where possible with counts.
        k: K of the best-of-K rollout policy.
        beta: temperature of the advantage.
        clip: the largest weight (ours, against one step outweighing a batch).
    """
    return [
        weighted(
            trace, [min(clip, exp(min(a / beta, log(clip)))) for a in advantages(step_values(trace.counts, k))], 1.0
        )
        for trace in traces
    ]


def filtered_steps(traces: Iterable[Trace], k: int) -> list[WeightedResponse]:
    """Filtered imitation: weight 1 on the steps with A_i > 0, from right and wrong traces alike, and 0 elsewhere.

    A step without counts has weight 0; a trace without a step to imitate is left out.
    """
    responses = [
        weighted(trace, [float(a > 0) for a in advantages(step_values(trace.counts, k))], 0.0) for trace in traces
    ]
    return [response for response in responses if any(response.weights)]


def weighted(trace: Trace, steps: Sequence[float], rest: float) -> WeightedResponse:
    """Spread weights of the first steps over their tokens; all later tokens weigh ``rest``."""
    weights = [rest] * len(trace.response_ids)
    for start, end, weight in zip((0, *trace.ends), trace.ends, steps, strict=False):
        weights[start:end] = [weight] * (end - start)
    return WeightedResponse(trace.problem_id, trace.prompt_ids, trace.response_ids, tuple(weights))


def distinct(traces: Iterable[Trace]) -> list[Trace]:
    """One trace for each response (the one with the most counts), sorted."""
    ordered = sorted(traces, key=lambda trace: (len(trace.counts), trace.counts, trace.ends))
    by_response = {trace.response_ids: trace for trace in ordered}
    return [by_response[ids] for ids in sorted(by_response)]


def whole_pair(positive: Trace, negative: Trace) -> Pair:
    """Two complete responses."""
    return Pair(negative.problem_id, negative.prompt_ids, positive.response_ids, negative.response_ids)


def ended(ids: Ids, eos_ids: Collection[int]) -> bool:
    """Whether a response ends in EOS."""
    return bool(ids) and ids[-1] in eos_ids


def strip_eos(ids: Ids, eos_ids: Collection[int]) -> Ids:
    """Without the EOS at the end, if there is one."""
    return ids[:-1] if ended(ids, eos_ids) else ids


def rotate(traces: list[Trace], turn: int) -> list[Trace]:
    """The same traces, beginning with number ``turn`` (modulo their number)."""
    start = turn % max(len(traces), 1)
    return traces[start:] + traces[:start]
