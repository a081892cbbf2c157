"""From token ids to batches: rows, their labels and weights, padding."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from textwrap import shorten

import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler
from transformers import PreTrainedTokenizerBase

from stepneg.chat_template import frame
from stepneg.errors import InputError
from stepneg.problems import Problem

IGNORED = -100  # the label of a token that carries no loss


@dataclass(frozen=True)
class Row:
    """A prompt and a response in token ids; the loss is on the response.

    Attributes:
        prompt_ids: the context.
        response_ids: ends with EOS where the solution is complete, without where it was cut.
        shared: leading response tokens that are context too (the shared prefix of a step pair).
        weights: one factor a response token (Eq. 4), or None for 1 everywhere.
        reference_logp: summed log-probability of the labelled tokens under the reference policy, in nats.
    """

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    shared: int = 0
    weights: tuple[float, ...] | None = None
    reference_logp: float | None = None

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


Example = tuple[Row, ...]  # one row for solutions and weighted steps, (chosen, rejected) for pairs
BLANK = -1  # the place of an example that carries no loss


def blank(example: Example) -> Example:
    """An example of two tokens a row, in the form of ``example``, that carries no loss."""
    return tuple(
        Row(
            row.prompt_ids[:1],
            row.response_ids[:1],
            shared=1,
            weights=None if row.weights is None else (0.0,),
            reference_logp=None if row.reference_logp is None else 0.0,
        )
        for row in example
    )


class Examples(Dataset[Example]):
    """Examples by their place; at ``BLANK`` stands one without loss, for a rank that has none left."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, place: int) -> Example:
        return blank(self.examples[0]) if place == BLANK else self.examples[place]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, template: str, question: str) -> tuple[int, ...]:
    """Token ids of the prompt: what training and sampling alike put before the solution.

    Control tokens, such as where a text or a turn ends, come of the template and of the tokenizer's own rule alone; in
    the question ``</s>`` is four characters.

    Args:
        tokenizer: the policy's.
        template: a text with ``{question}``, or ``chat`` (:mod:`stepneg.chat_template`).
        question: the problem's.

    Raises:
        InputError: the tokenizer cannot read the question without one, or the template has no place for it.
    """
    control = control_ids(tokenizer)
    around_it, question, own_rule = frame(tokenizer, template, question)
    parts, sample = around_it.split("{question}"), around_it.replace("{question}", "x")
    text = question.join(parts)
    ids = tokenizer(text, add_special_tokens=own_rule)["input_ids"]
    if control.isdisjoint(ids):
        return tuple(ids)
    around = tokenizer(sample, add_special_tokens=own_rule)["input_ids"]
    own = [i for i in around if i in control]
    if [i for i in ids if i in control] == own:
        return tuple(ids)
    ids = tokenizer(text, add_special_tokens=own_rule, split_special_tokens=True)["input_ids"]
    if [i for i in ids if i in control] == own:
        return tuple(ids)
    # The template writes control tokens itself: piece by piece, within what the tokenizer puts around any text.
    first, *rest = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in parts]
    inside = tokenizer(sample, add_special_tokens=False)["input_ids"]
    start = next(i for i in range(len(around)) if around[i : i + len(inside)] == inside)
    middle = [i for part in rest for i in (*encode_text(tokenizer, question), *part)]
    return (*around[:start], *first, *middle, *around[start + len(inside) :])


def encode_response(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of a complete solution: apart from the prompt (BPE would merge at the seam), closed by EOS.

    Raises:
        InputError: as of :func:`encode_text`.
    """
    return (*encode_text(tokenizer, text), tokenizer.eos_token_id)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of somebody's text, none of which is a control token.

    Raises:
        InputError: the tokenizer cannot read it without one.
    """
    control = control_ids(tokenizer)
    for options in ({}, {"split_special_tokens": True}):
        ids: list[int] = tokenizer(text, add_special_tokens=False, **options)["input_ids"]
        if control.isdisjoint(ids):
            return ids
    found = tokenizer.decode([next(i for i in ids if i in control)])
    raise InputError(
        f"the text {shorten(text, 80)!r} holds {found!r}, which the tokenizer reads as a control token; leave the"
        " problem out"
    )


def control_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the tokens that the tokenizer declares special. What stands for unknown text controls nothing.

    Added tokens that it declares ordinary, as Qwen's ``<think>``, are text.
    """
    named = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(
        tokenizer.all_special_ids
    )
    return special if tokenizer.unk_token_id in named else special - {tokenizer.unk_token_id}


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """Text of token ids, special tokens left out: for people and graders, never to be encoded again."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True))


def teacher_row(tokenizer: PreTrainedTokenizerBase, template: str, problem: Problem) -> Row:
    """The row of a problem's worked solution.

    Raises:
        InputError: the problem has none.
    """
    if problem.solution is None:
        raise InputError(f"problem {problem.id} has no worked solution; fine-tuning needs one: set solution_key")
    return Row(encode_prompt(tokenizer, template, problem.question), encode_response(tokenizer, problem.solution))


def check_lengths(ids: Sequence[str], rows: Sequence[Row], context: int) -> None:
    """Refuse rows that the model cannot hold.

    Raises:
        InputError: the first row longer than ``context`` tokens.
    """
    for name, row in zip(ids, rows, strict=True):
        if len(row) > context:
            raise InputError(
                f"problem {name}: prompt of {len(row.prompt_ids)} and solution of {len(row.response_ids)} tokens"
                f" exceed the model's context of {context}; leave it out, or set data.skip_long to true"
            )


def collate(examples: Sequence[Example], pad_id: int) -> dict[str, Tensor]:
    """Pad the rows of ``examples`` into one batch; pairs become neighbouring rows, chosen first.

    Returns:
        ``input_ids``, ``attention_mask``, ``labels`` [B, T] (labels aligned with input_ids, -100 without loss), and
        ``weights`` [B, T] or ``reference_logp`` [B] where the rows carry them.
    """
    rows = [row for example in examples for row in example]
    width = max(map(len, rows))
    batch = {
        "input_ids": torch.full((len(rows), width), pad_id),
        "attention_mask": torch.zeros((len(rows), width), dtype=torch.long),
        "labels": torch.full((len(rows), width), IGNORED),
    }
    if rows[0].weights is not None:
        batch["weights"] = torch.zeros((len(rows), width))
    if rows[0].reference_logp is not None:
        batch["reference_logp"] = torch.tensor([row.reference_logp for row in rows])
    for i, row in enumerate(rows):
        start, end = len(row.prompt_ids), len(row)
        batch["input_ids"][i, :end] = torch.tensor(row.prompt_ids + row.response_ids)
        batch["attention_mask"][i, :end] = 1
        batch["labels"][i, start + row.shared : end] = torch.tensor(row.response_ids[row.shared :])
        if row.weights is not None:
            batch["weights"][i, start:end] = torch.tensor(row.weights)
    return batch


class SeededOrder(DistributedSampler[int]):
    """A shuffle that depends on (seed, epoch) alone, so that a resumed run sees the order it would have seen.

    Ranks take places of one order in turns, so batches of all ranks together are those of one process with the same
    global batch. The last places are blank where the ranks do not divide the size: all ranks make the same steps, and
    no example counts twice.

    Args:
        size: number of examples.
        seed: of the order.
        replicas: number of ranks.
        rank: which of them.
        groups: examples that follow each other, as those of one problem; None for each on its own.
        block: places that a rank takes at a turn.
        shuffled: off, the order is that of the examples.

    Attributes:
        behind: places that the next pass leaves out, of an epoch that an earlier process has begun.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        replicas: int = 1,
        rank: int = 0,
        groups: Sequence[Sequence[int]] | None = None,
        block: int = 1,
        shuffled: bool = True,
    ) -> None:
        super().__init__(range(size), replicas, rank, shuffle=shuffled, seed=seed)  # type: ignore[arg-type]
        self.size, self.block = size, block
        self.behind = 0
        self.groups = [[i] for i in range(size)] if groups is None else groups

    def __iter__(self) -> Iterator[int]:
        return islice(self.places(), self.behind, None)

    def places(self) -> Iterator[int]:
        """This rank's examples of the whole epoch."""
        shuffled = list(self.groups)
        if self.shuffle:
            random.Random(f"{self.seed}/{self.epoch}").shuffle(shuffled)
        order = [i for group in shuffled for i in group]
        order += [BLANK] * (self.total_size - self.size)
        for start in range(0, self.total_size, self.num_replicas * self.block):
            turn = order[start : start + self.num_replicas * self.block]
            each = len(turn) // self.num_replicas
            yield from turn[self.rank * each : (self.rank + 1) * each]
