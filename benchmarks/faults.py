"""kill -9 at random moments of every stage, again and again until it is finished: ``python -m benchmarks.faults``.

A story is one piece of work. It is killed (SIGKILL to its whole process group) at a moment drawn evenly from the
duration of an undisturbed run, started again in the same directory, killed again ..., until it finishes. After each
kill whatever has its final name must be what the undisturbed run has, and every sample that was stored must still be
there. At the end samples, training data, weights and reports are held against the undisturbed run, byte for byte.

Each process is forked from one that has imported the libraries, so that moments fall on the work, not on imports. With
the real vLLM a process is killed once a random share of the samples is stored, so that moments fall on its sampling,
not on its start. In the place of vLLM elsewhere stands an engine that answers with worked solutions, right or spoilt.

Outcomes are kept in runs/faults/outcomes.jsonl: started again, the command goes on until there are enough.
"""

import hashlib
import json
import os
import platform
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import auto_cli
from transformers.utils.logging import disable_progress_bar

from stepneg.callbacks.export import write
from stepneg.cli import main as stepneg
from stepneg.data.rollouts import Rollouts
from stepneg.data.rows import encode_prompt, teacher_row
from stepneg.evaluation import evaluate_policy
from stepneg.grading.batch import grade_file
from stepneg.initialise import init
from stepneg.policy import load_model
from stepneg.policy_folder import load_tokenizer
from stepneg.problems.arithmetic import Arithmetic
from stepneg.sampling.engine import Completion, Decoding, Ids, Request
from stepneg.sampling.store import rows_of
from stepneg.sampling.vllm_engine import VLLMEngine

RESULTS = Path(__file__).with_name("results") / "faults.json"
HOME = Path("runs/faults").resolve()
POLICY = HOME / "policy" / "last"
BASE = Path(__file__).parents[1] / "assets" / "arithmetic-base"
TEMPLATE = "{question}\n"
PROBLEMS = 40
PATIENCE = 600.0  # seconds of a whole stage
Found = dict[str, Any]


def problems(split: str = "train") -> Arithmetic:
    """The problems of all stages."""
    return Arithmetic(split, size=PROBLEMS)  # type: ignore[arg-type]


class Worked:
    """Answers prompts with the worked solution of their problem, or with one in which a digit is another."""

    def __init__(self, policy: Path) -> None:
        tokenizer = load_tokenizer(policy)
        texts = {token: str(tokenizer.decode([token])) for token in range(len(tokenizer))}
        self.digits = [token for token, text in texts.items() if text.isdecimal()]
        known = [p for split in ("train", "validation", "test") for p in problems(split).load()]
        self.known = [
            (encode_prompt(tokenizer, TEMPLATE, p.question), teacher_row(tokenizer, TEMPLATE, p).response_ids)
            for p in known
        ]

    def answer(self, prompt: Ids, seed: int) -> Ids:
        """A continuation: a function of prompt and seed."""
        rng = random.Random(f"{prompt}/{seed}")
        question, solution = next((q, s) for q, s in self.known if prompt[: len(q)] == q)
        begun = prompt[len(question) :]
        rest = list(solution[len(begun) :]) or list(solution[-2:])
        places = [i for i, token in enumerate(rest) if token in self.digits]
        if places and (solution[: len(begun)] != begun or rng.random() < 0.45):
            last = solution[: len(begun)] != begun or rng.random() < 0.5
            place = places[-1] if last else rng.choice(places)
            rest[place] = rng.choice([d for d in self.digits if d != rest[place]])
        return tuple(rest)


def load(engine: VLLMEngine, policy: Path) -> None:
    """In the place of :meth:`VLLMEngine.load`."""
    SERVED["worked"] = Worked(policy)


def generate(
    engine: VLLMEngine, requests: Sequence[Request], decoding: Decoding
) -> Iterator[tuple[int, list[Completion]]]:
    """In the place of :meth:`VLLMEngine.generate`."""
    for index, request in enumerate(requests):
        time.sleep(0.001)
        drawn = [
            SERVED["worked"].answer(request.prompt_ids, request.seed + request.start + i) for i in range(request.n)
        ]
        yield index, [Completion(ids, -0.1 * len(ids), "stop") for ids in drawn]


SERVED: dict[str, Worked] = {}


@dataclass(frozen=True)
class Stage:
    """A piece of work and what it leaves.

    Attributes:
        name: in the table.
        work: does it in a folder, or goes on with it.
        kills: that are wanted of it.
        outputs: patterns of what it leaves; each file has one right content, and no other at any time.
        begin: makes the folder.
        vllm: whether the real engine draws.
        most: kills of a story; then it may finish.
    """

    name: str
    work: Callable[[Path], object]
    kills: int
    outputs: tuple[str, ...] = ()
    begin: Callable[[Path], object] = lambda folder: folder.mkdir(parents=True)
    vllm: bool = False
    most: int = 12

    @property
    def engine(self) -> str:
        """What draws, in the table."""
        return "vLLM" if self.vllm else "none" if self.name in ("grading", "fit", "export") else "stand-in"


def rollouts(folder: Path, samples: int = 8) -> Rollouts:
    """How the stages sample."""
    engine = VLLMEngine(kv_cache_gib=0.25)
    return Rollouts(engine, folder / "samples", samples=samples, max_tokens=60, negatives=2, rollouts=4)


def sample(folder: Path) -> None:
    """Solutions of the problems."""
    rollouts(folder).solutions(POLICY, problems().load(), load_tokenizer(POLICY), TEMPLATE)


def sample_with_vllm(folder: Path) -> None:
    """More of them, of the real engine: the shipped base model."""
    rollouts(folder, 48).solutions(BASE, problems().load(), load_tokenizer(BASE), TEMPLATE)


def value(folder: Path) -> None:
    """Rollouts after the steps of the solutions."""
    rollouts(folder).valued(POLICY, problems().load(), load_tokenizer(POLICY), TEMPLATE)


def value_with_vllm(folder: Path) -> None:
    """The same of the base model's solutions."""
    rollouts(folder, 48).valued(BASE, problems().load(), load_tokenizer(BASE), TEMPLATE)


def with_solutions(folder: Path, of: str = "sampling") -> None:
    """A store that has the solutions."""
    shutil.copytree(HOME / of / "undisturbed" / "samples", folder / "samples")


def with_values(folder: Path) -> None:
    """A store that has solutions and rollouts."""
    shutil.copytree(HOME / "step values" / "undisturbed" / "samples", folder / "samples")


def grade(folder: Path) -> None:
    """Grade many responses."""
    grade_file(HOME / "responses.jsonl", "gsm8k", folder / "graded.jsonl")


def write_responses() -> None:
    """The responses that :func:`grade` reads."""
    chosen = problems().load()
    rows = [
        {"response": f"{p.solution}\n#### {number % 7}", "answer": p.answer} for number in range(50) for p in chosen
    ]
    (HOME / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def class_path(name: str, **options: Any) -> Found:
    """An object in YAML."""
    return {"class_path": f"stepneg.{name}", "init_args": options}


def evaluation(folder: Path) -> Found:
    """The evaluation callback of fits and tests."""
    options = {"engine": class_path("sampling.vllm_engine.VLLMEngine"), "store": str(folder / "samples")}
    test = class_path("problems.arithmetic.Arithmetic", split="test", size=PROBLEMS)
    return class_path("callbacks.evaluation.VLLMEvaluation", **options, test=test, k=3, max_tokens=60)


def config(folder: Path, pairs: bool, epochs: int) -> Found:
    """A fit on worked solutions, or on pairs of the first pit."""
    train = class_path("problems.arithmetic.Arithmetic", size=PROBLEMS)
    data: Found = {"policy": str(POLICY), "template": TEMPLATE, "batch_size": 8, "problems": train}
    data["validation"] = class_path("problems.arithmetic.Arithmetic", split="validation", size=8)
    if pairs:
        drawn: Found = {"engine": class_path("sampling.vllm_engine.VLLMEngine", kv_cache_gib=0.25)}
        drawn |= {"store": str(folder / "samples"), "samples": 8, "max_tokens": 60, "negatives": 2, "rollouts": 4}
        data |= {"kind": "first_pit", "rollouts": drawn}
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}}
    objective = class_path("objectives.DPO", beta=0.5) if pairs else class_path("objectives.CrossEntropy")
    trainer: Found = {
        "accelerator": "cpu",
        "max_epochs": epochs,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer |= {"callbacks": [evaluation(folder)], "log_every_n_steps": 1}
    name = "data.pairs.Pairs" if pairs else "data.solutions.TeacherSolutions"
    return {"model": {"objective": objective, "optimizer": optimizer}, "data": class_path(name, **data)} | {
        "trainer": trainer
    }


def fit(folder: Path, pairs: bool, epochs: int) -> None:
    """Train, or go on training."""
    file = folder / "fit.yaml"
    file.write_text(yaml.safe_dump(config(folder, pairs, epochs)))
    stepneg(["fit", "--config", str(file), f"--trainer.default_root_dir={folder / 'run'}", "--ckpt_path=last"])


def evaluate(folder: Path, policy: Path = POLICY, k: int = 3) -> None:
    """Evaluate a policy."""
    store = folder / "samples"
    source: Any = problems("test")
    evaluate_policy(policy, source, "gsm8k", template=TEMPLATE, k=k, max_tokens=60, store=store, output=folder / "out")


def evaluate_with_vllm(folder: Path) -> None:
    """Evaluate the base model."""
    evaluate(folder, BASE, 24)


def export(folder: Path) -> None:
    """Write the other policy over the one that is there, as a better one over the best so far."""
    write(load_model(HOME / "other" / "last"), None, POLICY, folder / "best", TEMPLATE)


def with_policy(folder: Path) -> None:
    """A policy that has been exported."""
    write(load_model(POLICY), None, POLICY, folder / "best", TEMPLATE)


def chain(folder: Path) -> None:
    """Two fits with their tests, and the report."""
    stages = []
    for name, pairs in (("sft", False), ("step_dpo", True)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config(folder, pairs, 2)))
        args = {"data.policy": "{root}/sft/last"} if pairs else {}
        stages.append({"name": name, "config": [f"{name}.yaml"], "args": args})
    file = folder / "chain.yaml"
    file.write_text(yaml.safe_dump({"root": str(folder / "chain"), "stages": stages}))
    stepneg(["pipeline", "--config", str(file)])


WEIGHTS = ("**/last/model.safetensors",)
DATA = ("**/data/*.jsonl", "**/data/*.json")
STAGES = (
    Stage("sampling", sample, 50),
    Stage("step values", value, 40, begin=with_solutions),
    Stage("grading", grade, 30, ("graded.jsonl",)),
    Stage("building data", lambda folder: fit(folder, True, 0), 16, DATA, with_values),
    Stage("fit", lambda folder: fit(folder, False, 4), 24, WEIGHTS),
    Stage("evaluation", evaluate, 24, ("out/*",)),
    Stage("export", export, 40, ("best/model.safetensors", "best/stepneg.json"), with_policy),
    Stage("chain", chain, 12, (*WEIGHTS, *DATA, "**/evaluation/test.json*", "**/report.csv")),
    Stage("sampling", sample_with_vllm, 10, vllm=True, most=3),
    Stage(
        "step values",
        value_with_vllm,
        8,
        begin=lambda folder: with_solutions(folder, "sampling vLLM"),
        vllm=True,
        most=3,
    ),
    Stage("evaluation", evaluate_with_vllm, 8, ("out/*",), vllm=True, most=3),
)


def contents(folder: Path, patterns: Sequence[str]) -> dict[str, str]:
    """sha256 of the files of these names, of reports without the column of seconds; of unfinished ones nothing."""
    found = {}
    for file in sorted({file for pattern in patterns for file in folder.glob(pattern)}):
        if any(part.startswith(".") for part in file.relative_to(folder).parts):
            continue
        content = file.read_bytes()
        if file.name == "report.csv":
            content = b"\n".join(line.rpartition(b",")[0] for line in content.splitlines())
        found[str(file.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def stored(folder: Path) -> Counter[tuple[str, str, int, Ids]]:
    """The samples of the folder's store, and how often each is there."""
    return Counter(
        (shard.parent.name, row["prompt"], row["index"], tuple(row["token_ids"]))
        for shard in folder.glob("samples/*/*.jsonl")
        for row in rows_of(shard)
    )


def start(stage: Stage, folder: Path) -> int:
    """Do the stage's work in a forked process group of its own."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if not stage.vllm:
            VLLMEngine.load, VLLMEngine.generate = load, generate  # type: ignore[method-assign,assignment]
        stage.work(folder)
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def attempt(stage: Stage, folder: Path, over: Callable[[float], bool]) -> bool:
    """Do the work until it ends or ``over`` says, of the seconds since its start, that it is to be killed.

    Returns:
        Whether it was killed.

    Raises:
        RuntimeError: it failed by itself, or hangs.
    """
    child, began = start(stage, folder), time.monotonic()
    while not over(time.monotonic() - began):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            if status:
                raise RuntimeError(f"{stage.name} failed in {folder}, see log.txt there")
            return False
        if time.monotonic() - began > PATIENCE:
            os.killpg(child, signal.SIGKILL)
            raise RuntimeError(f"{stage.name} hangs in {folder}")
        time.sleep(0.2 if stage.vllm else 0.001)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:  # it has no group of its own yet
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def never(seconds: float) -> bool:
    """Not killed."""
    return False


def undisturbed(stage: Stage, place: Path) -> Found:
    """The run that the others are held against: seconds, outputs, samples. It is moved to ``place/undisturbed``."""
    folder, record = place / "undisturbed", place / "undisturbed.json"
    if not record.exists():
        seconds = []
        for _ in range(1 if stage.vllm else 2):  # the first also reads the code from disk
            work = begin(stage, place)
            began = time.monotonic()
            attempt(stage, work, never)
            seconds.append(time.monotonic() - began)
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
        record.write_text(json.dumps({"seconds": min(seconds)}))
    found: Found = json.loads(record.read_text())
    return found | {"outputs": contents(folder, stage.outputs), "samples": stored(folder)}


def begin(stage: Stage, place: Path) -> Path:
    """The folder in which all runs of a stage work: paths are among the settings that name its files."""
    folder = place / "work"
    shutil.rmtree(folder, ignore_errors=True)
    stage.begin(folder)
    return folder


def end_of(stage: Stage, folder: Path, share: float, right: Found, begun: int) -> Callable[[float], bool]:
    """When to kill: after a share of the undisturbed run's seconds, with vLLM of its samples.

    Args:
        stage: that is killed.
        folder: in which it works.
        share: 0 to 1.
        right: the undisturbed run.
        begun: samples that were there before the stage began.
    """

    def over(seconds: float) -> bool:
        if stage.vllm:
            return stored(folder).total() >= begun + share * (right["samples"].total() - begun)
        return seconds >= share * float(right["seconds"])

    return over


def story(stage: Stage, seed: int, right: Found, place: Path) -> Found:
    """Kill the stage until it is done; what was lost, drawn twice or wrong on the way and at the end."""
    folder = begin(stage, place)
    first = contents(folder, stage.outputs)
    rng = random.Random(f"{stage.name}/{stage.engine}/{seed}")
    kills = lost = wrong = 0
    kept = stored(folder)
    begun, going = kept.total(), True
    while going:
        over = end_of(stage, folder, rng.random(), right, begun) if kills < stage.most else never
        going = attempt(stage, folder, over)
        kills += going
        now = stored(folder)
        lost += sum((kept - now).values())
        kept = now
        allowed = {(name, value) for these in (right["outputs"], first) for name, value in these.items()}
        wrong += len(set(contents(folder, stage.outputs).items()) - allowed)
    outputs = contents(folder, stage.outputs)
    wrong += len(set(outputs.items()) ^ set(right["outputs"].items()))
    keys = Counter(key[:3] for key in kept.elements())
    return {
        "stage": stage.name,
        "engine": stage.engine,
        "seed": seed,
        "kills": kills,
        "samples": len(kept),
        "lost": lost,
        "twice": sum(n - 1 for n in keys.values()),
        "other": sum((kept - right["samples"]).values()) + sum((right["samples"] - kept).values()),
        "files": len(outputs),
        "wrong": wrong,
        "seconds": right["seconds"],
    }


def main(minutes: float = 4.0, only: list[str] = [], kills: int | None = None, out: Path = RESULTS) -> None:  # noqa: B006
    """Go on with the stories until every stage has its kills, and write results/faults.json.

    Args:
        minutes: after which no other story is begun.
        only: stages, by name, by engine, or as "sampling/vLLM".
        kills: of each stage; None for those of the page.
        out: the file.
    """
    torch.set_num_threads(1)
    disable_progress_bar()  # all forks share its lock, which one that is killed may take along
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    began, outcomes = time.monotonic(), HOME / "outcomes.jsonl"
    HOME.mkdir(parents=True, exist_ok=True)
    if not (POLICY / "config.json").exists():
        train: Any = Arithmetic(size=200)
        for name, seed in (("policy", 0), ("other", 1)):
            init(HOME / name / "last", train, vocabulary=900, hidden_size=64, layers=2, context=256, seed=seed)
    write_responses()
    for stage in STAGES:
        place = HOME / (f"{stage.name} vLLM" if stage.vllm else stage.name)
        if only and not {stage.name, stage.engine, f"{stage.name}/{stage.engine}"} & set(only):
            continue
        wanted = stage.kills if kills is None else kills
        while time.monotonic() - began < 60 * minutes:
            done = [json.loads(line) for line in outcomes.read_text().splitlines()] if outcomes.exists() else []
            mine = [row for row in done if (row["stage"], row["engine"]) == (stage.name, stage.engine)]
            if sum(row["kills"] for row in mine) >= wanted:
                break
            right = undisturbed(stage, place)
            found = story(stage, len(mine), right, place)
            with outcomes.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(found, flush=True)
    rows = [json.loads(line) for line in outcomes.read_text().splitlines()]
    result = {"rows": rows, "machine": platform.machine(), "cores": os.cpu_count()}
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def table(result: Found) -> str:
    """A row a stage: kills, and what was lost, drawn twice or different from the undisturbed run."""
    heads = (
        "stage",
        "engine",
        "stories",
        "kills",
        "samples lost",
        "drawn twice",
        "other samples",
        "other files",
    )
    lines = [f"| {' | '.join(heads)} |", "|---|---|" + "---:|" * (len(heads) - 2)]
    groups: dict[tuple[str, str], list[Found]] = {}
    for row in result["rows"]:
        groups.setdefault((row["stage"], row["engine"]), []).append(row)
    for (stage, engine), rows in groups.items():
        sums = (sum(row[name] for row in rows) for name in ("kills", "lost", "twice", "other", "wrong"))
        lines.append(f"| {' | '.join([stage, engine, str(len(rows)), *map(str, sums)])} |")
    sums = (sum(row[name] for row in result["rows"]) for name in ("kills", "lost", "twice", "other", "wrong"))
    lines.append(f"| {' | '.join(['all', '', str(len(result['rows'])), *map(str, sums)])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
