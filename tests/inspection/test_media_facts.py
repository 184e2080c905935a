"""Facts of media: each where it belongs, a file that many rows name opened once."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmembed.errors import InputError
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inspection.media_facts import MediaFacts, MediaReader
from mmembed.types import Image, Page, Url, Video
from tests.inspection.planted import emoji_picture, png
from tests.media_files import pdf, video


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = []
    for size in (40, 60, 80):
        found.append(tmp_path / f"{size}.png")
        found[-1].write_bytes(png(emoji_picture(size, size=size)))
    return found


def sizes(outcomes: list[MediaFacts | InputError]) -> list[int | str]:
    return [each.code if isinstance(each, InputError) else each.size[0] for each in outcomes]


def test_facts_stand_where_their_parts_do_also_when_files_repeat(
    paths: list[Path], tmp_path: Path
) -> None:
    a, b, c = (Image(path) for path in paths)
    missing, data = Image(tmp_path / "none.png"), Image(paths[1].read_bytes())
    with MediaDecoder() as decoder:
        media = MediaReader(decoder)
        assert sizes(media.read([b, a, missing, b])) == [60, 40, "not_found", 60]
        assert sizes(media.read([c, data, missing, a, b])) == [80, 60, "not_found", 40, 60]


def test_a_file_that_is_remembered_is_not_opened_again(paths: list[Path]) -> None:
    with MediaDecoder() as decoder:
        media = MediaReader(decoder)
        first = media.read([Image(paths[0])])
        paths[0].unlink()
        assert media.read([Image(paths[0])]) == first


def test_pages_clips_and_frames_have_facts_of_their_own() -> None:
    frames = tuple(png(emoji_picture(number)) for number in (1, 2, 3))
    with MediaDecoder() as decoder:
        pages, clip, listed = MediaReader(decoder).read(
            [Page(pdf(2)), Video(video(30, fps=15)), Video(frames)]
        )
    assert (pages.num_pages, len(pages.signatures)) == (2, 2)
    assert 1.5 < clip.seconds <= 2 and clip.signatures == ()
    assert listed.num_frames == 3 and listed.seconds is None


def test_without_a_decoder_files_are_only_looked_for(paths: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    outcomes = MediaReader(None).read(
        [
            Image(paths[0]),
            Image(broken),
            Image(tmp_path / "none.png"),
            Image(Url("https://example.org/a.png")),
            Video((paths[0], tmp_path / "none.png")),
        ]
    )
    codes = [each.code if isinstance(each, InputError) else "" for each in outcomes]
    assert codes == ["", "", "not_found", "forbidden_url", "not_found"]
