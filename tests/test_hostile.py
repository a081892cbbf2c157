"""A little of ``python -m benchmarks.hostile`` in every run of the tests, and that it notices what it looks for."""

import random
import signal
from pathlib import Path

import pytest

from benchmarks import hostile
from benchmarks.hostile import READERS, outcome, over_time
from stepneg.errors import InputError

FEW = 25
CHEAP = sorted(set(READERS) - {"formulas"})  # which make fuzz compares, too


@pytest.mark.parametrize("name", CHEAP)
def test_fuzzed_input_is_read_or_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stepneg.grading.compare.symbolically_equal", lambda *_: None)
    for number in range(FEW):
        folder = tmp_path / str(number)
        folder.mkdir()
        how, said = outcome(READERS[name][1], random.Random(f"test/{name}/{number}"), folder, hostile.SECONDS)
        assert how in ("read", "refused"), (number, said)
    assert not Path("ran").exists()


def test_what_is_not_handled_counts(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGPROF, over_time)

    def turn(*_: object) -> None:
        while True:
            pass

    def refuse(*_: object) -> None:
        raise InputError("rows.jsonl, line 1: not JSON; write one JSON object a line")

    def mumble(*_: object) -> None:
        raise InputError("bad")

    def fill(*_: object) -> None:
        raise MemoryError

    found = [outcome(reader, random.Random(0), tmp_path, 0.05)[0] for reader in (turn, refuse, mumble, fill, divide)]
    signal.signal(signal.SIGPROF, before)
    assert found == ["over time", "refused", "crashed", "over memory", "crashed"]


def divide(*_: object) -> None:
    """Fails in no foreseen way."""
    raise ZeroDivisionError


def test_the_table_adds_up() -> None:
    found = {"counts": {"read": 3, "refused": 2}, "slowest_ms": 12.3, "grown_mib": 4.0}
    other = {"counts": {"crashed": 1}, "slowest_ms": 1.0, "grown_mib": 8.0}
    text = hostile.table({"readers": {"stores": found, "steps": other}})
    assert text.splitlines()[-1] == "| all | 6 | 3 | 2 | 1 | 0 | 0 | 12 | 8 |"
