"""Inputs that are to break what reads them: of each kind a reader that makes one by a random generator and reads it.

Real rows, outputs, shards, configurations and run directories are cut, spliced and filled with what parsers choke on.
"""

import contextlib
import io
import json
import os
import pickle
import random
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
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

    plain, chat = (load_tokenizer(ROOT / "assets" / "arithmetic-base") for _ in range(2))
    chat.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]})
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


def stores(rng: random.Random, folder: Path) -> object:
    """Shards and their lists, torn, damaged or prepared: with a checksum that fits."""
    from stepneg.sampling.engine import Completion
    from stepneg.sampling.store import Sampler, Writer, checksum, contents

    with Writer(folder) as writer:
        for prompt in "ab":
            writer.add(prompt, 0, [Completion((5, 6, 2), -1.0, "stop"), Completion((7,), -2.0, "length")])
    shard, listed = writer.shard, contents(writer.shard)
    rows = [json.loads(line) for line in shard.read_text().splitlines()]
    if rng.random() < 0.5:
        rows = [changed(rng, row) for row in rows]
        rows = [row | {"crc": checksum(row)} if isinstance(row, dict) else row for row in rows]
        shard.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if rng.random() < 0.6:
        shard.write_bytes(mutated(rng, shard.read_bytes(), [shard.read_bytes()]))
    if rng.random() < 0.5:
        listed.write_bytes(mutated(rng, listed.read_bytes(), [listed.read_bytes()]))
    sampler = Sampler(folder)
    for _, index, completion in sampler.rows():
        assert index >= 0
        assert all(type(i) is int and i >= 0 for i in completion.token_ids)
    return sampler.read({"a"})


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


def run_directories(rng: random.Random, folder: Path) -> object:
    """What a test leaves behind, read by report and compare."""
    from stepneg.analysis import sections
    from stepneg.analysis.paired import compare_files
    from stepneg.analysis.report import tested_runs

    name = rng.choice(["sft", "a|b", "x y", "<img src=x>", "\u202ex", "$\\frac", "a\nb", "y\udcff", "![x](http:y)"])
    home = folder / "runs" / "seed-0" / name
    (home / "evaluation").mkdir(parents=True)
    problem = {"correct": True, "majority_correct": False, "samples_correct": 1, "samples": ["1", None]}
    problems = [problem | {"problem_id": i} for i in "abcd"]
    scores = {f"{n}{e}": 0.5 for n in ("accuracy", "pass@5", "maj@5") for e in ("", "_low", "_high")}
    files = {"evaluation/test.json": scores | {"problems": 4}, "summary.json": {"problems": 4, "seconds": 1.5}}
    for place, values in files.items():
        data = json.dumps(changed(rng, values) if rng.random() < 0.4 else values).encode()
        (home / place).write_bytes(mutated(rng, data, [data]) if rng.random() < 0.2 else data)
    lines = "".join(json.dumps(row) + "\n" for row in problems).encode()
    (home / "evaluation" / "test.jsonl").write_bytes(json_lines(rng, problems) if rng.random() < 0.3 else lines)
    (home / "config.yaml").write_bytes(mutated(rng, b"data: {batch_size: 4}\n", [b"model: {path: x}\n"]))
    frame, damaged = tested_runs([folder])
    for read in (sections.by_fact, sections.origin_text, sections.results, sections.over_seeds):
        read(frame)
    sections.data_table(frame, damaged)
    sections.settings_text(frame, damaged)
    return compare_files(home, home)


@cache
def policy_files() -> dict[str, bytes]:
    """The arithmetic task's policy by file, with the head of its weights alone."""
    folder = ROOT / "assets" / "arithmetic-base"
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    size = int.from_bytes(files["model.safetensors"][:8], "little")
    return files | {"model.safetensors": files["model.safetensors"][: size + 8]}


def policy_folders(rng: random.Random, folder: Path) -> object:
    """A policy's configuration, tokenizer and head of its weights, with Python beside them that leaves a file."""
    from stepneg.policy import load_model
    from stepneg.policy_folder import context_length, load_tokenizer

    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    for name, data in policy_files().items():
        (folder / name).write_bytes(data)
    name = rng.choice(["config.json", "config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors"])
    data = policy_files()[name]
    if name.endswith("config.json") and rng.random() < 0.7:
        named = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", None]}
        auto: dict[str, object] = {"auto_map": named}
        more: dict[str, object] = rng.choice(
            [{}, auto, {"_attn_implementation": "some/kernel"}, {"model_type": "x"} | auto]
        )
        values = changed(rng, json.loads(data))
        data = json.dumps(values | more if isinstance(values, dict) else values).encode()
    else:
        data = mutated(rng, data, [data])
    (folder / name).write_bytes(data)
    loads: list[Callable[[Path], object]] = [load_tokenizer, load_model]
    load = rng.choice([*loads, context_length] if name == "config.json" else loads)
    try:
        return load(folder)
    finally:
        assert not (folder / "ran").exists()


class Runs:
    """A pickle of it runs a command when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.file}",)


def indices(rng: random.Random, folder: Path) -> object:
    """Indices of checkpoints in parts: damaged, spliced, and with a command put into the pickle."""
    import torch
    from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

    from stepneg.pickles import check_index

    whole: object = Metadata({}, {"a": "b"}, {MetadataIndex("a"): torch.Size([2])})
    if rng.random() < 0.5:
        whole = rng.choice(
            [[whole, Runs(folder / "ran")], {"a": Runs(folder / "ran")}, Runs(folder / "ran"), eval, os.system]
        )
    data = pickle.dumps(whole, rng.randint(0, 5))
    if rng.random() < 0.7:
        data = mutated(rng, data, [pickle.dumps(Runs(folder / "ran"))])
    (folder / ".metadata").write_bytes(data)
    try:
        check_index(folder)
        return None
    finally:
        assert not (folder / "ran").exists()


READERS: dict[str, tuple[str, Reader, int]] = {
    "problem_files": ("problem files (JSONL)", problem_files, 20_000),
    "column_files": ("problem files (Parquet, Arrow)", column_files, 5_000),
    "graded_files": ("files of responses (JSONL)", graded_files, 10_000),
    "outputs": ("model outputs: answers found and compared", outputs, 20_000),
    "formulas": ("formulas by computer algebra", formulas, 300),
    "steps": ("model outputs: cut into steps", steps, 3_000),
    "prompts": ("questions and solutions into token ids", prompts, 10_000),
    "stores": ("sample stores", stores, 20_000),
    "configurations": ("configurations (YAML)", configurations, 2_000),
    "tables": ("text in Markdown and TensorBoard", tables, 10_000),
    "run_directories": ("run directories", run_directories, 10_000),
    "policy_folders": ("policy folders", policy_folders, 1_000),
    "indices": ("indices of checkpoints", indices, 5_000),
}
