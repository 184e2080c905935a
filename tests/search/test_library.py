"""A thousand mixed files are indexed, changed and indexed again: only the changes are encoded."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed.encoder.embedder import Embedder
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.search.corpus import index_folder
from mmembed.search.error_list import read_errors
from mmembed.search.index import Index
from mmembed.search.rows import Row
from mmembed.search.segments import Segmentation
from mmembed.search.summary import IndexSummary
from tests.search.conftest import HashEncoder
from tests.search.library import make_library, opened, write_content

REPOSITORY = Path(__file__).resolve().parents[2]
ENGINES = ["numpy", "lance"]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "lance":
        pytest.importorskip("lancedb")
    return str(request.param)


@pytest.fixture(scope="module")
def decoder() -> Iterator[MediaDecoder]:
    with MediaDecoder() as opened:
        yield opened


def everything(index: Index) -> dict[str, Row]:
    index.refresh()
    return {row.id: row for row in index.rows()}


def change(root: Path) -> int:
    """Every kind of change; returns how many items are new."""
    notes = sorted(root.rglob("note*.md"))
    pictures = sorted(root.rglob("picture*.png"))
    papers = sorted(root.rglob("paper*.pdf"))
    clips = sorted(root.rglob("clip*.mp4"))
    for number, path in enumerate(notes[:20]):  # edited
        write_content(path, 5000 + number)
    for path in (*notes[20:30], *pictures[:10], *papers[:2], *clips[:2]):  # renamed
        path.rename(path.with_stem(f"renamed-{path.stem}"))
    for path in (*notes[30:60], pictures[10], papers[2], clips[2]):  # touched
        os.utime(path, (10**9, 10**9))
    for path in (*notes[60:80], *pictures[11:16], papers[3]):  # deleted
        path.unlink()
    for number in range(15):  # added
        write_content(root / f"added{number}.png", 6000 + number)
    for number, path in enumerate(pictures[16:20]):  # copied
        shutil.copy(path, root / f"copy{number}.png")
    pictures[20].write_bytes(b"\x89PNG\r\n\x1a\n and no more")  # broken
    papers[4].write_bytes(b"%PDF-1.7 and no more")
    # each takes the content of the one before it; the first is new
    before = [path.read_bytes() for path in notes[80:110]]
    for path, content in zip(notes[81:110], before, strict=False):
        path.write_bytes(content)
    write_content(notes[80], 7000)
    (root / "part1").rename(root / "moved")  # with all that is in it
    return 20 + 15 + 1


def test_only_the_changes_of_a_thousand_files_are_encoded(
    engine: str, tmp_path: Path, hash_encoder: HashEncoder, decoder: MediaDecoder
) -> None:
    root = tmp_path / "library"
    num_items = make_library(root, texts=700, pictures=230, documents=40, clips=30)

    def run(folder: Path, engine: str, encoder: HashEncoder) -> tuple[Index, IndexSummary]:
        index = opened(engine, folder, encoder)
        summary = index_folder(
            root, embedder=encoder, index=index, decoder=decoder, batch_items=100
        )
        return index, summary

    index, first = run(tmp_path / "index", engine, hash_encoder)
    assert (first.files, first.encoded, first.rows) == (1000, num_items, num_items)
    assert first.failures == [] and len(index) == num_items
    hash_encoder.encoded.clear()

    num_new = change(root)
    index, second = run(tmp_path / "index", engine, hash_encoder)
    assert len(hash_encoder.encoded) == second.encoded == num_new
    assert sorted(Path(failure.path).suffix for failure in second.failures) == [".pdf", ".png"]
    other = HashEncoder()
    fresh, whole = run(tmp_path / "fresh", "numpy", other)
    assert everything(index) == everything(fresh)
    assert (whole.files, whole.rows) == (second.files, second.rows)
    ids = sorted(everything(fresh))[::25]
    assert np.allclose(index.vectors(ids), fresh.vectors(ids), atol=1e-6)
    assert [each.path for each in read_errors(tmp_path / "index" / "errors.jsonl")] == [
        failure.path for failure in second.failures
    ]

    hash_encoder.encoded.clear()
    index, third = run(tmp_path / "index", engine, hash_encoder)
    assert hash_encoder.encoded == []
    assert third.failures == second.failures, "tried again and listed again"
    assert third.unchanged == third.files - 2


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from mmembed.search.corpus import index_folder
from tests.search.conftest import HashEncoder
from tests.search.library import opened

engine, root, folder, journal, countdown = sys.argv[1:]
countdown = int(countdown)

class Mortal(HashEncoder):
    def _vector(self, item):
        global countdown
        countdown -= 1
        if countdown < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        with open(journal, "a") as file:
            file.write(".")
        return super()._vector(item)

encoder = Mortal()
index_folder(root, embedder=encoder, index=opened(engine, Path(folder), encoder),
             batch_items=10, commit_rows=20)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills itself with a POSIX signal")
def test_a_run_that_is_killed_goes_on_where_it_last_committed(
    engine: str, tmp_path: Path, hash_encoder: HashEncoder
) -> None:
    root, journal = tmp_path / "library", tmp_path / "journal"
    num_items = make_library(root, texts=150, pictures=50, documents=0, clips=0)
    kills = 0
    while True:
        command = [sys.executable, "-c", KILLED_RUN, engine, root, tmp_path / "index", journal]
        done = subprocess.run([*map(str, command), "85"], cwd=REPOSITORY)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        kills += 1
        known = everything(opened(engine, tmp_path / "index", hash_encoder))
        assert len(known) >= kills * 60, "what was committed is there"
    assert kills == 2
    # a kill costs what was not committed: two batches and the one in hand
    assert num_items <= len(journal.read_text()) <= num_items + kills * 30
    fresh = opened("numpy", tmp_path / "fresh", hash_encoder)
    index_folder(root, embedder=hash_encoder, index=fresh)
    assert everything(opened(engine, tmp_path / "index", hash_encoder)) == everything(fresh)


def test_a_large_new_file_is_kept_as_far_as_it_got(
    engine: str, tmp_path: Path, hash_encoder: HashEncoder
) -> None:
    (tmp_path / "folder").mkdir()
    words = "\n\n".join(f"paragraph {number:03d}" for number in range(100))
    (tmp_path / "folder" / "long.txt").write_text(words)
    cut = Segmentation(passage_chars=15)
    original = hash_encoder.encode

    def encode(items: Any, **options: Any) -> Any:
        if len(hash_encoder.encoded) == 60:
            raise KeyboardInterrupt
        return original(items, **options)

    def run() -> IndexSummary:
        return index_folder(
            tmp_path / "folder",
            embedder=hash_encoder,
            index=opened(engine, tmp_path / "index", hash_encoder),
            segmentation=cut,
            batch_items=20,
        )

    hash_encoder.encode = encode  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(opened(engine, tmp_path / "index", hash_encoder)) == 60
    hash_encoder.encode = original  # type: ignore[method-assign]
    assert (run().encoded, len(hash_encoder.encoded)) == (40, 100)
    rows = everything(opened(engine, tmp_path / "index", hash_encoder)).values()
    assert {replace(row, id="", key="", text="", start_char=0, end_char=0) for row in rows} == {
        replace(next(iter(rows)), id="", key="", text="", start_char=0, end_char=0)
    }, "whole, and all of one content"


def test_a_real_model_gives_every_engine_the_same(tmp_path: Path, tiny_checkpoint: Path) -> None:
    pytest.importorskip("lancedb")
    make_library(tmp_path / "library", texts=6, pictures=4, documents=2, clips=2)
    found = []
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as embedder:
        for engine in ENGINES:
            index = opened(engine, tmp_path / engine, embedder)
            summary = index_folder(
                tmp_path / "library",
                embedder=embedder,
                index=index,
                decoder=embedder.processor.decoder,
            )
            assert (summary.encoded, summary.failures) == (16, [])
            rows = everything(index)
            found.append((rows, index.vectors(list(rows))))
    assert found[0][0] == found[1][0]
    assert np.array_equal(found[0][1], found[1][1])
