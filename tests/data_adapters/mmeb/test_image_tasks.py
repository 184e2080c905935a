"""The 36 image data sets: five rows in the sources' format become exactly the expected items.

`tests/golden/mmeb_image.json` was made from the formulas of the specification (1.3, 1.7), not with
the adapter.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from data_adapters.mmeb.catalog import load_entries
from data_adapters.mmeb.suite import MMEB
from mmembed.evaluation.profiles import load_profile
from mmembed.inputs.prompt import Placeholder, UserText, load_template
from mmembed.tasks import Profile, RetrievalTask, TaskSource
from mmembed.types import Image, MultimodalInput, Text
from tests.data_adapters.mmeb.image_rows import (
    SOURCES,
    rows_of,
    write_instruct,
    write_merged,
)

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden" / "mmeb_image.json").read_text(encoding="utf-8")
)
PROFILES = {name: load_profile(name) for name in ("rzen", "vlm2vec", "qwen3vl")}
CLEAN = PROFILES["rzen"]
NAMES = tuple(SOURCES)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mmeb")
    for name in NAMES:
        write_instruct(folder, name)
    return folder


@pytest.fixture(scope="module")
def older_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mmeb_eval")
    for name in NAMES:
        write_merged(folder, name)
    return folder


def load(root: Path, name: str, profile: Profile = CLEAN, **options: Any) -> RetrievalTask:
    suite = MMEB(root, profile, version="v1", check_counts=False, **options)
    task = suite.load(name).task
    assert isinstance(task, RetrievalTask)
    return task


def plain(item: MultimodalInput, root: Path) -> dict[str, str | None]:
    """An item as the goldens write it; the picture comes before the text."""
    found: dict[str, str | None] = {"instruction": item.instruction, "image": None, "text": None}
    assert [type(part) for part in item.parts] in ([Image], [Text], [Image, Text])
    for part in item.parts:
        if isinstance(part, Text):
            found["text"] = part.text
        elif isinstance(part, Image):
            assert isinstance(part.source, Path) and part.source.is_file()
            found["image"] = "/".join(part.source.relative_to(root).parts[1:])
    return found


def without_root(task: RetrievalTask, root: Path) -> dict[str, Any]:
    return {
        "queries": {key: plain(item, root) for key, item in task.queries.items()},
        "corpus": {key: plain(item, root) for key, item in task.corpus.items()},
        "relevant": task.relevant,
        "pools": task.pools,
    }


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", NAMES)
def test_five_rows_become_the_expected_items(root: Path, name: str, profile: str) -> None:
    task = load(root, name, PROFILES[profile])
    assert task.pools is not None
    found = [
        {
            **plain(query, root),
            "relevant": next(iter(task.relevant[key])),
            "pool": list(task.pools[key]),
        }
        for key, query in task.queries.items()
    ]
    expected = GOLDEN[name][profile]
    assert found == expected["queries"]
    assert {key: plain(item, root) for key, item in task.corpus.items()} == expected["documents"]
    assert all(grades == {key: 1.0 for key in grades} for grades in task.relevant.values())
    assert (task.query_instruction, task.document_instruction) == (None, None)


# First queries and candidates as the reference writes them, behind its picture token.
FIRST_WORDS = {
    "N24News": (
        "\nRepresent the given news image with the following caption for domain classification: "
        "A new wing. \n",
        "Travel",
    ),
    "SUN397": ("\nIdentify the scene shown in the image\n", "firing range indoor"),
    "OK-VQA": (
        "\nRepresent the given image with the following question: What sport is this?\n",
        "race",
    ),
    "VisDial": (
        "Represent the given dialogue about an image, which is used for image retrieval: "
        "Q:is it in color\nA:yes\n\n",
        "\nRepresent the given image\n",
    ),
    "NIGHTS": (
        "\nFind a day-to-day image that looks similar to the provided image.\n",
        "\nRepresent the given image.\n",
    ),
    "WebQA": (
        "Find a Wikipedia image that answers this question: Is the petal cup-shaped?\n",
        '\nRepresent the given Wikipedia image with related text information: "Flower" at dusk.\n',
    ),
    "MSCOCO": (
        '\nCrop the image to to isolate the object labeled as "dog"\n',
        "\nRepresent the given cropped image of the object",
    ),
    "RefCOCO-Matching": (
        '\nSelect the portion of the image that follows the language expressions: "cup left"\n',
        "\nSelect the portion of the image that follows the language expressions: "
        '"Dish in corner"\n',
    ),
}


@pytest.mark.parametrize("name", FIRST_WORDS)
def test_instruction_and_text_in_one_string_are_those_of_the_reference(
    root: Path, name: str
) -> None:
    task = load(root, name, PROFILES["vlm2vec"])
    query = next(iter(task.queries))
    positive = next(iter(task.relevant[query]))
    words = [plain(item, root)["text"] for item in (task.queries[query], task.corpus[positive])]
    assert tuple(words) == FIRST_WORDS[name]


def test_the_template_puts_nothing_between_a_picture_and_the_text(root: Path) -> None:
    query = next(iter(load(root, "NIGHTS", PROFILES["vlm2vec"]).queries.values()))
    words = query.parts[1]
    assert isinstance(words, Text)
    template = load_template(PROFILES["vlm2vec"].template or "")
    prompt = template.text(template.render([Placeholder("image"), UserText(words.text)]))
    expected = "Find a day-to-day image that looks similar to the provided image."
    assert prompt == f"<|image_pad|>\n{expected}\n"


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", NAMES)
def test_the_older_form_makes_the_same_task(
    root: Path, older_root: Path, name: str, profile: str
) -> None:
    newer = without_root(load(root, name, PROFILES[profile]), root)
    assert without_root(load(older_root, name, PROFILES[profile]), older_root) == newer
    merged = load(older_root, name, PROFILES[profile], form="merged")
    assert without_root(merged, older_root) == newer


@pytest.mark.parametrize("name", ["VOC2007", "OK-VQA", "WebQA", "RefCOCO-Matching"])
def test_the_order_of_rows_changes_no_item(root: Path, tmp_path: Path, name: str) -> None:
    rows = rows_of(name)
    random.Random(3).shuffle(rows)
    assert rows != rows_of(name)
    write_instruct(tmp_path, name, rows)
    assert without_root(load(tmp_path, name), tmp_path) == without_root(load(root, name), root)


def test_ids_do_not_say_which_candidate_is_right(root: Path, tmp_path: Path) -> None:
    rows = rows_of("CIRR")
    for row in rows:
        for column in ("tgt_text", "tgt_img_path"):
            row[column] = [*row[column][1:], row[column][0]]
    write_instruct(tmp_path, "CIRR", rows)
    assert set(load(tmp_path, "CIRR").corpus) == set(load(root, "CIRR").corpus)


@pytest.mark.parametrize("profile", ["rzen", "qwen3vl"])
def test_white_space_in_a_text_is_kept(root: Path, profile: str) -> None:
    """EV-8."""
    for name in ("VisDial", "N24News", "OK-VQA", "VizWiz", "CIRR"):
        texts = [
            plain(item, root)["text"]
            for item in load(root, name, PROFILES[profile]).queries.values()
        ]
        assert texts == list(SOURCES[name].texts)


@pytest.mark.parametrize("name", ["WebQA", "EDIS"])
def test_captions_of_one_picture_are_two_candidates_unless_the_defect_is_wanted(
    root: Path, name: str
) -> None:
    """Defect (c) of the reference: the first caption wins."""
    clean = load(root, name)
    defect = load(root, name, PROFILES["vlm2vec"])
    assert len(clean.corpus) == 5
    assert len(defect.corpus) == 4
    assert all(":" not in key for key in defect.corpus)


def test_objects_in_one_picture_are_told_apart_by_their_captions(root: Path) -> None:
    for profile in PROFILES.values():
        assert len(load(root, "RefCOCO-Matching", profile).corpus) == 5


def test_equal_labels_in_a_pool_are_one_candidate(root: Path) -> None:
    task = load(root, "ImageNet-1K")
    assert task.pools is not None
    assert sorted(task.corpus) == ["coucal", "crane", "goldfish", "tench, Tinca tinca"]
    assert all(len(pool) == len(set(pool)) for pool in task.pools.values())


def test_equal_rows_are_two_queries(tmp_path: Path) -> None:
    write_instruct(tmp_path, "VOC2007", [rows_of("VOC2007")[0]] * 2)
    task = load(tmp_path, "VOC2007")
    assert len(task.queries) == len(task.relevant) == 2


def test_the_annotation_file_is_reported(root: Path) -> None:
    loaded = MMEB(root, CLEAN, check_counts=False).load("GQA")
    assert [file.name for file in loaded.files] == ["test-00000-of-00001.parquet"]
    assert loaded.missing == ()


def test_version_one_is_the_image_part_of_version_two() -> None:
    newer, older = MMEB(None, CLEAN), MMEB(None, CLEAN, version="v1")
    assert isinstance(newer, TaskSource)
    assert len({card.name for card in newer.cards()}) == 78
    cards = [card for card in newer.cards() if card.modality == "image"]
    assert list(older.cards()) == cards
    assert [card.name for card in cards] == list(NAMES)


def test_the_image_cards_state_provenance_counts_and_groups() -> None:
    image = [entry for entry in load_entries() if entry.card.modality == "image"]
    counts: dict[str, int] = {}
    for entry in image:
        card = entry.card
        counts[card.group] = counts.get(card.group, 0) + 1
        assert card.source == f"ziyjiang/MMEB_Test_Instruct / {card.name} / test"
        assert (card.num_queries, card.main_metric, card.has_pools) == (1000, "hit@1", True)
        assert "Unknown" in card.note and card.revision is None and card.license is None
        assert entry.family == SOURCES[card.name].family
    assert counts == {"I-CLS": 10, "I-QA": 10, "I-RET": 12, "I-GD": 4}
    splits = [entry.card.split for entry in image]
    assert (splits.count("IND"), splits.count("OOD")) == (20, 16)
    small = {e.card.name: e.card.num_documents for e in image if e.card.num_documents != 1000}
    assert small == {
        "N24News": 24, "HatefulMemes": 2, "VOC2007": 20, "SUN397": 397, "Place365": 365,
        "ImageNet-R": 200, "ObjectNet": 313, "Country211": 211,
    }  # fmt: skip
