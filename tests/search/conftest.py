"""An encoder without a model, for tests of what surrounds it, and files to index."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from mmembed.errors import InputError
from mmembed.search.corpus import index_folder
from mmembed.search.summary import IndexSummary
from mmembed.store.content import content_key
from mmembed.types import Image, MultimodalInput
from tests.search.engines import NAMES, Place, engine
from tests.search.library import opened, picture


@dataclass
class Report:
    ok: np.ndarray
    errors: list[InputError] = field(default_factory=list)
    warnings: list[tuple[int, str]] = field(default_factory=list)


class HashEncoder:
    """Unit vectors drawn from a hash of the content; pictures must be decodable by Pillow."""

    def __init__(self, fingerprint: str = "a" * 64, dimension: int = 32) -> None:
        self.fingerprint = fingerprint
        self.numerics = "made up"
        self.embedding_dimension = dimension
        self.encoded: list[MultimodalInput] = []

    def encode(
        self,
        items: Any,
        *,
        role: str = "document",
        instruction: str | None = None,
        on_error: str = "raise",
        return_report: bool = False,
        truncate_dim: int | None = None,
        show_progress_bar: bool | None = None,
    ) -> Any:
        rows = np.full((len(items), self.embedding_dimension), np.nan, dtype=np.float32)
        errors = []
        for index, item in enumerate(items):
            try:
                rows[index] = self._vector(MultimodalInput.of(item))
                self.encoded.append(item)
            except InputError as error:
                errors.append(error.at(index))
        if errors and on_error == "raise":
            raise errors[0]
        if truncate_dim is not None:
            rows = rows[:, :truncate_dim]
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        report = Report(np.isfinite(rows).all(axis=1), errors)
        return (rows, report) if return_report else rows

    def _vector(self, item: MultimodalInput) -> np.ndarray:
        for part in item.parts:
            if isinstance(part, Image) and isinstance(part.source, Path):
                try:
                    with PILImage.open(part.source) as picture:
                        picture.load()
                except OSError:
                    raise InputError("corrupt", "not a picture", part="image") from None
        # the role is left out, so that a query finds the document of the same content
        seed = hashlib.sha256(content_key(item, "document").encode()).digest()
        vector = np.random.default_rng(list(seed)).normal(size=self.embedding_dimension)
        return vector / np.linalg.norm(vector)


@pytest.fixture
def hash_encoder() -> HashEncoder:
    return HashEncoder()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures and a note, one of them in a subfolder."""
    folder = tmp_path / "photos"
    picture(folder / "red.png", (255, 0, 0))
    picture(folder / "green.png", (0, 255, 0))
    picture(folder / "deep" / "blue.png", (0, 0, 255))
    (folder / "note.md").write_text("# A note\n\nabout colours\n", encoding="utf-8")
    return folder


@pytest.fixture
def run(photos: Path, hash_encoder: Any, tmp_path: Path) -> Callable[..., IndexSummary]:
    """Index `photos` into a folder beside it, as a new process would."""

    def index_again(**options: Any) -> IndexSummary:
        index = opened("numpy", tmp_path / "index", options.get("embedder", hash_encoder))
        return index_folder(
            options.pop("folder", photos),
            **{"embedder": hash_encoder, "index": index, **options},
        )

    return index_again


@pytest.fixture(params=NAMES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where an index of each engine lies."""
    with engine(request.param, tmp_path / "index") as make:
        place = Place(make)
        yield place
        place.close()
