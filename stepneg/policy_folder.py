"""A policy's HF folder beside its weights: tokenizer, context, and the prompt template that it was trained with.

Folders come from anybody. Nothing in them is run: no Python beside the weights, no pickle, no kernel that the
configuration names.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from stepneg.chat_template import end_of_turn, is_chat
from stepneg.errors import InputError
from stepneg.reading import json_object
from stepneg.sampling.store import RECORD, fingerprint_policy
from stepneg.whole import write_whole

T = TypeVar("T")
ADAPTER = "adapter_config.json"
INDEX = "model.safetensors.index.json"


def check_folder(policy: Path) -> None:
    """Refuse what would have transformers or vLLM fetch code, or read files outside of the folder.

    Raises:
        InputError: it is no model's folder, or names such a thing.
    """
    if not (policy / "config.json").is_file():
        raise InputError(f"{policy}: no config.json, so no model; give an HF folder (stepneg fit writes RUN/last)")
    if (policy / ADAPTER).is_file():  # with peft installed, transformers would fetch the model that it names
        raise InputError(f"{policy}: holds {ADAPTER}; merge the adapter into its model and save that")
    mend = "save the model again with save_pretrained"
    left: list[Any] = [json_object(policy / "config.json", mend)]
    while left:
        item = left.pop()
        left += item.values() if isinstance(item, dict) else item if isinstance(item, list) else []
        for key, value in item.items() if isinstance(item, dict) else ():
            if str(key).endswith("_implementation") and "/" in json.dumps(value):
                raise InputError(f"{policy}/config.json: {key} names code to fetch, {value!r}; remove the key")
    if (policy / INDEX).is_file():
        named = json_object(policy / INDEX, mend).get("weight_map")
        names = set(map(str, named.values())) if isinstance(named, dict) else {str(named)}
        if stray := sorted(n for n in names if "/" in n or not n.endswith(".safetensors")):
            raise InputError(f"{policy / INDEX}: {stray[0]!r} is no *.safetensors beside it; {mend}")


def loaded(load: Callable[..., T], policy: Path, what: str, **options: Any) -> T:
    """What a ``from_pretrained`` makes of a folder, without running code of the folder.

    Raises:
        InputError: it makes nothing of it.
    """
    try:
        return load(policy, trust_remote_code=False, **options)
    except MemoryError:
        raise
    except Exception as error:  # tokenizers raise it bare, torch AssertionError
        said = " ".join(str(error).split())
        raise InputError(f"{policy}: cannot be loaded as {what}: {type(error).__name__}: {said}") from error


def load_config(policy: Path) -> PreTrainedConfig:
    """The configuration of a policy folder.

    Raises:
        InputError: see :func:`check_folder` and :func:`loaded`.
    """
    check_folder(policy)
    return loaded(AutoConfig.from_pretrained, policy, "a model's configuration")


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
    tokenizer = loaded(AutoTokenizer.from_pretrained, policy, "a tokenizer")
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
    found = load_config(policy).eos_token_id if found is None else found
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
    return int(load_config(policy).max_position_embeddings)


def write_record(policy: Path, template: str) -> None:
    """Keep the prompt template in the folder, for a later evaluation, and the fingerprint of all else as a check."""
    record = {"template": template, "fingerprint": fingerprint_policy(policy)}
    write_whole(policy / RECORD, json.dumps(record, indent=1) + "\n")


def exported_template(policy: Path) -> str | None:
    """The template that :func:`write_record` kept; None in a folder of another origin.

    Raises:
        InputError: the record is not readable.
    """
    record = policy / RECORD
    if not record.is_file():
        return None
    mend = "delete the file or give --template"
    template = json_object(record, mend).get("template")
    if not isinstance(template, str):
        raise InputError(f"{record}: holds no template; {mend}")
    return template
