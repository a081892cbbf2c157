"""Whether the fit that goes on from a checkpoint is the one that wrote it.

Lightning restores the optimiser with its learning rate, whatever the options now say, and a record of other options
would be wrong. A checkpoint holds what its fit was; see :class:`Identity`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L

from stepneg.errors import InputError
from stepneg.fingerprint import fingerprint_policy
from stepneg.record import content, leaves

KEY = "fit"  # of a checkpoint
FREE = ("model.path", "model.gradient_checkpointing")  # on which no weight depends; of a path its content counts
# Options of a fit that may change on the way.
LOOSE = (
    "data.init_args.batch_size", "data.init_args.by_problem", "seed_everything", "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_algorithm", "trainer.gradient_clip_val", "trainer.limit_train_batches",
    "trainer.max_epochs", "trainer.max_steps", "trainer.precision",
)  # fmt: skip
START, DATA, RANKS = "the policy that it starts from", "the fingerprint of its training data (data.*)", "ranks"


@dataclass(frozen=True)
class Identity:
    """What a fit is.

    Attributes:
        fixed: what a fit cannot change on its way, by option or in words: the model's options, fingerprints of the
            policy that it starts from and of its training data.
        loose: what it can.
        changed: what of that was changed, each as it was and as it became, oldest first.
    """

    fixed: dict[str, Any]
    loose: dict[str, Any]
    changed: list[dict[str, list[Any]]] = field(default_factory=list)


def identity(settings: Mapping[str, Any], trainer: L.Trainer, start: Path) -> Identity:
    """What the trainer's fit is.

    Args:
        settings: of the fit, nested as they are parsed.
        trainer: with the data set up.
        start: the policy that it starts from.
    """
    flat = {place: value for place, value in leaves(settings) if isinstance(value, str | int | float | bool | None)}
    fixed = {place: value for place, value in flat.items() if place.startswith("model.") and place not in FREE}
    fixed[START] = fingerprint_policy(start)
    if (origin := getattr(trainer.datamodule, "origin", None)) is not None:  # type: ignore[attr-defined]
        fixed[DATA] = origin
    else:  # a data module that makes nothing
        own = {place: value for place, value in flat.items() if place.startswith("data.") and place not in LOOSE}
        fixed |= {place: (isinstance(v, str) and content(Path(v), place)) or v for place, v in own.items()}
    return Identity(fixed, {name: flat.get(name) for name in LOOSE} | {RANKS: trainer.world_size})


def gone_on(checkpoint: Mapping[str, Any], now: Identity) -> Identity:
    """The fit that goes on from a checkpoint, with what has changed on its way.

    Options that only one of them knows are of another version.

    Raises:
        InputError: the checkpoint is of another fit, or says of its fit what this version does not know.
    """
    if KEY not in checkpoint:
        return now
    anew = "leave ckpt_path out or delete RUN/checkpoints to begin anew"
    try:
        then = Identity(**checkpoint[KEY])
    except TypeError as error:
        raise InputError(
            f"ckpt_path: the checkpoint is of another version of stepneg, or of another tool ({error}); go on with"
            f" that, or {anew}"
        ) from error
    if apart := differing(then.fixed, now.fixed):
        name, (before, here) = next(iter(apart.items()))
        raise InputError(
            f"ckpt_path: the checkpoint is of another fit: {name} was {before}, and is {here}; give it as it was, or"
            f" {anew}"
        )
    changed = differing(then.loose, now.loose)
    return Identity(now.fixed, now.loose, [*then.changed, *([changed] if changed else [])])


def differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What both have, and differs: as it was and as it is."""
    return {name: [then[name], now[name]] for name in then if name in now and then[name] != now[name]}


def in_words(changed: list[dict[str, list[Any]]]) -> str:
    """Changes of a fit on its way, in words."""
    return ", then ".join(
        ", ".join(f"{name} from {before} to {here}" for name, (before, here) in at_once.items()) for at_once in changed
    )
