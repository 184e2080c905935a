"""How files are cut into searchable items."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest

from mmembed.errors import ConfigError, InputError
from mmembed.inputs.media import DecodedMedia
from mmembed.inputs.page_blocks import PageText
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.search.passages import passages
from mmembed.search.segments import Segmentation, cut_file
from mmembed.types import Text, Video
from tests import media_files

TEXT = (
    "# Title\n\nA first paragraph. It has two sentences.\n\n"
    "A second one\nover two lines.\n\n" + "unbroken" * 20 + "\n\n   \n\nThe end."
)


@pytest.fixture(scope="module")
def decoder() -> Iterator[MediaDecoder]:
    with MediaDecoder() as opened:
        yield opened


class ClipOfLength(MediaDecoder):
    """Knows the time of the last frame without a file."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def decode(self, part: object, budget: object) -> DecodedMedia:
        assert isinstance(part, Video) and part.num_frames == 2
        return DecodedMedia(frames=(), timestamps=(0.0, self.seconds))


@pytest.mark.parametrize("size", [1, 7, 40, 100, 10_000])
def test_passages_cover_all_text_in_order_within_the_bound(size: int) -> None:
    cuts = passages(TEXT, size)
    assert all(0 < end - start <= size for start, end in cuts)
    assert all(one[1] <= other[0] for one, other in pairwise(cuts))
    lost = TEXT
    for start, end in reversed(cuts):
        assert TEXT[start:end] == TEXT[start:end].strip()
        lost = lost[:start] + lost[end:]
    assert not lost.strip()


def test_a_passage_ends_at_a_blank_line_else_a_line_a_sentence_or_a_word() -> None:
    def pieces(text: str, size: int) -> list[str]:
        return [text[start:end] for start, end in passages(text, size)]

    assert pieces("one two.\n\nthree four\nfive", 16) == ["one two.", "three four\nfive"]
    assert pieces("one two three\nfour five", 18) == ["one two three", "four five"]
    assert pieces("One two three. Four five", 18) == ["One two three.", "Four five"]
    assert pieces("one two three four", 12) == ["one two", "three four"]
    assert pieces("abcdefghij", 4) == ["abcd", "efgh", "ij"]
    assert pieces(" \n ", 4) == []


def test_text_offsets_are_those_of_the_decoded_file(tmp_path: Path, decoder: MediaDecoder) -> None:
    path = tmp_path / "note.TXT"
    path.write_bytes(b"\xef\xbb\xbf" + "  \u00e4pfel\r\n\r\nund \U0001f34e birnen".encode())
    segments = cut_file(path, Segmentation(passage_chars=12), decoder)
    text = path.read_bytes().decode("utf-8-sig")
    assert [segment.row.text for segment in segments] == ["\u00e4pfel", "und \U0001f34e birnen"]
    for segment in segments:
        row = segment.row
        assert text[row.start_char : row.end_char] == row.text
        assert row.id == f"{path}#char={row.start_char},{row.end_char}"


def test_utf16_is_read_and_a_large_or_binary_text_is_refused(
    tmp_path: Path, decoder: MediaDecoder
) -> None:
    path = tmp_path / "note.txt"
    path.write_text("hello", encoding="utf-16")
    assert cut_file(path, Segmentation(), decoder)[0].row.text == "hello"
    with pytest.raises(InputError, match=r"12 bytes of text; at most 4"):
        cut_file(path, Segmentation(max_text_bytes=4), decoder)
    path.write_bytes(b"ab\xff\xfe")
    with pytest.raises(InputError, match="byte 2 is not utf-8"):
        cut_file(path, Segmentation(), decoder)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, [(0, 0.0)]),
        (60.0, [(0, 60.0)]),
        (61.0, [(0, 30), (30, 61.0)]),
        (74.0, [(0, 30), (30, 74.0)]),
        (76.0, [(0, 30), (30, 60), (60, 76.0)]),
    ],
)
def test_a_long_clip_is_cut_into_windows_without_a_short_remainder(
    tmp_path: Path, seconds: float, expected: list[tuple[float, float]]
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"\0\0\0\x18ftypmp42")
    segments = cut_file(path, Segmentation(), ClipOfLength(seconds))
    assert [(s.row.start_seconds, s.row.end_seconds) for s in segments] == expected
    assert len({segment.row.id for segment in segments}) == len(expected)
    clips = [segment.item.parts[0] for segment in segments]
    if len(expected) == 1:
        assert clips == [Video(path)]
    else:
        assert (
            [(clip.start, clip.end) for clip in clips]
            == [  # type: ignore[union-attr]
                *expected[:-1],
                (expected[-1][0], None),
            ]
        )


def test_the_content_decides_what_a_media_file_is(tmp_path: Path, decoder: MediaDecoder) -> None:
    path = tmp_path / "really_a_picture.mp4"
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    assert cut_file(path, Segmentation(), decoder)[0].row.kind == "image"


def test_windows_reach_to_the_end_of_a_real_clip(tmp_path: Path, decoder: MediaDecoder) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for number in range(50):
            frame = av.VideoFrame(32, 32, "yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    segmentation = Segmentation(window_seconds=2, max_clip_seconds=3)
    rows = [segment.row for segment in cut_file(path, segmentation, decoder)]
    assert [(row.start_seconds, row.end_seconds) for row in rows] == [
        (0, 2),
        (2, pytest.approx(4.9, abs=0.11)),
    ]


def test_pages_come_one_by_one_with_their_text_and_where_it_stands(
    tmp_path: Path, decoder: MediaDecoder
) -> None:
    pymupdf = pytest.importorskip("pymupdf")
    path = tmp_path / "paper.pdf"
    with pymupdf.open() as document:
        for text in ("the first\npage", ""):
            document.new_page(width=200, height=200).insert_text((20, 40), text)
        document.save(path)
    rows = [segment.row for segment in cut_file(path, Segmentation(), decoder)]
    assert [(row.page, row.text) for row in rows] == [(1, "the first\npage"), (2, None)]
    assert [(box.start, box.end) for box in rows[0].boxes] == [(0, 9), (10, 14)]
    assert 0.09 < rows[0].boxes[0].left < 0.11
    assert rows[1].boxes == ()
    assert [row.id for row in rows] == [f"{path}#page=1", f"{path}#page=2"]


def test_markdown_items_say_what_they_are_about_and_point_into_the_file(
    tmp_path: Path, decoder: MediaDecoder
) -> None:
    path = tmp_path / "guide.md"
    path.write_bytes(b"\xef\xbb\xbf" + "# Guide\r\n\r\nHi.\r\n\r\n## Step\r\n\r\n\u00e4 b".encode())
    first, second = cut_file(path, Segmentation(), decoder)
    text = path.read_bytes().decode("utf-8-sig")
    assert first.row.text == "# Guide\r\n\r\nHi."
    assert second.row.text == "Guide\n\n## Step\r\n\r\n\u00e4 b"
    assert second.item.parts == (Text(second.row.text),)
    assert text[second.row.start_char : second.row.end_char] == "## Step\r\n\r\n\u00e4 b"
    plain = tmp_path / "guide.txt"
    plain.write_text("# Guide\n\nHi.\n\n## Step\n\nb")
    assert len(cut_file(plain, Segmentation(), decoder)) == 1, "only Markdown has headings"


def test_scenes_become_clips_and_long_ones_are_cut_into_windows(
    tmp_path: Path, decoder: MediaDecoder
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(
        media_files.video(
            150, fps=15, picture=lambda n, w, h: media_files.photo(w, h, seed=n >= 45)
        )
    )
    cut = Segmentation(windows="scenes", max_clip_seconds=5, window_seconds=4)
    found = [segment.row for segment in cut_file(path, cut, decoder)]
    places = [(row.start_seconds, row.end_seconds) for row in found]
    assert places == [
        (0.0, pytest.approx(2.85, abs=0.15)),
        (pytest.approx(3.1, abs=0.1), pytest.approx(7.1, abs=0.1)),
        (pytest.approx(7.1, abs=0.1), pytest.approx(9.93, abs=0.01)),
    ]
    assert {row.duration_seconds for row in found} == {places[-1][1]}
    still = cut_file(path, Segmentation(windows="scenes", min_scene_seconds=6), decoder)
    assert [segment.item.parts[0] for segment in still] == [Video(path)]
    assert still[0].row.duration_seconds == places[-1][1]
    with pytest.raises(ConfigError, match="windows is 'both'"):
        Segmentation(windows="both")  # type: ignore[arg-type]


def test_of_a_long_document_the_first_pages_are_taken_and_that_is_told(
    tmp_path: Path, decoder: MediaDecoder
) -> None:
    path = tmp_path / "long.pdf"
    path.write_bytes(media_files.pdf(5))
    notes: list[str] = []
    cut = Segmentation(max_pages_per_file=3, page_chars=10)
    assert [s.row.page for s in cut_file(path, cut, decoder, notes)] == [1, 2, 3]
    assert notes == [
        "the first 3 of 5 pages are taken (max_pages_per_file)",
        *(f"page {n}: text after 0 characters is left out (page_chars)" for n in (1, 2, 3)),
    ]


def test_pages_whose_text_cannot_be_read_are_items_all_the_same(tmp_path: Path) -> None:
    class Hangs(MediaDecoder):
        def page_blocks(self, *_: object, **__: object) -> list[PageText]:
            raise InputError("decode_timeout", "took too long")

    path = tmp_path / "paper.pdf"
    path.write_bytes(media_files.pdf(2))
    notes: list[str] = []
    with Hangs() as decoder:
        found = cut_file(path, Segmentation(), decoder, notes)
    assert [(s.row.page, s.row.text, s.row.boxes) for s in found] == [(1, None, ()), (2, None, ())]
    assert notes == ["no text layer of any page: took too long"]


def test_how_files_were_cut_survives_json() -> None:
    cut = Segmentation(windows="scenes", passage_chars=5, instruction="Find it.")
    kept = json.loads(json.dumps(asdict(cut)))
    assert Segmentation.of(kept) == cut and Segmentation.of({}) == Segmentation()
    assert cut.name != Segmentation(windows="scenes", passage_chars=5).name
    with pytest.raises(ConfigError, match="'chapters', which this version does not know"):
        Segmentation.of({"chapters": 3})
