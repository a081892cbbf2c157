"""Links in a run directory are replaced or taken away; what they point to stays as it is."""

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from stepneg.analysis.report import report
from stepneg.callbacks.export import export
from stepneg.initialise import init
from stepneg.links import below, folders, remove
from stepneg.pipeline import forget_other
from stepneg.problems.arithmetic import Arithmetic
from tests.test_escaping import evaluated


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder outside of the run directory with something dear in it."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("dear.txt", "config.json", "last.ckpt"):
        (folder / name).write_text("dear")
    return folder


def untouched(folder: Path) -> bool:
    return sorted((f.name, f.read_text()) for f in folder.iterdir()) == [
        (name, "dear") for name in ("config.json", "dear.txt", "last.ckpt")
    ]


def test_remove(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "link").symlink_to(elsewhere)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner").symlink_to(elsewhere)
    (tmp_path / "file").write_text("")
    for name in ("link", "dangling", "folder", "file", "nothing"):
        remove(tmp_path / name)
    assert list(tmp_path.iterdir()) == [elsewhere]
    assert untouched(elsewhere)


@pytest.mark.parametrize("name", ["last", ".last.partial"])
def test_an_export_replaces_a_link(name: str, tmp_path: Path, elsewhere: Path, tiny: Path) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny))
    for target in (elsewhere, tmp_path / "nowhere"):
        remove(tmp_path / name)
        (tmp_path / name).symlink_to(target)
        export(model, tiny, tmp_path / "last", "{question}\n")
        assert not (tmp_path / "last").is_symlink()
        assert (tmp_path / "last" / "model.safetensors").is_file()
    assert untouched(elsewhere)


def test_a_chain_forgets_links_only(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("last.ckpt", "parts.ckpt"):
        (tmp_path / "checkpoints" / name).symlink_to(elsewhere / "last.ckpt" if name == "last.ckpt" else elsewhere)
    forget_other(tmp_path, "fit", "first")
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    forget_other(tmp_path, "fit", "second")
    assert not list((tmp_path / "checkpoints").iterdir())
    (tmp_path / "last").symlink_to(elsewhere)
    (tmp_path / ".init.started.partial").symlink_to(elsewhere / "dear.txt")
    (tmp_path / "init.started").write_text("")
    forget_other(tmp_path, "init", "third")
    assert not (tmp_path / "last").exists()
    assert untouched(elsewhere)


def test_a_fresh_policy_does_not_follow_links(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / ".new.partial").symlink_to(elsewhere)
    init(tmp_path / "new", Arithmetic(size=20), vocabulary=300, hidden_size=32, layers=1)
    assert (tmp_path / "new" / "config.json").is_file()
    assert untouched(elsewhere)


def test_a_report_does_not_follow_links(tmp_path: Path, elsewhere: Path) -> None:
    evaluated(tmp_path / "runs" / "sft")
    for name in ("report.md", "report.csv", "report.png"):
        (tmp_path / "runs" / name).symlink_to(elsewhere / "dear.txt")
    report(tmp_path / "runs")
    assert untouched(elsewhere)
    assert (tmp_path / "runs" / "report.md").read_text().startswith("# Report")


def test_folders_behind_links_come_once_and_not_without_end(tmp_path: Path) -> None:
    for name in ("root/seed-0/sft", "scratch/size-4/seed-1/rft/too/deep", "scratch/size-4/seed-1/dpo"):
        (tmp_path / name).mkdir(parents=True)
    root, scratch = tmp_path / "root", tmp_path / "scratch"
    for name, target in (
        ("again", root / "seed-0"),  # which has a name of its own
        ("large", scratch),
        ("twice", scratch / "size-4"),  # seen behind the link above
        ("seed-0/up", root),
        ("nowhere", tmp_path / "gone"),
    ):
        (root / name).symlink_to(target)
    (scratch / "size-4" / "all").symlink_to("/")  # behind a link no further one is followed
    found = {str(folder.relative_to(root)) for folder in folders(root)}
    behind = ("large", "large/size-4", "large/size-4/seed-1", "large/size-4/seed-1/rft", "large/size-4/seed-1/dpo")
    assert found == {".", "seed-0", "seed-0/sft", *behind}
    (scratch / "size-4" / "seed-1" / "rft" / "here").touch()
    assert below(root, "here", "nothing*") == [root / "large/size-4/seed-1/rft/here"]
