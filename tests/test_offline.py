"""Nothing needs the network once it is set up: run in a network namespace of its own, in which there is only loopback.

An audit hook in every Python process that takes part is a second witness: it writes down every name that is looked up
and every address that a socket turns to, whether or not it could be reached.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_fit import FIT
from tests.test_pipeline import METHODS, chain

ROOT = Path(__file__).parents[1]
WITNESS = """
import os, sys

def hook(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        address = args[0]
    else:
        return
    with open(os.environ["WITNESS"], "a") as file:
        file.write(f"{event} {address!r}\\n")

sys.addaudithook(hook)
"""
# Loopback is down in a new namespace: SIOCGIFFLAGS, then SIOCSIFFLAGS with IFF_UP.
LOOPBACK = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as lo:
    name, flags = struct.unpack("16sh", fcntl.ioctl(lo, 0x8913, struct.pack("16sh", b"lo", 0)))
    fcntl.ioctl(lo, 0x8914, struct.pack("16sh", name, flags | 1))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
ISOLATED = ["unshare", "--net", sys.executable, "-S", "-c", LOOPBACK]
HOME = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(autouse=True)
def _may_unshare() -> None:
    try:
        allowed = subprocess.run([*ISOLATED, "-c", ""], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare (util-linux)")
    if allowed.returncode:
        pytest.skip(f"no network namespace may be made here: {allowed.stderr.decode().strip()[-200:]}")


def isolated(folder: Path, *words: str) -> tuple[str, list[str]]:
    """Output of a Python command line without a network, and the places elsewhere that it turned to."""
    (folder / "witness").mkdir()
    (folder / "witness/sitecustomize.py").write_text(WITNESS)
    log = folder / "witness.log"
    log.touch()
    given = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}  # nothing says: offline
    path = os.pathsep.join([str(folder / "witness"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = given | {"PYTHONPATH": path, "WITNESS": str(log), "HF_HOME": str(folder / "hub")}
    done = subprocess.run([*ISOLATED, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    seen = log.read_text().splitlines()
    return done.stdout, [line for line in seen if not any(repr(home) in line for home in HOME)]


def test_there_is_no_network_in_there_and_the_witness_sees_who_asks(tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "for reach in (lambda: socket.create_connection(('192.0.2.1', 80), 5),\n"
        "              lambda: socket.getaddrinfo('example.org', 80)):\n"
        "    try: reach()\n"
        "    except OSError as error: print(type(error).__name__, error)\n"
        "with socket.create_server(('127.0.0.1', 0)) as server:\n"
        "    socket.create_connection(server.getsockname(), 5)\n"
    )
    said, asked = isolated(tmp_path, "-c", code)
    assert len(said.splitlines()) == 2
    assert "unreachable" in said
    assert {line.split()[1].strip("(,") for line in asked} == {"'192.0.2.1'", "'example.org'"}


def test_a_model_is_made_and_trained_without_a_network(tmp_path: Path) -> None:
    (tmp_path / "fit.yaml").write_text(FIT.replace("POLICY", str(tmp_path / "policy")))
    init = ["init", "--config=configs/arithmetic/init.yaml", f"--out={tmp_path}/policy", "--layers=2"]
    fit = [
        "fit",
        f"--config={tmp_path}/fit.yaml",
        f"--trainer.default_root_dir={tmp_path}/run",
        "--trainer.max_epochs=1",
    ]
    code = f"from stepneg.cli import main\nmain({init!r})\nmain({fit!r})\nimport lightning, transformers, datasets\n"
    _, asked = isolated(tmp_path, "-c", code)
    assert asked == []
    assert (tmp_path / "run/last/model.safetensors").is_file()


@pytest.mark.slow
def test_the_demo_small_with_vllm_without_a_network(tmp_path: Path) -> None:
    """Every method: sampling, step values, training, evaluation, report."""
    said, asked = isolated(tmp_path, "-m", "stepneg", "pipeline", f"--config={chain(tmp_path, list(METHODS))}")
    assert "| step_dpo |" in said
    assert asked == []
