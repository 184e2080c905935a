"""ShareGPT4V and LLaVA's conversations: three directions, bad turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_adapters.catalog import Dataset
from mmembed.errors import ConfigError, DataError, InputError
from tests.data_adapters.images.described import check_rows, described, golden
from tests.data_adapters.images.files import write_json, write_pictures

REPO = "Lin-Chen/ShareGPT4V"
FILE = "sharegpt4v_instruct_gpt4-vision_cap100k.json"
CAPTION = "A man in a red coat waits.\n\nBehind him is a bus."


def conversation(image: str, question: str, answer: str, *more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}, *more]
    return {"id": Path(image).stem, "image": image, "conversations": turns}


ROWS = [
    conversation("coco/train2017/000000000009.jpg", "What do you see here?\n<image>", CAPTION),
    conversation("sam/images/sa_1.jpg", "<image>\nDescribe it.", "A grey wall."),
    conversation("sam/images/sa_2.jpg", "<image>\nDescribe it.", "A grey wall."),
    conversation("wikiart/images/3.jpg", "<image>\nDescribe it.", "Oil on wood."),
    conversation(
        "web-landmark/images/4.jpg",
        "<image>\nWhere is it?",
        "In Rome.",
        {"from": "human", "value": "When?"},
        {"from": "gpt", "value": "In 1650."},
    ),
]


def opened(root: Path, rows: list[Any], **options: Any) -> Dataset:
    write_json(root / REPO / FILE, rows)
    return Dataset("sharegpt4v-cap100k", root, **options)


@pytest.mark.parametrize("direction", golden("image_conversations"))
def test_the_first_exchange_is_that_of_the_golden(direction: str, tmp_path: Path) -> None:
    write_pictures(tmp_path / REPO, [row["image"] for row in ROWS])
    examples = check_rows(opened(tmp_path, ROWS, direction=direction))
    expected = golden("image_conversations")[direction]
    assert described(examples[0], tmp_path / REPO) == expected
    assert len(examples) == 5
    same = examples[1].positive_ids == examples[2].positive_ids
    assert same == (direction != "t2i")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"id": "1", "conversations": ROWS[0]["conversations"]}, "without a picture"),
        ({**ROWS[0], "image": ""}, "no picture"),
        ({**ROWS[0], "image": "../1.jpg"}, "must be relative"),
        ({**ROWS[0], "conversations": []}, "column 'conversations'.*list of turns"),
        ({**ROWS[0], "conversations": ROWS[0]["conversations"][::-1]}, "a turn from 'human'"),
        ({**ROWS[0], "conversations": ["a", "b"]}, "a turn from 'human', found 'a'"),
        (conversation("1.jpg", "What?", " "), "the turn from 'gpt' is empty"),
        (conversation("1.jpg", "What?", 7), "the turn from 'gpt' is 7; expected a text"),  # type: ignore[arg-type]
    ],
)
def test_a_bad_row_is_refused_and_the_others_stay(bad: Any, message: str, tmp_path: Path) -> None:
    rows = opened(tmp_path, [ROWS[0], bad, ROWS[0]])
    with pytest.raises(InputError, match=rf"cap100k\.json, row 2.*{message}"):
        rows[1]
    assert rows[0].query == rows[2].query


def test_a_question_that_is_only_the_marker_is_no_query(tmp_path: Path) -> None:
    rows = opened(tmp_path, [conversation("1.jpg", "<image>", "A wall.")], direction="qa")
    with pytest.raises(InputError, match="row 1: the question is empty"):
        rows[0]


def test_unknown_directions_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="direction 'i2i' is unknown; known: t2i, i2t, qa"):
        opened(tmp_path, ROWS, direction="i2i")
    with pytest.raises(DataError, match="mmembed data fetch sharegpt4v-pt"):
        Dataset("sharegpt4v-pt", tmp_path)
