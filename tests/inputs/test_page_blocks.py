"""The text of a page and where it stands, also on pages that are turned or cropped."""

from __future__ import annotations

import pytest

from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.types import Page
from tests import media_files

pymupdf = pytest.importorskip("pymupdf")
here = MediaDecoder(MediaPolicy(isolate=False))


def two_blocks() -> bytes:
    with pymupdf.open() as document:
        page = document.new_page(width=400, height=300)
        page.insert_text((100, 80), "Hello big\nworld", fontsize=20)
        page.insert_text((220, 210), "far below", fontsize=20)
        return document.tobytes()


def changed(data: bytes, rotation: int, crop: tuple[int, ...] | None) -> bytes:
    with pymupdf.open(stream=data) as document:
        if crop:
            document[0].set_cropbox(pymupdf.Rect(*crop))
        document[0].set_rotation(rotation)
        return document.tobytes()


@pytest.mark.parametrize("crop", [None, (50, 40, 350, 260)])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_all_ink_of_the_page_as_it_is_drawn_lies_in_the_boxes(rotation, crop):
    data = changed(two_blocks(), rotation, crop)
    [page] = here.page_blocks(data, 1)
    assert page.text == "Hello big\nworld\n\nfar below"
    assert [page.text[block.start : block.end] for block in page.blocks] == [
        "Hello big",
        "world",
        "far below",
    ]
    budget = MediaBudget(min_pixels=500 * 500, max_pixels=600 * 600)
    frame = here.decode(Page(data), budget).frames[0]
    height, width = frame.shape[:2]
    dark = frame.min(axis=2) < 128
    for block in page.blocks:
        rows = slice(round(block.top * height), round(block.bottom * height) + 1)
        columns = slice(round(block.left * width), round(block.right * width) + 1)
        assert dark[rows, columns].sum() > 100, "there is ink in every box"
        area = (block.right - block.left) * (block.bottom - block.top)
        assert area < 0.1, "and a box is one line"
        dark[rows, columns] = False
    assert not dark.any()


def test_what_the_page_does_not_show_is_left_out():
    [page] = here.page_blocks(changed(two_blocks(), 0, (0, 0, 400, 150)), 1)
    assert page.text == "Hello big\nworld"
    [scan] = here.page_blocks(media_files.pdf(1), 1, max_chars=5)
    assert (scan.text, scan.blocks) == ("", ())
    assert scan.warning == "page 1: text after 0 characters is left out (page_chars)"


def test_pages_of_a_decode_process_are_those_of_this_one():
    data = media_files.pdf(3)
    with MediaDecoder() as decoder:
        assert decoder.page_blocks(data, 1, 9) == here.page_blocks(data, 1, 9)
        assert len(decoder.page_blocks(data, 3, 9)) == 1


def test_a_long_document_is_opened_once(monkeypatch):
    data = media_files.pdf(30)
    opened = []
    original = pymupdf.open

    def counting(*arguments, **options):
        opened.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(pymupdf, "open", counting)
    pages = here.page_blocks(data, 1, 30)
    assert [page.page for page in pages] == list(range(1, 31))
    assert len(opened) == 1


def test_words_are_fit_for_any_database():
    with pymupdf.open() as document:
        page = document.new_page(width=300, height=200)
        page.insert_text((20, 40), "tab\there  and   spaces", fontsize=11)
        page.insert_htmlbox(pymupdf.Rect(20, 80, 280, 160), "of\ufb01ce \x01 work")
        data = document.tobytes()
    [found] = here.page_blocks(data, 1)
    assert "tab here and spaces" in found.text
    assert "office" in found.text, "the letters of a ligature"
    found.text.encode()
    assert all(letter == "\n" or letter.isprintable() for letter in found.text)


def test_a_page_that_breaks_is_empty_and_says_so(monkeypatch):
    from mmembed.inputs import documents

    def refuse(page, number, *, max_chars):
        if number == 2:
            raise RuntimeError("of another library")
        return original(page, number, max_chars=max_chars)

    original = documents.read_page
    monkeypatch.setattr(documents, "read_page", refuse)
    pages = here.page_blocks(media_files.pdf(3), 1, 3)
    assert [bool(page.text) for page in pages] == [True, False, True]
    assert pages[1].warning == "page 2 cannot be read"
