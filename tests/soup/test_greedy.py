"""The greedy soup keeps what helps, and one candidate at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from mmembed.errors import ConfigError
from mmembed.soup import soup
from mmembed.soup.greedy import choose_greedily


def choose(values: Sequence[float], target: float) -> tuple[list[int], list[float]]:
    """Members are numbers, the mean is theirs, the metric is the nearness to `target`."""
    members = [Path(str(number)) for number in range(len(values))]
    tried: dict[Path, float] = dict(zip(members, values, strict=True))

    @contextmanager
    def candidate(chosen: Sequence[int]) -> Iterator[Path]:
        assert len(tried) == len(members), "one candidate at a time"
        tried[Path("candidate")] = math.fsum(values[n] for n in chosen) / len(chosen)
        yield Path("candidate")
        del tried[Path("candidate")]

    result = choose_greedily(members, lambda folder: -abs(tried[folder] - target), candidate)
    return list(result.chosen), [*result.scores, result.score]


def test_members_are_tried_from_the_best_on_and_kept_if_the_metric_does_not_fall() -> None:
    # 4 is best; with -1 the mean is 1.5: nearer to 0 -> no: |4| vs |1.5|, kept; 7 would spoil it
    chosen, scores = choose([7.0, -1.0, 4.0], target=2.0)
    assert chosen == [2, 1]
    assert scores == [-5.0, -3.0, -2.0, -0.5]


def test_a_member_that_changes_nothing_is_kept() -> None:
    assert choose([1.0, 1.0, 9.0], target=1.0)[0] == [0, 1]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.floats(-5, 5))
def test_the_greedy_soup_is_at_least_as_good_as_every_member(
    values: list[float], target: float
) -> None:
    chosen, scores = choose(values, target)
    assert scores[-1] >= max(scores[:-1])
    assert len(set(chosen)) == len(chosen)
    assert scores[chosen[0]] == max(scores[:-1])


def test_a_metric_that_is_nan_is_refused() -> None:
    with pytest.raises(ConfigError, match="NaN"):
        choose([math.nan], 0.0)


def test_the_soup_is_the_mean_of_the_chosen_folders(members: list[Path], tmp_path: Path) -> None:
    name = "language_model.norm.weight"
    goal = (load_file(members[0] / "model.safetensors")[name]
            + load_file(members[2] / "model.safetensors")[name]) / 2  # fmt: skip
    candidates = []

    def score(folder: Path) -> float:
        if folder not in members:
            candidates.append(folder)
            assert [path.name for path in tmp_path.iterdir()] == [folder.name]
        return -float((load_file(folder / "model.safetensors")[name] - goal).norm())

    made = soup(members, output=tmp_path / "soup", method="greedy", score=score)
    assert len(candidates) == 2 and not any(folder.exists() for folder in candidates)
    expected = soup([members[0], members[2]], output=tmp_path / "mean")
    found, wanted = (load_file(folder / "model.safetensors") for folder in (made, expected))
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor)
    card = json.loads((made / "soup.json").read_text())
    assert [member["weight"] for member in card["members"]] == [0.5, 0.0, 0.5]
    assert card["settings"]["score"] >= max(member["score"] for member in card["members"])
