"""What the making of a few problems' data takes: of the engine, of the disk and of everything else."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from stepneg.costs import Cost, Draw, Shape, Speed, speed
from stepneg.data.prepared import Built
from stepneg.policy_folder import load_config
from stepneg.problems import Problem, ProblemSource
from stepneg.sampling.engine import Completion, Decoding, Request
from stepneg.sampling.vllm_engine import VLLMEngine
from stepneg.timing import SECONDS


def spread(problems: Sequence[Problem], most: int) -> list[Problem]:
    """At most so many problems, from all over a list that may be in the order of subjects."""
    few = min(most, len(problems))
    return [problems[i * len(problems) // few] for i in range(few)]


@dataclass(frozen=True)
class Few:
    """A few problems of a source."""

    source: ProblemSource
    most: int

    def load(self) -> list[Problem]:
        """The problems."""
        return spread(self.source.load(), self.most)


class Meter:
    """An engine that notes what it draws and how long that and the loading of policies takes."""

    def __init__(self, engine: VLLMEngine) -> None:
        self.engine = engine
        self.draws: list[Draw] = []
        self.loads: list[float] = []
        self.policy: Path | None = None

    def load(self, policy: Path) -> None:
        """Serve this HF folder from now on."""
        started = time.monotonic()
        self.engine.load(policy)
        if policy != self.policy:
            self.loads.append(time.monotonic() - started)
        self.policy = policy

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[tuple[int, list[Completion]]]:
        """Completions of each request, with its index, as they finish."""
        drawing, lengths, waited = iter(self.engine.generate(requests, decoding)), [], 0.0
        while True:
            started = time.monotonic()
            item = next(drawing, None)
            waited += time.monotonic() - started
            if item is None:
                break
            lengths += [len(completion.token_ids) for completion in item[1]]
            yield item
        self.draws.append(Draw(tuple(lengths), waited))

    def speed(self) -> Speed:
        """From all draws."""
        return speed(self.draws, self.engine.max_num_seqs)

    @property
    def start(self) -> float:
        """Seconds until the first policy is served."""
        return self.loads[0] if self.loads else 0.0

    @property
    def reload(self) -> float:
        """Seconds until another policy is served."""
        return sum(self.loads[1:]) / max(len(self.loads) - 1, 1)


@dataclass(frozen=True)
class Sample:
    """What the data or the evaluation of some problems took.

    Attributes:
        problems: how many.
        data_tokens: of solutions and rollouts, whether drawn or in the store.
        draws: what the engine drew.
        other: seconds in which the engine was not waited for: grading, reference log-probabilities.
        sample_bytes: added to the store.
        run_bytes: written to the run directory.
        built: the training data; None for an evaluation.
    """

    problems: int
    data_tokens: float
    draws: list[Draw]
    other: float
    sample_bytes: int
    run_bytes: int
    built: Built | None = None

    def cost(self, problems: int, by: Speed | None) -> Cost:
        """Of so many problems."""
        factor = problems / self.problems
        grown = [draw.grown(factor) for draw in self.draws]
        return Cost(
            data_tokens=factor * self.data_tokens,
            drawn_tokens=factor * sum(draw.tokens for draw in self.draws),
            sample_bytes=factor * self.sample_bytes,
            run_bytes=factor * self.run_bytes,
            seconds=factor * self.other + sum(by.seconds(draw) for draw in grown if by),
        )


class Other:
    """The seconds of a block, without those in which the engine was waited for."""

    def __enter__(self) -> "Other":
        self.started, self.before = time.monotonic(), SECONDS["sampling"]
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = max(0.0, time.monotonic() - self.started - (SECONDS["sampling"] - self.before))


def shape_of(policy: Path) -> Shape:
    """The shape of an HF folder's model, without loading its weights."""
    config = load_config(policy)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    weights = sum(p.numel() for p in model.parameters()) - (0 if head is embedding else embedding.numel())
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    return Shape(weights, config.num_hidden_layers, width)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
