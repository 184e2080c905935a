"""Every YAML of the repository is a recipe that loads, survives a dump, builds and trains."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mmembed.config.compare import differences, list_recipes
from mmembed.config.files import config_folders, dump_recipe, load_recipe, parse_recipe, read_yaml
from mmembed.data.conformance import check_recipe
from mmembed.training.metrics import read_metrics
from mmembed.training.stages import train

FILES = sorted(path for path in config_folders()[0].glob("*.yaml"))
RECIPES = [path for path in FILES if "stages" in read_yaml(path.read_text(), source=path.name)]
ROWS = '[{adapter: "tests.training.pairs:ColourPairs", arguments: {hard_negatives: true}}]'
PUBLISHED = ("rzenembed", "qzhou", "qwen3", "qwen3_reranker", "kalm", "qwen3_vl")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(path: Path, checkpoint: Path, *more: str) -> list[str]:
    """A few steps of every stage on a two-layer backbone and six rows of each dataset."""
    overrides = [
        f"model.path={checkpoint}",
        "model.max_tokens=2048",
        *(f"model.{kind}_tokens={{min: 1, max: 4}}" for kind in ("image", "frame", "page")),
    ]
    recipe = load_recipe(path)
    for number, stage in enumerate(recipe.stages):
        at = f"stages.{number}"
        dims = [64 // 2**n for n in range(len(stage.loss.matryoshka.dims))][:5]
        saved = recipe.soup.checkpoints if number == len(recipe.stages) - 1 else None
        # one epoch is a step for each dataset
        steps = saved or (2 if path.stem.startswith("tiny_") else None)
        overrides += [
            *(f"{at}.data.{entry}.cap=6" for entry in range(len(stage.data))),
            *(f"{at}.data.{entry}.weight=1" for entry in range(len(stage.data))),
            f"{at}.batch_size=6",
            f"{at}.batch_sizes={{}}",
            f"{at}.sampling={{exponent: null, task_shares: {{}}}}",
            f"{at}.save_every=1",
            f"{at}.loss.matryoshka.dims={dims}",
            f"{at}.steps={steps or 'null'}",
            f"{at}.epochs={'null' if steps else 1}",
        ]
    if recipe.soup.members:
        overrides += ["soup.members=[{seed: 1}, {seed: 2}]"]
    return [*overrides, *more]


def test_there_are_recipes_to_test():
    names = {path.stem for path in RECIPES}
    assert names >= {"tiny", *PUBLISHED, *(f"tiny_{name}" for name in PUBLISHED)}
    assert {entry.name for entry in list_recipes()} == names
    assert all(entry.summary for entry in list_recipes())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_survives_dump_and_reload(path: Path):
    recipe = load_recipe(path)
    assert parse_recipe(dump_recipe(recipe)) == recipe
    assert recipe == load_recipe(path.stem)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_data_of_a_recipe_fit_its_losses(path: Path):
    report = check_recipe(load_recipe(path))
    assert [stage.name for stage in report.stages] == [
        stage.name or f"stage{number}" for number, stage in enumerate(load_recipe(path).stages, 1)
    ]
    warnings = [warning for stage in report.stages for warning in stage.warnings]
    assert all(any(kind in warning for kind in STAND_INS) for warning in warnings), warnings


# the bundled data have fewer rows and fewer hard negatives than those that they stand in for
STAND_INS = ("rows bring fewer", "they will be smaller")


# Small variants train what their namesakes train (..._differs_in_sizes_only), so they may wait.
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path, id=path.stem, marks=pytest.mark.slow if path.stem.startswith("tiny_") else ()
        )
        for path in RECIPES
    ],
)
def test_recipe_builds_and_takes_steps_on_all_its_data(
    path: Path, tiny_checkpoint: Path, tiny_reranker: Path, tmp_path: Path
):
    reranker = load_recipe(path).kind == "reranker"
    start = tiny_reranker if reranker else tiny_checkpoint
    overrides = small(path, start, *(["model.answers=[yes, no]"] if reranker else []))
    recipe = load_recipe(path, overrides=overrides)
    result = train(recipe, output=tmp_path / "run", cpu=True)
    assert (result.model / "model.safetensors").is_file()
    assert len(result.stages) == len(recipe.stages) - 1
    assert len(result.members) == recipe.soup.size
    for stage in (*result.stages, *result.members, result.model):
        assert stage.is_dir()


def test_renaming_a_recipe_changes_no_loss_value(tiny_checkpoint: Path, tmp_path: Path):
    path = next(path for path in RECIPES if path.stem == "tiny")
    rows = []
    for name in ("tiny", "another"):
        overrides = small(path, tiny_checkpoint, f"name={name}", "soup={}")
        for number in range(2):
            overrides += [f"stages.{number}.data={ROWS}", f"stages.{number}.epochs=null"]
            overrides += [f"stages.{number}.steps=2"]
        train(load_recipe(path, overrides=overrides), output=tmp_path / name, cpu=True)
        logs = [read_metrics(tmp_path / name / stage / "metrics.jsonl") for stage in STAGES]
        rows.append([float(row["loss"]).hex() for log in logs for row in log])
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4


STAGES = ("stage1", "stage2")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_strict_yaml(path: Path):
    assert isinstance(read_yaml(path.read_text(), source=path.name), dict)


# What a small variant may change: sizes and lengths, not what is trained.
SIZES = re.compile(
    r"name|model\.(path|prompt|answers|num_frames|max_tokens|(image|frame|page)_tokens.*)"
    r"|soup\.checkpoints|stages\.\d+\.(steps|epochs|batch_size|batch_sizes\.\w+|max_(query|document)_tokens"
    r"|learning_rate|warmup_ratio|weight_decay|betas|dtype|save_every|log_every|num_workers"
    r"|prepared_cache_mb|lora\.(rank|alpha)|temperature\.init"
    r"|(loss|losses\.\w+)\.(max_hard_negatives|matryoshka\.dims|hardness\.alpha)"
    r"|data\.\d+\.(cap|weight|query_instruction|document_instruction"
    r"|arguments\.(languages|views|augment|num_frames|num_hard_negatives)))"
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_small_variant_differs_in_sizes_only(name: str):
    found = differences(load_recipe(name), load_recipe(f"tiny_{name}"))
    assert not [each for each in found if not SIZES.fullmatch(each.key)]


def test_small_variant_has_the_rows_of_its_namesake_in_the_same_order():
    for name in PUBLISHED:
        big, tiny = load_recipe(name), load_recipe(f"tiny_{name}")
        for ours, theirs in zip(big.stages, tiny.stages, strict=True):
            assert [e.adapter for e in ours.data] == [e.adapter for e in theirs.data]


# -- numbers ----------------------------------------------------------------------------------

# The sources are named in the files themselves. U1..U16 are gaps of the sources that are filled
# with a choice of ours.
HEADLINES: dict[str, dict[str, Any]] = {
    "rzenembed": {
        "model.path": "Qwen/Qwen2-VL-2B-Instruct",
        "model.pooling": "last_token",
        "stages.0.batch_size": 768,
        "stages.0.loss.hardness.alpha": 0,
        "stages.1.batch_size": 768,
        "stages.1.epochs": 1,
        "stages.1.learning_rate": 2e-4,
        "stages.1.weight_decay": 0.05,
        "stages.1.schedule": "cosine",
        "stages.1.lora.rank": 64,
        "stages.1.lora.alpha": 64,
        "stages.1.lora.targets": "all-linear",
        "stages.1.lora.vision": True,
        "stages.1.data.0.cap": 100_000,
        "stages.1.loss.hardness.alpha": 9,
        "stages.1.loss.hardness.detach": True,
        "stages.1.loss.document_mask.threshold": 0.95,
        "stages.1.temperature.learnable": True,
        "stages.1.temperature.per_task": True,
        "stages.1.temperature.init": 0.02,
        "model.image_tokens.max": 1280,
        "soup.method": "linear",
    },
    "qzhou": {
        "model.path": "Qwen/Qwen2.5-7B-Instruct",
        "model.attention": "bidirectional",
        "model.pooling": "mean",
        "stages.0.steps": 32_000,
        "stages.0.learning_rate": 3e-5,
        "stages.0.warmup_ratio": 300 / 32_000,
        "stages.1.steps": 8_000,
        "stages.1.learning_rate": 2e-5,
        "stages.1.warmup_ratio": 300 / 8_000,
        "stages.1.batch_size": 256,
        "stages.1.batch_sizes.sts": 768,
        "stages.1.weight_decay": 0.01,
        "stages.1.max_query_tokens": 256,
        "stages.1.max_document_tokens": 1536,
        "stages.1.temperature.init": 0.02,
        "stages.1.sampling.exponent": 0.5,
        "stages.1.sampling.task_shares.retrieval": 0.72,
        "stages.1.loss.query_query": True,
        "stages.1.loss.max_hard_negatives": 4,
        "stages.1.loss.duplicate_id": False,
        "stages.1.losses.sts.objective": "cosent",
        "stages.1.losses.classification.in_batch": False,
        "stages.1.losses.classification.same_class": True,
        "stages.1.losses.classification.query_query": True,
        "soup.method": None,
    },
    "qwen3": {
        "model.attention": "causal",
        "model.pooling": "last_token",
        "stages.1.batch_size": 1024,
        "stages.1.learning_rate": 1e-5,
        "stages.1.temperature.init": 0.01,
        "stages.1.loss.max_hard_negatives": 7,
        "stages.1.loss.in_batch": True,
        "stages.1.loss.hard_negatives": "shared",
        "stages.1.loss.query_query": True,
        "stages.1.loss.document_document": "all",
        "stages.1.loss.own_documents": False,
        "stages.1.loss.margin_mask.margin": 0.1,
        "stages.1.loss.margin_mask.document_document": "query",
        "stages.1.loss.matryoshka.dims": [32, 64, 128, 256, 512, 1024],
        "soup.method": "slerp",
        "soup.checkpoints": 3,
    },
    "qwen3_reranker": {
        "model.prompt": "qwen3_reranker",
        "stages.0.learning_rate": 6e-6,
        "stages.0.loss.objective": "yes_no",
        "stages.0.loss.yes_no_form": "full_vocabulary",
        "stages.0.loss.max_hard_negatives": 7,
        "soup.method": "slerp",
    },
    "kalm": {
        "model.path": "Qwen/Qwen2-0.5B",
        "model.attention": "bidirectional",
        "model.pooling": "mean",
        "model.max_tokens": 512,
        "stages.0.batch_size": 24_576,
        "stages.0.learning_rate": 1e-4,
        "stages.0.loss.hard_negatives": "none",
        "stages.0.temperature.init": 0.01,
        "stages.1.batch_size": 480,
        "stages.1.learning_rate": 2e-5,
        "stages.1.temperature.init": 0.01,
        "stages.1.loss.max_hard_negatives": 7,
        "stages.1.loss.hard_negatives": "shared",
        "stages.1.loss.duplicate_id": False,
        "stages.1.loss.mixed_negatives": {"pair": [2.0, 2.0], "list": True},
        "stages.1.loss.focal": {"gamma": 0.5, "probability": "full", "detach": False},
        "stages.1.loss.matryoshka.dims": [896, 512, 256, 128, 64],
        "stages.1.loss.matryoshka.weights": [1.0, 0.3, 0.2, 0.1, 0.1],
        "soup.method": "linear",
        "soup.weights": None,
    },
    "qwen3_vl": {
        "model.prompt": "qwen3_vl_report",
        "model.image_tokens.max": 1280,
        "model.num_frames": 64,
        "stages.0.lora.rank": 32,
        "stages.0.lora.alpha": 32,
        "stages.0.lora.vision": False,
        "stages.0.loss.query_query": True,
        "stages.0.loss.document_document": "all",
        "stages.0.loss.margin_mask.margin": 0.1,
        "stages.1.loss.query_query": False,
        "stages.1.loss.document_document": "none",
        "stages.1.loss.margin_mask.margin": 0.1,
        "stages.1.losses.classification.in_batch": False,
        "stages.1.losses.classification.hard_negatives": "own",
        "stages.1.losses.sts.objective": "cosent",
        "stages.2.loss.objective": "none",
        "stages.2.loss.distillation.divergence": "cross_entropy",
        "stages.2.loss.distillation.teacher_temperature": 1,
        "stages.2.loss.distillation.student_temperature": 0.05,
        "stages.2.loss.quantization": {"bits": "int8", "weight": 1.0},
        "stages.2.loss.matryoshka.dims": [32, 64, 128, 256, 512, 768, 1024, 2048],
        "soup.method": "slerp",
        "soup.stages": ["multitask", "distillation"],
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_headline_numbers_are_the_published_ones(name: str):
    fields = load_recipe(name).model_dump(mode="json")
    found = {}
    for key in HEADLINES[name]:
        node: Any = fields
        for step in key.split("."):
            node = node[int(step)] if isinstance(node, list) else node[step]
        found[key] = node
    assert found == HEADLINES[name]


NUMBER = re.compile(r"(?<![\w.\"/-])-?\d+(\.\d+)?(e-?\d+)?(?![\w\"])", re.IGNORECASE)
SOURCE = re.compile(
    r"\b(ours|paper|pdf|code|docs|report|README|note|git|LLaVE-code|VLM2Vec)\b", re.IGNORECASE
)


def without_source(text: str) -> list[str]:
    """Lines with a number and no source on the line or on the head of its block."""
    found, heads = [], [(-1, False)]  # (indentation, names a source)
    for line in text.splitlines():
        content, _, comment = line.partition("#")
        if not content.strip():
            continue
        indentation = len(content) - len(content.lstrip())
        while heads[-1][0] >= indentation:
            heads.pop()
        sourced = SOURCE.search(comment) is not None
        value = re.sub(r'"[^"]*"', "", content)
        if NUMBER.search(value.partition(":")[2]) and not sourced and not heads[-1][1]:
            found.append(line)
        is_head = content.rstrip().endswith(":") and not content.lstrip().startswith("- ")
        heads.append((indentation, sourced and is_head))
    return found


@pytest.mark.parametrize("name", ["base", *PUBLISHED])
def test_every_number_names_its_source(name: str):
    path = next(path for path in FILES if path.stem == name)
    assert without_source(path.read_text(encoding="utf-8")) == []


def test_number_without_a_source_is_found():
    assert without_source("steps: 3\n") == ["steps: 3"]
    assert without_source("a: {b: [1, 2]}  # because\n") == ["a: {b: [1, 2]}  # because"]
    assert without_source("- cap: 1e-4\n") == ["- cap: 1e-4"]
    assert without_source("- name: x  # paper\n  steps: 3\n") == ["  steps: 3"]
    assert not without_source("steps: 3  # paper 4.2\nhead:  # ours: a reason\n  a: 1\n  b: 2\n")
    assert not without_source('path: Qwen/Qwen2-0.5B\nname: "the 2 of us"\nadapter: m:V2\n')
