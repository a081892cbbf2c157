"""Ensure n samples of each prompt: read what the store has, draw what is missing."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepneg.errors import InputError
from stepneg.progress import Bar
from stepneg.sampling.engine import Completion, Decoding, Engine, Ids, Request
from stepneg.sampling.store import SampleStore, Writer, prompt_key
from stepneg.timing import timed


@dataclass(frozen=True)
class Sampled:
    """Samples by prompt, and how many of them (and of their tokens) were drawn now."""

    completions: dict[Ids, list[Completion]]
    drawn: int
    drawn_tokens: int


def request_seed(seed: int, key: str) -> int:
    """The seed of a prompt's first sample: of (seed, prompt) alone, so order, shards and restarts do not matter."""
    return int(prompt_key((seed, int(key, 16)))[:12], 16)


class Draws:
    """Samples of one policy: the store is read once for each prompt, what is missing is drawn.

    Args:
        engine: draws; started only if something is missing.
        store: keeps; every finished request is on disk before the next is waited for.
        policy: HF folder.
        decoding: sampling parameters.
        seed: of all samples.
    """

    def __init__(self, engine: Engine, store: SampleStore, policy: Path, decoding: Decoding, seed: int) -> None:
        self.engine, self.policy, self.decoding, self.seed = engine, policy, decoding, seed
        self.sampler = store.sampler(policy, decoding, seed)
        self.found: dict[str, dict[int, Completion]] = {}

    def look_up(self, prompts: Collection[Ids]) -> None:
        """Read what the store has of prompts: of many at once, since that takes one pass over the store."""
        new = {prompt_key(prompt) for prompt in prompts} - set(self.found)
        if new:
            self.found |= {key: {} for key in new} | self.sampler.read(new)

    def draw(self, wanted: Mapping[Ids, int], title: str = "samples") -> Sampled:
        """As many samples of each prompt as ``wanted`` says."""
        self.look_up(wanted)
        keys = {prompt_key(prompt): prompt for prompt in wanted}
        requests = [
            Request(prompt, wanted[prompt] - have, request_seed(self.seed, key), have)
            for key, prompt in keys.items()
            if (have := contiguous(self.found[key])) < wanted[prompt]
        ]
        drawn = tokens = 0
        if requests:
            check_prompts(self.policy, requests)
            total = sum(r.n for r in requests)
            with timed("sampling"), Writer(self.sampler.folder) as writer, Bar(title, total) as bar:
                self.engine.load(self.policy)
                for index, completions in self.engine.generate(requests, self.decoding):
                    key = prompt_key(requests[index].prompt_ids)
                    writer.add(key, requests[index].start, completions)
                    self.found[key] = self.found[key] | dict(enumerate(completions, requests[index].start))
                    drawn += len(completions)
                    tokens += sum(len(c.token_ids) for c in completions)
                    bar.advance(len(completions), tokens)
        completions_of = {prompt: [self.found[key][i] for i in range(wanted[prompt])] for key, prompt in keys.items()}
        return Sampled(completions_of, drawn, tokens)


def sample(
    engine: Engine,
    store: SampleStore,
    policy: Path,
    prompts: Sequence[Ids],
    n: int,
    decoding: Decoding,
    seed: int,
    title: str = "samples",
) -> Sampled:
    """``n`` samples of each distinct prompt, see :class:`Draws`.

    Args:
        engine: draws.
        store: keeps.
        policy: HF folder.
        prompts: token ids; repeated ones count once.
        n: samples a prompt.
        decoding: sampling parameters.
        seed: of all samples.
        title: what the progress bar is called.
    """
    return Draws(engine, store, policy, decoding, seed).draw(dict.fromkeys(prompts, n), title)


def contiguous(found: dict[int, Completion]) -> int:
    """How many samples 0, 1, 2, ... are there without a gap."""
    have = 0
    while have in found:
        have += 1
    return have


def check_prompts(policy: Path, requests: Sequence[Request]) -> None:
    """Refuse prompts that leave no room for a completion.

    Raises:
        InputError: the first such prompt.
    """
    from transformers import AutoConfig

    context = int(AutoConfig.from_pretrained(policy).max_position_embeddings)
    for request in requests:
        if len(request.prompt_ids) >= context:
            raise InputError(
                f"{policy}: a prompt of {len(request.prompt_ids)} tokens (ids {list(request.prompt_ids[:8])}...) leaves"
                f" no room in the context of {context}; leave the problem out or take a model with a longer context"
            )
