"""The 36 image data sets: five rows in the sources' format become exactly the expected items.

`tests/golden/mmeb_image.json` was made from the formulas of the specification (1.3, 1.7), not with
the adapter.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from data_adapters.mmeb.catalog import load_entries
from data_adapters.mmeb.suite import MMEB
from mmembed.errors import ConfigError, EvaluationDataError
from mmembed.evaluation.profiles import load_profile
from mmembed.inputs.prompt import Placeholder, UserText, load_template
from mmembed.tasks import Profile, RetrievalTask, TaskSource
from mmembed.types import Image, MultimodalInput, Text
from tests.data_adapters.mmeb.image_rows import (
    SOURCES,
    merged_rows_of,
    rows_of,
    write_instruct,
    write_merged,
    write_table,
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


def test_missing_media_fail_with_the_whole_list(tmp_path: Path) -> None:
    """EV-4."""
    write_instruct(tmp_path, "CIRR")
    gone = ["image-tasks/CIRR/query_2.jpg", "image-tasks/CIRR/target_4.png"]
    for path in gone:
        (tmp_path / path).unlink()
    suite = MMEB(tmp_path, CLEAN, version="v1", check_counts=False)
    with pytest.raises(EvaluationDataError, match=r"CIRR: 2 media .*query_2\.jpg") as caught:
        suite.load("CIRR")
    assert sorted(caught.value.missing) == gone

    loaded = suite.load("CIRR", allow_missing=True)
    task = loaded.task
    assert isinstance(task, RetrievalTask) and task.pools is not None
    assert sorted(loaded.missing) == gone
    # Row 2 has no picture, the right candidate of row 4 has none.
    assert len(task.queries) == 3
    assert "CIRR/target_4.png:" not in task.corpus
    assert {key for pool in task.pools.values() for key in pool} <= set(task.corpus)


def test_a_long_list_of_missing_media_is_cut_in_the_message_only(tmp_path: Path) -> None:
    rows = rows_of("VOC2007") * 10
    for number, row in enumerate(rows):
        rows[number] = {**row, "qry_img_path": f"VOC2007/query_{number}.jpg"}
    write_table(
        tmp_path / "annotations/ziyjiang/MMEB_Test_Instruct/VOC2007/test-00000-of-00001.parquet",
        rows,
    )
    with pytest.raises(EvaluationDataError, match=r"50 media .* and 30 more") as caught:
        load(tmp_path, "VOC2007")
    assert len(caught.value.missing) == 50
    assert str(caught.value).count(".jpg") == 20


@pytest.mark.parametrize("folder", ["image-tasks/MMEB", "MMEB", "eval_images", "."])
def test_images_are_found_wherever_the_archive_was_unpacked(tmp_path: Path, folder: str) -> None:
    write_instruct(tmp_path, "NIGHTS")
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "image-tasks" / "NIGHTS").rename(tmp_path / folder / "NIGHTS")
    assert len(load(tmp_path, "NIGHTS").queries) == 5


@pytest.mark.parametrize("path", ["../../secret_1.jpg", "/etc/secret_1.jpg", "C:\\secret_1.jpg"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    rows = rows_of("VOC2007")
    write_instruct(tmp_path, "VOC2007", rows)
    rows[1]["qry_img_path"] = path
    write_table(
        tmp_path / "annotations/ziyjiang/MMEB_Test_Instruct/VOC2007/test-00000-of-00001.parquet",
        rows,
    )
    suite = MMEB(tmp_path, CLEAN, version="v1", check_counts=False)
    with pytest.raises(EvaluationDataError, match="must be relative and stay inside"):
        suite.load("VOC2007", allow_missing=True)


def test_other_counts_than_those_of_the_card_are_refused(root: Path, tmp_path: Path) -> None:
    """EV-5."""
    with pytest.raises(EvaluationDataError, match=r"VOC2007, row 0: 4 candidates, expected 20"):
        MMEB(root, CLEAN).load("VOC2007")
    rows = rows_of("HatefulMemes")
    for row in rows:
        row["tgt_text"], row["tgt_img_path"] = ["Yes", "No"], ["", ""]
    write_instruct(tmp_path, "HatefulMemes", rows)
    with pytest.raises(EvaluationDataError, match=r"HatefulMemes .*: 5 queries, expected 1000"):
        MMEB(tmp_path, CLEAN).load("HatefulMemes")


def test_a_text_without_its_instruction_is_refused_in_the_older_form(tmp_path: Path) -> None:
    write_merged(tmp_path, "OK-VQA")
    file = tmp_path / "annotations/TIGER-Lab/MMEB-eval/OK-VQA/test-00000-of-00001.parquet"
    write_table(
        file,
        [{"qry_text": "What?", "qry_img_path": "a.jpg", "tgt_text": ["a"], "tgt_img_path": [""]}],
    )
    with pytest.raises(EvaluationDataError, match="'What\\?' does not begin with 'Represent"):
        load(tmp_path, "OK-VQA")


def test_annotations_that_are_not_there_say_where_they_were_looked_for(tmp_path: Path) -> None:
    with pytest.raises(EvaluationDataError, match=r"annotations/ziyjiang/MMEB_Test_Instruct.*hf d"):
        load(tmp_path, "GQA")


def test_broken_rows_are_refused_with_their_number(tmp_path: Path) -> None:
    rows = rows_of("CIRR")
    rows[3]["tgt_img_path"] = rows[3]["tgt_img_path"][:2]
    write_instruct(tmp_path, "CIRR", rows)
    with pytest.raises(EvaluationDataError, match="CIRR, row 3: 4 texts and 2 images"):
        load(tmp_path, "CIRR")
    write_instruct(tmp_path, "GQA", [{**rows_of("GQA")[0], "tgt_text": []}])
    with pytest.raises(EvaluationDataError, match="GQA, row 0: 0 candidates"):
        load(tmp_path, "GQA")


@pytest.mark.parametrize(
    ("name", "column", "value", "message"),
    [
        ("VOC2007", "qry_img_path", "", "a picture is not named; every query"),
        ("GQA", "qry_img_path", None, "a picture is not named; every query"),
        ("NIGHTS", "tgt_img_path", ["a.jpg", "", "b.jpg", "c.jpg"], "every candidate"),
        ("WebQA", "tgt_img_path", ["a.jpg", None, "b.jpg", "c.jpg"], "every candidate"),
        ("GQA", "tgt_text", "Yes, it is open.", "found .*; expected a list of texts"),
        ("GQA", "qry_text", 5, "found 5; expected a text"),
        ("CIRR", "qry_img_path", "a\0b.jpg", "must be relative"),
        ("CIRR", "tgt_img_path", ["/etc/x.jpg"] * 4, "must be relative"),
    ],
)
def test_a_broken_cell_is_named(tmp_path: Path, name: str, column: str, value: Any, message: str):
    rows = rows_of(name)
    write_instruct(tmp_path, name, rows)
    rows = [{**rows[0], column: value}]
    folder = tmp_path / "annotations/ziyjiang/MMEB_Test_Instruct" / name
    write_table(folder / "test-00000-of-00001.parquet", rows)
    with pytest.raises(
        EvaluationDataError, match=f"^{name}, row 0, column '{column}': .*{message}"
    ):
        load(tmp_path, name)


@pytest.mark.parametrize("form", ["instruct", "merged"])
@pytest.mark.parametrize("column", ["qry_text", "tgt_text", "qry_img_path"])
def test_a_column_that_is_not_there_is_named(tmp_path: Path, form: str, column: str) -> None:
    write = write_instruct if form == "instruct" else write_merged
    write(tmp_path, "CIRR")
    (file,) = tmp_path.rglob("*.parquet")
    rows = rows_of("CIRR") if form == "instruct" else merged_rows_of("CIRR")
    write_table(file, [{k: v for k, v in row.items() if k != column} for row in rows])
    with pytest.raises(EvaluationDataError, match=f"^CIRR, row 0: no column '{column}'; found"):
        load(tmp_path, "CIRR", form=form)


def test_the_older_form_in_the_folder_of_the_newer_is_refused(tmp_path: Path) -> None:
    """It would be read as queries that have no instruction and begin with a marker."""
    write_merged(tmp_path, "OK-VQA")
    older = tmp_path / "annotations/TIGER-Lab/MMEB-eval"
    newer = tmp_path / "annotations/ziyjiang/MMEB_Test_Instruct"
    newer.parent.mkdir()
    older.rename(newer)
    with pytest.raises(EvaluationDataError, match="OK-VQA, row 0: no column 'qry_inst'"):
        load(tmp_path, "OK-VQA")


def test_a_task_without_any_picture_is_refused_even_where_missing_ones_are_allowed(
    tmp_path: Path,
) -> None:
    for name in ("VOC2007", "WebQA", "CIRR"):
        write_instruct(tmp_path, name)
        shutil.rmtree(tmp_path / "image-tasks")
        suite = MMEB(tmp_path, CLEAN, check_counts=False)
        with pytest.raises(
            EvaluationDataError, match=f"{name}: nothing is left to judge"
        ) as caught:
            suite.load(name, allow_missing=True)
        assert caught.value.missing


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


def test_unknown_arguments_are_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="version 'v3' is unknown; known: v1, v2"):
        MMEB(root, CLEAN, version="v3")
    with pytest.raises(ConfigError, match="form 'old'"):
        MMEB(root, CLEAN, form="old")
    with pytest.raises(ConfigError, match="task 'Imagenet'"):
        MMEB(root, CLEAN).load("Imagenet")
    with pytest.raises(EvaluationDataError, match="no folder of data"):
        MMEB(None, CLEAN).load("GQA")
