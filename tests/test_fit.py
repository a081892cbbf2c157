"""Training through the real command line on a tiny model: what it writes, and that a resumed run is the same run."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM

from stepneg.cli import main
from stepneg.data.rows import encode_prompt, encode_response
from stepneg.policy_folder import load_tokenizer
from stepneg.problems.arithmetic import Arithmetic
from stepneg.sampling.engine import Completion, Decoding, Request
from stepneg.sampling.vllm_engine import VLLMEngine

FIT = """
seed_everything: 0
model:
  objective: stepneg.objectives.CrossEntropy
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.003}}
data:
  class_path: stepneg.data.solutions.TeacherSolutions
  init_args:
    policy: POLICY
    batch_size: 8
    problems: {class_path: stepneg.problems.arithmetic.Arithmetic, init_args: {size: 40}}
    validation: {class_path: stepneg.problems.arithmetic.Arithmetic, init_args: {split: validation, size: 8}}
trainer:
  accelerator: cpu
  log_every_n_steps: 1
  accumulate_grad_batches: 2
  gradient_clip_val: 1.0
  enable_progress_bar: false
"""


def configured(policy: Path, folder: Path) -> str:
    """The option that names the file of a fit of this policy."""
    file = folder / "fit.yaml"
    file.write_text(FIT.replace("POLICY", str(policy)))
    return f"--config={file}"


@pytest.fixture
def config(tmp_path: Path, tiny: Path) -> str:
    return configured(tiny, tmp_path)


def scalars(run: Path, tag: str, verb: str = "fit") -> list[float]:
    events = EventAccumulator(str(run / "tensorboard" / ("validate" if verb == "validate" else "")))
    events.Reload()
    return [event.value for event in events.Scalars(tag)]


def test_a_fit_learns_and_leaves_everything_behind(tmp_path, config):
    run = tmp_path / "run"
    main(["fit", config, f"--trainer.default_root_dir={run}", "--trainer.max_epochs=8"])
    losses = scalars(run, "train/loss")
    assert len(losses) == 8 * 3  # five batches of 8, accumulated by two, the last alone
    assert losses[-1] < 0.7 * losses[0]
    assert scalars(run, "validation/nll")[-1] < scalars(run, "validation/nll")[0]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["problems"] == 40
    assert summary["trained_tokens"] > 8 * 40 * 30
    assert {file.name for file in (run / "last").iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert "seed_everything: 0" in (run / "config.yaml").read_text()


@pytest.mark.parametrize("options", [["--trainer.precision=bf16-mixed"], ["--model.gradient_checkpointing=true"]])
def test_bf16_and_gradient_checkpointing_train(tmp_path, config, options):
    run = tmp_path / "run"
    main(["fit", config, f"--trainer.default_root_dir={run}", "--trainer.max_epochs=4", *options])
    losses = scalars(run, "train/loss")
    assert losses[-1] < losses[0]


def test_the_best_policy_is_that_of_the_monitored_metric(tmp_path, config):
    run = f"--trainer.default_root_dir={tmp_path / 'run'}"
    main(["fit", config, run, "--trainer.max_epochs=2", "--export.monitor=validation/nll", "--export.mode=min"])
    values = scalars(tmp_path / "run", "validation/nll")
    assert values[-1] == min(values) < values[0]
    best, last = (load_file(tmp_path / "run" / name / "model.safetensors") for name in ("best", "last"))
    assert all(torch.equal(best[name], last[name]) for name in last)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--export.mode=maximum", "export.mode"),
        ("--export.monitor=validation/acuracy", "validation/acuracy is not logged; a validation logs validation/nll"),
    ],
)
def test_what_is_best_is_asked_for_as_it_is_called(option, said, tmp_path, config, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", config, f"--trainer.default_root_dir={tmp_path / 'run'}", "--trainer.max_epochs=2", option])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_validate_test_and_predict_run(tmp_path, config, tiny, capsys):
    run = f"--trainer.default_root_dir={tmp_path / 'run'}"
    for verb in ("validate", "test", "predict"):
        main([verb, config, run])
    assert "predictions.jsonl: 8 held-out solutions" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny), load_tokenizer(tiny)
    for row, problem in zip(rows, Arithmetic(split="validation", size=8).load(), strict=True):
        assert row["prompt"].strip() == problem.question
        assert row["response"] == problem.solution
        prompt, response = (
            encode_prompt(tokenizer, "{question}\n", problem.question),
            encode_response(tokenizer, row["response"]),
        )
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        expected = logits.gather(1, torch.tensor(response)[:, None]).sum().detach()
        assert row["logprob"] == pytest.approx(float(expected), rel=1e-4)
        assert row["tokens"] == len(response)


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_only_a_fit_needs_the_policy_of_its_data(verb, tmp_path, config, tiny, capsys):
    """Others make no training data, and take the tokenizer of the policy that they are given."""
    run, gone = f"--trainer.default_root_dir={tmp_path / 'run'}", f"--data.policy={tmp_path / 'gone'}"
    main([verb, config, run, gone, f"--model.path={tiny}"])
    assert not (tmp_path / "run" / "data").exists()
    if verb != "predict":
        other = f"--trainer.default_root_dir={tmp_path / 'other'}"
        main([verb, config, other])
        split = "validation" if verb == "validate" else "test"
        first, second = (scalars(tmp_path / name, f"{split}/nll", verb) for name in ("run", "other"))
        assert first == second != []
        assert not (tmp_path / "other" / "data").exists()
    capsys.readouterr()
    for words, option in (
        ([verb, config, run, gone], "data.policy"),
        (["fit", config, run, gone, f"--model.path={tiny}"], "data.policy"),
        ([verb, config, run, gone, f"--model.path={tmp_path / 'gone'}"], "model.path"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
        (said,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert said.endswith(
            f"{option}: {tmp_path / 'gone'}: no such policy folder; give --{option}, an HF folder, for example"
            " RUN/last of an earlier fit"
        )


def test_the_log_of_a_fit_holds_what_concerns_it(tmp_path, config, caplog):
    with caplog.at_level("INFO"):
        main(["fit", config, f"--trainer.default_root_dir={tmp_path / 'run'}", "--trainer.max_epochs=1"])
    assert "GPU available" in caplog.text
    assert "`Trainer.fit` stopped" in caplog.text
    for unasked in ("Tip", "TPU", "weights_only"):
        assert unasked not in caplog.text


EVALUATION = """
trainer:
  callbacks:
  - class_path: stepneg.callbacks.evaluation.VLLMEvaluation
    init_args:
      engine: {class_path: stepneg.sampling.vllm_engine.VLLMEngine}
      form: number
      k: 2
      max_tokens: 2
      kl_samples: 0
      store: STORE
      SPLIT: {class_path: stepneg.problems.arithmetic.Arithmetic, init_args: {split: SPLIT, size: 3}}
"""


@pytest.mark.parametrize(("verb", "split"), [("fit", "validation"), ("validate", "validation"), ("test", "test")])
def test_a_policy_is_evaluated_where_no_held_out_solutions_are_given(tmp_path, config, verb, split, monkeypatch):
    served: list[Path] = []

    def generate(
        _: VLLMEngine, requests: Sequence[Request], decoding: Decoding
    ) -> Iterator[tuple[int, list[Completion]]]:
        for index, request in enumerate(requests):
            yield index, [Completion((0,), -1.0, "stop")] * request.n

    monkeypatch.setattr(VLLMEngine, "load", lambda _, policy: served.append(policy))
    monkeypatch.setattr(VLLMEngine, "generate", generate)
    file = tmp_path / "evaluation.yaml"
    file.write_text(EVALUATION.replace("SPLIT", split).replace("STORE", str(tmp_path / "samples")))
    run = tmp_path / "run"
    options = [f"--trainer.default_root_dir={run}", "--data.validation=null", "--trainer.max_epochs=1"]
    main([verb, config, f"--config={file}", *options])
    assert served
    (report,) = (run / "evaluation").glob(f"{split}*.json")
    assert json.loads(report.read_text())["problems"] == 3
    assert scalars(run, f"{split}/accuracy", verb) == [0.0]


@pytest.mark.parametrize("there", [True, False])
def test_the_divergence_is_left_out_where_the_reference_is_not_there(there, tmp_path, config, tiny, monkeypatch):
    def generate(
        _: VLLMEngine, requests: Sequence[Request], decoding: Decoding
    ) -> Iterator[tuple[int, list[Completion]]]:
        for index, request in enumerate(requests):
            yield index, [Completion((0,), -1.0, "stop")] * request.n

    monkeypatch.setattr(VLLMEngine, "load", lambda _, policy: None)
    monkeypatch.setattr(VLLMEngine, "generate", generate)
    file = tmp_path / "evaluation.yaml"
    text = EVALUATION.replace("SPLIT", "validation").replace("STORE", str(tmp_path / "samples"))
    file.write_text(text.replace("kl_samples: 0", "kl_samples: 3"))
    run, reference = tmp_path / "run", tiny if there else tmp_path / "gone"
    options = [f"--trainer.default_root_dir={run}", f"--data.policy={reference}", f"--model.path={tiny}"]
    main(["validate", config, f"--config={file}", *options])
    assert scalars(run, "validation/accuracy", "validate") == [0.0]
    (report,) = (run / "evaluation").glob("validation*.json")
    assert ("kl_to_reference" in json.loads(report.read_text())) == there


@pytest.mark.parametrize(("verb", "mend"), [("validate", "data.validation, or an evaluation's validation"),
                                            ("test", "data.validation, or an evaluation's test"),
                                            ("predict", "data.validation")])  # fmt: skip
def test_a_verb_without_problems_says_so(tmp_path, config, verb, mend, capsys):
    run = f"--trainer.default_root_dir={tmp_path / 'run'}"
    with pytest.raises(SystemExit) as stop:
        main([verb, config, "--data.validation=null", run])
    assert stop.value.code == 2
    assert f"{verb}: there are no problems to work with; give {mend}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "limits", [["--trainer.max_time=00:00:01:00"], ["--trainer.max_epochs=-1", "--trainer.max_time=00:00:01:00"],
               ["--trainer.max_epochs=-1"]]
)  # fmt: skip
def test_a_fit_without_a_last_step_is_refused_before_its_data_are_made(tmp_path, config, limits, capsys):
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main(["fit", config, *limits, f"--trainer.default_root_dir={run}"])
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stepneg: error: ")]
    assert "give trainer.max_epochs or trainer.max_steps" in line
    assert not (run / "data").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--data.batch_size=0", "data.batch_size: is 0; give at least 1"),
        ("--trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches: is 0; give at least 1"),
        ("--model.warmup=1.5", "model.warmup: is 1.5; give a share of the steps, 0 to 1"),
        ("--model.optimizer.init_args.lr=-1", "model.optimizer: Invalid learning rate: -1"),
    ],
)
def test_a_fit_whose_steps_cannot_be_taken_is_refused_before_its_data_are_made(tmp_path, config, option, said, capsys):
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main(["fit", config, "--trainer.max_epochs=1", option, f"--trainer.default_root_dir={run}"])
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stepneg: error: ")]
    assert said in line
    assert not (run / "data").exists()


@pytest.mark.parametrize("limit", ["--trainer.max_steps=2", "--trainer.fast_dev_run=true"])
def test_a_time_limit_may_stand_beside_one_of_steps(tmp_path, config, limit):
    run = tmp_path / "run"
    main(["fit", config, "--trainer.max_time=00:01:00:00", limit, f"--trainer.default_root_dir={run}"])
    assert list((run / "data").glob("*.jsonl"))
