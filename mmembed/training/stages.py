"""A whole recipe: stages in order, members of the soup, and what is written down about the run.

run/
  recipe.yaml        the resolved recipe
  run.json           versions, git revision, fingerprint
  stage1/            metrics.jsonl, step-000500/ (checkpoints), model/
  stage2-member1/    the last stage, once for each soup member
  model/             the result
"""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mmembed.config.files import dump_recipe, parse_recipe
from mmembed.config.recipe import ModelConfig, Recipe, SoupConfig
from mmembed.config.stage import StageConfig
from mmembed.data.conformance import check_stage, width_of
from mmembed.data.mixture import build_mixture
from mmembed.encoder.checkpoint import load_encoder, resolve_folder
from mmembed.encoder.encoder import Encoder
from mmembed.encoder.identity import package_versions
from mmembed.encoder.lora import add_lora, load_adapter
from mmembed.encoder.reranker_model import load_reranker
from mmembed.errors import ConfigError
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.processor import Processor
from mmembed.inputs.prompt import load_template
from mmembed.search.durable import lock_folder, write_atomically
from mmembed.soup import soup
from mmembed.soup.examples import Examples, read_examples
from mmembed.training import distributed, state
from mmembed.training.trainer import StageResult, train_stage

__all__ = ["TrainResult", "model_overrides", "train", "training_progress"]

logger = logging.getLogger(__name__)

RECIPE_FILE = "recipe.yaml"
RUN_FILE = "run.json"


@dataclass(frozen=True)
class TrainResult:
    """What a run has made.

    Args:
        model: the final model folder; of an interrupted run, the checkpoint to continue from.
        stages: model folders of the stages before the last.
        members: model folders of the soup's members; empty without a soup.
        interrupted: Ctrl-C ended it; the same call continues it.
    """

    model: Path
    stages: tuple[Path, ...]
    members: tuple[Path, ...]
    interrupted: bool = False


def train(
    recipe: Recipe,
    *,
    output: Path,
    progress: Progress | None = None,
    media: MediaPolicy | None = None,
    cpu: bool = False,
) -> TrainResult:
    """Run a recipe; what is already complete in `output` is not run again.

    Args:
        output: the run folder. An interrupted or killed run continues from its last checkpoint
            when called again with the same recipe.
        progress: shows one bar for each stage; see `training_progress`.
        media: limits for opening the training media.
        cpu: do not use an accelerator even if there is one.

    Raises:
        ConfigError: `output` holds a run of other settings, or an adapter cannot be used.
        TrainingDiverged, InputError: see `train_stage`.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(
        cpu=cpu,
        # a batch of texts leaves the vision tower without gradient
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if not distributed.is_main_process():
        return _run(recipe, output, accelerator, progress, media)
    with lock_folder(output, wait=False):
        _write_run_files(recipe, output)
        return _run(recipe, output, accelerator, progress, media)


def training_progress(**options: Any) -> Progress:
    """Progress bars with the loss beside them; `options` go to `rich.progress.Progress`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _LossColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        **options,
    )


class _LossColumn(ProgressColumn):
    """The loss of tasks that report one; other bars may share the display."""

    def render(self, task: Task) -> Text:
        loss = task.fields.get("loss")
        return Text("" if loss is None else f"loss {loss}")


def _run(
    recipe: Recipe,
    output: Path,
    accelerator: Accelerator,
    progress: Progress | None,
    media: MediaPolicy | None,
) -> TrainResult:
    members = recipe.member_stages()
    souped = recipe.soup.method is not None
    last = len(recipe.stages) - 1
    runs = [(index, recipe.stage_name(index), recipe.stages[index]) for index in range(last)]
    runs += [
        (last, recipe.stage_name(last) + (f"-member{number}" if recipe.soup.members else ""), stage)
        for number, stage in enumerate(members, start=1)
    ]
    finished: dict[int, list[Path]] = {}
    for index, name, stage in runs:
        start = finished[index - 1][0] if index else None
        result = _run_stage(
            recipe,
            stage,
            index,
            start=start,
            folder=output / name,
            model_folder=output / ("model" if index == last and not souped else f"{name}/model"),
            accelerator=accelerator,
            progress=progress,
            media=media,
        )
        finished.setdefault(index, []).append(result.folder)
        if result.interrupted:
            return TrainResult(result.folder, _flatten(finished, last), (), interrupted=True)
    stages = _flatten(finished, last)
    if not souped:
        return TrainResult(finished[last][0], stages, ())
    merged = _soup_members(recipe, finished)
    if distributed.is_main_process():
        _soup(recipe.soup, merged, output / "model")
    distributed.wait_for_all()
    return TrainResult(output / "model", stages, merged)


def _soup_members(recipe: Recipe, finished: Mapping[int, list[Path]]) -> tuple[Path, ...]:
    """The folders that become one model."""
    config, last = recipe.soup, len(recipe.stages) - 1
    if config.members:
        return tuple(finished[last])
    if config.checkpoints is not None:
        end = finished[last][0]
        before = state.checkpoints(end.parent)[-(config.checkpoints - 1) :]
        if len(before) < config.checkpoints - 1:
            raise ConfigError(
                f"soup.checkpoints is {config.checkpoints}, but the last stage has written "
                f"{len(before)} before its end; lower save_every or soup.checkpoints"
            )
        return (*before, end)
    names = {recipe.stage_name(index): folders[0] for index, folders in finished.items()}
    return tuple(names[name] for name in config.stages)


def _soup(config: SoupConfig, folders: Sequence[Path], output: Path) -> None:
    method = config.method
    assert method is not None
    options: dict[str, Any] = {}
    if config.examples is not None:
        examples = Examples(read_examples(Path(config.examples)))
        options["losses"] = lambda folder: examples(folder).loss
    soup(folders, method=method, weights=config.weights, output=output, **options)


def _run_stage(
    recipe: Recipe,
    stage: StageConfig,
    index: int,
    *,
    start: Path | None,
    folder: Path,
    model_folder: Path,
    accelerator: Accelerator,
    progress: Progress | None,
    media: MediaPolicy | None,
) -> StageResult:
    fingerprint = recipe.fingerprint(index + 1, stage)
    complete = _completed_steps(model_folder, fingerprint)
    if complete is not None:
        logger.info("%s is complete; not run again", folder.name)
        if progress is not None:
            progress.add_task(folder.name, total=complete, completed=complete)
        return StageResult(model_folder, complete, interrupted=False)
    seed = recipe.seed if stage.seed is None else stage.seed
    mixture = build_mixture(
        stage.data,
        seed=seed,
        max_hard_negatives=lambda task: stage.loss_of(task).max_hard_negatives,
    )
    for warning in check_stage(stage, mixture, width=width_of(recipe.model)):
        logger.warning("%s: %s", folder.name, warning)
    resume_from = state.latest_checkpoint(folder)
    if resume_from is not None and state.read_state(resume_from).fingerprint != fingerprint:
        raise ConfigError(f"{resume_from} belongs to other settings; choose another output folder")
    begin = start or resolve_folder(recipe.model.path, revision=recipe.model.revision)
    adapted = stage.lora.rank is not None
    # with adapters, a checkpoint continues from the frozen weights and the adapters apart
    source = begin if resume_from is None or adapted else resume_from
    load: Callable[..., tuple[Encoder, Processor]] = (
        load_reranker if recipe.kind == "reranker" else load_encoder
    )
    encoder, processor = load(
        source,
        device=accelerator.device,
        dtype=torch.float32,
        media=media,
        num_workers=max(1, stage.num_workers),
        any_kind=start is None,
        **(model_overrides(recipe.model) if source is begin and start is None else {}),
    )
    if adapted and resume_from is None:
        add_lora(encoder, stage.lora, seed=seed)
    elif adapted and resume_from is not None:
        load_adapter(encoder, resume_from / state.ADAPTER_FOLDER)
    try:
        return train_stage(
            stage,
            encoder,
            processor,
            mixture,
            accelerator=accelerator,
            folder=folder,
            model_folder=model_folder,
            fingerprint=fingerprint,
            recipe=recipe.model_dump(mode="json"),
            seed=seed,
            resume_from=resume_from,
            progress=progress,
            label=folder.name,
            kept_checkpoints=max(2, recipe.soup.checkpoints or 0),
        )
    finally:
        processor.close()
        accelerator.free_memory()


def model_overrides(model: ModelConfig) -> dict[str, dict[str, Any]]:
    """The settings of the recipe that replace those of the model folder."""
    inputs: dict[str, Any] = {
        "prompt": None if model.prompt is None else load_template(model.prompt),
        "prompts": model.prompts,
        "position_ids": model.position_ids,
        "image_tokens": _bounds(model.image_tokens),
        "frame_tokens": _bounds(model.frame_tokens),
        "page_tokens": _bounds(model.page_tokens),
        "num_frames": model.num_frames,
        "max_tokens": model.max_tokens,
    }
    yes, no = model.answers or (None, None)
    encoder = {"pooling": model.pooling, "attention": model.attention, "yes": yes, "no": no}
    return {
        "inputs": {name: value for name, value in inputs.items() if value is not None},
        "encoder": {name: value for name, value in encoder.items() if value is not None},
    }


def _bounds(bounds: Any) -> dict[str, int] | None:
    return None if bounds is None else bounds.model_dump()


def _completed_steps(model_folder: Path, fingerprint: str) -> int | None:
    """Steps of a finished stage with these settings; None when it must (still) run.

    Raises:
        ConfigError: the folder is a finished stage with other settings.
    """
    if not model_folder.is_dir():
        return None
    manifest = state.read_manifest(model_folder)
    if manifest["fingerprint"] != fingerprint:
        raise ConfigError(f"{model_folder} belongs to other settings; choose another output folder")
    return state.read_state(model_folder).step


def _flatten(finished: Mapping[int, list[Path]], last: int) -> tuple[Path, ...]:
    return tuple(folder for index in sorted(finished) if index < last for folder in finished[index])


def _write_run_files(recipe: Recipe, output: Path) -> None:
    """Write down the settings, after refusing a folder that holds a run of other settings."""
    path = output / RECIPE_FILE
    text = dump_recipe(recipe)
    if path.is_file():
        before = parse_recipe(path.read_text(encoding="utf-8"), source=str(path))
        old, new = before.model_dump(mode="json"), recipe.model_dump(mode="json")
        changed = sorted(_differing_keys(old, new) - _idle_keys(old, new))
        if changed:
            raise ConfigError(
                f"{output} holds a run with other settings: {', '.join(changed[:8])}. "
                "Choose another output folder, or undo the change to continue that run"
            )
    write_atomically(path, text.encode())
    fields = {
        "versions": package_versions(),
        "git_revision": _git_revision(),
        "fingerprint": recipe.fingerprint(len(recipe.stages)),
    }
    write_atomically(output / RUN_FILE, (json.dumps(fields, indent=2) + "\n").encode())


def _differing_keys(old: Any, new: Any, path: str = "") -> set[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        pairs = [(str(key), old.get(key), new.get(key)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(key), *pair) for key, pair in enumerate(zip(old, new, strict=True))]
    else:
        return set() if old == new else {path}
    return {
        key
        for name, left, right in pairs
        for key in _differing_keys(left, right, f"{path}.{name}" if path else name)
    }


def _idle_keys(old: Any, new: Any) -> set[str]:
    """Differing keys that do not change the weights."""
    idle = StageConfig.idle_fields() | {"name"}
    return {key for key in _differing_keys(old, new) if key.split(".")[-1] in idle}


def _git_revision() -> str | None:
    """The commit of the checkout that mmembed runs from; None when it is installed."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
