"""The list of what is not in an index and why: `errors.jsonl`, one object a line.

Written by `corpus.index_folder` at each commit. It holds the failures of all folders of an index;
a run replaces those of its own folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmembed.search.summary import Failure
from mmembed.store.durable import write_atomically

__all__ = ["local_folder", "read_errors", "update_errors"]

_LOCAL = re.compile(r"(?:(?:numpy|lance):)?(?!//|[a-z][a-z0-9+.-]+:)(.+)", re.DOTALL)


def local_folder(uri: str) -> Path | None:
    """The folder of an index on this machine; None of one that is elsewhere or in memory."""
    found = _LOCAL.fullmatch(uri)
    return Path(found[1]) if found else None


def read_errors(path: Path) -> list[Failure]:
    """The failures of a list; none where there is no list, or a damaged one."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        values: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [Failure(**value) for value in values]
    except (OSError, ValueError, TypeError):
        return []


def update_errors(path: Path, root: Path, failures: Sequence[Failure]) -> None:
    """Replace the failures of files below `root`."""
    others = [each for each in read_errors(path) if not Path(each.path).is_relative_to(root)]
    lines = [json.dumps(asdict(each)) + "\n" for each in (*others, *failures)]
    write_atomically(path, "".join(lines).encode("ascii"))
