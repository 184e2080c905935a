"""Items from a JSON-lines file."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmembed.errors import ConfigError, InputError
from mmembed.inputs.item_files import FileItem, read_items
from mmembed.types import Image, MultimodalInput, Page, Text, Url, Video


def write(folder: Path, *lines: str) -> Path:
    path = folder / "items.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_lines_become_items_with_media_beside_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"id": "cat", "image": "photos/cat.jpg", "text": "a cat"}',
        '"just text: photos/cat.jpg"',
        "",
        '{"video": ["1.png", "/abs/2.png"], "fps": 2}',
        '{"pdf": "a.pdf", "pages": "1-2", "instruction": "Find."}',
        '{"image": "https://example.org/a.png"}',
        '{"id": 7, "image": "data:,xyz"}',
    )
    expected = [
        ("cat", (Image(tmp_path / "photos/cat.jpg"), Text("a cat"))),
        ("2", (Text("just text: photos/cat.jpg"),)),
        ("4", (Video((tmp_path / "1.png", Path("/abs/2.png")), fps=2),)),
        ("5", (Page(tmp_path / "a.pdf", pages="1-2"),)),
        ("6", (Image(Url("https://example.org/a.png")),)),
        ("7", (Image(b"xyz"),)),
    ]
    items = read_items(path)
    assert [(entry.id, getattr(entry.item, "parts", None)) for entry in items] == expected
    assert items[3].item.instruction == "Find."  # type: ignore[union-attr]


def test_a_bad_line_keeps_its_place_and_says_what_is_wrong(tmp_path: Path) -> None:
    first, second, third = read_items(
        write(tmp_path, "{not json", '{"id": "x", "colour": "red"}', '{"text": "good"}')
    )
    assert isinstance(first.item, InputError) and "line 1 is not valid JSON" in str(first.item)
    assert second.id == "x" and "unknown key 'colour'" in str(second.item)
    assert third == FileItem("3", MultimodalInput((Text("good"),)))


def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_items(tmp_path / "missing.jsonl")
    with pytest.raises(ConfigError, match=r"lines 1 and 2 have the same id '2'"):
        read_items(write(tmp_path, '{"id": "2", "text": "a"}', '"b"'))
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'"caf\xe9"')
    with pytest.raises(ConfigError, match="byte 4 is not UTF-8"):
        read_items(path)
