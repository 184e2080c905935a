"""A user's own table of pictures and captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_adapters.images.image_text import ImageText
from mmembed.data.formats import detect_format
from mmembed.errors import ConfigError, InputError
from tests.data_adapters.images.described import check_rows, described
from tests.data_adapters.images.files import jpeg, write_lines, write_parquet, write_pictures


def test_a_csv_of_paths_and_captions(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a/1.jpg", "2.jpg"])
    file = tmp_path / "mine.csv"
    file.write_text('image_path,caption\na/1.jpg,"A cat, asleep"\n2.jpg,A dog\n', encoding="utf-8")
    examples = check_rows(ImageText(file))
    assert [described(example, tmp_path) for example in examples] == [
        {
            "task": "retrieval",
            "query_id": "",
            "query": [None, "A cat, asleep"],
            "positives": [[None, {"image": "a/1.jpg"}]],
        },
        {
            "task": "retrieval",
            "query_id": "",
            "query": [None, "A dog"],
            "positives": [[None, {"image": "2.jpg"}]],
        },
    ]


def test_an_image_folder_with_metadata_in_the_other_direction(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["train/1.jpg"])
    write_lines(tmp_path / "train" / "metadata.jsonl", [{"file_name": "1.jpg", "text": ["A", "B"]}])
    assert detect_format(tmp_path / "train" / "metadata.jsonl") == "image-text"
    (example,) = check_rows(ImageText(tmp_path / "train" / "metadata.jsonl", direction="i2t"))
    assert described(example, tmp_path)["query"] == [None, {"image": "train/1.jpg"}]
    assert described(example, tmp_path)["positives"] == [[None, "A"], [None, "B"]]


def test_pictures_in_parquet_are_read_from_it(tmp_path: Path) -> None:
    cells = [{"bytes": jpeg(5, 6), "path": "1.jpg"}, {"bytes": jpeg(5, 6), "path": "2.jpg"}]
    rows = [{"picture": cell, "alt": "A"} for cell in cells]
    write_parquet(tmp_path / "mine.parquet", rows)
    examples = check_rows(ImageText(tmp_path / "mine.parquet", image="picture", caption="alt"))
    assert described(examples[0], tmp_path)["positives"] == [[None, {"image of": [5, 6]}]]
    assert examples[0].positive_ids == examples[1].positive_ids


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"image": "/1.jpg", "caption": "A"}, "must be relative"),
        ({"image": "", "caption": "A"}, "no picture"),
        ({"image": "1.jpg", "caption": ""}, "caption: the text is empty"),
        ({"image": "1.jpg", "caption": []}, "caption: the list is empty"),
        ({"image": "1.jpg"}, "no column 'caption'; found image"),
        ("{", "not JSON"),
    ],
)
def test_a_bad_line_is_refused_and_the_others_stay(bad: Any, message: str, tmp_path: Path) -> None:
    good = {"image": "1.jpg", "caption": "A"}
    write_lines(tmp_path / "mine.jsonl", [good, bad, good])
    rows = ImageText(tmp_path / "mine.jsonl")
    with pytest.raises(InputError, match=rf"mine\.jsonl, line 2.*{message}"):
        rows[1]
    assert rows[0] == rows[2]


def test_columns_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    write_lines(tmp_path / "mine.jsonl", [{"picture": "1.jpg", "caption": "A"}])
    with pytest.raises(
        ConfigError, match=r"it has picture, caption\. Say which it is: image=COLUMN"
    ):
        ImageText(tmp_path / "mine.jsonl")
    assert not ImageText.matches(["picture", "caption"], {})
    assert ImageText.matches(["image", "text"], {})
