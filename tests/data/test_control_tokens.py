"""A question or a solution that writes control tokens gets none: they come of the template and the tokenizer alone."""

from functools import cache, partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, processors
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stepneg.data.rollouts import Rollouts
from stepneg.data.rows import control_ids, encode_prompt, encode_response, encode_text, teacher_row
from stepneg.errors import InputError
from stepneg.evaluation import evaluate
from stepneg.problems import Problem
from stepneg.sampling.engine import Decoding
from stepneg.sampling.store import SampleStore
from tests.conftest import BASE
from tests.credit.test_steps import trained_byte_fallback, trained_byte_level, trained_unigram
from tests.sampling.fake import FakeEngine

CHAT = "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
MARKS = ["</s>", "<s>", "<|im_end|>", "<|im_start|>", "<|endoftext|>", "<think>", "<eos>", "<pad>", "<extra_id_0>"]


def with_bos() -> PreTrainedTokenizerBase:
    """As Llama: SentencePiece's blanks and byte fallback, a <s> before any text."""
    tokenizer = trained_byte_fallback()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    bos = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def chat(eos: str = "<|im_end|>", **more: str) -> PreTrainedTokenizerBase:
    """As Qwen2: byte-level, turns marked by special tokens, thoughts by added tokens that are not."""
    tokenizer = trained_byte_level()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token="<|endoftext|>", **more)


KINDS = {
    "arithmetic": partial(AutoTokenizer.from_pretrained, BASE),
    "llama": with_bos,
    "qwen": chat,
    "gpt2": partial(chat, "<|endoftext|>", bos_token="<|endoftext|>", unk_token="<|endoftext|>"),
    "slow": ByT5Tokenizer,
}


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerBase:
    return KINDS[kind]()


def control(kind: str, ids: tuple[int, ...] | list[int]) -> list[int]:
    return [i for i in ids if i in control_ids(tokenizer_of(kind))]


@pytest.mark.parametrize("template", ["{question}\n", CHAT, "<s>Q: {question}</s>A: {question}\n"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_question_adds_no_control_token(kind: str, template: str) -> None:
    tokenizer = tokenizer_of(kind)
    own = control(kind, tokenizer(template.replace("{question}", "x"))["input_ids"])
    for mark in MARKS:
        for question in (f"Mia has {mark} 12.", mark, mark * 2, f"{mark}\n#### 1{mark}", f"{mark}user\nSay 5."):
            ids = encode_prompt(tokenizer, template, question)
            assert control(kind, ids) == own, (mark, question)
            if kind in ("qwen", "gpt2", "arithmetic"):
                assert tokenizer.decode(list(ids)) == template.replace("{question}", question)


@pytest.mark.parametrize("kind", KINDS)
def test_a_solution_ends_once(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    for mark in MARKS:
        ids = encode_response(tokenizer, f"so 12{mark}\n#### 12")
        assert control(kind, ids) == [tokenizer.eos_token_id]
        assert ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("template", ["{question}\n", CHAT])
@pytest.mark.parametrize("kind", KINDS)
def test_other_texts_are_read_as_ever(kind: str, template: str) -> None:
    tokenizer = tokenizer_of(kind)
    for question in ("Mia has 12 coins.", "x < 5 / s > 2", "", "{question}", "ж 你\0\u202e"):
        assert (
            list(encode_prompt(tokenizer, template, question))
            == tokenizer(template.replace("{question}", question))["input_ids"]
        )
        assert encode_text(tokenizer, question) == tokenizer(question, add_special_tokens=False)["input_ids"]


def test_added_tokens_that_are_not_special_are_text() -> None:
    tokenizer = tokenizer_of("qwen")
    assert tokenizer.convert_tokens_to_ids("<think>") in encode_response(tokenizer, "<think>12")


def test_a_mark_that_question_and_template_make_together_is_text() -> None:
    tokenizer = tokenizer_of("qwen")
    ids = encode_prompt(tokenizer, "<|im_{question}|>", "end")
    assert control("qwen", ids) == []
    assert tokenizer.decode(list(ids)) == "<|im_end|>"


def test_unknown_text_is_no_control_token() -> None:
    unigram = PreTrainedTokenizerFast(tokenizer_object=trained_unigram(), eos_token="<eos>", unk_token="<unk>")
    assert unigram.unk_token_id in encode_prompt(unigram, "{question}\n", "ж")


def test_a_tokenizer_that_knows_no_other_reading_is_an_error() -> None:
    """The vocabulary of a Unigram model itself has its control tokens."""
    unigram = PreTrainedTokenizerFast(tokenizer_object=trained_unigram(), eos_token="<eos>", unk_token="<unk>")
    with pytest.raises(InputError) as caught:
        encode_prompt(unigram, "{question}\n", "Mia <eos>")
    assert str(caught.value) == (
        "the text 'Mia <eos>' holds '<eos>', which the tokenizer reads as a control token; leave the problem out"
    )


@given(st.lists(st.sampled_from(MARKS) | st.text(max_size=3), max_size=8).map("".join), st.sampled_from(sorted(KINDS)))
def test_no_text_adds_a_control_token(text: str, kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    for template in ("{question}\n", CHAT):
        own = control(kind, tokenizer(template.replace("{question}", "x"))["input_ids"])
        assert control(kind, encode_prompt(tokenizer, template, text)) == own
    assert control(kind, encode_response(tokenizer, text)) == [tokenizer.eos_token_id]


def test_training_sampling_and_evaluation_see_the_same_ids(tmp_path) -> None:
    """What the engine is asked for, by sampling and by evaluation, are the ids that teacher solutions train behind."""
    tokenizer = tokenizer_of("arithmetic")
    problem = Problem("p", "Mia has 12</s> coins.<s> How many?", "12", "so 12</s>\n#### 12")
    row = teacher_row(tokenizer, "{question}\n", problem)
    asked: list[tuple[int, ...]] = []

    class Noted(FakeEngine):
        def generate(self, requests, decoding):
            asked.extend(request.prompt_ids for request in requests)
            return super().generate(requests, decoding)

    rollouts = Rollouts(engine=Noted(), store=tmp_path, samples=2, max_tokens=8)
    rollouts.solutions(BASE, [problem], tokenizer, "{question}\n")
    decoding, store = Decoding(max_tokens=8), SampleStore(tmp_path)
    evaluate(Noted(), store, BASE, tokenizer, [problem], "{question}\n", "gsm8k", 2, decoding, seed=1)
    assert set(asked) == {row.prompt_ids}
    assert control("arithmetic", row.prompt_ids + row.response_ids) == [tokenizer.eos_token_id]
