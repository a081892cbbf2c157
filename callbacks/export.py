"""Write the policy as an HF folder: what vLLM, transformers and the next stage load."""

from pathlib import Path
from typing import Literal

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel

from stepneg.errors import InputError
from stepneg.links import remove
from stepneg.policy import Policy
from stepneg.policy_folder import load_tokenizer, stop_ids, write_record
from stepneg.sharding import in_parts, whole_weights
from stepneg.whole import beside, settle, take_place


def export(model: PreTrainedModel, tokenizer_folder: Path, out: Path, template: str) -> None:
    """Write model (safetensors, its own dtype), tokenizer and prompt template to ``out``, whole or not at all.

    Its sampling stops where a response ends under that template.

    Every rank must call it; rank zero writes.
    """
    weights = None
    if any(map(in_parts, model.parameters())):
        weights = whole_weights(model, keep=rank_zero_only.rank == 0)  # type: ignore[attr-defined]
    write(model, weights, tokenizer_folder, out, template)


@rank_zero_only
def write(
    model: PreTrainedModel, weights: dict[str, Tensor] | None, tokenizer_folder: Path, out: Path, template: str
) -> None:
    """Write ``out``; without ``weights`` those that the model holds.

    Raises:
        InputError: it cannot be written there.
    """
    settle(out)
    partial, _ = beside(out)
    tokenizer = load_tokenizer(tokenizer_folder, template)
    stops = stop_ids(tokenizer_folder)
    if model.generation_config is not None and tokenizer.eos_token_id not in stops:  # a base model's learns to chat
        model.generation_config.eos_token_id = [*stops, tokenizer.eos_token_id]
    try:
        model.save_pretrained(partial, state_dict=weights)
        tokenizer.save_pretrained(partial)
        write_record(partial, template)
    except (OSError, SafetensorError) as error:  # the latter tells of a full disk
        remove(partial)
        raise InputError(f"{out}: cannot be written: {error}; free or change the place and run this again") from error
    take_place(out)


class Export(L.Callback):
    """Export the last policy (``RUN/last``) and, by a monitored metric, the best one (``RUN/best``).

    Args:
        monitor: logged metric that the best policy has most of, for example ``validation/accuracy``; None for no best.
        mode: whether the best is the largest or the smallest value.
    """

    def __init__(self, monitor: str | None = None, mode: Literal["max", "min"] = "max") -> None:
        self.monitor, self.sign = monitor, 1.0 if mode == "max" else -1.0
        self.best: float | None = None
        self.written = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Finish what an earlier process was killed in."""
        if stage == "fit" and trainer.is_global_zero:
            for name in ("last", "best"):
                settle(Path(trainer.default_root_dir) / name)

    def write(self, trainer: L.Trainer, policy: L.LightningModule, name: str) -> None:
        """Export to ``RUN/name``."""
        assert isinstance(policy, Policy)
        assert policy.model is not None
        policy.check_weights()
        data = trainer.datamodule  # type: ignore[attr-defined]
        export(policy.model, policy.start, Path(trainer.default_root_dir) / name, data.template)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the policy if its monitored metric is the best so far."""
        if trainer.sanity_checking or self.monitor is None:
            return
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            logged = ", ".join(sorted(name for name in trainer.callback_metrics if name.startswith("validation/")))
            raise InputError(f"export.monitor: {self.monitor} is not logged; a validation logs {logged or 'nothing'}")
        if self.best is None or self.sign * float(value) > self.sign * self.best:
            self.best = float(value)
            self.write(trainer, pl_module, "best")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the last policy."""
        self.write(trainer, pl_module, "last")
        self.written = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make it up where an earlier process was killed behind its last checkpoint: nothing is left to train then."""
        if not self.written:
            self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, float | None]:
        """The best value so far, kept in the checkpoint."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, float | None]) -> None:
        """Take the best value so far from the checkpoint."""
        self.best = state_dict["best"]
