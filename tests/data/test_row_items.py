import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pictures

from mmembed.data.row_items import (
    MediaFolder,
    cell_of_item,
    item_of_cell,
    item_of_json,
    item_to_json,
    media_suffix,
)
from mmembed.errors import InputError
from mmembed.types import Image, MultimodalInput, Page, Part, Text, Url, Video
from tests.media_files import video

FOLDER = Path(tempfile.gettempdir()) / "rows"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
counts = st.none() | st.integers(1, 9)
seconds = st.none() | st.floats(0, 1e6) | st.integers(0, 9)
names = st.sampled_from(["a.png", "sub/b.jpg", "../c.webp", "data:d.png", "x", "file:e", "ü .png"])
paths = names.map(lambda name: FOLDER / name) | st.just(Path("/elsewhere/f.png"))
sources = paths | st.just(Url("https://example.org/g.png"))


@st.composite
def videos(draw: st.DrawFn) -> Video:
    frames = st.lists(sources, min_size=1, max_size=3).map(tuple)
    return Video(
        draw(sources | frames),
        fps=draw(seconds),
        num_frames=draw(counts),
        sampling=draw(st.sampled_from(["uniform", "keyframes"])),
        start=draw(seconds),
        end=draw(seconds),
        max_tokens=draw(counts),
    )


pages = st.builds(
    Page,
    sources,
    pages=st.none() | st.sampled_from(["3", "1-5", "1,4-6", ""]),
    password=st.none() | texts,
    max_tokens=counts,
)
images = st.builds(Image, sources, min_tokens=counts, max_tokens=counts)
parts = st.builds(Text, texts) | images | videos() | pages
items = st.builds(
    MultimodalInput,
    st.lists(parts, min_size=1, max_size=4).map(tuple),
    st.none() | texts,
)


def resolved(item: MultimodalInput) -> list[tuple[object, ...]]:
    """With paths as the system resolves them: what a relative one leads to is what counts."""

    def of(source: object) -> object:
        if isinstance(source, tuple):
            return tuple(map(of, source))
        return source.resolve() if isinstance(source, Path) else source

    def values(part: Part) -> tuple[object, ...]:
        return type(part), *map(of, vars(part).values())

    return [values(part) for part in item.parts]


@settings(max_examples=400, deadline=None)
@given(items)
def test_an_item_reads_back_equal_from_json_and_from_a_cell(item: MultimodalInput) -> None:
    media = MediaFolder(FOLDER)
    written = item_to_json(item, media)
    through_text = json.loads(json.dumps(written, allow_nan=False))
    for again in (
        item_of_json(through_text, FOLDER),
        item_of_cell(cell_of_item(written), FOLDER),
    ):
        assert resolved(again) == resolved(item)
        assert again.instruction == item.instruction


@given(texts)
def test_a_text_alone_is_a_string_and_any_text_survives_a_cell(text: str) -> None:
    item = MultimodalInput((Text(text),))
    assert item_to_json(item, MediaFolder(FOLDER)) == text
    assert item_of_cell(cell_of_item(text), FOLDER) == item


@pytest.mark.parametrize(
    "text", ['{"image": "a.png"}', '{"text": "x"}', '{"a": 1}', "{", "{}", '["x"]', '"x"', ""]
)
def test_a_text_that_looks_like_an_item_stays_a_text(text: str) -> None:
    assert item_of_cell(cell_of_item(text), FOLDER) == MultimodalInput((Text(text),))


def test_a_cell_is_an_item_only_when_all_its_keys_are_those_of_items() -> None:
    assert item_of_cell('{"image": "a.png"}', FOLDER).parts == (Image(FOLDER / "a.png"),)
    for text in ('{"a": 1}', '{"image": "a.png", "a": 1}', '["a.png"]', "{}", "{"):
        assert item_of_cell(text, FOLDER).parts == (Text(text),)


def test_forms_are_the_short_ones() -> None:
    media = MediaFolder(FOLDER)
    picture, clip = Image(FOLDER / "a.png", max_tokens=64), Video(FOLDER / "b.mp4", fps=2.0)

    def form(*parts: Part, instruction: str | None = None) -> object:
        return item_to_json(MultimodalInput(parts, instruction), media)

    assert form(Text("x"), instruction="do") == {"text": "x", "instruction": "do"}
    assert form(picture, Text("x")) == {"image": "a.png", "max_tokens": 64, "text": "x"}
    assert form(clip) == {"video": "b.mp4", "fps": 2.0}
    assert form(Text("x"), picture) == {"content": ["x", {"image": "a.png", "max_tokens": 64}]}
    assert form(Video((FOLDER / "1.png", FOLDER / "2.png"))) == {"video": ["1.png", "2.png"]}


def test_media_outside_are_relative_unless_only_the_root_is_shared(tmp_path: Path) -> None:
    media = MediaFolder(tmp_path / "out")
    assert media.name(tmp_path / "out" / "a.png") == "a.png"
    assert media.name(tmp_path / "photos" / "a.png") == "../photos/a.png"
    assert media.name(Path("/elsewhere/a.png")) == "/elsewhere/a.png"


def test_a_folder_that_is_a_link_does_not_lead_astray(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    (tmp_path / "a.txt").write_text("here")
    for name in (
        MediaFolder(tmp_path / "link").name(tmp_path / "a.txt"),
        MediaFolder(tmp_path / "link").name(tmp_path / "link" / ".." / ".." / "a.txt"),
    ):
        assert (tmp_path / "link" / name).read_text() == "here"
    (tmp_path / "deep" / "a.txt").write_text("there")
    name = MediaFolder(tmp_path / "out").name(tmp_path / "link" / ".." / "a.txt")
    (tmp_path / "out").mkdir()
    assert (tmp_path / "out" / name).read_text() == "there"


def pictures() -> Iterator[Pictures.Image]:
    yield Pictures.linear_gradient("L").resize((9, 7))
    yield Pictures.merge("RGBA", [Pictures.linear_gradient("L").resize((5, 4))] * 4)
    turned = Pictures.new("RGB", (3, 2), "red")
    turned.getexif()[0x0112] = 6
    yield turned


def test_pictures_and_arrays_are_written_once_without_loss(tmp_path: Path) -> None:
    media = MediaFolder(tmp_path)
    array = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    name = media.name(array)
    assert name == media.name(array.copy())
    assert name.startswith("media/") and name.endswith(".png")
    assert np.array_equal(np.asarray(Pictures.open(tmp_path / name)), array)
    for picture in pictures():
        with Pictures.open(tmp_path / media.name(picture)) as again:
            assert again.mode == picture.mode and again.tobytes() == picture.tobytes()
            assert again.getexif().get(0x0112) == picture.getexif().get(0x0112)
    assert len(list((tmp_path / "media").iterdir())) == 4


def test_bytes_keep_their_content_and_get_the_suffix_of_it(tmp_path: Path) -> None:
    clip = video(5)
    item = MultimodalInput((Video(clip), Page(b"%PDF-1.4 ..."), Image(b"?")))
    written = item_to_json(item, MediaFolder(tmp_path))
    again = item_of_json(written, tmp_path)
    suffixes = [part.source.suffix for part in again.parts if not isinstance(part, Text)]
    assert suffixes == [".mp4", ".pdf", ".bin"]
    first = again.parts[0]
    assert isinstance(first, Video) and isinstance(first.source, Path)
    assert first.source.read_bytes() == clip


def test_copied_files_are_found_without_the_originals(tmp_path: Path) -> None:
    original = tmp_path / "photos" / "a.PNG"
    original.parent.mkdir()
    Pictures.new("RGB", (3, 2)).save(original)
    content = original.read_bytes()
    media = MediaFolder(tmp_path / "out", "copy")
    name = media.name(original)
    original.unlink()
    assert (tmp_path / "out" / name).read_bytes() == content
    assert name.endswith(".png")
    with pytest.raises(InputError, match="no such file"):
        media.name(tmp_path / "absent.png")


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (MultimodalInput((Video((Path("a.mp4"),)),)), "frames"),
        (MultimodalInput((Video(()),)), "frames"),
        (MultimodalInput((Image(Url("ftp://x")),)), "http"),
        (MultimodalInput((Image(object()),)), "PNG"),  # type: ignore[arg-type]
        (MultimodalInput(()), "no parts"),
    ],
)
def test_what_would_not_read_back_is_refused(item: MultimodalInput, words: str) -> None:
    with pytest.raises(InputError, match=words):
        item_to_json(item, MediaFolder(FOLDER))


def test_cells_hold_embedded_media(tmp_path: Path) -> None:
    Pictures.new("RGB", (3, 2)).save(tmp_path / "a.png")
    png = (tmp_path / "a.png").read_bytes()
    picture = MultimodalInput((Image(png),))
    assert item_of_cell(png, tmp_path) == picture
    assert item_of_cell({"bytes": png, "path": "b.png"}, tmp_path) == picture
    by_path = MultimodalInput((Image(tmp_path / "a.png"),))
    assert item_of_cell({"bytes": None, "path": "a.png"}, tmp_path) == by_path
    cell = {"text": "x", "image": {"bytes": png, "path": None}, "video": None}
    assert item_of_cell(cell, tmp_path) == MultimodalInput((Image(png), Text("x")))
    with pytest.raises(InputError, match="no known format"):
        item_of_cell(b"???", tmp_path)


@pytest.mark.parametrize(
    ("head", "suffix"),
    [
        (b"\xff\xd8\xff", ".jpg"),
        (b"GIF89a", ".gif"),
        (b"RIFF....WEBP", ".webp"),
        (b"RIFF....AVI ", ".avi"),
        (b"\0\0\0\x18ftypqt  ", ".mov"),
        (b"\0\0\0\x18ftypisom", ".mp4"),
        (b"\x1a\x45\xdf\xa3", ".mkv"),
        (b"nothing", ".bin"),
    ],
)
def test_suffixes_follow_the_first_bytes(head: bytes, suffix: str) -> None:
    assert media_suffix(head) == suffix


def test_only_media_are_copied(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("root:x:0:0")
    media = MediaFolder(tmp_path / "out", "copy")
    with pytest.raises(InputError, match="secret: neither a picture"):
        media.name(secret)
    with pytest.raises(InputError, match=r"absent\.png: no such file"):
        media.name(tmp_path / "absent.png")
    assert not (tmp_path / "out").exists()
