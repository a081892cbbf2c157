"""Tiny random models of the families that people use, each with a real byte-level BPE tokenizer of its own."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
)

from stepneg.initialise import train_tokenizer
from stepneg.problems.arithmetic import Arithmetic

CHATML = """{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
CONTEXT, WINDOW = 256, 32
SIZE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "tie_word_embeddings": True}
SIZE |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": CONTEXT}
FAMILIES: dict[str, Any] = {
    "llama": lambda **more: LlamaConfig(**SIZE, **more),
    "qwen2": lambda **more: Qwen2Config(**SIZE, **more),
    "mistral": lambda **more: MistralConfig(**SIZE, sliding_window=WINDOW, **more),
    "gpt2": lambda **more: GPT2Config(
        n_embd=64, n_layer=2, n_head=2, n_positions=CONTEXT, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0, **more
    ),
}


def make(folder: Path, family: str, chat: bool = False) -> Path:
    """An HF folder; with ``chat`` a base model's, whose template ends turns with another token than its eos_token."""
    problems = Arithmetic(size=100).load()
    tokenizer = train_tokenizer([f"{p.question}\n{p.solution}" for p in problems], 600)
    if chat:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = CHATML
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config: PretrainedConfig = FAMILIES[family](vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **ends)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # larger than at the start: attention is anything but uniform
        for parameter in model.parameters():
            parameter.mul_(2.0)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
