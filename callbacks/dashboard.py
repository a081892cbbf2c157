"""What TensorBoard shows besides curves: charts that put runs side by side, and the table of hyper-parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.model_summary.model_summary import get_human_readable_count
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata, summary_v2
from tensorboard.plugins.hparams.api_pb2 import (
    DATA_TYPE_FLOAT64,
    DATA_TYPE_STRING,
    STATUS_SUCCESS,
    Experiment,
    HParamInfo,
    MetricInfo,
    MetricName,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from torch.utils.tensorboard import SummaryWriter

from stepneg.callbacks.evaluation import VLLMEvaluation
from stepneg.checkpoints import begins_anew
from stepneg.policy import Policy

Layout = dict[str, dict[str, list[Any]]]
Value = str | float
# The columns of the table, which TensorBoard takes from one run for all: every run names all of them.
TEXTS = ("objective", "data", "kind", "schedule", "precision", "model", "parameters")
NUMBERS = (
    "learning_rate", "weight_decay", "warmup", "beta", "anchor", "batch_size", "epochs", "gradient_clip", "seed",
    "problems", "examples",
)  # fmt: skip


class Curves(TensorBoardLogger):
    """Events of a verb in ``RUN/tensorboard``, those of ``validate`` in a folder below.

    TensorBoard drops of a curve what is at or behind the step of a later event, and all verbs but fit log at step 0:
    they touch no curve of a fit.

    Args:
        root: the run's directory.
        verb: fit, validate, test or predict.
    """

    def __init__(self, root: Path, verb: str) -> None:
        super().__init__(root, name="tensorboard", version="validate" if verb == "validate" else "")
        self.verb = verb

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Without ``epoch``, which Lightning adds, where nothing is trained."""
        super().log_metrics({k: v for k, v in metrics.items() if self.verb == "fit" or k != "epoch"}, step)


class Dashboard(L.Callback):
    """Writes the layout of the custom scalars and the hyper-parameters of each run, once, however often it is resumed.

    A fit that begins anew in a run directory puts the events of earlier ones aside (``events.out.earlier.*``), where
    TensorBoard does not look. One that is resumed marks the step, so that a reader leaves out what an earlier process
    logged behind its checkpoint; and events are on disk before the checkpoint that is behind them.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what a run begins with, or from which step on it is resumed."""
        writer = writer_of(trainer)
        if writer is None:
            return
        if begins_anew(trainer):
            for file in others(writer, "**/"):
                file.rename(file.with_name(file.name.replace(".tfevents.", ".earlier.")))
        elif others(writer):
            start = Event(session_log=SessionLog(status=SessionLog.START))
            writer._get_file_writer().add_event(start, trainer.global_step)
            return
        begin(writer, trainer, pl_module)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What a policy that is only tested begins with."""
        writer = writer_of(trainer)
        if writer is not None and not others(writer):
            begin(writer, trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """A run that is killed and resumed has no gap in its curves."""
        writer = writer_of(trainer)
        if writer is not None:
            writer.flush()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that the run has ended well."""
        writer = writer_of(trainer)
        if writer is not None:
            end = HParamsPluginData(session_end_info=SessionEndInfo(status=STATUS_SUCCESS))
            writer._get_file_writer().add_summary(as_summary(metadata.SESSION_END_INFO_TAG, end))


def writer_of(trainer: L.Trainer) -> SummaryWriter | None:
    """What writes the run's events; None on ranks, and with loggers, that write none."""
    logger = trainer.logger
    return logger.experiment if trainer.is_global_zero and isinstance(logger, TensorBoardLogger) else None


def others(writer: SummaryWriter, below: str = "") -> list[Path]:
    """The event files of the run that other processes wrote, with ``**/`` those of folders below, too."""
    own = Path(writer._get_file_writer().event_writer._file_name)
    return [file for file in own.parent.glob(f"{below}*.tfevents.*") if file.name != own.name]


def begin(writer: SummaryWriter, trainer: L.Trainer, policy: L.LightningModule) -> None:
    """Write layout and hyper-parameters."""
    assert isinstance(policy, Policy)
    k = next((c.k for c in trainer.callbacks if isinstance(c, VLLMEvaluation)), None)  # type: ignore[attr-defined]
    writer.add_custom_scalars(layout(policy.objective.kind, k))
    files = writer._get_file_writer()
    files.add_summary(columns(k))
    files.add_summary(summary_v2.hparams_pb(hyper_parameters(trainer, policy), trial_id=trainer.default_root_dir))
    writer.flush()


def layout(kind: str, k: int | None) -> Layout:
    """The charts of a run, for ``SummaryWriter.add_custom_scalars``; equal ones of several runs are one chart.

    Args:
        kind: of data: solutions, pairs or weighted.
        k: samples a problem of the evaluation; None if there is none.
    """
    charts: Layout = {}
    if k is not None:
        names = {"accuracy, greedy": "accuracy", f"pass@{k}": f"pass@{k}", f"maj@{k}": f"maj@{k}"}
        names["KL to the reference, nats a solution"] = "kl_to_reference"
        charts["evaluation (95 %)"] = {
            title: ["Margin", [f"validation/{name}", f"validation/{name}_low", f"validation/{name}_high"]]
            for title, name in names.items()
        }
    if kind == "pairs":
        charts["preferences"] = {
            "log-probability, chosen and rejected": ["Multiline", ["train/chosen_logp", "train/rejected_logp"]],
            "implicit reward, chosen and rejected": ["Multiline", ["train/chosen_reward", "train/rejected_reward"]],
            "reward margin": ["Multiline", ["train/reward_margin"]],
            "accuracy of the implicit reward": ["Multiline", ["train/reward_accuracy"]],
            "length, chosen and rejected": ["Multiline", ["train/chosen_length", "train/rejected_length"]],
        }
    if kind == "weighted":
        charts["weights"] = {
            "mean weight": ["Multiline", ["train/weight"]],
            "effective share": ["Multiline", ["train/effective_share"]],
            "negative log-likelihood, nats a token": ["Multiline", ["train/nll"]],
        }
    charts["training"] = {
        "loss": ["Multiline", ["train/loss"]],
        "gradient norm, before clipping": ["Multiline", ["train/gradient_norm"]],
        "learning rate": ["Multiline", ["train/learning_rate"]],
        "held-out solutions, nats a token": ["Multiline", ["validation/nll"]],
        "tokens a second": ["Multiline", ["throughput/tokens_per_second"]],
    }
    if kind != "pairs":  # which have a chart of both lengths
        charts["training"]["length, tokens of a response"] = ["Multiline", ["train/length"]]
    return charts


def columns(k: int | None) -> Summary:
    """The columns of the table: hyper-parameters, and metrics whose last values it shows, ``stepneg test``'s first."""
    sampled = [] if k is None else [f"pass@{k}", f"maj@{k}"]
    metrics = ["test/accuracy", *(f"test/{name}" for name in sampled), "validation/accuracy"]
    metrics += ["validation/kl_to_reference", "validation/nll", "train/loss", "train/reward_accuracy"]
    infos = [HParamInfo(name=name, type=DATA_TYPE_STRING) for name in TEXTS]
    infos += [HParamInfo(name=name, type=DATA_TYPE_FLOAT64) for name in NUMBERS]
    shown = [MetricInfo(name=MetricName(tag=tag)) for tag in metrics]
    data = HParamsPluginData(experiment=Experiment(hparam_infos=infos, metric_infos=shown))
    return as_summary(metadata.EXPERIMENT_TAG, data)


def as_summary(tag: str, data: HParamsPluginData) -> Summary:
    """A summary that holds nothing but data of the table."""
    found = metadata.create_summary_metadata(data)
    return Summary(value=[Summary.Value(tag=tag, metadata=found, tensor=metadata.NULL_TENSOR)])


def hyper_parameters(trainer: L.Trainer, policy: Policy) -> dict[str, Value]:
    """The few settings by which runs differ, flat; of a policy that is only tested those that it has.

    ``batch_size`` is of an optimiser step, in examples of all ranks.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert policy.model is not None
    found: dict[str, Any] = {
        "objective": type(policy.objective).__name__,
        "data": type(data).__name__,
        "kind": getattr(data, "kind", None),
        "precision": str(trainer.precision),
        "model": str(policy.path or data.policy),
        "parameters": get_human_readable_count(policy.model.num_parameters()),
        "seed": getattr(data, "seed", None),
    }
    if trainer.optimizers:
        group = trainer.optimizers[0].param_groups[0]
        built = getattr(data, "built", None)
        facts = built.facts if built else {}
        found |= {
            "schedule": policy.schedule,
            "learning_rate": group.get("initial_lr", group["lr"]),
            "weight_decay": group.get("weight_decay"),
            "warmup": policy.warmup,
            "beta": getattr(policy.objective, "beta", getattr(data, "beta", None)),
            "anchor": getattr(policy.objective, "anchor", None),
            "batch_size": data.batch_size * trainer.world_size * trainer.accumulate_grad_batches,
            "epochs": trainer.max_epochs,
            "gradient_clip": trainer.gradient_clip_val,
            "problems": facts.get("problems"),
            "examples": len(built.examples) if built else None,
        }
    return {name: value for name, value in found.items() if value is not None}
