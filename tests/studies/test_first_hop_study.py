"""The first hop over training is read from real TensorBoard event files."""

from pathlib import Path

import pandas as pd
import pytest
from torch.utils.tensorboard import SummaryWriter

from stepneg.errors import InputError
from stepneg.studies.first_hop import MEASURES, first_hop, read_hops, table


def write(home: Path, held_out: list[float], training: list[float] | None = None) -> Path:
    """A run whose callback logged these accuracies every tenth step; probability and value are a half of them."""
    with SummaryWriter(str(home / "tensorboard")) as writer:
        for name, values in {"first_hop": held_out, "first_hop_train": training or []}.items():
            for i, value in enumerate(values):
                for measure in MEASURES:
                    writer.add_scalar(f"{name}/{measure}", value if measure == "accuracy" else value / 2, 10 * i)
    return home


def test_events_are_read_back(tmp_path):
    rows = pd.DataFrame(read_hops(write(tmp_path, [0.25, 0.5], [0.5, 1.0]), "sft"))
    assert rows[rows["problems"] == "held out"]["accuracy"].tolist() == [0.25, 0.5]
    assert rows[rows["problems"] == "training"]["value"].tolist() == [0.25, 0.5]
    assert rows["step"].tolist() == [0, 10, 0, 10]


def test_more_steps_than_tensorboards_default_are_kept(tmp_path):
    assert len(read_hops(write(tmp_path, [0.5] * 1200), "long")) == 1200


def test_the_study_writes_the_last_measurements(tmp_path):
    runs = {"early": write(tmp_path / "a", [0.25, 0.5], [0.5, 0.75]), "late": write(tmp_path / "b", [0.5], [1.0])}
    text = first_hop(tmp_path / "out", runs)
    assert "| early | 75.0 % | 0.38 | 0.38 | 50.0 % | 0.25 | 0.25 |" in text
    assert "| late | 100.0 % | 0.50 | 0.50 | 50.0 % | 0.25 | 0.25 |" in text
    frame = pd.read_csv(tmp_path / "out" / "first_hop.csv")
    assert table(frame) == text
    assert (tmp_path / "out" / "first_hop.png").stat().st_size > 10_000
    other = frame.assign(accuracy=0.0, seed="1")
    assert "| early | 37.5 % |" in table(pd.concat([frame.assign(seed="0"), other]))


def test_a_run_without_the_callback_is_named(tmp_path):
    (tmp_path / "tensorboard").mkdir()
    with pytest.raises(InputError, match="no first_hop events"):
        read_hops(tmp_path, "sft")
