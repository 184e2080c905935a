"""What cannot be indexed: it is listed, costs nothing else, and is taken in once it is repaired."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed.errors import MissingDependencyError
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.search.error_list import read_errors
from mmembed.search.segments import Segmentation
from mmembed.search.summary import IndexSummary
from tests.search.library import names, picture


def test_broken_files_are_listed_and_do_not_stop_the_others(
    run: Callable[..., IndexSummary], photos: Path, tmp_path: Path
) -> None:
    (photos / "a_text.png").write_text("not a picture at all")
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (photos / "blank.txt").write_text("  \n\t\n")
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    summary = run()
    assert summary.encoded == 4
    found = {Path(failure.path).name: failure.code for failure in summary.failures}
    assert found == {
        "a_text.png": "corrupt",
        "empty.jpg": "corrupt",
        "latin.txt": "invalid_text",
        "blank.txt": "empty",
        "gone.png": "not_found",
    }
    lines = (tmp_path / "index" / "errors.jsonl").read_text().splitlines()
    assert {Path(json.loads(line)["path"]).name for line in lines} == set(found)
    picture(photos / "a_text.png", (9, 9, 9))
    again = run()
    assert again.encoded == 1, "a repaired file is taken in"
    assert len(again.failures) == 4, "the others are still listed"


def test_a_file_that_breaks_leaves_the_index(
    run: Callable[..., IndexSummary], photos: Path, tmp_path: Path
) -> None:
    run()
    (photos / "red.png").write_bytes(b"garbage now")
    assert run().rows == 3
    assert "red.png" not in names(tmp_path)


def test_a_file_that_changes_while_it_is_read_is_not_stored_under_its_old_name(
    run: Callable[..., IndexSummary], hash_encoder: Any, photos: Path, tmp_path: Path
) -> None:
    original = hash_encoder.encode

    def encode(items: Any, **options: Any) -> Any:
        result = original(items, **options)
        (photos / "note.md").write_text("quite another note")
        return result

    hash_encoder.encode = encode
    summary = run()
    assert [Path(failure.path).name for failure in summary.failures] == ["note.md"]
    assert "changed while" in summary.failures[0].detail
    hash_encoder.encode = original
    assert run().encoded == 1
    assert names(tmp_path)[2] == "note.md#char=0,18"


def test_a_vector_that_is_not_finite_is_a_failure_of_its_item(
    run: Callable[..., IndexSummary], hash_encoder: Any, tmp_path: Path
) -> None:
    original = hash_encoder.encode

    def encode(items: Any, **options: Any) -> Any:
        vectors, report = original(items, **options)
        vectors[0] = np.nan
        vectors[1] = 0
        return vectors, report

    hash_encoder.encode = encode
    summary = run()
    assert [failure.code for failure in summary.failures] == ["nonfinite", "nonfinite"]
    assert summary.rows == 2


def test_a_part_of_a_file_that_fails_is_tried_again_and_the_rest_is_kept(
    run: Callable[..., IndexSummary], hash_encoder: Any, photos: Path, tmp_path: Path
) -> None:
    (photos / "long.txt").write_text("\n\n".join(f"paragraph {n} " + "x" * 80 for n in range(5)))
    original = hash_encoder._vector

    def fail_third(item: Any) -> Any:
        from mmembed.errors import InputError

        if "paragraph 3" in getattr(item.parts[0], "text", ""):
            raise InputError("too_many_tokens", "too long")
        return original(item)

    hash_encoder._vector = fail_third
    options = {"segmentation": Segmentation(passage_chars=100)}
    summary = run(**options)
    assert summary.rows == 8
    assert [failure.code for failure in summary.failures] == ["too_many_tokens"]
    assert "long.txt#char=" in summary.failures[0].id
    assert run(**options).failures == summary.failures
    hash_encoder._vector = original
    again = run(**options)
    assert (again.encoded, again.rows, again.failures) == (1, 9, [])


def test_a_reader_that_is_not_installed_fails_its_files_only(
    run: Callable[..., IndexSummary], photos: Path
) -> None:
    (photos / "paper.pdf").write_bytes(b"%PDF-1.7")

    class WithoutPdf(MediaDecoder):
        def page_count(self, source: object, password: str | None = None) -> int:
            raise MissingDependencyError("pymupdf", "documents")

    summary = run(decoder=WithoutPdf())
    assert summary.rows == 4
    assert [failure.code for failure in summary.failures] == ["unsupported_format"]
    assert "pip install 'mmembed[documents]'" in summary.failures[0].detail


def test_an_unreadable_folder_does_not_lose_its_rows(
    run: Callable[..., IndexSummary], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    original = Path.iterdir

    def refuse(path: Path) -> Any:
        if path.name == "deep":
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    summary = run()
    assert summary.rows == 4
    assert [failure.code for failure in summary.failures] == ["permission"]


def test_a_drive_that_is_not_mounted_empties_no_index(
    run: Callable[..., IndexSummary], photos: Path, tmp_path: Path
) -> None:
    run()
    photos.rename(tmp_path / "unmounted")
    photos.mkdir()
    summary = run()
    assert (summary.rows, summary.removed) == (4, 0)
    assert "is its drive mounted?" in summary.failures[0].detail
    photos.rmdir()
    (tmp_path / "unmounted").rename(photos)
    assert run().unchanged == 4


def test_a_name_that_no_database_could_keep_is_a_failure_of_its_file(
    run: Callable[..., IndexSummary], photos: Path
) -> None:
    try:
        picture(photos / os.fsdecode(b"caf\xe9.png"), (1, 2, 3))
    except OSError:
        pytest.skip("this file system refuses such names")
    summary = run()
    assert [failure.code for failure in summary.failures] == ["invalid_text"]
    assert summary.rows == 4


def test_failures_of_other_folders_stay_listed(
    run: Callable[..., IndexSummary], photos: Path, tmp_path: Path
) -> None:
    (photos / "bad.png").write_bytes(b"bad")
    other = tmp_path / "other"
    picture(other / "black.png", (0, 0, 0))
    (other / "worse.png").write_bytes(b"worse")
    run()
    run(folder=other)
    listed = tmp_path / "index" / "errors.jsonl"
    assert [Path(each.path).name for each in read_errors(listed)] == ["bad.png", "worse.png"]
    (photos / "bad.png").unlink()
    run(errors=tmp_path / "elsewhere.jsonl")
    assert len(read_errors(listed)) == 2
    assert (tmp_path / "elsewhere.jsonl").read_text() == ""
    run()
    assert [Path(each.path).name for each in read_errors(listed)] == ["worse.png"]
