"""Peak of memory of a 7B model's training step beside the formulas of :mod:`stepneg.memory`.

``python -m benchmarks.memory`` runs the step on tensors that have shapes and no contents (torch's FakeTensorMode),
while torch's MemTracker follows what each operation would allocate and free. So it needs no GPU and no weights. The
step is that of one GPU: a batch on top of gradients that are there, as when they are accumulated, and AdamW's
multi-tensor step.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import auto_cli
from rich.progress import track
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from stepneg.architecture import architecture
from stepneg.memory import AUTOCAST, TRUE, activations, ddp
from stepneg.objectives import token_log_probs
from stepneg.policy import head_log_probs

RESULTS = Path(__file__).with_name("results") / "memory.json"
MODELS = ("deepseek_math_7b", "llama2_7b", "qwen2_5_math_7b")
PrecisionName = Literal["bf16-true", "bf16-mixed"]
Found = dict[str, Any]


def causal(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    """Causal attention without a mask: transformers makes one of shapes, since it cannot see that none is needed."""
    out = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register("causal", causal)


class Head(nn.Linear):
    """An output layer that the tracker does not follow: it refuses modules that are called more than once a step."""

    def __call__(self, states: Tensor) -> Tensor:
        """Logits."""
        return nn.functional.linear(states, self.weight)


def peaks(config: Path, precision: PrecisionName, tokens: int, checkpointing: bool) -> tuple[int, int]:
    """Bytes at the peak of a batch and at that of the optimiser's step.

    Args:
        config: the model's ``config.json``.
        precision: as of Lightning.
        tokens: of the batch, one row.
        checkpointing: of the layers' activations.
    """
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(config), dtype=dtype, attn_implementation="causal"
        )
        model.lm_head.__class__ = Head
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
        tracker = MemTracker()
        tracker.track_external(model, optimizer)
        ids = torch.zeros(1, tokens, dtype=torch.long)

        def batch() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
                loss = -head_log_probs(model.lm_head, hidden[:-1], ids[0, 1:]).mean()
            loss.backward()

        def peak(*parts: Callable[[], Any]) -> int:
            tracker.reset_mod_stats()
            with tracker:  # which forgets earlier peaks
                for part in parts:
                    part()
            (found,) = tracker.get_tracker_snapshot("peak").values()
            return int(found["Total"])

        peak(batch, optimizer.step)  # makes gradients and moments
        return peak(batch), peak(optimizer.step)


def reading_peak(config: Path, tokens: int, packed: bool) -> int:
    """Bytes at the peak of a float32 model that computes log-probabilities of one row without gradients.

    Args:
        config: the model's ``config.json``.
        tokens: of the row.
        packed: logits in chunks, in the place of all at once.
    """
    with FakeTensorMode(), torch.no_grad():
        settings = AutoConfig.from_pretrained(config)
        model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32, attn_implementation="causal").eval()
        model.lm_head.__class__ = Head
        tracker = MemTracker()
        tracker.track_external(model)
        ids = torch.zeros(1, tokens, dtype=torch.long)
        with tracker:
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            if packed:
                head_log_probs(model.lm_head, hidden[0, :-1], ids[0, 1:])
            else:
                token_log_probs(model.lm_head(hidden)[:, :-1], ids[:, 1:])
        (found,) = tracker.get_tracker_snapshot("peak").values()
        return int(found["Total"])


def measure(name: str, precision: PrecisionName, tokens: int, checkpointing: bool) -> Found:
    """The tracked peaks of a step and what the formulas say."""
    config = Path("configs/model") / f"{name}.json"
    model, of = architecture(config), {"bf16-true": TRUE, "bf16-mixed": AUTOCAST}[precision]
    states = ddp(model, of, 1, 1)
    batch, step = peaks(config, precision, tokens, checkpointing)
    told = states.kept + activations(model, of, tokens, checkpointing)
    case = {"model": name, "precision": precision, "tokens": tokens, "checkpointing": checkpointing}
    return case | {"batch": batch, "batch_told": told, "step": step, "step_told": states.stepping}


def main(
    models: list[str] = list(MODELS),  # noqa: B006
    precisions: list[PrecisionName] = ["bf16-true", "bf16-mixed"],  # noqa: B006
    tokens: int = 8192,
    out: Path = RESULTS,
) -> None:
    """Follow the steps and write results/memory.json.

    Args:
        models: files of configs/model.
        precisions: as of Lightning.
        tokens: of a batch.
        out: the file.
    """
    cases = [(name, precision, checks) for name in models for precision in precisions for checks in (True, False)]
    rows = [measure(name, precision, tokens, checks) for name, precision, checks in track(cases, "steps")]
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"rows": rows, "torch": torch.__version__}, indent=1) + "\n")
    print(table({"rows": rows}))


def table(result: Found) -> str:
    """Peaks and formulas in Markdown, in GB."""
    heads = ("model", "precision", "checkpointing", "batch", "formula", "ratio", "step", "formula", "ratio")
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|" + "---:|" * 6]
    for row in result["rows"]:
        cells = [row["model"], row["precision"], "yes" if row["checkpointing"] else "no"]
        for name in ("batch", "step"):
            followed, told = row[name], row[f"{name}_told"]
            cells += [f"{followed / 1e9:.1f}", f"{told / 1e9:.1f}", f"{told / followed:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
