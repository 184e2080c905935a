"""A folder indexed by actors: the rows and vectors of a run in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmembed.encoder.embedder import Embedder
from mmembed.search.corpus import index_folder
from mmembed.search.file_encoder import Candidate
from mmembed.search.index import Index
from mmembed.search.opening import open_index
from mmembed.search.ray_files import RayFiles, RayWorkers, _Actor, _parse
from mmembed.search.segments import Segmentation
from tests.search.library import make_library

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def local(tmp_path: Path, tiny_checkpoint: Path) -> Index:
    """Of a library with a broken file, made in this process."""
    library = tmp_path / "library"
    make_library(library, texts=6, pictures=4, documents=2, clips=2)
    (library / "broken.png").write_bytes(b"no picture")
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as embedder:
        index = open_index(
            f"numpy:{tmp_path / 'local'}", fingerprint=embedder.fingerprint, dimension=32
        )
        index_folder(library, embedder=embedder, index=index)
    return index


def same(one: Index, other: Index) -> bool:
    rows = list(one.rows())
    ids = [row.id for row in rows]
    return rows == list(other.rows()) and np.allclose(
        one.vectors(ids), other.vectors(ids), atol=1e-5
    )


def test_an_actor_answers_what_a_run_in_one_process_keeps(
    local: Index, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    files = sorted(path for path in (tmp_path / "library").rglob("*.*") if path.is_file())
    candidates = [
        Candidate(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files
    ]
    empty = open_index("memory:", fingerprint=local.fingerprint, dimension=32)
    workers = RayWorkers(model=str(tiny_checkpoint), num_workers=1)
    for index, num_encoded in ((empty, 16), (local, 0)):  # actors see what is committed
        spec = RayFiles(workers, index, Segmentation(), 4).spec
        actor = _Actor(spec.model_dump(mode="json"))
        results = []
        for part in (candidates[:5], candidates[5:]):
            batch = actor({"files": [json.dumps(part)]})
            for told, vectors in zip(batch["result"], batch["vectors"], strict=True):
                results.append(_parse(json.loads(told), vectors, 32))
        assert sum(result.encoded for result in results) == num_encoded
        assert [f.code for r in results for f in r.failures] == ["unsupported_format"]
        rows = {row.id: row for result in results for row in result.rows}
        assert [rows[name] for name in sorted(rows)] == list(local.rows())
        for result in results:
            if result.vectors is not None:
                kept = local.vectors([row.id for row in result.rows])
                assert np.allclose(result.vectors, kept, atol=1e-5)


def test_what_goes_wrong_in_an_actor_costs_its_files_only(
    local: Index, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    workers = RayWorkers(model=str(tiny_checkpoint), num_workers=1)
    spec = RayFiles(workers, local, Segmentation(), 4).spec
    path = tmp_path / "library" / "new.txt"
    path.write_text("words")
    actor = _Actor(spec.model_dump(mode="json"))
    actor({"files": ["[]"]})
    assert actor._encoder is not None
    actor._encoder.batch_items = None  # type: ignore[assignment]
    candidate = Candidate(str(path), 5, path.stat().st_mtime_ns)
    [told] = actor({"files": [json.dumps([candidate])]})["result"]
    [failure] = _parse(json.loads(told), b"", 32).failures
    assert failure.code == "decoder_crash" and "its worker failed with TypeError" in failure.detail


@pytest.mark.slow
def test_a_folder_indexed_on_ray_is_the_folder_indexed_here(
    local: Index, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    pytest.importorskip("ray.data")
    pytest.importorskip("lancedb")
    out = f"lance:{tmp_path / 'ray'}"
    command = [
        *(sys.executable, "-m", "mmembed", "index", tmp_path / "library"),
        *("--model", tiny_checkpoint, "--out", out, "--truncate-dim", "32"),
        *("--runner", "ray", "--processes", "2", "--num-workers", "1"),
    ]
    # whoever sets this has said which cluster to use, and these are to be local
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    for encoded in (16, 0):
        done = subprocess.run(
            [*map(str, command)], cwd=REPOSITORY, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 2, done.stderr  # one file is broken
        assert f"{encoded} items encoded" in done.stdout
        assert same(local, open_index(out))
