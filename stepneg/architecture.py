"""The sizes of a decoder, as its ``config.json`` says them, and what follows from them without loading anything."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from stepneg.errors import InputError

LARGEST_SIZE = 10**9
SIZES = ("num_attention_heads", "hidden_size", "vocab_size", "intermediate_size", "num_hidden_layers")
OPTIONAL_SIZES = ("num_key_value_heads", "head_dim")
KINDS = ("llama", "mistral", "qwen2")  # decoders of Llama's kind: RMSNorm, rotary positions, gated MLP


@dataclass(frozen=True)
class Architecture:
    """The sizes of a decoder.

    Attributes:
        kind: Hugging Face's ``model_type``.
        vocabulary: V, rows of the embedding.
        width: d, of the residual stream.
        hidden: f, of the gated MLP.
        layers: L.
        heads: of the queries.
        kv_heads: of keys and values.
        head_width: of each head.
        tied: whether the output layer is the embedding.
        qkv_bias: whether queries, keys and values have a bias.
        output_bias: whether the attention's output has one.
        mlp_bias: whether the MLP has them.
    """

    kind: str
    vocabulary: int
    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    tied: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False

    @property
    def queries(self) -> int:
        """Width of all queries together."""
        return self.heads * self.head_width

    @property
    def keys(self) -> int:
        """Width of all keys, and of all values, together."""
        return self.kv_heads * self.head_width

    @property
    def layer(self) -> int:
        """Parameters of a decoder layer: four products of the attention, three of the MLP, two norms."""
        d, f, q, k = self.width, self.hidden, self.queries, self.keys
        biases = self.qkv_bias * (q + 2 * k) + self.output_bias * d + self.mlp_bias * (2 * f + d)
        return d * (2 * q + 2 * k) + 3 * d * f + 2 * d + biases

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, and as many of the output layer unless they are tied."""
        return self.vocabulary * self.width

    @property
    def outside(self) -> int:
        """Parameters outside the layers: embedding, output layer, last norm."""
        return self.embedding * (1 if self.tied else 2) + self.width

    @property
    def parameters(self) -> int:
        """P."""
        return self.layers * self.layer + self.outside

    @property
    def cached(self) -> int:
        """Bytes of a token in a key-value cache in bfloat16: a key and a value for each layer."""
        return 2 * self.layers * self.keys * 2

    @property
    def products(self) -> int:
        """Weights that a token is multiplied with."""
        return self.parameters - self.width * (2 * self.layers + 1) - (0 if self.tied else self.embedding)


def architecture(config: Path) -> Architecture:
    """The sizes in a model folder's ``config.json``, or in a file like it.

    Raises:
        InputError: there is none, or it is of another kind of model.
    """
    file = config / "config.json" if config.is_dir() else config
    try:
        said: Mapping[str, Any] = json.loads(file.read_text())
    except OSError as error:
        known = "configs/model/llama2_7b.json"
        raise InputError(f"{file}: cannot be read; give a model's folder or a file such as {known}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not JSON ({error}); give a model's folder or its config.json") from error
    kind = said.get("model_type") if isinstance(said, dict) else None
    if kind not in KINDS:
        raise InputError(f"{file}: model_type is {kind!r}; known are {', '.join(KINDS)}")
    try:
        for name in (*SIZES, *(name for name in OPTIONAL_SIZES if said.get(name))):
            if type(size := said[name]) is not int or not 1 <= size <= LARGEST_SIZE:
                raise InputError(f"{file}: {name} is {shorten(repr(size), 40)}, no size; give a number above 0")
        heads, width, attention_bias = said["num_attention_heads"], said["hidden_size"], said.get("attention_bias")
        return Architecture(
            kind=kind,
            vocabulary=said["vocab_size"],
            width=width,
            hidden=said["intermediate_size"],
            layers=said["num_hidden_layers"],
            heads=heads,
            kv_heads=said.get("num_key_value_heads") or heads,
            head_width=said.get("head_dim") or width // heads,
            tied=bool(said.get("tie_word_embeddings", False)),
            qkv_bias=kind == "qwen2" or bool(attention_bias),
            output_bias=kind == "llama" and bool(attention_bias),
            mlp_bias=bool(said.get("mlp_bias", False)),
        )
    except KeyError as error:
        raise InputError(
            f"{file}: no {error}; give the config.json of a {kind} model as transformers writes it"
        ) from error
