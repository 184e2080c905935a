"""The folder of a run while it is written: whose scores are in it, and which of them still count.

A score is used again only when it was made from equal rows and labels by equal code and its files
are those that were written. `run.json` is there before the first score, so that a run that is
killed leaves no scores without the name of their model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from mmembed.errors import ConfigError, DataError
from mmembed.evaluation import metrics, ranking, results, scoring
from mmembed.evaluation.results import TaskResult, write_run_record, write_task_result
from mmembed.store.durable import lock_folder
from mmembed.tasks import Profile

__all__ = ["FORMAT", "RunFolder", "read_run_record", "scorer_sha256"]

FORMAT = "mmembed-run/1"


class RunFolder:
    """Results of one model on one suite under one profile.

    Attributes:
        record: content of `run.json`; empty in a new folder.
        tasks: of the record; name -> hashes of what was scored, of the scorer and of the files.

    Raises:
        ConfigError: it holds results of another suite or profile, or scores of no known run.
    """

    def __init__(self, folder: Path, *, suite: str, profile: Profile, profile_sha256: str) -> None:
        self.folder = folder
        self.record = read_run_record(folder)
        self.tasks: dict[str, dict[str, Any]] = dict(self.record.get("tasks", {}))
        before = self.record
        if before and (before["suite"], before["profile"]["sha256"]) != (suite, profile_sha256):
            raise ConfigError(
                f"{folder} holds results of suite {before['suite']} in the words of profile "
                f"{before['profile']['name']}; give another --out for suite {suite} and profile "
                f"{profile.name}"
            )
        unknown = [path.name for path in self._scores() if path.stem not in self.tasks]
        if unknown:
            raise ConfigError(
                f"{folder}/scores holds {', '.join(unknown[:8])}, of which its run.json does not "
                "speak; give another --out, or delete them"
            )

    def check_space(self, space: str) -> None:
        """Raises ConfigError when the results are those of another model."""
        if self.record and self.record["space"] != space:
            raise ConfigError(
                f"{self.folder} holds results of another model (space {self.record['space'][:16]}, "
                f"this one is {space[:16]}); give another --out"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One run at a time; StoreError for a second one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with lock_folder(self.folder, wait=False):
            yield

    def begin(self, record: dict[str, Any], plan: Mapping[str, str], *, again: bool) -> list[str]:
        """Names of the tasks that are to be scored.

        Args:
            record: of this run, from here on.
            plan: hash of each task of this run.

        Raises:
            ConfigError: a score of another task was changed by somebody.
        """
        for name, entry in list(self.tasks.items()):
            if name not in plan and entry["files"] is None:  # its run was stopped
                (self.folder / "scores" / f"{name}.json").unlink(missing_ok=True)
                del self.tasks[name]
            elif name not in plan and entry["files"] != self._files(name):
                raise ConfigError(
                    f"scores/{name}.json or queries/{name}.jsonl in {self.folder} is not what its "
                    "run wrote; run that task again, or give another --out"
                )
        wanted = [name for name, digest in plan.items() if again or not self._counts(name, digest)]
        self.record = record
        return wanted

    def add(self, digest: str, result: TaskResult) -> None:
        """Write a score, and that it is there; `digest` is the hash of the task in the plan."""
        entry: dict[str, Any] = {"sha256": digest, "scorer": scorer_sha256(), "files": None}
        self.tasks[result.name] = entry
        self.write()  # from here on its old score is none
        write_task_result(self.folder, result)
        entry |= {"missing": len(result.missing), "files": self._files(result.name)}
        self.write()

    def write(self) -> None:
        """Write `run.json`."""
        write_run_record(self.folder, {**self.record, "format": FORMAT, "tasks": self.tasks})

    def _counts(self, name: str, digest: str) -> bool:
        entry = self.tasks.get(name, {})
        same = (entry.get("sha256"), entry.get("scorer")) == (digest, scorer_sha256())
        return same and entry["files"] is not None and entry["files"] == self._files(name)

    def _files(self, name: str) -> str | None:
        digest = hashlib.sha256()
        for place in (f"scores/{name}.json", f"queries/{name}.jsonl"):
            path = self.folder / place
            if not path.is_file():
                return None
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def _scores(self) -> list[Path]:
        return sorted((self.folder / "scores").glob("*.json"))


def read_run_record(folder: Path) -> dict[str, Any]:
    """`run.json`; empty when there is none.

    Raises:
        DataError: damaged, or of another format.
    """
    path = folder / "run.json"
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise DataError(f"{path} is no record of this version ({FORMAT})")
    return record


@cache
def scorer_sha256() -> str:
    """Of the code that makes scores: 64 hex digits that change with any of it."""
    digest = hashlib.sha256()
    for module in (metrics, ranking, scoring, results):
        assert module.__file__ is not None
        digest.update(hashlib.sha256(Path(module.__file__).read_bytes()).digest())
    return digest.hexdigest()
