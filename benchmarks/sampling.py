"""Sampling, grading and storing beside a bare ``vllm.LLM.generate``: ``python -m benchmarks.sampling``.

Both engines stay alive, each in a process of its own with the same options, and take turns with the same prompts,
parameters and seeds; which one is first changes from round to round. The bare side is one call of ``generate`` in
its process. Ours is :meth:`stepneg.data.rollouts.Rollouts.solutions`: prompts are encoded, what the store has is
looked up, the missing samples are drawn, stored, graded and cut into steps.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from rich.progress import track
from transformers import PreTrainedTokenizerBase

from stepneg.data.rollouts import Rollouts
from stepneg.data.rows import encode_prompt
from stepneg.policy_folder import load_tokenizer
from stepneg.problems import ASSETS, Problem
from stepneg.problems.arithmetic import Arithmetic
from stepneg.sampling.engine import Ids
from stepneg.sampling.sampler import request_seed
from stepneg.sampling.store import prompt_key
from stepneg.sampling.vllm_engine import VLLMEngine, environment

RESULTS = Path(__file__).with_name("results") / "sampling.json"
TEMPLATE = "{question}\n"
Found = dict[str, Any]


class Bare:
    """``vllm.LLM`` in a fresh process."""

    def __init__(self, policy: Path, engine: VLLMEngine) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.sampling", "--bare"],
            env=environment(None),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.ask({"policy": str(policy), "options": asdict(engine)})

    def ask(self, message: Found) -> Found:
        """Send a line, wait for a line."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def serve_bare() -> None:
    """The bare side's process: its engine is built at the first line, each other one is a call of ``generate``."""
    replies, sys.stdout = sys.stdout, sys.stderr  # vLLM prints
    import vllm
    from vllm.inputs import TokensPrompt

    from stepneg.sampling.worker import Server, sampling_params

    server = Server()
    for line in sys.stdin:
        message = json.loads(line)
        if "policy" in message:
            server.build(message["policy"], message["options"])
            reply: Found = {}
        else:
            assert isinstance(server.llm, vllm.LLM)
            prompts = [TokensPrompt(prompt_token_ids=ids) for ids, _, _, _ in message["requests"]]
            params = [
                sampling_params(n, seed + start, message["decoding"], server.stop_ids)
                for _, n, seed, start in message["requests"]
            ]
            begin = time.perf_counter()
            outputs = server.llm.generate(prompts, params, use_tqdm=False)
            seconds = time.perf_counter() - begin
            reply = {
                "seconds": seconds,
                "ids": [[list(c.token_ids) for c in sorted(o.outputs, key=lambda c: c.index)] for o in outputs],
            }
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def bare_round(bare: Bare, prompts: list[Ids], rollouts: Rollouts) -> tuple[float, list[list[list[int]]]]:
    """Seconds and token ids of one call."""
    requests = [(p, rollouts.samples, request_seed(rollouts.seed, prompt_key(p)), 0) for p in prompts]
    reply = bare.ask({"requests": requests, "decoding": asdict(rollouts.decoding)})
    return reply["seconds"], reply["ids"]


def our_round(
    rollouts: Rollouts, policy: Path, problems: list[Problem], tokenizer: PreTrainedTokenizerBase
) -> tuple[float, list[list[list[int]]]]:
    """Seconds and token ids, everything included."""
    begin = time.perf_counter()
    generated = rollouts.solutions(policy, problems, tokenizer, TEMPLATE)
    seconds = time.perf_counter() - begin
    return seconds, [[list(t.response_ids) for t in generated.traces[p.id]] for p in problems]


def main(
    policy: Path = ASSETS / "arithmetic-base",
    size: int = 100,
    samples: int = 16,
    max_tokens: int = 100,
    rounds: int = 5,
    engine: VLLMEngine = VLLMEngine(),  # noqa: B008  (frozen)
    out: Path = RESULTS,
) -> None:
    """Measure and write results/sampling.json.

    Args:
        policy: HF folder.
        size: number of generated problems.
        samples: solutions of a problem.
        max_tokens: of a solution.
        rounds: how often each side samples everything, with seeds of the round; one more warms up.
        engine: options of both engines.
        out: the file.
    """
    tokenizer = load_tokenizer(policy)
    problems = Arithmetic(size=size, seed=7).load()
    prompts = [encode_prompt(tokenizer, TEMPLATE, p.question) for p in problems]
    rows: list[Found] = []
    with tempfile.TemporaryDirectory() as store:
        engine.load(policy)
        bare = Bare(policy, engine)
        try:
            for number in track(range(rounds + 1), "rounds"):
                rollouts = Rollouts(engine, Path(store), samples=samples, max_tokens=max_tokens, seed=number)
                for side in ("bare", "ours") if number % 2 else ("ours", "bare"):
                    if side == "bare":
                        bare_seconds, theirs = bare_round(bare, prompts, rollouts)
                    else:
                        our_seconds, ours = our_round(rollouts, policy, problems, tokenizer)
                tokens = sum(len(ids) for of_prompt in theirs for ids in of_prompt)
                our_tokens = sum(len(ids) for of_prompt in ours for ids in of_prompt)
                pairs = [pair for a, b in zip(ours, theirs, strict=True) for pair in zip(a, b, strict=True)]
                rows.append(
                    {"bare": tokens / bare_seconds, "ours": our_tokens / our_seconds, "tokens": tokens}
                    | {"same": sum(a == b for a, b in pairs) / len(pairs)}
                )
        finally:
            bare.close()
    rows = rows[1:]
    ratios = [row["ours"] / row["bare"] for row in rows]
    result = {
        "ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios), "rounds": rows,
        "problems": size, "samples": samples, "max_tokens": max_tokens, "engine": asdict(engine),
        "machine": platform.machine(), "cores": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS"),
        "vllm": version_of_vllm(),
    }  # fmt: skip
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def version_of_vllm() -> str:
    """Its version, by the name it is installed by."""
    return ", ".join(f"{name} {version(name)}" for name in sorted(set(packages_distributions()["vllm"])))


def table(result: Found) -> str:
    """The rounds in Markdown."""
    lines = ["| round | bare, tokens/s | with grading and storing, tokens/s | ratio | same samples |"]
    lines.append("|---|---:|---:|---:|---:|")
    for number, row in enumerate(result["rounds"], 1):
        lines.append(
            f"| {number} | {row['bare']:,.0f} | {row['ours']:,.0f} | {row['ours'] / row['bare']:.3f}"
            f" | {100 * row['same']:.1f} % |"
        )
    middle = {side: statistics.median(row[side] for row in result["rounds"]) for side in ("bare", "ours")}
    lines.append(
        f"| median | {middle['bare']:,.0f} | {middle['ours']:,.0f} | **{result['ratio']:.3f}**"
        f" ({result['ratio_low']:.3f} to {result['ratio_high']:.3f}) | |"
    )
    return "\n".join([*lines, "", f"{result['problems']} problems, {result['samples']} samples each."])


if __name__ == "__main__":
    serve_bare() if sys.argv[1:] == ["--bare"] else auto_cli(main, as_positional=False)
