"""LightningCLI's verbs: ``fit``, ``validate``, ``test`` and ``predict``."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
import yaml
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from stepneg.callbacks.dashboard import Curves, Dashboard
from stepneg.callbacks.evaluation import VLLMEvaluation
from stepneg.callbacks.export import Export
from stepneg.callbacks.predictions import Predictions
from stepneg.callbacks.preemption import Preemption
from stepneg.callbacks.progress import FitProgress
from stepneg.callbacks.throughput import Throughput
from stepneg.checkpoints import CheckedCheckpoints, begins_anew, keep_until_whole, refuse_unfit
from stepneg.data.handover import ATTEMPT, attempt, once
from stepneg.data.prepared import Prepared
from stepneg.errors import InputError, above, at_least
from stepneg.fingerprint import fingerprint
from stepneg.links import EARLIER, put_results_aside
from stepneg.lock import held
from stepneg.options import Strict, parse
from stepneg.pickles import check_index, plain_values_only, refused_in_a_line
from stepneg.policy import Policy
from stepneg.problems import ProblemSource
from stepneg.record import content, devices, loaded, now, recorded, start
from stepneg.whole import settle, write_whole
from stepneg.written import block, of_run

CONFIG = "config.yaml"
REPLACED = ("last", "best", "evaluation", EARLIER)  # in a run directory, by a fit that begins anew
# Beginnings of Lightning's messages on what is not asked of a run, by the module that logs them.
UNASKED = {
    "utilities.rank_zero": ("💡 Tip", "TPU available: False"),
    "trainer.connectors.checkpoint_connector": ("`weights_only` was not set",),
}


# What is in the environment once this process has started other ranks, of them and of its threads beside them.
NOTED = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "RANK", "WORLD_SIZE", "OMP_NUM_THREADS", ATTEMPT)


def quiet() -> None:
    """Leave out messages that help nobody; all others of Lightning stay."""
    for module, starts in UNASKED.items():
        logger = logging.getLogger(f"lightning.pytorch.{module}")
        if not logger.filters:
            logger.addFilter(lambda record, starts=starts: not record.getMessage().startswith(starts))  # type: ignore[misc]
    warnings.filterwarnings("ignore", module=r"lightning\.pytorch\.utilities\._pytree", category=FutureWarning)


class FitParser(Strict, LightningArgumentParser):
    """The parser of LightningCLI's verbs."""


class RunDirectory(SaveConfigCallback):
    """Writes the whole configuration: ``RUN/config.yaml`` of a fit, ``RUN/config-test.yaml`` and so on of other verbs.

    A fit does so when it begins to train: one that is refused before leaves everything as it was. One that begins anew
    puts aside what an earlier one has left beside the policy and the data, into ``RUN/earlier``.

    Attributes:
        told: called when the training begins, if there is anybody to tell.
    """

    told: Callable[[], None] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Other verbs change nothing."""
        if stage != "fit" and trainer.is_global_zero:
            self.save_config(trainer, pl_module, stage)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Before anything else of this fit is written."""
        if not trainer.is_global_zero:
            return
        if begins_anew(trainer):
            put_results_aside(Path(trainer.default_root_dir))
        self.save_config(trainer, pl_module, "fit")
        if self.told is not None:
            self.told()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Where nothing was left to train the options are those of the fit that has, unless it was elsewhere."""
        if trainer.is_global_zero and not (Path(trainer.default_root_dir) / CONFIG).exists():
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Of a stage as Lightning calls it."""
        root = Path(trainer.default_root_dir)
        root.mkdir(parents=True, exist_ok=True)
        config = self.config.clone()
        if config.get("ckpt_path") == "last":  # of this run, whatever policy the file may be used with
            config["ckpt_path"] = None
        text = self.parser.dump(config, skip_none=False)
        write_whole(root / (CONFIG if stage == "fit" else f"config-{TrainerFn(stage).value}.yaml"), text)


class EndTogether(L.Callback):
    """When this process fails, the ranks that it launched end too: in a collective they might wait for it for long.

    Lightning sees to the other direction, and a cluster's launcher to ranks on other nodes.
    """

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """A rank in a collective hears no gentler signal."""
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)


class Met(L.Callback):
    """Takes the sign of the data away once all ranks have met, so that no later attempt finds it.

    Args:
        sign: that all others have read before they joined the process group.
    """

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Called behind a barrier."""
        self.sign.unlink(missing_ok=True)


class StepnegCLI(LightningCLI):
    """``fit``, ``validate``, ``test`` and ``predict`` on :class:`Policy` and any stepneg DataModule.

    Args:
        until_end: what is to be let go of when the verb has ended.
        args: of LightningCLI.
        kwargs: of LightningCLI.
    """

    def __init__(self, *args: Any, until_end: ExitStack, **kwargs: Any) -> None:
        self.until_end = until_end
        super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Checkpoints and exports are part of every run."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {"checkpoint.save_last": True, "checkpoint.save_top_k": 0, "checkpoint.save_on_train_epoch_end": True}
        )
        parser.add_lightning_class_args(Export, "export")
        parser.add_lightning_class_args(Throughput, "throughput")
        parser.add_lightning_class_args(Preemption, "preemption")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse what :func:`run` was given; it is the command line, or stands in for it."""
        self.argv = list(args)
        self.config = parse(parser, args)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Everything of a run goes below ``trainer.default_root_dir``, events to ``RUN/tensorboard``."""
        root = self._get(self.config_init, "trainer.default_root_dir")
        if root is None:
            raise InputError("trainer.default_root_dir is not set; name the run's directory, for example runs/sft")
        job = geometry(os.environ)
        stray = next(Path(root).glob("hpc_ckpt_*.ckpt"), None)
        if in_job(os.environ) and stray and self._get(self.config_init, "ckpt_path") is None:
            raise InputError(f"{stray}: Lightning would restore it unasked; delete it, or give --ckpt_path")
        checkpoint = self._get(self.config_init, "checkpoint")
        checkpoint.dirpath = checkpoint.dirpath or str(Path(root) / "checkpoints")
        given = self._get(self.config_init, "ckpt_path")
        for folder in (*Path(checkpoint.dirpath).glob("*.ckpt"), Path(given or "")):
            check_index(folder)
        if self._get(self.config_init, "trainer.logger") is None:
            kwargs["logger"] = Curves(Path(root), self.config.subcommand)
        if in_job(os.environ) and not job and "TORCHELASTIC_RUN_ID" not in os.environ:
            # One task that srun has not started: ranks are Lightning's to start, and not the job's.
            given = self._get(self.config_init, "trainer.plugins") or []
            kwargs["plugins"] = [*(given if isinstance(given, list) else [given]), LightningEnvironment()]
        given = self._get(self.config_init, "trainer.callbacks") or []
        callbacks = list(given) if isinstance(given, list) else [given]
        shown = self._get(self.config_init, "trainer.enable_progress_bar")
        if shown is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            kwargs["callbacks"] = [*callbacks, FitProgress()]
        try:
            trainer = super().instantiate_trainer(default_root_dir=str(root), **job, **kwargs)
        except (ValueError, MisconfigurationException) as error:  # as an unknown strategy, or more GPUs than there are
            raise InputError(f"trainer: {error}; mend the options trainer.*") from error
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one that was asked for
            trainer.strategy.checkpoint_io = CheckedCheckpoints()
        # First, for it puts aside what others write.
        trainer.callbacks.sort(key=lambda c: not isinstance(c, RunDirectory))  # type: ignore[attr-defined]
        plain_values_only(trainer.strategy)
        keep_until_whole(trainer.strategy)
        refuse_unfit(trainer.strategy)
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Run a verb under a record in ``RUN/attempts``, which the first rank keeps."""
        self.check_task(subcommand)
        settings = self.settings(subcommand)
        if subcommand == "fit":
            self.model.settings = settings
        if self.trainer.global_rank:
            with interruptible():
                return super()._run_subcommand(subcommand)
        home = Path(self.trainer.default_root_dir)
        with recorded(home, start(subcommand, self.argv, settings, home) | devices()) as add:
            add({"problems": loaded(self.sources(subcommand))})

            def told() -> None:
                changed = self.model.of_fit.changed if self.model.of_fit else []
                add({"training": now(), "data": self.data_of(home)} | ({"changed": changed} if changed else {}))

            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, RunDirectory):
                    callback.told = told
            with interruptible():
                super()._run_subcommand(subcommand)
            add({"data": self.data_of(home)})

    def data_of(self, home: Path) -> dict[str, str]:
        """The files of a verb's data in a run's directory, and their fingerprints; those of other settings left out."""
        own = sorted(home.glob("data/*"))
        if isinstance(self.datamodule, Prepared):
            made = self.datamodule.made
            own = sorted(home.glob(f"data/{made.stem}.*")) if made else []
        return {str(file.relative_to(home)): content(file) for file in own}

    def settings(self, verb: str) -> dict[str, Any]:
        """The options of a verb as plain values."""
        return yaml.safe_load(self._parser(verb).dump(self.config[verb], skip_none=False))  # type: ignore[no-any-return]

    @property
    def evaluations(self) -> list[VLLMEvaluation]:
        """The callbacks that evaluate."""
        return [c for c in self.trainer.callbacks if isinstance(c, VLLMEvaluation)]  # type: ignore[attr-defined]

    def check_task(self, subcommand: str) -> None:
        """Refuse a verb that has nothing to work with, and a fit that cannot end, before data are made.

        Raises:
            InputError: ``validate``, ``test`` or ``predict`` has no problems; ``fit`` has no limit but of time, a
                number that is out of its range, or starts from what it will overwrite.
        """
        at_least(1, **{"data.batch_size": getattr(self.datamodule, "batch_size", 1)})
        if subcommand == "fit":
            check_steps(self.trainer, self.model)
            starts = {"model.path": self.model.path, "data.policy": getattr(self.datamodule, "policy", None)}
            check_start(Path(self.trainer.default_root_dir), starts)
        if subcommand == "fit" or getattr(self.datamodule, "validation", "own") is not None:
            return
        stage = {"validate": "validation", "test": "test"}.get(subcommand)
        if not any(c.sources[stage] for c in self.evaluations if stage):
            also = f", or an evaluation's {stage}" if stage else ""
            raise InputError(f"{subcommand}: there are no problems to work with; give data.validation{also}")

    def sources(self, subcommand: str) -> dict[str, ProblemSource | None]:
        """The problems that a verb works with, by what they are for."""
        if subcommand == "test":
            return {f"evaluation.{i}.test": c.sources["test"] for i, c in enumerate(self.evaluations)}
        found = {f"data.{name}": getattr(self.datamodule, name, None) for name in ("problems", "validation")}
        return found | {f"evaluation.{i}.validation": c.sources["validation"] for i, c in enumerate(self.evaluations)}

    def prepare_data(self) -> None:
        """Take the run directory, and make the data of many ranks before they meet, on the first one.

        Lightning then finds it made.

        This may take hours, in which the others hold no device and wait in no collective.
        """
        if self.trainer.global_rank == 0:
            self.until_end.enter_context(held(Path(self.trainer.default_root_dir)))
            checkpoints = (c for c in self.trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint))
            for folder in {Path(c.dirpath) for c in checkpoints if c.dirpath}:
                settle(folder / "last.ckpt")
                check_index(folder / "last.ckpt")  # which may have been beside it until now
        if self.trainer.world_size == 1 or self.subcommand != "fit":
            return
        self.datamodule.trainer = self.trainer
        sign = Path(self.trainer.default_root_dir) / f".{self.subcommand}-data-{self.of_data()}.json"
        once(self.datamodule.prepare_data, sign, self.trainer.global_rank)
        if self.trainer.global_rank == 0:
            self.trainer.callbacks.append(Met(sign))  # type: ignore[attr-defined]

    def of_data(self) -> str:
        """The same on all ranks of an attempt, and another one for other settings of the data."""
        return fingerprint(attempt(), self.settings(str(self.subcommand))["data"], str(self.trainer.precision))

    before_fit = before_validate = before_test = before_predict = prepare_data


def check_steps(trainer: L.Trainer, policy: Policy) -> None:
    """Refuse a fit whose steps cannot be taken, or have no end.

    Raises:
        InputError: by the trainer's options or the policy's.
    """
    if endless(trainer):
        raise InputError(
            "trainer: neither epochs nor steps are limited, and the learning rate's schedule needs their number;"
            " give trainer.max_epochs or trainer.max_steps (trainer.max_time may end the fit earlier)"
        )
    at_least(1, **{"trainer.accumulate_grad_batches": trainer.accumulate_grad_batches})
    if not 0 <= policy.warmup <= 1:
        raise InputError(f"model.warmup: is {policy.warmup}; give a share of the steps, 0 to 1")
    above(0, **{"model.objective.beta": getattr(policy.objective, "beta", 1.0)})
    at_least(0, **{"model.objective.anchor": getattr(policy.objective, "anchor", 0.0)})
    try:
        policy.optimizer([torch.nn.Parameter(torch.zeros(1))])
    except ValueError as error:
        raise InputError(f"model.optimizer: {error}") from error


def check_start(home: Path, starts: Mapping[str, Path | None]) -> None:
    """Refuse a fit that starts from a policy which it will overwrite, and could not go on from a checkpoint then.

    Raises:
        InputError: by the option.
    """
    for option, policy in starts.items():
        if policy and any(Path(policy).resolve().is_relative_to((home / name).resolve()) for name in REPLACED):
            raise InputError(
                f"{option}: {policy} is in the fit's own run directory, and is replaced by this fit; give it another"
                " trainer.default_root_dir"
            )


def endless(trainer: L.Trainer) -> bool:
    """Whether neither epochs nor steps are limited; beside a limit of time Lightning sets none of epochs itself."""
    timed = any(isinstance(callback, Timer) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    return trainer.max_steps == -1 and (trainer.max_epochs == -1 or (trainer.max_epochs is None and timed))


def geometry(environ: Mapping[str, str]) -> dict[str, int]:
    """The trainer's devices and nodes as srun has started this process, which any others would contradict.

    Raises:
        InputError: the job has several tasks, and srun has not started this one: it would wait for the others for ever;
            or it was not told how many a node, which Lightning refuses.
    """
    if not in_job(environ) or "TORCHELASTIC_RUN_ID" in environ:
        return {}
    tasks, nodes = int(environ["SLURM_NTASKS"]), int(environ.get("SLURM_NNODES", 1))
    if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in environ:
        raise InputError(f"SLURM_NTASKS is {tasks} without SLURM_NTASKS_PER_NODE; give --ntasks-per-node, not --ntasks")
    if "SLURM_STEP_ID" in environ:
        return {"devices": max(tasks // nodes, 1), "num_nodes": nodes}
    if tasks > 1:
        raise InputError(
            f"SLURM_NTASKS is {tasks}, but srun has not started this process; put srun before the command,"
            " or unset SLURM_NTASKS"
        )
    return {}


def in_job(environ: Mapping[str, str]) -> bool:
    """Whether Lightning takes this process for one of a Slurm job's tasks."""
    return "SLURM_NTASKS" in environ and environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C ends a verb as such, and not as Lightning ends it, like any error."""
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise


@contextmanager
def launching(argv: list[str]) -> Iterator[None]:
    """Have Lightning start a machine's other ranks for this verb alone, and leave no trace of them.

    It starts them by the command line of this process, which may be that of a chain of many verbs, and what it notes in
    the environment would keep it from starting any for the next verb.
    """
    words, environ, threads = sys.argv, dict(os.environ), torch.get_num_threads()
    sys.argv = [words[0], *argv]
    try:
        yield
        if "LOCAL_RANK" in os.environ and "LOCAL_RANK" not in environ and dist.is_initialized():
            dist.destroy_process_group()  # its other ranks have ended
    finally:
        sys.argv = words
        for name in NOTED:
            os.environ.pop(name, None)
            if name in environ:
                os.environ[name] = environ[name]
        torch.set_num_threads(threads)


def run(argv: list[str]) -> str:
    """Run a verb of LightningCLI; what it has written, and where, on the first rank."""
    with refused_in_a_line(), launching(argv):
        done = cli(argv)
    return block(of_run(Path(done.trainer.default_root_dir))) if done.trainer.is_global_zero else ""


def cli(argv: list[str], kind: type[StepnegCLI] = StepnegCLI, run: bool = True) -> StepnegCLI:
    """The command-line interface that has run ``argv``; without ``run``, of options alone and only parsed."""
    quiet()
    with ExitStack() as until_end:
        return kind(
            Policy,
            L.LightningDataModule,
            subclass_mode_data=True,
            save_config_callback=RunDirectory,
            save_config_kwargs={"save_to_log_dir": False, "overwrite": True},
            trainer_defaults={"callbacks": [EndTogether(), Dashboard(), Predictions()]},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            seed_everything_default=0,
            parser_kwargs={"prog": "stepneg"},
            parser_class=FitParser,
            args=argv,
            run=run,
            until_end=until_end,
        )
