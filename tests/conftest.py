"""Small real things that tests share: the shipped base model and a tiny random one."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from stepneg.initialise import init
from stepneg.problems.arithmetic import Arithmetic

ROOT = Path(__file__).parents[1]
BASE = ROOT / "assets" / "arithmetic-base"

settings.register_profile("short", max_examples=100, deadline=None)
settings.register_profile("fuzz", max_examples=20_000, deadline=None, print_blob=True)
settings.load_profile("short")  # make fuzz chooses the other


@pytest.fixture(autouse=True)
def _in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    # The shipped configurations name assets/ relative to the repository.
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama of 64 dimensions with a tokenizer of the arithmetic task."""
    torch.set_num_threads(2)
    folder = tmp_path_factory.mktemp("tiny") / "policy"
    init(folder, Arithmetic(size=200), vocabulary=900, hidden_size=64, layers=2, context=256)
    return folder
