"""The public interface: light to import, complete, and as docs/api.md shows it."""

import doctest
import re
import subprocess
import sys
from importlib import import_module

import pytest

from tests.conftest import ROOT

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LIGHT = {
    "stepneg.credit": {"torch", "transformers", "lightning", "vllm"},
    "stepneg.grading": {"torch", "transformers", "lightning", "vllm"},
    "stepneg.objectives": {"transformers", "lightning", "vllm"},
}


def test_the_page_shows_what_happens():
    blocks = BLOCK.findall((ROOT / "docs" / "api.md").read_text())
    page = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "docs/api.md", None, 0)
    found = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL).run(page)
    assert found.attempted >= 30
    assert found.failed == 0


@pytest.mark.parametrize("module", LIGHT)
def test_imports_are_light(module):
    code = f"import sys, {module}; print(*sorted({LIGHT[module]!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("folders", [["formats", "credit"], pytest.param(["", "../callbacks"], marks=pytest.mark.slow)])
def test_each_module_can_be_the_first(folders):
    """Whatever is imported first: no module needs that another one was."""
    code = f"""
import sys
from importlib import import_module
from pathlib import Path

root = Path.cwd()
folders = [(root / "stepneg" / folder).resolve() for folder in {folders!r}]
files = [file.relative_to(root) for folder in folders for file in folder.rglob("*.py")]
names = [".".join(file.with_suffix("").parts) for file in files if file.name[0] != "_"]
for name in (name if name.startswith("stepneg") else "stepneg." + name for name in names):
    for loaded in [loaded for loaded in sys.modules if loaded.startswith("stepneg")]:
        del sys.modules[loaded]
    import_module(name)
print(len(names))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert int(done.stdout.split()[-1]) >= (9 if "credit" in folders else 100)


@pytest.mark.parametrize("module", LIGHT)
def test_public_names_are_there_and_explained(module):
    loaded = import_module(module)
    for name in loaded.__all__:
        value = getattr(loaded, name)
        assert not callable(value) or name in ("Count", "Form", "Mark") or value.__doc__, name


def test_the_line_of_the_readers():
    from stepneg.credit import first_pit, pairs

    assert first_pit([0.5, 0.0]) == 1
    assert pairs.first_pit_pairs({}, {}, k=1, eos_ids={0}) == ([], {})
