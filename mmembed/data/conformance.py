"""Whether the data of a stage give what its losses ask for; asked before the first step.

A loss over hard negatives, classes or scores that no row has would train something else without a
word. `check_stage` looks at the first row of every entry, `check_recipe` at everything that can be
known about a recipe without a model. Errors are what cannot work, warnings what has no effect or
is hardly meant.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmembed.config.mining import MiningConfig
from mmembed.config.objective import LossConfig
from mmembed.config.recipe import ModelConfig, Recipe
from mmembed.config.stage import StageConfig
from mmembed.data.adapter import first_row
from mmembed.data.mixture import Mixture, build_mixture
from mmembed.data.sampler import BatchSampler, group_shares
from mmembed.errors import ConfigError
from mmembed.inputs.prompt import load_template
from mmembed.types import Task

__all__ = ["RecipeReport", "StageReport", "check_recipe", "check_stage", "width_of"]


@dataclass(frozen=True)
class StageReport:
    """What a stage will do, in one line, and what is odd about it."""

    name: str
    summary: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class RecipeReport:
    """`width` is that of the embeddings; None when the model folder cannot be read.

    Soup members that read like their stage are left out of `stages`.
    """

    width: int | None
    stages: tuple[StageReport, ...]


@dataclass(frozen=True)
class _Entry:
    """What the first row of one entry of a mixture has."""

    name: str
    task: Task
    group: str
    temperature_group: str
    hard_negatives: int
    label: bool
    negative_labels: bool
    scores: bool


def check_recipe(recipe: Recipe) -> RecipeReport:
    """Load what a recipe names and check its stages, soup members included.

    Raises:
        ConfigError: an adapter, an argument or a prompt template does not exist, or see
            `check_stage`.
    """
    if recipe.model.prompt is not None:
        load_template(recipe.model.prompt)
    width = width_of(recipe.model)
    named = [(recipe.stage_name(n), stage) for n, stage in enumerate(recipe.stages)]
    if recipe.soup.members:
        last = named[-1][0]
        members = enumerate(recipe.member_stages(), start=1)
        named += [(f"{last}, soup member {number}", stage) for number, stage in members]
    reports: list[StageReport] = []
    for name, stage in named:
        seed = recipe.seed if stage.seed is None else stage.seed
        try:
            mixture = build_mixture(stage.data, seed=seed)
            warnings = tuple(check_stage(stage, mixture, width=width))
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
        report = StageReport(name, _summary(stage, mixture), warnings)
        if all((report.summary, warnings) != (other.summary, other.warnings) for other in reports):
            reports.append(report)
    return RecipeReport(width, tuple(reports))


def check_stage(stage: StageConfig, mixture: Mixture, *, width: int | None = None) -> list[str]:
    """Compare the losses of a stage with the first row of each of its entries.

    Args:
        width: of the model's embeddings, if known.

    Returns:
        Warnings, one sentence each.

    Raises:
        ConfigError: a loss that cannot work on these rows, naming the entries; a batch of one row
            without negatives; a Matryoshka dimension above `width`; shares or sub-batches that do
            not fit.
    """
    BatchSampler(mixture, stage.batch_size, stage.sampling, batch_sizes=stage.batch_sizes)
    by_loss: dict[str, list[_Entry]] = defaultdict(list)
    for number, entry in enumerate(mixture.entries):
        mixture.share(entry.group)
        loss_name = mixture.loss(entry.group)
        by_loss[loss_name].append(_entry(mixture, number, stage.mining_of(loss_name)))
    _refuse_mining(stage, by_loss)
    tasks = {each.task for entries in by_loss.values() for each in entries}
    idle = (set(stage.losses) - set(by_loss)) | (set(stage.batch_sizes) - tasks)
    warnings = [
        f"losses.{name} and its settings have no effect: no data has that task; there are "
        f"{', '.join(sorted({*by_loss, *tasks}))}"
        for name in sorted(idle)
    ]
    if stage.sampling.exponent is not None:
        group_shares(
            {group: _group_size(mixture, group) for group in mixture.groups},
            {group: mixture.task(group) for group in mixture.groups},
            exponent=stage.sampling.exponent,
            task_shares={str(task): share for task, share in stage.sampling.task_shares.items()},
        )
    for name, entries in by_loss.items():
        loss = stage.loss_of(name)
        _refuse_dims(loss, name, width)
        batch_size = min(stage.batch_size_of(each.task) for each in entries)
        problem = next(_problems(loss, entries, batch_size), None)
        if problem is not None:
            raise ConfigError(f"{name}: {problem}")
        warnings += [f"{name}: {each}" for each in _oddities(loss, entries)]
        if loss.objective == "cosent":
            _refuse_two_temperatures(stage, name, entries)
    warnings += _small_groups(stage, mixture)
    warnings += _temperature(stage, mixture)
    return warnings


def width_of(model: ModelConfig) -> int | None:
    """Width of the embeddings of a model folder; None for a hub id or an unreadable folder."""
    try:
        config = json.loads((Path(model.path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict):
        return None
    width = (config.get("text_config") or config).get("hidden_size")
    return width if isinstance(width, int) else None


def _entry(mixture: Mixture, number: int, mining: MiningConfig | None) -> _Entry:
    entry = mixture.entries[number]
    example = first_row(entry.adapter)
    mined = 0 if mining is None else mining.num_negatives
    return _Entry(
        name=entry.name,
        task=mixture.task(entry.group),
        group=entry.group,
        temperature_group=entry.temperature_group,
        hard_negatives=mined or len(example.hard_negatives),
        label=example.label is not None,
        negative_labels=bool(example.negative_labels),
        scores=example.scores is not None if mining is None else mining.scores != "none",
    )


def _problems(loss: LossConfig, entries: list[_Entry], batch_size: int) -> Iterator[str]:
    """Why the loss cannot work on rows like these; the first one is reported."""
    bare = [each.name for each in entries if not each.hard_negatives]
    used = loss.hard_negatives != "none" and loss.max_hard_negatives != 0
    others = loss.in_batch or loss.query_query or loss.document_document != "none"
    contrastive = loss.objective in ("infonce", "sigmoid")
    if contrastive and bare and (not others or batch_size == 1):
        why = "batches of 1 row" if others else "hard_negatives as the only negatives"
        yield f"{why}, but rows of {_listed(bare)} bring none; give them hard_negatives" + (
            ", or raise batch_size" if others else ", or set in_batch"
        )
    if contrastive and not used and not others:
        yield "no negatives: max_hard_negatives is 0 and there is no other pool"
    if contrastive and not used and batch_size == 1:
        yield "a batch of 1 row has no negatives; raise batch_size"
    if loss.objective == "cosent":
        if batch_size == 1:
            yield "objective cosent ranks pairs of rows; raise batch_size above 1"
        yield from _missing(entries, "scores", "objective cosent ranks graded pairs", "scores")
    if loss.objective == "yes_no" and bare:
        yield (
            f"objective yes_no answers yes to positives and no to hard_negatives, but rows of "
            f"{_listed(bare)} bring none"
        )
    if loss.distillation.weight:
        what = "distillation matches a teacher over the positive and own hard_negatives"
        if bare or loss.max_hard_negatives == 0:
            yield f"{what}, but rows of {_listed(bare or [e.name for e in entries])} bring none"
        yield from _missing(entries, "scores", what, "scores of a teacher")
    if loss.same_class:
        yield from _missing(entries, "label", "same_class drops negatives by class", "label")
    asking = [
        name
        for name, on in (
            ("mixed_negatives.pair", loss.mixed_negatives.pair is not None),
            ("mixed_negatives.list", loss.mixed_negatives.list),
            ("hardness.scope hard", loss.hardness.alpha > 0 and loss.hardness.scope == "hard"),
            ("own_documents", loss.own_documents),
            ("hard_negatives own", loss.hard_negatives == "own"),
        )
        if on and loss.objective == "infonce"
    ]
    if asking and len(bare) == len(entries):
        yield f"{_listed(asking)} needs hard_negatives, but rows of {_listed(bare)} bring none"


def _oddities(loss: LossConfig, entries: list[_Entry]) -> Iterator[str]:
    """What works and is hardly meant."""
    bare = [each.name for each in entries if not each.hard_negatives]
    most = loss.max_hard_negatives
    compared = loss.objective not in ("cosent", "none") or loss.distillation.weight > 0
    if most and compared and loss.hard_negatives != "none":
        few = [f"{e.name} ({e.hard_negatives})" for e in entries if 0 < e.hard_negatives < most]
        if bare and len(bare) < len(entries):
            few += [f"{name} (0)" for name in bare]
        if few:
            yield f"max_hard_negatives is {most}, but rows bring fewer: {_listed(few)}"
        if len(bare) == len(entries):
            yield f"max_hard_negatives is {most}, but rows of {_listed(bare)} bring none"
    if loss.mixed_negatives.pair is not None:
        single = [each.name for each in entries if each.hard_negatives == 1]
        if single or most == 1:
            yield f"mixed_negatives.pair skips rows with one hard negative: {_listed(single)}"
    if loss.same_class:
        unnamed = [e.name for e in entries if e.hard_negatives and not e.negative_labels]
        if unnamed:
            yield f"same_class keeps hard negatives without negative_labels: {_listed(unnamed)}"


def _missing(entries: list[_Entry], field: str, why: str, what: str) -> Iterator[str]:
    lacking = [each.name for each in entries if not getattr(each, field)]
    if lacking:
        yield f"{why}, but rows of {_listed(lacking)} have no {what}"


def _refuse_dims(loss: LossConfig, task: str, width: int | None) -> None:
    too_wide = [dim for dim in loss.matryoshka.dims if width is not None and dim > width]
    if too_wide:
        raise ConfigError(
            f"{task}: matryoshka.dims has {_listed(map(str, too_wide))}, but the model's "
            f"embeddings have {width} dimensions; leave them out"
        )


def _refuse_mining(stage: StageConfig, names: Iterable[str]) -> None:
    """Args: names of the losses that the data of the stage ask for."""
    if stage.mining is None:
        return
    objectives = {name: stage.loss_of(name).objective for name in names}
    if set(objectives.values()) == {"cosent"}:
        raise ConfigError(
            "mining: nothing is mined for objective cosent, which ranks graded pairs; leave mining "
            "out"
        )
    asked = [name for name, objective in objectives.items() if objective == "yes_no"]
    if asked and stage.mining.teacher is None:
        raise ConfigError(
            f"mining: the model that enters the stage is a reranker (objective yes_no of "
            f"{_listed(asked)}), which has no vectors to search with; name an embedding model as "
            "mining.teacher"
        )


def _refuse_two_temperatures(stage: StageConfig, task: str, entries: list[_Entry]) -> None:
    if not (stage.temperature.learnable and stage.temperature.per_task):
        return
    for group in dict.fromkeys(each.group for each in entries):
        learnt = {each.temperature_group for each in entries if each.group == group}
        if len(learnt) > 1:
            raise ConfigError(
                f"{task}: objective cosent compares the rows of a batch and needs one temperature, "
                f"but group {group} learns {_listed(sorted(learnt))}; give its data one "
                "temperature_group, or groups of their own"
            )


def _small_groups(stage: StageConfig, mixture: Mixture) -> Iterator[str]:
    for group in mixture.groups:
        size, wanted = _group_size(mixture, group), stage.batch_size_of(mixture.task(group))
        wanted = min(wanted, stage.sampling.sub_batch_size or wanted)
        if size < wanted:
            yield f"group {group} has {size:,} rows for batches of {wanted:,}; they will be smaller"


def _temperature(stage: StageConfig, mixture: Mixture) -> Iterator[str]:
    temperature = stage.temperature
    if not temperature.learnable:
        if temperature.per_task:
            yield "temperature.per_task has no effect without temperature.learnable"
        if not temperature.min <= temperature.init <= temperature.max:
            yield (
                f"temperature.init {temperature.init:g} is outside "
                f"[{temperature.min:g}, {temperature.max:g}], which bounds learnt ones only"
            )
    elif temperature.per_task and len(mixture.temperature_groups) == 1:
        yield "temperature.per_task learns one temperature: all data have one temperature_group"


def _group_size(mixture: Mixture, group: str) -> int:
    """Rows that an epoch takes of a group."""
    sizes = [
        entry.weight * min(entry.cap or math.inf, len(entry.adapter))
        for entry in mixture.entries
        if entry.group == group
    ]
    return round(sum(sizes))


def _summary(stage: StageConfig, mixture: Mixture) -> str:
    tasks = list(dict.fromkeys(mixture.task(group) for group in mixture.groups))
    if stage.steps is not None:
        length = f"{stage.steps:,} steps"
    else:
        batches = sum(
            math.ceil(_group_size(mixture, group) / stage.batch_size_of(mixture.task(group)))
            for group in mixture.groups
        )
        epochs = "1 epoch" if stage.epochs == 1 else f"{stage.epochs:g} epochs"
        length = f"{epochs} of about {batches:,} steps"
    sizes = list(dict.fromkeys(stage.batch_size_of(task) for task in tasks))
    losses = dict.fromkeys(mixture.loss(group) for group in mixture.groups)
    objectives = "; ".join(f"{name}: {_objective(stage.loss_of(name))}" for name in losses)
    tuning = "" if stage.lora.rank is None else f"; LoRA rank {stage.lora.rank}"
    return (
        f"{length}, batches of {' or '.join(f'{size:,}' for size in sizes)}, {len(mixture):,} rows "
        f"in {len(mixture.groups)} {'group' if len(mixture.groups) == 1 else 'groups'}; "
        f"{objectives}{tuning}"
    )


def _objective(loss: LossConfig) -> str:
    """The objective with everything that is on, e.g. `infonce + hardness + matryoshka`."""
    named = [] if loss.objective == "none" else [loss.objective]
    for_all = {"distillation", "matryoshka", "quantization"}
    plain = {"objective", "in_batch", "hard_negatives", "max_hard_negatives", "duplicate_id"}
    shown = set(LossConfig.model_fields) - plain if loss.objective == "infonce" else for_all
    neutral = LossConfig()
    on = [name for name in LossConfig.model_fields if getattr(loss, name) != getattr(neutral, name)]
    return " + ".join([*named, *(name for name in on if name in shown)])


def _listed(names: Any) -> str:
    return ", ".join(names)
