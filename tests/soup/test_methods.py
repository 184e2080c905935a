"""The arithmetic of souping, against numbers computed elsewhere, closed forms and identities."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmembed.errors import ConfigError
from mmembed.soup.methods import cocktail_weights, mean, slerp, slerp_fold

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text())
CASES = {case["id"]: case for case in GOLDEN["tests"]}
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)], ids=str
)
seeds = st.integers(0, 2**31)
fractions = st.floats(0, 1)


def tensors(seed: int, count: int, *shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64) * (n + 1) for n in range(count)
    ]


@PRECISIONS
def test_slerp_gives_the_golden_numbers(dtype: torch.dtype, tolerance: float) -> None:
    inputs, expected = CASES["merge_slerp"]["inputs"], CASES["merge_slerp"]["expected"]

    def close(made: torch.Tensor, name: str) -> None:
        assert made.dtype == dtype
        wanted = torch.tensor(expected[name], dtype=dtype)
        torch.testing.assert_close(made, wanted, atol=tolerance, rtol=0)

    def vector(name: str) -> torch.Tensor:
        return torch.tensor(inputs[name], dtype=dtype)

    close(slerp(vector("a"), vector("b"), inputs["t"]), "slerp")
    close(slerp(vector("a2"), vector("b2"), inputs["t2"]), "slerp2")
    near = torch.tensor([1.0, 0.01], dtype=dtype)
    close(slerp(vector("a2"), near, 0.5), "near_parallel_falls_back_to_lerp")
    share = inputs["t"]
    close(mean([vector("a"), vector("b")], [1 - share, share]), "lerp")


def test_cocktail_weights_are_the_golden_numbers() -> None:
    case = CASES["merge_lm_cocktail_weights"]
    made = cocktail_weights(case["inputs"]["loss"], case["inputs"]["T"])
    assert made == pytest.approx(case["expected"]["weights"], abs=1e-8)
    assert made == cocktail_weights(case["inputs"]["loss"]), "5 is the default"


@given(seeds, fractions)
def test_slerp_starts_at_one_end_and_arrives_at_the_other(seed: int, t: float) -> None:
    a, b = tensors(seed, 2, 3, 5)
    assert torch.equal(slerp(a, b, 0.0), a)
    assert torch.equal(slerp(a, b, 1.0), b)
    torch.testing.assert_close(slerp(a, b, t), slerp(b, a, 1 - t), atol=1e-9, rtol=1e-9)


@given(seeds, fractions)
def test_slerp_of_unit_vectors_is_a_unit_vector_at_that_share_of_the_angle(
    seed: int, t: float
) -> None:
    a, b = (tensor / tensor.norm() for tensor in tensors(seed, 2, 16))
    made = slerp(a, b, t)
    angle = math.acos(float(a @ b))
    assert float(made.norm()) == pytest.approx(1)
    assert float(a @ made) == pytest.approx(math.cos(t * angle), abs=1e-9)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([0.0, 0.0], [1.0, 2.0]),
        ([1.0, 2.0], [0.0, 0.0]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([1.0, 2.0], [2.0, 4.0]),
        ([1.0, 2.0], [-1.0, -2.0]),
        ([3.0], [5.0]),
    ],
)
def test_without_an_angle_slerp_is_linear(a: list[float], b: list[float]) -> None:
    made = slerp(torch.tensor(a), torch.tensor(b), 0.25)
    torch.testing.assert_close(made, 0.75 * torch.tensor(a) + 0.25 * torch.tensor(b))


def test_slerp_knows_the_angle_of_tensors_longer_than_a_block() -> None:
    a = torch.zeros(3, 1 << 20)
    b = a.clone()
    a[0, 0], b[2, 5] = 1.0, 1.0
    made = slerp(a, b, 0.5)
    assert float(made[0, 0]) == pytest.approx(math.sqrt(0.5))
    assert float(made[2, 5]) == pytest.approx(math.sqrt(0.5))


def test_slerp_of_other_shapes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(3,\) and \(1,\)"):
        slerp(torch.ones(3), torch.ones(1), 0.5)


def test_the_fold_goes_half_a_third_and_a_quarter_of_the_way() -> None:
    parts = tensors(0, 4, 2, 3)
    expected = parts[0]
    for t, part in zip((1 / 2, 1 / 3, 1 / 4), parts[1:], strict=True):
        expected = slerp(expected, part, t)
    torch.testing.assert_close(slerp_fold(parts), expected)
    torch.testing.assert_close(slerp_fold(parts[:2], 0.2), slerp(*parts[:2], 0.2))
    assert torch.equal(slerp_fold(parts[:1]), parts[0])


def test_the_fold_of_parallel_tensors_is_their_uniform_mean() -> None:
    direction = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    parts = [direction * scale for scale in (1.0, 2.0, 6.0)]
    torch.testing.assert_close(slerp_fold(parts), direction * 3)


@given(seeds, st.permutations(range(4)))
def test_the_mean_does_not_depend_on_the_order(seed: int, order: list[int]) -> None:
    parts = [part.float() for part in tensors(seed, 4, 3, 5)]
    shares = [0.1, 0.2, 0.3, 0.4]
    other = mean([parts[n] for n in order], [shares[n] for n in order])
    torch.testing.assert_close(mean(parts, shares), other, atol=1e-6, rtol=1e-6)


def test_low_precision_is_widened_before_the_sum() -> None:
    # in bfloat16 the second addend is lost: 256 and 257 are the same number there
    parts = [torch.tensor([256.0, 0.0]).bfloat16(), torch.tensor([2.0, 0.0]).bfloat16()]
    for made in (mean(parts, [1.0, 0.5]), slerp_fold(parts, 0.5) + torch.tensor([128.0, 0.0])):
        assert made.dtype == torch.float32
        assert made[0] == 257.0


def test_means_and_slerps_leave_their_inputs_alone() -> None:
    parts = tensors(1, 3, 4)
    before = [part.clone() for part in parts]
    mean(parts, [1.0, 0.0, 0.0])
    slerp_fold(parts)
    assert all(torch.equal(x, y) for x, y in zip(parts, before, strict=True))


@given(st.lists(st.floats(0, 50), min_size=1, max_size=6), st.floats(-50, 50))
def test_cocktail_weights_sum_to_one_follow_the_losses_and_ignore_an_offset(
    losses: list[float], offset: float
) -> None:
    made = cocktail_weights(losses, 2.0)
    assert sum(made) == pytest.approx(1)
    order = sorted(range(len(losses)), key=lambda n: losses[n])
    assert all(made[x] >= made[y] for x, y in itertools.pairwise(order))
    moved = cocktail_weights([loss + offset for loss in losses], 2.0)
    assert moved == pytest.approx(made, abs=1e-9)


@pytest.mark.parametrize(
    ("losses", "temperature"), [([], 5.0), ([1.0, math.nan], 5.0), ([1.0], 0.0)]
)
def test_impossible_cocktails_are_refused(losses: list[float], temperature: float) -> None:
    with pytest.raises(ConfigError):
        cocktail_weights(losses, temperature)
