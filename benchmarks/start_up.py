"""How long until something happens: ``python -m benchmarks.start_up``.

Each command runs in a fresh process, in rounds; beside them the floor, a process that only imports what any training
with Lightning and transformers imports.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

RESULTS = Path(__file__).with_name("results") / "start_up.json"
STEPNEG = [sys.executable, "-m", "stepneg"]
SFT = ["fit", "--config", "configs/arithmetic/sft.yaml"]
ONE_STEP = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.num_sanity_val_steps=0"]
COMMANDS = {
    "stepneg --help": [*STEPNEG, "--help"],
    "stepneg pipeline --help": [*STEPNEG, "pipeline", "--help"],
    "imports of lightning and transformers' models alone": [
        sys.executable,
        "-c",
        "import lightning; from transformers import AutoModelForCausalLM",
    ],
    "stepneg fit --print_config": [*STEPNEG, *SFT, "--print_config"],
    "stepneg fit, to the end of its first step and its export": [*STEPNEG, *SFT, *ONE_STEP],
}


def seconds(command: list[str]) -> float:
    """Wall time of a command."""
    with tempfile.TemporaryDirectory() as root:
        where = [f"--trainer.default_root_dir={root}/run"] if ONE_STEP[0] in command else []
        started = time.perf_counter()
        subprocess.run([*command, *where], check=True, capture_output=True)
        return time.perf_counter() - started


def table(result: dict[str, Any]) -> str:
    """The medians in Markdown."""
    lines = ["| command | seconds |", "|---|---:|"]
    for name, (low, middle, high) in result["seconds"].items():
        lines.append(f"| {name} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
    return "\n".join(lines)


def main(rounds: int = 5, out: Path = RESULTS) -> None:
    """Measure and write results/start_up.json.

    Args:
        rounds: of all commands, after one that warms the caches of the file system.
        out: the file.
    """
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, command in COMMANDS.items():
            took = seconds(command)
            if number:
                taken[name].append(took)
    spreads = {name: [min(t), sorted(t)[len(t) // 2], max(t)] for name, t in taken.items()}
    result = {"rounds": rounds, "seconds": spreads}
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
