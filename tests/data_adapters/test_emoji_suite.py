"""The suite `nano-emoji`: what its cards say is what its tasks hold, and answers are answers."""

from __future__ import annotations

from collections import Counter

import pytest

from data_adapters.emoji_source import VENDORS, emoji_of_split, load_emoji, picture_twins
from data_adapters.emoji_suite import EmojiSuite
from mmembed.errors import DataError
from mmembed.evaluation.scoring import check_task
from mmembed.evaluation.suites import load_suite
from mmembed.store.content import content_key
from mmembed.tasks import RetrievalTask, SimilarityTask, TaskSource
from mmembed.types import Text

pytest.importorskip("pymupdf")

NAMES = [card.name for card in EmojiSuite().cards()]
BY_ID = {one.id: one for one in load_emoji()}


@pytest.fixture(scope="module")
def tasks():
    suite = EmojiSuite()
    return {name: suite.load(name).task for name in NAMES}


def text(item) -> str:
    (part,) = item.parts
    assert isinstance(part, Text)
    return part.text


def test_the_bundled_suite_opens_without_any_data():
    opened = load_suite("nano-emoji").open()
    assert list(opened.cards) == NAMES
    assert isinstance(EmojiSuite(), TaskSource)
    assert opened.suite.config.summary.startswith("bundled, complete")
    assert opened.suite.config.subset is None


def test_every_modality_and_kind_of_task_is_there():
    cards = EmojiSuite().cards()
    assert {card.modality for card in cards} == {"image", "video", "visdoc", "text"}
    groups = {card.group.partition("-")[2] for card in cards}
    assert groups == {"RET", "CLS", "QA", "STS"}
    assert all(card.source and card.license and card.revision for card in cards)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_counts_what_its_task_holds(tasks, name):
    card = next(card for card in EmojiSuite().cards() if card.name == name)
    task = tasks[name]
    assert task.name == name
    check_task(card, task)
    if isinstance(task, SimilarityTask):
        assert card.num_queries == card.num_documents == len(task.pairs) == len(task.scores)
        return
    assert isinstance(task, RetrievalTask)
    assert len(task.queries) == card.num_queries
    assert (task.pools is not None) == card.has_pools
    sizes = {len(task.corpus)} if task.pools is None else set(map(len, task.pools.values()))
    assert sizes == {card.num_documents}


@pytest.mark.parametrize("name", NAMES)
def test_a_task_is_the_same_every_time(tasks, name):
    again = EmojiSuite().load(name)
    assert repr(again.task) == repr(tasks[name])
    assert all(path.is_file() for path in again.files)
    assert not again.missing


def test_tasks_share_their_items(tasks):
    asked, distinct = Counter(), {}
    for task in tasks.values():
        sides = (
            [("query", item) for pair in task.pairs.values() for item in pair]
            if isinstance(task, SimilarityTask)
            else [
                *(("query", item) for item in task.queries.values()),
                *(("document", item) for item in task.corpus.values()),
            ]
        )
        for role, item in sides:
            asked[item.modality] += 1
            distinct.setdefault(item.modality, set()).add(content_key(item, role))
    assert set(distinct) == {"text", "image", "image+text", "video", "pdf"}
    assert len(distinct["image"]) < 0.6 * asked["image"]
    assert len(distinct["video"]) < 0.7 * asked["video"]
    assert sum(map(len, distinct.values())) < 4500


def test_trained_and_held_out_queries_are_what_they_say(tasks):
    train = {one.id for one in emoji_of_split("train")}
    for name in NAMES:
        if name.endswith("_trained"):
            assert set(tasks[name].queries) <= train
        if name.endswith("_held_out"):
            assert train.isdisjoint(tasks[name].queries)


@pytest.mark.parametrize("name", ["text_image_trained", "text_image_held_out"])
def test_names_are_answered_by_pictures_of_that_name_or_alike(tasks, name):
    twins = picture_twins("twemoji")
    task = tasks[name]
    for query_id, relevant in task.relevant.items():
        for other in task.corpus:
            same_name = BY_ID[other].names["en"] == text(task.queries[query_id])
            is_twin = other in twins[query_id]
            if same_name or is_twin:
                assert other in relevant
    assert {query_id in relevant for query_id, relevant in task.relevant.items()} == {True}


def test_pictures_are_asked_by_one_vendor_and_found_by_the_other(tasks):
    pictures = {vendor: {one.pictures[vendor] for one in load_emoji()} for vendor in VENDORS}
    for name in ("image_image_trained", "image_image_held_out"):
        for items, vendor in ((tasks[name].queries, "noto"), (tasks[name].corpus, "twemoji")):
            assert {item.parts[0].source for item in items.values()} <= pictures[vendor]


def test_a_picture_has_one_right_name_among_names_of_other_things(tasks):
    task, twins = tasks["image_name"], picture_twins("twemoji")
    places = Counter()
    for query_id, pool in task.pools.items():
        assert list(task.relevant[query_id]) == [query_id]
        assert len({text(task.corpus[name]) for name in pool}) == len(pool)
        others = [BY_ID[name] for name in pool if name != query_id]
        assert all(one.family != BY_ID[query_id].family for one in others)
        assert {one.group for one in others} == {BY_ID[query_id].group}
        assert not set(twins[query_id]) & {one.id for one in others}
        places[pool.index(query_id)] += 1
    assert max(places.values()) < 0.25 * len(task.pools)  # the place tells nothing


def test_groups_are_those_of_the_table(tasks):
    task = tasks["image_group"]
    assert {text(item) for item in task.corpus.values()} == {
        one.group for one in load_emoji() if one.group != "Component"
    }
    assert all(list(found) == [BY_ID[name].group] for name, found in task.relevant.items())


def test_a_question_asks_for_the_german_one_of_two_different_names(tasks):
    task = tasks["image_question"]
    assert {item.modality for item in task.queries.values()} == {"image+text"}
    texts = [text(item).casefold() for item in task.corpus.values()]
    assert len(set(texts)) == len(texts)
    for query_id, relevant in task.relevant.items():
        (answer,) = relevant
        assert text(task.corpus[answer]) == BY_ID[query_id].names["de"]
        assert text(task.corpus[f"en/{query_id}"]) == BY_ID[query_id].names["en"]


def test_motions_of_one_clip_compete_with_each_other(tasks):
    task = tasks["video_motion"]
    for query_id, pool in task.pools.items():
        assert list(task.relevant[query_id]) == [query_id]
        assert query_id in pool
        assert {name.rpartition("/")[0] for name in pool} == {query_id.rpartition("/")[0]}
    composed = tasks["image_text_video"]
    assert set(composed.queries) == set(task.queries) < set(composed.corpus)
    for item in composed.queries.values():
        assert "this" in item.parts[1].text


def test_grades_say_how_near_two_emoji_are(tasks):
    for name in ("similarity_en", "similarity_en_de"):
        task = tasks[name]
        assert Counter(task.scores.values()) == {3.0: 60, 2.0: 60, 1.0: 60, 0.0: 60}
        language = name.rpartition("_")[2]
        described = {}
        for one in load_emoji():
            if language == "de":
                described.setdefault(one.names.get("de"), set()).add(one.id)
            else:
                words = one.keywords.get("en", ())
                kept = [word for word in words if word != one.names["en"]] or words
                described.setdefault(", ".join(kept), set()).add(one.id)
        for pair_id, (first, second) in task.pairs.items():
            anchor, grade = BY_ID[pair_id.rpartition("/")[0]], task.scores[pair_id]
            assert text(first) == anchor.names["en"]
            found = [BY_ID[each] for each in described[text(second)]]
            nearness = {
                3 if one.id == anchor.id
                else 2 if one.subgroup == anchor.subgroup
                else 1 if one.group == anchor.group
                else 0
                for one in found
            }  # fmt: skip
            assert grade in nearness


def test_an_unknown_task_is_answered_with_the_known_ones():
    with pytest.raises(DataError, match="text_image_trained"):
        EmojiSuite().load("text_image")
