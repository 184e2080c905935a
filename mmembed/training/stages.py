"""A whole recipe: stages in order, members of the soup, and what is written down about the run.

run/
  recipe.yaml        the resolved recipe
  run.json           versions, git revision, fingerprint
  stage1/            metrics.jsonl, step-000500/ (checkpoints), model/
  stage2-member1/    the last stage, once for each soup member
  model/             the result
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from rich.progress import Progress

from mmembed.config.recipe import Recipe, SoupConfig
from mmembed.config.stage import StageConfig
from mmembed.data.conformance import check_recipe, check_stage, width_of
from mmembed.data.mixture import Mixture, build_mixture
from mmembed.encoder.lora import add_lora, load_adapter
from mmembed.errors import ConfigError
from mmembed.inputs.media import MediaPolicy
from mmembed.soup import soup
from mmembed.soup.examples import Examples, read_examples
from mmembed.store.durable import lock_folder
from mmembed.training import distributed, state, step_folders
from mmembed.training.backends import Backend, build_backend, check_distribution
from mmembed.training.metrics import Mirror
from mmembed.training.mined import mine_for_stage
from mmembed.training.run_files import Resume, check_continues, sources_of, write_run_files
from mmembed.training.start import load_model, model_overrides, start_model
from mmembed.training.trackers import Tracker, mirror_of, running, tracker_options
from mmembed.training.trainer import StageResult, train_stage

__all__ = [
    "TrainResult",
    "stage_mixture",
    "stage_runs",
    "train",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a run has made.

    Args:
        model: the final model folder; of an interrupted run, the checkpoint to continue from.
        stages: model folders of the stages before the last.
        members: model folders of the soup's members; empty without a soup.
        stopped_by: the signal that ended it (Ctrl-C, SIGTERM); the same call continues it.
    """

    model: Path
    stages: tuple[Path, ...]
    members: tuple[Path, ...]
    stopped_by: int | None = None

    @property
    def interrupted(self) -> bool:
        return self.stopped_by is not None


def train(
    recipe: Recipe,
    *,
    output: Path,
    progress: Progress | None = None,
    media: MediaPolicy | None = None,
    cpu: bool = False,
    resume: Resume = "auto",
    trackers: Sequence[Tracker] = (),
    distribution: str = "ddp",
) -> TrainResult:
    """Run a recipe; what is already complete in `output` is not run again.

    Args:
        output: the run folder. An interrupted or killed run continues from its last checkpoint
            when called again with the same recipe.
        progress: shows one line for each stage; see `progress.training_progress`.
        media: limits for opening the training media.
        cpu: do not use an accelerator even if there is one.
        resume: `auto` continues what `output` holds, `never` refuses a folder that holds a run,
            `must` refuses one that holds none.
        distribution: how the model is spread over several processes: one of `DISTRIBUTIONS`, or a
            file of DeepSpeed's settings. A run may be continued with another one.
        trackers: what mirrors the metrics: `tensorboard`, `wandb`, `trackio`, or one of
            accelerate's own kind.

    Raises:
        ConfigError: `output` holds a run of other settings, or an adapter cannot be used.
        StoreError: another process is training there.
        TrainingDiverged, InputError: see `train_stage`.
    """
    check_distribution(distribution, recipe)
    check_recipe(recipe)  # all stages, before hours go into the first one
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(
        cpu=cpu,
        kwargs_handlers=[
            # a batch of texts leaves the vision tower without gradient
            DistributedDataParallelKwargs(find_unused_parameters=True),
            # the first process writes, hashes and merges models while the others wait
            InitProcessGroupKwargs(timeout=timedelta(hours=6)),
        ],
        **tracker_options(trackers, output),
    )
    backend = build_backend(distribution, accelerator)
    if not distributed.is_main_process():
        return _run(recipe, output, backend, progress, media)
    with lock_folder(output, wait=False):
        write_run_files(recipe, output, resume=resume)
        for folder in (output, *(path for path in output.iterdir() if path.is_dir())):
            step_folders.remove_leftovers(folder)
        with running(accelerator, output, settings={"recipe": recipe.name}):
            return _run(recipe, output, backend, progress, media)


def _run(
    recipe: Recipe,
    output: Path,
    backend: Backend,
    progress: Progress | None,
    media: MediaPolicy | None,
) -> TrainResult:
    souped = recipe.soup.method is not None
    last = len(recipe.stages) - 1
    finished: dict[int, list[Path]] = {}
    num_steps = 0
    for index, name, stage in stage_runs(recipe):
        start = finished[index - 1][0] if index else None
        result = _run_stage(
            recipe,
            stage,
            index,
            start=start,
            folder=output / name,
            model_folder=output / ("model" if index == last and not souped else f"{name}/model"),
            backend=backend,
            progress=progress,
            media=media,
            mirror=mirror_of(backend.accelerator, name, steps_before=num_steps),
        )
        num_steps += result.steps
        finished.setdefault(index, []).append(result.folder)
        if result.stopped_by is not None and result.folder != output / "model":
            return TrainResult(result.folder, _flatten(finished, last), (), result.stopped_by)
    stages = _flatten(finished, last)
    if not souped:
        return TrainResult(finished[last][0], stages, ())
    merged = _soup_members(recipe, finished)
    if distributed.is_main_process():
        _soup(recipe.soup, merged, output / "model")
    distributed.wait_for_all()
    return TrainResult(output / "model", stages, merged)


def stage_runs(recipe: Recipe) -> list[tuple[int, str, StageConfig]]:
    """(stage number, folder name, settings) of all that is trained, soup members included."""
    last = len(recipe.stages) - 1
    runs = [(index, recipe.stage_name(index), recipe.stages[index]) for index in range(last)]
    return runs + [
        (last, recipe.stage_name(last) + (f"-member{number}" if recipe.soup.members else ""), stage)
        for number, stage in enumerate(recipe.member_stages(), start=1)
    ]


def _soup_members(recipe: Recipe, finished: Mapping[int, list[Path]]) -> tuple[Path, ...]:
    """The folders that become one model."""
    config, last = recipe.soup, len(recipe.stages) - 1
    if config.members:
        return tuple(finished[last])
    if config.checkpoints is not None:
        end = finished[last][0]
        every = recipe.stages[last].save_every
        assert every is not None  # the recipe has been checked
        regular = [
            path
            for path in step_folders.checkpoints(end.parent)
            if step_folders.step_of(path) % every == 0
        ]
        before = regular[-(config.checkpoints - 1) :]
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
    backend: Backend,
    progress: Progress | None,
    media: MediaPolicy | None,
    mirror: Mirror,
) -> StageResult:
    fingerprint = recipe.fingerprint(index + 1, stage)
    complete = _completed_steps(model_folder, fingerprint, backend.device)
    if complete is not None:
        logger.info("%s is complete; not run again", folder.name)
        if progress is not None:
            progress.add_task(folder.name, total=complete, completed=complete)
        return StageResult(model_folder, complete)
    seed = recipe.seed if stage.seed is None else stage.seed
    mixture = stage_mixture(stage, seed)
    for warning in check_stage(stage, mixture, width=width_of(recipe.model)):
        logger.warning("%s: %s", folder.name, warning)
    begin = start or start_model(recipe.model)
    if stage.mining is not None:
        stage = mine_for_stage(
            stage,
            mixture,
            start=begin,
            folder=folder,
            seed=seed,
            device=str(backend.device),
            overrides={} if start is not None else model_overrides(recipe.model),
            fingerprint=fingerprint,
            media=media,
            show_progress_bar=None if progress is None else False,
        )
        mixture = stage_mixture(stage, seed)
    sources = sources_of(recipe, begin, mixture) if distributed.is_main_process() else {}
    resume_from = _resume_point(folder, backend.device)
    if resume_from is not None:
        point = resume_from  # the first process alone knows the sources
        state.on_first(
            lambda: check_continues(point, fingerprint, sources), backend.device, resume_from
        )
    adapted = stage.lora.rank is not None
    # with adapters, a checkpoint continues from the frozen weights and the adapters apart
    source = begin if resume_from is None or adapted else resume_from
    encoder, processor = load_model(
        recipe,
        stage,
        source,
        device=backend.loading_device,
        media=media,
        any_kind=start is None,
        overridden=source is begin and start is None,
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
            backend=backend,
            folder=folder,
            model_folder=model_folder,
            fingerprint=fingerprint,
            sources=sources,
            recipe=recipe.model_dump(mode="json"),
            seed=seed,
            resume_from=resume_from,
            progress=progress,
            label=folder.name,
            mirror=mirror,
            kept_checkpoints=max(stage.keep_checkpoints, recipe.soup.checkpoints or 0),
        )
    finally:
        processor.close()
        backend.free()


def stage_mixture(stage: StageConfig, seed: int) -> Mixture:
    """The rows that a stage trains on."""
    return build_mixture(
        stage.data,
        seed=seed,
        max_hard_negatives=lambda loss: stage.loss_of(loss).max_hard_negatives,
    )


def _resume_point(folder: Path, device: torch.device) -> Path | None:
    """The checkpoint that the first process finds, so that all continue from the same one."""
    found = step_folders.latest_checkpoint(folder) if distributed.is_main_process() else None
    step = distributed.number_of_main(-1 if found is None else step_folders.step_of(found), device)
    return None if step < 0 else step_folders.checkpoint_folder(folder, step)


def _completed_steps(model_folder: Path, fingerprint: str, device: torch.device) -> int | None:
    """Steps of a finished stage with these settings; None when it must (still) run.

    The first process looks, so that all do the same.

    Raises:
        ConfigError: the folder is a finished stage with other settings.
        CheckpointError: it is damaged.
    """

    def find() -> int | None:
        if not model_folder.is_dir():
            return None
        manifest = step_folders.read_manifest(model_folder)
        if manifest["fingerprint"] != fingerprint:
            raise ConfigError(
                f"{model_folder} belongs to other settings; choose another output folder"
            )
        return step_folders.read_state(model_folder).step

    return state.on_first(find, device, model_folder)


def _flatten(finished: Mapping[int, list[Path]], last: int) -> tuple[Path, ...]:
    return tuple(folder for index in sorted(finished) if index < last for folder in finished[index])
