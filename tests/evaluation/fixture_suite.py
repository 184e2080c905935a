"""A small suite over real files, and encoders that misbehave when they are told to.

Workers in other processes import this module, so what an encoder does is in its name (`spec`) and
in files, never in patches.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image as Pillow

from mmembed.errors import DataError, InputError
from mmembed.evaluation import runs
from mmembed.evaluation.example_tasks import HashingEncoder
from mmembed.evaluation.results import RunResults
from mmembed.tasks import (
    EvaluationTask,
    LoadedTask,
    Profile,
    RetrievalTask,
    SimilarityTask,
    TaskCard,
)
from mmembed.types import Image, MultimodalInput, Role, Text, Video

__all__ = ["LOADER", "FixtureSuite", "run", "scores", "text", "write_data", "write_suite"]

LOADER = "tests.evaluation.fixture_suite:load_encoder"
SOURCE = "tests.evaluation.fixture_suite:FixtureSuite"


def text(words: str, instruction: str | None = None) -> MultimodalInput:
    return MultimodalInput((Text(words),), instruction)


def write_data(root: Path, *, pictures: int = 8, frames: int = 4) -> Path:
    """Pictures and frames of two clips, each a colour of its own, with dates long ago."""
    for number in range(pictures):
        _write_picture(root / "pictures" / f"p{number}.png", (number, 100, 200 - number))
    for clip in range(2):
        for frame in range(frames):
            _write_picture(root / "clips" / f"c{clip}" / f"{frame}.png", (clip, frame, 50))
    return root


def write_suite(path: Path, *, arguments: dict[str, Any] | None = None, **fields: Any) -> Path:
    """The suite's file."""
    found = {
        "summary": "of a test",
        "data": "files of write_data",
        "profile": "plain",
        "sources": [{"reference": SOURCE, "arguments": arguments or {}}],
        **fields,
    }
    path.write_text(yaml.safe_dump(found))
    return path


class FixtureSuite:
    """Tasks over the files in `root`; `words` is as long as one asks for."""

    def __init__(self, root: Path | None, profile: Profile, *, words: int = 30) -> None:
        self.root = Path() if root is None else root
        self.profile = profile
        self.words = words

    def cards(self) -> Sequence[TaskCard]:
        def card(name: str, modality: str, group: str, **options: Any) -> TaskCard:
            metric = "spearman" if name == "pairs" else "hit@1"
            return TaskCard(name, modality, group, metric, source="a test", **options)

        return (
            card("words", "text", "T-RET"),
            card("pairs", "text", "T-STS"),
            card("pictures", "image", "I-RET"),
            card("labels", "image", "I-CLS", has_pools=True),
            card("clips", "video", "V-RET"),
        )

    def load(self, name: str, *, allow_missing: bool = False) -> LoadedTask:
        missing: list[str] = []
        task = getattr(self, f"_{name}")(missing)
        if missing and not allow_missing:
            raise DataError(f"{name}: files are missing", missing=missing)
        return LoadedTask(task, (), tuple(missing))

    def _words(self, missing: list[str]) -> EvaluationTask:
        ids = [f"w{number}" for number in range(self.words)]
        return RetrievalTask(
            "words",
            {f"q{name}": text(f"which one is {name}") for name in ids[:20]},
            {name: text(f"this is {name} and nothing else") for name in ids},
            {f"q{name}": {name: 1.0} for name in ids[:20]},
            query_instruction=self.profile.prompts.get("words"),
        )

    def _pairs(self, missing: list[str]) -> EvaluationTask:
        pairs = {f"p{n}": (text("a b c d e"), text("a b c d e"[: 2 * n])) for n in range(1, 5)}
        return SimilarityTask("pairs", pairs, {name: float(name[1:]) for name in pairs})

    def _pictures(self, missing: list[str]) -> EvaluationTask:
        found = self._files("pictures", missing)
        items = {path.stem: MultimodalInput((Image(path),)) for path in found}
        return RetrievalTask("pictures", items, items, {name: {name: 1.0} for name in items})

    def _labels(self, missing: list[str]) -> EvaluationTask:
        found = self._files("pictures", missing)
        items = {path.stem: MultimodalInput((Image(path), Text("what?"))) for path in found}
        labels = {name: text(name) for name in items}
        names = list(items)
        pools = {name: [name, *(n for n in names if n != name)] for name in names}
        relevant = {name: {name: 1.0} for name in names}
        return RetrievalTask("labels", items, labels, relevant, pools=pools)

    def _clips(self, missing: list[str]) -> EvaluationTask:
        corpus = {}
        for folder in sorted((self.root / "clips").iterdir()):
            frames = tuple(sorted(folder.iterdir()))[: self.profile.num_frames]
            corpus[folder.name] = MultimodalInput((Video(frames),))
        queries = {f"q{name}": text(f"clip {name}") for name in corpus}
        return RetrievalTask("clips", queries, corpus, {f"q{n}": {n: 1.0} for n in corpus})

    def _files(self, folder: str, missing: list[str]) -> list[Path]:
        listed = self.root / "expected.txt"
        names = listed.read_text().split() if listed.is_file() else []
        missing += [
            f"{folder}/{name}" for name in names if not (self.root / folder / name).exists()
        ]
        return sorted((self.root / folder).iterdir(), key=lambda path: path.name)


class FixtureEncoder(HashingEncoder):
    """The hashing encoder, until its name says otherwise.

    `pause:FOLDER` stops for ever before its second call, `die:FOLDER` kills its process once,
    `stop:FOLDER` always; `nan` gives NaN, `picky` refuses an item. All share one space and count
    texts of six words and more as cut.
    """

    num_truncated = 0

    def __init__(self, spec: str) -> None:
        super().__init__("fixture")
        self.kind, _, folder = spec.partition(":")
        self.folder = Path(folder)
        self.calls = 0

    def encode(
        self,
        items: Sequence[MultimodalInput],
        *,
        role: Role,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        self.calls += 1
        if self.kind == "pause" and self.calls > 1:
            signal.pause()
        if self.kind == "stop" or (self.kind == "die" and not (self.folder / "died").exists()):
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        rows = super().encode(items, role=role)
        texts = [part.text for item in items for part in item.parts if isinstance(part, Text)]
        self.num_truncated += sum(len(words.split()) > 5 for words in texts)
        if self.kind == "nan":
            rows[len(rows) // 2] = np.nan
        if self.kind == "picky":
            raise InputError("corrupt", "it is torn", source="p3.png", index=len(items) - 1)
        return rows


def load_encoder(spec: str, **options: Any) -> FixtureEncoder:
    return FixtureEncoder(spec)


def run(suite: Path, out: str, spec: str = "hashing", **options: Any) -> RunResults:
    """In a folder beside the suite, whose data are beside it too."""
    folder = suite.parent
    options = {"loader": LOADER, "data_root": folder / "data", "device": "cpu", **options}
    return runs.run(suite, spec, folder / out, show_progress_bar=False, **options)


def scores(folder: Path) -> Mapping[str, bytes]:
    found = {path.name: path.read_bytes() for path in sorted((folder / "scores").iterdir())}
    assert found
    return found


def _write_picture(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.new("RGB", (8, 8), colour).save(path)
    os.utime(path, (1_600_000_000, 1_600_000_000))
