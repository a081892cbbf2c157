"""Pairs of others: as texts, as conversations, as token ids."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import AutoTokenizer

from stepneg.data.rows import Row, decode, encode_prompt, encode_response
from stepneg.errors import InputError
from stepneg.formats.export import as_preference
from stepneg.formats.preferences import as_rows, read_preference
from stepneg.policy_folder import load_tokenizer
from stepneg.problems import Problem
from stepneg.problems.records import Record
from tests.architectures import make

FORMS: dict[str, dict[str, Any]] = {
    "text": {"prompt": "How many?\n", "chosen": "3\n#### 3", "rejected": "4\n#### 4"},
    "implicit": {"chosen": "How many?\n3\n#### 3", "rejected": "How many?\n4\n#### 4"},
}


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


def encoded(row: dict[str, Any], policy: Path, template: str = "{question}\n", cut: bool = False) -> Any:
    """The two rows that a row of somebody's makes."""
    preference = read_preference(Record("here", row))
    return as_rows(preference, load_tokenizer(policy, template), template, cut)[0]


@pytest.mark.parametrize("form", FORMS)
def test_pairs_of_others_in_text(form, tiny, tokenizer):
    better, worse = encoded(FORMS[form], tiny)
    whole = [decode(tokenizer, row.prompt_ids + row.response_ids) for row in (better, worse)]
    assert whole == ["How many?\n3\n#### 3", "How many?\n4\n#### 4"]
    assert better.prompt_ids == worse.prompt_ids == tuple(tokenizer("How many?\n")["input_ids"])
    assert better.response_ids[-1] == worse.response_ids[-1] == tokenizer.eos_token_id
    assert encoded(FORMS[form], tiny, cut=True)[1].response_ids == worse.response_ids[:-1]


def turns(*said: str) -> list[dict[str, str]]:
    """A conversation, the user first."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]


CONVERSATIONS: dict[str, dict[str, Any]] = {
    "explicit": {"prompt": turns("How many?")} | {k: turns("", k)[1:] for k in ("chosen", "rejected")},
    "implicit": {k: turns("How many?", k) for k in ("chosen", "rejected")},
    "both": {"prompt": "How many?"} | {k: turns("How many?", k) for k in ("chosen", "rejected")},
    "many turns": {k: turns("Hi.", "Hello.", "How many?", k) for k in ("chosen", "rejected")},
    "system": {"prompt": [{"role": "system", "content": "Be brief."}, *turns("How many?")]}
    | {k: turns("", k)[1:] for k in ("chosen", "rejected")},
}


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("chatty") / "policy", "qwen2", chat=True)


@pytest.mark.parametrize("form", CONVERSATIONS)
def test_conversations_go_through_the_chat_template(form, chatty):
    row, template = CONVERSATIONS[form], "chat"
    better, worse = encoded(row, chatty, template)
    tokenizer = load_tokenizer(chatty, template)
    prompt = row["prompt"] if isinstance(row.get("prompt"), list) else row["chosen"][:-1]
    own = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert list(better.prompt_ids) == list(worse.prompt_ids) == own
    assert tokenizer.decode(better.response_ids) == "chosen<|im_end|>"
    assert tokenizer.decode(worse.response_ids) == "rejected<|im_end|>"


def test_pairs_of_a_chat_template_are_messages_that_come_back(chatty):
    """And TRL takes them for what they are."""
    tokenizer, template = load_tokenizer(chatty, "chat:Be brief."), "chat:Be brief."
    prompt, problem = encode_prompt(tokenizer, template, "How many?"), Problem("p", "How many?", "3")
    better, worse = (encode_response(tokenizer, text) for text in ("#### 3", "#### 4"))
    rows = [Row(prompt, ids) for ids in (better, worse[:-1])]
    row = as_preference(tokenizer, template, {prompt: problem}, *rows)
    table = datasets.Dataset.from_list([row])
    assert table[0]["prompt"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many?"}]
    assert table[0]["rejected"] == [{"role": "assistant", "content": "#### 4"}]
    again = encoded(table[0], chatty, template)
    assert [(r.prompt_ids, r.response_ids) for r in again] == [(prompt, better), (prompt, worse[:-1])]
    without = {key: value for key, value in table[0].items() if not key.endswith("_ids")}
    again = encoded(without, chatty, template, cut=True)
    assert [(r.prompt_ids, r.response_ids) for r in again] == [(prompt, better), (prompt, worse[:-1])]
    if find_spec("trl") is not None:
        from trl.data_utils import apply_chat_template, is_conversational

        assert is_conversational(table[0])
        said = apply_chat_template(table[0], tokenizer)
        assert tokenizer(said["prompt"], add_special_tokens=False)["input_ids"] == list(prompt)
        assert said["chosen"].rstrip() == "#### 3<|im_end|>"


def test_a_conversation_writes_no_control_tokens(chatty):
    row = {k: turns("a<|im_end|>", k) for k in ("chosen", "rejected")}
    with pytest.raises(InputError, match="here: a message writes one of the tokenizer's control tokens"):
        encoded(row, chatty, "chat")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "q", "chosen": "a"}, "line 1: key 'rejected' is missing"),
        ({"chosen": "a", "rejected": "b"}, "line 1: holds no prompt, and chosen and rejected begin differently"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "line 1: chosen and rejected are the same"),
        (
            {"prompt": [{"role": "user", "content": "q"}]}
            | {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")},
            "line 1: holds messages; set data.template to chat",
        ),
        (
            {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")},
            "line 1: is no prompt that ends with a user's message",
        ),
        ({"prompt": "q", "chosen": [{"role": 1}], "rejected": []}, "line 1: key 'chosen' holds no messages"),
        (
            {"prompt": "q"} | {n: [{"role": "user", "content": "\ud800"}] for n in ("chosen", "rejected")},
            "line 1: key 'content' holds half a surrogate pair",
        ),
        (
            {"prompt": "q", "chosen": "a", "rejected": "b", "prompt_ids": [5], "chosen_ids": [6], "rejected_ids": [7]},
            "line 1: chosen_ids or rejected_ids are not what chosen and rejected say",
        ),
    ],
)
def test_a_bad_pair_is_named(row, said, tiny):
    with pytest.raises(InputError, match=re.escape(said.replace("line 1", "here"))):
        encoded(row, tiny)
