"""PDF pages are drawn at the size of the budget, and lost content is never a white page."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mmembed.errors import InputError
from mmembed.inputs.documents import select_pages
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.types import Page
from tests import media_files as files

pymupdf = pytest.importorskip("pymupdf")
BUDGET = MediaBudget(min_pixels=64 * 784, max_pixels=128 * 784)
decoder = MediaDecoder(MediaPolicy(isolate=False))


def decode(source, *, policy=None, budget=BUDGET, **options):
    chosen = MediaDecoder(MediaPolicy(isolate=False, **policy)) if policy else decoder
    return chosen.decode(Page(source, **options), budget)


def error(source, **options):
    with pytest.raises(InputError) as caught:
        decode(source, **options)
    assert caught.value.part == "pdf"
    return caught.value


@pytest.fixture(scope="module")
def document() -> bytes:
    return files.pdf(3)


def small_document(content: bytes, resources: bytes = b"", page: bytes = b"") -> bytes:
    """A one-page document written by hand; object 4 is its content."""
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]" + page + b"/Resources<<"
        b"" + resources + b">>>>endobj\n" + content + b"\ntrailer<</Root 1 0 R>>\n%%EOF"
    )


CONTENTS = b"/Contents 4 0 R"
SQUARE = b"4 0 obj<</Length 19>>stream\n0 0 100 100 re f   \nendstream endobj"


def darkest_row(frame: np.ndarray) -> float:
    """The middle of the black square, as a share of the height."""
    rows = np.flatnonzero((frame[:, int(frame.shape[1] * 220 / 300)] < 60).all(axis=1))
    return float(rows.mean() / frame.shape[0])


def test_pages_have_exactly_the_size_of_the_budget_and_the_right_content(document):
    decoded = decode(document)
    assert decoded.pages == (1, 2, 3)
    for number, frame in zip(decoded.pages, decoded.frames, strict=True):
        assert frame.dtype == np.uint8
        assert frame.shape == (*BUDGET.resize(400 * 200 / 72, 300 * 200 / 72), 3)
        assert darkest_row(frame) == pytest.approx((60 * number + 20) / 400, abs=0.01)
        assert (frame[0, -1] == 255).all()


def test_pages_equal_a_fine_rendering_shrunk_to_the_same_size(document):
    from PIL import Image

    with pymupdf.open(stream=document) as opened:
        drawn = opened[0].get_pixmap(dpi=288)
    fine = Image.frombytes("RGB", (drawn.width, drawn.height), drawn.samples)
    frame = decode(document, pages="1").frames[0]
    shrunk = fine.resize((frame.shape[1], frame.shape[0]), Image.Resampling.BOX)
    assert np.abs(np.array(shrunk).astype(int) - frame).mean() < 1.5


def test_rotated_pages_are_upright():
    with pymupdf.open(stream=files.pdf(1)) as opened:
        opened[0].set_rotation(90)
        data = opened.tobytes()
    assert decode(data).frames[0].shape[:2] == BUDGET.resize(300 * 200 / 72, 400 * 200 / 72)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, [1, 2, 3, 4, 5]),
        ("3", [3]),
        ("2-4", [2, 3, 4]),
        ("1-3,5", [1, 2, 3, 5]),
        (" 5 , 1 - 2 ", [5, 1, 2]),
        ("4-", [4, 5]),
    ],
)
def test_page_ranges_count_from_one(spec, expected):
    assert select_pages(spec, 5) == expected


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ("6", "page_out_of_range"),
        ("0", "page_out_of_range"),
        ("1-999999999", "page_out_of_range"),
        ("7-", "page_out_of_range"),
        ("3-2", "invalid_type"),
        ("", "invalid_type"),
        ("one", "invalid_type"),
        ("-1", "invalid_type"),
    ],
)
def test_other_page_ranges_are_refused(spec, code):
    with pytest.raises(InputError) as caught:
        select_pages(spec, 5)
    assert caught.value.code == code


def test_a_page_out_of_range_names_the_number_of_pages(document):
    found = error(document, pages="4")
    assert found.code == "page_out_of_range" and "page 4 of a document of 3 pages" in found.detail


def test_more_pages_than_the_policy_allows_are_refused(document):
    assert error(document, policy={"max_pages": 2}).code == "too_many_pages"
    assert decode(document, pages="2-3", policy={"max_pages": 2}).pages == (2, 3)


def test_passwords():
    locked = files.pdf(1, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="user", owner_pw="own")
    assert error(locked).code == "encrypted"
    assert error(locked, password="guess").code == "wrong_password"
    assert decode(locked, password="user").pages == (1,)
    owned = files.pdf(1, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="", owner_pw="own")
    assert decode(owned).pages == (1,)


def test_a_document_without_pages():
    start = b"%PDF-1.4\n1 0 obj<</Type/Catalog"
    end = b">>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF"
    assert error(start + b"/Pages 2 0 R" + end).code == "no_pages"
    assert error(start + end).code == "no_pages"


@pytest.mark.parametrize("kind", ["text", "html", "svg"])
def test_what_is_no_pdf_is_refused_by_content(tmp_path, kind):
    path = tmp_path / "paper.pdf"
    path.write_bytes(files.text_named_as(kind))
    assert error(path).code == "unsupported_format"
    path.write_bytes(files.encode_image(files.photo()))
    assert error(path).code == "unsupported_format"


def test_the_mark_may_stand_behind_other_bytes_and_the_name_does_not_matter(tmp_path, document):
    path = tmp_path / "paper.png"
    path.write_bytes(b"\n" * 500 + document)
    assert decode(path, pages="1").pages == (1,)


def test_garbage_and_cut_documents(document):
    assert error(document[:300]).code == "truncated"
    assert error(b"%PDF-1.4\n" + b"x" * 3000 + b"%%EOF").code == "corrupt"


def test_of_a_cut_document_lost_pages_are_errors_and_the_others_are_drawn():
    whole = files.pdf(40)
    cut = whole[: len(whole) // 2]
    outcomes = {}
    for number in range(1, 41):
        try:
            decoded = decode(cut, pages=str(number))
        except InputError as refused:
            assert refused.code == "corrupt" and refused.index == ("pages", number)
            outcomes[number] = "lost"
        else:
            assert decoded.warnings == ("pdf repaired",)
            assert decoded.frames[0].min() < 60
            outcomes[number] = "drawn"
    assert outcomes[1] == "drawn" and outcomes[40] == "lost"
    assert error(cut).index == ("pages", min(n for n in outcomes if outcomes[n] == "lost"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"4 0 obj<</A 1>>endobj",
        b"4 0 obj<</Length 20/Filter/FlateDecode>>stream\nabcdefghijklmnopqrst\nendstream endobj",
    ],
    ids=["missing", "no stream", "bad flate"],
)
def test_lost_content_is_an_error_and_not_a_white_page(content):
    found = error(small_document(content, page=CONTENTS))
    assert (found.code, found.index) == ("corrupt", ("pages", 1))


def test_a_page_that_lost_one_of_its_contents_is_an_error():
    both = small_document(SQUARE, page=b"/Contents[4 0 R 9 0 R]")
    assert (error(both).code, error(both).index) == ("corrupt", ("pages", 1))
    assert decode(small_document(SQUARE, page=CONTENTS)).frames[0].min() == 0


def test_a_damaged_image_is_a_warning_that_names_the_page():
    resources = b"/XObject<</I 5 0 R>>"
    image = (
        b"\n5 0 obj<</Type/XObject/Subtype/Image/Width 10/Height 10/BitsPerComponent 8"
        b"/ColorSpace/DeviceRGB/Filter/FlateDecode/Length 5>>stream\nabcde\nendstream endobj"
    )
    content = b"4 0 obj<</Length 26>>stream\nq 90 0 0 90 0 0 cm /I Do Q\nendstream endobj"
    decoded = decode(small_document(content + image, resources, CONTENTS))
    assert "page 1: damaged content" in decoded.warnings


def test_a_page_that_is_meant_to_be_white_is_white():
    empty = b"4 0 obj<</Length 0>>stream\n\nendstream endobj"
    assert decode(small_document(empty, page=CONTENTS)).frames[0].min() == 255
    assert decode(small_document(b"")).frames[0].min() == 255
    assert decode(small_document(b"", page=b"/Contents[]")).frames[0].min() == 255


def test_huge_pages_are_drawn_small_and_strips_are_refused(document):
    assert decode(files.pdf(1, size=(14400, 14400))).frames[0].shape[0] <= 320
    vast = re.sub(rb"/MediaBox ?\[[^\]]*\]", b"/MediaBox[0 0 1000000000 1000000000]", document)
    try:
        assert decode(vast, pages="1").frames[0].shape[0] <= 320
    except InputError as refused:
        assert refused.code == "page_too_large"
    strip = error(files.pdf(1, size=(5, 5000)))
    assert (strip.code, strip.index) == ("aspect_ratio", ("pages", 1))
    large = MediaBudget(min_pixels=64 * 784, max_pixels=4096 * 784)
    found = error(document, policy={"max_pixels": 100_000}, budget=large)
    assert found.code == "page_too_large"


def test_page_count_and_text(document, tmp_path):
    path = tmp_path / "d.pdf"
    path.write_bytes(document)
    for source in (document, path):
        assert decoder.page_count(source) == 3
        pages = decoder.page_blocks(source, 2, 5)
        assert [(page.page, page.text) for page in pages] == [
            (2, "page 2 of the test document"),
            (3, "page 3 of the test document"),
        ]
    with pytest.raises(InputError) as caught:
        decoder.page_blocks(document, 4)
    assert caught.value.code == "page_out_of_range"
    with pytest.raises(InputError) as caught:
        decoder.page_count(tmp_path / "absent.pdf")
    assert (caught.value.code, caught.value.part) == ("not_found", "pdf")


def test_nothing_is_printed(document, capfd):
    decode(document)
    error(document[:300])
    error(small_document(b"", page=CONTENTS))
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""
