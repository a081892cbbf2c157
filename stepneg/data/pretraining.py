"""Endless generated text for the pretraining of the arithmetic base model."""

import random
from collections.abc import Iterator
from pathlib import Path

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from stepneg.data.rows import Example, Row, collate, encode_prompt, encode_response
from stepneg.policy_folder import load_tokenizer
from stepneg.problems.arithmetic import careless_texts

CHUNK = 16  # batches drawn together, sorted by length and shuffled: less padding


class CarelessStories(IterableDataset[dict[str, Tensor]]):
    """Batches of stories with careless solutions (:mod:`stepneg.problems.arithmetic`), a function of (seed, step)."""

    def __init__(
        self, policy: Path, template: str, batch_size: int, seed: int, curriculum: dict[int, int], distractors: int
    ) -> None:
        self.tokenizer = load_tokenizer(policy)
        self.template, self.batch_size, self.seed = template, batch_size, seed
        self.curriculum, self.distractors = curriculum, distractors
        self.step = 0

    def max_events(self, step: int) -> int:
        """The longest story at a step: the entry of ``curriculum`` with the largest start <= step."""
        return self.curriculum[max(start for start in self.curriculum if start <= step)]

    def chunk(self, index: int) -> list[list[Example]]:
        """The batches of steps ``CHUNK * index`` to ``CHUNK * (index + 1) - 1``."""
        texts = careless_texts(self.seed * 1_000_003 + index, self.max_events(CHUNK * index), self.distractors)
        examples: list[Example] = []
        for _ in range(CHUNK * self.batch_size):
            question, solution = next(texts)
            prompt = encode_prompt(self.tokenizer, self.template, question)
            examples.append((Row(prompt, encode_response(self.tokenizer, solution)),))
        examples.sort(key=lambda example: len(example[0]))
        batches = [examples[i : i + self.batch_size] for i in range(0, len(examples), self.batch_size)]
        random.Random(index).shuffle(batches)
        return batches

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            batches = self.chunk(self.step // CHUNK)
            for examples in batches[self.step % CHUNK :]:
                self.step += 1
                yield collate(examples, self.tokenizer.pad_token_id)


class Pretraining(L.LightningDataModule):
    """Stories for pretraining, the longest growing with the step.

    Args:
        policy: model folder whose tokenizer is used (made by ``stepneg init``).
        template: the prompt; ``{question}`` is replaced.
        batch_size: stories a step.
        seed: which stories.
        curriculum: from which step on stories have at most how many events, for example ``{0: 1, 400: 2}``.
        distractors: most sentences that do not matter.
    """

    def __init__(
        self,
        policy: Path,
        template: str = "{question}\n",
        batch_size: int = 64,
        seed: int = 0,
        curriculum: dict[int, int] = {0: 5},  # noqa: B006  (never changed; jsonargparse shows it in --help)
        distractors: int = 2,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.template, self.batch_size, self.seed = template, batch_size, seed
        self.curriculum, self.distractors = curriculum, distractors

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """The endless stream, from the trainer's step on."""
        stories = CarelessStories(
            self.policy, self.template, self.batch_size, self.seed, self.curriculum, self.distractors
        )
        assert self.trainer is not None
        stories.step = self.trainer.global_step
        return DataLoader(stories, batch_size=None)
