"""Hostile clients get a refusal, learn nothing, and cost nobody else anything.

The server is a process of its own with the models and the settings that users get, but for limits
that are small enough to be met quickly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from tests import media_files as files
from tests.server import payloads
from tests.server.payloads import data_uri
from tests.server.victim import LIMITS, MB

pytestmark = pytest.mark.usefixtures("survives")

PICTURES = {
    "png": payloads.png_bomb(),
    "png header": files.png_header_only(65_535, 65_535),
    "png of 2^31": files.png_header_only(2**31 - 1, 2**31 - 1),
    "gif": payloads.gif_header(65_535, 65_535),
    "jpeg": payloads.jpeg_header(65_535, 65_535),
    "bmp": payloads.bmp_header(65_535, 65_535),
    "webp": payloads.webp_header(16_384, 16_384),
    "real webp": payloads.solid("WEBP", 2000, 1500),
    "tiff": files.encode_image(Image.new("1", (2000, 1500)), "TIFF"),
    "one row": files.png_header_only(2**31 - 1, 1),
    "compressed text": payloads.png_text_bomb(),
}


@pytest.mark.parametrize("data", PICTURES.values(), ids=PICTURES)
def test_a_picture_that_grows_when_it_is_opened_is_refused(victim, data):
    code = victim.embedding_refusal({"image": data_uri(data)})
    assert code in {
        "too_many_pixels", "aspect_ratio", "corrupt", "truncated", "unsupported_format",
    }  # fmt: skip
    assert victim.decoder_bytes < 400 * MB


def test_a_bomb_costs_its_own_item_only(victim):
    good = {"image": data_uri(files.encode_image(files.photo()))}
    bomb = {"image": data_uri(payloads.png_bomb())}
    alone = victim.post("/v1/embeddings", {"input": [good]}).json()["data"][0]
    body = {"input": [good, bomb, "text"], "on_error": "null"}
    first, second, third = victim.post("/v1/embeddings", body).json()["data"]
    assert first["embedding"] == pytest.approx(alone["embedding"], abs=1e-6)
    assert second["embedding"] is None and second["error"]["code"] == "too_many_pixels"
    assert third["embedding"] is not None


DOCUMENTS = {
    "stream": payloads.pdf_stream_bomb(),
    "picture": payloads.pdf_image_bomb(),
    "huge page": payloads.pdf_huge_page(),
    "circle": payloads.pdf_pages_in_a_circle(),
    "10,000 pages": payloads.pdf_of_pages(10_000),
}


@pytest.mark.parametrize("data", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_pdf_that_grows_when_it_is_opened_ends(victim, data):
    item = {"pdf": data_uri(data, "application/pdf"), "max_tokens": 16}
    answer = victim.post("/v1/embeddings", {"input": [item]})
    if answer.status_code != 200:
        assert answer.json()["error"]["code"] in {
            "too_many_pages", "corrupt", "page_too_large", "decode_timeout", "decoder_crash",
            "no_pages", "unsupported_format", "out_of_memory",
        }  # fmt: skip
    assert victim.decoder_bytes < 3500 * MB  # RLIMIT_AS of one


@pytest.mark.slow  # until the time of a page is up
def test_a_page_that_is_never_done_is_given_up(victim):
    data = data_uri(payloads.pdf_endless_drawing(), "application/pdf")
    assert victim.embedding_refusal({"pdf": data}) == "decode_timeout"


def test_all_pages_of_a_long_pdf_are_refused_and_one_is_not(victim):
    data = data_uri(payloads.pdf_of_pages(10_000), "application/pdf")
    assert victim.embedding_refusal({"pdf": data}) == "too_many_pages"
    for pages in ("1-9999", "1,2,3,4,5,6", "1-99999999999999999999", ",".join(["1"] * 9999)):
        assert victim.post("/v1/embeddings", {"input": [{"pdf": data, "pages": pages}]}).is_error
    assert victim.post("/v1/embeddings", {"input": [{"pdf": data, "pages": "9999"}]}).is_success


CLIPS = {
    "10 hours": payloads.long_video(),
    "forged duration": payloads.forged_duration(files.video(8, fps=4)),
    "animation": payloads.animation(3000),
    "cut": payloads.long_video()[:3000],
}


@pytest.mark.parametrize("data", CLIPS.values(), ids=CLIPS)
@pytest.mark.parametrize(
    "options",
    [{}, {"fps": 1000.0}, {"num_frames": 8}, {"num_frames": 10**9}, {"start": 1e9}, {"end": 1e300}],
    ids=str,
)
def test_a_clip_is_sampled_however_long_it_says_it_is(victim, data, options):
    item = {"video": data_uri(data, "video/mp4"), **options}
    answer = victim.post("/v1/embeddings", {"input": [item]})
    assert answer.status_code in (200, 400, 413, 415)
    if options.get("num_frames") == 10**9:
        assert answer.status_code == 400


@pytest.mark.parametrize(
    "options",
    [
        {"min_tokens": 100_000},
        {"min_tokens": 10**12},
        {"max_tokens": 10**12},
        {"max_tokens": 10**30},
        {"min_tokens": 100_000, "max_tokens": 100_000},
        {"min_tokens": -1},
        {"max_tokens": 0},
        {"max_tokens": 1.5},
        {"max_tokens": True},
    ],
    ids=str,
)
def test_a_client_cannot_blow_a_small_picture_up(victim, options):
    item = {"image": data_uri(files.encode_image(files.photo())), **options}
    answer = victim.post("/v1/embeddings", {"input": [item]})
    if answer.status_code == 200:
        assert answer.json()["usage"]["prompt_tokens"] <= LIMITS["max_item_tokens"]
        assert set(options) == {"max_tokens"}


def test_an_instruction_for_all_items_is_not_multiplied(victim):
    body = {"input": [str(number) for number in range(16)], "instruction": "a b " * 400_000}
    assert victim.refusal("/v1/embeddings", body) == (413, "too_large")
    body["instruction"] = "a b " * 4000  # fits a limit of characters, and no model
    assert victim.refusal("/v1/embeddings", body) == (400, "too_many_tokens")


SECRET = "/etc/passwd"


def bodies(value: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of every dialect that a medium can stand in."""
    for key in ("image", "video", "pdf", "page"):
        for shape in (value, [value], {"url": value}, {"bytes": value}):
            yield "/v1/embeddings", {"input": [{key: shape}]}
    yield "/v1/embeddings", {"input": [{"content": [{"type": "image", "image": value}]}]}
    yield "/v1/embeddings", {"input": value, "modality": "image"}
    for kind in ("image_url", "video_url"):
        part = {"type": kind, kind: {"url": value}}
        yield "/v1/embeddings", {"messages": [{"role": "user", "content": [part]}]}
        cohere = {"input_type": "search_document", "inputs": [{"content": [part]}]}
        yield "/v2/embed", cohere
        yield "/v1/rerank", {"query": {"content": [part]}, "documents": ["a"]}
        yield "/v1/rerank", {"query": "a", "documents": [{"content": [part]}]}
    yield "/v2/embed", {"input_type": "image", "images": [value]}
    for kind in ("image_url", "image_base64", "video_url", "video_base64"):
        yield "/v1/multimodalembeddings", {"inputs": [{"content": [{"type": kind, kind: value}]}]}
    yield "/v1/rerank", {"query": {"image": value}, "documents": ["a"]}
    yield "/v1/rerank", {"query": "a", "documents": [{"image": value}]}


@pytest.mark.parametrize("picture", [False, True])
def test_no_spelling_of_a_path_in_any_field_opens_a_file(victim, tmp_path, picture):
    secret = SECRET
    if picture:  # one that would be embedded, were it opened
        path = tmp_path / "secret.png"
        path.write_bytes(files.encode_image(files.photo()))
        secret = str(path)
    for value in payloads.paths(secret):
        for path_of_route, body in bodies(value):
            victim.refusal(path_of_route, body)


def test_a_text_is_a_text_whatever_it_looks_like(victim):
    for value in payloads.paths(SECRET):
        answer = victim.post("/v1/embeddings", {"input": [value]})
        assert answer.status_code in (200, 400)


@pytest.mark.parametrize("field", ["model", "encoding_format", "input_type", "instruction", "user"])
def test_a_path_in_another_field_is_a_word(victim, field):
    for value in payloads.paths(SECRET):
        victim.post("/v1/embeddings", {"input": "a", field: value})


@pytest.mark.parametrize(
    "kind",
    ["text/html", "image/svg+xml", "application/javascript", "text/plain", "application/zip", ""],
)
def test_data_that_are_no_medium_are_refused_whatever_they_say_they_are(victim, kind):
    markup = b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    for data in (markup, b"#EXTM3U\n#EXTINF:1\nfile:///etc/passwd\n", b"ffconcat version 1.0\n"):
        for key in ("image", "video", "pdf"):
            code = victim.embedding_refusal({key: data_uri(data, kind)})
            assert code in {"unsupported_format", "corrupt", "no_video_stream", "truncated"}
