"""Several processes that draw one document give what one gives."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest

from mmembed.errors import InputError
from mmembed.inputs.decode_pool import DecodeJob, DecodePool
from mmembed.inputs.documents import MIN_SHARE_PAGES, share_of_pages
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.page_shares import num_shares
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.types import Image, Page
from tests import media_files as files

pymupdf = pytest.importorskip("pymupdf")
BUDGET = MediaBudget(min_pixels=16 * 784, max_pixels=32 * 784)
POLICY = MediaPolicy(max_pages=12)


@pytest.fixture(scope="module")
def decoders():
    with MediaDecoder(POLICY, 1) as one, MediaDecoder(POLICY, 3) as three:
        yield one, three


@pytest.fixture(scope="module")
def document(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pdf") / "twelve.pdf"
    path.write_bytes(files.pdf(12))
    return path


def without_content(path: Path, *numbers: int) -> bytes:
    """The document with the content of these pages missing."""
    with pymupdf.open(path) as opened:
        for number in numbers:
            xref = opened[number - 1].xref
            opened.xref_set_key(xref, "Contents", f"{opened.xref_length() + 50} 0 R")
        return opened.tobytes()


@pytest.mark.parametrize("total", [1, 2, 7, 8, 11, 12, 13, 50])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shares_are_all_pages_in_order_and_none_is_small(total, count):
    numbers = list(range(1, total + 1))
    shares = [share_of_pages(numbers, index, count) for index in range(count)]
    assert [number for share in shares for number in share] == numbers
    assert all(not share or len(share) >= min(total, MIN_SHARE_PAGES) for share in shares)
    assert max(map(len, shares)) - min(len(share) for share in shares if share) <= 1


def test_a_document_alone_goes_to_all_processes_and_one_page_to_one():
    assert num_shares(Page(b""), 1, 4) == 4
    assert num_shares(Page(b"", pages="2-"), 2, 4) == 2
    assert num_shares(Page(b""), 5, 4) == 1
    assert num_shares(Page(b"", pages=" 7 "), 1, 4) == 1
    assert num_shares(Image(b""), 1, 4) == 1


@pytest.mark.parametrize("pages", [None, "2-11", "12,1-9", "3"])
def test_pages_come_in_order_and_equal(decoders, document, pages):
    for source in (document, document.read_bytes()):
        one, three = (decoder.decode(Page(source, pages), BUDGET) for decoder in decoders)
        assert one.pages == three.pages and one.warnings == three.warnings
        for left, right in zip(one.frames, three.frames, strict=True):
            assert (left == right).all()


def test_the_first_bad_page_is_the_error(decoders, document):
    for bad in [(2,), (12,), (6, 10), (1, 5, 9)]:
        source = without_content(document, *bad)
        for decoder in decoders:
            with pytest.raises(InputError) as caught:
                decoder.decode(Page(source), BUDGET)
            assert (caught.value.code, caught.value.index) == ("corrupt", ("pages", bad[0]))


def test_limits_and_ranges_are_those_of_the_whole_document(decoders, document):
    for decoder in decoders:
        for spec, code in [("1-12,1", "too_many_pages"), ("13", "page_out_of_range")]:
            with pytest.raises(InputError) as caught:
                decoder.decode(Page(document, pages=spec), BUDGET)
            assert caught.value.code == code and caught.value.source == "twelve.pdf"


def test_what_becomes_of_the_pages_is_done_once_with_all_of_them(decoders, document):
    for decoder in decoders:
        taken: list[tuple[int, ...]] = []

        def take(media, taken=taken):
            taken.append(media.pages)
            return len(media.frames)

        assert decoder.decode_many([Page(document)], [BUDGET], [take]) == [12]
        assert taken == [tuple(range(1, 13))]

        def refuse(media):
            raise InputError("too_many_pages", "no")

        (refused,) = decoder.decode_many([Page(document)], [BUDGET], [refuse])
        assert isinstance(refused, InputError) and refused.detail == "no"


def test_shares_go_together_with_other_parts(decoders, document):
    parts = [Page(document), Image(files.encode_image(files.photo(64, 48)))]
    outcomes = [decoder.decode_many(parts, [BUDGET] * 2) for decoder in decoders]
    for one, three in zip(*outcomes, strict=True):
        assert one.pages == three.pages
        assert all((a == b).all() for a, b in zip(one.frames, three.frames, strict=True))


def test_a_process_leaves_the_other_share_to_another_process():
    def taken(num_workers: int, num_jobs: int) -> int:
        pool = DecodePool(POLICY, num_workers)
        queue = deque(DecodeJob(({}, b""), "pdf", None, b"", 1.0) for _ in range(num_jobs))
        mine: deque[DecodeJob] = deque()
        while pool._move_one(queue, mine):
            pass
        assert len(mine) + len(queue) == num_jobs
        return len(mine)

    assert [taken(1, 5), taken(2, 2), taken(2, 8), taken(8, 3)] == [5, 1, 4, 1]
