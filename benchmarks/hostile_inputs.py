"""Inputs that are to break what reads them: of each kind a reader that makes one by a random generator and reads it.

Real rows, outputs and configurations are cut, spliced and filled with what parsers choke on. What a run leaves behind
has readers in :mod:`benchmarks.hostile_runs`.
"""

import contextlib
import io
import json
import random
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
POLICY = ROOT / "assets" / "arithmetic-base"
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
Reader = Callable[[random.Random, Path], object]

SMALL = [
    b"\0", b"\x1b]0;x\x07", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\\ud800", b"\\u0000", b"\r",
    b"\n", b"\xe2\x80\xa8", "\u202e".encode(), "\u2066\u200f".encode(), "e\u0301".encode() * 20,
    "\U0001f469\u200d".encode(),
    b"</s>", b"<s>", b"<|im_start|>", b"<|im_end|>", b"<|endoftext|>", b"<pad>", b"{question}",
    b"<script>alert(1)</script>",
    b"![x](http://x.example/y.png)", b"| a | b |", b"<!-- end -->", b"\\boxed{", b"\\boxed ", b"\\fbox{", b"#### ",
    b"The answer is ", b"\nA: ", b"}", b"{", b'"', b"\\", b"[", b"]", b"1e999999", b"-1e-999999", b"NaN", b"Infinity",
    b"10^{10^{10}}", b"9^{9^{9^{9}}}", b"999999999!", b"((9!)!)!", b"\\frac{1}{0}", b"\\sqrt[0]{2}", b"1/0",
    b"0.\\overline{0}",
    b"9" * 5000, b"1," * 400, b"../../../etc/passwd", b"/dev/zero", b"$(touch ran)", b"; touch ran", b"${HOME}",
    b"!!python/object/apply:os.system ['touch ran']", b"&a [*a]", b"*a", b"<<: *a", b"\t", b": ", b"- ",
    b"null", b"true",
    b"class_path: os.system",
]  # fmt: skip
LARGE = [
    b"{" * 100_000, b"[" * 100_000, b"(" * 100_000, b"\\boxed{" * 20_000, b"\\frac{" * 20_000, b'{"a":' * 50_000,
    b"- " * 50_000,
    b"x" * 1_000_000, b"9" * 1_000_000, b" " * 1_000_000, b"\\" * 1_000_000, b"<" * 1_000_000, b"}" * 1_000_000,
    b"$" * 200_000, b"1+" * 200_000, b"1,111" * 200_000, b"answer is " * 100_000, b"####" * 200_000,
    "\ufdfa".encode() * 100_000,
]  # fmt: skip
VALUES: list[object] = [
    None, True, -1, 0, 10**12, 10**400, 1.5, float("nan"), float("inf"), "", " ", "x", "\0", "\ud800", "\u202e", [],
    [[]], {},
    {"a": {}}, [1, "x"], "9" * 5000, -(10**30), "../x", "/tmp/x",
]  # fmt: skip


def mutated(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Data with one to four changes: cut, doubled, spliced, a byte changed, something put in, seldom large."""
    for _ in range(rng.randint(1, 4)):
        start, end = sorted(rng.randint(0, len(data)) for _ in range(2))
        match rng.randrange(7):
            case 0:
                data = data[:start]
            case 1:
                data = data[:end] + data[start:]
            case 2:
                data = data[:start] + data[end:]
            case 3:
                data = data[:start] + rng.choice(others)[rng.randint(0, 50) :]
            case 4 if data:
                data = data[: start - 1] + bytes([rng.randrange(256)]) + data[start:]
            case _:
                put = rng.choice(LARGE) if rng.random() < 0.02 else rng.choice(SMALL)
                data = data[:start] + put + data[start:]
        data = data[:3_000_000]
    return data


def changed(rng: random.Random, value: Any) -> Any:
    """A JSON value in which one value is another, a key is missing, doubled in depth or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        match rng.randrange(5):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return value | {rng.choice(SMALL).decode(errors="replace"): value[key]}
            case 2:
                return value | {key: rng.choice(VALUES)}
            case _:
                return value | {key: changed(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        return [*value[:place], changed(rng, value[place]), *value[place + 1 :]]
    if isinstance(value, str) and rng.random() < 0.5:
        return mutated(rng, value.encode(), [value.encode()]).decode(errors="replace")
    return rng.choice(VALUES)


def text_of(rng: random.Random, texts: Sequence[str]) -> str:
    """A changed text; at times of characters that UTF-8 has not."""
    data = mutated(rng, rng.choice(texts).encode(), [t.encode() for t in rng.sample(texts, 2)])
    return data.decode(errors=rng.choice(["replace", "ignore"]))


def json_lines(rng: random.Random, rows: Sequence[Any]) -> bytes:
    """A few rows as JSONL, changed as values, as bytes or both."""
    some = [changed(rng, row) if rng.random() < 0.5 else row for row in rng.sample(rows, 3)]
    data = b"".join(json.dumps(row).encode() + b"\n" for row in some)
    return mutated(rng, data, [data]) if rng.random() < 0.6 else data


@cache
def rows_of(name: str) -> list[dict[str, Any]]:
    """The first rows of a file in assets/."""
    with (ROOT / "assets" / name).open() as lines:
        return [json.loads(line) for line, _ in zip(lines, range(400), strict=False)]


@cache
def texts_of(name: str) -> list[str]:
    """All texts of those rows."""
    return [value for row in rows_of(name) for value in row.values() if isinstance(value, str)]


def problem_files(rng: random.Random, folder: Path) -> object:
    """GSM8K and MATH rows as JSONL, by the three sources that read files."""
    from stepneg.problems import ProblemSource
    from stepneg.problems.contamination import contamination
    from stepneg.problems.gsm8k import GSM8K
    from stepneg.problems.jsonl import Jsonl
    from stepneg.problems.math import MATH

    kind = rng.choice(["gsm8k", "math"])
    file = folder / "rows.jsonl"
    file.write_bytes(json_lines(rng, rows_of(f"{kind}/train.jsonl")))
    sources: list[ProblemSource] = (
        [GSM8K(path=file), Jsonl(file, answer_key="question", solution_key="answer")]
        if kind == "gsm8k"
        else [MATH(path=file), Jsonl(file, "problem", "problem", "solution", meta_keys=("level", "type"))]
    )
    problems = rng.choice(sources).load()
    for problem in problems:
        problem.question.encode()
        problem.answer.encode()
    return contamination(problems, problems)


@cache
def columnar() -> dict[str, bytes]:
    """A few rows of GSM8K as Parquet and as an Arrow stream."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(rows_of("gsm8k/train.jsonl")[:20])
    parquet, arrow = io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet)
    with pa.ipc.new_stream(arrow, table.schema) as stream:
        stream.write_table(table)
    return {".parquet": parquet.getvalue(), ".arrow": arrow.getvalue()}


def column_files(rng: random.Random, folder: Path) -> object:
    """The same rows as Parquet and Arrow files, damaged."""
    from stepneg.problems.gsm8k import GSM8K

    suffix = rng.choice([".parquet", ".arrow"])
    data = bytearray(columnar()[suffix])
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    file = folder / f"rows{suffix}"
    file.write_bytes(mutated(rng, bytes(data), [bytes(data)]) if rng.random() < 0.3 else data)
    return GSM8K(path=file).load()


def graded_files(rng: random.Random, folder: Path) -> object:
    """Responses with references, as ``stepneg grade`` reads and writes them."""
    from stepneg.grading.batch import grade_file

    rows = [{"response": t, "answer": "18"} for t in texts_of("gsm8k/train.jsonl")]
    (folder / "rows.jsonl").write_bytes(json_lines(rng, rows))
    return grade_file(folder / "rows.jsonl", rng.choice(["gsm8k", "number", "text"]), folder / "out.jsonl")


def outputs(rng: random.Random, folder: Path) -> object:
    """Final answers of outputs in every form; formulas as far as they are read without computer algebra."""
    from stepneg.grading import compare
    from stepneg.grading.verifier import EVERY, grade

    compare.symbolically_equal = lambda *_: None  # type: ignore[attr-defined]  # has a row of its own
    texts = texts_of(rng.choice(["gsm8k/train.jsonl", "math/train.jsonl"]))
    response, reference = text_of(rng, texts), text_of(rng, texts)[: rng.choice([10, 100, 10_000])]
    return [grade(response, reference, form, EVERY[form]) for form in ("gsm8k", "number", "math", "text")]


def formulas(rng: random.Random, folder: Path) -> object:
    """References of MATH, changed, against others by computer algebra in its child process with its own limits."""
    from benchmarks.perturbations import references
    from stepneg.grading.verifier import grade

    texts = sorted({text for text in references() if text})
    return grade(rf"\boxed{{{text_of(rng, texts)[:300]}}}", rng.choice(texts), "math")


def steps(rng: random.Random, folder: Path) -> object:
    """Outputs cut into steps by their tokens, by every rule."""
    from typing import get_args

    from stepneg.credit.steps import Rule, split_steps
    from stepneg.data.rows import decode, encode_text

    tokenizer = tokenizers()[0]
    ids = encode_text(tokenizer, text_of(rng, texts_of("math/train.jsonl"))[:4000])
    for rule in get_args(Rule):
        ends = split_steps(ids, partial(decode, tokenizer), rule)
        assert not ids or (list(ends) == sorted(set(ends)) and ends[-1] == len(ids))
    return None


@cache
def tokenizers() -> list[Any]:
    """The arithmetic task's tokenizer, and the same with the turns of a chat."""
    from stepneg.policy_folder import load_tokenizer

    plain, chat = (load_tokenizer(POLICY) for _ in range(2))
    chat.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]})
    chat.chat_template = CHAT
    return [plain, chat]


def prompts(rng: random.Random, folder: Path) -> object:
    """Questions and solutions in token ids: control tokens are the template's and the end, whatever the text says."""
    from stepneg.data.rows import control_ids, encode_prompt, encode_response

    tokenizer = rng.choice(tokenizers())
    template = rng.choice(["{question}\n", "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"])
    text = text_of(rng, texts_of("gsm8k/train.jsonl"))[: 10_000 if rng.random() < 0.98 else None]
    control = control_ids(tokenizer)
    own = [i for i in tokenizer(template.replace("{question}", "x"))["input_ids"] if i in control]
    ids = encode_prompt(tokenizer, template, text)
    assert [i for i in ids if i in control] == own
    assert tokenizer.decode(list(ids)) == template.replace("{question}", text)
    assert [i for i in encode_response(tokenizer, text) if i in control] == [tokenizer.eos_token_id]
    return None


@cache
def shipped() -> dict[Path, bytes]:
    """All shipped configurations."""
    return {file: file.read_bytes() for file in sorted((ROOT / "configs").glob("**/*.yaml"))}


def configurations(rng: random.Random, folder: Path) -> object:
    """Chains as YAML, changed as values, as text or with aliases that grow, parsed to their command lines."""
    import yaml

    import stepneg.training  # noqa: F401  (GBs of address space, when a class is named: before the limit is set)
    from stepneg.commands import run

    chains = [file for file, text in shipped().items() if b"stages:" in text and len(text) < 4000]
    chain = rng.choice(chains)
    for beside in chain.parent.iterdir():
        (folder / beside.name).symlink_to(beside)
    data = shipped()[chain]
    verb = "sweep" if b"sizes:" in data else "pipeline"
    if rng.random() < 0.5:
        data = yaml.safe_dump(changed(rng, yaml.safe_load(data))).encode()
    if rng.random() < 0.1:
        grown = (f"  m{i}: &m{i} {{a: *m{i - 1}, b: *m{i - 1}}}\n" for i in range(1, rng.randint(2, 60)))
        data += f"constants:\n  m0: &m0 {{a: 1}}\n{''.join(grown)}".encode()
    if rng.random() < 0.6:
        data = mutated(rng, data, list(shipped().values()))
    file = folder / "changed.yaml"
    file.write_bytes(data)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        run([verb, f"--config={file}", f"--root={folder}/runs", "--dry_run"])
    assert not (folder / "runs").exists()
    return None


def tables(rng: random.Random, folder: Path) -> object:
    """Texts in a cell of Markdown, as TensorBoard renders it: the very text, and no tag."""
    import html

    from tensorboard.plugin_util import markdown_to_safe_html

    from stepneg.escaping import markdown, visible

    text = text_of(rng, texts_of("math/train.jsonl"))[:5000]
    page = markdown_to_safe_html(f"| a |\n|---|\n| {markdown(text)} |")
    inside = page.partition("<td>")[2].partition("</td>")[0].replace("<br>", "\n")
    assert "<" not in inside
    assert html.unescape(inside).split() == visible(text).split()
    return None


@cache
def asked() -> list[Any]:
    """Problems that are short enough for the arithmetic task's policy, with worked solutions."""
    from stepneg.problems.arithmetic import Arithmetic

    return Arithmetic(size=20).load()


def harness_files(rng: random.Random, folder: Path) -> object:
    """Rows as lm-evaluation-harness logs them, by ``stepneg grade``: each text of the first filter once."""
    from stepneg.grading.batch import grade_file

    rows = [
        {"doc_id": i, "doc": {"question": p.question}, "target": p.solution, "filter": kind, "exact_match": 1.0}
        | {"resps": [[p.solution, "So 3."][: 1 + i % 2]], "filtered_resps": [p.answer]}
        for kind in ("strict-match", "flexible-extract")
        for i, p in enumerate(asked())
    ]
    (folder / "samples.jsonl").write_bytes(json_lines(rng, rows))
    found = grade_file(folder / "samples.jsonl", rng.choice(["gsm8k", "number", "text"]), folder / "out.jsonl")
    graded = [json.loads(line) for line in (folder / "out.jsonl").open()]
    assert found["rows"] == len(graded) > 0
    assert all(isinstance(row["response"], str) and type(row["correct"]) is bool for row in graded)
    return found


@cache
def solution_rows() -> list[dict[str, Any]]:
    """Solutions of elsewhere in every form that is read."""
    from stepneg.data.rows import encode_response

    rows: list[dict[str, Any]] = []
    for p in asked():
        ids = list(encode_response(tokenizers()[0], p.solution))
        rows += [
            {"problem_id": p.id, "response": p.solution, "logprob": -2.5, "finish_reason": "stop"},
            {"question": p.question, "response_ids": ids, "response": p.solution},
            {"prompt": f"{p.question}\n", "response_ids": ids[:-1], "logprob": None},
            {"prompt": [{"role": "user", "content": p.question}], "response": "So", "finish_reason": "length"},
        ]
    return rows


def imports(rng: random.Random, folder: Path) -> object:
    """Solutions of elsewhere into a store: all or nothing, of the policy's tokens alone, and a second time nothing."""
    from stepneg.data.pairs import Pairs
    from stepneg.data.rollouts import Rollouts
    from stepneg.formats import solutions
    from stepneg.sampling.store import Sampler
    from stepneg.sampling.vllm_engine import VLLMEngine

    file, store = folder / "solutions.jsonl", folder / "store"
    file.write_bytes(json_lines(rng, solution_rows()))
    rollouts = Rollouts(VLLMEngine(), store, max_tokens=100)
    problems = SimpleNamespace(load=lambda: [*asked()])
    fit = SimpleNamespace(data=Pairs(rollouts, policy=POLICY, problems=problems))
    resolver, load = SimpleNamespace(resolve=lambda argv: fit), tokenizers()[0]
    with patch.multiple(solutions, resolver=lambda _: resolver, load_tokenizer=lambda *_: load):
        try:
            said = solutions.import_solutions(str(file), [])
        except ValueError:
            assert not list(store.glob("*/*.jsonl"))
            raise
        kept = [row for meta in store.glob("*/meta.json") for row in Sampler(meta.parent).rows()]
        assert said.startswith(f"{len(kept)} solutions of ")
        for _, _, done in kept:
            assert all(0 <= i < len(tokenizers()[0]) for i in done.token_ids)
        assert solutions.import_solutions(str(file), []).startswith("0 solutions of ")
    return said


@cache
def preference_rows() -> list[dict[str, Any]]:
    """Pairs in every form of TRL's, with token ids or without."""
    from stepneg.data.rows import encode_prompt, encode_response

    rows: list[dict[str, Any]] = []
    for p in asked():
        answers = {"chosen": p.solution, "rejected": f"So.\n{p.solution}"}
        said = {name: [{"role": "assistant", "content": text}] for name, text in answers.items()}
        user = [{"role": "user", "content": p.question}]
        ids = {f"{name}_ids": list(encode_response(tokenizers()[0], text)) for name, text in answers.items()}
        ids["prompt_ids"] = list(encode_prompt(tokenizers()[0], "{question}\n", p.question))
        rows += [
            {"prompt": f"{p.question}\n"} | answers,
            {name: f"{p.question}\n{text}" for name, text in answers.items()},
            {"prompt": [{"role": "system", "content": "Be brief."}, *user]} | said,
            {name: user + answer for name, answer in said.items()},
            {"prompt": f"{p.question}\n", "question": p.question, "shared": 0} | answers | ids,
        ]
    return rows


def preferences(rng: random.Random, folder: Path) -> object:
    """Given pairs into training data, which is kept and read back; control tokens in texts are the template's."""
    from stepneg.data.pairs import GivenPairs
    from stepneg.data.prepared import read_built, write_built
    from stepneg.data.rows import control_ids
    from stepneg.fingerprint import fingerprint

    file, template = folder / "pairs.jsonl", rng.choice(["{question}\n", "chat", "chat:Be brief."])
    chat = template != "{question}\n"
    file.write_bytes(json_lines(rng, [row for row in preference_rows() if isinstance(row["chosen"], list) == chat]))
    tokenizer = tokenizers()[chat]
    data = GivenPairs(str(file), cut=rng.random() < 0.5, policy=POLICY, template=template, skip_long=rng.random() < 0.5)
    fingerprint(data.settings())
    problems = data.load_problems()
    with patch.object(data, "with_reference", lambda examples: examples):  # a model's; it reads ids that were checked
        built = data.build(problems, tokenizer)
    write_built(built, folder / "data" / "built.jsonl", problems)
    assert read_built(folder / "data" / "built.jsonl").examples == built.examples
    control = control_ids(tokenizer)
    for pair in [] if b"_ids" in file.read_bytes() else built.examples:
        for row in pair:
            assert control.isdisjoint(row.response_ids[:-1])
    return built


READERS: dict[str, tuple[str, Reader, int]] = {
    "problem_files": ("problem files (JSONL)", problem_files, 20_000),
    "column_files": ("problem files (Parquet, Arrow)", column_files, 5_000),
    "graded_files": ("files of responses (JSONL)", graded_files, 10_000),
    "harness_files": ("samples of lm-evaluation-harness", harness_files, 10_000),
    "imports": ("solutions to import", imports, 3_000),
    "preferences": ("pairs in TRL's format", preferences, 5_000),
    "outputs": ("model outputs: answers found and compared", outputs, 20_000),
    "formulas": ("formulas by computer algebra", formulas, 300),
    "steps": ("model outputs: cut into steps", steps, 3_000),
    "prompts": ("questions and solutions into token ids", prompts, 10_000),
    "configurations": ("configurations (YAML)", configurations, 2_000),
    "tables": ("text in Markdown and TensorBoard", tables, 10_000),
}
