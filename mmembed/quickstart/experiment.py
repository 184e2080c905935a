"""What the quickstart trains and how it is judged, as data: `configs/quickstart.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from mmembed.config.files import find_config, load_recipe, read_yaml
from mmembed.config.recipe import Recipe
from mmembed.config.validation import StrictModel, validate
from mmembed.evaluation.references import Reference, TaskEntry

__all__ = [
    "DemoEntry",
    "Experiment",
    "MatrixEntry",
    "load_experiment",
    "scaled_recipe",
]


class MatrixEntry(StrictModel):
    """Items of every modality, and the function that makes tasks between them."""

    items: Reference
    grid: str


class DemoEntry(StrictModel):
    """The library that `mmembed demo --quickstart` shows, and how its files are cut.

    The function writes into a folder and gives an object with `examples`: questions by kind.
    """

    library: Reference
    segmentation: dict[str, Any] = Field(default_factory=dict)


class Experiment(StrictModel):
    """`configs/quickstart.yaml`; `default_minutes` is what the recipe's steps take on two cores."""

    texts: Reference
    checkpoint: dict[str, Any]
    recipe: str
    default_minutes: float = Field(gt=0)
    tasks: tuple[TaskEntry, ...]
    matrix: MatrixEntry
    library: Reference
    demo: DemoEntry | None = None
    attribution: tuple[str, ...] = ()


def load_experiment(name: str = "quickstart") -> Experiment:
    """Read an experiment file by name or path.

    Raises:
        ConfigError: no such file, or a wrong key or value in it.
    """
    path = find_config(name)
    return validate(
        Experiment, read_yaml(path.read_text(encoding="utf-8"), source=str(path)), where=str(path)
    )


def scaled_recipe(
    experiment: Experiment, *, model: Path, seed: int, minutes: float | None
) -> Recipe:
    """The experiment's recipe from a model folder; `minutes` scales the number of steps.

    The number of steps is fixed before training, never by the clock, so equal arguments give
    equal models.
    """
    overrides = [f"model.path={model}", f"seed={seed}"]
    recipe = load_recipe(experiment.recipe, overrides=overrides)
    if minutes is not None:
        share = minutes / experiment.default_minutes
        for number, stage in enumerate(recipe.stages):
            steps = max(2, round((stage.steps or 2) * share))
            overrides.append(f"stages.{number}.steps={steps}")
        recipe = load_recipe(experiment.recipe, overrides=overrides)
    return recipe
