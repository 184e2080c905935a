"""COCO's annotations and Karpathy's splits, in both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_adapters.catalog import Dataset
from mmembed.errors import DataError, InputError
from tests.data_adapters.images.described import check_rows, described, golden
from tests.data_adapters.images.files import write_json, write_pictures

COCO: dict[str, Any] = {
    "info": {"year": 2017},
    "images": [
        {"id": number, "file_name": f"{number:012}.jpg", "width": 640} for number in (9, 25, 30)
    ],
    "annotations": [
        {"id": 1, "image_id": 9, "caption": "A cat on a bed."},
        {"id": 2, "image_id": 25, "caption": "Two dogs. "},
        {"id": 3, "image_id": 9, "caption": "The cat sleeps"},
        {"id": 4, "image_id": 30, "caption": "A zebra\n"},
        {"id": 5, "image_id": 25, "caption": "Dogs at play"},
    ],
}


def _sentences(*raw: str) -> list[dict[str, Any]]:
    return [{"tokens": text.lower().split(), "raw": text, "sentid": 0} for text in raw]


FLICKR: dict[str, Any] = {
    "dataset": "flickr30k",
    "images": [
        {
            "filename": "1000092795.jpg",
            "split": "train",
            "sentences": _sentences("Two men talk .", "Friends outside ."),
        },
        {"filename": "10002456.jpg", "split": "test", "sentences": _sentences("A man .")},
        {
            "filename": "1000268201.jpg",
            "split": "train",
            "sentences": _sentences("A girl climbs ."),
        },
    ],
}


def opened(root: Path, name: str, content: Any, **options: Any) -> Dataset:
    is_coco = name.startswith("coco")
    file = "annotations/captions_train2017.json" if is_coco else "dataset_flickr30k.json"
    write_json(root / name / file, content)
    return Dataset(name, root, **options)


@pytest.mark.parametrize(("name", "content"), [("coco-captions-2017", COCO), ("flickr30k", FLICKR)])
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_rows_are_those_of_the_golden(
    name: str, content: Any, direction: str, tmp_path: Path
) -> None:
    folder = "train2017" if name.startswith("coco") else "flickr30k-images"
    files = [image.get("file_name", image.get("filename")) for image in content["images"]]
    write_pictures(tmp_path / name / folder, files)
    examples = check_rows(opened(tmp_path, name, content, direction=direction))
    expected = golden("image_captions").get(name if direction == "t2i" else f"{name} i2t")
    if expected is not None:
        assert [described(example, tmp_path / name) for example in examples] == expected
    of_first = [example for example in examples if example.positive_ids == examples[0].positive_ids]
    assert len(of_first) == (2 if direction == "t2i" else 1)


def test_splits_of_karpathy_are_chosen_and_a_folder_may_stand_in_the_row(tmp_path: Path) -> None:
    content = {**FLICKR, "images": [{**image, "filepath": "a"} for image in FLICKR["images"]]}
    rows = opened(tmp_path, "flickr30k", content, splits=["test"])
    assert [described(rows[0], tmp_path)["positives"], len(rows)] == [
        [[None, {"image": "flickr30k/flickr30k-images/a/10002456.jpg"}]],
        1,
    ]
    with pytest.raises(DataError, match=r"no captions of the splits .*restval.*'test', 'train'"):
        opened(tmp_path, "flickr30k", content, splits="restval")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"image_id": 8, "caption": "A"}, "no picture of this id"),
        ({"image_id": [9], "caption": "A"}, "no picture of this id"),
        ({"image_id": 9}, "the caption is empty"),
        ({"image_id": 9, "caption": ["A"]}, "expected a text"),
        ("A", "no picture of this id"),
        ({"image_id": 66, "caption": "A"}, "must be relative"),
    ],
)
def test_a_bad_annotation_is_refused_and_the_others_stay(
    bad: Any, message: str, tmp_path: Path
) -> None:
    unsafe = {"id": 66, "file_name": "../1.jpg"}
    content = {**COCO, "images": [*COCO["images"], unsafe]}
    content["annotations"] = [COCO["annotations"][0], bad, COCO["annotations"][1]]
    rows = opened(tmp_path, "coco-captions-2017", content)
    with pytest.raises(InputError, match=rf"captions_train2017\.json, annotation 2.*{message}"):
        rows[1]
    assert rows[0].query != rows[2].query


@pytest.mark.parametrize("content", ["{", "[1]", '{"images": 1, "annotations": []}'])
def test_a_file_of_another_kind_is_refused_whole(content: str, tmp_path: Path) -> None:
    opened(tmp_path, "coco-captions-2017", COCO)
    file = tmp_path / "coco-captions-2017" / "annotations" / "captions_train2017.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"captions_train2017\.json: (not JSON|expected an object)"):
        Dataset("coco-captions-2017", tmp_path)
