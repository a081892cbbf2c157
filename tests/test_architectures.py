"""Llama, Qwen2, Mistral with a sliding window, GPT-2: trained, exported, sampled; each with its own BPE tokenizer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from stepneg.cli import main
from stepneg.data.forest import batched
from stepneg.data.rows import encode_prompt, teacher_row
from stepneg.policy import batch_log_probs, load_model
from stepneg.policy_folder import exported_template, load_tokenizer
from stepneg.problems.arithmetic import Arithmetic
from stepneg.sampling.store import prompt_key
from tests.architectures import FAMILIES, WINDOW, make

PROBLEMS = {"class_path": "stepneg.problems.arithmetic.Arithmetic", "init_args": {"size": 8}}
QUIET = {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "logger": False}
QUIET |= {"enable_model_summary": False}


def fit(run: Path, policy: Path, kind: str, **data: Any) -> Path:
    """One epoch on worked solutions or on pairs of them, packed; the policy it leaves."""
    objective = {"solutions": "CrossEntropy", "pairs": "DPO"}[kind]
    given = {"policy": str(policy), "problems": PROBLEMS, "batch_size": 4, "kind": kind} | data
    config = {
        "model": {"objective": f"stepneg.objectives.{objective}"},
        "data": {"class_path": "tests.given.Given", "init_args": given},
        "trainer": QUIET | {"default_root_dir": str(run)},
    }
    run.mkdir()
    (run / "fit.yaml").write_text(yaml.safe_dump(config))
    main(["fit", f"--config={run / 'fit.yaml'}"])
    return run / "last"


def plain_log_probs(folder: Path, ids: list[int], attention: str = "eager", **more: Any) -> torch.Tensor:
    """Those of transformers' own model and attention, of one row without padding."""
    config = AutoConfig.from_pretrained(folder, **more)
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, attn_implementation=attention).eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].float()
    return logits[:-1].log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]


# Llama is what all other tests train.
TRAINED = [pytest.param(family, marks=pytest.mark.slow) if family == "llama" else family for family in FAMILIES]


@pytest.mark.parametrize("family", TRAINED)
def test_every_family_is_fine_tuned_and_trained_on_pairs(family, tmp_path):
    base = make(tmp_path / "base", family)
    sft = fit(tmp_path / "sft", base, "solutions")
    last = fit(tmp_path / "dpo", sft, "pairs")
    before, after = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (sft, last))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert AutoConfig.from_pretrained(last).model_type == family
    # What another tool loads says what stepneg trained, packed and padded.
    tokenizer = load_tokenizer(last)
    rows = [teacher_row(tokenizer, "{question}\n", p) for p in Arithmetic(size=4).load()]
    model = load_model(last).eval()
    with torch.no_grad():
        packed, padded = (batch_log_probs(model, batched([(r,) for r in rows], 0, pack)) for pack in (True, False))
    for i, row in enumerate(rows):
        own = plain_log_probs(last, [*row.prompt_ids, *row.response_ids])[len(row.prompt_ids) - 1 :]
        place = slice(len(row.prompt_ids) - 1, len(row) - 1)
        torch.testing.assert_close(packed[i, place], own, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(padded[i, place], own, atol=2e-5, rtol=1e-4)
    if family == "mistral":  # the window is at work: without it the numbers are others
        assert len(rows[0]) > 2 * WINDOW
        ids = [*rows[0].prompt_ids, *rows[0].response_ids]
        assert not torch.allclose(
            plain_log_probs(last, ids), plain_log_probs(last, ids, sliding_window=None), atol=1e-3
        )


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_sampled_by_vllm(family, tmp_path):
    """A base model learns to chat; vLLM's log-probs are held against transformers' when it loads the export."""
    base = make(tmp_path / "base", family, chat=True)
    policy = fit(tmp_path / "sft", base, "solutions", template="chat:Count.")
    out, store = tmp_path / "out", tmp_path / "store"
    main(["evaluate", str(policy), "--problems=arithmetic", "--limit=3", "--k=2", "--max_tokens=12", f"--store={store}",
          f"--output={out}", "--engine.kv_cache_gib=0.1"])  # fmt: skip
    settings = json.loads((out / "evaluation.json").read_text())["settings"]
    assert settings["template"] == exported_template(policy) == "chat:Count."
    # The prompts that were sampled are those that the fit trained on: of the chat template, in ids.
    tokenizer = load_tokenizer(policy, "chat:Count.")
    prompts = [encode_prompt(tokenizer, "chat:Count.", p.question) for p in Arithmetic("test", size=1500).load()[:3]]
    samples = [json.loads(line) for file in store.glob("*/*.jsonl") for line in file.open()]
    assert {row["prompt"] for row in samples} == {prompt_key(prompt) for prompt in prompts}
    assert len(samples) == 3 * (1 + 2)
    stops = {AutoTokenizer.from_pretrained(base).eos_token_id, tokenizer.eos_token_id}
    assert len(stops) == 2
    for row in samples:
        assert not stops & set(row["token_ids"][:-1])
        assert (row["token_ids"][-1] in stops) == (row["finish_reason"] == "stop")
    messages = [{"role": "system", "content": "Count."}, {"role": "user", "content": "{question}"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert tokenizer.decode(prompts[0]) == text.replace("{question}", Arithmetic("test", size=1500).load()[0].question)
