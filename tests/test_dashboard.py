"""What TensorBoard shows, read back from the event files: curves, chart layout and the table of hyper-parameters."""

import json
import math
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from transformers import get_scheduler

from stepneg.callbacks.dashboard import layout
from stepneg.cli import main
from stepneg.data.prepared import read_built
from stepneg.data.rows import collate
from stepneg.objectives import DPO, token_log_probs
from stepneg.policy import load_model
from tests.test_sharding import CPU, config_for, fit

FIT = """
seed_everything: 3
model:
  objective: {class_path: stepneg.objectives.DPO, init_args: {beta: 0.5, anchor: 2.0}}
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.002, weight_decay: 0.01}}
  warmup: 0
data:
  class_path: tests.given.Given
  init_args:
    policy: POLICY
    kind: pairs
    batch_size: 4
    problems: {class_path: stepneg.problems.arithmetic.Arithmetic, init_args: {size: 10}}
    validation: {class_path: stepneg.problems.arithmetic.Arithmetic, init_args: {split: validation, size: 3}}
trainer:
  accelerator: cpu
  max_epochs: 3
  log_every_n_steps: 1
  gradient_clip_val: 0.01
  enable_progress_bar: false
  enable_model_summary: false
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> str:
    file = tmp_path_factory.mktemp("dashboard") / "fit.yaml"
    file.write_text(FIT.replace("POLICY", str(tiny)))
    return f"--config={file}"


@pytest.fixture(scope="module")
def whole(config: str) -> Path:
    """A fit of 3 epochs of 5 steps that nothing disturbed."""
    run = Path(config.removeprefix("--config=")).with_name("whole")
    main(["fit", config, f"--trainer.default_root_dir={run}"])
    return run


def events(run: Path) -> EventAccumulator:
    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    return found


def curve(run: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(run).Scalars(tag)]


def values(run: Path, tag: str) -> list[float]:
    return [value for _, value in curve(run, tag)]


def raw(run: Path, tag: str) -> list[str]:
    """The files in which a summary is written, once for each time."""
    files = sorted((run / "tensorboard").glob("*.tfevents.*"))
    found = ((file.name, event) for file in files for event in EventFileLoader(str(file)).Load())
    return [name for name, event in found for value in event.summary.value if value.tag == tag]


def test_the_parts_of_the_dpo_loss_add_up(whole):
    parts = {tag: values(whole, tag) for tag in events(whole).Tags()["scalars"] if tag.startswith("train/")}
    assert {len(found) for found in parts.values()} == {15}
    for i in range(15):
        part = {tag.removeprefix("train/"): found[i] for tag, found in parts.items()}
        assert part["loss"] == pytest.approx(part["preference_loss"] + 2.0 * part["chosen_nll"], rel=1e-5)
        assert part["reward_margin"] == pytest.approx(part["chosen_reward"] - part["rejected_reward"], abs=1e-5)
        assert part["chosen_logp"] < 0 < part["chosen_length"]
    # At first the policy is its reference.
    assert parts["train/chosen_reward"][0] == pytest.approx(0.0, abs=1e-4)
    assert parts["train/preference_loss"][0] == pytest.approx(math.log(2), abs=1e-4)
    assert parts["train/reward_accuracy"][-1] > 0.5


def test_gradient_norm_and_learning_rate_are_those_of_a_direct_computation(tmp_path, config, tiny):
    """All pairs in one batch, computed from padded rows; clipping, to 0.01, comes afterwards."""
    run = tmp_path / "run"
    few = ["--data.batch_size=20", "--trainer.max_epochs=2", "--trainer.limit_val_batches=0"]
    main(["fit", config, *few, f"--trainer.default_root_dir={run}"])
    (file,) = (f for f in (run / "data").glob("*.jsonl") if "." not in f.stem)
    model = load_model(tiny)
    batch = collate(read_built(file).examples, 0)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    DPO(0.5, 2.0)(batch, token_log_probs(logits[:, :-1], batch["labels"][:, 1:]))["loss"].backward()
    by_hand = torch.cat([weight.grad.flatten() for weight in model.parameters()]).norm()
    assert values(run, "train/gradient_norm")[0] == pytest.approx(float(by_hand), rel=1e-4)
    assert float(by_hand) > 0.1
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=0, num_training_steps=2)
    rates = []
    for _ in range(2):
        rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    assert values(run, "train/learning_rate") == pytest.approx(rates)


def test_only_logged_steps_have_their_gradient_measured(tmp_path, config, whole):
    """And the computed share tells padding from packing."""
    run = tmp_path / "run"
    main(["fit", config, f"--trainer.default_root_dir={run}", "--trainer.log_every_n_steps=4", "--data.packed=false"])
    for tag in ("train/loss", "train/gradient_norm", "train/learning_rate", "throughput/computed_share"):
        assert [step for step, _ in curve(run, tag)] == [3, 7, 11]
    assert all(1.0 <= value < 2.0 for value in values(run, "throughput/computed_share"))
    assert all(0.2 < value < 0.95 for value in values(whole, "throughput/computed_share"))


def test_charts_put_runs_side_by_side(whole):
    (event,) = events(whole).Tensors("custom_scalars__config__")
    found = Layout.FromString(event.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in found.category for chart in category.chart}
    assert charts["log-probability, chosen and rejected"] == ["train/chosen_logp", "train/rejected_logp"]
    tags, lines = set(events(whole).Tags()["scalars"]), {tag for shown in charts.values() for tag in shown}
    assert lines <= tags
    assert tags - lines == {  # and nothing of the training is without a chart but these
        "epoch", "train/preference_loss", "train/chosen_nll", "throughput/computed_share", "throughput/trained_tokens",
        "throughput/share_training", "throughput/share_sampling", "throughput/share_grading",
    }  # fmt: skip
    kind, series = layout("pairs", 3)["evaluation (95 %)"]["pass@3"]
    assert (kind, series) == ("Margin", ["validation/pass@3", "validation/pass@3_low", "validation/pass@3_high"])
    assert "mean weight" in layout("weighted", None)["weights"]


@pytest.mark.parametrize("kind", ["solutions", "weighted"])
def test_each_objective_has_a_chart_of_what_it_logs(kind: str, tiny: Path, tmp_path: Path) -> None:
    main(fit(config_for(tiny, tmp_path), tmp_path / "run", kind, 4, [*CPU, "--trainer.max_epochs=1"]))
    lines = {tag for charts in layout(kind, None).values() for _, tags in charts.values() for tag in tags}
    tags = set(events(tmp_path / "run").Tags()["scalars"])
    assert lines <= tags
    assert {tag for tag in tags if tag.startswith("train/")} <= lines


def hparams_tab(folder: Path) -> list[tuple[dict[str, object], dict[str, float], list[str]]]:
    """The rows of TensorBoard's own plugin over all runs below a folder: settings, metrics, names of sessions."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    context = SimpleNamespace(data_provider=MultiplexerDataProvider(multiplexer, str(folder)))
    backend = backend_context.Context(context)
    request = RequestContext()
    experiment = backend.experiment_from_metadata(
        request, "", True, backend.hparams_metadata(request, ""), backend.hparams_from_data_provider(request, "", None)
    )
    columns = [api_pb2.ColParams(metric=metric.name) for metric in experiment.metric_infos]
    columns += [api_pb2.ColParams(hparam=info.name) for info in experiment.hparam_infos]
    asked = api_pb2.ListSessionGroupsRequest(
        col_params=columns, start_index=0, slice_size=100,
        allowed_statuses=[api_pb2.STATUS_SUCCESS, api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_RUNNING],
    )  # fmt: skip
    found = list_session_groups.Handler(request, backend, "", asked).run()
    rows = []
    for group in found.session_groups:
        settings = {
            n: v.number_value if v.HasField("number_value") else v.string_value for n, v in group.hparams.items()
        }
        metrics = {metric.name.tag: metric.value for metric in group.metric_values}
        rows.append((settings, metrics, [session.name for session in group.sessions]))
    return rows


def test_the_table_holds_settings_and_last_metrics_of_each_run(whole, tmp_path, config, tiny):
    """A DPO fit, an SFT fit and a policy that is only tested, side by side."""
    (tmp_path / "dpo").symlink_to(whole)
    sft = ["--model.objective=stepneg.objectives.CrossEntropy", "--data.kind=solutions", "--trainer.max_epochs=1"]
    main(["fit", config, *sft, f"--trainer.default_root_dir={tmp_path / 'sft'}"])
    main(["test", config, f"--trainer.default_root_dir={tmp_path / 'base'}"])
    rows = {name: (settings, metrics) for settings, metrics, (name,) in hparams_tab(tmp_path)}
    assert set(rows) == {f"{name}/tensorboard" for name in ("dpo", "sft", "base")}
    settings, metrics = rows["dpo/tensorboard"]
    assert settings["objective"] == "DPO"
    assert settings["kind"] == "pairs"
    assert settings["model"] == str(tiny)
    expected = {
        "learning_rate": 0.002, "weight_decay": 0.01, "beta": 0.5, "anchor": 2.0, "batch_size": 4, "epochs": 3,
        "gradient_clip": 0.01, "warmup": 0, "examples": 20, "seed": 0,
    }  # fmt: skip
    assert {name: settings[name] for name in expected} == pytest.approx(expected)
    assert metrics["train/loss"] == pytest.approx(values(whole, "train/loss")[-1])
    assert metrics["validation/nll"] == pytest.approx(values(whole, "validation/nll")[-1])
    assert rows["sft/tensorboard"][0]["objective"] == "CrossEntropy"
    assert "learning_rate" not in rows["base/tensorboard"][0]
    main(
        ["test", config, f"--trainer.default_root_dir={tmp_path / 'sft'}", f"--model.path={tmp_path / 'sft' / 'last'}"]
    )
    again = {name: settings for settings, _, (name,) in hparams_tab(tmp_path)}
    assert again["sft/tensorboard"] == rows["sft/tensorboard"][0]
    assert len(raw(tmp_path / "sft", "_hparams_/session_start_info")) == 1


@pytest.fixture
def interruptible():
    """A process that was started in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_a_resumed_fit_goes_on_with_its_curves(tmp_path, config, whole, number, interruptible):
    """Saved at the very step; or broken off 3 steps behind its checkpoint, and the 3 are logged again."""
    told = {"class_path": "tests.stop.SignalAtBatch", "init_args": {"batch": 8, "number": int(number)}}
    command = ["fit", config, f"--trainer.default_root_dir={tmp_path}", "--ckpt_path=last"]
    with pytest.raises(SystemExit):
        main([*command, f"--trainer.callbacks={json.dumps([told])}"])
    main(command)
    assert len(list((tmp_path / "tensorboard").glob("*.tfevents.*"))) == 2
    for tag in events(whole).Tags()["scalars"]:
        if tag.startswith(("train/", "validation/")):
            assert curve(tmp_path, tag) == curve(whole, tag), tag  # bit for bit
    # In the files themselves the steps that were made twice stand twice.
    assert len(raw(tmp_path, "train/loss")) == (15 if number == signal.SIGUSR1 else 18)
    for tag in ("custom_scalars__config__", "_hparams_/experiment", "_hparams_/session_start_info"):
        assert len(raw(tmp_path, tag)) == 1
    ((settings, _, _),) = hparams_tab(tmp_path)
    assert settings["epochs"] == 3


def test_what_is_behind_a_checkpoint_is_on_disk_before_it(tmp_path, config):
    """A process that is killed the moment its checkpoint is there has lost none of the curve up to it."""
    watch = {"class_path": "tests.stop.KillBehindCheckpoint"}
    told = f"--trainer.callbacks={json.dumps([watch])}"
    with pytest.raises(KeyError, match="killed behind a checkpoint"):
        main(["fit", config, f"--trainer.default_root_dir={tmp_path}", told])
    assert json.loads((tmp_path / "seen.json").read_text()) == [0, 1, 2, 3, 4]


def test_a_fit_that_begins_anew_puts_old_events_aside(tmp_path, config, whole):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    new = ["--trainer.max_epochs=1", "--model.optimizer.init_args.lr=0.5"]
    main(["fit", config, *new, f"--trainer.default_root_dir={run}"])
    assert [step for step, _ in curve(run, "train/loss")] == [0, 1, 2, 3, 4]
    ((settings, _, _),) = hparams_tab(run)
    assert settings["learning_rate"] == 0.5
    assert len(list((run / "tensorboard").glob("events.out.earlier.*"))) == 1


def test_other_verbs_leave_the_curves_of_a_fit_alone(tmp_path, config, whole):
    """TensorBoard drops of a curve what is behind the step of a later event."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for verb in ("validate", "test"):
        main([verb, config, f"--trainer.default_root_dir={run}", f"--model.path={run / 'last'}"])
    fitted = events(whole).Tags()["scalars"]
    assert set(events(run).Tags()["scalars"]) == {*fitted, "test/nll"}
    assert all(curve(run, tag) == curve(whole, tag) for tag in fitted)
    validated = EventAccumulator(str(run / "tensorboard" / "validate"))
    validated.Reload()
    assert validated.Tags()["scalars"] == ["validation/nll"]
    assert validated.Scalars("validation/nll")[0].value == pytest.approx(values(whole, "validation/nll")[-1])
    main(["fit", config, "--trainer.max_epochs=1", f"--trainer.default_root_dir={run}"])
    assert len(list(run.rglob("*.tfevents.*"))) == 1
