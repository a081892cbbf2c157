"""Greedy accuracy, pass@k and maj@k of a policy folder on problems, with 95 % intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from stepneg import __version__
from stepneg.data.rows import decode, encode_prompt
from stepneg.errors import InputError, at_least
from stepneg.escaping import markdown
from stepneg.evaluation_files import write_evaluation
from stepneg.fingerprint import fingerprint, fingerprint_policy
from stepneg.grading import Form, Mark
from stepneg.grading.batch import grade_all
from stepneg.grading.estimators import wilson
from stepneg.grading.metrics import Accuracy, MajAtK, PassAtK
from stepneg.grading.verifier import equal_answers
from stepneg.policy_folder import check_stops, exported_template, load_tokenizer
from stepneg.problems import Problem, ProblemSource
from stepneg.problems.arithmetic import Arithmetic
from stepneg.problems.gsm8k import GSM8K
from stepneg.problems.math import MATH
from stepneg.problems.star_graph import StarGraph
from stepneg.progress import Bar
from stepneg.sampling.engine import Decoding, Engine, Ids
from stepneg.sampling.sampler import Sampled, sample
from stepneg.sampling.store import SampleStore
from stepneg.sampling.vllm_engine import VLLMEngine
from stepneg.timing import timed
from stepneg.whole import write_whole

RATES = ("no_answer", "unparsable", "truncated")


@dataclass(frozen=True)
class Evaluated:
    """One problem: the greedy solution with its verdict, and the verdicts of ``k`` samples."""

    problem_id: str
    greedy: str
    answer: str
    correct: bool
    extracted: str | None
    rule: str
    truncated: bool
    samples_correct: int
    samples: tuple[str | None, ...]  # extracted answers
    majority_correct: bool
    meta: dict[str, str | int]
    question: str = ""


@dataclass(frozen=True)
class Evaluation:
    """Metrics (name to value), the problems they are made of, and greedy accuracy by the problems' facts."""

    metrics: dict[str, float]
    problems: list[Evaluated]
    breakdown: list[dict[str, str | int | float]]

    def write(self, file: Path, more: dict[str, Any] | None = None) -> None:
        """Metrics, break-down and ``more`` to ``file`` (JSON), the problems beside it (JSONL)."""
        values = {**self.metrics, "breakdown": self.breakdown, **(more or {})}
        write_evaluation(file, values, map(asdict, self.problems))

    def markdown(self, k: int) -> str:
        """The metrics and the break-down as tables."""
        lines = ["| metric | value (95 %) |", "|---|---:|"]
        lines += [f"| {name} | {interval(self.metrics, name)} |" for name in ("accuracy", f"pass@{k}", f"maj@{k}")]
        lines += [f"| {name.replace('_', ' ')} | {100 * self.metrics[name]:.1f} % |" for name in RATES]
        lines += ["", f"{self.metrics['problems']:.0f} problems; accuracy is greedy."]
        if self.breakdown:
            lines += ["", "| by | | problems | accuracy (95 %) |", "|---|---|---:|---:|"]
            lines += [
                f"| {markdown(str(row['by']))} | {markdown(str(row['value']))} | {row['problems']}"
                f" | {interval(row, 'accuracy')} |"
                for row in self.breakdown
            ]
        return "\n".join(lines)


def interval(values: Mapping[str, Any], name: str) -> str:
    """A share with its 95 % interval, in per cent."""
    low, high = values[f"{name}_low"], values[f"{name}_high"]
    return f"{100 * values[name]:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def evaluate(
    engine: Engine,
    store: SampleStore,
    policy: Path,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    template: str,
    form: Form,
    k: int,
    sampled: Decoding,
    seed: int,
    marks: Sequence[Mark] | None = None,
) -> Evaluation:
    """Decode each problem greedily once and ``k`` times by sampling; grade; aggregate.

    Returns:
        Metrics ``accuracy``, ``pass@k``, ``maj@k`` each with ``_low`` and ``_high`` (95 %), and the rates
        ``no_answer``, ``unparsable`` and ``truncated`` of the greedy solutions; greedy accuracy by the problems'
        facts (level, subject, steps).
    """
    check_stops(policy, tokenizer)
    prompts = [encode_prompt(tokenizer, template, p.question) for p in problems]
    first, many = draw_solutions(engine, store, policy, prompts, k, sampled, seed)
    # One process has all problems; the others of a distributed fit are not here to be gathered.
    alone = {"sync_on_compute": False}
    accuracy, pass_at_k = Accuracy(**alone), PassAtK(k, **alone)
    maj_at_k = MajAtK(k, equal_answers(form), **alone)
    done = [
        (problem, first.completions[p][0], many.completions[p]) for problem, p in zip(problems, prompts, strict=True)
    ]
    texts = [[decode(tokenizer, c.token_ids) for c in (greedy_one, *others)] for _, greedy_one, others in done]
    items = (
        (text, problem.answer) for (problem, _, _), of_problem in zip(done, texts, strict=True) for text in of_problem
    )
    with timed("grading"), Bar("evaluate: grading", len(done) * (k + 1), "answers") as bar:
        graded = []
        for number, verdict in enumerate(grade_all(items, form, marks), 1):
            graded.append(verdict)
            bar.advance(1, number)
    rows = []
    for index, (problem, completion, _) in enumerate(done):
        verdict, *verdicts = graded[index * (k + 1) : (index + 1) * (k + 1)]
        accuracy.update(index, verdict.correct)
        pass_at_k.update(index, [v.correct for v in verdicts])
        maj_at_k.update(index, verdicts, problem.answer)
        rows.append(
            Evaluated(
                problem.id, texts[index][0], problem.answer, verdict.correct, verdict.extracted,
                verdict.rule, completion.finish_reason == "length", sum(v.correct for v in verdicts),
                tuple(v.extracted for v in verdicts), bool(maj_at_k.values[-1]), dict(problem.meta),
                problem.question,
            )
        )  # fmt: skip
    metrics: dict[str, float] = {}
    for name, metric in {"accuracy": accuracy, f"pass@{k}": pass_at_k, f"maj@{k}": maj_at_k}.items():
        value = metric.compute()
        metrics |= {
            name: float(value["value"]),
            f"{name}_low": float(value["low"]),
            f"{name}_high": float(value["high"]),
        }
    metrics["no_answer"] = sum(r.extracted is None for r in rows) / len(rows)
    metrics["unparsable"] = sum(r.rule == "unparsable" for r in rows) / len(rows)
    metrics["truncated"] = sum(r.truncated for r in rows) / len(rows)
    metrics["problems"] = len(rows)
    return Evaluation(metrics, rows, break_down(rows))


def draw_solutions(
    engine: Engine,
    store: SampleStore,
    policy: Path,
    prompts: Sequence[Ids],
    k: int,
    sampled: Decoding,
    seed: int,
) -> tuple[Sampled, Sampled]:
    """The greedy solution of each prompt, and ``k`` samples."""
    greedy = Decoding(temperature=0.0, top_p=1.0, max_tokens=sampled.max_tokens)
    first = sample(engine, store, policy, prompts, 1, greedy, seed, title="evaluate: greedy")
    return first, sample(engine, store, policy, prompts, k, sampled, seed, title=f"evaluate: {k} samples")


def break_down(rows: Sequence[Evaluated]) -> list[dict[str, str | int | float]]:
    """Greedy accuracy with Wilson's 95 % interval for each value of each fact: MATH's level and subject, GSM8K's steps.

    Returns:
        ``by`` (the fact), ``value``, ``problems``, ``accuracy``, ``accuracy_low``, ``accuracy_high``, in order.
    """
    groups: dict[tuple[str, str | int], list[bool]] = {}
    for row in rows:
        for fact, value in row.meta.items():
            groups.setdefault((fact, value), []).append(row.correct)
    table: list[dict[str, str | int | float]] = []
    for (fact, value), correct in sorted(
        groups.items(), key=lambda item: (item[0][0], type(item[0][1]).__name__, item[0][1])
    ):
        low, high = wilson(sum(correct), len(correct))
        table.append(
            {"by": fact, "value": value, "problems": len(correct), "accuracy": sum(correct) / len(correct)}
            | {"accuracy_low": low, "accuracy_high": high}
        )
    return table


# The problems that a name stands for, how their answers are written, and room for a solution in tokens.
TEST_PROBLEMS: dict[str, tuple[ProblemSource, Form, int]] = {
    "gsm8k": (GSM8K("test"), "gsm8k", 512),
    "math": (MATH("test"), "math", 1024),
    "arithmetic": (Arithmetic("test", size=1500), "gsm8k", 100),
    "star_graph": (StarGraph("test", size=1000), "text", 32),
}


def settings_of(
    policy: Path,
    name: str,
    problems: Sequence[Problem],
    form: Form,
    marks: Sequence[Mark] | None,
    template: str,
    k: int,
    sampled: Decoding,
    seed: int,
) -> dict[str, Any]:
    """What an evaluation is of, to be kept beside its results."""
    return {
        "policy": str(policy), "policy_fingerprint": fingerprint_policy(policy), "problems": name,
        "problems_fingerprint": fingerprint(problems), "form": form, "marks": marks, "template": template, "k": k,
        "temperature": sampled.temperature, "top_p": sampled.top_p, "max_tokens": sampled.max_tokens, "seed": seed,
        "stepneg": __version__,
    }  # fmt: skip


def evaluate_policy(
    policy: Path,
    problems: ProblemSource | str,
    form: Form | None = None,
    marks: list[Mark] | None = None,
    template: str | None = None,
    limit: int | None = None,
    k: int = 5,
    temperature: float = 0.7,
    top_p: float = 1.0,
    max_tokens: int | None = None,
    seed: int = 0,
    engine: VLLMEngine = VLLMEngine(),  # noqa: B008  (frozen)
    store: Path = Path("runs/samples"),
    output: Path | None = None,
) -> str:
    """Evaluate a policy: greedy accuracy, pass@k and maj@k, and accuracy by level, subject or number of steps.

    Solutions go through the sample store: an evaluation that was interrupted goes on, a repeated one draws nothing.

    Args:
        policy: HF folder with weights in safetensors and a tokenizer.
        problems: gsm8k, math, arithmetic or star_graph for their test problems, or any source by class_path, such as
            stepneg.problems.jsonl.Jsonl with --problems.path FILE.
        form: how answers are read and compared (gsm8k, math, number, text); by default what the named problems have.
        marks: where the final answer is looked for; by default the mark that the method trains: #### or \\boxed.
        template: the prompt; {question} is replaced; chat (or chat:SYSTEM MESSAGE) for the tokenizer's own chat
            template. By default that of the fit which exported the policy.
        limit: only the first problems.
        k: samples a problem for pass@k and maj@k.
        temperature: of the samples.
        top_p: of the samples.
        max_tokens: longest solution, in tokens; by default 512 for gsm8k, 1024 for math, 100 for arithmetic.
        seed: of the samples.
        engine: the sampling engine.
        store: folder of the sample store.
        output: folder for evaluation.json, evaluation.jsonl and evaluation.md; by default one of its own below
            runs/evaluations.

    Returns:
        The tables, in Markdown.

    Raises:
        InputError: the policy, the problems or an option cannot be used.
        OSError: ``output`` cannot be written.
    """
    if isinstance(problems, str):
        if problems not in TEST_PROBLEMS:
            raise InputError(
                f"problems: {problems!r} is none of {', '.join(TEST_PROBLEMS)}, and no class of problems; "
                "name one, or a class with its options as --problems stepneg.problems.jsonl.Jsonl --problems.path FILE"
            )
        source, own_form, room = TEST_PROBLEMS[problems]
        name, form = str(problems), form or own_form
    else:
        name, source, room = type(problems).__name__.lower(), problems, 512
        if form is None:
            raise InputError(f"form: not given, and {name} problems do not tell it; choose gsm8k, math or number")
    at_least(1, k=k, **({} if limit is None else {"limit": limit}))
    max_tokens = room if max_tokens is None else max_tokens
    chosen = source.load()[:limit]
    template = template or exported_template(policy) or "{question}\n"
    tokenizer = load_tokenizer(policy, template)
    decoding = Decoding(temperature=temperature, top_p=top_p, max_tokens=max_tokens)
    settings = settings_of(policy, name, chosen, form, marks, template, k, decoding, seed)
    mark = fingerprint({key: value for key, value in settings.items() if key != "policy"})
    home = (
        output or Path("runs/evaluations") / f"{policy.resolve().parent.name}-{policy.resolve().name}-{name}-{mark[:8]}"
    )
    home.mkdir(parents=True, exist_ok=True)  # before anything is sampled
    result = evaluate(engine, SampleStore(store), policy, tokenizer, chosen, template, form, k, decoding, seed, marks)
    result.write(home / "evaluation.json", {"settings": settings})
    text = f"{result.markdown(k)}\n\nwritten to {home}"
    write_whole(home / "evaluation.md", text + "\n")
    return text
