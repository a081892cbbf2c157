"""``stepneg init``: a fresh small model folder with its own tokenizer, for pretraining and for smoke tests."""

from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from stepneg.errors import InputError
from stepneg.links import remove
from stepneg.problems import ProblemSource


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE on ``texts``: every text can be encoded, nothing is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def init(
    out: Path,
    problems: ProblemSource,
    vocabulary: int = 1024,
    hidden_size: int = 192,
    layers: int = 4,
    head_size: Literal[32, 64, 80, 96, 112, 128] = 32,
    context: int = 256,
    seed: int = 0,
) -> None:
    """Write a randomly initialised Llama and a tokenizer trained on the problems' texts as an HF folder.

    Args:
        out: the folder to write; must not exist yet, or be empty.
        problems: where the tokenizer's texts come from, by class_path.
        vocabulary: largest number of tokens.
        hidden_size: width of the residual stream; a multiple of head_size.
        layers: number of decoder layers.
        head_size: width of an attention head; vLLM's CPU kernels take these.
        context: most tokens that prompt and solution may have together.
        seed: of the weights.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: there is something already; choose another folder or remove it")
    if hidden_size % head_size:
        raise InputError(f"hidden_size {hidden_size} is not a multiple of head_size {head_size}; change one of them")
    texts = [f"{p.question}\n{p.solution or ''}\n{p.answer}" for p in problems.load()]
    tokenizer = train_tokenizer(texts, vocabulary)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=8 * hidden_size // 3 // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // head_size,
        num_key_value_heads=hidden_size // head_size,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    partial = out.with_name(f".{out.name}.partial")
    remove(partial)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(out)
    print(f"{out}: {model.num_parameters():,} parameters, {len(tokenizer)} tokens")
