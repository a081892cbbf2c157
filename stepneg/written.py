"""What a command has left, and where: the last lines that it prints."""

from collections.abc import Iterable
from pathlib import Path

Place = tuple[str, Path]
TABLES = ("report", "study", "scaling", "credit", "spurious", "likelihood", "first_hop")


def near(path: Path) -> str:
    """A path, from here if it is below."""
    full = path.resolve()
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(path)


def of_run(home: Path) -> list[Place]:
    """The places of a fit or test."""
    return [
        ("policy", home / "last"),
        ("best policy", home / "best"),
        ("checkpoint", home / "checkpoints" / "last.ckpt"),
        ("training data", home / "data"),
        ("evaluation", home / "evaluation"),
        ("step values", home / "figures"),
        ("configuration", home / "config.yaml"),
        ("TensorBoard", home / "tensorboard"),
    ]


def of_chain(root: Path) -> list[Place]:
    """The places of a pipeline or sweep."""
    tables = [(name, root / f"{name}{end}") for name in TABLES for end in (".md", ".csv", ".png")]
    return [*tables, ("runs", root), ("TensorBoard", root)]


def block(places: Iterable[Place]) -> str:
    """A line for each name that has a place which is there; TensorBoard's is the command that shows it."""
    found: dict[str, list[str]] = {}
    for name, place in places:
        if place.exists():
            found.setdefault(name, []).append(near(place))
    lines = [
        f"  {name:<14} {'tensorboard --logdir ' if name == 'TensorBoard' else ''}{', '.join(where)}"
        for name, where in found.items()
    ]
    return "\n".join(["written:", *lines]) if lines else ""
