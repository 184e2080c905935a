"""Another model's vectors behind a running index: nothing is lost, whenever it is killed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed.errors import ConfigError, SpaceMismatchError, StoreError
from mmembed.search.corpus import index_folder
from mmembed.search.error_list import read_errors
from mmembed.search.generations import current_folder, remove_others
from mmembed.search.index import Index
from mmembed.search.migration import migrate_index
from mmembed.search.opening import open_index
from mmembed.search.row_items import row_item
from mmembed.search.rows import Row
from mmembed.search.searcher import Searcher
from tests.search.conftest import HashEncoder, picture

OLD = HashEncoder("a" * 64, 32)
NEW = HashEncoder("b" * 64, 24)


class OtherEncoder(HashEncoder):
    """Another model: other vectors of the same content."""

    def _vector(self, item: Any) -> np.ndarray:
        return -super()._vector(item)


def new_model() -> OtherEncoder:
    return OtherEncoder(NEW.fingerprint, NEW.embedding_dimension)


@pytest.fixture(params=["numpy", "lance", "qdrant"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    pytest.importorskip({"numpy": "numpy", "lance": "lancedb"}.get(request.param, "qdrant_client"))
    if request.param != "qdrant":
        yield f"{request.param}:{tmp_path / 'library.index'}"
        return
    from tests.search.qdrant_server import qdrant_server

    with qdrant_server() as server:
        yield f"{server.url}/library"


def made(address: str, folder: Path) -> list[Row]:
    index = open_index(address, fingerprint=OLD.fingerprint, dimension=32)
    index_folder(folder, embedder=OLD, index=index, model="old")
    rows = list(index.rows())
    index.close()
    return rows


def without_keys(index: Index) -> list[Row]:
    return [replace(row, key="") for row in index.rows()]


def check_new(address: str, rows: list[Row]) -> None:
    """The index holds these rows with the new model's vectors."""
    index = open_index(address)
    assert (index.fingerprint, index.dimension) == (NEW.fingerprint, 24)
    assert without_keys(index) == [replace(row, key="") for row in rows]
    expected = new_model().encode([row_item(row) for row in rows])
    np.testing.assert_allclose(index.vectors([row.id for row in rows]), expected, atol=1e-6)
    index.close()


def test_all_rows_get_the_new_models_vectors(address: str, photos: Path) -> None:
    rows = made(address, photos)
    encoder = new_model()
    summary = migrate_index(address, embedder=encoder, model="new", batch_items=2)
    assert (summary.encoded, summary.reused, summary.rows) == (len(rows), 0, len(rows))
    assert not summary.failures and len(encoder.encoded) == len(rows)
    check_new(address, rows)
    index = open_index(address)
    assert index.settings["model"] == "new"
    assert Path(Searcher(encoder, index).search(photos / "red.png", 1)[0].path).name == "red.png"
    again = index_folder(photos, embedder=encoder, index=index)
    assert (again.encoded, again.unchanged) == (0, 4), "the next run has nothing to do"
    index.close()
    with pytest.raises(SpaceMismatchError, match="a" * 64):
        open_index(address, fingerprint=OLD.fingerprint, dimension=32)


def test_who_has_the_old_index_open_goes_on_with_it(tmp_path: Path, photos: Path) -> None:
    address = str(tmp_path / "library.index")
    made(f"numpy:{address}", photos)
    reader = open_index(address)
    before = Searcher(OLD, reader).search("colours", 4)
    migrate_index(address, embedder=new_model())
    reader.refresh()
    assert Searcher(OLD, reader).search("colours", 4) == before
    assert Searcher(new_model(), open_index(address)).search("colours", 4) != before


def test_a_second_migration_goes_on_from_the_first_and_the_old_can_be_removed(
    address: str, photos: Path
) -> None:
    rows = made(address, photos)
    migrate_index(address, embedder=new_model())
    back = migrate_index(address, embedder=OLD, model="old", remove_old=True)
    assert back.rows == len(rows)
    index = open_index(address)
    assert (index.fingerprint, without_keys(index)) == (
        OLD.fingerprint,
        [replace(row, key="") for row in rows],
    )
    index.close()
    migrate_index(address, embedder=new_model(), remove_old=True)
    check_new(address, rows)


def test_a_shorter_prefix_of_the_same_model_is_another_space(address: str, photos: Path) -> None:
    made(address, photos)
    with pytest.raises(ConfigError, match="vectors already"):
        migrate_index(address, embedder=OLD)
    with pytest.raises(ConfigError, match="33 dimensions; the model has 32"):
        migrate_index(address, embedder=OLD, dimension=33)
    migrate_index(address, embedder=OLD, dimension=16)
    index = open_index(address)
    assert index.dimension == 16
    assert Searcher(OLD, index).search(photos / "red.png", 1)[0].score == pytest.approx(1)
    index.close()


def test_files_that_are_gone_broken_or_changed_are_listed(tmp_path: Path, photos: Path) -> None:
    address = str(tmp_path / "library.index")
    for name in ("one", "two"):
        picture(photos / f"{name}.png", (9, 9, len(name)))
    rows = made(f"numpy:{address}", photos)
    (photos / "red.png").unlink()
    picture(photos / "green.png", (7, 7, 7))
    (photos / "note.md").write_text("another note")
    summary = migrate_index(address, embedder=new_model())
    found = {Path(failure.path).name: failure.code for failure in summary.failures}
    assert found == {"red.png": "corrupt", "green.png": "corrupt"}
    kept = [row for row in rows if Path(row.path).name not in found]
    check_new(address, kept)
    listed = read_errors(current_folder(Path(address)) / "errors.jsonl")
    assert listed == summary.failures
    index = open_index(address)
    again = index_folder(photos, embedder=new_model(), index=index)
    assert (again.encoded, again.removed, len(again.failures)) == (2, 0, 0)


def test_a_missing_drive_leaves_the_old_index_in_use(tmp_path: Path, photos: Path) -> None:
    address = str(tmp_path / "library.index")
    rows = made(f"numpy:{address}", photos)
    shutil.move(photos, tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"3 of 4 rows cannot be .* is a drive missing"):
        migrate_index(address, embedder=new_model())
    assert list(open_index(address).rows()) == rows
    shutil.move(tmp_path / "elsewhere", photos)
    summary = migrate_index(address, embedder=new_model())
    assert (summary.encoded, summary.failures) == (3, []), "the passage had its vector already"
    check_new(address, rows)


def test_what_changes_while_it_runs_is_followed(tmp_path: Path, photos: Path) -> None:
    address = str(tmp_path / "library.index")
    made(f"numpy:{address}", photos)

    class Meddler(OtherEncoder):
        def encode(self, items: Any, **options: Any) -> Any:
            if not self.encoded:
                (photos / "red.png").unlink()
                picture(photos / "later.png", (3, 1, 4))
                index_folder(photos, embedder=OLD, index=open_index(address))
            return super().encode(items, **options)

    meddler = Meddler(NEW.fingerprint, 24)
    summary = migrate_index(address, embedder=meddler, batch_items=2)
    index = open_index(address)
    names = sorted(Path(row.path).name for row in index.rows())
    assert names == ["blue.png", "green.png", "later.png", "note.md"]
    assert summary.rows == 4 and not summary.failures


def test_a_writer_at_the_end_is_not_overtaken(tmp_path: Path, photos: Path) -> None:
    address = str(tmp_path / "library.index")
    rows = made(f"numpy:{address}", photos)
    with open_index(address).writing():
        with pytest.raises(StoreError, match="another process is writing"):
            migrate_index(address, embedder=new_model())
    assert list(open_index(address).rows()) == rows
    encoder = new_model()
    migrate_index(address, embedder=encoder)
    assert not encoder.encoded, "everything had its vector"
    check_new(address, rows)


def test_an_instruction_of_the_index_is_used_again(tmp_path: Path, photos: Path) -> None:
    from mmembed.search.segments import Segmentation

    address = f"numpy:{tmp_path / 'library.index'}"
    index = open_index(address, fingerprint=OLD.fingerprint, dimension=32)
    index_folder(
        photos, embedder=OLD, index=index, segmentation=Segmentation(instruction="Describe it.")
    )
    encoder = new_model()
    migrate_index(address, embedder=encoder)
    assert {item.instruction for item in encoder.encoded} == {"Describe it."}


def test_what_was_tuned_for_the_old_vectors_is_not_kept(tmp_path: Path, photos: Path) -> None:
    address = f"numpy:{tmp_path / 'library.index'}"
    made(address, photos)
    index = open_index(address)
    index.settings |= {"coarse": "32:int8:4", "mine": 1}
    index.commit()
    migrate_index(address, embedder=new_model(), model="new")
    settings = open_index(address).settings
    assert "coarse" not in settings and (settings["mine"], settings["model"]) == (1, "new")


def test_removing_the_old_index_keeps_what_is_not_ours(tmp_path: Path, photos: Path) -> None:
    folder = tmp_path / "library.index"
    rows = made(f"numpy:{folder}", photos)
    (folder / "mine.txt").write_text("mine")
    remove_others(folder)
    assert list(open_index(folder).rows()) == rows, "nothing was switched, so nothing is removed"
    migrate_index(folder, embedder=new_model(), remove_old=True)
    left = {path.name for path in folder.iterdir()}
    assert left == {"current.json", "spaces", "mine.txt", ".lock"}
    check_new(str(folder), rows)


def test_a_damaged_pointer_is_named(tmp_path: Path, photos: Path) -> None:
    folder = tmp_path / "library.index"
    made(f"numpy:{folder}", photos)
    migrate_index(folder, embedder=new_model())
    pointer = folder / "current.json"
    pointer.write_bytes(pointer.read_bytes().replace(b"-24", b"-25"))
    with pytest.raises(StoreError, match=r"current\.json is damaged"):
        open_index(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="forks and kills itself")
@pytest.mark.parametrize("remove", ["remove", pytest.param("keep", marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_the_old_index_or_the_new_one(
    tmp_path: Path, photos: Path, remove: str
) -> None:
    rows = made(f"numpy:{tmp_path / 'whole'}", photos)
    command = [sys.executable, "-m", "tests.search.killed_migrations", str(tmp_path), remove]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kills, switched = map(int, done.stdout.split())
    assert kills > 20 and 0 < switched < kills
    check_new(str(tmp_path / "killed"), rows)
