"""The sample store: append-only, addressed by content, safe against crashes and many writers.

``ROOT/SAMPLER/meta.json`` says what a sampler is (policy, decoding, seed); its samples are in JSONL shards beside it.
Each writer appends to a shard of its own, a line a finished sample with a checksum; a line that is torn or damaged
is not a sample. pandas and datasets open a shard as it is. A shard that its writer has closed has a list of its prompts
beside it, by which a reader of other prompts passes it over.
"""

import hashlib
import json
import os
import re
import socket
import uuid
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from stepneg.errors import InputError
from stepneg.reading import byte_lines, json_object
from stepneg.sampling.engine import Completion, Decoding, Ids
from stepneg.whole import named, write_whole

MOST_SAMPLES = 1 << 24  # of a prompt
LARGEST_ID = 1 << 31  # of a token
RECORD = "stepneg.json"  # what an exported policy's folder says of itself: prompt template and fingerprint
POLICY_FILES = ("*.safetensors", "config.json", "generation_config.json", "tokenizer*", "vocab*", "merges.txt")


def fingerprint_policy(folder: Path) -> str:
    """sha256 over weights, configuration and tokenizer of an HF folder."""
    found = fingerprint_files(sorted({file for pattern in POLICY_FILES for file in folder.glob(pattern)}))
    check_export(folder, found)
    return found


def exported(policy: Path) -> str | None:
    """The fingerprint that an exported policy says of itself; None if it says none."""
    try:
        said = json.loads((policy / RECORD).read_bytes())["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return said if isinstance(said, str) else None


def fingerprint_files(files: Iterable[Path]) -> str:
    """sha256 over names and contents of files; hashed once while they stay as they are."""
    # The inode and the time of its change, which no program can set, tell files apart whose clock was set back.
    stats = [(str(f), f.stat()) for f in files]
    return _hash_files(tuple((name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for name, s in stats))


@lru_cache(maxsize=256)
def _hash_files(files: tuple[tuple[str, int, int, int, int], ...]) -> str:
    """sha256 over names and contents; sizes, times and inodes are there for the cache."""
    digest = hashlib.sha256()
    for name, *_ in files:
        digest.update(Path(name).name.encode())
        with open(name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def check_export(folder: Path, found: str) -> None:
    """Hold a policy's fingerprint against the one that its export has written beside it, if it has.

    Raises:
        InputError: they differ.
    """
    try:
        said = json.loads((folder / RECORD).read_bytes()).get("fingerprint")
    except (
        OSError,
        ValueError,
        AttributeError,
        RecursionError,
    ):  # of another origin; a damaged template is another's to tell
        return
    if said not in (None, found):
        raise InputError(
            f"{folder}: its weights, configuration or tokenizer were changed or damaged since the export; delete it and"
            " run its fit again, which exports it from its checkpoint (if they were changed on purpose, take"
            f' "fingerprint" out of {folder / RECORD})'
        )


def prompt_key(prompt_ids: Ids) -> str:
    """What names a prompt in the store."""
    return hashlib.sha256(json.dumps(list(prompt_ids)).encode()).hexdigest()[:24]


def checksum(row: dict[str, Any]) -> int:
    """CRC-32 of a row without its ``crc``."""
    return zlib.crc32(json.dumps({k: v for k, v in row.items() if k != "crc"}, sort_keys=True).encode())


# A line as it is written. The checksum is of the same parts with sorted keys, so they need not be parsed to check it.
LINE = re.compile(
    rb'{"prompt": "([^"\\]*)", "index": (\d+), "token_ids": \[([\d, ]*)\], "logprob": ([^,"]+),'
    rb' "finish_reason": "([^"\\]*)", "crc": (\d+)}\n'
)
HEAD = b'{"prompt": "%b",'
SORTED = b'{"finish_reason": "%b", "index": %b, "logprob": %b, "prompt": "%b", "token_ids": [%b]}'


def line(prompt: str, index: int, completion: Completion) -> str:
    """A sample as a line, with its newline."""
    values = {"prompt": prompt, "index": index} | vars(completion)
    parts = {name: json.dumps(value) for name, value in values.items()}
    crc = zlib.crc32(joined(sorted(parts.items())).encode())
    return joined([*parts.items(), ("crc", str(crc))]) + "\n"


def joined(parts: Iterable[tuple[str, str]]) -> str:
    """JSON of names with values that are JSON already."""
    return "{" + ", ".join(f'"{name}": {value}' for name, value in parts) + "}"


def rows_of(shard: Path, prompts: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
    """The undamaged rows of a shard, one in memory at a time; what follows the last newline is torn and left out.

    Args:
        shard: the file.
        prompts: only rows of these (by :func:`prompt_key`); None for all.
    """
    heads = None if prompts is None else {HEAD % prompt.encode() for prompt in prompts}
    for _, data in byte_lines(shard):
        # What is not asked for need not be checked.
        if heads is not None and data.startswith(HEAD[:10]) and data[: data.find(b",") + 1] not in heads:
            continue
        row = read_line(data)
        if row is not None and (prompts is None or row["prompt"] in prompts):
            yield row


def read_line(data: bytes) -> dict[str, Any] | None:
    """A row; None for a line that is torn or damaged, or whose values are none of a sample."""
    parts = LINE.fullmatch(data)
    try:
        if parts is None:  # not as it is written here: JSON of another writer, or damaged
            row = json.loads(data) if data.endswith(b"\n") else {}
            return row if row["crc"] == checksum(row) and is_sample(row) else None
        prompt, index, ids, logp, reason, crc = parts.groups()
        whole = zlib.crc32(SORTED % (reason, index, logp, prompt, ids)) == int(crc)
        row = json.loads(data) if whole else None
        return row if row is not None and is_sample(row) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def is_sample(row: dict[str, Any]) -> bool:
    """Whether the values of a row can be those of a sample: a prepared line has a checksum that fits, too."""
    index, ids = row["index"], row["token_ids"]
    return (
        type(index) is int
        and 0 <= index < MOST_SAMPLES
        and isinstance(ids, list)
        and set(map(type, ids)) <= {int}
        and (not ids or (min(ids) >= 0 and max(ids) < LARGEST_ID))
        and isinstance(row["prompt"], str)
        and (row["logprob"] is None or type(row["logprob"]) in (int, float))
        and isinstance(row["finish_reason"], str)
    )


def contents(shard: Path) -> Path:
    """Where a shard's list of prompts is."""
    return shard.with_suffix(".prompts")


def lacks(shard: Path, prompts: Collection[str]) -> bool:
    """Whether a shard is known to hold none of the prompts; nothing is known of one that is not as its list says.

    A damaged list is none.
    """
    try:
        said = json.loads(contents(shard).read_bytes())
        whole = said["crc"] == checksum(said) and said["bytes"] == shard.stat().st_size
        return whole and not any(prompt in prompts for prompt in said["prompts"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


class Sampler:
    """The samples of one policy under one decoding and seed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids: dict[int, int] = {}  # one object for each token id that is kept: a fifth of the memory

    def rows(self, prompts: Collection[str] | None = None) -> Iterator[tuple[str, int, Completion]]:
        """Prompt (by :func:`prompt_key`), index and completion of each sample, the first of equal keys only.

        A bit a sample is kept in memory.

        Args:
            prompts: only of these; None for all.
        """
        seen: dict[str, bytearray] = {}
        prompts = None if prompts is None else set(prompts)
        for shard in sorted(file for file in self.folder.glob("*.jsonl") if file.is_file()):
            if prompts is not None and lacks(shard, prompts):
                continue
            for row in rows_of(shard, prompts):
                prompt, index = row["prompt"], row["index"]
                if mark(seen.setdefault(prompt, bytearray()), index):
                    yield prompt, index, Completion(tuple(row["token_ids"]), row["logprob"], row["finish_reason"])

    def read(self, prompts: Collection[str]) -> dict[str, dict[int, Completion]]:
        """Stored completions of the prompts (by :func:`prompt_key`), by index."""
        found: dict[str, dict[int, Completion]] = {}
        for prompt, index, completion in self.rows(prompts):
            ids = tuple(map(self.ids.setdefault, completion.token_ids, completion.token_ids))
            found.setdefault(prompt, {})[index] = replace(completion, token_ids=ids)
        return found


def mark(bits: bytearray, index: int) -> bool:
    """Set a bit; whether it was not set before."""
    place, bit = index >> 3, 1 << (index & 7)
    if place >= len(bits):
        bits.extend(bytes(place + 1 - len(bits)))
    new = not bits[place] & bit
    bits[place] |= bit
    return new


class Writer:
    """Appends samples to a shard of its own; a sample is safe once ``add`` returns."""

    def __init__(self, folder: Path) -> None:
        self.shard = folder / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self.prompts: dict[str, None] = {}
        self.file = os.open(self.shard, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def add(self, prompt: str, start: int, completions: Sequence[Completion]) -> None:
        """Append the completions ``start``, ``start + 1``, ... of a prompt in one write."""
        self.prompts[prompt] = None  # before its rows: a list may name too many, never too few
        data = "".join(line(prompt, index, done) for index, done in enumerate(completions, start)).encode()
        with named(self.shard):
            while data:
                data = data[os.write(self.file, data) :]

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            with named(self.shard):
                os.fsync(self.file)
            said = {"bytes": os.fstat(self.file).st_size, "prompts": list(self.prompts)}
        finally:
            os.close(self.file)
        with suppress(OSError):  # without the list, readers look into the shard
            write_whole(contents(self.shard), json.dumps(said | {"crc": checksum(said)}))


OF_A_SAMPLER = ("policy", "decoding", "seed")


def name_of(meta: Mapping[str, Any]) -> str:
    """The name of a sampler's folder, by what it is."""
    told = {key: meta[key] for key in OF_A_SAMPLER}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def read_meta(folder: Path) -> dict[str, Any]:
    """What a sampler is.

    Raises:
        InputError: its file cannot be read, or is not what the folder has its name from.
    """
    file, mend = folder / "meta.json", "delete it, and what samples next under these settings writes it again"
    meta = json_object(file, mend)
    if not meta.keys() >= set(OF_A_SAMPLER) or name_of(meta) != folder.name:
        raise InputError(f"{file}: was changed or damaged since it was written; {mend}")
    return meta


class SampleStore:
    """A folder of samplers."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def sampler(self, policy: Path, decoding: Decoding, seed: int) -> Sampler:
        """The samples of a policy's content (not its place), made if they are new."""
        meta = {"policy": fingerprint_policy(policy), "decoding": asdict(decoding), "seed": seed}
        folder = self.root / name_of(meta)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "meta.json").exists():
            write_whole(folder / "meta.json", json.dumps(meta | {"first_seen_at": str(policy)}, indent=1))
        return Sampler(folder)
