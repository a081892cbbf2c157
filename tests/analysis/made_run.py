"""A run directory made by hand with a byte-level tokenizer, so that a solution can be any bytes."""

import json
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stepneg.credit.pairs import Trace
from stepneg.data.prepared import Built, write_built
from stepneg.data.rows import Example, Row
from stepneg.evaluation import Evaluated
from stepneg.problems import Problem
from stepneg.record import NEEDED

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
UNICODE = dict(zip(range(256), sorted(ALPHABET), strict=True))
EOS = 256
STAND_INS = {  # GPT-2's table: printable bytes stand for themselves, the rest for code points from 256 on
    byte: chr(byte) if byte in {*range(33, 127), *range(161, 173), *range(174, 256)} else None for byte in range(256)
}


def byte_ids() -> dict[int, int]:
    """The token id of each byte."""
    rest = iter(range(256, 512))
    characters = [STAND_INS[byte] or chr(next(rest)) for byte in range(256)]
    return {byte: ALPHABET.index(character) for byte, character in enumerate(characters)}


IDS = byte_ids()


def save_tokenizer(folder: Path) -> None:
    """A token a byte, and an end of sequence."""
    vocabulary = {character: i for i, character in enumerate(ALPHABET)} | {"</s>": EOS}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)


def ids(text: str | bytes) -> tuple[int, ...]:
    """Token ids of a text or of bytes that are none."""
    return tuple(IDS[byte] for byte in (text.encode() if isinstance(text, str) else text))


def prompt(problem: Problem) -> tuple[int, ...]:
    """With the template of every run here."""
    return ids(f"{problem.question}\n")


def trace(problem: Problem, steps: list[str], right: bool, *counts: tuple[int, int], done: bool = True) -> Trace:
    """A solution of steps with their counts."""
    pieces = [ids(step) for step in steps]
    if done:
        pieces[-1] += (EOS,)
    ends = tuple(sum(map(len, pieces[: i + 1])) for i in range(len(pieces)))
    return Trace(problem.id, prompt(problem), sum(pieces, ()), right, ends, counts)


def pair(problem: Problem, chosen: Trace, rejected: tuple[int, ...], shared: int = 0) -> Example:
    """A pair with reference log-probabilities."""
    context = prompt(problem)
    return Row(context, chosen.response_ids, shared, None, -3.25), Row(context, rejected, shared, None, -7.5)


def write_run(
    run: Path, built: Built, problems: list[Problem], name: str = "0123456789abcdef", **options: object
) -> Path:
    """A run as a fit leaves it; ``options`` are the data module's."""
    save_tokenizer(run / "last")
    write_built(built, run / "data" / f"{name}.jsonl", problems)
    init = {"policy": str(run / "gone"), "template": "{question}\n", **options}
    config = {"data": {"class_path": "stepneg.data.pairs.Pairs", "init_args": init}}
    (run / "config.yaml").write_text(json.dumps(config))  # YAML holds JSON
    return run


def write_attempt(home: Path, verb: str, ended: datetime, **facts: object) -> None:
    """The record of an attempt that ended well after a minute, in the order of their ends."""
    started = ended - timedelta(minutes=1)
    known = {"verb": verb, "started": started.isoformat(), "ended": ended.isoformat(), "exit": 0, "home": str(home)}
    attempt = dict.fromkeys(NEEDED) | known | {"settings": {}, "inputs": [], "versions": {}} | facts
    (home / "attempts").mkdir(parents=True, exist_ok=True)
    (home / "attempts" / f"{started:%Y%m%dT%H%M%S}Z-{verb}-host-1.json").write_text(json.dumps(attempt))


def evaluated(name: str, greedy: str, right: bool, extracted: str | None, **meta: str | int) -> Evaluated:
    """A graded problem of which two of three samples were right."""
    rule = "exact" if right else "different" if extracted else "no_answer"
    return Evaluated(
        name, greedy, "5", right, extracted, rule, extracted is None, 2, ("5", "5", "6"), True, dict(meta), "How many?"
    )


def write_evaluation(run: Path, rows: list[Evaluated], name: str = "test") -> Path:
    """An evaluation as the callback leaves it."""
    file = run / "evaluation" / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    return file


# Two problems: Ada's with values, pits, a spurious step, pairs; Bob's never solved.
ADA = Problem(
    "made/0", "Ada has 3 nuts and gets 2. How many?", "5", "3 + 2 = 5\n#### 5", {"level": "Level 2", "steps": 2}
)
BOB = Problem("made/1", "Bob has 10 nuts and eats 4. How many?", "6", None, {"level": "Level 10", "steps": 1})
RIGHT = trace(ADA, ["Ada gets 2.\n", "3 + 2 = 5\n", "#### 5"], True, (8, 4), (8, 5), (8, 8), (8, 8))
DETOUR = trace(ADA, ["Ada gets 2.\n", "3 - 2 = 1\n", "No: 5\n", "#### 5"], True, (8, 4), (8, 5), (8, 1), (8, 7), (8, 8))
WRONG = trace(ADA, ["Ada gets 2.\n", "3 - 2 = 1\n", "So 1.\n", "#### 1"], False, (8, 4), (8, 5), (8, 0))
SAME_PIT = trace(ADA, ["Ada gets 2.\n", "3 - 2 = 1\n", "#### 2"], False, (8, 4), (8, 5), (8, 0))
NO_PIT = trace(ADA, ["Ada gets 2.\n", "#### 4"], False, (8, 0), (8, 0), (8, 0))
ENDLESS = trace(BOB, ["Bob ", "eats and eats\n"], False, done=False)


def made(run: Path, **options: object) -> Path:
    """The run with these two problems and an evaluation of three."""
    cut = WRONG.response_ids[: WRONG.ends[1]]
    built = Built([pair(ADA, RIGHT, cut)], {"examples": 1.0}, [RIGHT, DETOUR, WRONG, SAME_PIT, NO_PIT, ENDLESS])
    write_run(run, built, [ADA, BOB], **options)
    rows = [evaluated("test/0", "So 5.\n#### 5", True, "5", level="Level 2")]
    rows += [evaluated("test/1", "So 4.\n#### 4", False, "4", level="Level 2"), evaluated("test/2", "So", False, None)]
    write_evaluation(run, rows)
    return run


NASTY = [
    "<script>window.stolen = 1</script>",
    "</script><script>window.stolen = 1</script>",
    "<!--<script>",
    "<img src=x onerror='window.stolen = 1'>",
    "<svg onload=window.stolen=1><a href='javascript:window.stolen=1'>x</a>",
    "&lt;b&gt; &amp; {{7*7}} ${7*7} @@data@@",
    "\u202eevil\u202c \u2066in\u2069 \u200fr",
    "a\u2028b\u2029c",
    "nul \x00 esc \x1b[31m del \x7f",
    "half \ud83d and \ude00",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "\U0001f469\u200d\U0001f680 z\u0351\u0352\u0353\u0354algo",
    "w" * 5000,
    "$\\frac{1}{2}$ \\boxed{",
]
