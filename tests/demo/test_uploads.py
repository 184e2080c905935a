"""Files that visitors search with: checked, bounded, private, soon gone."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from PIL import Image as PILImage

from mmembed.demo.settings import DemoSettings
from mmembed.demo.uploads import Upload, Uploads
from mmembed.errors import InputError
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.server.errors import RequestError
from tests import media_files
from tests.demo.library import SECRET_PLACE, error, photo_with_place

PICTURE = media_files.encode_image(media_files.photo())


def send(client, data: bytes, name: str = "file"):
    return client.post("/api/uploads", params={"name": name}, content=data)


def test_an_upload_says_what_it_is(client, files):
    picture = send(client, PICTURE, "red.png").json()
    assert (picture["kind"], picture["name"]) == ("image", "red.png")
    clip = send(client, (files / "clip.mp4").read_bytes()).json()
    assert clip["kind"] == "video" and clip["duration"] == pytest.approx(4, abs=0.1)
    document = send(client, (files / "paper.pdf").read_bytes()).json()
    assert (document["kind"], document["pages"]) == ("pdf", 3)
    for upload in (picture, clip, document):
        answer = client.get(upload["thumbnail"])
        assert answer.headers["content-type"] == "image/webp"
        PILImage.open(io.BytesIO(answer.content)).verify()
    pages = [client.get(document["thumbnail"], params={"page": n}).content for n in (1, 2)]
    assert pages[0] != pages[1]


def test_content_decides_and_names_are_only_shown(client):
    upload = send(client, PICTURE, "../../etc/<b>cron.d\n.pdf").json()
    assert upload["kind"] == "image"
    assert upload["name"] == "<b>cron.d?.pdf"


def test_a_thumbnail_of_an_upload_has_no_metadata(client):
    upload = send(client, photo_with_place()).json()
    assert SECRET_PLACE not in client.get(upload["thumbnail"]).content


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "empty"),
        (b"just words", 415, "unsupported_format"),
        (media_files.text_named_as("svg"), 415, "unsupported_format"),
        (media_files.text_named_as("hls"), 415, "unsupported_format"),
        (media_files.text_named_as("concat"), 415, "unsupported_format"),
        (b"MZ" + bytes(2000), 415, "unsupported_format"),
        (media_files.png_header_only(60_000, 60_000), 400, "too_many_pixels"),
        (media_files.png_with_bad_checksum(), 400, "corrupt"),
        (PICTURE[:100], 400, "truncated"),
        (b"%PDF-1.7 nothing", 400, "truncated"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(client, data, status, code):
    answer = send(client, data)
    found = error(answer, status)
    assert found == code or {found, code} <= {"corrupt", "truncated"}


def test_an_upload_is_cut_at_its_limit(open_demo, index):
    with open_demo(index, settings={"upload_bytes": len(PICTURE)}) as client:
        assert send(client, PICTURE).status_code == 200
        assert error(send(client, PICTURE + b"0"), 413) == "too_large"

        def pieces() -> Iterator[bytes]:  # without a length in the header
            yield PICTURE
            yield b"0" * 10_000

        assert error(client.post("/api/uploads", content=pieces()), 413) == "too_large"


def test_an_upload_can_be_removed(client):
    upload = send(client, PICTURE).json()["id"]
    assert client.delete(f"/api/uploads/{upload}").status_code == 204
    answer = client.post("/api/search", json={"uploads": [upload]})
    assert error(answer, 404) == "no_upload"
    assert client.delete(f"/api/uploads/{upload}").status_code == 204
    assert error(client.get(f"/api/uploads/{upload}/thumbnail"), 404) == "no_upload"


def test_a_part_of_an_upload_must_exist(client, files):
    picture = send(client, PICTURE).json()["id"]
    document = send(client, (files / "paper.pdf").read_bytes()).json()["id"]
    clip = send(client, (files / "clip.mp4").read_bytes()).json()["id"]
    for use, code in (
        ({"id": picture, "page": 1}, "invalid_upload"),
        ({"id": picture, "start": 1}, "invalid_upload"),
        ({"id": document, "page": 9}, "page_out_of_range"),
        ({"id": clip, "start": 3, "end": 1}, "invalid_upload"),
    ):
        answer = client.post("/api/search", json={"uploads": [use]})
        assert error(answer, 400) == code


def test_uploads_end_with_the_demo(open_demo, index, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_demo(index) as client:
        send(client, PICTURE)
        (folder,) = tmp_path.glob("mmembed-demo-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        (file,) = folder.iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.iterdir())


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keep(clock) -> Iterator[Uploads]:
    settings = DemoSettings(
        uploads_bytes=3 * len(PICTURE), uploads_count=3, upload_seconds=10
    )  # fmt: skip
    with MediaDecoder() as decoder:
        uploads = Uploads(settings, decoder, clock)
        yield uploads
        uploads.close()


async def body(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def add(uploads: Uploads, *pieces: bytes) -> Upload:
    return uploads.inspect(asyncio.run(uploads.receive(body(*pieces or (PICTURE,)), "x")))


def folder_of(upload: Upload) -> Path:
    return upload.path.parent


def test_an_upload_that_nobody_used_for_long_is_removed(keep, clock):
    first, second = add(keep), add(keep)
    clock.now = 8
    assert keep.get(first.id).path.read_bytes() == PICTURE
    clock.now = 15
    keep.get(first.id)
    with pytest.raises(RequestError, match="gone"):
        keep.get(second.id)
    assert [path.name for path in folder_of(first).iterdir()] == [first.id]


def test_the_oldest_uploads_make_room_for_new_ones(keep):
    kept = [add(keep) for _ in range(3)]
    keep.get(kept[0].id)
    fourth = add(keep)
    left = {path.name for path in folder_of(fourth).iterdir()}
    assert left == {kept[0].id, kept[2].id, fourth.id}


def test_nothing_is_left_of_what_was_refused(keep):
    folder = folder_of(add(keep))
    count = len(list(folder.iterdir()))
    for pieces in ((b"words",), (PICTURE[:90],), (PICTURE,) * 4):
        with pytest.raises((RequestError, InputError)):
            add(keep, *pieces)
    assert len(list(folder.iterdir())) == count
    assert add(keep).kind == "image"  # and what they had reserved is free again


def test_a_visitor_who_leaves_or_dawdles_leaves_nothing(keep):
    folder = folder_of(add(keep))

    async def broken() -> AsyncIterator[bytes]:
        yield PICTURE[:50]
        raise ConnectionError

    async def endless() -> AsyncIterator[bytes]:
        yield PICTURE[:50]
        await asyncio.Event().wait()

    with pytest.raises(ConnectionError):
        asyncio.run(keep.receive(broken(), "x"))
    keep.settings = keep.settings.model_copy(update={"upload_timeout_seconds": 0.01})
    with pytest.raises(RequestError, match="in time") as caught:
        asyncio.run(keep.receive(endless(), "x"))
    assert caught.value.status == 408
    assert len(list(folder.iterdir())) == 1
