"""Weights that ranks hold in parts: how FSDP2 divides a policy, how ZeRO-3 loads one, and how parts become a whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel


class FSDP2(ModelParallelStrategy):
    """Every rank takes its own batches and holds its part of each layer, of the gradients and of the optimiser.

    A checkpoint is a folder in which each rank writes its part.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1)

    def setup_environment(self) -> None:
        """All ranks are data parallel; Lightning would make only the nodes so."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


class ZeRO3Offload(DeepSpeedStrategy):
    """ZeRO-3 with its parts in host memory, and with torch's own optimisers there.

    DeepSpeed by itself insists on its CPU optimisers, which are compiled on each machine.
    """

    def __init__(self) -> None:
        super().__init__(stage=3, offload_optimizer=True, offload_parameters=True, pin_memory=True)
        assert isinstance(self.config, dict)
        self.config["zero_force_ds_cpu_optimizer"] = False


def divide(root: nn.Module, model: PreTrainedModel, mesh: DeviceMesh, compute: torch.dtype | None) -> None:
    """Divide a model among the ranks of a mesh, decoder layer by decoder layer.

    Args:
        root: what holds the model; the rest (embedding, last norm, head) is put together around its forward.
        model: whose layers are divided.
        mesh: of one dimension.
        compute: the type that weights are sent and used in, None for their own; gradients are summed in float32.
    """
    precision = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=compute and torch.float32)
    for layer in list(model.modules()):
        if type(layer).__name__ in (model._no_split_modules or ()):
            fully_shard(layer, mesh=mesh, mp_policy=precision)
    fully_shard(root, mesh=mesh, mp_policy=precision)


def zero3(strategy: Strategy) -> Any:
    """While the result lives, transformers loads models in ZeRO-3's parts, if the strategy is ZeRO-3."""
    if not (isinstance(strategy, DeepSpeedStrategy) and strategy.zero_stage_3):
        return None
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    return HfDeepSpeedConfig(strategy.config)


def in_parts(weight: Tensor) -> bool:
    """Whether this rank holds only a part of a weight."""
    return isinstance(weight, DTensor) or hasattr(weight, "ds_id")


@contextmanager
def whole(weight: Tensor) -> Iterator[Tensor]:
    """A weight put together from its parts; every rank must ask for it."""
    if isinstance(weight, DTensor):
        yield weight.full_tensor()
    elif hasattr(weight, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters(weight):
            yield weight
    else:
        yield weight


def whole_weights(model: nn.Module, keep: bool) -> dict[str, Tensor]:
    """All weights of a model, in host memory, on the ranks that keep them; empty on the others.

    Every rank must call it. They are put together one at a time, so a device needs room for the largest only. A weight
    of several names has its first.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    # The parameters would not do: after a validation FSDP2 has some put together, and in the type of the computation.
    for name, weight in model.state_dict(keep_vars=True).items():
        if id(weight) in seen:
            continue
        seen.add(id(weight))
        with whole(weight) as full:
            if keep:
                found[name] = full.detach().to("cpu", copy=True)
    return found


def gradient_norm(module: nn.Module) -> Tensor | None:
    """The 2-norm of all gradients as one vector, a scalar; None where a module's parameters hold none.

    Parts that ranks hold under FSDP2 are put together, so every rank must call it. Under DDP each rank holds the
    whole gradient; under DeepSpeed parameters hold none that could be read.
    """
    gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
    if not gradients:
        return None
    norm = nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
