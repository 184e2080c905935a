"""A task as plain JSON with short names for media, and the goldens made of it.

`python -m tests.data_adapters.mmeb.described` writes the goldens anew; review the difference.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from data_adapters.mmeb.catalog import load_entries
from data_adapters.mmeb.suite import MMEB
from mmembed.evaluation.profiles import load_profile
from mmembed.tasks import RetrievalTask
from mmembed.types import Image, MultimodalInput, Part, Text, Video
from tests.data_adapters.mmeb.video_data import write_video_data
from tests.data_adapters.mmeb.visdoc_data import write_visdoc_data

GOLDEN = Path(__file__).parents[2] / "golden"
PROFILES = ("rzen", "vlm2vec", "qwen3vl")
SHOWN = 20


def described(task: RetrievalTask, root: Path) -> dict[str, Any]:
    """Queries, corpus, relevance and pools; of a long corpus the size and a hash."""
    corpus: Any = {name: _item(item, root) for name, item in task.corpus.items()}
    if len(corpus) > SHOWN:
        whole = json.dumps(corpus, sort_keys=True).encode("ascii")
        corpus = f"{len(corpus)} items, sha256 {hashlib.sha256(whole).hexdigest()[:16]}"
    found: dict[str, Any] = {
        "queries": {name: _item(item, root) for name, item in task.queries.items()},
        "corpus": corpus,
        "relevant": {name: dict(grades) for name, grades in task.relevant.items()},
    }
    if task.pools is not None:
        found["pools"] = {name: list(pool) for name, pool in task.pools.items()}
    return found


def _item(item: MultimodalInput, root: Path) -> list[Any]:
    """The instruction, then the parts."""
    return [item.instruction, *(_part(part, root) for part in item.parts)]


def _part(part: Part, root: Path) -> Any:
    if isinstance(part, Text):
        return part.text
    if isinstance(part, Image):
        source = part.source
        return {"image": str(source.relative_to(root)) if isinstance(source, Path) else "bytes"}
    assert isinstance(part, Video) and isinstance(part.source, tuple)
    paths = [path for path in part.source if isinstance(path, Path)]
    (folder,) = {path.parent for path in paths}
    numbers = [int(path.stem.removeprefix("frame_")) for path in paths]
    return {"video": str(folder.relative_to(root)), "frames": numbers}


def all_described(root: Path, modality: str) -> dict[str, Any]:
    names = [entry.card.name for entry in load_entries() if entry.card.modality == modality]
    found: dict[str, Any] = {}
    for profile in PROFILES:
        suite = MMEB(root, load_profile(profile), check_counts=False)
        for name in names:
            task = suite.load(name).task
            assert isinstance(task, RetrievalTask)
            found.setdefault(name, {})[profile] = described(task, root)
    return found


def _shared(found: dict[str, Any]) -> dict[str, Any]:
    """Golden form: what the profiles have in common is written once."""
    golden: dict[str, Any] = {}
    for name, profiles in found.items():
        first = profiles[PROFILES[0]]
        same = {k: v for k, v in first.items() if all(p[k] == v for p in profiles.values())}
        own = {p: {k: v for k, v in d.items() if k not in same} for p, d in profiles.items()}
        golden[name] = {"all": same, **own}
    return golden


def _written(value: Any, depth: int = 0) -> str:
    """JSON with one line for each query and document."""
    if not isinstance(value, dict) or not value or depth == 4:
        return json.dumps(value)
    pad = " " * depth
    lines = [f"{pad} {json.dumps(k)}: {_written(v, depth + 1)}" for k, v in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{pad}}}"


def golden(modality: str) -> dict[str, Any]:
    """Task -> profile -> what `described` gives."""
    read = json.loads((GOLDEN / f"mmeb_{modality}.json").read_text(encoding="utf-8"))
    return {name: {p: {**d["all"], **d[p]} for p in PROFILES} for name, d in read.items()}


def main() -> None:
    for modality, write in (("video", write_video_data), ("visdoc", write_visdoc_data)):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write(root)
            found = _shared(all_described(root, modality))
        text = _written(found)
        (GOLDEN / f"mmeb_{modality}.json").write_text(text + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
