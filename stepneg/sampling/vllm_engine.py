"""vLLM in a process of its own, kept alive over stages, restarted when it dies or hangs."""

import atexit
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stepneg.errors import EngineLostError, InputError, at_least
from stepneg.sampling.engine import Completion, Decoding, Request
from stepneg.sampling.store import fingerprint_policy

if TYPE_CHECKING:
    import torch

LAUNCHER = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "NODE_RANK",
    "GROUP_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
LAUNCHER_PREFIXES = ("SLURM_", "TORCHELASTIC_", "PMI_", "PMIX_")
RESTARTS = 3  # without a finished request between
LOG = "what is finished is stored; STEPNEG_ENGINE_LOG=1 shows vLLM's own messages"


class EngineDied(RuntimeError):
    """The engine's process ended or gave no sign of life in time."""


class EngineFailed(EngineDied):
    """The engine reported an error."""


@dataclass(frozen=True)
class VLLMEngine:
    """Options of an engine; equal options share one process, which lives until this process ends.

    Args:
        context: longest prompt and completion together, in tokens; None takes the model's.
        dtype: of the weights; auto is float32 on CPU and the model's own on GPU.
        tensor_parallel_size: GPUs that share the model.
        gpu_memory_utilization: share of a GPU's memory that vLLM takes.
        kv_cache_gib: size of the key-value cache on CPU, in GiB.
        max_num_seqs: sequences decoded together.
        devices: GPUs that are the engine's own, as CUDA_VISIBLE_DEVICES names them (7, or 6,7); None for those of
            this process, which it leaves before training.
        timeout: seconds without a finished request (or a loaded model) after which the engine counts as hung.
    """

    context: int | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.85
    kv_cache_gib: float = 1.0
    max_num_seqs: int = 256
    devices: str | None = None
    timeout: float = 900.0

    def load(self, policy: Path) -> None:
        """Serve this HF folder from now on; nothing happens if it is being served.

        Raises:
            InputError: the folder is not a policy in safetensors, or an option is out of its range.
            EngineLostError: the process died more often than restarts can mend.
        """
        self.check()
        check_policy(policy)
        for deaths in count(1):
            try:
                worker(self).load(policy, self)
                return
            except EngineFailed as error:
                close(self)
                raise InputError(f"{policy}: vLLM cannot serve it: {error}; {LOG}") from error
            except EngineDied as error:
                self.bury(error, deaths, f"{policy} is loaded again")

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[tuple[int, list[Completion]]]:
        """Completions of each request, with its index, as they finish.

        Raises:
            EngineLostError: the process died more often, without a finished request between, than restarts can mend.
        """
        missing = dict(enumerate(requests))
        policy = worker(self).policy
        assert policy is not None, "load a policy before sampling"
        deaths = 0
        while True:
            numbers = list(missing)
            try:
                worker(self).load(policy, self)
                for place, completions in worker(self).generate([missing[i] for i in numbers], decoding, self.timeout):
                    del missing[numbers[place]]
                    deaths = 0
                    yield numbers[place], completions
                return
            except GeneratorExit:
                close(self)  # what it still sends would answer the next call
                raise
            except EngineDied as error:
                deaths += 1
                self.bury(error, deaths, f"{len(missing)} requests go on")

    def check(self) -> None:
        """Refuse numbers that are out of their range.

        Raises:
            InputError: one is.
        """
        at_least(1, tensor_parallel_size=self.tensor_parallel_size, max_num_seqs=self.max_num_seqs)
        if self.context is not None:
            at_least(1, context=self.context)
        if not (0 < self.gpu_memory_utilization <= 1 and self.kv_cache_gib > 0 and self.timeout > 0):
            raise InputError(
                f"engine: gpu_memory_utilization is {self.gpu_memory_utilization}, kv_cache_gib {self.kv_cache_gib},"
                f" timeout {self.timeout}; give a share up to 1, and numbers above 0"
            )

    def bury(self, error: EngineDied, deaths: int, then: str) -> None:
        """End what is left of a dead engine.

        Raises:
            EngineLostError: it died too often in a row.
        """
        close(self)
        if deaths > RESTARTS:
            raise EngineLostError(
                f"the engine died {deaths} times without a finished request: {error}; {LOG}"
            ) from error
        print(f"engine: {error}; restarted, {then}", file=sys.stderr)


class Worker:
    """The client's end of the engine's process."""

    def __init__(self, devices: str | None, timeout: float) -> None:
        ours, theirs = socket.socketpair()
        limit_waiting(ours, timeout)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "stepneg.sampling.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment(devices),
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno() if "STEPNEG_ENGINE_LOG" in os.environ else subprocess.DEVNULL,
            stderr=None if "STEPNEG_ENGINE_LOG" in os.environ else subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self.pipe = Connection(ours.detach())
        self.policy: Path | None = None
        self.loaded: str | None = None

    def load(self, policy: Path, options: VLLMEngine) -> None:
        """Load a policy unless it is the one loaded."""
        mark = fingerprint_policy(policy)
        self.policy = policy
        if mark == self.loaded:
            return
        self.loaded = None
        self.send({"do": "load", "policy": str(policy.resolve()), "options": asdict(options)})
        self.receive(options.timeout)
        self.loaded = mark

    def generate(
        self, requests: list[Request], decoding: Decoding, timeout: float
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Completions by place in ``requests``."""
        rows = [[r.prompt_ids, r.n, r.seed, r.start] for r in requests]
        self.send({"do": "generate", "requests": rows, "decoding": asdict(decoding)})
        while True:
            message = self.receive(timeout)
            if "done" in message:
                return
            yield message["index"], [Completion(tuple(ids), logp, why) for ids, logp, why in message["completions"]]

    def send(self, message: dict[str, Any]) -> None:
        """Send one message."""
        try:
            self.pipe.send_bytes(json.dumps(message).encode())
        except BlockingIOError as error:
            raise EngineDied("it has stopped reading") from error
        except OSError as error:
            raise EngineDied("its process has ended") from error

    def receive(self, timeout: float) -> dict[str, Any]:
        """The next message; an engine that reports an error, ends or hangs counts as dead."""
        try:
            if not self.pipe.poll(timeout):
                raise EngineDied(f"no sign of life for {timeout:.0f} s")
            message: dict[str, Any] = json.loads(self.pipe.recv_bytes())
        except BlockingIOError as error:
            raise EngineDied(f"no sign of life for {timeout:.0f} s, within a message") from error
        except (EOFError, OSError) as error:
            raise EngineDied("its process has ended") from error
        if "error" in message:
            raise EngineFailed(message["error"])
        return message

    def kill(self) -> None:
        """End the process and all it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.pipe.close()


def limit_waiting(end: socket.socket, timeout: float) -> None:
    """Let reads and writes of a socket fail that wait for longer than ``timeout`` seconds, as for half a message."""
    limit = struct.pack("ll", int(timeout), int(timeout % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        end.setsockopt(socket.SOL_SOCKET, option, limit)


def environment(devices: str | None) -> dict[str, str]:
    """The environment of an engine: this process's, without what its launcher says of it, and with its own GPUs."""
    keep = {k: v for k, v in os.environ.items() if k not in LAUNCHER and not k.startswith(LAUNCHER_PREFIXES)}
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    own = {"VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TOKENIZERS_PARALLELISM": "false"}
    return quiet | keep | own | ({} if devices is None else {"CUDA_VISIBLE_DEVICES": devices})


WORKERS: dict[VLLMEngine, Worker] = {}


def worker(options: VLLMEngine) -> Worker:
    """The process of these options, started at first use."""
    if options not in WORKERS:
        WORKERS[options] = Worker(options.devices, options.timeout)
    return WORKERS[options]


def close(options: VLLMEngine) -> None:
    """End the process of these options, if there is one."""
    if options in WORKERS:
        WORKERS.pop(options).kill()


@atexit.register
def close_all() -> None:
    """End all engines with this process."""
    for options in list(WORKERS):
        close(options)


def leave_device(training: "torch.device") -> None:
    """End the engines that take memory of the device that trains, unless it is a CPU or they have GPUs of their own."""
    if training.type == "cpu":
        return
    for options in [held for held in WORKERS if held.devices is None]:
        close(options)


def make_room(training: "torch.device") -> None:
    """Give back what torch keeps of a GPU for later, before an engine that wants its share of it starts."""
    if training.type == "cuda":
        import torch

        torch.cuda.empty_cache()


def check_policy(policy: Path) -> None:
    """Refuse what is not an HF folder in safetensors.

    Raises:
        InputError: what is missing.
    """
    from stepneg.policy_folder import check_folder  # imports transformers

    check_folder(policy)
    if not list(policy.glob("*.safetensors")):
        raise InputError(
            f"{policy}: no *.safetensors; save the model with save_pretrained (pickled weights are refused)"
        )
