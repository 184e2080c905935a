"""Two processes give the loss and gradients of one: of weights, temperatures, biases and steps.

And the two public schemes that do not, with the golden numbers of what they give instead.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmembed.losses.info_nce import InfoNCE
from mmembed.training import distributed
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
    # rows against gathered columns, with gradient, averaged: the scheme of this project
    for name, key in (
        ("phi", "grad_gather_with_autograd_local_rows"),
        ("theta", "dtheta_gather_with_autograd_local_rows"),
    ):
        assert results[0]["scalar"][name] == pytest.approx(expected[key], abs=2e-9)


@pytest.mark.parametrize("local_rows", [False, True])
def test_gathering_without_gradient_gives_the_golden_wrong_ones(local_rows: bool):
    """In one process: each half as its rank sees it, then the mean over ranks."""
    expected = one_of_two.CASES["ddp_scaling"]["expected"]
    gradients, losses, rows = [], [], []
    for rank in range(WORLD_SIZE):
        phi, theta = one_of_two.scalars()
        e = distributed.gather(one_of_two.turned_batch(slice(0, 4), phi))
        own = one_of_two.share(4, rank, WORLD_SIZE)
        mine = torch.zeros(4, 1, dtype=torch.bool)
        mine[own] = True
        live = e.mapped(lambda x, mine=mine: torch.where(mine, x, x.detach()))
        if local_rows:
            live = replace(
                live, queries=live.queries[own], row=e.row[own], positive=e.positive[own]
            )
        loss = InfoNCE()(live, theta.exp()).loss
        gradients.append(torch.autograd.grad(loss, (phi, theta)))
        losses.append(loss.item())
        rows += InfoNCE().row_losses(live, theta.exp()).tolist()
    of_phi, of_theta = (sum(each).item() / WORLD_SIZE for each in zip(*gradients, strict=True))
    assert sum(losses) / WORLD_SIZE == pytest.approx(expected["loss"], abs=2e-9)
    if local_rows:
        assert rows == pytest.approx(expected["loss_per_row"], abs=2e-9)
        assert of_phi == pytest.approx(expected["grad_nograd_gather_local_rows(biased)"], abs=2e-9)
        return
    key = "grad_nograd_gather_full_rows(=true/W, multiply by W)"
    assert of_phi == pytest.approx(expected[key], abs=2e-9)
    assert WORLD_SIZE * of_phi == pytest.approx(expected["grad_single_process"], abs=2e-9)
    # the factor that repairs phi spoils what every process has: theta
    key = "dtheta_if_full_rows_loss_is_multiplied_by_W(wrong)"
    assert WORLD_SIZE * of_theta == pytest.approx(expected[key], abs=2e-9)


@pytest.mark.parametrize("name", one_of_two.losses())
def test_uneven_shares_give_the_loss_and_every_gradient_of_one_process(
    name: str, results: list[dict]
):
    alone = one_of_two.every_loss(0, 1)[name]
    shares = [result["losses"][name] for result in results]
    mean = sum(part["loss"] for part in shares) / WORLD_SIZE
    assert mean == pytest.approx(alone["loss"], abs=1e-12)
    for part in shares:
        for found, expected in zip(part["gradients"], alone["gradients"], strict=True):
            if expected is None:  # a task that is not in the batch
                assert found is None
            else:
                assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
                assert max(map(abs, expected)) > 1e-6


def test_bytes_are_joined_in_the_order_of_the_ranks(results: list[dict]):
    assert [result["joined"] for result in results] == [["xxyz", "second", ""]] * 2


def test_a_stop_on_one_process_is_seen_by_all(results: list[dict]):
    assert [result["stop"] for result in results] == [True, True]


def test_a_hard_negative_that_is_a_positive_of_another_process_gets_its_id(results: list[dict]):
    assert [result["ids"] for result in results] == [[100, 200, 100]] * WORLD_SIZE
