"""The shipped mixtures name data sets and options that there are, and fit stages."""

from __future__ import annotations

import inspect
from collections import defaultdict

import pytest

from data_adapters.catalog import find_entry
from mmembed.config.files import list_configs, load_mixture, load_recipe, read_yaml
from mmembed.config.stage import DataConfig

NAMES = sorted(list_configs("data"))
IMAGE_CLASSES = {"mmeb-imagenet-1k", "mmeb-n24news", "mmeb-hatefulmemes", "mmeb-voc2007"}


def names(data: tuple[DataConfig, ...]) -> list[str]:
    return [entry.arguments["name"] for entry in data]


def test_there_is_a_mixture_for_every_system() -> None:
    assert {name.partition("_")[0] for name in NAMES} >= {"rzenembed", "qzhou", "qwen3", "kalm"}


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_and_option_exists(name: str) -> None:
    data = load_mixture(name)
    assert len(set(map(str, (entry.arguments for entry in data)))) == len(data)
    for entry in data:
        assert entry.adapter == "data_adapters.catalog:Dataset"
        found = find_entry(entry.arguments["name"])
        known = set(list(inspect.signature(found.load).parameters)[2:])
        assert set(entry.arguments) - {"name", "root"} <= known


@pytest.mark.parametrize("name", NAMES)
def test_a_group_has_one_task_loss_share_and_temperature(name: str) -> None:
    groups = defaultdict(set)
    for entry in load_mixture(name):
        task = entry.task or find_entry(entry.arguments["name"]).card.task
        own = (task, entry.loss, entry.share, entry.temperature_group)
        groups[entry.group or entry.arguments["name"]].add(own)
    assert all(len(found) == 1 for found in groups.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_takes_it_in(name: str) -> None:
    drawn = any(entry.share != 1 for entry in load_mixture(name))
    recipe = load_recipe(
        "rzenembed",
        overrides=[f"stages.1.data={name}", f"stages.1.sampling={{exponent: {0 if drawn else 1}}}"],
    )
    assert recipe.stages[1].data == load_mixture(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_file_says_what_it_is_and_where_its_numbers_are_from(name: str) -> None:
    text = list_configs("data")[name].read_text(encoding="utf-8")
    assert len(read_yaml(text, source=name)["description"]) > 30
    assert text.startswith("# ") and any(word in text for word in ("arXiv", "configuration"))


def test_rzenembed_merges_image_classes_and_caps_every_set() -> None:
    stage1, stage2 = load_mixture("rzenembed_stage1"), load_mixture("rzenembed_stage2")
    assert {entry.cap for entry in stage2} == {100_000}
    merged = {entry.arguments["name"] for entry in stage2 if entry.group == "image_classification"}
    mmeb = IMAGE_CLASSES | {"mmeb-sun397"}
    assert merged == mmeb | {"mme5-synthetic-classification"}
    published = {entry.arguments["name"]: entry for entry in load_mixture("mmeb_v2_train")}
    share = 1.5 * sum(published[name].share for name in mmeb) + 0.75
    assert {entry.share for entry in stage2 if entry.group == "image_classification"} == {share}
    assert not any(entry.query_instruction for entry in stage1)
    assert sum(entry.cap or 0 for entry in stage1) == pytest.approx(5.05e6, rel=0.001)


def test_the_second_stage_of_qzhou_goes_on_with_the_sets_of_the_first() -> None:
    first, second = load_mixture("qzhou_stage1"), load_mixture("qzhou_stage2")
    assert second[: len(first)] == first
