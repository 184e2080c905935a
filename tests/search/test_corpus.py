"""Indexing a folder again and again: what is encoded, kept, moved, dropped and reported."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmembed.errors import ConfigError, SpaceMismatchError, StoreError
from mmembed.search.corpus import index_folder
from mmembed.search.exact_index import ExactIndex
from mmembed.search.searcher import Searcher
from mmembed.search.segments import Segmentation
from mmembed.search.summary import IndexSummary, Progress
from mmembed.store.vectors import EmbeddingStore
from tests.search.library import names, opened, picture


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


def test_copies_in_other_batches_are_not_encoded_again(
    run: Callable[..., IndexSummary], hash_encoder: Any, photos: Path
) -> None:
    for number in range(5):
        shutil.copy(photos / "red.png", photos / f"copy{number}.png")
    summary = run(batch_items=2)
    assert len(hash_encoder.encoded) == summary.encoded == 4
    assert (summary.reused, summary.rows) == (5, 9)


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


def test_hidden_files_other_kinds_and_the_index_itself_are_left_out(
    hash_encoder: Any, photos: Path
) -> None:
    picture(photos / ".hidden.png", (1, 1, 1))
    picture(photos / ".cache" / "thumb.png", (1, 1, 1))
    (photos / "archive.zip").write_bytes(b"PK")
    (photos / "code.ts").write_text("export const one = 1\n")
    (photos / "LICENSE").write_text("text")
    index = opened("numpy", photos / "index", hash_encoder)
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
                    index=opened("numpy", folder, hash_encoder),
                    batch_items=3,
                    on_progress=interrupt,
                )
        index_folder(
            photos,
            embedder=hash_encoder,
            index=opened("numpy", folder, hash_encoder),
            batch_items=3,
        )
        return next(folder.glob("rows-*.jsonl")).read_bytes()

    straight = complete(tmp_path / "straight", [])
    assert complete(tmp_path / "stopped", [0, 3, 6]) == straight


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


def test_a_second_writer_and_a_missing_folder_are_refused(
    run: Callable[..., IndexSummary], tmp_path: Path, hash_encoder: Any
) -> None:
    with (
        opened("numpy", tmp_path / "index", hash_encoder).writing(),
        pytest.raises(StoreError, match="another process"),
    ):
        run()
    with pytest.raises(ConfigError, match="is not a folder"):
        run(folder=tmp_path / "nowhere")


def test_progress_ends_at_the_number_of_files(
    run: Callable[..., IndexSummary], photos: Path
) -> None:
    seen: list[Progress] = []
    run(on_progress=seen.append, batch_items=2)
    done = [progress.files_done for progress in seen]
    assert done == sorted(done)
    size = sum(path.stat().st_size for path in photos.rglob("*") if path.is_file())
    assert seen[-1] == Progress(4, 4, items_encoded=4, bytes_read=size)


def test_an_index_knows_its_folders_and_how_they_were_cut(
    run: Callable[..., IndexSummary], photos: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    picture(other / "black.png", (0, 0, 0))
    run(segmentation=Segmentation(passage_chars=5))
    run(folder=other)
    settings = ExactIndex(tmp_path / "index").settings
    assert settings["folders"] == sorted([str(photos), str(other)])
    assert settings["segmentation"]["passage_chars"] == 5
    again = run()
    assert (again.unchanged, again.encoded) == (4, 0), "later runs cut in the same way"
    assert run(segmentation=Segmentation()).encoded == 1


def test_files_that_were_just_written_are_left_for_a_later_run(
    run: Callable[..., IndexSummary], photos: Path, tmp_path: Path
) -> None:
    run()
    picture(photos / "red.png", (9, 9, 9))
    picture(photos / "new.png", (8, 8, 8))
    summary = run(settle_seconds=1000)
    assert len(summary.postponed) == 5 and summary.encoded == 0
    assert summary.rows == 4, "the former rows stay until then"
    assert "5 files are still being written" in str(summary)
    assert run().encoded == 2


def test_the_summary_tells_rates(run: Callable[..., IndexSummary]) -> None:
    summary = run()
    assert summary.bytes_read > 0
    summary.seconds, summary.bytes_read = 2.0, 3_000_000
    assert str(summary).endswith("4 rows in all (2.0 s: 2.0 files/s, 2.0 items/s, 1.5 MB/s)")
