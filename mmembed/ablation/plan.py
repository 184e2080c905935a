"""What an ablation compares, as data: `configs/ablation.yaml`.

Every arm is a few overrides of one recipe; every problem is a few overrides of its data. Each
arm runs on each of its problems with every seed. Runs of one problem and seed start from the same
weights and read the same rows in the same order, so that their differences are the arm's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from mmembed.ablation.judge import METRICS
from mmembed.config.files import find_config, load_recipe, parse_recipe, read_yaml
from mmembed.config.recipe import Recipe, SoupConfig
from mmembed.config.stage import StageConfig
from mmembed.config.validation import StrictModel, did_you_mean, validate
from mmembed.errors import ConfigError
from mmembed.evaluation.references import Reference, TaskEntry

__all__ = ["MEMBERS", "Ablation", "Arm", "Comparison", "Measure", "Problem", "Run", "load_ablation"]

MEMBERS = "members"  # what a soup can be compared with
_SEED = "{seed}"


class Arm(StrictModel):
    """A change of the recipe.

    Args:
        set: overrides `dotted.key=value`, after those of the problem.
        against: the arms it is compared with; the control if none; `members`: the mean of the
            models that its own soup averages.
        problems: the names of those it runs on; all if None.
        comment: what is asked, for the report.
    """

    name: str
    set: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    problems: tuple[str, ...] | None = None
    comment: str = ""


class Measure(StrictModel):
    """One metric of one task: its title."""

    task: str
    metric: str

    def __str__(self) -> str:
        return f"{self.metric}, {self.task}"


class Problem(StrictModel):
    """Data to train on.

    Args:
        set: overrides of the recipe for all arms; `{seed}` is the run's.
        primary: the measure that verdicts on this problem are about; the experiment's if None.
    """

    name: str
    set: tuple[str, ...] = ()
    primary: Measure | None = None
    comment: str = ""


@dataclass(frozen=True)
class Run:
    """One training: an arm on a problem with a seed."""

    problem: str
    arm: str
    seed: int

    def __str__(self) -> str:
        return f"{self.arm} / {self.problem} / seed {self.seed}"


@dataclass(frozen=True)
class Comparison:
    """An arm against another on one problem."""

    problem: str
    arm: str
    against: str


class Ablation(StrictModel):
    """An ablation file.

    Args:
        texts, checkpoint: of the tokenizer and of `encoder.scratch.create_checkpoint`; the
            untrained model of each seed.
        recipe: what the control trains: the name of a recipe, or a whole one. All stages but the
            last are trained once for the arms that share them.
        tasks: how models are judged.
        control: the name of the arm that the others are compared with.
        primary: the one measure that verdicts are about, unless a problem names its own; all
            others are shown beside it.
        seeds: of weights, data order, and of `{seed}` in overrides.
    """

    texts: Reference
    checkpoint: dict[str, Any]
    recipe: str | dict[str, Any]
    tasks: tuple[TaskEntry, ...] = Field(min_length=1)
    problems: tuple[Problem, ...] = Field(min_length=1)
    arms: tuple[Arm, ...] = Field(min_length=2)
    control: str
    primary: Measure
    seeds: tuple[int, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _names_fit(self) -> Ablation:
        names = [arm.name for arm in self.arms]
        problems = [problem.name for problem in self.problems]
        for kind, values in (("arm", names), ("problem", problems), ("seed", self.seeds)):
            twice = [value for value in values if list(values).count(value) > 1]
            if twice:
                raise ValueError(f"two {kind}s are named {twice[0]}")
        _known("control", self.control, names)
        for problem in problems:
            primary = self.primary_of(problem)
            _known("primary.task", primary.task, [task.title for task in self.tasks])
            _known("primary.metric", primary.metric, METRICS)
        for arm in self.arms:
            for name in arm.problems or ():
                _known(f"arm {arm.name!r}, problems", name, problems)
            for reference in self.references_of(arm):
                _known(f"arm {arm.name!r}, against", reference, [*names, MEMBERS])
                if reference == arm.name:
                    raise ValueError(f"arm {arm.name!r} is compared with itself")
                if reference == MEMBERS:
                    continue
                missing = set(self.problems_of(arm)) - set(self.problems_of(self.arm(reference)))
                if missing:
                    raise ValueError(
                        f"arm {arm.name!r} is compared with {reference!r}, which does not run on "
                        f"{', '.join(sorted(missing))}"
                    )
        return self

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def problem(self, name: str) -> Problem:
        return next(problem for problem in self.problems if problem.name == name)

    def primary_of(self, problem: str) -> Measure:
        return self.problem(problem).primary or self.primary

    def problems_of(self, arm: Arm) -> tuple[str, ...]:
        return arm.problems or tuple(problem.name for problem in self.problems)

    def references_of(self, arm: Arm) -> tuple[str, ...]:
        """What an arm is compared with; nothing for the control."""
        return () if arm.name == self.control else arm.against or (self.control,)

    def comparisons(self) -> list[Comparison]:
        """Every arm on every problem, in the order of the file, problem by problem."""
        return [
            Comparison(problem.name, arm.name, reference)
            for problem in self.problems
            for arm in self.arms
            if problem.name in self.problems_of(arm)
            for reference in self.references_of(arm)
        ]

    def runs(self) -> list[Run]:
        """Seed by seed, so that a grid that is cut short has whole seeds."""
        return [
            Run(problem.name, arm.name, seed)
            for seed in self.seeds
            for problem in self.problems
            for arm in self.arms
            if problem.name in self.problems_of(arm)
        ]

    def narrowed(self, arms: Sequence[str] | None = None, num_seeds: int | None = None) -> Ablation:
        """Only these arms, what they are compared with and their problems; only the first seeds.

        Raises:
            ConfigError: no such arm, or too few seeds.
        """
        fields = self.model_dump()
        if arms is not None:
            known = {arm.name: arm for arm in self.arms}
            unknown = [name for name in arms if name not in known]
            if unknown:
                raise ConfigError(
                    f"no arm {unknown[0]!r}{did_you_mean(unknown[0], known)}; arms: "
                    f"{', '.join(known)}"
                )
            wanted, more = {self.control}, list(arms)
            while more:
                name = more.pop()
                if name in known and name not in wanted:
                    wanted.add(name)
                    more += self.references_of(known[name])
            kept = [arm for arm in self.arms if arm.name in wanted]
            if len(kept) < 2:
                raise ConfigError(f"{self.control} is the control; name an arm to compare with it")
            used = {p for arm in kept if arm.name != self.control for p in self.problems_of(arm)}
            fields["problems"] = [each for each in fields["problems"] if each["name"] in used]
            fields["arms"] = [
                {**arm.model_dump(), "problems": [p for p in self.problems_of(arm) if p in used]}
                for arm in kept
            ]
        if num_seeds is not None:
            if not 2 <= num_seeds <= len(self.seeds):
                raise ConfigError(
                    f"{num_seeds} seeds; give 2 to {len(self.seeds)}, which is how many the file "
                    "names, as an interval needs two"
                )
            fields["seeds"] = self.seeds[:num_seeds]
        return validate(Ablation, fields, where="ablation")

    def resolved(self, run: Run, model: Path) -> Recipe:
        """The recipe of one run, from a model folder.

        Raises:
            ConfigError: an override does not fit.
        """
        given = (*self.problem(run.problem).set, *self.arm(run.arm).set)
        overrides = [f"model.path={json.dumps(str(model))}", f"seed={run.seed}"]
        overrides += [override.replace(_SEED, str(run.seed)) for override in given]
        try:
            if isinstance(self.recipe, str):
                return load_recipe(self.recipe, overrides=overrides)
            text = yaml.safe_dump(self.recipe, sort_keys=False)
            return parse_recipe(text, source="recipe", overrides=overrides)
        except ConfigError as error:
            raise ConfigError(f"arm {run.arm!r}, problem {run.problem!r}: {error}") from None

    def fingerprint(self, run: Run) -> str:
        """Changes with everything that the settings say about a run and how it is judged."""
        return self._digest(
            self.resolved(run, Path("model")), [task.model_dump() for task in self.tasks]
        )

    def start_of(self, recipe: Recipe) -> tuple[str, Recipe] | None:
        """All stages but the last with the name of their folder; None of a single stage.

        Arms whose earlier stages are equal get equal names.
        """
        if len(recipe.stages) == 1:
            return None
        earlier = recipe.model_copy(update={"stages": recipe.stages[:-1], "soup": SoupConfig()})
        plain = earlier.model_copy(
            update={"model": recipe.model.model_copy(update={"path": "model"})}
        )
        return self._digest(plain)[:16], earlier

    def checkpoint_digest(self) -> str:
        return _sha256([self.texts.model_dump(), self.checkpoint])

    def _digest(self, recipe: Recipe, *more: Any) -> str:
        # Defaults are left out, so that a knob that is new in mmembed invalidates no result.
        idle = StageConfig.idle_fields()
        content = recipe.model_dump(
            mode="json", exclude_defaults=True, exclude={"name": True, "stages": {"__all__": idle}}
        )
        return _sha256([self.checkpoint_digest(), content, *more])


def load_ablation(name: str = "ablation") -> Ablation:
    """Read an ablation file by name or path, and resolve the recipe of every arm.

    Raises:
        ConfigError: no such file, or a wrong key or value in it or in an override.
    """
    path = find_config(name)
    fields = read_yaml(path.read_text(encoding="utf-8"), source=str(path))
    if not isinstance(fields, dict):
        raise ConfigError(f"{path} holds {type(fields).__name__}; expected keys such as arms:")
    plan = validate(Ablation, fields, where=str(path))
    for run in plan.runs():
        if run.seed != plan.seeds[0]:
            continue
        recipe = plan.resolved(run, Path("model"))
        if MEMBERS in plan.arm(run.arm).against and recipe.soup.method is None:
            raise ConfigError(f"arm {run.arm!r} is compared with its members but has no soup")
    return plan


def _known(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ValueError(f"{what} {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}")


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
