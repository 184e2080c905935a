"""MegaPairs: which wording is drawn, hard negatives, bad lines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_adapters.catalog import Dataset
from mmembed.errors import ConfigError, DataError, InputError
from mmembed.types import Text
from tests.data_adapters.images.described import check_rows, described, golden
from tests.data_adapters.images.files import write_lines, write_pictures


def line(query: int, target: int, *texts: str, hard: tuple[int, ...] = ()) -> dict[str, Any]:
    return {
        "q_img": f"000/{query}.jpg",
        "q_text": list(texts),
        "t_img": f"000/{target}.jpg",
        "hns": [f"000/{number}.jpg" for number in hard],
    }


LINES = [
    # The target among the hard negatives is none.
    line(1, 2, "Make it night", hard=(1, 2, 3)),
    line(3, 4, "  The same, from above\n"),
    line(4, 5, "Add a lamp", "", hard=(4,)),
    line(5, 1, "Without people", hard=(5,)),
    line(1, 2, "In winter", hard=(1,)),
]


def opened(root: Path, lines: list[Any], **options: Any) -> Dataset:
    folder = root / "JUNJIE99" / "MegaPairs"
    write_lines(folder / "annotation" / "megapairs.jsonl", lines)
    write_pictures(folder, [f"images/000/{number}.jpg" for number in range(1, 6)])
    return Dataset("megapairs", root, **options)


def test_rows_are_those_of_the_golden(tmp_path: Path) -> None:
    examples = check_rows(opened(tmp_path, LINES))
    root = tmp_path / "JUNJIE99" / "MegaPairs"
    assert [described(example, root) for example in examples] == golden("image_megapairs")
    assert examples[0].positive_ids == examples[4].positive_ids != examples[1].positive_ids


def test_one_wording_is_drawn_for_each_line_and_another_number_draws_others(tmp_path: Path) -> None:
    lines = [line(1, 1000 + number, "a", "b", "c") for number in range(300)]
    first = opened(tmp_path, lines)
    second = Dataset("megapairs", tmp_path, draw=1)
    drawn = [[rows[index].query.parts[-1] for index in range(300)] for rows in (first, second)]
    for texts in drawn:
        # 100 each, standard deviation 8.2
        assert all(60 < count < 140 for count in Counter(texts).values()) and len(set(texts)) == 3
    same = sum(one == other for one, other in zip(*drawn, strict=True))
    assert 60 < same < 140


def test_as_many_hard_negatives_as_asked_for_are_given(tmp_path: Path) -> None:
    lines = [line(1, 2, "a", hard=(1, 3, 4, 5))]
    for number, expected in ((None, 4), (2, 2), (0, 0)):
        assert len(opened(tmp_path, lines, num_negatives=number)[0].hard_negatives) == expected
    with pytest.raises(ConfigError, match="num_negatives must be 0 or more: -1"):
        opened(tmp_path, lines, num_negatives=-1)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{broken", "not JSON"),
        ({**LINES[0], "q_img": "/etc/passwd"}, "must be relative"),
        ({**LINES[0], "hns": ["../1.jpg"]}, "must be relative"),
        ({**LINES[0], "t_img": ""}, "column 't_img'"),
        ({**LINES[0], "t_img": "000/1.jpg"}, "the same picture"),
        ({**LINES[0], "q_text": [" "]}, "q_text has no text"),
        ({**LINES[0], "q_text": "Make it night"}, "column 'q_text'.*list of texts"),
        ({"q_img": "000/1.jpg"}, "no column 'q_text'; found q_img"),
    ],
)
def test_a_bad_line_is_refused_and_the_others_stay(bad: Any, message: str, tmp_path: Path) -> None:
    rows = opened(tmp_path, [LINES[0], bad, LINES[0]])
    with pytest.raises(InputError, match=rf"megapairs\.jsonl, line 2.*{message}"):
        rows[1]
    assert rows[0].query == rows[2].query
    assert rows[0].query.parts[-1] == Text("Make it night")


def test_a_missing_annotation_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "JUNJIE99" / "MegaPairs").mkdir(parents=True)
    with pytest.raises(DataError, match="mmembed data fetch megapairs"):
        Dataset("megapairs", tmp_path)
