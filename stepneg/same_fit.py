"""Whether the fit that goes on from a checkpoint is the one that wrote it.

Lightning restores the optimiser with its learning rate, whatever the options now say, and a record of other options
would be wrong. A checkpoint holds what its fit was; see :class:`Identity`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning as L

from stepneg import __version__
from stepneg.errors import InputError
from stepneg.fingerprint import fingerprint_policy
from stepneg.record import leaves

KEY = "fit"  # of a checkpoint
FREE = ("model.path", "model.gradient_checkpointing")  # on which no weight depends; of a path its content counts
# Options of a fit that may change on the way.
LOOSE = (
    "data.init_args.batch_size", "data.init_args.by_problem", "seed_everything", "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_algorithm", "trainer.gradient_clip_val", "trainer.limit_train_batches",
    "trainer.max_epochs", "trainer.max_steps", "trainer.precision",
)  # fmt: skip
START, DATA, RANKS = "policy that it starts from", "training data", "ranks"


@dataclass(frozen=True)
class Identity:
    """What a fit is.

    Attributes:
        version: of stepneg.
        fixed: what a fit cannot change on its way, by option or in words: the model's options, fingerprints of the
            policy that it starts from and of its training data.
        loose: what it can.
        changed: what of that was changed, each as it was and as it became, oldest first.
    """

    version: str
    fixed: dict[str, Any]
    loose: dict[str, Any]
    changed: list[dict[str, list[Any]]] = field(default_factory=list)


def identity(settings: Mapping[str, Any], trainer: L.Trainer, start: Path) -> Identity:
    """What the trainer's fit is.

    Args:
        settings: of the fit, nested as they are parsed.
        trainer: with the data prepared.
        start: the policy that it starts from.
    """
    flat = {place: value for place, value in leaves(settings) if isinstance(value, str | int | float | bool | None)}
    fixed = {place: value for place, value in flat.items() if place.startswith("model.") and place not in FREE}
    fixed[START] = fingerprint_policy(start)
    if (made := getattr(trainer.datamodule, "made", None)) is not None:  # type: ignore[attr-defined]
        fixed[DATA] = made.stem
    return Identity(__version__, fixed, {name: flat.get(name) for name in LOOSE} | {RANKS: trainer.world_size})


def gone_on(checkpoint: Mapping[str, Any], now: Identity) -> Identity:
    """The fit that goes on from a checkpoint, with what has changed on its way.

    A checkpoint of an earlier version may know less of its fit, or nothing.

    Raises:
        InputError: the checkpoint is of another fit.
    """
    if KEY not in checkpoint:
        return now
    then = Identity(**checkpoint[KEY])
    apart = differing(then.fixed, now.fixed, then.version == now.version)
    if apart:
        name, (before, here) = next(iter(apart.items()))
        raise InputError(
            f"ckpt_path: the checkpoint is of another fit: {name} was {before}, and is {here}; give it as it was,"
            " or leave ckpt_path out to begin anew, where model.path can be a policy that a fit has left (RUN/last)"
        )
    changed = differing(then.loose, now.loose, then.version == now.version)
    return Identity(now.version, now.fixed, now.loose, [*then.changed, *([changed] if changed else [])])


def differing(then: Mapping[str, Any], now: Mapping[str, Any], all_known: bool) -> dict[str, list[Any]]:
    """What differs, as it was and as it is.

    Args:
        then: by name.
        now: likewise.
        all_known: what only one of them has differs, too.
    """
    names = [name for name in {**then, **now} if all_known or (name in then and name in now)]
    return {name: [then.get(name), now.get(name)] for name in names if then.get(name) != now.get(name)}


def in_words(changed: list[dict[str, list[Any]]]) -> str:
    """Changes of a fit on its way, in words."""
    return ", then ".join(
        ", ".join(f"{name} from {before} to {here}" for name, (before, here) in at_once.items()) for at_once in changed
    )


def kept(now: Identity) -> dict[str, Any]:
    """An identity as plain values."""
    return asdict(now)
