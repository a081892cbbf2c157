"""Run directories, stores, policies and checkpoints that are to break what reads them.

Each kind has a reader, as files of the user's own have in :mod:`benchmarks.hostile_inputs`.
"""

import json
import os
import pickle
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from benchmarks.hostile_inputs import POLICY, Reader, asked, changed, json_lines, mutated, text_of, tokenizers

NAMES = ["sft", "a|b", "x y", "<img src=x>", "\u202ex", "$\\frac", "a\nb", "y\udcff", "![x](http:y)"]
PLACES = ["../../x", "/tmp/x", "..", ".", "", "a/../../b", "a\0b", "\ud800", "x" * 300, "a\nb", "CON", "~", "C:\\x"]


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


def run_directories(rng: random.Random, folder: Path) -> object:
    """What a test leaves behind, read by report and compare."""
    from stepneg.analysis import sections
    from stepneg.analysis.paired import compare_files
    from stepneg.analysis.report import tested_runs

    home = folder / "runs" / "seed-0" / rng.choice(NAMES)
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


def hostile_problems(rng: random.Random) -> list[Any]:
    """Two problems in which any text may be changed."""
    from stepneg.problems import Problem

    texts = [p.solution for p in asked()]
    found = []
    for p in rng.sample(asked(), 2):
        values = {"id": p.id, "question": p.question, "answer": p.answer, "solution": p.solution, "level": "Level 2"}
        changes = {name: text_of(rng, [text, *texts]) for name, text in values.items() if rng.random() < 0.3}
        values |= {name: text[:30_000] for name, text in changes.items()}  # a fit refuses what no context holds
        level = values.pop("level")
        found.append(Problem(**values, meta={"level": level, "steps": 2}))
    return found


def hostile_run(rng: random.Random, home: Path) -> list[Any]:
    """A fit and its test in a run directory, of hostile texts, then at times damaged; the problems as they were."""
    from stepneg.credit.pairs import Trace
    from stepneg.credit.steps import split_steps
    from stepneg.data.prepared import Built, checksum, files_of, write_built
    from stepneg.data.rows import Row, decode, encode_prompt, encode_text
    from stepneg.evaluation import Evaluated, Evaluation, settings_of
    from stepneg.sampling.engine import Decoding

    tokenizer, problems = tokenizers()[0], hostile_problems(rng)
    traces, examples, graded = [], [], []
    for p in problems:
        prompt = encode_prompt(tokenizer, "{question}\n", p.question)
        texts = [p.solution, text_of(rng, [p.solution, p.question, p.answer])]
        solutions = [text[:2000] or "x" for text in texts]  # no sample has more tokens than were asked for
        for text, right in zip(solutions, (True, False), strict=True):
            ids = (*encode_text(tokenizer, text), tokenizer.eos_token_id)
            ends = tuple(split_steps(ids, partial(decode, tokenizer), "line"))
            counts = ((8, 4), *((8, rng.choice([0, 3, 8])) for _ in ends))
            traces.append(Trace(p.id, prompt, ids, right, ends, counts))
        examples.append(tuple(Row(prompt, trace.response_ids, 0, None, -3.0) for trace in traces[-2:]))
        verdict: Any = (p.answer, False, p.answer, "different", False, 1, ("1", None), True, p.meta, p.question)
        graded.append(Evaluated(p.id, solutions[1], *verdict))
    data, test = home / "data" / "0123456789abcdef.jsonl", home / "evaluation" / "test.json"
    write_built(Built(examples, {"examples": 2.0}, traces), data, problems)
    name, policy = (rng.choice(PLACES) if rng.random() < 0.5 else "arithmetic" for _ in range(2))
    template = rng.choice(["{question}\n", "<script>{question}"])
    settings = settings_of(POLICY, name, problems, "gsm8k", None, template, 2, Decoding(0.7), 0) | {"policy": policy}
    Evaluation({"accuracy": 0.5}, graded, []).write(test, {"settings": settings})
    init = {"policy": str(POLICY), "template": "{question}\n"}
    config = {"data": {"class_path": "stepneg.data.pairs.Pairs", "init_args": init}}
    (home / "config.yaml").write_text(json.dumps(config))
    if rng.random() < 0.6:
        damaged(rng, rng.choice([file for file in sorted(home.rglob("*")) if file.is_file()]))
        if rng.random() < 0.7:  # of a checksum that fits
            data.with_suffix(".sha256").write_text(checksum(file.read_bytes() for file in files_of(data)))
            without_checksum(test)
    return problems


def damaged(rng: random.Random, file: Path) -> None:
    """Change a file of JSON in a value, or any in its bytes."""
    data = file.read_bytes()
    if file.suffix in (".json", ".jsonl") and rng.random() < 0.6:
        lines = data.splitlines() if file.suffix == ".jsonl" else [data]
        place = rng.randrange(len(lines))
        lines[place] = json.dumps(changed(rng, json.loads(lines[place]))).encode()
        data = b"\n".join(lines) + b"\n"
    else:
        data = mutated(rng, data, [data])
    file.write_bytes(data)


def without_checksum(file: Path) -> None:
    """An evaluation as one of another origin, which has no checksum."""
    with suppress(ValueError):
        values = json.loads(file.read_bytes())
        if isinstance(values, dict):
            file.write_text(json.dumps({key: value for key, value in values.items() if key != "sha256"}))


class Elements(HTMLParser):
    """What a browser makes elements of, and the text of the one that holds the data."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, object]] = []
        self.data = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        self.found.append((tag, attrs))

    def handle_endtag(self, tag: str) -> None:
        """An element ends."""
        self.found.append((f"/{tag}", None))

    def handle_comment(self, data: str) -> None:
        """A comment."""
        self.found.append(("comment", data))

    def handle_data(self, data: str) -> None:
        """Text."""
        if self.found[-1:] == [("script", [("type", "application/json"), ("id", "data")])]:
            self.data += data
        else:
            self.found.append(("text", data))


@cache
def empty_page() -> Elements:
    """The page without data."""
    from stepneg.analysis.traces import page

    return Elements(page({}))


def no_number(said: str) -> None:
    """Refuses what Python's JSON has beyond a browser's."""
    raise AssertionError(said)


def traces_pages(rng: random.Random, folder: Path) -> object:
    """The page of ``stepneg traces``: the elements of one without data, and all that was read as JSON of a browser."""
    from stepneg.analysis import solutions
    from stepneg.analysis.traces import contents, traces

    home = folder / rng.choice(NAMES)
    hostile_run(rng, home)
    with patch.object(solutions, "load_tokenizer", lambda *_: tokenizers()[0]):
        said = traces(home, folder / "page.html")
        settings, found = solutions.read_solutions(home, 20_000)
    seen = Elements((folder / "page.html").read_text())
    assert said.replace("\n", "").isprintable()
    assert seen.found == empty_page().found
    assert "<" not in seen.data
    shown = json.loads(seen.data, parse_constant=no_number)
    assert shown == json.loads(json.dumps(contents(home.name, settings, found)))
    return said


def hostile_store(rng: random.Random, store: Path, problems: Sequence[Any]) -> None:
    """Samples of the problems, with texts of others, at times damaged."""
    from stepneg.data.rows import encode_prompt, encode_response
    from stepneg.sampling.engine import Completion, Decoding
    from stepneg.sampling.store import SampleStore, Writer, prompt_key

    tokenizer = tokenizers()[0]
    sampler = SampleStore(store).sampler(POLICY, Decoding(), 0)
    with Writer(sampler.folder) as writer:
        for p in problems:
            ids = encode_response(tokenizer, text_of(rng, [p.solution, p.question, p.answer])[:2000])
            key = prompt_key(encode_prompt(tokenizer, "{question}\n", p.question))
            writer.add(key, 0, [Completion(ids, -1.0, "stop")])
    if rng.random() < 0.5:
        damaged(rng, rng.choice(sorted(store.glob("*/*"))))


def exports(rng: random.Random, folder: Path) -> object:
    """``stepneg export`` of a run: whole or not at all, and nothing beside its output."""
    from stepneg.formats import export
    from stepneg.formats.harness import export_evaluation
    from stepneg.problems.records import any_records

    run, store, out = folder / rng.choice(NAMES), folder / "store", folder / "out"
    problems, chat = hostile_run(rng, run), rng.random() < 0.3
    source = SimpleNamespace(load=lambda: problems)
    data = SimpleNamespace(policy=POLICY, template="chat" if chat else "{question}\n", load_problems=source.load)
    what, file = rng.choice(["pairs", "samples", "evaluation"]), out / f"table{rng.choice(['.jsonl', '.parquet', ''])}"
    if what == "samples":
        hostile_store(rng, store, problems)
    before = set(folder.rglob("*"))
    fit, load = SimpleNamespace(data=data), tokenizers()[chat and what == "pairs"]
    try:
        if what == "evaluation":
            said = export_evaluation(run, out, rng.choice([None, None, *PLACES]))
            assert said.removeprefix(str(out)).isprintable()
            assert [len(list(home.iterdir())) for home in out.iterdir()] == [2]
            return said
        with patch.multiple(export, resolve_run=lambda _: fit, load_tokenizer=lambda *_: load):
            pairs = what == "pairs"
            said = (
                export.export_pairs(run, file) if pairs else export.export_samples(store, file, POLICY, source, "gsm8k")
            )
        assert sum(1 for _ in any_records(file)) == int(said.removeprefix(f"{file}: ").partition(" ")[0])
        return said
    except ValueError:
        assert not file.exists()
        raise
    finally:
        assert {path for path in folder.rglob("*") if not path.is_relative_to(out)} == before
        assert not list(out.rglob("*.partial"))


@cache
def policy_files() -> dict[str, bytes]:
    """The arithmetic task's policy by file, with the head of its weights alone."""
    files = {file.name: file.read_bytes() for file in POLICY.iterdir()}
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
    "stores": ("sample stores", stores, 20_000),
    "run_directories": ("run directories", run_directories, 10_000),
    "traces_pages": ("run directories into pages of traces", traces_pages, 3_000),
    "exports": ("run directories and stores to export", exports, 3_000),
    "policy_folders": ("policy folders", policy_folders, 1_000),
    "indices": ("indices of checkpoints", indices, 5_000),
}
