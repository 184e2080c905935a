"""Planted faults: their shares, what they look like, and that they stay where they are."""

from __future__ import annotations

from collections import Counter

import pytest

from data_adapters.emoji_faults import FAULTS, FaultyNames, shared_captions
from data_adapters.emoji_source import load_emoji
from mmembed.data.adapter import resolve_adapter
from mmembed.inputs.contrastive import content_id, document_id

BY_ID = {emoji.id: emoji for emoji in load_emoji()}
PREFIX = "data_adapters.emoji_faults:FaultyNames"


def text(item) -> str:
    return item.parts[0].text


def emoji_of(rows: FaultyNames, index: int):
    return rows.emoji[index % len(rows.emoji)]


def test_a_faultless_row_is_a_name_and_its_translation():
    rows = resolve_adapter(PREFIX, {"views": 2})
    assert len(rows) == 2 * len(rows.emoji)
    directions = Counter()
    for index in range(0, len(rows), 7):
        emoji, row = emoji_of(rows, index), rows[index]
        pair = (text(row.query), text(row.positives[0]))
        assert pair in (
            (emoji.names["en"], emoji.names["de"]),
            (emoji.names["de"], emoji.names["en"]),
        )
        directions[pair[0] == emoji.names["en"]] += 1
        assert row.positive_ids == (emoji.id,)
    assert min(directions.values()) > 0.4 * sum(directions.values())


def test_keywords_are_those_of_the_emoji():
    rows = FaultyNames(documents="keywords")
    for index in range(0, len(rows), 11):
        emoji, words = emoji_of(rows, index), text(rows[index].positives[0]).split(", ")
        assert len(words) <= 4
        assert set(words) <= set(emoji.keywords["en"]) or set(words) <= set(emoji.keywords["de"])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_share_of_the_rows_has_the_fault_and_the_rest_is_untouched(fault):
    rows, clean = FaultyNames(**{fault: 0.3}, views=2), FaultyNames(views=2)
    found = [rows.fault(index) for index in range(len(rows))]
    assert set(found) == {None, fault}
    assert found.count(fault) / len(rows) == pytest.approx(0.3, abs=0.03)
    for index in range(0, len(rows), 13):
        if found[index] is None:
            assert rows[index] == clean[index]


def test_a_wrong_positive_is_the_text_of_another_emoji_under_its_id():
    rows = FaultyNames(wrong=1.0)
    for index in range(0, len(rows), 7):
        (name,) = rows[index].positive_ids
        assert name != emoji_of(rows, index).id
        assert text(rows[index].positives[0]) in BY_ID[name].names.values()


def test_duplicates_are_one_content_under_many_ids():
    rows = FaultyNames(duplicates=1.0, views=2)
    examples = [rows[index] for index in range(len(rows))]
    contents = Counter(content_id(example.positives[0]) for example in examples)
    assert len(contents) < len(rows) / 4
    assert max(contents.values()) > 100
    assert len({document_id(example, 0) for example in examples}) == len(rows)
    for index in range(0, len(rows), 17):
        emoji, word = emoji_of(rows, index), text(examples[index].positives[0])
        assert word in (*emoji.keywords["en"], *emoji.keywords["de"])


def test_near_duplicates_hold_the_caption_that_they_duplicate():
    near, exact = FaultyNames(near_duplicates=1.0), FaultyNames(duplicates=1.0)
    pairs = [
        (text(near[index].positives[0]), text(exact[index].positives[0]))
        for index in range(0, len(near), 7)
    ]
    assert all(caption in written and caption != written for written, caption in pairs)


def test_an_easy_positive_repeats_the_query():
    rows = FaultyNames(easy=1.0)
    for index in range(0, len(rows), 7):
        assert text(rows[index].positives[0]).startswith(text(rows[index].query) + ", ")


def test_hard_negatives_are_others_of_the_subgroup_in_the_same_language():
    rows = FaultyNames(num_hard_negatives=2)
    related = 0
    for index in range(0, len(rows), 7):
        emoji, row = emoji_of(rows, index), rows[index]
        language = "de" if text(row.positives[0]) == emoji.names["de"] else "en"
        subgroup = {each.names[language] for each in rows.emoji if each.subgroup == emoji.subgroup}
        found = [text(item) for item in row.hard_negatives]
        assert len(set(found)) == 2
        assert emoji.names[language] not in found
        related += sum(name in subgroup for name in found)
    assert related > 0.98 * 2 * len(range(0, len(rows), 7))


def test_rows_depend_on_arguments_and_number_only():
    arguments = {"wrong": 0.2, "duplicates": 0.2, "num_hard_negatives": 2}
    one, other = FaultyNames(**arguments), FaultyNames(**arguments)
    assert one[99] == other[99]
    assert any(one[i] != FaultyNames(**arguments, seed=1)[i] for i in range(5))
    with pytest.raises(IndexError):
        one[len(one)]


def test_the_task_of_shared_captions_asks_for_what_the_duplicates_say():
    task = shared_captions(query_language="de", language="en")
    rows = FaultyNames(duplicates=1.0)
    asked = 0
    for index in range(len(rows)):
        emoji, row = emoji_of(rows, index), rows[index]
        if text(row.query) == emoji.names["de"] != emoji.names["en"]:
            (caption,) = task.relevant[emoji.id]
            assert text(row.positives[0]) == text(task.corpus[caption]) == caption
            asked += 1
    assert asked > 0.4 * len(rows)
    assert len(task.corpus) < len(task.queries) / 4


@pytest.mark.parametrize(
    "arguments",
    [
        {"wrong": -0.1},
        {"wrong": 0.6, "easy": 0.6},
        {"languages": ("en", "en")},
        {"languages": ("en", "xx")},
        {"documents": "captions"},
        {"views": 0},
        {"num_hard_negatives": -1},
    ],
)
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(ValueError):
        FaultyNames(**arguments)
