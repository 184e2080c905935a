"""Pictures and films of rows: made anew, in ranges, only of what was indexed."""

from __future__ import annotations

import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image as PILImage

from mmembed.demo.pictures import WIDTHS, Picture, PictureCache, fit_width
from tests import media_files
from tests.demo.library import SECRET_PLACE, error, hit


def picture_of(answer) -> PILImage.Image:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/webp"
    return PILImage.open(io.BytesIO(answer.content))


def test_a_thumbnail_keeps_the_picture_and_loses_its_metadata(client, files):
    source = (files / "holiday" / "harbour.jpg").read_bytes()
    assert SECRET_PLACE in source and b"Exif" in source
    one = hit(client, "harbour.jpg")
    for url in (one["thumbnail"], one["media"]):
        answer = client.get(url)
        picture = picture_of(answer)
        assert picture.size == (200, 100)
        assert not picture.getexif() and not {"exif", "xmp", "icc_profile"} & set(picture.info)
        assert SECRET_PLACE not in answer.content and b"EXIF" not in answer.content.upper()
        expected = np.asarray(PILImage.open(io.BytesIO(source))).astype(int)
        assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - expected).mean() < 6


@pytest.mark.parametrize(("asked", "side"), [(1, 64), (100, 160), (2000, 200)])
def test_a_thumbnail_has_one_of_few_widths_and_is_never_enlarged(client, asked, side):
    answer = client.get(hit(client, "harbour.jpg")["thumbnail"], params={"width": asked})
    assert picture_of(answer).width == side
    assert fit_width(asked) in WIDTHS


def test_a_width_out_of_bounds_is_refused(client):
    url = hit(client, "red.png")["thumbnail"]
    for width in (0, -1, 2001, "wide"):
        assert error(client.get(url, params={"width": width}), 422) == "invalid_request"


def test_the_thumbnail_of_a_clip_shows_its_matched_seconds(client):
    for second in range(4):
        clip = hit(client, "clip.mp4", kinds=["video"])
        clips = client.post("/api/search", json={"text": "x", "kinds": ["video"], "k": 9}).json()
        clip = next(one for one in clips["hits"] if round(one["start"]) == second)
        picture = picture_of(client.get(clip["thumbnail"]))
        number = media_files.read_number(np.asarray(picture.convert("RGB")))
        assert second * 15 <= number <= (second + 1) * 15


def test_every_page_of_a_document_can_be_seen(client):
    page = hit(client, "paper.pdf", kinds=["pdf"], pages=[1, 1])
    pictures = []
    for number in (1, 2, 3):
        url = f"/api/rows/{page['id']}/page"
        picture = picture_of(client.get(url, params={"number": number, "width": 320}))
        assert picture.width == 320 and picture.height == pytest.approx(427, abs=3)
        pictures.append(np.asarray(picture.convert("L")))
    # the square stands lower on each page
    heights = [float(np.argwhere(each[60:, 200:] < 60)[:, 0].mean()) for each in pictures]
    assert heights == sorted(heights)
    answer = client.get(url, params={"number": 4})
    assert error(answer, 400) == "page_out_of_range"
    note = hit(client, "note.md")
    assert error(client.get(f"/api/rows/{note['id']}/page"), 404) == "no_picture"
    red = hit(client, "red.png")
    assert error(client.get(f"/api/rows/{red['id']}/page"), 404) == "no_pages"


def test_a_film_is_sent_in_ranges(client, files):
    data = (files / "clip.mp4").read_bytes()
    url = hit(client, "clip.mp4")["media"]
    whole = client.get(url)
    assert whole.status_code == 200 and whole.content == data
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["accept-ranges"] == "bytes"
    for asked, start, end in (("0-0", 0, 1), ("100-199", 100, 200), ("-50", len(data) - 50, None),
                              (f"{len(data) - 5}-", len(data) - 5, None)):  # fmt: skip
        part = client.get(url, headers={"range": f"bytes={asked}"})
        assert part.status_code == 206 and part.content == data[start:end]
        assert part.headers["content-range"].endswith(f"/{len(data)}")
    beyond = client.get(url, headers={"range": f"bytes={len(data)}-"})
    assert beyond.status_code == 416


def test_texts_and_pages_have_no_media(client):
    for name in ("note.md", "paper.pdf"):
        answer = client.get(f"/api/media/{hit(client, name)['id']}")
        assert error(answer, 404) == "no_media"


def test_what_is_not_what_was_indexed_is_gone(open_demo, own_files, own_index):
    with open_demo(own_index) as client:
        picture, clip, page = (hit(client, name) for name in ("red.png", "clip.mp4", "paper.pdf"))
        (own_files / "red.png").unlink()
        (own_files / "clip.mp4").write_bytes(b"#!/bin/sh\n" * 1000)
        (own_files / "paper.pdf").unlink()
        (own_files / "paper.pdf").symlink_to("/etc/passwd")
        assert error(client.get(picture["thumbnail"]), 410) == "file_gone"
        assert error(client.get(picture["media"]), 410) == "file_gone"
        assert error(client.get(clip["media"]), 410) == "file_changed"
        assert error(client.get(clip["thumbnail"]), 410) == "file_changed"
        assert error(client.get(f"/api/rows/{page['id']}/page"), 410) == "file_changed"


def test_content_of_the_same_length_and_date_or_another_date_is_looked_at(
    open_demo, own_files, own_index
):
    with open_demo(own_index) as client:
        url = hit(client, "red.png")["thumbnail"]
        path = own_files / "red.png"
        os.utime(path, (1, 1))  # touched, copied or unpacked again: the same content
        assert client.get(url).status_code == 200
        path.write_bytes(bytes(reversed(path.read_bytes())))
        assert error(client.get(url), 410) == "file_changed"


def test_a_pipe_in_the_place_of_a_film_does_not_hang(open_demo, own_files, own_index):
    with open_demo(own_index) as client:
        url = hit(client, "clip.mp4")["media"]
        (own_files / "clip.mp4").unlink()
        os.mkfifo(own_files / "clip.mp4")
        assert error(client.get(url), 410) == "file_changed"


def picture(size: int) -> Picture:
    return Picture(bytes(size), "image/webp")


def test_the_cache_keeps_what_was_used_last_within_its_bytes():
    cache = PictureCache(100)
    for name in "abc":
        cache.get(name, lambda: picture(40))
    assert cache.num_bytes == 80
    made = []
    cache.get("b", lambda: made.append("b") or picture(40))
    cache.get("a", lambda: made.append("a") or picture(40))
    cache.get("b", lambda: made.append("b") or picture(40))
    assert made == ["a"]
    cache.get("huge", lambda: picture(101))
    assert cache.num_bytes <= 100
    cache.get("b", lambda: made.append("b") or picture(40))
    assert made == ["a"]


class Asked(str):
    """A key that tells each time somebody looks for it: twice in each `get`."""

    looked = threading.Semaphore(0)

    def __hash__(self) -> int:
        self.looked.release()
        return super().__hash__()

    __eq__ = str.__eq__


def test_a_picture_that_many_ask_for_is_made_once():
    cache, made, enough = PictureCache(1000), [], threading.Event()

    def make() -> Picture:
        made.append(1)
        enough.wait()
        return picture(10)

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(cache.get, Asked("x"), make) for _ in range(8)]
        for _ in range(2 * 8):
            Asked.looked.acquire()
        enough.set()
        found = [future.result() for future in futures]
    assert len(made) == 1 and all(one is found[0] for one in found)


def test_a_failure_is_not_kept():
    cache = PictureCache(1000)

    def fail() -> Picture:
        raise ValueError

    with pytest.raises(ValueError):
        cache.get("y", fail)
    assert cache.get("y", lambda: picture(5)).data == bytes(5)
