"""A recipe end to end: it learns, it is reproducible, it continues, and it stops with a reason."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmembed.config.files import load_recipe, parse_recipe
from mmembed.config.recipe import Recipe
from mmembed.data.loader import BatchLoader
from mmembed.encoder.checkpoint import load_encoder, load_extra_tensors, read_description
from mmembed.errors import ConfigError, InputError, TrainingDiverged
from mmembed.soup.methods import slerp_fold
from mmembed.training import stages
from mmembed.training.metrics import read_metrics
from mmembed.training.progress import training_progress
from mmembed.training.stages import TrainResult

ADAPTER = "tests.training.pairs:ColourPairs"


def recipe(checkpoint: Path, *overrides: str) -> Recipe:
    return parse_recipe(
        f"""
model: {{path: {checkpoint}, image_tokens: {{min: 1, max: 4}}}}
defaults: {{batch_size: 6, learning_rate: 3e-3, steps: 6, warmup_ratio: 0.2}}
stages:
  - data: [{{adapter: "{ADAPTER}", arguments: {{pictures: false}}}}]
    temperature: {{init: 0.05}}
""",
        overrides=overrides,
    )


def train(recipe: Recipe, output: Path, **options) -> TrainResult:
    return stages.train(recipe, output=output, cpu=True, **options)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(left: Path, right: Path) -> None:
    one, other = weights(left), weights(right)
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


def losses(folder: Path) -> list[str]:
    return [float(row["loss"]).hex() for row in read_metrics(folder / "metrics.jsonl")]


def test_two_stages_and_a_soup_leave_self_describing_folders(tiny_checkpoint: Path, tmp_path: Path):
    two = recipe(
        tiny_checkpoint,
        f"stages.0.data.0={{adapter: '{ADAPTER}', arguments: {{pictures: false}}}}",
        "soup={method: linear, members: [{seed: 1}, {seed: 2, learning_rate: 1e-3}]}",
    )
    second = two.stages[0].model_dump(mode="json") | {
        "data": [{"adapter": ADAPTER, "arguments": {"hard_negatives": True}}],
        "steps": 3,
        "temperature": {"init": 0.05, "learnable": True, "per_task": True},
    }
    two = Recipe.model_validate(
        two.model_dump(mode="json") | {"stages": [two.model_dump(mode="json")["stages"][0], second]}
    )
    result = train(two, tmp_path / "run")
    assert result.model == tmp_path / "run" / "model"
    assert result.stages == (tmp_path / "run" / "stage1" / "model",)
    assert [folder.parent.name for folder in result.members] == [
        "stage2-member1",
        "stage2-member2",
    ]
    for folder in (result.model, *result.stages, *result.members):
        encoder, processor = load_encoder(folder)
        assert processor.config.image_tokens.max == 4
        assert encoder.embedding_dimension == 64
    assert "temperature.theta.retrieval" in load_extra_tensors(result.model)
    assert load_recipe(tmp_path / "run" / "recipe.yaml") == two
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["fingerprint"] == two.fingerprint(2)
    assert "torch" in run["versions"]
    recorded = read_description(result.members[0])["recipe"]
    assert Recipe.model_validate(recorded) == two


def test_training_raises_the_accuracy_and_logs_each_step(tiny_checkpoint: Path, tmp_path: Path):
    train(recipe(tiny_checkpoint, "stages.0.steps=10"), tmp_path / "run")
    rows = read_metrics(tmp_path / "run" / "stage1" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert rows[-1]["loss"] < 0.2 * rows[0]["loss"]
    assert rows[-1]["accuracy"] > rows[0]["accuracy"]
    assert rows[0]["temperature"] == pytest.approx({"all": 0.05})
    assert {"tokens_per_second", "data_wait_share", "masked_fraction", "grad_norm"} <= set(rows[0])
    assert rows[0]["learning_rate"] == pytest.approx(1.5e-3)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_same_seed_gives_the_same_bytes(tiny_checkpoint: Path, tmp_path: Path, num_workers: int):
    first = train(recipe(tiny_checkpoint), tmp_path / "a")
    again = train(
        recipe(
            tiny_checkpoint,
            f"stages.0.num_workers={num_workers}",
            "stages.0.prepared_cache_mb=1",
            "name=renamed",
        ),
        tmp_path / "b",
    )
    assert losses(tmp_path / "a" / "stage1") == losses(tmp_path / "b" / "stage1")
    assert_same_weights(first.model, again.model)
    other = train(recipe(tiny_checkpoint, "seed=1"), tmp_path / "c")
    assert losses(other.model.parent / "stage1") != losses(tmp_path / "a" / "stage1")


def test_neutral_knobs_train_to_the_same_weights(tiny_checkpoint: Path, tmp_path: Path):
    plain = train(recipe(tiny_checkpoint), tmp_path / "a")
    neutral = train(
        recipe(
            tiny_checkpoint,
            "stages.0.loss.hardness={alpha: 0, scope: hard, detach: false}",
            "stages.0.loss.document_mask={threshold: 1.5, from_step: 3}",
            "stages.0.temperature.per_task=true",
        ),
        tmp_path / "b",
    )
    assert_same_weights(plain.model, neutral.model)


class _Interrupting(BatchLoader):
    """Presses Ctrl-C while the given step is prepared."""

    at_step = 4

    def __iter__(self):
        for number, batch in enumerate(super().__iter__(), start=1):
            if number == self.at_step:
                signal.raise_signal(signal.SIGINT)
            yield batch


def test_interrupted_run_continues_to_the_bytes_of_the_straight_one(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    learnable = "stages.0.temperature={init: 0.05, learnable: true, per_task: true}"
    settings = recipe(tiny_checkpoint, learnable, "stages.0.steps=8")
    straight = train(settings, tmp_path / "straight")
    with monkeypatch.context() as patch:
        patch.setattr("mmembed.training.trainer.BatchLoader", _Interrupting)
        stopped = train(settings, tmp_path / "run")
    assert stopped.interrupted
    assert stopped.model == tmp_path / "run" / "stage1" / "step-000004"
    assert not (tmp_path / "run" / "model").exists()
    resumed = train(settings, tmp_path / "run")
    assert not resumed.interrupted
    assert_same_weights(resumed.model, straight.model)
    assert losses(tmp_path / "run" / "stage1") == losses(tmp_path / "straight" / "stage1")
    left, right = (load_extra_tensors(result.model) for result in (resumed, straight))
    assert left == right


def test_complete_stages_are_not_run_again(tiny_checkpoint: Path, tmp_path: Path):
    settings = recipe(tiny_checkpoint)
    first = train(settings, tmp_path / "run")
    before = (first.model / "model.safetensors").stat().st_mtime_ns
    again = train(recipe(tiny_checkpoint, "stages.0.log_every=3"), tmp_path / "run")
    assert again == first
    assert (first.model / "model.safetensors").stat().st_mtime_ns == before


def test_other_settings_in_the_same_folder_are_refused_by_key(
    tiny_checkpoint: Path, tmp_path: Path
):
    train(recipe(tiny_checkpoint, "stages.0.steps=1"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"other settings: stages\.0\.learning_rate"):
        train(
            recipe(tiny_checkpoint, "stages.0.steps=1", "stages.0.learning_rate=1"),
            tmp_path / "run",
        )


def test_divergence_stops_before_any_weight_changes(tiny_checkpoint: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in tiny_checkpoint.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    name = next(name for name in tensors if name.endswith("down_proj.weight"))
    tensors[name][0, 0] = torch.nan
    from safetensors.torch import save_file

    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingDiverged, match=r"step 1 \(names: rows [\d, ]+\): loss nan"):
        train(recipe(broken), tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_bad_row_stops_the_run_with_its_name(tiny_checkpoint: Path, tmp_path: Path):
    settings = recipe(tiny_checkpoint, "stages.0.data.0.arguments={broken_row: 17}")
    with pytest.raises(InputError) as caught:
        train(settings, tmp_path / "run")
    assert caught.value.index == ("pictures", 17, "positive 0")


def test_bfloat16_autocast_keeps_float32_weights(tiny_checkpoint: Path, tmp_path: Path):
    result = train(
        recipe(tiny_checkpoint, "stages.0.dtype=bfloat16", "stages.0.steps=2"), tmp_path / "run"
    )
    assert {tensor.dtype for tensor in weights(result.model).values()} == {torch.float32}


def test_frozen_part_does_not_change(tiny_checkpoint: Path, tmp_path: Path):
    settings = recipe(
        tiny_checkpoint,
        f"stages.0.data.0={{adapter: '{ADAPTER}'}}",
        "stages.0.freeze=[visual.]",
        "stages.0.steps=2",
    )
    folders = (tiny_checkpoint, train(settings, tmp_path / "run").model)
    before, after = (load_encoder(folder)[0].backbone.model.state_dict() for folder in folders)
    same = {name: torch.equal(after[name], before[name]) for name in before}
    assert all(equal for name, equal in same.items() if name.startswith("visual."))
    assert not all(same.values())


def test_freezing_a_part_that_is_not_there_is_refused(tiny_checkpoint: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no parameter starts with 'vision'.*'visual'"):
        train(recipe(tiny_checkpoint, "stages.0.freeze=[vision]"), tmp_path / "run")


def test_old_checkpoints_are_removed_and_the_bar_reaches_the_end(
    tiny_checkpoint: Path, tmp_path: Path
):
    with training_progress(disable=True) as progress:
        train(
            recipe(tiny_checkpoint, "stages.0.save_every=1", "stages.0.steps=5"),
            tmp_path / "run",
            progress=progress,
        )
        assert [(task.completed, task.total) for task in progress.tasks] == [(5, 5)]
    saved = _names(tmp_path / "run" / "stage1")
    assert saved == ["metrics.jsonl", "step-000003", "step-000004"]


def _names(folder: Path) -> Sequence[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_checkpoints_of_a_stage_become_one_model(tiny_checkpoint: Path, tmp_path: Path):
    settings = recipe(
        tiny_checkpoint,
        "stages.0.save_every=1",
        "soup={method: slerp, checkpoints: 4}",
    )
    result = train(settings, tmp_path)
    assert [folder.name for folder in result.members] == [
        "step-000003",
        "step-000004",
        "step-000005",
        "model",
    ]
    members = [weights(folder) for folder in result.members]
    merged = weights(result.model)
    name = next(name for name in merged if name.endswith("q_proj.weight"))
    expected = slerp_fold([member[name] for member in members])
    torch.testing.assert_close(merged[name], expected, atol=1e-6, rtol=0)
    assert not torch.equal(merged[name], members[-1][name])


def test_too_few_checkpoints_are_refused(tiny_checkpoint: Path, tmp_path: Path):
    settings = recipe(
        tiny_checkpoint, "stages.0.save_every=4", "soup={method: linear, checkpoints: 3}"
    )
    with pytest.raises(ConfigError, match="has written 1 before its end; lower save_every"):
        train(settings, tmp_path)


def test_two_stages_become_one_model(tiny_checkpoint: Path, tmp_path: Path):
    one = recipe(tiny_checkpoint).model_dump(mode="json")
    two = Recipe.model_validate(
        one
        | {
            "stages": [one["stages"][0], one["stages"][0] | {"seed": 5, "steps": 3}],
            "soup": {"method": "linear", "stages": ["stage1", "stage2"], "weights": [1, 3]},
        }
    )
    result = train(two, tmp_path)
    first, second = (weights(tmp_path / name / "model") for name in ("stage1", "stage2"))
    for name, tensor in weights(result.model).items():
        expected = 0.25 * first[name] + 0.75 * second[name]
        torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=0)


def test_a_soup_can_be_weighted_by_examples(tiny_checkpoint: Path, tmp_path: Path):
    lines = [{"query": name, "positive": f"the colour {name}"} for name in ("red", "blue", "green")]
    examples = tmp_path / "examples.jsonl"
    examples.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    settings = recipe(
        tiny_checkpoint,
        f"soup={{method: cocktail, examples: {examples}, members: [{{seed: 1}}, {{seed: 2}}]}}",
    )
    card = json.loads((train(settings, tmp_path / "run").model / "soup.json").read_text())
    shares = [member["weight"] for member in card["members"]]
    losses = [member["loss"] for member in card["members"]]
    assert shares == pytest.approx(torch.softmax(-torch.tensor(losses) / 5, 0).tolist(), abs=1e-6)
