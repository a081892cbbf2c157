"""Pairs in TRL's preference format: ``prompt``, ``chosen`` and ``rejected``, each a text or a list of messages.

A text prompt is the whole of what the model reads. Messages go through the tokenizer's chat template. Without a prompt
it is what chosen and rejected begin with. ``prompt_ids``, ``chosen_ids`` and ``rejected_ids`` beside them are the
tokens themselves.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from stepneg.chat_template import Message, is_chat, opening, rendered
from stepneg.credit.search import common
from stepneg.data.rows import Example, Row, control_ids, decode, encode_prompt, encode_response, encode_text
from stepneg.errors import InputError
from stepneg.problems.records import Record

ID_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")


@dataclass(frozen=True)
class Preference:
    """A row: a text prompt, or messages that end with the user's; and two answers to it.

    Attributes:
        record: the row itself.
        prompt: what both answers follow.
        chosen: the better answer.
        rejected: the worse.
    """

    record: Record
    prompt: str | tuple[Message, ...]
    chosen: str
    rejected: str

    @property
    def question(self) -> str:
        """What was asked, for the check against held-out problems."""
        said = self.record.values.get("question")
        if isinstance(said, str):
            return said
        return self.prompt if isinstance(self.prompt, str) else self.prompt[-1]["content"]


def read_preference(record: Record) -> Preference:
    """A row in any of TRL's forms.

    Raises:
        InputError: it is in none.
    """
    chosen, rejected = (record.values.get(name) for name in ("chosen", "rejected"))
    if isinstance(chosen, list) and isinstance(rejected, list):
        return of_messages(record)
    better, worse = (record.text(name, empty=True) for name in ("chosen", "rejected"))
    if record.values.get("prompt") is not None:
        return Preference(record, record.text("prompt"), better, worse)
    prompt = better[: common(better, worse)].removesuffix(" ")  # as TRL cuts
    if not prompt.strip():
        raise InputError(f"{record.where}: holds no prompt, and chosen and rejected begin differently; add a prompt")
    return Preference(record, prompt, better[len(prompt) :], worse[len(prompt) :])


def of_messages(record: Record) -> Preference:
    """A row whose answers are lists of messages."""
    better, worse = (messages(record, name) for name in ("chosen", "rejected"))
    prompt: tuple[Message, ...] = ()
    if isinstance(record.values.get("prompt"), list):
        prompt = messages(record, "prompt")
    else:  # the answers hold it
        while (
            len(better) > len(prompt) + 1
            and len(worse) > len(prompt) + 1
            and better[: len(prompt) + 1] == worse[: len(prompt) + 1]
        ):
            prompt = better[: len(prompt) + 1]
        better, worse = better[len(prompt) :], worse[len(prompt) :]
    one = all(len(answer) == 1 and answer[0]["role"] == "assistant" for answer in (better, worse))
    if not (one and prompt and prompt[-1]["role"] == "user"):
        raise InputError(
            f"{record.where}: is no prompt that ends with a user's message and one answer each of an assistant; write"
            " prompt, chosen and rejected so"
        )
    return Preference(record, prompt, better[0]["content"], worse[0]["content"])


def messages(record: Record, key: str) -> tuple[Message, ...]:
    """The messages under a key."""
    found = record.values.get(key)
    assert isinstance(found, list)
    if not all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in found
    ):
        raise InputError(f"{record.where}: key {key!r} holds no messages with role and content in text")
    for message in found:
        Record(record.where, message).text("content", empty=True)
    return tuple({"role": m["role"], "content": m["content"]} for m in found)


def as_rows(
    preference: Preference, tokenizer: PreTrainedTokenizerBase, template: str, cut: bool
) -> tuple[Example, bool]:
    """The two rows of a pair, and whether the ids of an answer decode to another text than the answer.

    Args:
        preference: the pair.
        tokenizer: the policy's, as :func:`stepneg.policy_folder.load_tokenizer` gives it under the template.
        template: the fit's; must be ``chat`` for messages.
        cut: a rejected text is a beginning, which no EOS closes.

    Raises:
        InputError: the pair cannot be encoded, or its ids are not of this tokenizer.
    """
    record, where = preference.record, preference.record.where
    answers = (preference.chosen, preference.rejected)
    if all(record.values.get(name) is not None for name in ID_COLUMNS):
        prompt, better, worse = (record.token_ids(name, len(tokenizer)) for name in ID_COLUMNS)
        if any(decode(tokenizer, ids) != text for ids, text in zip((better, worse), answers, strict=True)):
            raise InputError(
                f"{where}: chosen_ids or rejected_ids are not what chosen and rejected say under this policy's"
                " tokenizer; drop the columns of ids, and the texts are encoded"
            )
        shared = record.values.get("shared") or 0
        if not (
            type(shared) is int and 0 <= shared < min(len(better), len(worse)) and better[:shared] == worse[:shared]
        ):
            raise InputError(f"{where}: shared is {shared!r}, and so many tokens the two answers do not share; drop it")
        return (Row(prompt, better, shared), Row(prompt, worse, shared)), False
    prompt = prompt_of(preference, tokenizer, template)
    better = encode_response(tokenizer, preference.chosen)
    worse = (
        tuple(encode_text(tokenizer, preference.rejected)) if cut else encode_response(tokenizer, preference.rejected)
    )
    if not worse or better == worse:
        raise InputError(f"{where}: chosen and rejected are the same, or rejected is empty; drop the row")
    changed = any(decode(tokenizer, ids) != text for ids, text in zip((better, worse), answers, strict=True))
    return (Row(prompt, better), Row(prompt, worse)), changed


def prompt_of(preference: Preference, tokenizer: PreTrainedTokenizerBase, template: str) -> tuple[int, ...]:
    """The token ids of a pair's prompt."""
    prompt = preference.prompt
    if isinstance(prompt, str):
        return encode_prompt(tokenizer, "{question}", prompt)
    if not is_chat(template):
        raise InputError(f"{preference.record.where}: holds messages; set data.template to chat")
    if prompt[0]["role"] != "system":
        prompt = (*opening(template), *prompt)

    def encoded(said: tuple[Message, ...]) -> list[int]:
        ids: list[int] = tokenizer(rendered(tokenizer, said), add_special_tokens=False)["input_ids"]
        return ids

    control, ids = control_ids(tokenizer), encoded(prompt)
    plain = encoded(tuple(m | {"content": "x"} for m in prompt))
    if [i for i in ids if i in control] != [i for i in plain if i in control]:
        raise InputError(
            f"{preference.record.where}: a message writes one of the tokenizer's control tokens; drop the row"
        )
    return tuple(ids)
