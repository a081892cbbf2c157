"""The options of a fit or test, parsed and made into data module and callbacks, without a trainer."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, cast

import jsonargparse
import lightning as L
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from stepneg.callbacks.evaluation import VLLMEvaluation
from stepneg.errors import InputError
from stepneg.options import parse
from stepneg.pipeline import draw_options
from stepneg.record import fit_of
from stepneg.training import StepnegCLI, cli


class Resolver(StepnegCLI):
    """Parses the options of a fit or test and makes its data module and callbacks; no trainer, no model's weights."""

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """None is needed."""
        return cast(L.Trainer, None)

    def resolve(self, argv: Sequence[str]) -> jsonargparse.Namespace:
        """The options of a command line, instantiated."""
        return self.parser.instantiate_classes(parse(self.parser, draw_options(argv)))


def resolver(argv: Sequence[str]) -> Resolver:
    """The parser of fits and tests, made with the first command line that it is to parse."""
    return cast(Resolver, cli(draw_options(argv), Resolver, run=False))


OF_THE_VERB = ("ckpt_path", "weights_only")  # options of a fit on which no data depends


def resolve_run(run: Path) -> jsonargparse.Namespace:
    """The options of a run's fit (:func:`stepneg.record.fit_of`), instantiated, from its directory.

    Raises:
        InputError: it is no run directory, or its configuration is of another version.
    """
    try:
        fit = fit_of(run)
        config = fit["settings"] if fit else yaml.safe_load((run / "config.yaml").read_text())
        kept = {key: value for key, value in config.items() if key not in OF_THE_VERB}
    except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{run}: holds no config.yaml that can be read, so it is no run; name one of fit") from error
    with NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(kept, file)
        file.flush()
        argv = ["", f"--config={file.name}"]
        return resolver(argv).resolve(argv)


class Checker(StepnegCLI):
    """The parser of fits and tests; parses nothing by itself and makes nothing."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Only the defaults."""
        self.config = parser.get_defaults()

    def instantiate_classes(self) -> None:
        """The parser is all that is wanted."""

    def _set_seed(self) -> None:
        """Nothing is drawn."""


def options_parser() -> jsonargparse.ArgumentParser:
    """The parser of the options of a fit or test."""
    return cli([], Checker, run=False).parser


def evaluation_of(trainer: jsonargparse.Namespace) -> VLLMEvaluation | None:
    """The evaluation callback among a trainer's, if there is one."""
    given = trainer.callbacks or []
    found = [c for c in (given if isinstance(given, list) else [given]) if isinstance(c, VLLMEvaluation)]
    return found[0] if found else None


def start_of(given: jsonargparse.Namespace) -> Path:
    """The policy that a fit starts from, or that a test evaluates."""
    return Path(given.model.path or given.data.policy)
