"""What a repetition is compared by: files, bits of weights, samples."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from stepneg.analysis.repeated import Compared, compare, compare_files, table
from stepneg.record import start
from stepneg.sampling.engine import Completion
from stepneg.sampling.store import Writer


def test_files_are_compared_by_what_they_hold(tmp_path: Path) -> None:
    def pair(name: str, old: str, new: str) -> tuple[str, bool]:
        for folder, text in (("old", old), ("new", new)):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).write_text(text)
        return compare_files(tmp_path / "old" / name, tmp_path / "new" / name)

    assert pair("a.json", '{"a": 1.5, "b": 2, "seconds_x": 3}', '{"seconds_x": 4, "b": 2, "a": 1.5}') == ("equal", True)
    assert pair("a.json", '{"s": {"policy": "a/last", "k": 1}}', '{"s": {"policy": "b", "k": 1}}') == ("equal", True)
    assert pair("a.json", '{"a": 1.5}', '{"a": 1.5, "b": 2}') == ("1 of 1 rows differ", False)
    assert pair("a.json", '{"a": [1.5, 2.0]}', '{"a": [1.5, 2.5]}') == ("numbers differ by up to 5.0e-01", False)
    assert pair("a.json", '{"a": 1}', '{"a": 2}') == ("1 of 1 rows differ", False)  # a token id
    assert pair("a.jsonl", "1\n2\n", "1\n") == ("2 rows then, 1 now", False)
    assert pair("a.jsonl", '"x"\n"y"\n', '"x"\n"z"\n') == ("1 of 2 rows differ", False)
    assert pair("a.csv", "m,seconds\nx,1\n", "m,seconds\nx,2\n") == ("equal", True)
    assert compare_files(tmp_path / "old/a.csv", tmp_path / "new/b.csv") == ("absent", False)


def test_weights_are_compared_by_bits(tmp_path: Path) -> None:
    for name, other, found in [
        ("zero", {"w": torch.tensor([-0.0, 1.0])}, ("weights differ by up to 0.0e+00", False)),
        ("nan", {"w": torch.tensor([0.0, torch.nan])}, ("weights differ by up to nan", False)),
        ("shape", {"w": torch.zeros(3)}, ("weights of other names or shapes", False)),
        ("dtype", {"w": torch.tensor([0.0, 1.0], dtype=torch.bfloat16)}, ("weights of other names or shapes", False)),
    ]:
        save_file({"w": torch.tensor([0.0, 1.0])}, tmp_path / "a.safetensors")
        save_file(other, tmp_path / f"{name}.safetensors")
        assert compare_files(tmp_path / "a.safetensors", tmp_path / f"{name}.safetensors") == found
    save_file({"w": torch.tensor([torch.nan])}, tmp_path / "b.safetensors")
    save_file({"w": torch.tensor([torch.nan])}, tmp_path / "c.safetensors", {"format": "pt"})
    assert compare_files(tmp_path / "b.safetensors", tmp_path / "c.safetensors") == ("equal", True)


def test_samples_are_compared_with_what_the_old_store_holds(tmp_path: Path) -> None:
    (tmp_path / "old/run/attempts").mkdir(parents=True)
    attempt = start("fit", [], {"data": {"store": "samples"}}, tmp_path / "old/run") | {"cwd": str(tmp_path / "old")}
    (tmp_path / "old/run/attempts/1.json").write_text(json.dumps(attempt))
    for store, third in ((tmp_path / "old/samples/key", -3.0), (tmp_path / "new/samples/key", -3.5)):
        store.mkdir(parents=True)
        (store / "meta.json").write_text("{}")
        with Writer(store) as writer:
            writer.add("aa", 0, [Completion((1, 2), -1.0, "stop"), Completion((1, 3), third, "stop")])
            if "new" in str(store):
                writer.add("aa", 2, [Completion((7,), -1.0, "stop")])
    (row,) = compare(tmp_path / "old/run", tmp_path / "new")
    assert row.what == "samples"
    assert "of 3, 2 are in the runs' stores: 2 have equal tokens, 1 equal log-probabilities" in row.found
    assert row.same is False
    shutil.rmtree(tmp_path / "old/samples")
    (row,) = compare(tmp_path / "old/run", tmp_path / "new")
    assert (row.found, row.same) == ("none of 3 is in the runs' stores: nothing to compare", None)
    same, other = Compared("a", "equal", True), Compared("b", "absent", False)
    assert "compare | - |\n\neverything else is the same; 1 of 2 had nothing to be compared with" in table([same, row])
    assert table([other, row]).endswith("1 of 2 differ, 1 had nothing to be compared with")
    assert table([same]).endswith("| a | equal | ✓ |\n\neverything is the same")
