"""Every shipped trainer configuration composes with a method and a model."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from stepneg.cli import main
from tests.conftest import ROOT

OVERLAYS = sorted((ROOT / "configs" / "trainer").glob("*.yaml"))
MODELS = sorted((ROOT / "configs" / "model").glob("*.yaml"))


def holds(found: Any, given: Any) -> bool:
    """Whether everything given is found in the same place."""
    if isinstance(given, dict):
        return all(name in found and holds(found[name], value) for name, value in given.items())
    return found == given


def test_all_strategies_are_here():
    names = {"cpu", "ddp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3", "deepspeed_zero3_offload"}
    assert names <= {overlay.stem for overlay in OVERLAYS}


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda overlay: overlay.stem)
@pytest.mark.parametrize("model", [[], ["--config", "configs/model/deepseek_math_7b.yaml"]], ids=["", "7b"])
def test_it_composes(overlay: Path, model: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    method = ["--config", "configs/gsm8k/step_dpo.yaml"]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *method, *model, "--config", str(overlay.relative_to(ROOT)), "--print_config"])
    assert not ended.value.code
    found = yaml.safe_load(capsys.readouterr().out)
    assert holds(found, yaml.safe_load(overlay.read_text()))
    assert found["trainer"]["max_epochs"] == 3  # the method's own are still there
    assert found["model"]["gradient_checkpointing"] == bool(model)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.stem)
def test_every_model_composes(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["configs/gsm8k/step_dpo.yaml", str(model.relative_to(ROOT)), "configs/trainer/fsdp2.yaml"]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *(word for file in files for word in ("--config", file)), "--print_config"])
    assert not ended.value.code
    trainer = yaml.safe_load((ROOT / "configs" / "trainer" / "fsdp2.yaml").read_text())["trainer"]
    given = yaml.safe_load(model.read_text())
    given["trainer"] = given.get("trainer", {}) | trainer
    assert holds(yaml.safe_load(capsys.readouterr().out), given)
