"""Ensure n samples of each prompt: read what the store has, draw what is missing."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepneg.errors import InputError
from stepneg.progress import Bar
from stepneg.sampling.engine import Completion, Decoding, Engine, Ids, Request
from stepneg.sampling.store import SampleStore, Writer, prompt_key
from stepneg.timing import timed


@dataclass(frozen=True)
class Sampled:
    """Samples by prompt, and how many of them were drawn now."""

    completions: dict[Ids, list[Completion]]
    drawn: int


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
        self.drawn = 0  # samples that were missing

    def look_up(self, prompts: Collection[Ids]) -> None:
        """Read what the store has of prompts: of many at once, since that takes one pass over the store."""
        new = {prompt_key(prompt) for prompt in prompts} - set(self.found)
        if new and (found := self.sampler.read(new)):
            check_vocabulary(self.policy, self.sampler.folder, found)
            self.found |= found
        self.found |= {key: {} for key in new if key not in self.found}

    def finished(self, wanted: Mapping[Ids, int], title: str = "samples") -> Iterator[tuple[Ids, list[Completion]]]:
        """As many samples of each prompt as ``wanted`` says, prompt by prompt, while the engine draws on.

        Prompts come as they finish, behind them those of which nothing was missing. What the caller does with one, such
        as grading, costs no time of the engine.
        """
        self.look_up(wanted)
        keys = {prompt: prompt_key(prompt) for prompt in wanted}
        have = {prompt: contiguous(self.found[key]) for prompt, key in keys.items()}
        requests = [
            Request(prompt, n - have[prompt], request_seed(self.seed, keys[prompt]), have[prompt])
            for prompt, n in wanted.items()
            if have[prompt] < n
        ]
        if requests:
            check_prompts(self.policy, requests)
            total = sum(r.n for r in requests)
            with Writer(self.sampler.folder) as writer, Bar(title, total) as bar:
                tokens = 0
                for index, completions in self.generate(requests):
                    request = requests[index]
                    key = keys[request.prompt_ids]
                    writer.add(key, request.start, completions)
                    self.found[key].update(enumerate(completions, request.start))
                    self.drawn += len(completions)
                    tokens += sum(len(c.token_ids) for c in completions)
                    bar.advance(len(completions), tokens)
                    yield request.prompt_ids, self.first(key, wanted[request.prompt_ids])
        for prompt, n in wanted.items():
            if have[prompt] >= n:
                yield prompt, self.first(keys[prompt], n)

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, list[Completion]]]:
        """What the engine draws; waiting for it counts as sampling."""
        with timed("sampling"):
            self.engine.load(self.policy)
        drawing = iter(self.engine.generate(requests, self.decoding))
        while True:
            with timed("sampling"):
                item = next(drawing, None)
            if item is None:
                return
            yield item

    def first(self, key: str, n: int) -> list[Completion]:
        """The samples 0..n-1 of a prompt."""
        return [self.found[key][i] for i in range(n)]

    def draw(self, wanted: Mapping[Ids, int], title: str = "samples") -> dict[Ids, list[Completion]]:
        """The same as :meth:`finished`, once all are there; in the order of ``wanted``."""
        done = dict(self.finished(wanted, title))
        return {prompt: done[prompt] for prompt in wanted}


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
    draws = Draws(engine, store, policy, decoding, seed)
    completions = draws.draw(dict.fromkeys(prompts, n), title)
    return Sampled(completions, draws.drawn)


def contiguous(found: dict[int, Completion]) -> int:
    """How many samples 0, 1, 2, ... are there without a gap."""
    have = 0
    while have in found:
        have += 1
    return have


def check_vocabulary(policy: Path, folder: Path, found: Mapping[str, Mapping[int, Completion]]) -> None:
    """Refuse stored samples that the policy cannot have drawn: training on one would end in the middle.

    Raises:
        InputError: a token is beyond its vocabulary.
    """
    from stepneg.policy_folder import load_config  # imports transformers

    largest = max(max(c.token_ids, default=0) for of in found.values() for c in of.values())
    if largest >= (size := int(load_config(policy).get_text_config().vocab_size)):
        raise InputError(
            f"{folder}: a stored sample has token {largest}, the policy {policy} has {size}; somebody else wrote it:"
            " remove its shard"
        )


def check_prompts(policy: Path, requests: Sequence[Request]) -> None:
    """Refuse prompts that leave no room for a completion.

    Raises:
        InputError: the first such prompt.
    """
    from stepneg.policy_folder import context_length  # imports transformers

    context = context_length(policy)
    for request in requests:
        if len(request.prompt_ids) >= context:
            raise InputError(
                f"{policy}: a prompt of {len(request.prompt_ids)} tokens (ids {list(request.prompt_ids[:8])}...) leaves"
                f" no room in the context of {context}; leave the problem out or take a model with a longer context"
            )
