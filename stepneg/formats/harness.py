"""lm-evaluation-harness: our evaluations in the layout of its outputs, and its samples for our grader.

The layout is that of lm_eval 0.4 with ``--log_samples``: ``OUTPUT/MODEL/results_TIME.json`` and
``OUTPUT/MODEL/samples_TASK_TIME.jsonl``, a line a document and filter.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stepneg import __version__
from stepneg.errors import InputError
from stepneg.escaping import visible
from stepneg.evaluation_files import read_evaluation
from stepneg.formats.tables import appearing, write_jsonl
from stepneg.grading.estimators import pass_at_k
from stepneg.problems.records import Record

GREEDY = "greedy"  # the filter: the one solution that was decoded greedily
NO_NAME = r'["<>:/|\\?*\[\]\0-\x1f\x7f\ud800-\udfff]+|^\.*$'  # as lm_eval has it, and what no name should hold
SAMPLED = "samples"  # the filter of what needs several solutions


def responses(records: Iterable[Record]) -> Iterator[Record]:
    """Rows with ``response`` and ``answer``: those of lm_eval's samples are made of ``resps`` and ``target``.

    A document that was sampled several times gives as many rows. lm_eval repeats it for each of a task's filters, of
    which those of the first are read; all others rows are handed on as they are.

    Raises:
        InputError: a row of lm_eval holds no text, as those of multiple choice.
    """
    first: object = None
    for record in records:
        if "resps" not in record.values or "response" in record.values:
            yield record
            continue
        said = record.values.get("filter", "none")
        first = said if first is None else first
        if said != first:
            continue
        found = record.values["resps"]
        texts = found[0] if isinstance(found, list) and len(found) == 1 and isinstance(found[0], list) else None
        if not texts or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{record.where}: resps holds no generated text; only generate_until tasks can be graded")
        for text in texts:
            yield Record(record.where, {**record.values, "response": text, "answer": record.values.get("target")})


def export_evaluation(source: Path, output: Path, task: str | None = None) -> str:
    """Write an evaluation in the layout of lm-evaluation-harness: results_*.json and samples_*.jsonl.

    exact_match under the filter "greedy" is the accuracy of the greedy solutions, of which the samples file has a line
    each; pass@k and maj@k stand under the filter "samples", whose texts an evaluation does not keep.

    Args:
        source: a JSON file of an evaluation, or the directory that holds one: a run with evaluation/test.json, or what
            stepneg evaluate wrote.
        output: folder; the model's name becomes a folder in it.
        task: the task's name; by default that of the problems.

    Returns:
        A line that says what was written.

    Raises:
        InputError: there is no evaluation, or a damaged one, or one of an earlier version, or the output cannot be
            written.
    """
    file = evaluation_file(source)
    settings: Any = read_evaluation(file).get("settings")
    time = datetime.now().isoformat().replace(":", "-")
    try:
        rows = [json.loads(line) for line in file.with_suffix(".jsonl").read_text().splitlines()]
        if not rows[0]["question"]:
            raise LookupError("question")
        task = re.sub(r"[^\w-]+", "-", task or settings["problems"])
        model = re.sub(NO_NAME, "__", settings["policy"])
        prompts, chat = prompts_of(settings, [row["question"] for row in rows])
        samples = [sample(i, row, prompt, settings) for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True))]
        found = results(rows, settings, task, model, samples) | chat
    except InputError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file}: is no evaluation with settings and questions; evaluate again, which draws no sample twice"
        ) from error
    home = output / model
    with appearing(home / f"samples_{task}_{time}.jsonl") as partial:
        write_jsonl(samples, partial)
    with appearing(home / f"results_{time}.json") as partial:
        partial.write_text(json.dumps(found, indent=2) + "\n")
    return visible(f"{home}: results_{time}.json and samples_{task}_{time}.jsonl, {len(rows)} problems")


def evaluation_file(source: Path) -> Path:
    """The JSON file of an evaluation.

    Raises:
        InputError: there is none.
    """
    places = (source, source / "evaluation.json", source / "evaluation" / "test.json")
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputError(f"{source}: holds neither evaluation.json nor evaluation/test.json; name an evaluation")
    return found


def prompts_of(settings: Mapping[str, Any], questions: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The prompts as the model saw them, and what lm_eval says of the chat template.

    Raises:
        InputError: they were of a chat template, and the policy is not there any more.
    """
    template = settings["template"]
    chat: dict[str, Any] = {"chat_template": None, "system_instruction": None, "fewshot_as_multiturn": None}
    if template.partition(":")[0] != "chat":  # else transformers is imported
        prompts = [template.replace("{question}", question) for question in questions]
    else:
        from stepneg.chat_template import opening, prompt_text
        from stepneg.policy_folder import load_tokenizer

        tokenizer = load_tokenizer(Path(settings["policy"]), template)
        prompts = [prompt_text(tokenizer, template, question) for question in questions]
        chat["chat_template"] = str(tokenizer.chat_template)
        chat["system_instruction"] = next((message["content"] for message in opening(template)), None)
    for name in ("chat_template", "system_instruction"):
        chat[f"{name}_sha"] = chat[name] and sha256(chat[name].encode()).hexdigest()
    return prompts, chat


def sample(number: int, row: Mapping[str, Any], prompt: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the samples file."""
    known = {"id": row["problem_id"], "question": row["question"], "answer": row["answer"]}
    doc = known | row["meta"] | known  # a fact may have a name of these
    texts = {"doc": json.dumps(doc, indent=2, ensure_ascii=False), "prompt": prompt, "target": row["answer"]}
    return {
        "doc_id": number,
        "doc": doc,
        "target": row["answer"],
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": generation(settings)}},
        "resps": [[row["greedy"]]],
        "filtered_resps": [row["extracted"] or ""],
        "filter": GREEDY,
        "metrics": ["exact_match"],
        **{f"{name}_hash": sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for name, text in texts.items()},
        "exact_match": float(row["correct"]),
    }


def generation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """How the greedy solutions were decoded, in lm_eval's words; they end at EOS alone."""
    return {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": settings["max_tokens"]}


def results(
    rows: list[dict[str, Any]],
    settings: Mapping[str, Any],
    task: str,
    model: str,
    samples: list[dict[str, Any]],
) -> dict[str, Any]:
    """What results_*.json holds."""
    k, size = settings["k"], len(rows)
    scores = {
        ("exact_match", GREEDY): [float(row["correct"]) for row in rows],
        (f"pass@{k}", SAMPLED): [pass_at_k(k, row["samples_correct"], k) for row in rows],
        (f"maj@{k}", SAMPLED): [float(row["majority_correct"]) for row in rows],
    }
    metrics: dict[str, Any] = {"name": task, "alias": task, "sample_len": size}
    for (name, kind), values in scores.items():
        metrics |= {f"{name},{kind}": sum(values) / size, f"{name}_stderr,{kind}": standard_error(values)}
    names = [name for name, _ in scores]
    config = {
        "task": task,
        "output_type": "generate_until",
        "doc_to_text": settings["template"].replace("{question}", "{{question}}"),
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": n, "aggregation": "mean", "higher_is_better": True} for n in names],
        "generation_kwargs": generation(settings),
        "repeats": 1,
        "num_fewshot": 0,
        "filter_list": [{"name": GREEDY}, {"name": SAMPLED}],
        "metadata": {"version": __version__, **settings},
    }
    hashes = "".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in samples)
    return {
        "results": {task: metrics},
        "group_subtasks": {},
        "configs": {task: config},
        "versions": {task: __version__},
        "n-shot": {task: 0},
        "higher_is_better": {task: dict.fromkeys(names, True)},
        "n-samples": {task: {"original": size, "effective": size}},
        "config": {
            "model": "stepneg",
            "model_args": {"pretrained": settings["policy"]},
            "model_sha": settings["policy_fingerprint"],
            "limit": None,
            "bootstrap_iters": 0,
            "gen_kwargs": {},
            "random_seed": settings["seed"],
        },
        "git_hash": None,
        "date": datetime.now().timestamp(),
        "transformers_version": version("transformers"),
        "lm_eval_version": None,  # lm_eval had no part in it
        "task_hashes": {task: sha256(hashes.encode()).hexdigest()},
        "model_source": "stepneg",
        "model_name": settings["policy"],
        "model_name_sanitized": model,
        "total_evaluation_time_seconds": None,
    }


def standard_error(values: list[float]) -> float | str:
    """Of a mean, from the sample variance as lm_eval has it; "N/A" of a single value."""
    size = len(values)
    if size < 2:
        return "N/A"
    middle = sum(values) / size
    return float((sum((v - middle) ** 2 for v in values) / (size - 1) / size) ** 0.5)
