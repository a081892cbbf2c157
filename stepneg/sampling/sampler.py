"""Ensure n samples of each prompt: read what the store has, draw what is missing."""

from collections.abc import Sequence
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
    """``n`` samples of each distinct prompt; the engine is started only if some are missing.

    Args:
        engine: draws.
        store: keeps; every finished request is on disk before the next is waited for.
        policy: HF folder.
        prompts: token ids; repeated ones count once.
        n: samples a prompt.
        decoding: sampling parameters.
        seed: of all samples.
        title: what the progress bar is called.
    """
    keys = {prompt_key(prompt): prompt for prompt in prompts}
    sampler = store.sampler(policy, decoding, seed)
    found = sampler.read(set(keys))
    requests = [
        Request(prompt, n - have, request_seed(seed, key), have)
        for key, prompt in keys.items()
        if (have := contiguous(found.get(key, {}))) < n
    ]
    drawn = tokens = 0
    if requests:
        check_prompts(policy, requests)
        with timed("sampling"), Writer(sampler.folder) as writer, Bar(title, sum(r.n for r in requests)) as bar:
            engine.load(policy)
            for index, completions in engine.generate(requests, decoding):
                key = prompt_key(requests[index].prompt_ids)
                writer.add(key, requests[index].start, completions)
                found.setdefault(key, {}).update(enumerate(completions, requests[index].start))
                drawn += len(completions)
                tokens += sum(len(c.token_ids) for c in completions)
                bar.advance(len(completions), tokens)
    return Sampled({prompt: [found[key][i] for i in range(n)] for key, prompt in keys.items()}, drawn, tokens)


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
