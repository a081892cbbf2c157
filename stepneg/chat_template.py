"""Prompts by a tokenizer's own chat template: ``template: chat``, or ``chat:`` and a system message.

A chat template is Jinja out of the policy's folder. transformers renders it in Jinja's sandbox, where it reaches no
file, no module and no attribute of Python's own; it can still take time and memory, as any program can.
"""

import re
from collections.abc import Sequence
from datetime import datetime

from transformers import PreTrainedTokenizerBase

from stepneg.errors import InputError

CHAT = re.compile(r"chat(?::\s*(?P<system>.*\S)\s*)?", re.DOTALL)
QUESTION, ANSWER = "{question}", "{answer}"
DAY = datetime(2024, 7, 26)  # for templates that write the date: a prompt must not change overnight
Message = dict[str, str]


def is_chat(template: str) -> bool:
    """Whether a prompt template stands for the tokenizer's own."""
    return CHAT.fullmatch(template) is not None


def opening(template: str) -> list[Message]:
    """The system message of a template such as ``chat:Be brief.``, if it has one."""
    found = CHAT.fullmatch(template)
    assert found is not None
    return [] if found["system"] is None else [{"role": "system", "content": found["system"]}]


def rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prompt: bool = True) -> str:
    """The text of some messages, control tokens included; as a prompt, up to where the answer begins.

    Raises:
        InputError: the tokenizer has no chat template, or it does not take these messages.
    """
    where = tokenizer.name_or_path or "the tokenizer"
    if not tokenizer.chat_template:
        raise InputError(
            f"{where}: its tokenizer has no chat template; give data.template a text with {QUESTION}, or save one"
            " beside the tokenizer (chat_template.jinja)"
        )
    try:
        text = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=prompt, strftime_now=DAY.strftime,
            date_string=DAY.strftime("%d %b %Y"),
        )  # fmt: skip
    except Exception as error:  # whatever a stranger's template runs into
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"{where}: its chat template does not take the messages {[m['role'] for m in messages]}: {reason};"
            " mend the template, or leave the system message out"
        ) from error
    return str(text)


def frame(tokenizer: PreTrainedTokenizerBase, template: str, question: str) -> tuple[str, str, bool]:
    """What stands around a question, with ``{question}`` in its place, and the question as it is put there.

    Returns:
        Also whether the tokenizer adds its own control tokens: not to a chat template, which writes them.

    Raises:
        InputError: the template has no place for the question, or the chat template changes it.
    """
    if not is_chat(template):
        if QUESTION not in template:
            raise InputError(f"template: {template!r} holds no {QUESTION}; put it where the question goes, or say chat")
        return template, question, True
    text, user = rendered(tokenizer, [*opening(template), {"role": "user", "content": QUESTION}]), question
    real = rendered(tokenizer, [*opening(template), {"role": "user", "content": question}])
    for user in (question, question.strip()):
        if text.count(QUESTION) == 1 and text.replace(QUESTION, user) == real:
            return text, user, False
    raise InputError(
        f"{tokenizer.name_or_path}: its chat template does not put the question {question[:60]!r} where it goes as it"
        f" is; give data.template a text with {QUESTION}"
    )


def prompt_text(tokenizer: PreTrainedTokenizerBase, template: str, question: str) -> str:
    """The prompt as a text, for people and other tools; its control tokens are written out."""
    around, question, _ = frame(tokenizer, template, question)
    return around.replace(QUESTION, question)


def end_of_turn(tokenizer: PreTrainedTokenizerBase, template: str) -> str | None:
    """The control token that closes an answer under the tokenizer's chat template; None without one.

    It need not be the tokenizer's eos_token, which of a base model ends a document.
    """
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    behind = rendered(tokenizer, [*opening(template), *messages], prompt=False).rpartition(ANSWER)[2].lstrip()
    for token in sorted(tokenizer.added_tokens_decoder.values(), key=lambda token: -len(token.content)):
        if token.special and behind.startswith(token.content):
            return str(token.content)
    return None
