"""Whether a repetition came out as the run did: files, weights bit for bit, metrics, samples."""

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from stepneg.links import below
from stepneg.record import attempts, last_of_verbs, leaves
from stepneg.sampling.store import Sampler

TABLES = ("*.csv", "*.jsonl")  # of studies, predictions and chains; and what was written there by hand
RESULTS = (
    "data/*.jsonl", "data/*.json", "last/*.safetensors", "best/*.safetensors",
    "evaluation/*.json", "evaluation/*.jsonl", "summary.json", *TABLES,
)  # fmt: skip

ROUNDING = 1e-3  # nats, of a whole solution's log-probability in float32


@dataclass(frozen=True)
class Compared:
    """A line of the table: what, in words how it compares, and whether it is the same; None if nothing tells."""

    what: str
    found: str
    same: bool | None


def compare(old: Path, new: Path) -> list[Compared]:
    """Everything that two runs, or the runs of two chains, left behind."""
    rows: list[Compared] = []
    homes = {file.parents[1] for file in below(old, "attempts/*.json")}
    homes |= {file.parent for file in below(old, "*.started")}  # a chain's runs of init and of studies
    for home in sorted(home.relative_to(old) for home in homes):
        if not (new / home).is_dir():  # of a chain that did not end well or is another now, or itself a repetition
            continue
        problems = problems_of(old / home)
        if problems:
            same = problems == problems_of(new / home)
            rows.append(Compared(str(home / "problems"), "equal" if same else "others are loaded now", same))
        data = data_of(old / home)
        for pattern in RESULTS:
            for file in sorted((old / home).glob(pattern)):
                if data is not None and file.parent.name == "data" and f"data/{file.name}" not in data:
                    continue
                name = home / file.relative_to(old / home)
                if pattern in TABLES and not (new / name).exists():  # as of a report, an export
                    rows.append(Compared(str(name), "not of what was repeated", None))
                    continue
                rows.append(Compared(str(name), *compare_files(file, new / name)))
    return [*rows, *compare_samples(old, new)]


def repeatable(home: Path) -> list[dict[str, Any]]:
    """The attempts of a run that a repetition is of: the last of each verb that ended well."""
    return last_of_verbs(attempts(home))


def problems_of(home: Path) -> dict[str, Any]:
    """Fingerprints of the problems that a run's repeatable attempts have loaded."""
    return {attempt["verb"]: attempt["problems"] for attempt in repeatable(home) if "problems" in attempt}


def data_of(home: Path) -> set[str] | None:
    """The files that a run's repeatable attempts list as their data; None without such lists.

    Others in its ``data/`` are of other settings.
    """
    listed = [attempt.get("data") for attempt in repeatable(home)]
    known = [files for files in listed if isinstance(files, dict)]
    return {name for files in known for name in files} if known and len(known) == len(listed) else None


def compare_files(old: Path, new: Path) -> tuple[str, bool]:
    """How two files compare, in words, and whether they are the same but for times."""
    if not new.is_file():
        return "absent", False
    if old.read_bytes() == new.read_bytes():
        return "equal", True
    if old.suffix == ".safetensors":
        return compare_weights(load_file(old), load_file(new))
    first, second = contents(old), contents(new)
    if len(first) != len(second):
        return f"{len(first)} rows then, {len(second)} now", False
    apart = [difference(a, b) for a, b in zip(first, second, strict=True)]
    others = sum(d is None for d in apart)
    if others:
        return f"{others} of {len(apart)} rows differ", False
    largest = max((d for d in apart if d is not None), default=0.0)
    return ("equal", True) if largest == 0 else (f"numbers differ by up to {largest:.1e}", False)


def compare_weights(old: dict[str, torch.Tensor], new: dict[str, torch.Tensor]) -> tuple[str, bool]:
    """Equal in every bit, or the largest difference."""
    shapes = [{name: (w.shape, w.dtype) for name, w in weights.items()} for weights in (old, new)]
    if shapes[0] != shapes[1]:
        return "weights of other names or shapes", False
    # As bytes: a NaN equals itself, and 0 is not -0.
    if all(torch.equal(old[n].flatten().view(torch.uint8), new[n].flatten().view(torch.uint8)) for n in old):
        return "equal", True
    largest = max(float((old[n].double() - new[n].double()).abs().max()) for n in old if old[n].numel())
    return f"weights differ by up to {largest:.1e}", False


def contents(file: Path) -> list[Any]:
    """The rows of a table or of JSON lines, or the one value of a JSON file; without times."""
    with file.open(newline="") as lines:
        if file.suffix == ".csv":
            rows: list[Any] = list(csv.DictReader(lines))
        else:
            rows = [json.loads(line) for line in lines] if file.suffix == ".jsonl" else [json.load(lines)]
    return [without_times(row) for row in rows]


def without_times(value: Any) -> Any:
    """A value without what its keys call seconds, and without what follows from where a run is.

    That is a policy's place, whose fingerprint stands beside it, and the checksum that an evaluation has of itself.
    """
    if isinstance(value, dict):
        kept = [key for key in value if not key.startswith("seconds") and key not in ("policy", "sha256")]
        return {key: without_times(value[key]) for key in kept}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def difference(old: Any, new: Any) -> float | None:
    """The largest difference of numbers in two values; None if anything else differs."""
    first, second = dict(leaves(old)), dict(leaves(new))
    if first.keys() != second.keys():
        return None
    largest = 0.0
    for place, a in first.items():
        if a == (b := second[place]):
            continue
        if not (isinstance(a, float) and isinstance(b, float)):
            return None
        largest = max(largest, abs(a - b))
    return largest


def compare_samples(old: Path, new: Path) -> Iterator[Compared]:
    """The samples that the repetition drew, against what the runs' stores still hold of them.

    Token ids are to be equal. Summed log-probabilities, on which no training rests, may differ in their last digits: an
    engine's kernels round as the batch has it that a request is in.
    """
    stores = {
        place
        for file in below(old, "attempts/*.json")
        for attempt in attempts(file.parents[1])
        for key, text in leaves(attempt["settings"])
        if key.rpartition(".")[2] == "store" and isinstance(text, str)
        for there in [os.path.join(attempt["cwd"], text)]
        for place in (there, os.path.join(file.parents[1], os.path.relpath(there, attempt["home"])))
    }
    drawn = same_tokens = same = known = 0
    apart = 0.0
    for folder in (meta.parent for meta in new.glob("**/meta.json")):
        fresh = {(prompt, index): completion for prompt, index, completion in Sampler(folder).rows()}
        drawn += len(fresh)
        for store in stores:
            for prompt, index, before in Sampler(Path(store) / folder.name).rows({prompt for prompt, _ in fresh}):
                now = fresh.pop((prompt, index), None)
                if now is not None:
                    known += 1
                    same_tokens += before.token_ids == now.token_ids
                    same += before == now
                    if before.logprob is not None and now.logprob is not None:
                        apart = max(apart, abs(before.logprob - now.logprob))
    if drawn and not known:
        yield Compared("samples", f"none of {drawn} is in the runs' stores: nothing to compare", None)
    elif drawn:
        found = f"of {drawn}, {known} are in the runs' stores: {same_tokens} have equal tokens"
        found += f", {same} equal log-probabilities as well; the largest difference of these is {apart:.1g} nats"
        yield Compared("samples", found, same_tokens == known and apart < ROUNDING)


def table(rows: list[Compared]) -> str:
    """The lines in Markdown."""
    signs = {True: "✓", False: "✗", None: "-"}
    lines = [f"| {row.what} | {row.found} | {signs[row.same]} |" for row in rows]
    differ, unknown = (sum(row.same is kind for row in rows) for kind in (False, None))
    said = "everything is the same" if not differ else f"{differ} of {len(rows)} differ"
    if unknown:
        said = f"everything else is the same; {unknown} of {len(rows)}" if not differ else f"{said}, {unknown}"
        said += " had nothing to be compared with"
    return "\n".join(["| what | repeated | |", "|---|---|---|", *lines, "", said])
