"""What ``sbatch/pipeline.sh`` makes of what sbatch says, with stand-ins for commands; the real ones: tests/slurm."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
JOBS = "a:solutions sample array\na:fit fit job a:solutions\na:test evaluate job a:fit\n"


def submitted(tmp_path: Path, sbatch: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """A submission of three jobs and the tables, and what sbatch and scancel were told."""
    commands = {"stepneg": f"printf '{JOBS}'", "squeue": ":", "scancel": f"echo scancel $@ >> {tmp_path}/told"}
    count = f"echo sbatch $@ >> {tmp_path}/told; n=$(grep -c ^sbatch {tmp_path}/told)"
    for name, text in (commands | {"sbatch": f"{count}; {sbatch}"}).items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/bash\n{text}\n")
        file.chmod(0o755)
    (tmp_path / "chain.yaml").touch()
    done = subprocess.run(
        ["bash", str(ROOT / "sbatch" / "pipeline.sh"), "chain.yaml"],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=20,
    )
    return done, (tmp_path / "told").read_text()


def test_a_clusters_name_is_no_part_of_a_jobs_number(tmp_path: Path) -> None:
    done, told = submitted(tmp_path, 'echo "$n;big"')
    assert done.returncode == 0
    assert "--dependency=afterok:1 " in told
    assert "--dependency=afterok:1:2:3 " in told
    assert "cancel: scancel 1 2 3 4\n" in done.stdout


def test_a_chain_that_is_not_submitted_whole_is_cancelled(tmp_path: Path) -> None:
    done, told = submitted(tmp_path, "[ $n -lt 3 ] && echo $n || { echo too many jobs >&2; exit 1; }")
    assert done.returncode == 1
    assert (
        done.stderr
        == "too many jobs\na:test: not submitted, for the reason above; what was submitted before it is cancelled\n"
    )
    assert told.splitlines()[-1] == "scancel 1 2"
    assert "watch" not in done.stdout
