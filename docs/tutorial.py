"""Execute docs/tutorial.ipynb and keep its outputs: ``python -m docs.tutorial`` after it or the code has changed.

The notebook reads samples that vLLM drew of the shipped base model, from docs/tutorial-samples. ``--draw`` draws them
again.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent / "tutorial.ipynb"
SAMPLES = Path(__file__).parent / "tutorial-samples"


def executed() -> Any:
    """The notebook with the outputs of a fresh kernel, without anything that tells when and where it ran.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    options: dict[str, Any] = {"timeout": 600, "record_timing": False, "coalesce_streams": True}
    NotebookClient(notebook, resources={"metadata": {"path": NOTEBOOK.parent}}, **options).execute()
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":  # warnings of libraries are no outputs
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return notebook


def tidy() -> None:
    """One shard a sampler, under a name that tells no machine's."""
    for folder in SAMPLES.iterdir():
        shards = sorted(folder.glob("*.jsonl"))
        text = "".join(shard.read_text() for shard in shards)
        for file in [*shards, *folder.glob("*.prompts")]:
            file.unlink()
        (folder / "samples.jsonl").write_text("".join(sorted(text.splitlines(keepends=True))))


if __name__ == "__main__":
    if "--draw" in sys.argv:
        shutil.rmtree(SAMPLES, ignore_errors=True)
    made = executed()
    tidy()
    nbformat.write(made, NOTEBOOK)
