"""KL to the reference against sums over all responses: of two Markov chains, and of two real models."""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from stepneg.callbacks.evaluation import VLLMEvaluation
from stepneg.data.rows import encode_prompt
from stepneg.data.solutions import TeacherSolutions
from stepneg.divergence import kl_estimate
from stepneg.policy_folder import load_tokenizer
from stepneg.problems.arithmetic import Arithmetic
from stepneg.sampling.engine import Completion, Decoding, Request

END, LONGEST = 0, 4


def chain(seed: int) -> np.ndarray:
    """Probabilities of the next of 3 tokens after each of them."""
    return np.random.default_rng(seed).dirichlet([1.0, 1.0, 1.0], size=3)


def log_prob(table: np.ndarray, response: tuple[int, ...]) -> float:
    return sum(math.log(table[a, b]) for a, b in itertools.pairwise((1, *response)))


def responses() -> Iterator[tuple[int, ...]]:
    """All that end with END, or are cut after LONGEST tokens."""
    for size in range(1, LONGEST + 1):
        for body in itertools.product((1, 2), repeat=size - 1):
            yield (*body, END)
            if size == LONGEST:
                yield from ((*body, last) for last in (1, 2))


def test_the_estimate_is_unbiased_and_its_interval_holds_the_truth():
    policy, reference, rng = chain(0), chain(1), np.random.default_rng(2)
    every = list(responses())
    logps, references = (np.array([log_prob(table, y) for y in every]) for table in (policy, reference))
    assert np.exp(logps).sum() == pytest.approx(1.0)
    truth = float((np.exp(logps) * (logps - references)).sum())
    found = [kl_estimate(logps[y], references[y]) for y in rng.choice(len(every), (400, 64), p=np.exp(logps))]
    means = np.array([estimate["kl_to_reference"] for estimate in found])
    assert abs(means.mean() - truth) < 4 * means.std() / math.sqrt(len(means))
    held = [e["kl_to_reference_low"] <= truth <= e["kl_to_reference_high"] for e in found]
    assert 0.90 < np.mean(held) < 0.99
    # What is drawn from the reference, as the responses of a data set may be, gives another number: below 0.
    others = rng.choice(len(every), 2000, p=np.exp(references))
    assert kl_estimate(logps[others], references[others])["kl_to_reference_high"] < 0 < truth


class Drawing:
    """An engine that draws single tokens from a model, as vLLM would."""

    def load(self, policy: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(policy).eval()

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[tuple[int, list[Completion]]]:
        for index, request in enumerate(requests):
            with torch.no_grad():
                logp = self.model(torch.tensor([request.prompt_ids])).logits[0, -1].log_softmax(-1)
            chosen = []
            for i in range(request.start, request.start + request.n):
                chance = torch.Generator().manual_seed(request.seed + i)
                tempered = (logp / max(decoding.temperature, 1e-4)).softmax(-1)
                token = int(torch.multinomial(tempered, 1, generator=chance))
                chosen.append(Completion((token,), float(logp[token]), "length"))
            yield index, chosen


def test_an_evaluation_logs_the_divergence_of_its_policy(tmp_path, tiny):
    """Of first tokens, so that the truth is a sum over the vocabulary; at temperature 1, not the samples' own."""
    policy = tmp_path / "policy"
    model = AutoModelForCausalLM.from_pretrained(tiny)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(policy)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(policy)
    source = Arithmetic(split="validation", size=60)
    data = TeacherSolutions(policy=tiny, problems=Arithmetic(size=4))
    trainer = L.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_checkpointing=False)
    trainer.datamodule = data
    data.trainer = trainer
    callback = VLLMEvaluation(Drawing(), source, max_tokens=1, k=1, store=tmp_path / "samples", kl_samples=50)
    found = callback.measure(trainer, policy, "validation", source)

    tokenizer = load_tokenizer(tiny)
    prompts = list(dict.fromkeys(encode_prompt(tokenizer, data.template, p.question) for p in source.load()))[:50]
    reference = AutoModelForCausalLM.from_pretrained(tiny)
    truths = []
    with torch.no_grad():
        for prompt in prompts:
            p, q = (m.eval()(torch.tensor([prompt])).logits[0, -1].log_softmax(-1) for m in (model, reference))
            truths.append(float((p.exp() * (p - q)).sum()))
    truth, half = float(np.mean(truths)), found["kl_to_reference_high"] - found["kl_to_reference"]
    assert abs(found["kl_to_reference"] - truth) < 2 * half
    assert half < truth  # so that the line above can fail
    assert "kl_to_reference" not in callback.measure(trainer, policy, "test", source)
    callback.kl_samples = 0
    assert "kl_to_reference" not in callback.measure(trainer, policy, "validation", source)
