"""Two processes give the gradient of one: of weights, of documents, and of the temperature."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import one_of_two

WORLD_SIZE = 2


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("processes")
    script = Path(one_of_two.__file__)
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(WORLD_SIZE), str(folder / "store"),
             str(folder / f"{rank}.json")],
            cwd=script.parents[2],
            env={"PYTHONPATH": str(script.parents[2]), "GLOO_SOCKET_IFNAME": "lo"},
            stderr=subprocess.PIPE,
        )
        for rank in range(WORLD_SIZE)
    ]  # fmt: skip
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD_SIZE)]


def test_gathered_gradient_is_the_golden_one_of_a_single_process(results: list[dict]):
    expected = one_of_two.CASES["ddp_scaling"]["expected"]
    alone = one_of_two.shared_scalar(0, 1)
    for found in [alone, *(result["scalar"] for result in results)]:
        assert found["phi"] == pytest.approx(expected["grad_single_process"], abs=2e-9)
        assert found["theta"] == pytest.approx(expected["dtheta_single_process"], abs=2e-9)


def test_uneven_shares_with_masks_and_weights_give_the_gradients_of_one_process(
    results: list[dict],
):
    alone = one_of_two.full_loss(0, 1)["gradients"]
    for result in results:
        for found, expected in zip(result["full"]["gradients"], alone, strict=True):
            assert found == pytest.approx(expected, abs=1e-12)


def test_a_stop_on_one_process_is_seen_by_all(results: list[dict]):
    assert [result["full"]["stop"] for result in results] == [True, True]
