"""The library of `mmembed demo --quickstart`, with a tiny model in the place of the trained one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mmembed.encoder.embedder import Embedder
from mmembed.errors import ConfigError
from mmembed.quickstart.demo_library import is_trained, model_folder, prepare_index
from mmembed.quickstart.experiment import load_experiment

DEMO = """
demo:
  library:
    reference: "data_adapters.emoji_library:write_library"
    arguments: {pictures_per_group: 5, scenes_per_film: 2, pages_per_document: 2}
  segmentation: {windows: scenes, max_clip_seconds: 6}
"""


@pytest.fixture(scope="module")
def embedder(tiny_checkpoint: Path) -> Iterator[Embedder]:
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as loaded:
        yield loaded


@pytest.fixture
def experiment(tmp_path: Path) -> str:
    source = Path("configs/quickstart.yaml").read_text(encoding="utf-8")
    path = tmp_path / "small.yaml"
    path.write_text(source.partition("demo:\n")[0] + DEMO.lstrip(), encoding="utf-8")
    return str(path)


def test_the_library_is_indexed_once_and_brings_its_questions(embedder, experiment, tmp_path):
    pytest.importorskip("av")
    pytest.importorskip("pymupdf")
    index = prepare_index(tmp_path, embedder, experiment=experiment)
    kinds = index.stats().rows_by_kind
    assert kinds == {"image": 30, "video": 6, "pdf": 6, "text": 24}
    assert {"all", "image", "video", "pdf", "text"} == set(index.settings["examples"])
    assert index.settings["model"] == str(model_folder(tmp_path).resolve())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = prepare_index(tmp_path, embedder, experiment=experiment)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert again.settings == index.settings and len(again) == len(index)


def test_an_experiment_without_a_library_is_refused(embedder, experiment, tmp_path):
    path = Path(experiment)
    path.write_text(path.read_text(encoding="utf-8").partition("demo:\n")[0], encoding="utf-8")
    with pytest.raises(ConfigError, match="no `demo`"):
        prepare_index(tmp_path, embedder, experiment=experiment)


def test_a_quickstart_that_has_not_ended_is_not_trained(tmp_path):
    assert not is_trained(tmp_path)
    model_folder(tmp_path).mkdir(parents=True)
    assert not is_trained(tmp_path)
    (tmp_path / "report.html").touch()
    assert is_trained(tmp_path)


def test_the_shipped_experiment_has_a_library():
    entry = load_experiment().demo
    assert entry is not None and entry.segmentation["windows"] == "scenes"
