"""Small tasks of every kind, written as users of mteb write them."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from PIL import Image, ImageDraw

WORDS = ("a red apple", "first a dog, then a car", "rain", "the grinning face of a cat", "sebze")


def metadata(name: str, category: str, **others: Any) -> TaskMetadata:
    letters = {"t": "text", "i": "image", "v": "video"}
    fields: dict[str, Any] = {
        "dataset": {"path": "nowhere/at-all", "revision": "1"},
        "name": name,
        "description": name,
        "type": "Any2AnyRetrieval",
        "category": category,
        "modalities": sorted({letters[letter] for letter in category if letter in letters}),
        "eval_langs": ["eng-Latn"],
        "main_score": "ndcg_at_10",
        "date": ("2020-01-01", "2020-01-02"),
        "domains": ["Constructed"],
        "task_subtypes": [],
        "license": "not specified",
        "annotations_creators": "derived",
        "dialect": [],
        "sample_creation": "found",
        "bibtex_citation": "",
    }
    return TaskMetadata(**fields | others)


def picture(number: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    """Pictures that differ for the tiny model."""
    red, green, blue = colorsys.hsv_to_rgb((number * 0.37) % 1, 0.9, 0.9)
    drawn = Image.new("RGB", size, (int(red * 255), int(green * 255), int(blue * 255)))
    draw = ImageDraw.Draw(drawn)
    draw.rectangle((number * 3 % 20, number * 5 % 16, number * 3 % 20 + 14, 30), fill="black")
    draw.line((0, number * 7 % 32, 40, number * 11 % 32), fill="white", width=2)
    return drawn


def local_task(
    name: str,
    category: str,
    corpus: Mapping[str, Any],
    queries: Mapping[str, Any],
    relevant: Mapping[str, Mapping[str, int]],
    *,
    top_ranked: Mapping[str, Sequence[str]] | None = None,
    features: Mapping[str, Any] | None = None,
    **fields: Any,
) -> AbsTaskRetrieval:
    """`corpus` and `queries` are columns."""

    def table(columns: Mapping[str, Any]) -> datasets.Dataset:
        kinds = {"image": datasets.Image(), "video": datasets.List(datasets.Image())}
        types = {
            column: (features or {}).get(column) or kinds.get(column, datasets.Value("string"))
            for column in columns
        }
        return datasets.Dataset.from_dict(dict(columns), features=datasets.Features(types))

    def load_data(self: Any, num_proc: int | None = None, **kwargs: Any) -> None:
        self.dataset = {
            "default": {
                "test": {
                    "corpus": table(corpus),
                    "queries": table(queries),
                    "relevant_docs": {query: dict(each) for query, each in relevant.items()},
                    "top_ranked": None if top_ranked is None else dict(top_ranked),
                }
            }
        }
        self.data_loaded = True

    members = {"metadata": metadata(name, category, **fields), "load_data": load_data}
    task: AbsTaskRetrieval = type(name, (AbsTaskRetrieval,), members)()
    return task


def ids(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def text_task(**fields: Any) -> AbsTaskRetrieval:
    corpus = {"id": ids("d", 5), "text": list(WORDS), "title": ["", "dog", "", "", ""]}
    queries = {"id": ids("q", 3), "text": ["an apple", "car", "ein roter Apfel"]}
    relevant = {"q0": {"d0": 1}, "q1": {"d1": 1}, "q2": {"d0": 1, "d4": 1}}
    fields = {"type": "Retrieval", "prompt": {"query": "Find it: "}} | fields
    return local_task("LocalText", "t2t", corpus, queries, relevant, **fields)


def image_task() -> AbsTaskRetrieval:
    corpus = {"id": ids("d", 7), "image": [picture(number) for number in range(7)]}
    queries = {"id": ids("q", 3), "text": list(WORDS[:3])}
    relevant = {f"q{number}": {f"d{number}": 1} for number in range(3)}
    return local_task("LocalImage", "t2i", corpus, queries, relevant)


def composed_task() -> AbsTaskRetrieval:
    """A picture and a change, graded answers, several of them."""
    corpus = {"id": ids("d", 6), "image": [picture(number) for number in range(6)]}
    queries = {
        "id": ids("q", 3),
        "image": [picture(number + 10) for number in range(3)],
        "text": ["but red", "moving left", ""],
    }
    relevant = {"q0": {"d0": 2, "d3": 1}, "q1": {"d1": 1, "d2": 3}, "q2": {"d5": 1}}
    return local_task("LocalComposed", "it2i", corpus, queries, relevant)


def video_task() -> AbsTaskRetrieval:
    """Clips are lists of frames, of different lengths."""
    clips = [[picture(10 * number + k) for k in range(1 + 5 * number)] for number in range(4)]
    corpus = {"id": ids("d", 4), "video": clips}
    queries = {"id": ids("q", 3), "text": list(WORDS[:3])}
    relevant = {f"q{number}": {f"d{number}": 1} for number in range(3)}
    return local_task("LocalVideo", "t2v", corpus, queries, relevant)


def pool_task() -> AbsTaskRetrieval:
    """Each query has its own candidates."""
    corpus = {"id": ids("d", 5), "text": list(WORDS)}
    queries = {"id": ids("q", 3), "image": [picture(number) for number in range(3)]}
    pools = {"q0": ["d0", "d1"], "q1": ["d4", "d1", "d2"], "q2": ["d3", "d4"]}
    relevant = {"q0": {"d0": 1}, "q1": {"d1": 1}, "q2": {"d3": 1}}
    return local_task(
        "LocalPools", "i2t", corpus, queries, relevant, top_ranked=pools, type="VisionCentricQA"
    )


def write_snapshot(
    folder: Path,
    *,
    is_text: bool = False,
    top_ranked: bool = False,
    instruction: bool = False,
) -> None:
    """A hub repository of a retrieval task: parquet files and a README that names them."""
    documents = {"image": [picture(number) for number in range(5)]}
    tables: dict[str, dict[str, list[Any]]] = {
        "corpus": {"id": ids("d", 5), **({"text": list(WORDS)} if is_text else documents)},
        "queries": {"id": ids("q", 3), "text": list(WORDS[:3])},
        "qrels": {"query-id": ids("q", 3), "corpus-id": ids("d", 3), "score": [1, 1, 1]},
    }
    if top_ranked:
        tables["top_ranked"] = {
            "query-id": ids("q", 3),
            "corpus-ids": [["d0", "d4"], ["d1", "d2", "d3"], ["d2", "d0"]],
        }
    if instruction:
        tables["instruction"] = {"query-id": ids("q", 3), "instruction": ["one", "two", "three"]}
    lines = ["---", "configs:"]
    for name, columns in tables.items():
        table = datasets.Dataset.from_dict(columns)
        if "image" in columns:
            table = table.cast_column("image", datasets.Image())
        (folder / name).mkdir(parents=True)
        table.to_parquet(folder / name / "test-00000-of-00001.parquet")
        lines += [f"- config_name: {name}", "  data_files:"]
        lines += ["  - split: test", f"    path: {name}/test-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", "# data\n"]))


class FolderTask(AbsTaskRetrieval):
    """Loaded by mteb's own loader from a repository, or from the folder that replaces it."""

    metadata = metadata(
        "LocalFolder", "t2i", dataset={"path": "test/folder-task", "revision": "abc123"}
    )
