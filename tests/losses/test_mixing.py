"""Mixed negatives: the pure functions against loops, the draws by their promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from mmembed.errors import ConfigError
from mmembed.losses.info_nce import InfoNCE
from mmembed.losses.mixing import MixedNegatives, mix_lists, mix_pairs
from mmembed.losses.pools import is_positive
from tests.losses.dense_info_nce import make_batch, share_of

PAIRS = MixedNegatives(pair=(2.0, 2.0))


def own_hard_negatives(e, row: int) -> list[int]:
    positive = set(e.all_positive.tolist())
    return [c for c, owner in enumerate(e.owner.tolist()) if owner == row and c not in positive]


def test_pair_is_the_unit_vector_between_two_documents():
    vectors = torch.eye(3, dtype=torch.float64)
    mixed = mix_pairs(
        vectors, torch.tensor([0, 2]), torch.tensor([1, 0]), torch.tensor([0.25, 1.0])
    )
    expected = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(mixed, normalize(expected, dim=1))


def test_list_is_the_mean_under_a_softmax_of_the_cosines_in_value_and_gradient():
    results = []
    for loop in (False, True):
        e = make_batch(2, hard=3)
        if not loop:
            mixed = mix_lists(e)
        else:
            rows = []
            for row in range(len(e.all_queries)):
                own = e.documents[own_hard_negatives(e, row)]
                weight = (own @ e.all_queries[row]).detach().softmax(0)
                rows.append(normalize(weight @ own, dim=0))
            mixed = torch.stack(rows)
        (mixed * torch.arange(mixed.numel()).reshape(mixed.shape)).sum().backward()
        assert e.queries.grad is None  # the weights select, they do not learn
        results.append((mixed.detach(), e.documents.grad))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


def test_pair_lies_between_two_different_hard_negatives_of_its_own_row():
    for seed in range(30):
        e = replace(make_batch(3, hard=3, width=24), draw_seed=seed)
        mixed = PAIRS(e).detach()
        assert len(mixed) == len(e.all_queries)
        for row, vector in enumerate(mixed):
            own = e.documents[own_hard_negatives(e, row)].detach()
            weight = torch.linalg.lstsq(own.T, vector[:, None]).solution[:, 0]
            torch.testing.assert_close(weight @ own, vector)  # in the span of the row's own
            assert (weight.abs() > 1e-6).sum() == 2
            assert (weight > -1e-9).all()


def test_row_with_a_single_hard_negative_has_no_pair_and_is_its_own_list():
    e = make_batch(hard=1)  # row 4 has none, row 0 has two, the others one
    assert len(PAIRS(e)) == 1
    lists = MixedNegatives(list=True)(e)
    assert len(lists) == 4
    torch.testing.assert_close(lists[1], e.documents[own_hard_negatives(e, 1)[0]])


@pytest.mark.parametrize("hard", [0, 2])
def test_without_mixers_or_hard_negatives_there_is_nothing_to_mix(hard: int):
    assert MixedNegatives()(make_batch(hard=hard)).shape == (0, 4)
    if hard == 0:
        assert MixedNegatives((2.0, 2.0), True)(make_batch(hard=0)).shape == (0, 4)


def test_draws_are_equal_on_all_processes_and_at_every_width_and_change_with_the_seed():
    e = make_batch(1, hard=3)
    whole = PAIRS(e)
    for part in (slice(0, 2), slice(2, 5)):
        assert torch.equal(PAIRS(share_of(e, part)), whole)
    assert not torch.equal(PAIRS(replace(e, draw_seed=99)), whole)
    # Before they are normalised, mixes of prefixes are prefixes of mixes.
    narrow = PAIRS(e.mapped(lambda x: x[:, :2]))
    torch.testing.assert_close(narrow, normalize(whole[:, :2], dim=1))


def test_lambda_follows_its_beta_distribution():
    # Hard negatives are orthogonal, so a mix tells its two weights.
    rows = 2000
    e = make_batch(rows=2, hard=2)
    e = replace(
        e,
        all_queries=torch.ones(rows, 4, dtype=torch.float64),
        documents=torch.cat([torch.ones(rows, 4), torch.eye(4)[:2].repeat(rows, 1)]).double(),
        owner=torch.cat([torch.arange(rows), torch.arange(rows).repeat_interleave(2)]),
        ids=torch.arange(3 * rows),
        positive=torch.arange(2),
        all_positive=torch.arange(rows),
        **dict.fromkeys(("query_ids", "query_classes", "document_classes")),
    )
    mixed = MixedNegatives(pair=(2.0, 6.0))(e)
    smaller = mixed[:, 0] / mixed.sum(1)  # lambda or 1 - lambda, as the order was drawn
    distance = (smaller - 0.5).abs()
    # E[(lambda - 1/2)^2] of Beta(2, 6) is its variance 12/576 plus (1/4 - 1/2)^2.
    assert distance.square().mean().item() == pytest.approx(12 / 576 + 1 / 16, rel=0.05)
    assert 0.45 < (smaller < 0.5).double().mean() < 0.55  # first and second are drawn alike
    assert not is_positive(e)[rows:].any()


def test_everybodys_mixed_negatives_are_candidates_of_every_query():
    e, tau = make_batch(0), torch.tensor(0.1, dtype=torch.float64)
    loss = InfoNCE(duplicate_id=False, mixed_negatives=MixedNegatives((2.0, 2.0), True))
    plain = replace(loss, mixed_negatives=MixedNegatives())
    extra = (e.queries @ loss.mixed_negatives(e).T / tau).logsumexp(1)
    own = (e.queries * e.documents[e.positive]).sum(1) / tau
    before = plain.row_losses(e, tau) + own  # log of the sum without them
    torch.testing.assert_close(loss.row_losses(e, tau), torch.logaddexp(before, extra) - own)


@pytest.mark.parametrize("pair", [(0.0, 2.0), (2.0, -1.0), (float("nan"), 1.0)])
def test_beta_parameters_that_are_not_positive_are_refused(pair: tuple[float, float]):
    with pytest.raises(ConfigError, match="both must be above 0"):
        MixedNegatives(pair=pair)
