"""Many responses at once: graded side by side where formulas are, in order, and a whole JSONL file of them."""

import json
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from stepneg.errors import InputError, at_least
from stepneg.grading.compare import LONGEST_ANSWER
from stepneg.grading.estimators import wilson
from stepneg.grading.extract import last_boxed
from stepneg.grading.number import as_number
from stepneg.grading.symbolic import POOL
from stepneg.grading.verifier import EVERY, Form, Mark, Verdict, find_answer, grade
from stepneg.links import place_of
from stepneg.problems.records import TABLES, Record, any_records
from stepneg.progress import Bar

CHUNK = 16  # responses that a thread takes at once
AHEAD = 512  # chunks that are being graded, or wait for one before them


def grade_all(
    items: Iterable[tuple[str, str]], form: Form, marks: Sequence[Mark] | None = None, workers: int | None = None
) -> Iterator[Verdict]:
    """Verdicts of (response, reference) in their order, a bounded number of them in memory.

    Formulas are compared in as many child processes as ``workers``, while items go on being read; numbers need none and
    are not worth a thread.

    Args:
        items: responses with their bare references.
        form: as in :func:`~stepneg.grading.verifier.grade`.
        marks: as in :func:`~stepneg.grading.verifier.grade`.
        workers: comparisons at a time; None for one a core.
    """
    if form != "math":
        yield from (grade(response, reference, form, marks) for response, reference in items)
        return

    def some(chunk: list[tuple[str, str]]) -> list[Verdict]:
        return [grade(response, reference, form, marks) for response, reference in chunk]

    rest = iter(items)
    going: deque[Future[list[Verdict]]] = deque()
    with ThreadPoolExecutor(workers or len(POOL.workers), "grade") as threads:
        while chunk := list(islice(rest, CHUNK)):
            going.append(threads.submit(some, chunk))
            while going and (going[0].done() or len(going) >= AHEAD):
                yield from going.popleft().result()
        while going:
            yield from going.popleft().result()


def reference_answer(text: str, form: Form) -> str | None:
    r"""The bare answer of a reference: the answer itself, or a worked solution that marks it (``####``, ``\boxed``).

    Returns:
        None where a text of several lines, or a long one, marks none.
    """
    bare = text.strip()
    if form == "text":
        return bare or None
    if form == "math":
        found = last_boxed(bare)
    else:
        marked = None if as_number(bare) is not None else find_answer(bare, form, ("hashes", "boxed", "stated"))
        found = marked[0] if marked else None
    if found:
        return found
    is_solution = len(bare) > LONGEST_ANSWER or (form != "math" and "\n" in bare)
    return None if is_solution or not bare else bare


def read_row(record: Record, form: Form) -> tuple[str, str]:
    """Response and bare reference of a row.

    Raises:
        InputError: a key is missing or not text, or the reference states no answer.
    """
    response = record.text("response", empty=True)
    reference = reference_answer(record.text_or_number("answer"), form)
    if reference is None:
        mark = r"\boxed{...}" if form == "math" else "'#### ...'"
        raise InputError(f"{record.where}: key 'answer' is a solution without {mark}; mark or give its final answer")
    return response, reference


def grade_file(
    file: Path,
    dataset: Form,
    output: Path,
    marks: list[Mark] | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Grade the responses of any model: rows of JSONL or Parquet with ``response`` and ``answer``.

    The samples of lm-evaluation-harness (samples_TASK_*.jsonl of --log_samples) are read as they are.

    Each row is written again with ``extracted``, ``correct``, ``rule``, ``why`` and ``mark``. ``output`` appears when
    all rows are graded. Rows are checked before the first is graded, so that a bad one costs nothing.

    Args:
        file: JSONL, Parquet or a folder of datasets; ``response`` is the model's text, ``answer`` the reference answer
            or a reference solution.
        dataset: how answers are read and compared: gsm8k, math (formulas), number or text (the same characters).
        output: where the graded rows go.
        marks: where the final answer is looked for, in this order: hashes (####), boxed, stated ("the answer is"),
            last_number, whole (the whole response). By default all but the last: gsm8k and number in this order, math
            without hashes; for text only the last.
        workers: formulas compared at a time; by default one a core.

    Returns:
        The summary: rows, correct, accuracy with its 95 % interval, counts by rule and by mark.

    Raises:
        InputError: a row is malformed, or a file cannot be read or written.
    """
    from stepneg.formats.harness import responses  # which imports this package

    if workers is not None:
        at_least(1, workers=workers)
    if output.suffix in TABLES:
        raise InputError(f"{output}: graded rows are written as JSON lines; name a .jsonl file")
    output = place_of(output)
    total = 0
    for record in responses(any_records(file)):
        read_row(record, dataset)
        total += 1
    if not total:
        raise InputError(f"{file}: holds no rows; give a file with one JSON object a line")
    if output.exists() and file.exists() and output.samefile(file):
        raise InputError(f"{output}: is the file that is read; name another output")
    marks = list(EVERY[dataset]) if marks is None else marks
    rules: Counter[str] = Counter()
    found: Counter[str] = Counter()
    correct = 0
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as out, Bar("grade", total, "rows") as bar:
            verdicts = grade_all((read_row(r, dataset) for r in responses(any_records(file))), dataset, marks, workers)
            for done, (record, verdict) in enumerate(zip(responses(any_records(file)), verdicts, strict=True), 1):
                row = {**record.values, "extracted": verdict.extracted, "correct": verdict.correct}
                row |= {"rule": verdict.rule, "why": verdict.why, "mark": verdict.mark}
                out.write(json.dumps(row) + "\n")
                rules[verdict.rule] += 1
                found[verdict.mark or "none"] += 1
                correct += verdict.correct
                bar.advance(1, done)
        partial.replace(output)
    except OSError as error:
        raise InputError(f"{output}: {error.strerror or error}; give a place that can be written") from error
    finally:
        with suppress(OSError):
            partial.unlink()
    low, high = wilson(correct, total)
    summary: dict[str, Any] = {"rows": total, "correct": correct, "accuracy": correct / total}
    summary |= {"accuracy_low": low, "accuracy_high": high}
    summary |= {"unparsable": rules["unparsable"], "no_answer": rules["no_answer"]}
    return summary | {"rules": dict(rules.most_common()), "marks": dict(found.most_common())}
