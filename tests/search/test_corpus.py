"""Indexing a folder again and again: what is encoded, kept, moved, dropped and reported."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from mmembed.errors import ConfigError, MissingDependencyError, SpaceMismatchError, StoreError
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.search.corpus import index_folder
from mmembed.search.exact_index import ExactIndex
from mmembed.search.searcher import Searcher
from mmembed.search.segments import Segmentation
from mmembed.search.summary import IndexSummary, Progress
from mmembed.store.vectors import EmbeddingStore


def picture(path: Path, colour: tuple[int, int, int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.new("RGB", (8, 8), colour).save(path)
    return path


def open_index(folder: Path, encoder: Any) -> ExactIndex:
    return ExactIndex(
        folder, fingerprint=encoder.fingerprint, dimension=encoder.embedding_dimension
    )


@pytest.fixture
def run(photos: Path, hash_encoder: Any, tmp_path: Path) -> Callable[..., IndexSummary]:
    """Index `photos` into a folder beside it, as a new process would."""

    def index_again(**options: Any) -> IndexSummary:
        index = open_index(tmp_path / "index", options.get("embedder", hash_encoder))
        return index_folder(
            options.pop("folder", photos),
            **{"embedder": hash_encoder, "index": index, **options},
        )

    return index_again


def names(tmp_path: Path) -> list[str]:
    return [Path(row.id).name for row in ExactIndex(tmp_path / "index").rows()]


def test_a_folder_is_indexed_in_order_with_all_that_describes_a_file(
    run: Callable[..., IndexSummary], photos: Path, tmp_path: Path
) -> None:
    summary = run()
    assert (summary.files, summary.encoded, summary.rows, summary.failures) == (4, 4, 4, [])
    assert names(tmp_path) == ["blue.png", "green.png", "note.md#char=0,23", "red.png"]
    row = next(iter(ExactIndex(tmp_path / "index").rows()))
    path = photos / "deep" / "blue.png"
    assert (row.path, row.kind, row.size) == (str(path), "image", path.stat().st_size)
    assert row.mtime_ns == path.stat().st_mtime_ns
    assert (tmp_path / "index" / "errors.jsonl").read_text() == ""


def test_indexing_again_encodes_nothing_and_changes_no_byte(
    run: Callable[..., IndexSummary], hash_encoder: Any, tmp_path: Path
) -> None:
    run()
    files = sorted(p for p in (tmp_path / "index").rglob("*") if p.is_file())
    before = [path.read_bytes() for path in files]
    hash_encoder.encoded.clear()
    summary = run()
    assert hash_encoder.encoded == []
    assert (summary.unchanged, summary.encoded, summary.reused, summary.rows) == (4, 0, 0, 4)
    assert sorted(p for p in (tmp_path / "index").rglob("*") if p.is_file()) == files
    assert [path.read_bytes() for path in files] == before


def test_a_touched_file_is_recognised_by_its_content(
    run: Callable[..., IndexSummary], hash_encoder: Any, photos: Path, tmp_path: Path
) -> None:
    run()
    hash_encoder.encoded.clear()
    os.utime(photos / "red.png", (1_000_000_000, 1_000_000_000))
    assert run().unchanged == 4
    assert run().unchanged == 4
    assert hash_encoder.encoded == []
    dates = {Path(r.path).name: r.mtime_ns for r in ExactIndex(tmp_path / "index").rows()}
    assert dates["red.png"] == 1_000_000_000 * 10**9


def test_changed_added_moved_and_deleted_files_cost_only_what_is_new(
    run: Callable[..., IndexSummary], hash_encoder: Any, photos: Path, tmp_path: Path
) -> None:
    run()
    hash_encoder.encoded.clear()
    picture(photos / "red.png", (250, 0, 0))  # changed
    picture(photos / "white.png", (255, 255, 255))  # added
    (photos / "deep" / "blue.png").rename(photos / "azure.png")  # moved
    shutil.copy(photos / "green.png", photos / "copy.png")  # copied
    (photos / "note.md").unlink()  # deleted
    summary = run()
    assert len(hash_encoder.encoded) == summary.encoded == 2
    assert (summary.unchanged, summary.reused, summary.removed) == (1, 2, 2)
    assert names(tmp_path) == ["azure.png", "copy.png", "green.png", "red.png", "white.png"]
    hits = Searcher(hash_encoder, ExactIndex(tmp_path / "index")).search(photos / "red.png", k=1)
    assert Path(hits[0].path).name == "red.png"
    assert hits[0].score == pytest.approx(1.0, abs=1e-6)


def test_a_change_that_keeps_size_and_date_is_found_when_asked(
    run: Callable[..., IndexSummary], photos: Path
) -> None:
    run()
    note = photos / "note.md"
    status = note.stat()
    note.write_text(note.read_text().replace("colours", "flavour"))
    os.utime(note, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert run().encoded == 0
    assert run(check_content=True).encoded == 1


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


def test_hidden_files_other_kinds_and_the_index_itself_are_left_out(
    hash_encoder: Any, photos: Path
) -> None:
    picture(photos / ".hidden.png", (1, 1, 1))
    picture(photos / ".cache" / "thumb.png", (1, 1, 1))
    (photos / "archive.zip").write_bytes(b"PK")
    (photos / "code.ts").write_text("export const one = 1\n")
    (photos / "LICENSE").write_text("text")
    index = open_index(photos / "index", hash_encoder)
    picture(photos / "index" / "stray.png", (2, 2, 2))
    summary = index_folder(photos, embedder=hash_encoder, index=index)
    assert summary.files == 4
    assert summary.ignored == {".zip": 1, ".ts": 1, "no suffix": 1}


def test_a_loop_of_links_is_walked_once_and_only_when_asked(
    run: Callable[..., IndexSummary], photos: Path, tmp_path: Path
) -> None:
    (photos / "deep" / "loop").symlink_to(photos)
    picture(tmp_path / "elsewhere" / "far.png", (7, 7, 7))
    (photos / "link").symlink_to(tmp_path / "elsewhere")
    assert run().files == 4
    assert run(follow_links=True).files == 5
    assert "far.png" in names(tmp_path)


def test_another_folders_rows_stay(
    run: Callable[..., IndexSummary], tmp_path: Path, photos: Path
) -> None:
    run()
    other = tmp_path / "other"
    picture(other / "black.png", (0, 0, 0))
    assert run(folder=other).rows == 5
    shutil.rmtree(photos / "deep")
    assert run().rows == 4
    assert "black.png" in names(tmp_path)


def test_another_model_is_refused_before_anything_is_read(
    run: Callable[..., IndexSummary], tmp_path: Path, photos: Path
) -> None:
    run()
    index = ExactIndex(tmp_path / "index")

    class Stranger:
        fingerprint = "b" * 64
        embedding_dimension = 32

    with pytest.raises(SpaceMismatchError, match=f"{'a' * 64}.*{'b' * 64}"):
        index_folder(photos, embedder=Stranger(), index=index)  # type: ignore[arg-type]
    with pytest.raises(SpaceMismatchError, match="the index"):
        Searcher(Stranger(), index)  # type: ignore[arg-type]


def test_ctrl_c_leaves_a_valid_index_and_the_next_run_goes_on(
    run: Callable[..., IndexSummary], hash_encoder: Any, tmp_path: Path
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.files_done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(on_progress=interrupt, batch_items=1)
    assert len(ExactIndex(tmp_path / "index")) == 2
    assert EmbeddingStore(tmp_path / "index" / "vectors").verify() == []
    encoded = len(hash_encoder.encoded)
    assert run().rows == 4
    assert len(hash_encoder.encoded) == 4, f"{encoded} were encoded before"


def test_a_kill_before_the_index_is_written_costs_no_encoding_of_stored_vectors(
    run: Callable[..., IndexSummary], hash_encoder: Any, tmp_path: Path
) -> None:
    run()
    index = ExactIndex(tmp_path / "index")
    index.delete([row.id for row in index.rows()])
    index.commit()  # as if the run had been killed between the store and the index
    hash_encoder.encoded.clear()
    summary = run()
    assert (summary.reused, summary.encoded, summary.rows) == (4, 0, 4)
    assert hash_encoder.encoded == []


def test_an_interrupted_run_ends_in_the_same_index_as_an_uninterrupted_one(
    photos: Path, hash_encoder: Any, tmp_path: Path
) -> None:
    for number in range(20):
        picture(photos / f"{number}.png", (number, 1, 2))

    def complete(folder: Path, stops: list[int]) -> bytes:
        for stop in stops:

            def interrupt(progress: Progress, stop: int = stop) -> None:
                if progress.items_encoded >= stop:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                index_folder(
                    photos,
                    embedder=hash_encoder,
                    index=open_index(folder, hash_encoder),
                    batch_items=3,
                    on_progress=interrupt,
                )
        index_folder(
            photos, embedder=hash_encoder, index=open_index(folder, hash_encoder), batch_items=3
        )
        return next(folder.glob("rows-*.jsonl")).read_bytes()

    straight = complete(tmp_path / "straight", [])
    assert complete(tmp_path / "stopped", [0, 3, 6]) == straight


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


def test_another_way_of_cutting_cuts_again(
    run: Callable[..., IndexSummary], photos: Path, tmp_path: Path
) -> None:
    (photos / "long.txt").write_text("".join(f"word {number:03d} " for number in range(170)))
    assert run().rows == 6
    finer = run(segmentation=Segmentation(passage_chars=500))
    assert (finer.rows, finer.encoded, finer.reused) == (8, 4, 4)
    told = Segmentation(passage_chars=500, instruction="Find it.")
    assert run(segmentation=told).encoded == 8
    assert run(segmentation=told).unchanged == 5


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


def test_a_second_writer_and_a_missing_folder_are_refused(
    run: Callable[..., IndexSummary], tmp_path: Path, hash_encoder: Any
) -> None:
    with (
        open_index(tmp_path / "index", hash_encoder).writing(),
        pytest.raises(StoreError, match="another process"),
    ):
        run()
    with pytest.raises(ConfigError, match="is not a folder"):
        run(folder=tmp_path / "nowhere")


def test_progress_ends_at_the_number_of_files(run: Callable[..., IndexSummary]) -> None:
    seen: list[Progress] = []
    run(on_progress=seen.append, batch_items=2)
    done = [progress.files_done for progress in seen]
    assert done == sorted(done)
    assert seen[-1] == Progress(files_done=4, files_total=4, items_encoded=4)
