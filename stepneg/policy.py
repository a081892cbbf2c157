"""The LightningModule: a causal language model and the objective that it is trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel, get_scheduler

from stepneg.errors import InputError
from stepneg.objectives import IGNORED, Objective, token_log_probs
from stepneg.policy_folder import check_folder, loaded
from stepneg.same_fit import KEY, Identity, gone_on, identity, in_words
from stepneg.sampling.store import fingerprint_policy
from stepneg.sharding import divide, gradient_norm, zero3
from stepneg.tree_attention import attention_plan

LOGITS = 2**24  # 64 MiB in float32
CHECKED = 4  # rows that are computed with and without packing


def load_model(folder: Path) -> PreTrainedModel:
    """The causal language model of an HF folder in float32: safetensors only, no code of the folder is run.

    Raises:
        InputError: the folder is missing, is not a model, or is damaged.
    """
    check_folder(folder)
    fingerprint_policy(folder)  # an exported policy is checked by it
    return loaded(
        AutoModelForCausalLM.from_pretrained,
        folder,
        "a model in safetensors",
        dtype=torch.float32,
        use_safetensors=True,
        attn_implementation="tree",
    )


def batch_log_probs(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Log-probabilities [B, T-1] of ``labels[:, 1:]``; 0 where a label is ignored.

    A batch with a forest (:func:`stepneg.data.forest.forest`) costs its distinct tokens.
    """
    if "tree_ids" in batch:
        return forest_log_probs(model, batch)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    return token_log_probs(logits[:, :-1], batch["labels"][:, 1:])


def forest_log_probs(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """As :func:`batch_log_probs`, computed from the batch's forest."""
    hidden = model.base_model(
        input_ids=batch["tree_ids"][None],
        position_ids=batch["tree_depth"][None],
        attention_mask=batch["tree_ids"].new_ones(1, 1, 1, 1),  # of four dimensions: transformers makes no other
        use_cache=False,
        plan=attention_plan(batch["tree_depth"]),
    ).last_hidden_state[0]
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    logp = head_log_probs(head, hidden[batch["tree_parent"]], batch["tree_target"])
    return logp[batch["tree_edge"]] * (batch["labels"][:, 1:] != IGNORED)


@torch.no_grad()
def check_packing(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> None:
    """Hold the forest of a batch against its first rows computed the ordinary way; nothing happens without a forest.

    Raises:
        InputError: the model computes something else from trees, as one that scales its logits or whose attention is
            not transformers' interface would.
    """
    if "tree_ids" not in batch:
        return
    training = model.training
    model.eval()
    few = {name: batch[name][:CHECKED] for name in ("input_ids", "attention_mask", "labels")}
    plain, packed = batch_log_probs(model, few), forest_log_probs(model, batch)[:CHECKED]
    model.train(training)
    counted = few["labels"][:, 1:] != IGNORED
    apart = float((plain - packed)[counted].abs().mean())
    exact = torch.get_autocast_dtype(plain.device.type) if torch.is_autocast_enabled(plain.device.type) else model.dtype
    if counted.any() and not apart < (1e-3 if exact == torch.float32 else 0.1):
        raise InputError(
            f"packed batches and {type(model).__name__} do not agree (log-probabilities differ by {apart:.3g} a token);"
            " set data.packed to false"
        )


def head_log_probs(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-probability [E] of each target, never with more than ``LOGITS`` logits in memory.

    Args:
        head: from hidden states to logits over the vocabulary.
        hidden: [E, D].
        targets: [E].
    """

    def some(states: Tensor, labels: Tensor) -> Tensor:
        return token_log_probs(head(states)[None], labels[None])[0]

    size = max(1, LOGITS // head.out_features)
    if len(targets) <= size:
        return some(hidden, targets)
    # The logits of a chunk are computed again in the backward pass.
    parts = zip(hidden.split(size), targets.split(size), strict=True)
    return torch.cat([checkpoint(some, *part, use_reentrant=False) for part in parts])


class Policy(L.LightningModule):
    """A causal language model trained on an objective.

    Args:
        objective: the loss, by class_path: CrossEntropy, DPO or WeightedLikelihood of stepneg.objectives.
        path: HF folder that training starts from; by default the data's policy.
        optimizer: the optimiser, by class_path and init_args; AdamW.
        schedule: the learning rate after the warm-up.
        warmup: share of the steps in which the learning rate rises from 0.
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a third more time.
    """

    def __init__(
        self,
        objective: Objective,
        path: Path | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        schedule: Literal["constant_with_warmup", "linear", "cosine"] = "cosine",
        warmup: float = 0.1,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.path = path
        self.optimizer = optimizer
        self.schedule, self.warmup = schedule, warmup
        self.gradient_checkpointing = gradient_checkpointing
        self.model: PreTrainedModel | None = None
        self.checked = False  # whether the model computes the same from packed batches
        self.settings: Mapping[str, Any] = {}  # of the whole fit; with them its checkpoints are for it alone
        self.of_fit: Identity | None = None

    @property
    def start(self) -> Path:
        """The HF folder that training starts from, or that is tested."""
        return self.path or Path(self.trainer.datamodule.policy)  # type: ignore[attr-defined]

    def configure_model(self) -> None:
        """Load the weights once, on the rank and device that Lightning chose."""
        if self.model is not None:
            return
        in_parts = zero3(self.trainer.strategy) if self._trainer is not None else None
        self.model = load_model(self.start)
        del in_parts
        if self.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        self.model.train()
        if self.device_mesh is not None:
            compute = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None
            divide(self, self.model, self.device_mesh["data_parallel"], compute)
            for name in ("logits", "log_probs", "check_packing"):
                register_fsdp_forward_method(self, name)

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Logits [B, T, V] of a batch's ``input_ids``; under FSDP2 as :meth:`log_probs`."""
        assert self.model is not None
        return self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits

    def log_probs(self, batch: Mapping[str, Tensor]) -> Tensor:
        """As :func:`batch_log_probs`; under FSDP2 with the weights that are not a layer's put together."""
        assert self.model is not None
        return batch_log_probs(self.model, batch)

    def check_packing(self, batch: Mapping[str, Tensor]) -> None:
        """As :func:`check_packing`, put together likewise."""
        assert self.model is not None
        check_packing(self.model, batch)

    def shared(self, count: Tensor) -> Tensor:
        """The mean of a count over the ranks."""
        return self.trainer.strategy.reduce(count, reduce_op="mean")

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop at a gradient that is not finite, before it reaches a weight; log its norm, as it is before clipping.

        In float16 some are: the scaler of the loss leaves such steps out. DeepSpeed keeps gradients to itself.
        """
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:
            self.check_finite("gradient", [p.grad for p in self.parameters() if p.grad is not None])
        if self.is_logged(self.trainer.global_step + 1):
            self.log("train/learning_rate", float(optimizer.param_groups[0]["lr"]))
            if not isinstance(self.trainer.strategy, DeepSpeedStrategy):
                self.log_gradient_norm(gradient_norm(self))

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the norm under DeepSpeed, which knows it once it has made the step."""
        strategy = self.trainer.strategy
        if isinstance(strategy, DeepSpeedStrategy) and self.is_logged(self.trainer.global_step):
            self.log_gradient_norm(strategy.deepspeed_engine.get_global_grad_norm())

    def log_gradient_norm(self, norm: Tensor | float | None) -> None:
        """Log it where it is known."""
        if norm is not None:
            self.log("train/gradient_norm", norm)

    def is_logged(self, steps: int) -> bool:
        """Whether the optimiser step is logged with which ``steps`` of them are done."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(self.trainer.loggers) and every > 0 and steps % every == 0

    def on_fit_start(self) -> None:
        """Note what the fit is, before anything that it starts from could change."""
        if self.settings and self.of_fit is None:
            self.of_fit = identity(self.settings, self.trainer, self.start)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the checkpoint before if a step has spoilt the weights; else say which fit this one is of."""
        self.check_weights()
        if self.of_fit is not None:
            checkpoint[KEY] = asdict(self.of_fit)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another fit, and weights of another model.

        Raises:
            InputError: it is one, or they are.
        """
        if self.settings and self.trainer.state.fn == TrainerFn.FITTING:
            self.of_fit = gone_on(checkpoint, identity(self.settings, self.trainer, self.start))
            if self.of_fit.changed:
                rank_zero_info(f"the fit goes on, with changes: {in_words(self.of_fit.changed)}")
        if "state_dict" not in checkpoint:  # the ranks have loaded their parts
            return
        there, here = (
            {name: list(getattr(weights, "shape", ())) for name, weights in of.items()}
            for of in (checkpoint["state_dict"], self.state_dict())
        )
        if name := next((name for name in {**there, **here} if there.get(name) != here.get(name)), None):
            raise InputError(
                f"ckpt_path: the checkpoint is of another model than {self.start}: {name} has the shape"
                f" {there.get(name, 'of nothing')} there, and {here.get(name, 'of nothing')} here; give the policy that"
                " its fit has started from as model.path"
            )

    def check_weights(self) -> None:
        """Refuse weights that are not finite.

        Raises:
            InputError: on all ranks, if any rank has such a weight.
        """
        self.check_finite("weights", [p.detach() for p in self.parameters()])

    def check_finite(self, what: str, tensors: Sequence[Tensor]) -> None:
        """Refuse tensors that are not finite; every rank calls it.

        Raises:
            InputError: on all ranks, if a number on any rank is not finite.
        """
        own = [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
        finite = not own or bool(torch.nn.utils.get_total_norm(own).isfinite())
        if not self.trainer.strategy.reduce_boolean_decision(finite, all=True):
            raise InputError(
                f"step {self.trainer.global_step + 1}: {what} not finite; training stops, nothing of this step is kept,"
                " and the last checkpoint is from before it; lower the learning rate"
                " (model.optimizer.init_args.lr) or clip the gradient (trainer.gradient_clip_val)"
            )

    def loss(self, batch: Mapping[str, Tensor], stage: str) -> Tensor:
        """Objective of a batch, of which the mean over ranks is that of all their batches together.

        Logs it and its parts under ``stage/``, as means over ranks.
        """
        parts = self.objective(batch, self.log_probs(batch), self.shared)
        size = batch["input_ids"].shape[0]
        means = self.shared(torch.stack([value.detach() for value in parts.values()]))
        self.log_dict({f"{stage}/{name}": value for name, value in zip(parts, means, strict=True)}, batch_size=size)
        self.log(f"{stage}_loss", means[list(parts).index("loss")], prog_bar=True, logger=False, batch_size=size)
        return parts["loss"]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One step on the objective."""
        if not self.checked:
            self.check_packing(batch)
            self.checked = True
        loss = self.loss(batch, "train")
        self.check_finite("loss", [loss.detach()])
        if isinstance(self.trainer.strategy, DeepSpeedStrategy):
            return loss * self.trainer.accumulate_grad_batches  # by which Lightning and DeepSpeed both divide
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Held-out teacher solutions: negative log-likelihood a token."""
        self.log_held_out(batch, "validation")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """As in validation, on the test problems."""
        self.log_held_out(batch, "test")

    def log_held_out(self, batch: dict[str, Tensor], stage: str) -> None:
        """Log the mean negative log-likelihood, in nats a token, of the labelled tokens of all ranks."""
        if not batch:  # no held-out solutions
            return
        logp = self.log_probs(batch)
        held = torch.stack([-logp.sum(), (batch["labels"][:, 1:] >= 0).sum().to(logp)])
        nats, tokens = self.trainer.strategy.reduce(held, reduce_op="sum")
        # Lightning's mean over ranks is exact only where all weigh the same: it divides in whole numbers.
        self.log(f"{stage}/nll", nats / tokens, batch_size=int(tokens), prog_bar=True, sync_dist=True)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Summed log-probability [B] of each row's labelled tokens, in nats."""
        return self.log_probs(batch).sum(-1)

    def configure_optimizers(self) -> Any:
        """The optimiser, and a schedule over all steps of the fit."""
        optimizer = self.optimizer(self.parameters())
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = get_scheduler(
            self.schedule, optimizer, num_warmup_steps=round(self.warmup * steps), num_training_steps=steps
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
