"""Greedy accuracy, pass@k and maj@k of a policy folder on problems, with 95 % intervals."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from stepneg.data.rows import decode, encode_prompt
from stepneg.grading import Verdict, grade
from stepneg.grading.metrics import Accuracy, MajAtK, PassAtK
from stepneg.problems import Problem
from stepneg.sampling.engine import Decoding, Engine
from stepneg.sampling.sampler import sample
from stepneg.sampling.store import SampleStore


@dataclass(frozen=True)
class Evaluated:
    """One problem: the greedy solution with its verdict, and the verdicts of ``k`` samples."""

    problem_id: str
    greedy: str
    correct: bool
    extracted: str | None
    rule: str
    truncated: bool
    samples_correct: int
    samples: tuple[str | None, ...]  # extracted answers


@dataclass(frozen=True)
class Evaluation:
    """Metrics (name to value) and the problems they are made of."""

    metrics: dict[str, float]
    problems: list[Evaluated]

    def write(self, file: Path) -> None:
        """Metrics to ``file`` (JSON), the problems beside it (JSONL)."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.with_suffix(".jsonl").open("w") as out:
            out.writelines(json.dumps(asdict(problem)) + "\n" for problem in self.problems)
        file.write_text(json.dumps(self.metrics, indent=1) + "\n")


def evaluate(
    engine: Engine,
    store: SampleStore,
    policy: Path,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    template: str,
    form: str,
    k: int,
    sampled: Decoding,
    seed: int,
) -> Evaluation:
    """Decode each problem greedily once and ``k`` times by sampling; grade; aggregate.

    Returns:
        Metrics ``accuracy``, ``pass@k``, ``maj@k`` each with ``_low`` and ``_high`` (95 %), and the rates
        ``no_answer`` and ``truncated`` of the greedy solutions.
    """
    prompts = [encode_prompt(tokenizer, template, p.question) for p in problems]
    greedy = Decoding(temperature=0.0, top_p=1.0, max_tokens=sampled.max_tokens)
    first = sample(engine, store, policy, prompts, 1, greedy, seed, title="evaluate: greedy")
    many = sample(engine, store, policy, prompts, k, sampled, seed, title=f"evaluate: {k} samples")
    # One process has all problems; the others of a distributed fit are not here to be gathered.
    alone = {"sync_on_compute": False}
    accuracy, pass_at_k, maj_at_k = Accuracy(**alone), PassAtK(k, **alone), MajAtK(k, **alone)
    rows = []
    for index, (problem, prompt) in enumerate(zip(problems, prompts, strict=True)):
        done = first.completions[prompt][0]
        text = decode(tokenizer, done.token_ids)
        verdict = grade(text, problem.answer, form)
        verdicts = [grade(decode(tokenizer, c.token_ids), problem.answer, form) for c in many.completions[prompt]]
        accuracy.update(index, verdict.correct)
        pass_at_k.update(index, [v.correct for v in verdicts])
        maj_at_k.update(index, verdicts, problem.answer)
        rows.append(
            Evaluated(
                problem.id, text, verdict.correct, verdict.extracted, verdict.rule, done.finish_reason == "length",
                sum(v.correct for v in verdicts), tuple(v.extracted for v in verdicts),
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
    metrics["truncated"] = sum(r.truncated for r in rows) / len(rows)
    metrics["problems"] = len(rows)
    return Evaluation(metrics, rows)


__all__ = ["Evaluated", "Evaluation", "Verdict", "evaluate"]
