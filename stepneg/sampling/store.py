"""The sample store: append-only, addressed by content, safe against crashes and many writers.

``ROOT/SAMPLER/meta.json`` says what a sampler is (policy, decoding, seed); its samples are in JSONL shards beside it.
Each writer appends to a shard of its own, a line a finished sample with a checksum; a line that is torn or damaged
is not a sample. pandas and datasets open a shard as it is.
"""

import hashlib
import json
import os
import socket
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from stepneg.sampling.engine import Completion, Decoding, Ids

POLICY_FILES = ("*.safetensors", "config.json", "generation_config.json", "tokenizer*", "vocab*", "merges.txt")


def fingerprint_policy(folder: Path) -> str:
    """sha256 over weights, configuration and tokenizer of an HF folder."""
    files = sorted({file for pattern in POLICY_FILES for file in folder.glob(pattern)})
    return _hash_files(tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files))


@lru_cache(maxsize=256)
def _hash_files(files: tuple[tuple[str, int, int], ...]) -> str:
    """sha256 over names and contents; size and time are there for the cache."""
    digest = hashlib.sha256()
    for name, _, _ in files:
        digest.update(Path(name).name.encode())
        with open(name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def prompt_key(prompt_ids: Ids) -> str:
    """What names a prompt in the store."""
    return hashlib.sha256(json.dumps(list(prompt_ids)).encode()).hexdigest()[:24]


def checksum(row: dict[str, Any]) -> int:
    """CRC-32 of a row without its ``crc``."""
    return zlib.crc32(json.dumps({k: v for k, v in row.items() if k != "crc"}, sort_keys=True).encode())


def rows_of(shard: Path) -> Iterator[dict[str, Any]]:
    """The undamaged rows of a shard; what follows the last newline is torn and left out."""
    for line in shard.read_bytes().split(b"\n")[:-1]:
        try:
            row = json.loads(line)
            if row["crc"] == checksum(row):
                yield row
        except (ValueError, KeyError, TypeError):
            continue


class Sampler:
    """The samples of one policy under one decoding and seed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, prompts: set[str]) -> dict[str, dict[int, Completion]]:
        """Stored completions of the prompts (by :func:`prompt_key`), by index. The first of equal keys counts."""
        found: dict[str, dict[int, Completion]] = {}
        for shard in sorted(self.folder.glob("*.jsonl")):
            for row in rows_of(shard):
                if row["prompt"] in prompts:
                    completion = Completion(tuple(row["token_ids"]), row["logprob"], row["finish_reason"])
                    found.setdefault(row["prompt"], {}).setdefault(row["index"], completion)
        return found


class Writer:
    """Appends samples to a shard of its own; a sample is safe once ``add`` returns."""

    def __init__(self, folder: Path) -> None:
        name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self.file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def add(self, prompt: str, start: int, completions: list[Completion]) -> None:
        """Append the completions ``start``, ``start + 1``, ... of a prompt in one write."""
        lines = []
        for index, completion in enumerate(completions, start):
            row = {"prompt": prompt, "index": index} | asdict(completion)
            row["token_ids"] = list(completion.token_ids)
            lines.append(json.dumps(row | {"crc": checksum(row)}))
        data = ("\n".join(lines) + "\n").encode()
        while data:
            data = data[os.write(self.file, data) :]

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.fsync(self.file)
        os.close(self.file)


class SampleStore:
    """A folder of samplers."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def sampler(self, policy: Path, decoding: Decoding, seed: int) -> Sampler:
        """The samples of a policy's content (not its place), made if they are new."""
        meta = {"policy": fingerprint_policy(policy), "decoding": asdict(decoding), "seed": seed}
        name = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()[:16]
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "meta.json").exists():
            partial = folder / f".meta-{uuid.uuid4().hex}"
            partial.write_text(json.dumps(meta | {"first_seen_at": str(policy)}, indent=1))
            partial.replace(folder / "meta.json")
        return Sampler(folder)
