"""The solutions of a run directory as text: what was trained on, with step values, pits and pairs, and what was graded.

Reading is lenient: a run may be half made, damaged or of an earlier version. What is whole is used, and notes say what
was left out and why.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from transformers import PreTrainedTokenizerBase

from stepneg.bounded_yaml import bounded
from stepneg.credit.pairs import Ids, Trace, ended, find_pit, strip_eos
from stepneg.credit.search import common
from stepneg.credit.steps import ENDS, UNDECODED, Rule
from stepneg.credit.values import advantages, step_values
from stepneg.data.prepared import DAMAGED, example_of, read_checked, trace_of
from stepneg.data.rows import Example, Row, decode, encode_prompt
from stepneg.errors import InputError
from stepneg.evaluation_files import of_own_policy, read_evaluation
from stepneg.links import below
from stepneg.policy_folder import load_tokenizer
from stepneg.problems import Problem
from stepneg.reading import byte_lines, json_object
from stepneg.record import FOLDER, config_file, data_of, fit_of, in_training

T = TypeVar("T")
SPURIOUS = -0.3  # a spurious step of a right solution has at most this advantage, as `stepneg spurious` has it
ROUNDING = 1e-6  # advantages are differences of shares: 0.4 - 0.7 is not quite -0.3
LONGEST = 20_000  # characters of a text that are shown
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class Settings:
    """What of RUN/config.yaml says how values and pits are read; the defaults are those of a fit.

    Attributes:
        method: the data module's class.
        policy: HF folder that was sampled.
        template: of the prompt.
        k: K of best-of-K.
        tolerance: how far below the problem's own value a pit must lie.
        steps: what a step is.
        searched: counts are of a search for the pit, and no values.
    """

    method: str = ""
    policy: str = ""
    template: str = "{question}\n"
    k: int = 1
    tolerance: float = 0.0
    steps: Rule = "line"
    searched: bool = False


@dataclass(frozen=True)
class Solution:
    """A solution. Its steps are counted from 1.

    Attributes:
        problem: place of its problem.
        part: place of the part of the run that it comes from.
        steps: texts of the steps, without special tokens.
        right: r(y); what is imitated or chosen counts as right.
        counts: (n, c) of the prefixes 0..m.
        values: Q_0..Q_m; none where the counts are of a search.
        pit: the first pit.
        no_pit: why a wrong solution has none.
        spurious: steps of a right solution with A <= SPURIOUS.
        weights: of its steps (Eq. 4).
        imitated: it is trained on by itself, without a partner.
        unfinished: it was cut off by the token limit.
        graded: of an evaluation: extracted answer, rule, samples and how many of them are right, majority.
    """

    problem: int
    part: int
    steps: list[str]
    right: bool
    counts: tuple[tuple[int, int], ...] = ()
    values: list[float] = field(default_factory=list)
    pit: int = 0
    no_pit: str = ""
    spurious: list[int] = field(default_factory=list)
    weights: list[float | None] = field(default_factory=list)
    imitated: bool = False
    unfinished: bool = False
    graded: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ShownPair:
    """A pair of two solutions.

    Attributes:
        chosen: place of the chosen solution.
        rejected: places of the solutions whose first steps are the rejected response; the pair was made of one of them.
        steps: how many of them.
        common: how much both texts share at their beginning, in the UTF-16 units that a browser counts.
        context: how much of it is context and carries no loss (shared-prefix pairs).
        logp: log-probabilities of chosen and rejected under the reference, in nats.
    """

    chosen: int
    rejected: list[int]
    steps: int
    common: int
    context: int
    logp: list[float | None]


@dataclass
class Browsed:
    """All of a run that is shown.

    Attributes:
        problems: id, question, reference answer, worked solution and facts.
        solutions: by their places.
        pairs: of solutions.
        parts: where solutions come from: the training data, evaluations.
        facts: of the making of the data.
        notes: what was left out, and why.
    """

    problems: list[dict[str, Any]] = field(default_factory=list)
    solutions: list[Solution] = field(default_factory=list)
    pairs: list[ShownPair] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_solutions(run: Path, limit: int) -> tuple[Settings, Browsed]:
    """The solutions of a run directory, or of an evaluation's folder.

    Args:
        run: the directory.
        limit: most rows of each file.

    Raises:
        InputError: there is nothing to show.
    """
    if not run.is_dir():
        raise InputError(f"{run}: no such directory; give the run directory of a fit (trainer.default_root_dir)")
    found = Browsed()
    data, fit = newest_data(run, found.notes)
    settings = Settings()
    if data:
        file = config_file(run) or run / "config.yaml"
        settings = read_settings(lambda: fit["settings"] if fit else bounded(file.read_text()), found.notes)
    evaluations = [*sorted(run.glob("evaluation/*.jsonl")), *run.glob("evaluation.jsonl")]
    if data:
        said = len(found.notes)
        Training(run, settings, found, limit).read(data)
        if len(found.notes) == said and is_damaged(data):  # what can be read may still be wrong
            found.notes.append(f"{data.name}: {DAMAGED}; fit again, which draws no sample twice")
    for file in evaluations:
        said = len(found.notes)
        add_evaluation(file, found, limit)
        try:
            if len(found.notes) == said and (values := file.with_suffix(".json")).is_file():
                read_evaluation(values)
        except InputError as error:
            found.notes.append(str(error))
    if not of_own_policy(run):
        found.notes.append("the solutions of the test are another policy's than RUN/last; test the run again")
    if not found.solutions:
        raise InputError(f"{run}: {nothing(run, bool(data or evaluations), found.notes)}")
    return settings, found


def is_damaged(data: Path) -> bool:
    """Whether data that a fit has made is not as it was written; without a checksum nothing is known of it."""
    try:
        return data.with_suffix(".sha256").is_file() and read_checked(data) is None
    except OSError:
        return True


def nothing(run: Path, some: bool, notes: Sequence[str]) -> str:
    """Why a directory has nothing to show, and what to do."""
    if some:
        return f"no solution can be read: {'; '.join(notes) or 'its files are empty'}; fit or test again"
    if (run / "config.yaml").is_file() or any((run / FOLDER).glob("*-fit-*.json")):
        return "a run without data and without evaluation; its fit was stopped before it had made data: run it again"
    if runs := [str(file.parent) for file in below(run, "config.yaml")]:
        return f"no run itself, but above {len(runs)} of them; give one of them, for example {runs[0]}"
    return "no run; give the directory of a fit (with config.yaml and data/) or of an evaluation (evaluation.jsonl)"


def read_settings(read: Callable[[], Any], notes: list[str]) -> Settings:
    """The settings of a run's configuration; defaults, with a note, where it cannot be read."""
    try:
        data = read()["data"]
        init = data["init_args"]
        rollouts = init.get("rollouts") or {}
        steps = rollouts.get("steps", Settings.steps)
        if steps not in ENDS:
            raise ValueError(f"no rule for steps: {steps}")
        tolerance = float(init.get("tolerance", Settings.tolerance))
        if not isfinite(tolerance):
            raise ValueError(f"no tolerance: {tolerance}")
        return Settings(
            method=text(data["class_path"]).rpartition(".")[2],
            policy=text(init["policy"]),
            template=text(init.get("template", Settings.template)),
            k=int(init.get("k", Settings.k)),
            tolerance=tolerance,
            steps=cast(Rule, steps),
            searched=rollouts.get("pit_error") is not None,
        )
    except (OSError, yaml.YAMLError, *MALFORMED) as error:
        notes.append(f"config.yaml cannot be read ({type(error).__name__}): K = 1 and steps that are lines are assumed")
        return Settings()


def newest_data(run: Path, notes: list[str]) -> tuple[Path | None, dict[str, Any] | None]:
    """RUN/data/FINGERPRINT.jsonl of a run's fit, and the record of that; the newest, and None, if nothing tells.

    The fit is the last that ended well, or else the last that began to train. One that was stopped earlier left only
    the files beside it.
    """
    made = {file.with_name(f"{file.name.partition('.')[0]}.jsonl"): file for file in run.glob("data/*.jsonl")}
    fit = fit_of(run)
    own = data_of(fit)
    newest = sorted(made, key=lambda file: (f"data/{file.name}" not in own, -made[file].stat().st_mtime))
    if newest[1:]:
        notes.append(f"data of other settings is left out: {', '.join(file.stem for file in newest[1:])}")
    if not newest or f"data/{newest[0].name}" not in own:
        return next(iter(newest), None), None
    if (later := in_training(run)) and later != fit:
        notes.append("a later fit has not ended well; shown is the data of the last that has")
    return newest[0], fit


def read_lines(file: Path, read: Callable[[Any], T], notes: list[str], limit: int | None = None) -> Iterator[T]:
    """What ``read`` makes of each line of JSON; lines that are malformed or past the limit end in a note."""
    bad: list[int] = []
    number = 0
    try:
        for number, line in byte_lines(file):
            if limit is not None and number > limit:
                continue
            try:
                value = read(json.loads(line))
            except MALFORMED:
                bad.append(number)
                continue
            yield value
    except OSError as error:
        notes.append(f"{file.name} cannot be read: {error.strerror or error}")
    if bad:
        notes.append(f"{file.name}: {len(bad):,} of {number:,} lines are damaged and left out, the first is {bad[0]:,}")
    if limit is not None and number > limit:
        notes.append(f"{file.name}: {number - limit:,} of {number:,} rows are left out; --limit {number} shows all")


def text(value: Any) -> str:
    """A text.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {type(value).__name__}")
    return value


def clip(value: str) -> str:
    """A text of no more than LONGEST characters, with a word on the rest."""
    return value if len(value) <= LONGEST else f"{value[:LONGEST]} [{len(value) - LONGEST:,} more characters]"


def finite(values: Iterable[float | None]) -> list[float | None]:
    """Numbers to four places; None in the place of what JSON does not have."""
    return [round(v, 4) if v is not None and isfinite(v) else None for v in values]


def problem_row(name: str, question: str, answer: str | None, solution: str | None, meta: Mapping[str, Any]) -> Any:
    """A problem as it is shown."""
    return {
        "id": name,
        "question": clip(question),
        "answer": None if answer is None else clip(answer),
        "solution": None if solution is None else clip(solution),
        "meta": {str(key): value if type(value) is int else clip(str(value)) for key, value in meta.items()},
    }


def step_texts(whole: str, ends: Sequence[int]) -> list[str]:
    """A text cut at the ends of its steps; what it has beyond LONGEST characters is left out."""
    places = [min(end, LONGEST) for end in ends]
    steps = [whole[a:b] for a, b in pairwise((0, *places))]
    if steps and len(whole) > LONGEST:
        steps[-1] += f" [{len(whole) - LONGEST:,} more characters]"
    return steps


def text_steps(whole: str, rule: Rule) -> list[str]:
    """The steps of a text whose tokens are not at hand."""
    ends = ENDS[rule if len(whole) <= LONGEST else "line"](whole)
    return step_texts(whole, [*ends[:-1], len(whole)] if whole else [])


class Training:
    """The training data of a run as text.

    Args:
        run: its directory.
        settings: of its configuration.
        found: takes what is read.
        limit: most rows of each file.
    """

    def __init__(self, run: Path, settings: Settings, found: Browsed, limit: int) -> None:
        self.run, self.settings, self.found, self.limit = run, settings, found, limit
        self.problems: dict[Ids, int] = {}  # by prompt
        self.places: dict[tuple[Ids, Ids], int] = {}  # of solutions, by prompt and response
        self.pits: dict[tuple[Ids, Ids], list[int]] = {}  # of wrong solutions, by prompt and response up to the pit
        self.ends: dict[int, Ids] = {}  # of steps, in tokens, by the place of the solution

    def read(self, file: Path) -> None:
        """Add what RUN/data holds, as far as it is whole."""
        notes = self.found.notes
        tokenizer = self.find_tokenizer()
        if tokenizer is None:
            notes.append(
                f"the training data is token ids, and neither {self.run / 'last'} nor the policy"
                f" {self.settings.policy or '(config.yaml names none)'} holds a tokenizer; put one of them back"
            )
            return
        self.tokenizer, self.eos, self.vocabulary = tokenizer, {int(tokenizer.eos_token_id)}, len(tokenizer)
        self.part = len(self.found.parts)
        self.found.parts.append("training data")
        self.read_facts(file.with_suffix(".json"))
        self.read_problems(file.with_suffix(".problems.jsonl"))
        for trace, values in read_lines(file.with_suffix(".traces.jsonl"), self.valued, notes, self.limit):
            self.add_trace(trace, values)
        if not file.is_file():
            notes.append(f"{file.name} is missing: the fit was stopped while it made its data; run it again")
            return
        for example in read_lines(file, self.example, notes, self.limit):
            self.add_example(example)

    def find_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The run's own, or that of the policy that it sampled."""
        folders = [self.run / "last", self.run / "evaluation" / "policy", Path(self.settings.policy or "-")]
        for folder in folders:
            try:
                return load_tokenizer(folder, self.settings.template)
            except Exception:  # InputError, and whatever transformers and tokenizers raise for damaged files
                continue
        return None

    def read_facts(self, file: Path) -> None:
        """The facts of the data's making."""
        try:
            values = json_object(file, "")
            self.found.facts = {str(name): float(value) for name, value in values.items() if isfinite(value)}
        except MALFORMED:
            self.found.notes.append(f"{file.name}, the facts of the data's making, cannot be read")

    def read_problems(self, file: Path) -> None:
        """The problems with their answers and facts; an earlier version wrote none."""
        if not file.is_file():
            self.found.notes.append(
                "the run holds no problems beside its data (an earlier version made it): questions are decoded prompts,"
                " answers and facts are missing"
            )
            return
        for prompt, problem in read_lines(file, self.problem, self.found.notes):
            self.problems[prompt] = len(self.found.problems)
            self.found.problems.append(problem)

    def problem(self, row: dict[str, Any]) -> tuple[Ids, Any]:
        """The prompt of a problem, and the problem."""
        problem = Problem(**row)
        prompt = encode_prompt(self.tokenizer, self.settings.template, text(problem.question))
        return prompt, problem_row(
            text(problem.id), problem.question, text(problem.answer), problem.solution, problem.meta
        )

    def valued(self, row: dict[str, Any]) -> tuple[Trace, list[float]]:
        """A trace and its values."""
        trace = trace_of(row)
        self.check(trace.prompt_ids, trace.response_ids)
        text(trace.problem_id)
        if type(trace.correct) is not bool or not trace.response_ids:
            raise ValueError("not a graded response")
        return trace, step_values(trace.counts, self.settings.k)

    def example(self, rows: list[dict[str, Any]]) -> Example:
        """A solution or a pair."""
        example = example_of(rows)
        if len(example) not in (1, 2) or len({row.prompt_ids for row in example}) > 1:
            raise ValueError("neither a solution nor a pair")
        for row in example:
            self.check(row.prompt_ids, row.response_ids)
            finite([row.reference_logp, row.shared, *(row.weights or ())])
        return example

    def check(self, *sequences: Sequence[Any]) -> None:
        """Refuse what are no ids of the tokenizer."""
        if not all(type(i) is int and 0 <= i < self.vocabulary for ids in sequences for i in ids):
            raise ValueError("not token ids of the policy")

    def place_of_problem(self, prompt: Ids, name: str | None) -> int:
        """The place of the problem with this prompt, which is added where the run does not tell its problems."""
        if prompt not in self.problems:
            self.problems[prompt] = number = len(self.found.problems)
            question = decode(self.tokenizer, prompt)
            self.found.problems.append(problem_row(name or f"problem {number + 1}", question, None, None, {}))
        return self.problems[prompt]

    def length(self, ids: Ids, end: int) -> int:
        """Characters that the first ``end`` tokens complete."""
        return len(decode(self.tokenizer, ids[:end]).rstrip(UNDECODED))

    def units(self, ids: Ids, end: int) -> int:
        """The same in UTF-16 units."""
        whole = decode(self.tokenizer, ids[:end]).rstrip(UNDECODED)
        return len(whole.encode("utf-16-le", "surrogatepass")) // 2

    def add(
        self, prompt: Ids, response: Ids, right: bool, name: str | None = None, ends: Ids | None = None, **more: Any
    ) -> int:
        """Add a solution and return its place."""
        place = self.places[prompt, response] = len(self.found.solutions)
        whole = decode(self.tokenizer, response)
        if ends is None:
            steps = text_steps(whole, self.settings.steps)
        else:
            self.ends[place] = ends
            steps = step_texts(whole, [*(self.length(response, end) for end in ends[:-1]), len(whole)])
        unfinished = not ended(response, self.eos)
        problem = self.place_of_problem(prompt, name)
        self.found.solutions.append(Solution(problem, self.part, steps, right, unfinished=unfinished, **more))
        return place

    def add_trace(self, trace: Trace, values: list[float]) -> None:
        """Add a trace with its values, and its pit or spurious steps."""
        searched = self.settings.searched
        pit = find_pit(trace, self.settings.k, self.settings.tolerance)
        found = isinstance(pit, int) and not trace.correct
        gains = advantages(values) if trace.correct and not searched else []
        place = self.add(
            trace.prompt_ids,
            trace.response_ids,
            trace.correct,
            trace.problem_id,
            trace.ends,
            counts=trace.counts,
            values=[] if searched else finite(values),
            pit=pit if found else 0,
            no_pit="" if found or trace.correct else pit,
            spurious=[step for step, gain in enumerate(gains, 1) if gain <= SPURIOUS + ROUNDING],
        )
        if isinstance(pit, int) and found:
            upto = strip_eos(trace.response_ids[: trace.ends[pit - 1]], self.eos)
            self.pits.setdefault((trace.prompt_ids, upto), []).append(place)

    def add_example(self, example: Example) -> None:
        """Add a solution, the weights of its steps, or a pair."""
        first = example[0]
        place = self.places.get((first.prompt_ids, first.response_ids))
        if place is None:
            place = self.add(first.prompt_ids, first.response_ids, True)
        if len(example) == 2:
            self.add_pair(place, *example)
            return
        weights = finite(first.weights[end - 1] for end in self.ends.get(place, ())) if first.weights else []
        self.found.solutions[place] = replace(self.found.solutions[place], imitated=True, weights=weights)

    def add_pair(self, place: int, chosen: Row, rejected: Row) -> None:
        """Add a pair; ``place`` is that of its chosen solution."""
        prompt, ids = rejected.prompt_ids, rejected.response_ids
        others = self.pits.get((prompt, strip_eos(ids, self.eos)))
        if others is not None:
            steps = self.found.solutions[others[0]].pit
        else:
            whole = self.places.get((prompt, ids))
            others = [self.add(prompt, ids, False) if whole is None else whole]
            steps = len(self.found.solutions[others[0]].steps)
        shared = self.units(ids, common(chosen.response_ids, ids))
        logp = finite([chosen.reference_logp, rejected.reference_logp])
        self.found.pairs.append(ShownPair(place, others, steps, shared, self.units(ids, rejected.shared), logp))


def add_evaluation(file: Path, found: Browsed, limit: int) -> None:
    """Add the greedy solutions of an evaluation."""
    part = len(found.parts)
    found.parts.append(file.stem if file.stem == "evaluation" else f"evaluation: {file.stem}")
    known = {(p["id"], p["question"]): place for place, p in enumerate(found.problems)}
    for problem, steps, right, unfinished, graded in read_lines(file, evaluated, found.notes, limit):
        key = problem["id"], problem["question"]
        if key not in known:
            known[key] = len(found.problems)
            found.problems.append(problem)
        found.solutions.append(Solution(known[key], part, steps, right, unfinished=unfinished, graded=graded))


def evaluated(row: dict[str, Any]) -> tuple[Any, list[str], bool, bool, dict[str, Any]]:
    """A line of an evaluation: problem, steps, right, unfinished and how it was graded."""
    problem = problem_row(
        text(row["problem_id"]), text(row.get("question", "")), text(row["answer"]), None, row["meta"]
    )
    if not all(type(row[name]) is bool for name in ("correct", "truncated", "majority_correct")):
        raise TypeError("not verdicts")
    graded = {
        "extracted": None if row["extracted"] is None else clip(text(row["extracted"])),
        "rule": clip(text(row["rule"])),
        "samples": len(row["samples"]),
        "samples_correct": int(row["samples_correct"]),
        "majority": row["majority_correct"],
    }
    return problem, text_steps(text(row["greedy"]), "line"), row["correct"], row["truncated"], graded
