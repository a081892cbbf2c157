"""The shipped studies: every command line that a chain would run parses, in full, quick and smoke size."""

import shlex
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest

from stepneg.cli import main

ROOT = Path(__file__).parents[1]
CHAINS = ("scaling", "positives", "spurious", "credit", "rounds")


@cache
def lines(*configs: Path) -> list[list[str]]:
    """The command lines of the chain's first seed, without ``stepneg``; the options of each are parsed for it."""
    verb = "sweep" if configs[0].stem == "scaling" else "pipeline"
    with redirect_stdout(StringIO()) as said:
        main([verb, *(f"--config={c.relative_to(ROOT)}" for c in configs), "--dry_run", "--seeds=[0]"])
    found: list[list[str]] = []
    for word in shlex.split(said.getvalue()):  # an option may hold a newline
        if word == "stepneg":
            found.append([])
        else:
            found[-1].append(word)
    return found


def sizes(task: str, study: str) -> list[tuple[Path, ...]]:
    """The study as it is and with its small size."""
    folder = ROOT / "configs" / task
    small = folder / ("quick" if task == "arithmetic" else "smoke") / f"{study}.yaml"
    return [(folder / f"{study}.yaml",), (folder / f"{study}.yaml", small)]


@pytest.mark.parametrize(
    "study",
    [study if study == "rounds" else pytest.param(study, marks=pytest.mark.slow) for study in CHAINS],
)
@pytest.mark.parametrize(
    "task", ["arithmetic", *(pytest.param(task, marks=pytest.mark.slow) for task in ("gsm8k", "math"))]
)
def test_sizes_of_a_study_differ_in_values_only(task, study):
    full, small = (lines(*configs) for configs in sizes(task, study))
    verbs = [[line[0] for line in of] for of in (full, small)]
    if study == "scaling":
        assert set(verbs[0]) == set(verbs[1]) == {"fit", "test"}
    else:
        assert verbs[0] == verbs[1]
    for line in full + small:
        assert not any("{root}" in word or "{size}" in word or "{base}" in word for word in line)
        assert all("{question}" in word for word in line if word.startswith("--template="))
        assert all((ROOT / word).is_file() for flag, word in pairwise(line) if flag == "--config")
    homes = [
        {w for line in of for w in line if w.startswith(("--root=", "--trainer.default_root_dir="))}
        for of in (full, small)
    ]
    assert not homes[0] & homes[1]


@pytest.mark.parametrize(
    "chain", ["arithmetic/fast", "arithmetic/pipeline", "star_graph/pipeline", "gsm8k/smoke", "math/smoke"]
)
def test_the_other_chains_parse(chain):
    assert lines(ROOT / "configs" / f"{chain}.yaml")


@pytest.mark.parametrize("line", [0, -2])
def test_a_line_that_a_chain_prints_is_a_command(line, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*lines(ROOT / "configs" / "gsm8k" / "rounds.yaml")[line], "--print_config"])
    assert stop.value.code == 0
    assert capsys.readouterr().out
