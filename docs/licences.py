"""Write licences.md from the metadata of what is installed: ``make licences``."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DOCS = Path(__file__).parent
HEAD = """# Licences

stepneg itself is under the MIT licence. Nothing below is part of its source or its wheel; the set-up on a CPU
(`make setup`) installs it. The versions are those of the [lock file](../lock/cpu.txt). `make licences` writes this page
from the metadata that each package declares; it is no legal opinion.

## Data and model in the repository

| what | from | licence |
|---|---|---|
| `assets/gsm8k` | GSM8K (Cobbe et al., OpenAI, 2021) | MIT ([text](../assets/gsm8k/LICENSE)) |
| `assets/math` | MATH (Hendrycks et al., 2021) | MIT ([text](../assets/math/LICENSE)) |
| `assets/arithmetic-base` | pretrained here from scratch on generated text (`make base`) | MIT, as stepneg |

## Packages

| package | version | licence | needed by |
|---|---|---|---|
"""


def direct() -> list[Requirement]:
    """What pyproject.toml names for running on a CPU."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["cpu"])]


def needed() -> dict[str, set[str]]:
    """The installed packages that running on a CPU needs, each with the packages that ask for it."""
    found: dict[str, set[str]] = {}
    asked = [("stepneg", requirement) for requirement in direct()]
    seen: set[tuple[str, str]] = set()
    while asked:
        parent, requirement = asked.pop()
        name = canonicalize_name(requirement.name)
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # left out of the set-up, as torchvision
        found.setdefault(name, set()).add(parent)
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                inner = map(Requirement, requires)
                asked += [(name, r) for r in inner if r.marker is None or r.marker.evaluate({"extra": extra})]
    return found


def licence(name: str) -> str:
    """What a package declares: an SPDX expression, the trove classifiers, or the first line of the text."""
    declared = distribution(name).metadata
    if expression := declared.get("License-Expression"):
        return str(expression)
    trove = [c.rpartition(" :: ")[2] for c in declared.get_all("Classifier", []) if c.startswith("License ::")]
    trove = [name for name in trove if name != "OSI Approved"]
    text = (declared.get("License") or "").strip().splitlines()
    return " / ".join(trove) or (text[0][:60] if text else "not declared")


def rows() -> Iterator[str]:
    """A line a package; where many ask for it, three of them are named."""
    for name, parents in sorted(needed().items()):
        first = sorted(parents, key=lambda parent: (parent != "stepneg", parent))
        by = ", ".join(first[:3]) + (f" and {len(first) - 3} more" if len(first) > 3 else "")
        version = re.sub(r"\+.*", "", distribution(name).version)
        yield f"| {name} | {version} | {licence(name).replace('|', '/')} | {by} |"


if __name__ == "__main__":
    (DOCS / "licences.md").write_text(HEAD + "\n".join(rows()) + "\n")
