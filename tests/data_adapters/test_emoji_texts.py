"""Classes, grades and hard negatives say what the emoji table says."""

from __future__ import annotations

import math

import pytest

from data_adapters.emoji_source import emoji_of_split, load_emoji
from data_adapters.emoji_texts import EmojiGroups, EmojiNamesWithNegatives, EmojiSimilarity
from mmembed.types import ContrastiveExample, Image

ADAPTERS = {
    "group_example": lambda **more: EmojiGroups(level="group", **more),
    "subgroup_example": EmojiGroups,
    "subgroup_label": lambda **more: EmojiGroups(form="label", **more),
    "similarity": EmojiSimilarity,
    "negatives": EmojiNamesWithNegatives,
    "teacher": lambda **more: EmojiNamesWithNegatives(teacher=True, **more),
}
NAMES: dict[str, set[str]] = {}
for _emoji in load_emoji():
    for _name in _emoji.names.values():
        NAMES.setdefault(_name, set()).add(_emoji.id)
BY_ID = {one.id: one for one in load_emoji()}


def text(item) -> str:
    (part,) = item.parts
    return part.text


def sampled(adapter, step: int = 37):
    rows = range(0, len(adapter), step)
    return [(adapter.emoji[n % len(adapter.emoji)], adapter[n]) for n in rows]


def described(item, titles):
    """The emoji of a passage; some names hold a colon themselves."""
    return titles[max((n for n in titles if text(item).startswith(n + ": ")), key=len)]


@pytest.mark.parametrize("make", ADAPTERS.values(), ids=ADAPTERS)
def test_rows_satisfy_the_adapter_contract(make):
    adapter = make(views=2)
    assert adapter.name.startswith("emoji/")
    assert adapter.revision and adapter.citation and "Unicode-3.0" in adapter.license
    assert len(adapter) == 2 * len(adapter.emoji) > 1000
    for _, example in sampled(adapter, 301):
        assert isinstance(example, ContrastiveExample)
        assert example.task == adapter.task
        assert len(example.positive_ids) == len(example.positives) == 1
        assert len(example.negative_labels) in (0, len(example.hard_negatives))
        if example.scores is not None:
            assert len(example.scores) == 1 + len(example.hard_negatives)
    with pytest.raises(IndexError):
        adapter[len(adapter)]


@pytest.mark.parametrize("make", ADAPTERS.values(), ids=ADAPTERS)
def test_a_row_depends_on_seed_and_index_only(make):
    first, second = make(views=2, seed=1), make(views=2, seed=1)
    second[3]
    rows = range(0, 700, 100)
    assert [first[n] for n in rows] == [second[n] for n in rows]
    assert [first[n] for n in rows] != [make(views=2, seed=2)[n] for n in rows]


@pytest.mark.parametrize("make", ADAPTERS.values(), ids=ADAPTERS)
def test_rows_of_the_training_split_hold_no_held_out_emoji(make):
    train = {one.id for one in emoji_of_split("train")}
    assert {one.id for one in make().emoji} <= train
    assert not train & {one.id for one in make(split="held_out").emoji}


def test_example_of_a_class_is_another_emoji_and_negatives_are_of_other_classes():
    for level in ("group", "subgroup"):
        for emoji, example in sampled(EmojiGroups(level=level)):
            like = BY_ID[example.positive_ids[0]]
            assert like.id != emoji.id
            assert getattr(like, level) == getattr(emoji, level) == example.label
            assert like.id in NAMES[text(example.positives[0])]
            assert len({example.label, *example.negative_labels}) == 5
            for negative, label in zip(
                example.hard_negatives, example.negative_labels, strict=True
            ):
                assert label in {getattr(BY_ID[one], level) for one in NAMES[text(negative)]}


def test_label_form_writes_the_labels_and_rows_of_a_class_share_a_document():
    adapter = EmojiGroups(form="label", num_hard_negatives=3)
    ids: dict[str, set[str]] = {}
    for _, example in sampled(adapter, 5):
        assert example.label in {BY_ID[one].subgroup for one in NAMES[text(example.query)]}
        assert text(example.positives[0]) == example.label.replace("-", " ")
        assert [text(one) for one in example.hard_negatives] == [
            label.replace("-", " ") for label in example.negative_labels
        ]
        assert len({example.label, *example.negative_labels}) == 4
        ids.setdefault(example.label, set()).add(example.positive_ids[0])
    assert all(len(found) == 1 for found in ids.values())
    assert len(set.union(*ids.values())) == len(ids)


def test_labels_take_turns():
    adapter = EmojiGroups(form="label")
    for start in (0, 500):
        assert len({adapter[start + n].label for n in range(99)}) == 99


def test_label_form_of_a_picture_shows_the_bundled_file():
    adapter = EmojiGroups(level="group", form="label", show="picture", vendor="twemoji")
    groups = {one.pictures["twemoji"]: one.group for one in load_emoji()}
    for _, example in sampled(adapter, 301):
        (part,) = example.query.parts
        assert isinstance(part, Image)
        assert text(example.positives[0]) == groups[part.source]


def test_class_of_one_emoji_has_no_rows_in_the_example_form_only():
    alone = "animal-amphibian"
    assert alone not in {one.subgroup for one in EmojiGroups().emoji}
    assert alone in {one.subgroup for one in EmojiGroups(form="label").emoji}


def test_grades_are_those_of_the_table_and_take_turns():
    adapter = EmojiSimilarity(views=3)
    seen = {0: 0, 1: 0, 2: 0}
    for emoji, example in sampled(adapter):
        other = BY_ID[example.positive_ids[0]]
        (grade,) = example.scores
        seen[int(grade)] += 1
        if grade == 2:
            assert other is emoji and text(example.query) in emoji.names.values()
        elif grade == 1:
            assert other.id != emoji.id and other.subgroup == emoji.subgroup
        else:
            assert other.group != emoji.group
        assert other.id in NAMES[text(example.positives[0])]
    assert max(seen.values()) - min(seen.values()) <= 2
    number = len(adapter.emoji)
    assert {adapter[5 + view * number].scores for view in range(3)} == {(0.0,), (1.0,), (2.0,)}


def test_only_the_asked_grades_are_given():
    assert {row.scores for _, row in sampled(EmojiSimilarity(grades=[2]))} == {(2.0,)}
    assert {row.scores for _, row in sampled(EmojiSimilarity(grades=[0, 2]))} == {(0.0,), (2.0,)}


def test_hard_negatives_of_a_similar_pair_have_grade_one():
    seen = 0
    for emoji, example in sampled(EmojiSimilarity(grades=[2], num_hard_negatives=3)):
        assert example.scores == (2.0, *[1.0] * len(example.hard_negatives))
        for item in example.hard_negatives:
            named = [BY_ID[one] for one in NAMES[text(item)]]
            assert any(
                one.subgroup == emoji.subgroup and one.family != emoji.family for one in named
            )
        seen += len(example.hard_negatives) == 3
    assert seen > 20


def test_hard_negatives_are_near_and_of_another_family():
    adapter = EmojiNamesWithNegatives(num_hard_negatives=7, languages=("en",))
    titles = {one.names["en"]: one for one in adapter.emoji}
    nearby = 0
    for emoji, example in sampled(adapter):
        assert set(text(example.query).split()) <= set(" ".join(emoji.keywords["en"]).split())
        assert text(example.positives[0]).startswith(emoji.names["en"] + ": ")
        others = [described(one, titles) for one in example.hard_negatives]
        assert len({one.id for one in others}) == 7
        assert all(one.family != emoji.family for one in others)
        nearby += sum(one.subgroup == emoji.subgroup for one in others) >= 7
        small = [one for one in adapter.emoji if one.subgroup == emoji.subgroup]
        if len({one.id for one in small if one.family != emoji.family}) >= 7:
            assert all(one.subgroup == emoji.subgroup for one in others)
    assert nearby > 10


def test_teacher_gives_the_log_odds_of_shared_keywords():
    adapter = EmojiNamesWithNegatives(teacher=True, languages=("en",))
    titles = {one.names["en"]: one for one in adapter.emoji}
    partly = 0
    for emoji, example in sampled(adapter):
        assert example.scores[0] == pytest.approx(math.log(1.02 / 0.02))
        asked = [word for word in emoji.keywords["en"] if word in text(example.query)]
        for item, score in zip(example.hard_negatives, example.scores[1:], strict=True):
            other = described(item, titles)
            share = (math.exp(score) * 1.02 - 0.02) / (1 + math.exp(score))  # the inverse
            assert any(math.isclose(share, n / k, abs_tol=1e-9) for k in (2, 3) for n in range(4))
            if not set(asked) & set(other.keywords["en"]):
                assert share == pytest.approx(0, abs=1e-9)
            partly += 0.1 < share < 0.9
    assert partly > 10
    assert EmojiNamesWithNegatives()[0].scores is None


@pytest.mark.parametrize(
    ("make", "arguments", "named"),
    [
        (EmojiGroups, {"level": "kind"}, "group, subgroup"),
        (EmojiGroups, {"form": "pair"}, "example, label"),
        (EmojiGroups, {"show": "video"}, "name, picture"),
        (EmojiGroups, {"vendor": "apple"}, "noto, twemoji"),
        (EmojiGroups, {"level": "group", "num_hard_negatives": 10}, "between 0 and 9"),
        (EmojiGroups, {"languages": "en"}, "give some of: en, zh"),
        (EmojiSimilarity, {"grades": [3]}, "0, 1, 2"),
        (EmojiSimilarity, {"languages": ["xx"]}, "give some of"),
        (EmojiNamesWithNegatives, {"num_hard_negatives": -1}, "between 0"),
        (EmojiNamesWithNegatives, {"views": 0}, "views"),
        (EmojiNamesWithNegatives, {"split": "test"}, "held_out"),
    ],
)
def test_wrong_arguments_are_answered_with_the_right_ones(make, arguments, named):
    with pytest.raises(ValueError, match=named):
        make(**arguments)
