"""Objectives built from the shipped recipes give the golden numbers of the systems they name.

Golden cases have no prefixes and no quantisation, so these two wrappers are taken off; they are
tested around every objective in tests/losses.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmembed.config.files import load_recipe
from mmembed.config.objective import LossConfig, MatryoshkaConfig, QuantizationConfig
from mmembed.config.stage import StageConfig
from mmembed.data.sampler import group_shares
from mmembed.losses.embeddings import ContrastiveEmbeddings, Loss
from mmembed.losses.info_nce import InfoNCE
from mmembed.losses.masks import DocumentSimilarityMask
from mmembed.losses.mixing import MixedNegatives
from mmembed.losses.pointwise import yes_no_loss
from mmembed.training.objectives import build_loss
from mmembed.types import Task
from tests.losses.graded_batch import pairs_with_cosines
from tests.losses.test_distillation import one_row
from tests.losses.test_golden_losses import (
    CASES,
    PRECISIONS,
    GoldenMix,
    classes,
    fixture_a,
    near,
)


def stage_of(name: str, stage: str) -> StageConfig:
    return next(each for each in load_recipe(name).stages if each.name == stage)


def unwrapped(name: str, stage: str, task: Task = "retrieval") -> Loss:
    config: LossConfig = stage_of(name, stage).loss_of(task)
    off = {"matryoshka": MatryoshkaConfig(), "quantization": QuantizationConfig()}
    return build_loss(config.model_copy(update=off))


def case_input(
    case: str, dtype: torch.dtype = torch.float64, **options: bool
) -> tuple[ContrastiveEmbeddings, torch.Tensor]:
    """The fixture with the classes of the case, and its temperature."""
    inputs = CASES[case]["inputs"]
    facts = classes(CASES[case]) if "class_q" in inputs else {}
    return fixture_a(dtype, **options, **facts), torch.tensor(inputs["tau"], dtype=dtype)


# recipe, stage, task -> a golden case that is exactly this objective
OBJECTIVES = [
    ("rzenembed", "alignment", "retrieval", "infonce_shared_idmask"),
    ("qwen3", "weakly_supervised", "retrieval", "qwen3_5term_canonical_ddmask=qd_tau0.01"),
    ("qwen3", "supervised", "sts", "qwen3_5term_canonical_ddmask=qd_tau0.01"),
    ("qwen3_vl", "pretraining", "retrieval", "qwen3_5term_canonical_ddmask=qd_tau0.02"),
    ("qwen3_vl", "multitask", "retrieval", "qwen3_2nd_stage_q3vl(qh+qd)_tau0.02"),
    ("qwen3_vl", "multitask", "classification", "q3vl_classification"),
    ("qzhou", "retrieval", "retrieval", "qzhou_retrieval_all_tau0.02"),
    ("qzhou", "all_tasks", "retrieval", "qzhou_retrieval_all_tau0.02"),
    ("qzhou", "all_tasks", "classification", "qzhou_cls_tau0.02"),
    ("kalm", "pretraining", "retrieval", "infonce_inbatch"),
]


@PRECISIONS
@pytest.mark.parametrize(("name", "stage", "task", "case"), OBJECTIVES)
def test_objective_of_a_recipe_gives_the_golden_number(
    name: str, stage: str, task: Task, case: str, dtype: torch.dtype, tolerance: float
):
    e, tau = case_input(case, dtype)
    found = unwrapped(name, stage, task)(e, tau).loss.item()
    assert found == near(CASES[case]["expected"]["mean"], tolerance)


def test_recipes_train_at_the_temperature_of_their_golden_case():
    for name, stage, _, case in OBJECTIVES:
        if case.startswith(("qwen3_5term", "qwen3_2nd", "qzhou")):
            assert stage_of(name, stage).temperature.init == CASES[case]["inputs"]["tau"]


@PRECISIONS
@pytest.mark.parametrize(
    ("hard", "case"), [(False, "rzen_tau0.02_alpha9_fn0.95"), (True, "rzen_full_pool")]
)
def test_hardness_and_document_mask_of_the_recipe_give_the_golden_numbers(
    hard: bool, case: str, dtype: torch.dtype, tolerance: float
):
    loss = unwrapped("rzenembed", "instructions")
    assert isinstance(loss, InfoNCE)
    e, tau = case_input(case, dtype, hard=hard)
    assert stage_of("rzenembed", "instructions").temperature.init == CASES[case]["inputs"]["tau"]
    # a third of the pairs of this batch is near, so the recipe's own limit turns the mask off
    unlimited = replace(loss, similarity_mask=DocumentSimilarityMask(0.95))
    assert replace(loss.similarity_mask, max_masked_fraction=None) == unlimited.similarity_mask
    assert unlimited(e, tau).loss.item() == near(CASES[case]["expected"]["mean"], tolerance)
    if not hard:
        unmasked = CASES["rzen_tau0.02_alpha9_nofn"]["expected"]["mean"]
        assert loss(e, tau).loss.item() == near(unmasked, tolerance)


@PRECISIONS
@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("kalm_focal_mix=True")])
def test_focal_and_mixed_objective_of_the_recipe_gives_the_golden_number(
    case: str, dtype: torch.dtype, tolerance: float
):
    loss = unwrapped("kalm", "finetuning")
    assert isinstance(loss, InfoNCE)
    assert loss.mixed_negatives == MixedNegatives(pair=(2.0, 2.0), list=True)
    drawn = replace(loss, mixed_negatives=GoldenMix())
    read_from = CASES[case]["inputs"]["focal_prob_from"]
    drawn = replace(drawn, focal=replace(loss.focal, probability=read_from))
    assert (drawn == replace(loss, mixed_negatives=GoldenMix())) == (read_from == "full")
    e, tau = case_input(case, dtype)
    assert drawn(e, tau).loss.item() == near(CASES[case]["expected"]["mean"], tolerance)


@pytest.mark.parametrize(("name", "stage"), [("qzhou", "all_tasks"), ("qwen3_vl", "multitask")])
def test_graded_pairs_of_a_recipe_give_the_golden_number(name: str, stage: str):
    case = CASES["cosent_tau0.02"]
    inputs = case["inputs"]
    cosines = torch.tensor(inputs["cos"], dtype=torch.float64)
    pairs = pairs_with_cosines(cosines, torch.tensor(inputs["label"], dtype=torch.float64))
    assert stage_of(name, stage).temperature.init == inputs["tau"]
    tau = torch.tensor(inputs["tau"], dtype=torch.float64)
    found = unwrapped(name, stage, "sts")(pairs, tau).loss.item()
    assert found == near(case["expected"]["loss"], 2e-9)


def test_distillation_of_the_recipe_gives_the_golden_number():
    case = CASES["distill_Tt1.0_ts0.05"]
    inputs = case["inputs"]
    cosines, teacher = (
        torch.tensor(inputs[key], dtype=torch.float64) for key in ("student_cos", "teacher_logits")
    )
    loss = unwrapped("qwen3_vl", "distillation")
    # the recipe's own student temperature, not that of the scores
    output = loss(one_row(cosines, teacher), torch.tensor(0.02, dtype=torch.float64))
    assert output.loss.item() == near(case["expected"]["CE"], 2e-9)


def test_answers_of_the_reranker_recipe_cost_the_golden_numbers():
    case = CASES["reranker_pointwise"]
    logits = torch.tensor([case["inputs"]["logits"]], dtype=torch.float64)
    ids = case["inputs"]["yes"], case["inputs"]["no"]
    form = stage_of("qwen3_reranker", "supervised").loss.yes_no_form
    for answer in ("yes", "no"):
        found = yes_no_loss(logits, torch.tensor([answer == "yes"]), *ids, form).loss.item()
        assert found == near(case["expected"][f"sft_full_vocab_label_{answer}"], 2e-9)


def test_sampling_of_the_recipe_draws_the_golden_shares():
    case = CASES["sampling_eta"]
    sizes = dict(
        zip("abcd", case["inputs"]["ret_sizes"] + case["inputs"]["other_sizes"], strict=True)
    )
    tasks = {"a": "retrieval", "b": "retrieval", "c": "sts", "d": "classification"}
    sampling = stage_of("qzhou", "all_tasks").sampling
    assert sampling.exponent is not None
    shares = group_shares(
        sizes, tasks, exponent=sampling.exponent, task_shares=dict(sampling.task_shares)
    )
    expected = case["expected"]["p_ret"] + case["expected"]["p_other"]
    assert list(shares.values()) == pytest.approx(expected, abs=1e-8)


def test_the_two_term_stage_is_the_five_term_stage_without_query_and_document_pools():
    five, two = unwrapped("qwen3_vl", "pretraining"), unwrapped("qwen3_vl", "multitask")
    assert replace(five, query_query=False, document_document="none") == two
