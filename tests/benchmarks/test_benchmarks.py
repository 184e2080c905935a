"""The benchmark's own arithmetic, and one small run of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.items import make_pictures, make_texts, save_pictures
from benchmarks.measurement import compare, spread


def test_items_depend_on_nothing_but_their_seed() -> None:
    assert make_texts(20) == make_texts(20)
    assert make_texts(20) != make_texts(20, seed=1)
    first, second = make_pictures(4), make_pictures(4)
    assert [p.size for p in first] == [(64, 64)] * 3 + [(256, 256)]
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(first, second, strict=True))


def test_saved_pictures_come_back_in_order(tmp_path: Path) -> None:
    paths = save_pictures(make_pictures(4), tmp_path / "new")
    assert [path.suffix for path in paths] == [".jpg", ".png", ".jpg", ".png"]
    assert all(path.stat().st_size for path in paths)


def test_each_side_goes_first_in_every_second_round() -> None:
    calls = []

    def side(name: str) -> np.ndarray:
        calls.append(name)
        return np.eye(2)

    done: list[int] = []
    pairs, _ = compare(lambda: side("a"), lambda: side("b"), rounds=3, progress=done.append)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert done == [1, 2, 3]
    assert len(pairs) == 3


def test_the_difference_is_the_worst_row_and_ignores_length() -> None:
    ours = np.array([[1.0, 0.0], [0.0, 2.0]])
    theirs = np.array([[3.0, 0.0], [1.0, 1.0]])
    _, difference = compare(lambda: ours, lambda: theirs, rounds=1, progress=lambda _: None)
    assert difference == pytest.approx(1 - 2**-0.5)


def test_the_spread_is_median_least_and_greatest() -> None:
    assert spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["text", "image"])
def test_a_small_run_finds_equal_vectors_and_writes_its_result(suite: str, tmp_path: Path) -> None:
    from benchmarks.__main__ import app

    arguments = ["run", "--suite", suite, "--items", "4", "--rounds", "1"]
    outcome = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path)])
    assert outcome.exit_code == 0, outcome.output
    (path,) = tmp_path.glob(f"*-{suite}.json")
    record = json.loads(path.read_text())
    assert record["max_1_minus_cos"] < 1e-5
    assert set(record["ratios"]) >= {"time", "CPU time"}


@pytest.mark.slow
def test_all_sides_of_the_loss_suite_compute_the_same_loss_and_gradients(tmp_path: Path) -> None:
    from benchmarks.__main__ import app

    arguments = ["run", "--suite", "loss", "--sizes", "64,1100", "--width", "16", "--rounds", "1"]
    outcome = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path)])
    assert outcome.exit_code == 0, outcome.output
    (path,) = tmp_path.glob("*-loss.json")
    for result in json.loads(path.read_text())["results"]:
        ours, *others = (runs[0] for runs in result["sides"].values())
        assert len(others) == 2
        for theirs in others:
            assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5)
            assert theirs["gradient_norms"] == pytest.approx(ours["gradient_norms"], rel=1e-4)


@pytest.mark.slow
def test_both_sides_of_the_train_suite_compute_the_same_loss_and_gradients(tmp_path: Path) -> None:
    from benchmarks.__main__ import app

    arguments = ["run", "--suite", "train", "--sizes", "48", "--rounds", "1"]
    outcome = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path)])
    assert outcome.exit_code == 0, outcome.output
    (path,) = tmp_path.glob("*-train.json")
    (result,) = json.loads(path.read_text())["results"]
    ours, *others = (runs[0] for runs in result["sides"].values())
    assert len(others) == 2
    for theirs in others:
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)
        assert theirs["gradient_norm"] == pytest.approx(ours["gradient_norm"], rel=1e-3)
