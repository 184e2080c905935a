"""Which strings are media: data URIs and base64 under a media key, and texts that are none."""

from __future__ import annotations

import base64
from urllib.parse import quote_from_bytes

import pytest

from mmembed.errors import InputError
from mmembed.inputs.media import MediaPolicy
from mmembed.server.dialects.media import MediaReader, media_in_text
from mmembed.sources import Url
from tests.server.bodies import media, sent

PNG = media()["$PNG"]
WRITTEN = base64.b64encode(PNG).decode()


def reader(most: int = 10**6, **policy: object) -> MediaReader:
    limits = {"image": most, "video": most, "pdf": most}
    return MediaReader(MediaPolicy(**policy), limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        f"data:image/png;base64,{WRITTEN}",
        f"data:image/png;charset=utf-8;base64,{WRITTEN}",
        f"data:image/png;base64,{WRITTEN.rstrip('=')}",
        f"data:image/png;base64,{WRITTEN.replace('=', '%3D')}",
        f"data:image/png;base64,{base64.urlsafe_b64encode(PNG).decode()}",
        "data:image/png;base64," + base64.encodebytes(PNG).decode(),
        f"  data:image/png;base64,{WRITTEN}\n",
        f"data:image/png,{quote_from_bytes(PNG)}",
        WRITTEN,
        base64.encodebytes(PNG).decode(),
        {"url": f"data:image/png;base64,{WRITTEN}"},
        {"bytes": WRITTEN, "url": None},
    ],
)
def test_spellings_of_the_same_bytes_give_these_bytes(value: object) -> None:
    assert reader().source(value, "image") == PNG


def test_an_address_is_taken_where_the_policy_allows_it() -> None:
    address = "https://example.org/cat.png"
    assert reader(allow_urls=True).source(address, "image") == Url(address)
    with pytest.raises(InputError, match="--allow-host") as refused:
        reader().source(address, "image")
    assert refused.value.code == "forbidden_url"


@pytest.mark.parametrize(
    "value", ["a.png", "/etc/passwd", "file:///etc/passwd", "FILE:/etc/passwd", "~/a.png", "C:\\a"]
)
def test_a_path_is_never_a_source(value: str) -> None:
    with pytest.raises(InputError) as refused:
        reader(allow_urls=True).source(value, "image")
    assert refused.value.code in ("forbidden_path", "forbidden_url")
    assert value not in str(refused.value)


def test_a_size_is_checked_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(PNG)
    for value in (f"data:image/png;base64,{WRITTEN}", f"data:,{quote_from_bytes(PNG)}", WRITTEN):
        assert reader(size).source(value, "image") == PNG
        with pytest.raises(InputError) as refused:
            reader(size - 1).source(value, "image")
        assert refused.value.code == "too_large"
    real = base64.b64decode

    def bounded(data: str, **options: object) -> bytes:
        assert len(data) <= 1400, "decoded although it is too large"
        return real(data, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(base64, "b64decode", bounded)
    with pytest.raises(InputError):
        reader(1000).source("data:image/png;base64," + "A" * 5000, "image")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("https://example.org/a/cat.JPG", "image"),
        (" https://example.org/cat.jpeg?size=3#x ", "image"),
        ("HTTP://example.org/talk.mp4", "video"),
        ("https://example.org/paper.pdf", "pdf"),
        ("file:///home/me/cat.png", "image"),
        ("s3://bucket/cat.webp", "image"),
        ("data:image/png;base64,iVBORw0KGgo=", "image"),
        ("data:video/mp4;base64,AAAA", "video"),
        ("data:application/pdf;base64,AAAA", "pdf"),
        (sent("$PNG"), "image"),
        (sent("$JPEG"), "image"),
        (sent("$MP4"), "video"),
        (sent("$PDF"), "pdf"),
    ],
)
def test_a_text_that_is_a_medium_put_in_the_wrong_place_is_noticed(text: str, kind: str) -> None:
    assert media_in_text(text) == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cat.png",
        "/home/me/cat.png",
        "see https://example.org/cat.jpg",
        "https://example.org/cat.jpg is a cat",
        "https://example.org/",
        "https://example.org/wiki/Portable_Network_Graphics",
        "https://example.org/index.ts",
        "https://example.org/cat.jpg/about",
        "http://[broken/cat.jpg",
        "data: the new oil, says a report",
        "data:, and no type",
        "Qk" + "a" * 20,
        "R" + "a" * 100,
        "The quick brown fox jumps over the lazy dog, " * 5,
        "a" * 64,
        "0123456789abcdef" * 8,
        "/" * 200,
    ],
)
def test_a_text_is_a_text(text: str) -> None:
    assert media_in_text(text) is None
