"""The files of the demo's tests, and what every test asks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from PIL import Image as PILImage
from starlette.testclient import TestClient

from mmembed.encoder.embedder import Embedder
from mmembed.search.corpus import index_folder
from mmembed.search.exact_index import ExactIndex
from mmembed.search.segments import Segmentation
from tests import media_files

ADDRESS = "http://127.0.0.1:7860"
SECRET_PLACE = b"Null Island harbour"
NOON = 1_699_963_200  # of 2023-11-14, UTC
DAY = 86_400
SEGMENTATION = Segmentation(window_seconds=1.0, max_clip_seconds=2.0)


def write_library(folder: Path) -> Path:
    """Three pictures, one of them with metadata; a clip, a document, a note. Dates differ."""
    (folder / "holiday").mkdir(parents=True)
    for seed, name in enumerate(("red.png", "holiday/blue.png")):
        picture = media_files.encode_image(media_files.photo(160, 120, seed=seed))
        (folder / name).write_bytes(picture)
    (folder / "holiday" / "harbour.jpg").write_bytes(photo_with_place())
    (folder / "clip.mp4").write_bytes(media_files.video(60, fps=15))
    (folder / "paper.pdf").write_bytes(media_files.pdf(3))
    (folder / "note.md").write_text("the grinning face of a cat in the rain\n", encoding="utf-8")
    for number, path in enumerate(sorted(folder.rglob("*.*"))):
        os.utime(path, (NOON + number * DAY,) * 2)
    return folder


def photo_with_place() -> bytes:
    """A JPEG whose Exif says where it was taken and what it shows, upright only with Exif."""
    exif = PILImage.Exif()
    exif[0x010E] = SECRET_PLACE.decode()
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (0.0, 0.0, 1.0)
    picture = PILImage.fromarray(media_files.photo(200, 100, seed=7))
    return media_files.encode_image(picture, "JPEG", exif=exif, comment=SECRET_PLACE)


def make_index(library: Path, embedder: Embedder, folder: Path) -> ExactIndex:
    width = embedder.embedding_dimension
    index = ExactIndex(folder, fingerprint=embedder.fingerprint, dimension=width)
    summary = index_folder(
        library,
        embedder=embedder,
        index=index,
        segmentation=SEGMENTATION,
        decoder=embedder.processor.decoder,
    )
    assert not summary.failures
    return index


def hits(client: TestClient, **request: Any) -> list[dict[str, Any]]:
    answer = client.post("/api/search", json=request)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["hits"]
    return found


def hit(client: TestClient, name: str, **request: Any) -> dict[str, Any]:
    """The first hit of a file."""
    found = hits(client, **{"text": "a cat", "k": 50, **request})
    return next(one for one in found if one["name"] == name)


def error(answer: Any, status: int) -> str:
    """The code of an error in the one form."""
    assert answer.status_code == status, answer.text
    body = answer.json()["error"]
    assert body["message"] and body["request_id"] == answer.headers["x-request-id"]
    return str(body["code"])
