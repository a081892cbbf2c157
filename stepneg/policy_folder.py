"""A policy's HF folder beside its weights: tokenizer, context, and the prompt template that it was trained with."""

import json
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from stepneg.errors import InputError

RECORD = "stepneg.json"


def load_tokenizer(policy: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a policy folder.

    Raises:
        InputError: it has none, or one without an end-of-sequence token.
    """
    if not policy.is_dir():
        raise InputError(f"{policy}: no such policy folder; give an HF folder, for example RUN/last of an earlier fit")
    if not any((policy / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(f"{policy}: holds no tokenizer; save it beside the weights (tokenizer.save_pretrained)")
    tokenizer = AutoTokenizer.from_pretrained(policy)
    if tokenizer.eos_token_id is None:
        raise InputError(f"{policy}: its tokenizer has no eos_token; set one in tokenizer_config.json")
    return tokenizer


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
