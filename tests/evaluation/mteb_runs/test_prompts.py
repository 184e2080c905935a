"""Which instruction goes with which side of which task (EV-22, EV-26)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mteb
import pytest
from mteb.types import PromptType

from mmembed.errors import ConfigError
from mmembed.evaluation.mteb_runs.prompts import (
    PromptEntry,
    Prompts,
    PromptTable,
    load_prompts,
    side_of,
    table_names,
    tasks_without_entry,
)
from tests.evaluation.mteb_runs.mteb_data import metadata

TABLE = PromptTable(
    name="test",
    source="this file",
    tasks={
        "Named": PromptEntry(query="by name", document="document by name"),
        "Both": PromptEntry(query="for both", symmetric=True),
        "Flagged": PromptEntry(symmetric=True),
        "Bare": PromptEntry(query=""),
    },
    types={"STS": PromptEntry(query="by type"), "Reranking": PromptEntry(document="by type")},
    categories={"t2i": PromptEntry(query="by category")},
)
NOTHING = "its own default"  # of the model: the item brings no instruction


def resolve(prompts: Prompts, side: Any, **fields: Any) -> str:
    fields = {"name": "Other", "type": "Retrieval", "category": "t2t"} | fields
    found = prompts.instruction(metadata(**fields), side)
    return NOTHING if found is None else found


@pytest.mark.parametrize(
    ("fields", "query", "document"),
    [
        ({"name": "Named", "prompt": "of mteb"}, "by name", "document by name"),
        ({"name": "Named", "type": "STS"}, "by name", "by name"),
        ({"name": "Both"}, "for both", "for both"),
        ({"name": "Flagged", "prompt": "of mteb"}, "of mteb", "of mteb"),
        ({"name": "Bare", "prompt": "of mteb"}, "", NOTHING),
        ({"type": "STS", "prompt": "of mteb"}, "by type", "by type"),
        ({"type": "Reranking", "prompt": "of mteb"}, "of mteb", "by type"),
        ({"category": "t2i", "type": "Any2AnyRetrieval"}, "by category", NOTHING),
        ({"prompt": "of mteb"}, "of mteb", NOTHING),
        ({"prompt": {"query": "of mteb"}}, "of mteb", NOTHING),
        ({"prompt": {"document": "of mteb"}}, NOTHING, "of mteb"),
        ({"prompt": {"query": "of mteb"}, "type": "Summarization"}, "of mteb", "of mteb"),
        ({}, NOTHING, NOTHING),
    ],
)
def test_name_then_type_then_category_then_mteb_then_the_model(
    fields: dict[str, Any], query: str, document: str
) -> None:
    prompts = Prompts("table", TABLE)
    assert resolve(prompts, "query", **fields) == query
    assert resolve(prompts, "document", **fields) == document


def test_none_is_no_instruction_and_task_is_that_of_mteb() -> None:
    for side in ("query", "document"):
        assert resolve(Prompts("none"), side, prompt="of mteb") == ""
    assert resolve(Prompts("task"), "query", name="Named", prompt="of mteb") == "of mteb"
    assert resolve(Prompts("task"), "document", prompt="of mteb") == NOTHING


def test_a_format_is_written_around_every_instruction_that_there_is() -> None:
    table = TABLE.model_copy(update={"format": "Instruct: {instruction}\nQuery: "})
    prompts = Prompts("table", table)
    assert resolve(prompts, "query", name="Named") == "Instruct: by name\nQuery: "
    assert resolve(prompts, "query", prompt="of mteb") == "Instruct: of mteb\nQuery: "
    assert resolve(prompts, "query", name="Bare") == ""
    assert resolve(prompts, "query") == NOTHING


@pytest.mark.parametrize("kind", ["STS", "PairClassification", "BitextMining", "Summarization"])
def test_symmetric_types_have_queries_only(kind: str) -> None:
    task = metadata("Some", "t2t", type=kind)
    assert {side_of(task, each) for each in (None, *PromptType)} == {"query"}


def test_other_types_have_the_side_that_mteb_names() -> None:
    task = metadata("Some", "t2t", type="Retrieval")
    assert side_of(task, PromptType.document) == side_of(task, "document") == "document"
    assert side_of(task, PromptType.query) == side_of(task, None) == "query"
    assert side_of(task, None, is_label=True) == "document"


def test_every_shipped_table_names_tasks_types_and_categories_of_mteb() -> None:
    from typing import get_args

    from mteb.abstasks.task_metadata import TaskCategory, TaskType
    from mteb.get_tasks import _TASKS_REGISTRY

    assert table_names() == ["kalm", "qwen3", "qzhou", "rzenembed", "vlm2vec"]
    for name in table_names():
        prompts = load_prompts(f"table:{name}")
        assert prompts.table is not None
        assert prompts.table.name == name and prompts.table.source
        assert set(prompts.table.tasks) <= set(_TASKS_REGISTRY)
        assert set(prompts.table.types) <= set(get_args(TaskType))
        assert set(prompts.table.categories) <= set(get_args(TaskCategory))


@pytest.mark.parametrize(
    ("table", "task", "query", "document"),
    [
        ("qwen3", "STS12", "Retrieve semantically similar text", "Retrieve semantically similar "
         "text"),
        ("kalm", "STSBenchmark", "Retrieve semantically similar text", "Retrieve semantically "
         "similar text"),
        ("rzenembed", "VidoreArxivQARetrieval", "Find a document image that matches the given "
         "query: ", "Understand the content of the provided document image."),
        ("vlm2vec", "MSVDT2VRetrieval", "Find the video snippet that corresponds to the given "
         "summary:", "Understand the content of the provided video."),
        ("vlm2vec", "MSVDV2TRetrieval", "Understand the content of the provided video.",
         "Find the video snippet that corresponds to the given summary:"),
        ("vlm2vec", "HMDB51ZeroShot", "What actions or objects interactions are the person in the "
         "video doing?", ""),
    ],
)  # fmt: skip
def test_tables_have_the_strings_of_their_sources(
    table: str, task: str, query: str, document: str
) -> None:
    prompts, found = load_prompts(f"table:{table}"), mteb.get_task(task).metadata
    assert prompts.instruction(found, "query") == query
    assert prompts.instruction(found, "document") == document


def test_a_symmetric_task_instructs_both_sides_with_mtebs_words() -> None:
    prompts, found = load_prompts("table:qzhou"), mteb.get_task("ArguAna").metadata
    assert found.prompt == {"query": "Given a claim, find documents that refute the claim"}
    assert prompts.instruction(found, "document") == found.prompt["query"]


def test_the_table_of_the_scripts_covers_the_two_benchmarks_they_ran() -> None:
    loaded = load_prompts("table:qzhou").table
    assert loaded is not None
    lacking = [
        task
        for benchmark in ("MTEB(eng, v2)", "MTEB(cmn, v1)")
        for task in tasks_without_entry(loaded, mteb.get_benchmark(benchmark).tasks)
    ]
    # tasks that mteb renewed since; its own words are those that the table has for the old ones
    assert lacking == ["MedrxivClusteringP2P.v2", "MedrxivClusteringS2S.v2"]
    for name in lacking:
        words = loaded.tasks[name.removesuffix(".v2")].query
        assert (
            load_prompts("table:qzhou").instruction(mteb.get_task(name).metadata, "query") == words
        )


def test_the_lint_lists_tasks_whose_queries_have_no_entry() -> None:
    tasks = [mteb.get_task(name) for name in ("STS12", "SciFact", "ArguAna")]
    for table, lacking in {"qwen3": ["SciFact", "ArguAna"], "kalm": []}.items():
        loaded = load_prompts(f"table:{table}").table
        assert loaded is not None
        assert tasks_without_entry(loaded, tasks) == lacking


def test_the_name_of_a_setting_changes_with_its_strings(tmp_path: Path) -> None:
    names = set()
    for number in range(2):
        path = tmp_path / "own.json"
        path.write_text(json.dumps(
            {"name": "own", "source": "me", "tasks": {"SciFact": {"query": f"words {number}"}}}
        ))  # fmt: skip
        names.add(load_prompts(f"table:{path}").name)
    assert len(names) == 2
    assert all(name.startswith("table-own-") for name in names)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("some", "allowed are none, task"),
        ("table:", "allowed are none, task"),
        ("table:qwen", "did you mean 'qwen3'"),
        ("table:{}/list.json", "holds no JSON object"),
        ("table:{}/unknown.json", "unknown"),
        ("table:{}/places.json", "{instruction} once"),
        ("table:{}/broken.json", "is not JSON"),
    ],
)
def test_a_wrong_setting_is_refused(setting: str, message: str, tmp_path: Path) -> None:
    fine = {"name": "x", "source": "y"}
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "unknown.json").write_text(json.dumps(fine | {"task": {}}))
    (tmp_path / "places.json").write_text(json.dumps(fine | {"format": "no place"}))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError) as caught:
        load_prompts(setting.format(tmp_path))
    assert message in str(caught.value)
