"""Policy folders of others: nothing in them runs, and what cannot be used is one line that names the file."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stepneg.errors import InputError
from stepneg.policy import load_model
from stepneg.policy_folder import context_length, exported_template, load_config, load_tokenizer
from stepneg.sampling.vllm_engine import check_policy

NATIVE = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}


class Runs:
    """A pickle of it would run a command when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


@pytest.fixture
def folder(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny policy with Python beside it that leaves a file ``ran`` in the current directory."""
    copy = tmp_path / "policy"
    shutil.copytree(tiny, copy)
    (copy / "evil.py").write_text(
        "open('ran', 'w').close()\nfrom transformers import *\nclass Config(LlamaConfig): pass\n"
        "class Model(LlamaForCausalLM): pass\nclass Tokens(PreTrainedTokenizerFast): pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # nobody is asked whether code may run
    return copy


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refused(load: Callable[[Path], Any], folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load(folder)
    assert not Path("ran").exists()
    text = str(caught.value)
    assert text.startswith(f"{folder}")
    assert "\n" not in text
    return text


def test_code_beside_the_weights_does_not_run(folder: Path) -> None:
    change(folder / "config.json", auto_map=NATIVE)  # a model that transformers knows needs no code
    assert type(load_model(folder)).__module__.startswith("transformers.")
    change(folder / "config.json", model_type="evil")
    for load in (load_model, load_config, context_length):
        assert "contains custom code which must be executed" in refused(load, folder)
    named: dict[str, Any] = {"AutoTokenizer": ["evil.Tokens", None]}
    change(folder / "tokenizer_config.json", auto_map=named, tokenizer_class="Tokens")
    assert "contains custom code which must be executed" in refused(load_tokenizer, folder)


@pytest.mark.parametrize("load", [load_model, load_config, check_policy])
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_kernel_of_the_hub_is_not_fetched(load: Callable[[Path], Any], key: str, folder: Path) -> None:
    for value in ("kernels-community/flash-attn", {"text": "someone/kernel"}):
        change(folder / "config.json", **{key: value})
        assert refused(load, folder) == f"{folder}/config.json: {key} names code to fetch, {value!r}; remove the key"
    change(folder / "config.json", **{key: None}, text_config={key: "someone/kernel"})
    assert "names code to fetch" in refused(load, folder)


@pytest.mark.parametrize("load", [load_model, check_policy])
def test_pickled_weights_are_refused(load: Callable[[Path], Any], folder: Path) -> None:
    torch.save({"model.embed_tokens.weight": Runs()}, folder / "pytorch_model.bin")
    torch.save(Runs(), folder / "training_args.bin")
    load(folder)  # safetensors are beside it: nothing else is looked at
    (folder / "model.safetensors").unlink()
    assert "safetensors" in refused(load, folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head": "pytorch_model.bin"}}))
    assert "'pytorch_model.bin' is no *.safetensors beside it; save the model again" in refused(load, folder)


def test_weights_are_those_of_the_folder(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.embed_tokens.weight": "../model.safetensors"}}))
    assert "'../model.safetensors' is no *.safetensors beside it" in refused(load_model, folder)


def test_adapters_are_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "someone/model"}))
    for load in (load_model, check_policy):
        assert "holds adapter_config.json; merge the adapter into its model and save that" in refused(load, folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[]", "holds list, no JSON object"),
        (b'{"model_type": "nothing"}', "cannot be loaded as"),
        (b'{"model_type": "llama", "num_hidden_layers": "x"}', "cannot be loaded as"),
        (b'{"model_type": ["llama"]}', "cannot be loaded as"),
        (b'{"model_type": "llama", "quantization_config": {"quant_method": "awq"}}', "cannot be loaded as"),
    ],
)
def test_an_unusable_configuration_is_one_line(content: bytes, said: str, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    assert said in refused(load_model, folder)


@pytest.mark.parametrize("content", [pickle.dumps(Runs()), b"\xff" * 8, b"", b"\x08\0\0\0\0\0\0\0{}      " * 9])
def test_weights_that_are_no_safetensors_are_one_line(content: bytes, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert "cannot be loaded as a model in safetensors" in refused(load_model, folder)


@pytest.mark.parametrize("content", ["[" * 100_000, "{}", "", '{"model": {"type": "BPE"}}'])
def test_a_broken_tokenizer_is_one_line(content: str, folder: Path) -> None:
    (folder / "tokenizer.json").write_text(content)
    assert "cannot be loaded as a tokenizer" in refused(load_tokenizer, folder)


@pytest.mark.parametrize("content", ["[" * 100_000, "{}", "[]", '{"template": 5}'])
def test_a_broken_template_is_one_line(content: str, folder: Path) -> None:
    (folder / "stepneg.json").write_text(content)
    assert "delete the file or give --template" in refused(exported_template, folder)


def test_what_libraries_raise_by_any_name_is_one_line(folder: Path) -> None:
    change(folder / "config.json", pad_token_id=10**6)
    assert "AssertionError: Padding_idx must be within num_embeddings" in refused(load_model, folder)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"Ġ":', '"ĠĠĠĠ":', 1))
    assert "cannot be loaded as a tokenizer: Exception: Token" in refused(load_tokenizer, folder)
