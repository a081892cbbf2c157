"""A policy's HF folder beside its weights: tokenizer, context, and the prompt template that it was trained with."""

import json
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from stepneg.chat_template import end_of_turn, is_chat
from stepneg.errors import InputError

RECORD = "stepneg.json"


def load_tokenizer(policy: Path, template: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a policy folder; its eos_token is what ends a response.

    Args:
        policy: HF folder.
        template: the prompt's; under ``chat`` a response ends as the tokenizer's chat template ends a turn.

    Raises:
        InputError: it has none, or one without an end-of-sequence token or without the chat template asked for.
    """
    if not policy.is_dir():
        raise InputError(f"{policy}: no such policy folder; give an HF folder, for example RUN/last of an earlier fit")
    if not any((policy / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(f"{policy}: holds no tokenizer; save it beside the weights (tokenizer.save_pretrained)")
    tokenizer = AutoTokenizer.from_pretrained(policy)
    if tokenizer.eos_token_id is None:
        raise InputError(f"{policy}: its tokenizer has no eos_token; set one in tokenizer_config.json")
    if template is not None and is_chat(template):
        tokenizer.eos_token = end_of_turn(tokenizer, template) or tokenizer.eos_token
    return tokenizer


def stop_ids(policy: Path) -> list[int]:
    """The token ids at which the sampling of a policy stops: of its generation config, else of its config."""
    try:
        found = GenerationConfig.from_pretrained(policy).eos_token_id
    except OSError:
        found = None
    found = AutoConfig.from_pretrained(policy).eos_token_id if found is None else found
    return [] if found is None else list(found) if isinstance(found, list) else [found]


def check_stops(policy: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a policy whose samples would run on behind the end of a response.

    Raises:
        InputError: sampling does not stop at the tokenizer's eos_token.
    """
    if tokenizer.eos_token_id not in stop_ids(policy):
        raise InputError(
            f"{policy}: a response ends in {tokenizer.eos_token!r}, at which its sampling does not stop; add"
            f" {tokenizer.eos_token_id} to eos_token_id in generation_config.json"
        )


def context_length(policy: Path) -> int:
    """Most tokens that the model of a policy folder can hold."""
    return int(AutoConfig.from_pretrained(policy).max_position_embeddings)


def write_template(policy: Path, template: str) -> None:
    """Keep the prompt template in the folder, for a later evaluation."""
    (policy / RECORD).write_text(json.dumps({"template": template}, indent=1) + "\n")


def exported_template(policy: Path) -> str | None:
    """The template that :func:`write_template` kept; None in a folder of another origin.

    Raises:
        InputError: the record is not readable.
    """
    record = policy / RECORD
    if not record.is_file():
        return None
    try:
        return str(json.loads(record.read_text())["template"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{record}: holds no template; delete the file or give --template") from error
