"""What is encoded, and under which name (EV-30, EV-31, EV-36)."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmembed.errors import DataError
from mmembed.evaluation.plan import Plan, make_plan
from mmembed.tasks import LoadedTask, Profile, RetrievalTask, TaskCard
from mmembed.types import Image, MultimodalInput, Page, Text, Video
from tests.evaluation.fixture_suite import FixtureSuite, text, write_data

CARD = TaskCard("t", "text", "T", "hit@1", source="a test")


def plan_of(*tasks: RetrievalTask) -> Plan:
    return make_plan(
        {task.name: (replace(CARD, name=task.name), LoadedTask(task)) for task in tasks}
    )


def one(query: MultimodalInput, instruction: str | None = None) -> Plan:
    document = text("the document")
    relevant = {"q": {"d": 1.0}}
    return plan_of(RetrievalTask("t", {"q": query}, {"d": document}, relevant, instruction))


def test_a_hundred_equal_pictures_under_two_names_in_two_tasks_are_one_item(tmp_path: Path) -> None:
    source = write_data(tmp_path / "data", pictures=1) / "pictures" / "p0.png"
    tasks = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        corpus = {}
        for number in range(50):
            path = tmp_path / name / f"{name}{number}.png"
            shutil.copy(source, path)
            corpus[f"{name}{number}"] = MultimodalInput((Image(path),))
        tasks.append(RetrievalTask(name, {"q": text(name)}, corpus, {"q": {f"{name}0": 1.0}}))
    plan = plan_of(*tasks)
    assert plan.asked == 102
    assert len(plan.items) == 3
    assert len({*plan.rows["first"][1], *plan.rows["second"][1]}) == 1


def test_a_file_is_found_again_under_another_name(tmp_path: Path) -> None:
    path = write_data(tmp_path) / "pictures" / "p0.png"
    before = one(MultimodalInput((Image(path),)))
    moved = path.rename(tmp_path / "moved.png")
    assert one(MultimodalInput((Image(moved),))).items.keys() == before.items.keys()


@pytest.mark.parametrize(
    "changed",
    [
        text("a b "),
        text("a b", "an instruction"),
        text("A b"),
        MultimodalInput((Text("a"), Text(" b"))),
        MultimodalInput((Image(np.zeros((4, 4, 3), np.uint8)), Text("a b"))),
    ],
    ids=["space", "instruction", "case", "parts", "picture"],
)
def test_any_change_of_an_item_misses(changed: MultimodalInput) -> None:
    keys = {plan.rows["t"][0] for plan in (one(text("a b")), one(changed))}
    assert len(keys) == 2


def test_an_instruction_of_the_task_counts_unless_the_item_brings_its_own() -> None:
    assert one(text("a"), "find").rows == one(text("a", "find"), "another").rows
    assert one(text("a"), "find").rows["t"][0] != one(text("a")).rows["t"][0]


def test_the_same_text_as_query_and_as_document_are_two_items() -> None:
    same = text("same")
    plan = plan_of(RetrievalTask("t", {"q": same}, {"d": same}, {"q": {"d": 1.0}}))
    assert len(plan.items) == 2
    assert {item.role for item in plan.items.values()} == {"query", "document"}


def test_frames_budgets_and_pages_are_part_of_the_name(tmp_path: Path) -> None:
    frames = tuple(sorted((write_data(tmp_path) / "clips" / "c0").iterdir()))
    page = tmp_path / "a.pdf"
    page.write_bytes(b"%PDF-1.4 not opened here")
    items = [
        MultimodalInput((part,))
        for part in (
            Video(frames),
            Video(frames[:-1]),
            Video(frames[::-1]),
            Video(frames, max_tokens=64),
            Image(frames[0]),
            Image(frames[0], max_tokens=64),
            Page(page, "1"),
            Page(page, "2"),
        )
    ]
    assert len({one(item).rows["t"][0] for item in items}) == len(items)


def test_a_profile_with_fewer_frames_or_other_prompts_names_other_items(tmp_path: Path) -> None:
    write_data(tmp_path)

    def keys(task: str, profile: Profile) -> tuple[tuple[str, ...], ...]:
        loaded = FixtureSuite(tmp_path, profile).load(task)
        return make_plan({task: (CARD, loaded)}).rows[task]

    plain = Profile("plain")
    assert keys("clips", plain) != keys("clips", replace(plain, num_frames=2))
    assert keys("words", plain) != keys("words", replace(plain, prompts={"words": "Find:"}))
    assert keys("words", plain) == keys("words", replace(plain, name="other", num_frames=2))


def test_shards_are_of_one_kind_and_role_and_small_where_items_are_slow() -> None:
    documents = {f"t{n}": text(f"text {n}") for n in range(2049)}
    pixels = np.zeros((2, 2, 3), np.uint8)
    for number in range(40):
        frames = (np.full((2, 2, 3), number, np.uint8), pixels)
        documents[f"v{number}"] = MultimodalInput((Video(frames),))
    documents["i"] = MultimodalInput((Image(pixels), Text("with a text")))
    task = RetrievalTask("t", {"q": text("text 0")}, documents, {"q": {"i": 1.0}})
    plan = plan_of(task)
    shards = plan.shards()
    assert [(len(shard.keys), shard.role) for shard in shards] == [
        (32, "document"),
        (8, "document"),
        (1, "document"),
        (1, "query"),
        (2048, "document"),
        (1, "document"),
    ]
    assert [shard.index for shard in shards] == list(range(6))
    assert sorted(key for shard in shards for key in shard.keys) == sorted(plan.items)
    assert shards == plan_of(task).shards()


def test_the_hash_of_a_plan_is_that_of_everything_that_decides_a_result() -> None:
    task = RetrievalTask("t", {"q": text("a")}, {"d": text("b"), "e": text("c")}, {"q": {"d": 1.0}})
    changes = [
        task,
        replace(task, queries={"q": text("A")}),
        replace(task, queries={"r": text("a")}, relevant={"r": {"d": 1.0}}),
        replace(task, relevant={"q": {"d": 2.0}}),
        replace(task, relevant={"q": {"e": 1.0}}),
        replace(task, pools={"q": ["d", "e"]}),
        replace(task, pools={"q": ["e", "d"]}),
        replace(task, document_instruction="x"),
    ]
    plans = [plan_of(changed) for changed in changes]
    plans.append(make_plan({"t": (replace(CARD, main_metric="hit@5"), LoadedTask(task))}))
    plans.append(make_plan({"t": (CARD, LoadedTask(task, missing=("a.png",)))}))
    assert len({plan.sha256 for plan in plans}) == len(plans)
    other = replace(task, name="u")
    assert plan_of(task, other).sha256 == plan_of(other, task).sha256


def test_a_file_that_cannot_be_read_is_named_with_its_item(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t: query 'q': .*gone\.png.*not_found"):
        one(MultimodalInput((Image(tmp_path / "gone.png"),)))
