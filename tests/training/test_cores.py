"""Torch's threads and those that prepare batches do not meet on a core."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mmembed.training import cores
from mmembed.training.cores import cores_left_by

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("num_cores", "num_workers", "threads"), [(2, 1, 1), (2, 3, 1), (6, 3, 3), (16, 2, 4)]
)
def test_torch_takes_the_cores_that_are_left_but_no_more_threads_than_before(
    num_cores: int, num_workers: int, threads: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cores, "num_cores", lambda: num_cores)
    with cores_left_by(num_workers, CPU):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 4


def test_on_a_gpu_nothing_changes_and_an_error_restores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cores, "num_cores", lambda: 1)
    with cores_left_by(9, torch.device("cuda")):
        assert torch.get_num_threads() == 4
    with pytest.raises(KeyError), cores_left_by(1, CPU):
        raise KeyError
    assert torch.get_num_threads() == 4
