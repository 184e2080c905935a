"""Every suite once, small: it finds what the sides have in common and writes its record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.items import make_pdf, make_photos, make_texts, save_photos
from benchmarks.media import grey_levels

# of the peers, about their own dependencies
pytestmark = pytest.mark.filterwarnings(
    "ignore:The image decoding and encoding capabilities:DeprecationWarning",
    "ignore:The video decoding and encoding capabilities:DeprecationWarning",
)


def run(folder: Path, suite: str, *options: str) -> list[dict[str, Any]]:
    arguments = ["run", "--suite", suite, "--rounds", "1", "--one-process", *options]
    outcome = CliRunner().invoke(app, [*arguments, "--output", str(folder)])
    assert outcome.exit_code == 0, outcome.output
    (path,) = folder.glob(f"*-{suite}.json")
    record = json.loads(path.read_text())
    assert f"written to {path}" in outcome.output
    for result in record["results"]:
        for side, runs in result["sides"].items():
            assert runs[0]["seconds"] > 0
            assert f"| {result['case']} | {side} |" in outcome.output
    results: list[dict[str, Any]] = record["results"]
    return results


def test_items_depend_on_nothing_but_their_seed() -> None:
    assert make_texts(20) == make_texts(20)
    assert make_texts(20) != make_texts(20, seed=1)
    first, second = make_photos(4), make_photos(4)
    assert [photo.size for photo in first] == [(640, 480), (480, 640), (800, 600), (1024, 768)]
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(first, second, strict=True))
    assert make_photos(1, side=56)[0].size == (56, 56)


def test_at_a_spread_of_1_4_one_text_in_a_hundred_has_a_thousand_words() -> None:
    lengths = [len(text.split()) for text in make_texts(4000, spread=1.4)]
    assert np.median(lengths) == pytest.approx(38, rel=0.1)
    assert np.quantile(lengths, 0.99) == pytest.approx(38 * np.exp(1.4 * 2.326), rel=0.05)


def test_saved_photos_come_back_in_order(tmp_path: Path) -> None:
    paths = save_photos(make_photos(3, side=30), tmp_path / "new")
    assert [path.name for path in paths] == ["00000.jpg", "00001.jpg", "00002.jpg"]
    assert all(path.stat().st_size for path in paths)


def test_a_made_page_has_its_text_and_its_photo(tmp_path: Path) -> None:
    pymupdf = pytest.importorskip("pymupdf")
    with pymupdf.open(make_pdf(tmp_path / "a.pdf", 2)) as document:
        assert document.page_count == 2
        assert len(document[1].get_text().split()) > 850
        assert len(document[1].get_images()) == 1


def test_frames_of_other_sizes_are_not_compared() -> None:
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    assert grey_levels(frames, frames + 3) == 3.0
    assert grey_levels(frames + 3, frames) == 3.0
    with pytest.raises(ValueError, match="shapes"):
        grey_levels(frames, frames[:1])


@pytest.mark.parametrize(
    ("suite", "options"),
    [
        ("text", ["--items", "3", "--length-spread", "0", "--model", "micro"]),
        (
            "image",
            ["--items", "2", "--images-from", "file", "--image-side", "112", "--model", "micro"],
        ),
    ],
)
def test_all_sides_give_the_vectors_of_the_reference(
    suite: str, options: list[str], tmp_path: Path
) -> None:
    (result,) = run(tmp_path, suite, *options)
    assert list(result["sides"]) == ["mmembed", "sentence-transformers", "transformers"]
    assert all(facts["max_1_minus_cos"] < 1e-5 for facts in result["facts"].values())
    assert all(set(found) >= {"time", "CPU time"} for found in result["ratios"].values())


def test_bfloat16_is_compared_with_float32(tmp_path: Path) -> None:
    options = ["--items", "2", "--dtype", "bfloat16", "--against", "transformers"]
    (result,) = run(tmp_path, "text", *options, "--length-spread", "0", "--model", "micro")
    # the random model's large weights widen rounding errors, on every side alike
    assert all(1e-8 < facts["max_1_minus_cos"] < 1e-2 for facts in result["facts"].values())


def test_preprocessing_gives_no_vectors(tmp_path: Path) -> None:
    options = ["--part", "preprocessing", "--image-tokens", "4", "4", "--image-side", "56"]
    (result,) = run(tmp_path, "image", "--items", "2", "--model", "micro", *options)
    assert "preprocessing" in result["case"]
    assert result["facts"]["mmembed"] == {}


def test_both_sides_of_the_video_suite_give_the_same_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("decord")
    monkeypatch.setattr("benchmarks.media.CLIP_SIZE", (320, 192))
    monkeypatch.setattr("benchmarks.media.FRAME_TOKENS", (4, 60))
    results = run(tmp_path, "video", "--items", "66")
    assert [result["count"] for result in results] == [64, 64, 64, 8]
    for result in results[:2] + results[3:]:
        # the next frame differs by 20 and more, another way of resizing by a few
        assert result["facts"]["qwen-vl-utils"]["grey_levels"] < 8


def test_both_sides_of_the_page_suite_draw_the_same_pages(tmp_path: Path) -> None:
    (result,) = run(tmp_path, "page", "--items", "1")
    assert result["facts"]["pymupdf"]["grey_levels"] < 8


def test_pages_go_through_a_model_too(tmp_path: Path) -> None:
    options = ["--items", "1", "--model", "micro", "--against", "transformers"]
    (result,) = run(tmp_path, "page", *options)
    assert list(result["sides"]) == ["mmembed", "transformers"]


def test_isolation_is_compared_with_decoding_in_this_process(tmp_path: Path) -> None:
    (result,) = run(tmp_path, "isolation", "--items", "1")
    assert list(result["sides"]) == ["in process", "isolated"]


def test_growth_reports_every_size_and_plans_ten_million_rows(tmp_path: Path) -> None:
    results = run(tmp_path, "growth", "--sizes", "20,60")
    assert [result["count"] for result in results] == [20, 60]
    (path,) = tmp_path.glob("*.json")
    assert "10,000,000 rows" in json.loads(path.read_text())["notes"][1]


def test_all_sides_of_the_data_suite_read_the_same_rows(tmp_path: Path) -> None:
    results = run(tmp_path, "data", "--sizes", "2100")
    assert [result["case"] for result in results] == [
        "2,100 pairs, JSON lines",
        "2,100 pairs, Arrow",
    ]
    for result in results:
        read = [(runs[0]["rows"], runs[0]["characters"]) for runs in result["sides"].values()]
        assert len(read) == 3 and len(set(read)) == 1
        assert read[0][0] == 2100


def test_all_sides_of_the_loss_suite_compute_the_same_loss_and_gradients(tmp_path: Path) -> None:
    for result in run(tmp_path, "loss", "--sizes", "64,1100", "--width", "16"):
        ours, *others = (runs[0] for runs in result["sides"].values())
        assert len(others) == 2
        for theirs in others:
            assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5)
            for name in ("query_gradient", "document_gradient"):
                assert theirs[name] == pytest.approx(ours[name], rel=1e-4)


def test_all_sides_of_the_train_suite_compute_the_same_loss_and_gradients(tmp_path: Path) -> None:
    (result,) = run(tmp_path, "train", "--sizes", "10", "--model", "micro")
    ours, *others = (runs[0] for runs in result["sides"].values())
    assert len(others) == 2
    for theirs in others:
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)
        assert theirs["gradient_norm"] == pytest.approx(ours["gradient_norm"], rel=1e-3)


@pytest.mark.slow
def test_all_sides_of_the_index_suite_find_the_nearest_rows(tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    ingest, optimize, *searches = run(tmp_path, "index", "--sizes", "1100")
    assert list(ingest["facts"]) == ["numpy", "lance"] and len(optimize["facts"]) == 2
    for side in ("numpy", "lance"):
        assert ingest["facts"][side]["disk_mb"] > 1100 * 4 * 1024 / 1e6
    assert len(searches) == 3
    for result in searches:
        facts = result["facts"]
        assert facts["numpy"]["recall_at_10"] == facts["lance"]["recall_at_10"] == 1
        assert facts["lance IVF_HNSW_SQ"]["recall_at_10"] > 0.9
