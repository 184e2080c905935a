"""Our model under mteb, on local tasks of every kind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.models_protocols import EncoderProtocol, SearchProtocol

from mmembed.baselines.stored_vectors import StoredVectors
from mmembed.errors import ConfigError, DataError
from mmembed.evaluation.mteb_runs.model import mteb_model
from mmembed.evaluation.mteb_runs.prompts import Prompts
from mmembed.evaluation.mteb_runs.running import run_tasks
from mmembed.types import Image, Text, Video
from tests.evaluation.mteb_runs.conftest import CountingEncoder
from tests.evaluation.mteb_runs.mteb_data import (
    composed_task,
    image_task,
    metadata,
    picture,
    pool_task,
    text_task,
    video_task,
)

Make = Callable[[], Any]
TASKS: tuple[Make, ...] = (text_task, image_task, composed_task, video_task, pool_task)


def searched(model: Any, task: Any, top_k: int = 1000) -> dict[str, dict[str, float]]:
    task.load_data()
    split = task.dataset["default"]["test"]
    shared: dict[str, Any] = {
        "task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default",
        "encode_kwargs": {"batch_size": 2}, "num_proc": None,
    }  # fmt: skip
    model.index(split["corpus"], **shared)
    found: dict[str, dict[str, float]] = model.search(
        split["queries"], top_k=top_k, top_ranked=split["top_ranked"], **shared
    )
    return found


def test_it_is_an_encoder_and_a_search_of_mteb(encoder: CountingEncoder) -> None:
    model = mteb_model(encoder)
    assert isinstance(model, AbsEncoder)
    assert isinstance(model, EncoderProtocol)
    assert isinstance(model, SearchProtocol)
    assert model.mteb_model_meta.similarity_fn_name.value == "cosine"


def test_every_kind_of_local_task_runs_and_a_second_run_encodes_nothing(
    encoder: CountingEncoder, tmp_path: Path
) -> None:
    def run(out: Path) -> tuple[list[Any], StoredVectors]:
        vectors = StoredVectors(encoder, tmp_path / "store")
        return run_tasks(
            mteb_model(encoder, vectors), [make() for make in TASKS], out, stop_on_error=True
        ), vectors

    first, vectors = run(tmp_path / "first")
    assert [score.task for score in first] == [
        "LocalText", "LocalImage", "LocalComposed", "LocalVideo", "LocalPools"
    ]  # fmt: skip
    assert all(score.value is not None and 0 <= score.value <= 1 for score in first)
    assert vectors.num_encoded == len(encoder.items) > 25
    encoder.items.clear()
    second, vectors = run(tmp_path / "second")
    assert second == first
    assert not encoder.items
    assert vectors.num_encoded == 0 and vectors.num_found > 25
    run(tmp_path / "first")  # mteb finds its results
    assert not encoder.items


def test_a_result_carries_the_model_and_its_settings(
    encoder: CountingEncoder, tmp_path: Path
) -> None:
    run_tasks(mteb_model(encoder), [text_task()], tmp_path)
    run_tasks(mteb_model(encoder, prompts=Prompts("none")), [text_task()], tmp_path)
    folder = tmp_path / "results" / "test__tiny" / encoder.space[:16] / "experiments"
    names = sorted(path.name for path in folder.iterdir())
    assert [name.rpartition("prompts_")[2] for name in names] == ["none", "task"]
    for name in names:
        assert (folder / name / "LocalText.json").is_file()
        assert (folder / name / "model_meta.json").is_file()


@pytest.mark.parametrize("make", TASKS)
def test_search_finds_what_mteb_finds(make: Make, encoder: CountingEncoder) -> None:
    vectors = StoredVectors(encoder)
    ours = searched(mteb_model(encoder, vectors), make())
    theirs = searched(mteb_model(encoder, vectors, own_search=False), make())
    assert set(ours) == set(theirs)
    for query, found in ours.items():
        expected = theirs[query]
        assert set(found) == set(expected)
        np.testing.assert_allclose(
            [found[name] for name in found], [expected[name] for name in found], atol=1e-6
        )
        assert list(found.values()) == sorted(found.values(), reverse=True)


def test_search_keeps_top_k_and_the_larger_id_of_equal_scores(encoder: CountingEncoder) -> None:
    task = text_task()
    task.load_data()
    split = task.dataset["default"]["test"]
    split["corpus"] = split["corpus"].select([0, 0, 1, 0, 2])
    split["corpus"] = split["corpus"].remove_columns("id").add_column("id", list("bcade"))
    task.load_data = lambda **kwargs: None
    for query, found in searched(mteb_model(encoder), task, top_k=3).items():
        assert len(found) == 3, query
        equal = [name for name in found if name in "bcd"]
        assert equal == sorted(equal, reverse=True)[: len(equal)]
        assert "d" in equal or not equal


def test_search_over_windows_is_search_over_all(
    encoder: CountingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = StoredVectors(encoder)
    whole = searched(mteb_model(encoder, vectors), image_task(), top_k=3)
    monkeypatch.setattr("mmembed.evaluation.mteb_runs.rows._WINDOW_PICTURES", 2)
    assert searched(mteb_model(encoder, vectors), image_task(), top_k=3) == whole


def test_documents_outside_all_pools_are_not_encoded(encoder: CountingEncoder) -> None:
    task = pool_task()
    task.load_data()
    task.dataset["default"]["test"]["top_ranked"] = {"q0": ["d0", "d1"], "q1": ["d1"]}
    task.load_data = lambda **kwargs: None
    found = searched(mteb_model(encoder), task)
    assert {query: set(each) for query, each in found.items()} == {
        "q0": {"d0", "d1"}, "q1": {"d1"}, "q2": set(),
    }  # fmt: skip
    assert len([role for _, role in encoder.items if role == "document"]) == 2


def rows(model: Any, task: Any, columns: dict[str, Any], prompt_type: Any, size: int = 2) -> Any:
    from torch.utils.data import DataLoader

    count = len(next(iter(columns.values())))
    listed = [{name: values[row] for name, values in columns.items()} for row in range(count)]
    loader: Any = DataLoader(
        listed,  # type: ignore[arg-type]
        batch_size=size,
        collate_fn=lambda batch: {name: [row[name] for row in batch] for name in batch[0]},
    )
    return model.encode(
        loader, task_metadata=task.metadata, hf_split="test", hf_subset="default",
        prompt_type=prompt_type, batch_size=size,
    )  # fmt: skip


def test_rows_of_one_batch_may_have_different_parts(encoder: CountingEncoder) -> None:
    frames = [picture(number) for number in range(12)]
    clip = np.stack([np.asarray(frame).transpose(2, 0, 1) for frame in frames])
    columns = {
        "text": ["a cat", "", "", "a dog", "", "moving"],
        "image": [None, picture(1), None, picture(2), None, None],
        "video": [None, None, frames, None, None, clip],
    }
    found = rows(mteb_model(encoder), composed_task(), columns, None)
    assert found.dtype == np.float32 and found.shape == (6, encoder.embedding_dimension)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    kinds = {item.modality for item, _ in encoder.items}
    assert kinds == {"text", "image", "video", "image+text", "text+video"}
    for row in range(6):  # alone it is the same row: nothing was exchanged
        alone = {name: [values[row]] for name, values in columns.items()}
        again = rows(mteb_model(encoder), composed_task(), alone, None)
        np.testing.assert_allclose(found[row], again[0], atol=1e-5)


def test_a_row_of_nothing_is_its_instruction(encoder: CountingEncoder) -> None:
    task = text_task()
    found = rows(mteb_model(encoder), task, {"text": [""]}, mteb.types.PromptType.query)
    ((item, role),) = encoder.items
    assert (item.parts, item.instruction, role) == ((Text(""),), "Find it: ", "query")
    assert found.shape == (1, encoder.embedding_dimension)


def test_text_picture_text_with_odd_sizes_in_one_process(encoder: CountingEncoder) -> None:
    """EV-24: positions of a batch of pictures must not reach the next batch."""
    model = mteb_model(encoder)
    texts = {"text": ["a red apple", "rain", "first a dog, then a car"]}
    pictures = {"image": [picture(number, (30 + 11 * number, 57)) for number in range(5)]}
    before = rows(mteb_model(encoder), image_task(), texts, None, size=3)
    rows(model, image_task(), pictures, None, size=3)
    assert rows(model, image_task(), texts, None, size=2).tobytes() == before.tobytes()


def test_pictures_stay_files_or_bytes_until_a_worker_opens_them(
    encoder: CountingEncoder, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    for number, path in enumerate(paths):
        picture(number).save(path)
    task = image_task()
    task.load_data()
    split = task.dataset["default"]["test"]
    import datasets

    files = datasets.Dataset.from_dict(
        {"id": split["corpus"]["id"], "image": list(map(str, paths))}
    ).cast_column("image", datasets.Image())
    split["corpus"] = files
    task.load_data = lambda **kwargs: None
    searched(mteb_model(encoder), task)
    sources = [
        part.source for item, _ in encoder.items for part in item.parts if isinstance(part, Image)
    ]
    assert sources == paths


def test_long_clips_give_eight_frames_evenly(encoder: CountingEncoder) -> None:
    searched(mteb_model(encoder), video_task())
    clips = [part.source for item, _ in encoder.items for part in item.parts
             if isinstance(part, Video)]  # fmt: skip
    assert sorted(len(clip) for clip in clips) == [1, 6, 8, 8]  # type: ignore[arg-type]


def test_texts_of_large_data_sets_are_not_kept(encoder: CountingEncoder) -> None:
    vectors = StoredVectors(encoder)
    kept = searched(mteb_model(encoder, vectors), text_task())
    assert vectors.num_encoded == 8
    vectors = StoredVectors(encoder)
    found = searched(mteb_model(encoder, vectors, max_stored_texts=4), text_task())
    assert vectors.num_encoded == 3  # the queries
    for query, expected in kept.items():
        assert found[query] == pytest.approx(expected, abs=1e-5)


def test_fewer_dimensions_are_cut_and_normalised(encoder: CountingEncoder) -> None:
    columns = {"text": ["a red apple", "rain"]}
    whole = rows(mteb_model(encoder), text_task(), columns, None)
    cut = rows(mteb_model(encoder, dimension=16), text_task(), columns, None)
    expected = whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, expected, atol=1e-6)
    with pytest.raises(ConfigError, match="1 to 64"):
        mteb_model(encoder, dimension=65)


def test_an_error_while_rows_are_read_reaches_the_caller(encoder: CountingEncoder) -> None:
    def broken() -> Any:
        yield {"text": ["fine"]}
        raise RuntimeError("the disk is gone")

    class Loader:
        dataset = ("fine", "gone")

        def __iter__(self) -> Any:
            return broken()

    with pytest.raises(RuntimeError, match="the disk is gone"):
        mteb_model(encoder).encode(
            Loader(), task_metadata=text_task().metadata, hf_split="test", hf_subset="default"
        )


def test_classes_of_zero_shot_tasks_are_documents_without_the_instruction(
    encoder: CountingEncoder,
) -> None:
    task = image_task()
    task.metadata = metadata(
        "Zero",
        "i2t",
        type="ZeroShotClassification",
        prompt="Name it.",
        modalities=["image", "text"],
    )
    model = mteb_model(encoder)
    rows(model, task, {"text": ["a cat", "a dog"]}, None)
    rows(model, task, {"image": [picture(0)]}, None)
    assert [(item.instruction, role) for item, role in encoder.items] == [
        (None, "document"), (None, "document"), ("Name it.", "query"),
    ]  # fmt: skip


def test_search_needs_an_index_and_a_corpus_that_has_the_candidates(
    encoder: CountingEncoder,
) -> None:
    task = pool_task()
    task.load_data()
    split = task.dataset["default"]["test"]
    shared: dict[str, Any] = {
        "task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default",
        "encode_kwargs": {},
    }  # fmt: skip
    model = mteb_model(encoder)
    with pytest.raises(DataError, match="search before index"):
        model.search(split["queries"], top_k=3, **shared)
    model.index(split["corpus"], **shared)
    with pytest.raises(DataError, match="'nowhere'"):
        model.search(split["queries"], top_k=3, top_ranked={"q0": ["nowhere"]}, **shared)
    with pytest.raises(ConfigError, match="float32"):
        model.encode((), task_metadata=task.metadata, hf_split="", hf_subset="", precision="int8")


def test_without_mteb_everything_can_be_imported_and_says_what_to_install() -> None:
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"mteb", "datasets"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from importlib import import_module
from pathlib import Path
import mmembed.evaluation.mteb_runs as folder
for path in Path(folder.__file__).parent.glob("*.py"):
    import_module(f"{folder.__name__}.{path.stem}".removesuffix(".__init__"))
from mmembed.errors import MissingDependencyError
from mmembed.evaluation.mteb_runs.benchmarks import find_benchmark
from mmembed.evaluation.mteb_runs.localize import offline
for use in (lambda: find_benchmark("eng"), lambda: offline().__enter__()):
    try:
        use()
    except MissingDependencyError as error:
        assert "mmembed[evaluation]" in str(error), error
    else:
        raise SystemExit("no error")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
