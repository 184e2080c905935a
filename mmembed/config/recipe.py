"""The models of a recipe. Only data: nothing is built or opened here.

A recipe is a model, stages in order, and a soup of the last one. Recipes differ in values, never in
code; the neutral value of every knob means "off", and nothing is read from a recipe's name.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, model_validator

from mmembed.config.stage import StageConfig
from mmembed.config.validation import StrictModel, merge, validate

__all__ = ["ModelConfig", "Recipe", "SoupConfig", "TokenBounds"]


class TokenBounds(StrictModel):
    """Least and most visual tokens of one picture."""

    min: int = Field(ge=1)
    max: int = Field(ge=1)


class ModelConfig(StrictModel):
    """Where training starts. None = as the model folder says.

    Args:
        path: a model folder or a hub id of a Qwen2-VL checkpoint in safetensors.
        revision: commit of the hub id.
        attention: `causal`, or `bidirectional` as an encoder's.
        pooling: which state is the embedding.
        answers: a reranker's words for relevant and for irrelevant, one token each.
        position_ids: `mrope` (time, height, width) or `flat` (0..L-1 on all three axes).
        prompt: name of a prompt template, or a path to one.
        prompts: named instructions that users may pass as `prompt_name`.
        image_tokens, frame_tokens, page_tokens: visual tokens of one picture of each kind.
        num_frames: frames of a clip that names neither fps nor a number.
        max_tokens: longest item; the text body is shortened, never pictures or the suffix.
    """

    path: str
    revision: str | None = None
    attention: Literal["causal", "bidirectional"] | None = None
    pooling: Literal["last_token", "mean"] | None = None
    position_ids: Literal["mrope", "flat"] | None = None
    answers: tuple[str, str] | None = None
    prompt: str | None = None
    prompts: dict[str, str] | None = None
    image_tokens: TokenBounds | None = None
    frame_tokens: TokenBounds | None = None
    page_tokens: TokenBounds | None = None
    num_frames: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=8)


class SoupConfig(StrictModel):
    """What becomes one model at the end, and how; `method: null` = no soup.

    Exactly one of `members`, `checkpoints` and `stages` says what. Members that train low-rank
    updates are merged before they are averaged, so `linear` averages the products B A.

    Args:
        method: `linear`: weighted mean; `slerp`: along the great circle, a left fold over more
            than two; `cocktail`: mean weighted by the losses on `examples`.
        members: variations of the last stage, each a few of its keys, e.g. `{seed: 1}`.
        checkpoints: that many checkpoints of the last stage, the last ones, its end included.
        stages: names of stages whose results are merged, in this order.
        weights: linear: one for each, normalised to sum 1; uniform if None.
        examples: cocktail: a file of JSON lines with queries and answers.
    """

    method: Literal["linear", "slerp", "cocktail"] | None = None
    members: tuple[dict[str, Any], ...] = ()
    checkpoints: int | None = Field(default=None, ge=2)
    stages: tuple[str, ...] = ()
    weights: tuple[float, ...] | None = None
    examples: str | None = None

    @property
    def size(self) -> int:
        """How many models are merged."""
        return len(self.members) or self.checkpoints or len(self.stages)

    @model_validator(mode="after")
    def _fits(self) -> SoupConfig:
        given = [name for name in ("members", "checkpoints", "stages") if getattr(self, name)]
        if self.method is None and given:
            raise ValueError(f"{given[0]} without a method; set method: linear")
        if self.method is not None and not given:
            raise ValueError(
                "a soup needs members, e.g. [{seed: 1}, {seed: 2}], or checkpoints, or stages"
            )
        if len(given) > 1:
            raise ValueError(f"give one of {' and '.join(given)}")
        if (self.examples is not None) != (self.method == "cocktail"):
            raise ValueError("examples belong to method cocktail, which needs them")
        if self.weights is not None:
            if self.method != "linear":
                raise ValueError(f"weights belong to method linear, not to {self.method}")
            if len(self.weights) != self.size:
                raise ValueError(
                    f"{len(self.weights)} weights for {self.size} {given[0]}; give one each"
                )
            if any(weight < 0 for weight in self.weights) or sum(self.weights) <= 0:
                raise ValueError("weights must be >= 0 and not all 0")
        return self


class Recipe(StrictModel):
    """A model, its stages in order, and the soup of the last one. `name` is a label only."""

    name: str = "unnamed"
    seed: int = 0
    model: ModelConfig
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    soup: SoupConfig = SoupConfig()

    @model_validator(mode="after")
    def _names_fit(self) -> Recipe:
        names = [self.stage_name(index) for index in range(len(self.stages))]
        if len(set(names)) != len(names):
            raise ValueError(f"stage names must differ; found {', '.join(names)}")
        unknown = [name for name in self.soup.stages if name not in names]
        if unknown or len(set(self.soup.stages)) != len(self.soup.stages):
            raise ValueError(
                f"soup.stages is {list(self.soup.stages)}; give different ones of "
                f"{', '.join(names)}"
            )
        kinds = {
            loss.objective == "yes_no"
            for stage in self.stages
            for loss in (stage.loss, *stage.losses.values())
        }
        if len(kinds) > 1:
            raise ValueError(
                "objective yes_no trains a reranker and the others an embedder; give every loss "
                "of every stage the one or the other"
            )
        every = self.stages[-1].save_every
        if self.soup.checkpoints is not None and every is None:
            raise ValueError("soup.checkpoints needs checkpoints: set save_every of the last stage")
        if self.soup.checkpoints is not None and self.stages[-1].keep_best is not None:
            raise ValueError(
                "soup.checkpoints averages up to the end of the last stage, and keep_best replaces "
                "that end; give one of them"
            )
        return self

    @property
    def kind(self) -> Literal["embedder", "reranker"]:
        """What is trained."""
        return "reranker" if self.stages[0].loss.objective == "yes_no" else "embedder"

    def stage_name(self, index: int) -> str:
        return self.stages[index].name or f"stage{index + 1}"

    def member_stages(self) -> tuple[StageConfig, ...]:
        """The last stage as each soup member runs it; the stage itself without members.

        Raises:
            ConfigError: a member has a key or value that a stage cannot have.
        """
        last = self.stages[-1]
        if not self.soup.members:
            return (last,)
        fields = last.model_dump(mode="json")
        changed = []
        for index, member in enumerate(self.soup.members):
            merged = merge(fields, member)
            for given, other in (("steps", "epochs"), ("epochs", "steps")):
                if member.get(given) is not None and other not in member:
                    merged[other] = None
            changed.append(validate(StageConfig, merged, where=f"soup.members.{index}"))
        return tuple(changed)

    def fingerprint(self, num_stages: int, stage: StageConfig | None = None) -> str:
        """64 hex digits that change with every setting of the first `num_stages` stages.

        The last of them is `stage` when given (a soup member). The recipe's and stages' names
        and settings without effect on the weights are left out.
        """
        stages = list(self.stages[:num_stages])
        if stage is not None:
            stages[-1] = stage
        idle, looking = StageConfig.idle_fields(), StageConfig.looking_fields()
        content = {
            "seed": self.seed,
            "model": self.model.model_dump(mode="json"),
            "stages": [
                entry.model_dump(mode="json", exclude=idle - looking if entry.keep_best else idle)
                for entry in stages
            ],
        }
        if num_stages == len(self.stages) and self.soup.checkpoints is not None:
            content["save_every"] = stages[-1].save_every  # says what is averaged
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
