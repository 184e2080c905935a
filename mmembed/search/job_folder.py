"""What a large encode job leaves on disk, and how it goes on after whatever stopped it.

    job.json          what the rows are: model, settings, sources, and where each shard begins
    manifest.jsonl    one line for each finished shard: its rows, files and their sha256
    shards/           000000.npy and 000000.npy.ids.jsonl, ..., or 000000.parquet, ...
    errors/           000000.npy.errors.jsonl, where items failed
    errors.jsonl      all items that failed, in order

A shard counts from the moment its manifest line is on disk. Workers write to staged/; whoever holds
the folder's lock moves a finished shard to its name and then appends the line, so a worker that
outlives its job changes nothing. Concatenated by number, the shards have every row of the sources
exactly once, in order.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from mmembed.config.validation import StrictModel
from mmembed.encoder.head import Precision
from mmembed.errors import ConfigError, StoreError
from mmembed.search.item_sources import Plan
from mmembed.search.vector_files import import_pyarrow
from mmembed.store.content import hash_file
from mmembed.store.durable import (
    dump_record,
    parse_record,
    read_record,
    sync_folder,
    write_atomically,
)
from mmembed.store.vectors import check_space
from mmembed.types import Role

__all__ = ["JobFolder", "JobSettings", "VectorShard", "read_vectors", "stage_files", "verify_job"]

_FORMAT = "mmembed-job/1"


class JobSettings(StrictModel):
    """What decides the rows of a job; the same for all its runs.

    Attributes:
        on_error: a job begun with `raise` may go on with another; it has no failed rows yet.
        format: `npy` can be mapped into memory; `parquet` is one table with ids and vectors.
    """

    role: Role = "document"
    instruction: str | None = None
    truncate_dim: int | None = Field(default=None, ge=1)
    precision: Precision = "float32"
    on_error: Literal["raise", "null", "skip"] = "raise"
    shard_rows: int = Field(default=2048, ge=1, le=1_000_000)
    format: Literal["npy", "parquet"] = "npy"


class JobFolder:
    """The folder of one job. Writing needs its lock (`durable.lock_folder`).

    Attributes:
        settings, plan, space: None before the job was begun; space is (fingerprint, dimension).
        begun_with: the space of `begin`; None before.
        committed: manifest record of each finished shard.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: JobSettings | None = None
        self.plan: Plan | None = None
        self.space: tuple[str, int] | None = None
        self.begun_with: tuple[str, int] | None = None
        self.committed: dict[int, dict[str, Any]] = {}
        self.torn_bytes = 0
        self._manifest = folder / "manifest.jsonl"
        if (folder / "job.json").exists():
            header = read_record(folder / "job.json", _FORMAT)
            self.settings = JobSettings(**header["settings"])
            self.plan = Plan(**header["plan"])
            self.space = (header["fingerprint"], header["dimension"])
            self._read_manifest()
        elif folder.exists():
            strange = sorted(path.name for path in folder.iterdir() if not _own(path))
            if strange:
                raise ConfigError(
                    f"{folder} has other files in it ({', '.join(strange[:3])}) and no job.json; "
                    "give an --out that is new or empty"
                )

    def prepare(self) -> None:
        """Make room for workers, and remove what those of an earlier run left."""
        for name in ("shards", "errors"):
            (self.folder / name).mkdir(exist_ok=True)
        shutil.rmtree(self.folder / "staged", ignore_errors=True)
        (self.folder / "staged").mkdir(exist_ok=True)  # a worker of another run may still write

    def begin(self, settings: JobSettings, plan: Plan, space: tuple[str, int]) -> None:
        """Take up the job, for the first time or again.

        Raises:
            SpaceMismatchError: it was begun with another model.
        """
        if self.space is not None:
            check_space(f"the job {self.folder}", self.space, space)
        if self.space is None or settings != self.settings:
            self._manifest.touch()
            header = {
                "format": _FORMAT,
                "fingerprint": space[0],
                "dimension": space[1],
                "settings": settings.model_dump(mode="json"),
                "plan": plan.model_dump(mode="json"),
            }
            write_atomically(self.folder / "job.json", dump_record(header) + b"\n")
        self.settings, self.plan, self.space = settings, plan, space
        self.begun_with = space

    def check_settings(self, given: JobSettings) -> None:
        """Refuse settings that would make other rows. Raises StoreError naming the first."""
        assert self.settings is not None
        for name in JobSettings.model_fields:
            stored, new = getattr(self.settings, name), getattr(given, name)
            if stored != new and not (name == "on_error" and stored == "raise"):
                raise StoreError(
                    f"{self.folder} was begun with {name} {stored!r}; this command has {new!r}. "
                    "Give the same, or encode into another --out"
                )

    def commit(self, record: Mapping[str, Any], token: str) -> None:
        """Make a shard that a worker staged under `token` part of the job; on disk at return."""
        for name in record["files"]:
            (self.folder / "staged" / f"{token}-{name}").replace(self.folder / _place(name))
        for name in ("shards", "errors"):
            sync_folder(self.folder / name)
        with self._manifest.open("ab") as file:
            if self.torn_bytes:  # the tail of a killed writer
                file.truncate(file.tell() - self.torn_bytes)
                self.torn_bytes = 0
            file.write(dump_record(record) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.committed[record["shard"]] = dict(record)

    def write_errors(self) -> None:
        """Bring errors.jsonl up to date: files that gave no items, then items that failed."""
        assert self.plan is not None
        temporary = self.folder / ".tmp-errors.jsonl"
        with temporary.open("wb") as file:
            for each in self.plan.unusable:
                file.write(json.dumps({"item": None, **each.model_dump()}).encode() + b"\n")
            for path in self._files(".errors.jsonl"):
                file.write(path.read_bytes())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.folder / "errors.jsonl")

    @property
    def failed(self) -> int:
        """Items and files that have no vector."""
        unusable = len(self.plan.unusable) if self.plan is not None else 0
        return unusable + sum(record["failed"] for record in self.committed.values())

    def shards(self) -> Iterator[VectorShard]:
        """The finished shards in order."""
        for number in sorted(self.committed):
            record = self.committed[number]
            names = {Path(name).suffix: self.folder / _place(name) for name in record["files"]}
            if ".parquet" in names:
                yield VectorShard(number, record["first"], *_read_parquet(names[".parquet"]))
                continue
            vectors = np.load(names[".npy"], mmap_mode="r", allow_pickle=False)
            ids = names[".npy"].with_name(f"{names['.npy'].name}.ids.jsonl")
            lines = ids.read_text("ascii").splitlines() if len(vectors) else []
            entries = [json.loads(line) for line in lines]
            ok = np.array([entry["ok"] for entry in entries], dtype=bool)
            yield VectorShard(
                number, record["first"], [entry["id"] for entry in entries], ok, vectors
            )

    def problems(self) -> list[str]:
        """Read every byte again; one sentence for each thing that is wrong."""
        assert self.plan is not None and self.settings is not None
        found = []
        for number in sorted(self.committed):
            record = self.committed[number]
            for name, (size, sha256) in record["files"].items():
                path = self.folder / _place(name)
                if not path.is_file():
                    found.append(f"{_place(name)} is missing")
                elif path.stat().st_size != size or hash_file(path) != sha256:
                    found.append(f"{_place(name)}: the bytes are not those that were written")
        missing = len(self.plan.ranges) - len(self.committed)
        if missing:
            found.append(
                f"{missing:,} of {len(self.plan.ranges):,} shards are not encoded yet; run the "
                "same `mmembed encode` again"
            )
        if self.torn_bytes:
            found.append(
                f"manifest.jsonl: {self.torn_bytes:,} bytes behind the last finished shard, left "
                "by a write that was cut; the next run removes them"
            )
        expected = {shard.index: (shard.first, shard.rows) for shard in self.plan.shards}
        for number, record in sorted(self.committed.items()):
            if (record["first"], record["rows"]) != expected.get(number):
                found.append(f"manifest.jsonl: the rows of shard {number} are not those of the job")
            lost = 0 if self.settings.on_error == "null" else record["failed"]
            if record["written"] + lost != record["rows"]:
                found.append(f"manifest.jsonl: shard {number} does not have all of its rows")
        return found

    def _files(self, ending: str) -> Iterator[Path]:
        for number in sorted(self.committed):
            for name in self.committed[number]["files"]:
                if name.endswith(ending):
                    yield self.folder / _place(name)

    def _read_manifest(self) -> None:
        payload = self._manifest.read_bytes() if self._manifest.exists() else b""
        # A last line without its newline is an append that was cut: not committed.
        end = payload.rfind(b"\n") + 1
        self.torn_bytes = len(payload) - end
        for number, line in enumerate(payload[:end].split(b"\n")[:-1], 1):
            record = parse_record(line)
            if record is None or record["shard"] in self.committed:
                raise StoreError(
                    f"{self._manifest}: line {number} is damaged. Delete the line: its shard will "
                    "be encoded again"
                )
            self.committed[record["shard"]] = record


@dataclass(frozen=True)
class VectorShard:
    """Rows of a job.

    Attributes:
        first: number of its first item among those of all shards.
        ok: (n,) False where an item failed; its vector is NaN.
        vectors: (n, D); read-only and mapped into memory where the format is npy.
    """

    number: int
    first: int
    ids: list[str]
    ok: np.ndarray
    vectors: np.ndarray


def read_vectors(folder: Path | str) -> Iterator[VectorShard]:
    """The finished shards of a job, in the order of its sources, one at a time.

    Raises:
        StoreError: not the folder of a job, or damaged; `verify_job` says more.
    """
    job = _opened(folder)
    return job.shards()


def verify_job(folder: Path | str) -> tuple[str, list[str]]:
    """(a sentence about the job, one sentence for each thing that is wrong)."""
    job = _opened(folder)
    assert job.plan is not None and job.space is not None
    rows = sum(record["rows"] for record in job.committed.values())
    return (
        f"{folder}: {len(job.committed):,} of {len(job.plan.ranges):,} shards, {rows:,} of "
        f"{job.plan.num_rows:,} rows, {job.failed:,} failed, {job.space[1]} dimensions",
        job.problems(),
    )


def stage_files(folder: Path, token: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Write the files of a shard for `JobFolder.commit`: name -> [bytes, sha256]; none empty."""
    kept = {name: payload for name, payload in files.items() if payload}
    for name, payload in kept.items():
        write_atomically(folder / "staged" / f"{token}-{name}", payload)
    return {
        name: [len(payload), hashlib.sha256(payload).hexdigest()] for name, payload in kept.items()
    }


def _place(name: str) -> str:
    """Where in the job a file of a shard is; readers of tables want nothing else beside them."""
    return f"{'errors' if name.endswith('.errors.jsonl') else 'shards'}/{name}"


def _own(path: Path) -> bool:
    """Whether a job that was stopped before its job.json may have left this."""
    if path.name == "manifest.jsonl":
        return not path.stat().st_size
    return path.name in ("shards", "errors", "staged") or path.name.startswith(
        (".lock", ".tmp-", "listing-")
    )


def _opened(folder: Path | str) -> JobFolder:
    if not (Path(folder) / "job.json").is_file():
        raise ConfigError(f"{folder} is not the folder of an encode job: job.json is missing")
    return JobFolder(Path(folder))


def _read_parquet(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    import_pyarrow()
    import pyarrow.parquet as parquet

    table = parquet.read_table(path)
    vectors = table["vector"].combine_chunks()
    ok = np.array(vectors.is_valid())
    width = vectors.type.list_size
    values = vectors.values.to_numpy(zero_copy_only=False).reshape(-1, width).copy()
    if values.dtype.kind == "f":
        values[~ok] = np.nan
    return table["id"].to_pylist(), ok, values
