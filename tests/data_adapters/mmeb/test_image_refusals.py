"""The 36 image data sets: what is missing, broken or hostile is refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from data_adapters.mmeb.suite import MMEB
from mmembed.errors import ConfigError, DataError
from mmembed.evaluation.profiles import load_profile
from mmembed.tasks import Profile, RetrievalTask
from tests.data_adapters.mmeb.image_rows import (
    SOURCES,
    merged_rows_of,
    rows_of,
    write_instruct,
    write_merged,
    write_table,
)

CLEAN = load_profile("rzen")
NAMES = tuple(SOURCES)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mmeb")
    for name in NAMES:
        write_instruct(folder, name)
    return folder


def load(root: Path, name: str, profile: Profile = CLEAN, **options: Any) -> RetrievalTask:
    suite = MMEB(root, profile, version="v1", check_counts=False, **options)
    task = suite.load(name).task
    assert isinstance(task, RetrievalTask)
    return task


def test_missing_media_fail_with_the_whole_list(tmp_path: Path) -> None:
    """EV-4."""
    write_instruct(tmp_path, "CIRR")
    gone = ["image-tasks/CIRR/query_2.jpg", "image-tasks/CIRR/target_4.png"]
    for path in gone:
        (tmp_path / path).unlink()
    suite = MMEB(tmp_path, CLEAN, version="v1", check_counts=False)
    with pytest.raises(DataError, match=r"CIRR: 2 media .*query_2\.jpg") as caught:
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
    with pytest.raises(DataError, match=r"50 media .* and 30 more") as caught:
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
    with pytest.raises(DataError, match="must be relative and stay inside"):
        suite.load("VOC2007", allow_missing=True)


def test_other_counts_than_those_of_the_card_are_refused(root: Path, tmp_path: Path) -> None:
    """EV-5."""
    with pytest.raises(DataError, match=r"VOC2007, row 0: 4 candidates, expected 20"):
        MMEB(root, CLEAN).load("VOC2007")
    rows = rows_of("HatefulMemes")
    for row in rows:
        row["tgt_text"], row["tgt_img_path"] = ["Yes", "No"], ["", ""]
    write_instruct(tmp_path, "HatefulMemes", rows)
    with pytest.raises(DataError, match=r"HatefulMemes .*: 5 queries, expected 1000"):
        MMEB(tmp_path, CLEAN).load("HatefulMemes")


def test_a_text_without_its_instruction_is_refused_in_the_older_form(tmp_path: Path) -> None:
    write_merged(tmp_path, "OK-VQA")
    file = tmp_path / "annotations/TIGER-Lab/MMEB-eval/OK-VQA/test-00000-of-00001.parquet"
    write_table(
        file,
        [{"qry_text": "What?", "qry_img_path": "a.jpg", "tgt_text": ["a"], "tgt_img_path": [""]}],
    )
    with pytest.raises(DataError, match="'What\\?' does not begin with 'Represent"):
        load(tmp_path, "OK-VQA")


def test_annotations_that_are_not_there_say_where_they_were_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotations/ziyjiang/MMEB_Test_Instruct.*hf d"):
        load(tmp_path, "GQA")


def test_broken_rows_are_refused_with_their_number(tmp_path: Path) -> None:
    rows = rows_of("CIRR")
    rows[3]["tgt_img_path"] = rows[3]["tgt_img_path"][:2]
    write_instruct(tmp_path, "CIRR", rows)
    with pytest.raises(DataError, match="CIRR, row 3: 4 texts and 2 images"):
        load(tmp_path, "CIRR")
    write_instruct(tmp_path, "GQA", [{**rows_of("GQA")[0], "tgt_text": []}])
    with pytest.raises(DataError, match="GQA, row 0: 0 candidates"):
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
    with pytest.raises(DataError, match=f"^{name}, row 0, column '{column}': .*{message}"):
        load(tmp_path, name)


@pytest.mark.parametrize("form", ["instruct", "merged"])
@pytest.mark.parametrize("column", ["qry_text", "tgt_text", "qry_img_path"])
def test_a_column_that_is_not_there_is_named(tmp_path: Path, form: str, column: str) -> None:
    write = write_instruct if form == "instruct" else write_merged
    write(tmp_path, "CIRR")
    (file,) = tmp_path.rglob("*.parquet")
    rows = rows_of("CIRR") if form == "instruct" else merged_rows_of("CIRR")
    write_table(file, [{k: v for k, v in row.items() if k != column} for row in rows])
    with pytest.raises(DataError, match=f"^CIRR, row 0: no column '{column}'; found"):
        load(tmp_path, "CIRR", form=form)


def test_the_older_form_in_the_folder_of_the_newer_is_refused(tmp_path: Path) -> None:
    """It would be read as queries that have no instruction and begin with a marker."""
    write_merged(tmp_path, "OK-VQA")
    older = tmp_path / "annotations/TIGER-Lab/MMEB-eval"
    newer = tmp_path / "annotations/ziyjiang/MMEB_Test_Instruct"
    newer.parent.mkdir()
    older.rename(newer)
    with pytest.raises(DataError, match="OK-VQA, row 0: no column 'qry_inst'"):
        load(tmp_path, "OK-VQA")


def test_a_task_without_any_picture_is_refused_even_where_missing_ones_are_allowed(
    tmp_path: Path,
) -> None:
    for name in ("VOC2007", "WebQA", "CIRR"):
        write_instruct(tmp_path, name)
        shutil.rmtree(tmp_path / "image-tasks")
        suite = MMEB(tmp_path, CLEAN, check_counts=False)
        with pytest.raises(DataError, match=f"{name}: nothing is left to judge") as caught:
            suite.load(name, allow_missing=True)
        assert caught.value.missing


def test_unknown_arguments_are_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="version 'v3' is unknown; known: v1, v2"):
        MMEB(root, CLEAN, version="v3")
    with pytest.raises(ConfigError, match="form 'old'"):
        MMEB(root, CLEAN, form="old")
    with pytest.raises(ConfigError, match="task 'Imagenet'"):
        MMEB(root, CLEAN).load("Imagenet")
    with pytest.raises(DataError, match="no folder of data"):
        MMEB(None, CLEAN).load("GQA")
