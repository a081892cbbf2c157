"""``stepneg memory``: what training a model takes of each GPU, whether it fits and with how many tokens.

Pure arithmetic of a model's ``config.json``; nothing is loaded. P stands for the number of parameters, N for the GPUs.
GB are 10^9 bytes: a card sold with 80 GB has some 5 % more, which is left to CUDA, NCCL and fragmentation.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stepneg.architecture import Architecture, architecture
from stepneg.errors import InputError

LOGITS = 2**24  # as in stepneg.policy, whose import takes seconds; a test holds them together
BUCKET = 200_000_000  # elements; DeepSpeedStrategy's default reduce_bucket_size
LIVE = 1_000_000_000  # elements; DeepSpeed's default stage3_max_live_parameters


@dataclass(frozen=True)
class Precision:
    """Bytes of an element.

    Attributes:
        weight: of a parameter as it is kept.
        gradient: of its gradient.
        optimiser: of AdamW's two moments and of a master copy, together.
        moment: of one of the moments.
        used: of a weight in the forward pass.
        residual: of the residual stream.
        product: of the operands of matrix products.
    """

    weight: int
    gradient: int
    optimiser: int
    moment: int
    used: int
    residual: int
    product: int

    @property
    def cast(self) -> int:
        """Of a weight's copy that autocast keeps until the forward pass ends: one if products are of another type."""
        return self.product if self.product != self.used else 0


# torch.optim.AdamW keeps both moments in the parameter's own type: with bf16-true nothing is in float32.
TRUE = Precision(weight=2, gradient=2, optimiser=4, moment=2, used=2, residual=2, product=2)
AUTOCAST = Precision(weight=4, gradient=4, optimiser=8, moment=4, used=4, residual=4, product=2)
# FSDP2 keeps float32 and gathers bfloat16 (MixedPrecisionPolicy), in which everything is then computed.
GATHERED = Precision(weight=4, gradient=4, optimiser=8, moment=4, used=2, residual=2, product=2)
# DeepSpeed trains a float32 master copy: 12 bytes a parameter beside 2 + 2 (Rajbhandari et al. 2020, section 3.1).
MASTER = Precision(weight=2, gradient=2, optimiser=12, moment=4, used=2, residual=2, product=2)
# A reference is loaded in float32, whatever the trainer's precision.
FLOAT32 = Precision(weight=4, gradient=4, optimiser=8, moment=4, used=4, residual=4, product=4)
CHECKED = 4  # rows that stepneg.policy.check_packing computes the ordinary way; a test holds them together


@dataclass(frozen=True)
class States:
    """Bytes on a GPU that do not depend on the batch.

    Attributes:
        weights: those that stay.
        gradients: those that stay from one batch of an accumulated step to the next.
        optimiser: moments and master copies.
        buffers: buckets of communication, weights gathered from other GPUs.
        step: taken while the optimiser steps, when no activations are there.
        host: in the memory of each machine.
    """

    weights: float
    gradients: float
    optimiser: float
    buffers: float
    step: float
    host: float = 0.0

    @property
    def kept(self) -> float:
        """While a batch is computed."""
        return self.weights + self.gradients + self.optimiser + self.buffers

    @property
    def stepping(self) -> float:
        """While the optimiser steps."""
        return self.weights + self.gradients + self.optimiser + self.step


def ddp(model: Architecture, of: Precision, gpus: int, nodes: int) -> States:
    """All on each GPU; the gradients lie in DDP's buckets (``gradient_as_bucket_view``, set in configs/trainer).

    AdamW's multi-tensor step, the default on a GPU, makes a list of denominators as large as one moment.
    """
    p = model.parameters
    return States(
        weights=p * of.weight,
        gradients=p * of.gradient,
        optimiser=p * of.optimiser,
        buffers=0.0,
        step=p * of.moment,
    )


def fsdp2(model: Architecture, of: Precision, gpus: int, nodes: int) -> States:
    """``fully_shard`` on each layer and on the model: 1/N of everything.

    Whole are the root's weights (embedding, output layer, last norm), which are not resharded after the forward pass,
    the layer that is computed and the one that is fetched; and the gradients of the root and of one layer, as computed
    and as summed.
    """
    p = model.parameters / gpus
    weights = (model.outside + 2 * model.layer) * of.used
    return States(
        weights=p * of.weight,
        gradients=p * of.gradient,
        optimiser=p * of.optimiser,
        buffers=weights + (model.outside + model.layer) * (of.used + of.gradient),
        step=p * of.moment,
    )


def zero2(model: Architecture, of: Precision, gpus: int, nodes: int) -> States:
    """ZeRO-2: the weights on each GPU, 1/N of gradients and optimiser; two buckets of gradients on their way.

    Stepping makes a float32 copy of the gradients' share. Without the buckets this is DeepSpeed's own estimate
    (``estimate_zero2_model_states_mem_needs``), 2 P + 18 P / N.
    """
    p, share = model.parameters, model.parameters / gpus
    return States(
        weights=p * of.weight,
        gradients=share * of.gradient,
        optimiser=share * of.optimiser,
        buffers=2 * min(BUCKET, p) * of.gradient,
        step=share * 4,
    )


def zero3(model: Architecture, of: Precision, gpus: int, nodes: int) -> States:
    """ZeRO-3: 1/N of weights, gradients and optimiser; gathered weights up to a limit; two buckets as in ZeRO-2.

    DeepSpeed's own estimate (``estimate_zero3_model_states_mem_needs``) is 18 P / N and 4 bytes for each parameter of
    the largest layer: it leaves out the limit of live parameters and one of the two copies of the gradients.
    """
    share = model.parameters / gpus
    return States(
        weights=share * of.weight,
        gradients=share * of.gradient,
        optimiser=share * of.optimiser,
        buffers=min(LIVE, model.parameters) * of.used + 2 * min(BUCKET, model.parameters) * of.gradient,
        step=share * 4,
    )


def zero3_offload(model: Architecture, of: Precision, gpus: int, nodes: int) -> States:
    """ZeRO-3 with weights, gradients and optimiser in the machines' memory; the GPU holds what is being computed.

    A machine holds its share of weights, float32 gradients and optimiser, 18 P / machines, which is DeepSpeed's
    estimate before it adds a half for buffers.
    """
    host = model.parameters / nodes * (of.weight + 4 + of.optimiser)
    return States(0.0, 0.0, 0.0, zero3(model, of, gpus, nodes).buffers, 0.0, host)


@dataclass(frozen=True)
class Trainer:
    """A file of configs/trainer.

    Attributes:
        name: of the file.
        precision: Lightning's name of it.
        states: what is kept where, of a model on so many GPUs of so many machines.
        of: bytes of an element.
    """

    name: str
    precision: str
    states: Callable[[Architecture, Precision, int, int], States]
    of: Precision


TRAINERS = (
    Trainer("ddp", "bf16-true", ddp, TRUE),
    Trainer("ddp", "bf16-mixed", ddp, AUTOCAST),
    Trainer("fsdp2", "bf16-true", fsdp2, TRUE),
    Trainer("fsdp2", "bf16-mixed", fsdp2, GATHERED),
    Trainer("deepspeed_zero2", "bf16-true", zero2, MASTER),
    Trainer("deepspeed_zero3", "bf16-true", zero3, MASTER),
    Trainer("deepspeed_zero3_offload", "bf16-true", zero3_offload, MASTER),
)


def saved_by_norm(model: Architecture, of: Precision) -> int:
    """Bytes a token that RMSNorm keeps for its backward pass: its input in float32, the scale, the scaled."""
    return model.width * (4 + of.residual) + 4


def saved_by_layer(model: Architecture, of: Precision) -> int:
    """Bytes a token that a decoder layer keeps for its backward pass.

    Two norms; the operands of the attention's products (its input, queries, keys, values, its output) and a log-sum
    for each head, as of a fused kernel that keeps no scores; the operands of the MLP's products (its input, gate, the
    gate's activation, up, their product). Autocast casts an input anew for each product that it goes into.
    """
    copies = 3 + 2 if of.cast else 1 + 1
    attention = of.product * (2 * model.queries + 2 * model.keys) + 4 * model.heads
    mlp = of.product * 4 * model.hidden
    return 2 * saved_by_norm(model, of) + of.product * copies * model.width + attention + mlp


def activations(model: Architecture, of: Precision, tokens: int, checkpointing: bool, packed: bool = True) -> float:
    """Most bytes of activations that a batch of so many tokens takes, in any of the three phases of a step.

    Args:
        model: the architecture.
        of: bytes of an element.
        tokens: on the GPU, padding included.
        checkpointing: keep the input of each layer only and compute a layer again in its backward pass.
        packed: batches are trees and logits are computed in chunks (:func:`stepneg.policy.head_log_probs`).
    """
    layer = tokens * saved_by_layer(model, of)
    kept = tokens * model.width * of.residual * model.layers if checkpointing else layer * model.layers
    casts = model.products * of.cast
    ends = tokens * (saved_by_norm(model, of) + 2 * model.width * of.residual)
    logits = tokens * model.vocabulary
    chunked = packed and logits > LOGITS
    logits = min(logits, LOGITS) if packed else logits
    # Of each logit itself, in float32, and its log-softmax; backwards also the gradients of the last two.
    forward = kept + casts + ends + logits * (of.product + 8)
    # The output layer's gradient: that of a chunk, those of the chunks before, their sum.
    weights = (3 if chunked else 1) * model.embedding * of.product
    computed = logits * (2 * of.product + 12)
    head = kept + ends + (max(computed, weights) if chunked else computed + weights)
    # Two gradients of the MLP's factors while its product is no longer needed, two of the residual stream.
    backward = kept + tokens * (2 * model.hidden * of.product + 2 * model.width * of.residual)
    if checkpointing:
        return max(forward, head, backward + layer + model.layer * of.cast)
    return max(forward, head + casts, backward + casts)


def reference(model: Architecture, tokens: int, checked: int) -> float:
    """Bytes of a reference in float32 that computes log-probabilities of a packed batch without gradients.

    Two of the residual stream, the MLP's input and output, three of its factors, the rotation's cosines and sines; or
    the logits of the rows that are also computed without packing, and their log-softmax.

    Args:
        model: the architecture.
        tokens: of the batch.
        checked: of its rows that are also computed without packing.
    """
    layer = tokens * (4 * model.width + 3 * model.hidden + 2 * model.head_width)
    logits = checked * 2 * model.vocabulary
    return FLOAT32.used * (model.parameters + max(layer, logits))


def largest_batch(room: float, row: int, taken: Callable[[int], float]) -> int:
    """The most rows of ``row`` tokens of which ``taken(tokens)`` bytes are no more than ``room``."""
    most = 1
    while taken(most * row) <= room:
        most *= 2
    least = 0  # fits; most does not
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if taken(middle * row) <= room else (least, middle)
    return least


def gigabytes(size: float) -> str:
    """In GB."""
    return f"{size / 1e9:.1f}"


HEADINGS = (
    "trainer",
    "precision",
    "weights",
    "gradients",
    "optimiser",
    "buffers",
    "at the step",
    "one row",
    "host",
    "fits",
    "most rows",
    "not packed",
    "nothing recomputed",
    "engine's share",
    "beside the reference",
)


def line_of(model: Architecture, trainer: Trainer, gpus: int, nodes: int, gpu: float, row: int) -> list[str]:
    """The cells of a trainer on one kind of cluster; arguments of :func:`machine_table`."""
    states = trainer.states(model, trainer.of, gpus, nodes)

    def rows(checkpointing: bool, packed: bool) -> str:
        most = largest_batch(
            gpu - states.kept, row, lambda tokens: activations(model, trainer.of, tokens, checkpointing, packed)
        )
        return str(most) if states.stepping <= gpu and most else ""

    one = states.kept + activations(model, trainer.of, row, True)
    fits = max(one, states.stepping) <= gpu
    # An engine that starts between two steps finds what is kept taken; it must hold its weights and a row.
    share = (gpu - states.kept) / gpu
    serves = fits and share * gpu >= 2 * model.parameters + row * model.cached
    # Once the engine has left, the reference takes its place, with twice the rows of a batch of training.
    measured = largest_batch(
        gpu - states.kept, row, lambda tokens: reference(model, 2 * tokens, min(2 * tokens, CHECKED * row))
    )
    return [
        trainer.name,
        trainer.precision,
        *map(gigabytes, (states.weights, states.gradients, states.optimiser, states.buffers, states.stepping, one)),
        gigabytes(states.host) if states.host else "",
        "yes" if fits else "no",
        rows(checkpointing=True, packed=True),
        rows(checkpointing=True, packed=False),
        rows(checkpointing=False, packed=True),
        f"{int(100 * share) / 100:.2f}" if serves else "",
        str(measured) if fits and measured else "",
    ]


def machine_table(model: Architecture, nodes: int, gpus: int, gpu: float, row: int) -> str:
    """All trainers on so many machines in Markdown, in GB.

    Args:
        model: the architecture.
        nodes: machines.
        gpus: of each machine.
        gpu: bytes of memory of each.
        row: tokens of a row.
    """
    lines = [line_of(model, trainer, nodes * gpus, nodes, gpu, row) for trainer in TRAINERS]
    cells = [list(HEADINGS), ["---"] * 2 + ["---:"] * (len(HEADINGS) - 2), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def facts(model: Architecture, gpu: float, row: int) -> list[str]:
    """What does not depend on the trainer: parameters, and the engine alone on a GPU."""
    most = max(0, int((0.85 * gpu - 2 * model.parameters) / model.cached))
    sizes = [n for n in range(1, 9) if model.heads % n == 0 and (model.kv_heads % n == 0 or n % model.kv_heads == 0)]
    return [
        f"{model.parameters:,} parameters: {model.layers} layers of {model.layer:,}, and {model.outside:,} outside.",
        f"An engine alone, gpu_memory_utilization 0.85: {gigabytes(2 * model.parameters)} GB of weights; at"
        f" {model.cached:,} bytes a cached token room for {most:,} tokens, {most // row:,} rows.",
        f"Its tensor_parallel_size can be {', '.join(map(str, sizes))}: {model.heads} heads, {model.kv_heads} of keys.",
        "An evaluation during fit puts the float32 weights of the reference,"
        f" {gigabytes(FLOAT32.weight * model.parameters)} GB, on rank 0's GPU while it measures the divergence from it;"
        " kl_samples: 0 leaves that out.",
    ]


def memory(
    model: Path,
    row: int = 1024,
    machines: list[str] = ["1x1", "1x8", "4x8"],  # noqa: B006
    gpu_gb: float = 80.0,
) -> str:
    """What training a model takes of each GPU, in GB, and the most rows a GPU that fit.

    Args:
        model: a model's folder, or a file like its config.json, as configs/model/deepseek_math_7b.json.
        row: tokens of a row, prompt and response.
        machines: each as MACHINESxGPUS.
        gpu_gb: memory of a GPU, in 10^9 bytes.
    """
    if row < 1 or gpu_gb <= 0:
        raise InputError(f"memory: row is {row}, gpu_gb {gpu_gb}; give tokens and GB above 0")
    sizes = architecture(model)
    parts = ["\n".join(facts(sizes, gpu_gb * 1e9, row))]
    for machine in machines:
        said = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", machine)
        if said is None:
            raise InputError(f"memory: {machine!r} in machines is not MACHINESxGPUS; give for example 4x8")
        nodes, gpus = int(said[1]), int(said[2])
        parts.append(f"{nodes} x {gpus} x {gpu_gb:g} GB, rows of {row:,} tokens:")
        parts.append(machine_table(sizes, nodes, gpus, gpu_gb * 1e9, row))
    return "\n\n".join(parts)
