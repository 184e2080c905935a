"""Tables of a downloaded hub repository: which files they are, and their rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmembed.errors import DataError, MissingDependencyError
from mmembed.tables.content import check_content, damaged

__all__ = ["find_table", "read_rows", "repository_folders"]

_SUFFIXES = (".parquet", ".jsonl", ".json", ".arrow")
# Rows and bytes read at a time: a row of a corpus may hold a page of a megabyte.
_BATCH = 16
_BUFFER = 1 << 20
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.(?:parquet|arrow)$")


def repository_folders(root: Path, repo: str) -> list[Path]:
    """Where the snapshot of a hub repository may lie below a folder of downloads, best first.

    `root/owner/name`, `root/name`, or the hub's cache format with one snapshot.
    """
    owner, _, name = repo.rpartition("/")
    folders = [root / repo, root / name]
    snapshots = root / f"datasets--{owner}--{name}" / "snapshots"
    found = sorted(snapshots.iterdir()) if snapshots.is_dir() else []
    return [*dict.fromkeys(folders), *(found if len(found) == 1 else ())]


def find_table(folder: Path, config: str, split: str) -> list[Path]:
    """The files of one split, in order; [] when there are none.

    Raises:
        DataError: some shards of a table are there and others are not.
    """
    if not folder.is_dir():
        return []
    for files in _candidates(folder, config, split):
        if files:
            _check_shards(files)
            return files
    return []


def _candidates(folder: Path, config: str, split: str) -> Iterator[list[Path]]:
    yield _declared(folder, config, split)
    names = [config] if config else ["default", ""]
    for base in [folder / name if name else folder for name in names]:
        yield _saved_to_disk(base / split)
        if (base / "state.json").is_file():
            yield _saved_to_disk(base)
        yield _matching(base, f"{split}-*.parquet")
        yield _matching(base / split, "*.parquet")
        yield from ([file] for file in _existing(base, split))
    data = folder / "data"
    if config:
        yield _matching(data / config, f"{split}-*.parquet")
        yield _matching(folder, f"{config}-{split}-*.parquet")
        for parent in (folder, data, folder / "json"):
            yield from ([file] for file in _existing(parent, config))
    else:
        yield _matching(data, f"{split}-*.parquet")
        yield from ([file] for file in _existing(data, split))


def _matching(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def _existing(folder: Path, stem: str) -> Iterator[Path]:
    return filter(Path.is_file, (folder / f"{stem}{suffix}" for suffix in _SUFFIXES))


def _saved_to_disk(folder: Path) -> list[Path]:
    """The arrow files of a folder written by `datasets.save_to_disk`, as its state names them."""
    state = folder / "state.json"
    if not state.is_file():
        return []
    content = _parse(state, _text_of(state))
    try:
        files = [folder / Path(entry["filename"]).name for entry in content["_data_files"]]
    except (KeyError, TypeError):
        raise DataError(f"{state} does not list the files of a saved dataset") from None
    absent = [str(file) for file in files if not file.is_file()]
    if absent:
        raise DataError(f"{state} names files that are not there: {', '.join(absent)}")
    return files


def _declared(folder: Path, config: str, split: str) -> list[Path]:
    """The files that the `configs:` of README.md name for this split."""
    readme = folder / "README.md"
    if not readme.is_file():
        return []
    head = re.match(r"---\r?\n(.*?)\r?\n---", _text_of(readme), re.DOTALL)
    try:
        fields = yaml.safe_load(head.group(1)) if head else None
    except yaml.YAMLError:
        return []
    listed = fields.get("configs") if isinstance(fields, dict) else None
    configs = [c for c in listed if isinstance(c, dict)] if isinstance(listed, list) else []
    for entry in configs:
        name = str(entry.get("config_name", "default"))
        if name == config or (not config and (len(configs) == 1 or name == "default")):
            patterns = _patterns(entry.get("data_files"), split)
            if any(".." in pattern or pattern.startswith("/") for pattern in patterns):
                raise DataError(f"{readme} names files outside its folder: {patterns}")
            return [file for pattern in patterns for file in _matching(folder, pattern)]
    return []


def _patterns(declared: Any, split: str) -> list[str]:
    """`data_files` is a pattern, a list of them (both mean `train`), or a list by split."""
    if isinstance(declared, str):
        declared = [declared]
    patterns: list[str] = []
    for entry in declared or []:
        here = entry if isinstance(entry, dict) else {"split": "train", "path": entry}
        if str(here.get("split")) == split:
            path = here.get("path") or []
            patterns += [path] if isinstance(path, str) else list(map(str, path))
    return patterns


def _check_shards(files: Sequence[Path]) -> None:
    numbered = [(file, match) for file in files if (match := _SHARD.search(file.name))]
    totals = {(file.parent, file.name[: match.start()], match.group(2)) for file, match in numbered}
    if len({total[:2] for total in totals}) < len(totals):
        raise DataError(
            f"{files[0].parent} has the shards of two tables: "
            f"{', '.join(file.name for file in files[:10])}. Delete those of the older download."
        )
    for file, match in numbered:
        total = int(match.group(2))
        stem = file.name[: match.start()]
        wanted = [f"{stem}-{n:05}-of-{total:05}{file.suffix}" for n in range(total)]
        absent = [name for name in wanted if not (file.parent / name).is_file()]
        if absent:
            raise DataError(
                f"{file.parent}: shards of a table are missing: {', '.join(absent)}. Download it "
                "again.",
                missing=absent,
            )


def read_rows(file: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of one file, with these columns or all, a few at a time.

    Raises:
        DataError: the file is damaged, or a column is not there.
    """
    check_content(file)
    rows = _json_rows(file) if file.suffix in (".jsonl", ".json") else _arrow_rows(file, columns)
    for number, row in enumerate(rows):
        if columns is None:
            yield row
            continue
        absent = [column for column in columns if column not in row]
        if absent:
            raise _no_column(file, number, absent, row)
        yield {column: row[column] for column in columns}


def _no_column(file: Path, number: int, absent: Sequence[str], found: Iterable[str]) -> DataError:
    return DataError(f"{file}: row {number} has no {', '.join(absent)}; it has {', '.join(found)}")


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8: {error}") from None


def _json_rows(file: Path) -> list[dict[str, Any]]:
    text = _text_of(file)
    if file.suffix == ".json":
        rows = _parse(file, text)
    else:
        # Not splitlines: captions hold other characters that it takes for line breaks.
        lines = text.split("\n")
        rows = [_parse(file, line, n) for n, line in enumerate(lines, 1) if line.strip()]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file}: expected a list of objects")
    return rows


def _parse(file: Path, text: str, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f"{file}, line {line}" if line else str(file)
        raise DataError(f"{where}: not JSON: {error}") from None


def _arrow_rows(file: Path, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingDependencyError("pyarrow", "evaluation") from None
    try:
        if file.suffix == ".parquet":
            with pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False) as table:
                _check_columns(file, table.schema_arrow.names, columns)
                for batch in table.iter_batches(_BATCH, columns=columns and list(columns)):
                    yield from batch.to_pylist()
        else:
            with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
                for batch in stream:
                    yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, error) from None


def _check_columns(file: Path, names: Sequence[str], columns: Sequence[str] | None) -> None:
    absent = [column for column in columns or () if column not in names]
    if absent:
        raise _no_column(file, 0, absent, names)
