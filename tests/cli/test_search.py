"""`mmembed search` with its filters and modes, and `mmembed index migrate`."""

from __future__ import annotations

import json
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmembed.cli import app
from mmembed.encoder.embedder import Embedder
from mmembed.search.corpus import index_folder
from mmembed.search.opening import open_index
from mmembed.search.segments import Segmentation
from tests import media_files


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def found(*arguments: Any) -> list[str]:
    """Names of the files, with the page or the time."""
    done = run("search", *arguments, "--k", 50, "--json")
    assert done.exit_code == 0, (done.stderr, done.exception)
    hits = json.loads(done.stdout)
    names = [f"{Path(hit['path']).name}{'#' if hit['page'] else ''}" for hit in hits]
    return [f"{name}{hit['page'] or ''}" for name, hit in zip(names, hits, strict=True)]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    library = tmp_path_factory.mktemp("library")
    (library / "deep").mkdir()
    photo = media_files.encode_image(media_files.photo(seed=1))
    (library / "deep" / "photo.png").write_bytes(photo)
    (library / "paper.pdf").write_bytes(media_files.pdf(3))
    (library / "clip.mp4").write_bytes(media_files.video(45, fps=15))
    (library / "apple.txt").write_text("one red apple and a pear")
    (library / "deep" / "car.txt").write_text("a car in the rain")
    for name, day in (("apple.txt", "2026-03-01"), ("paper.pdf", "2026-03-31")):
        moment = datetime.fromisoformat(f"{day}T23:30:00").timestamp()
        os.utime(library / name, (moment, moment))
    out = tmp_path_factory.mktemp("made") / "library.index"
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as embedder:
        made = open_index(f"numpy:{out}", fingerprint=embedder.fingerprint, dimension=64)
        index_folder(
            library,
            embedder=embedder,
            index=made,
            segmentation=Segmentation(window_seconds=1.0, max_clip_seconds=2.0),
            decoder=embedder.processor.decoder,
            model=str(tiny_checkpoint),
        )
    return out


def test_words_are_found_by_their_mode(index: Path) -> None:
    assert found(index, "apple", "--mode", "text") == ["apple.txt"]
    assert found(f"numpy:{index}", "Clip", "--mode", "text") == ["clip.mp4"] * 3
    assert found(index, "rain", "--mode", "hybrid")[0] == "car.txt"
    assert len(found(index, "rain", "--mode", "hybrid")) == 9


def test_filters_narrow_the_results(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Path(next(iter(open_index(index).settings["folders"])))
    pages = ["paper.pdf#1", "paper.pdf#2", "paper.pdf#3"]
    assert sorted(found(index, "x", "--kind", "pdf")) == pages
    assert sorted(found(index, "x", "--page", "2-")) == pages[1:]
    assert found(index, "x", "--page", "3") == pages[2:]
    assert sorted(found(index, "x", "--page", "1-2")) == pages[:2]
    assert sorted(found(index, "x", "--suffix", ".TXT")) == ["apple.txt", "car.txt"]
    monkeypatch.chdir(library)
    assert sorted(found(index, "x", "--folder", "deep")) == ["car.txt", "photo.png"]
    assert found(index, "x", "--before", "2026-03-01") == ["apple.txt"]
    between = found(index, "x", "--after", "2026-03-02", "--before", "2026-03-31")
    assert sorted(between) == pages
    assert found(index, "x", "--min-duration", "2") == ["clip.mp4"] * 3
    assert found(index, "x", "--min-duration", "2", "--max-duration", "2.5") == []


def test_a_reranker_orders_the_results(index: Path, tiny_reranker: Path) -> None:
    words = ("search", index, "a red apple", "--reranker", tiny_reranker, "--num-workers", 1)
    done = run(*words, "--rerank-depth", 4, "--k", 6, "--json")
    assert done.exit_code == 0, (done.stderr, done.exception)
    scores = [hit["rerank_score"] for hit in json.loads(done.stdout)]
    assert scores[:4] == sorted(scores[:4], reverse=True) and scores[4:] == [None, None]
    shown = run(*words, "--rerank-depth", 4, "--k", 1).stdout
    assert shown.split()[0] == f"{scores[0]:.4f}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["x", "--mode", "words"], "mode is 'words'; allowed: vector, text, hybrid"),
        (["x", "--after", "yesterday"], "--after is 'yesterday'; give a day, e.g. 2026-01-31"),
        (["x", "--page", "last"], "--page is 'last'; give a page or a range: 3, 1-5, 4-"),
        (["x", "--kind", "audio"], "unknown kind audio"),
        ([], "nothing to look for"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_a_model_is_loaded(
    tmp_path: Path, options: list[str], message: str
) -> None:
    done = run("search", tmp_path / "nowhere", *options)
    assert done.exit_code == 2 and message in done.stderr


def test_codes_are_turned_on_by_optimising(index: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(index, tmp_path / "copy")
    done = run("index", "optimize", copy, "--coarse", "32:int8")
    assert done.exit_code == 0, (done.stderr, done.exception)
    assert done.stdout.startswith("32:int8:4, recall@10 1.0000 (4 candidates for each result)")
    assert open_index(copy).settings["coarse"] == "32:int8:4"
    assert found(copy, "apple") == found(index, "apple")
    wrong = run("index", "optimize", copy, "--coarse", "int4")
    assert wrong.exit_code == 2 and "write [DIMENSIONS:]int8" in wrong.stderr


def test_an_index_moves_to_another_model(
    index: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    done = run("index", "migrate", index, "--model", tiny_checkpoint, "--truncate-dim", 32)
    assert done.exit_code == 0, (done.stderr, done.exception)
    assert "9 rows in the new space: 9 encoded, 0 had a vector, 0 failures" in done.stdout
    assert "the old vectors are kept" in done.stderr
    moved = open_index(index)
    assert (moved.dimension, len(moved)) == (32, 9)
    assert found(index, "apple", "--mode", "text") == ["apple.txt"]
    assert len(found(index, "apple")) == 9
    again = run("index", "migrate", index, "--model", tiny_checkpoint, "--truncate-dim", 32)
    assert again.exit_code == 2 and "this model's vectors already" in again.stderr
