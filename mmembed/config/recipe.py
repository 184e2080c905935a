"""The models of a recipe. Only data: nothing is built or opened here.

A recipe is a model, stages in order, and a soup of the last one. Recipes differ in values, never in
code; the neutral value of every knob means "off", and nothing is read from a recipe's name.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, model_validator

from mmembed.config.validation import StrictModel, merge, validate

__all__ = [
    "DataConfig",
    "DocumentMaskConfig",
    "HardnessConfig",
    "LossConfig",
    "ModelConfig",
    "Recipe",
    "SoupConfig",
    "StageConfig",
    "TemperatureConfig",
    "TokenBounds",
]


class TokenBounds(StrictModel):
    """Least and most visual tokens of one picture."""

    min: int = Field(ge=1)
    max: int = Field(ge=1)


class ModelConfig(StrictModel):
    """Where training starts. None = as the model folder says.

    Args:
        path: a model folder or a hub id of a Qwen2-VL checkpoint in safetensors.
        revision: commit of the hub id.
        pooling: which state is the embedding.
        position_ids: `mrope` (time, height, width) or `flat` (0..L-1 on all three axes).
        prompt: name of a prompt template, or a path to one.
        prompts: named instructions that users may pass as `prompt_name`.
        image_tokens, frame_tokens, page_tokens: visual tokens of one picture of each kind.
        num_frames: frames of a clip that names neither fps nor a number.
        max_tokens: longest item; the text body is shortened, never pictures or the suffix.
    """

    path: str
    revision: str | None = None
    pooling: Literal["last_token", "mean"] | None = None
    position_ids: Literal["mrope", "flat"] | None = None
    prompt: str | None = None
    prompts: dict[str, str] | None = None
    image_tokens: TokenBounds | None = None
    frame_tokens: TokenBounds | None = None
    page_tokens: TokenBounds | None = None
    num_frames: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=8)


class DataConfig(StrictModel):
    """One entry of a mixture.

    Args:
        adapter: `package.module:Name`, resolved from installed modules.
        arguments: keyword arguments of the adapter.
        name: what logs and errors call it; the adapter's own name if None.
        weight: passes over the (capped) rows in one epoch: 2 = twice, 0.5 = a random half.
        cap: use at most this many rows, chosen by the seed.
        group: entries of one group share batches; each entry is its own group if None.
        temperature_group: rows share the learnt temperature of this name; the task if None.
        query_instruction, document_instruction: for items that bring none themselves.
    """

    adapter: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    arguments: dict[str, Any] = Field(default_factory=dict)
    name: str | None = None
    weight: float = Field(default=1.0, gt=0)
    cap: int | None = Field(default=None, ge=1)
    group: str | None = None
    temperature_group: str | None = None
    query_instruction: str | None = None
    document_instruction: str | None = None


class HardnessConfig(StrictModel):
    """Negatives count exp(alpha * s) times; alpha 0 = off."""

    alpha: float = Field(default=0.0, ge=0)
    scope: Literal["in_batch", "hard", "all"] = "all"
    detach: bool = True


class DocumentMaskConfig(StrictModel):
    """Drop negatives whose document is nearer than `threshold` to the positive; None = off."""

    threshold: float | None = None
    from_step: int = Field(default=0, ge=0)
    max_masked_fraction: float | None = Field(default=None, ge=0, le=1)


class LossConfig(StrictModel):
    """InfoNCE; the defaults are the plain loss over in-batch documents and hard negatives."""

    in_batch: bool = True
    hard_negatives: Literal["none", "own", "shared"] = "shared"
    max_hard_negatives: int | None = Field(default=None, ge=0)
    duplicate_id: bool = True
    document_mask: DocumentMaskConfig = DocumentMaskConfig()
    hardness: HardnessConfig = HardnessConfig()
    symmetric: bool = False

    @model_validator(mode="after")
    def _some_negatives(self) -> LossConfig:
        if not self.in_batch and self.hard_negatives == "none":
            raise ValueError("no negatives: set in_batch, or hard_negatives to own or shared")
        return self


class TemperatureConfig(StrictModel):
    """tau of the scores: fixed or learnable, for the model or for each task."""

    init: float = Field(default=0.02, gt=0)
    learnable: bool = False
    per_task: bool = False
    min: float = Field(default=0.01, gt=0)
    max: float = Field(default=0.2, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _inside(self) -> TemperatureConfig:
        if self.learnable and not self.min <= self.init <= self.max:
            raise ValueError(f"init {self.init} is outside [{self.min}, {self.max}]")
        return self


class StageConfig(StrictModel):
    """One training run: a mixture, a schedule, a loss.

    Args:
        name: its folder in the run; `stage1`, `stage2`, ... if None.
        steps, epochs: the length; exactly one of them.
        batch_size: queries in a global batch.
        warmup_ratio: share of the steps with a linearly rising learning rate.
        max_grad_norm: gradients are scaled down to this norm; None = off.
        dtype: bfloat16 = autocast; weights and optimizer stay float32.
        freeze: parts whose parameter names start so are not trained (`visual`, ...).
        save_every: steps between checkpoints; None = only the end.
        seed: of the data order; the recipe's if None.
        num_workers: threads that decode and tokenise ahead; 0 = in the training loop.
        prepared_cache_mb: memory for prepared items that come again in later epochs; 0 = off.
    """

    name: str | None = Field(default=None, pattern=r"^[\w.-]+$")
    data: tuple[DataConfig, ...] = Field(min_length=1)
    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    loss: LossConfig = LossConfig()
    temperature: TemperatureConfig = TemperatureConfig()
    dtype: Literal["float32", "bfloat16"] = "float32"
    freeze: tuple[str, ...] = ()
    save_every: int | None = Field(default=None, ge=1)
    log_every: int = Field(default=1, ge=1)
    seed: int | None = None
    num_workers: int = Field(default=1, ge=0)
    prepared_cache_mb: int = Field(default=0, ge=0)

    @staticmethod
    def idle_fields() -> set[str]:
        """Settings without effect on the weights."""
        return {"name", "save_every", "log_every", "num_workers", "prepared_cache_mb"}

    @model_validator(mode="after")
    def _one_length(self) -> StageConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give steps or epochs, exactly one of them")
        return self


class SoupConfig(StrictModel):
    """How the members of the last stage become one model; `method: null` = no soup.

    Args:
        members: variations of the last stage, each a few of its keys, e.g. `{seed: 1}`.
        weights: one for each member, normalised to sum 1; uniform if None.
    """

    method: Literal["linear"] | None = None
    members: tuple[dict[str, Any], ...] = ()
    weights: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _fits(self) -> SoupConfig:
        if self.method is not None and not self.members:
            raise ValueError("a soup needs members, e.g. [{seed: 1}, {seed: 2}]")
        if self.method is None and self.members:
            raise ValueError("members without a method; set method: linear")
        if self.weights is not None:
            if len(self.weights) != len(self.members):
                raise ValueError(
                    f"{len(self.weights)} weights for {len(self.members)} members; give one each"
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
    def _stage_names_differ(self) -> Recipe:
        names = [self.stage_name(index) for index in range(len(self.stages))]
        if len(set(names)) != len(names):
            raise ValueError(f"stage names must differ; found {', '.join(names)}")
        return self

    def stage_name(self, index: int) -> str:
        return self.stages[index].name or f"stage{index + 1}"

    def member_stages(self) -> tuple[StageConfig, ...]:
        """The last stage as each soup member runs it; the stage itself without a soup.

        Raises:
            ConfigError: a member has a key or value that a stage cannot have.
        """
        last = self.stages[-1]
        if self.soup.method is None:
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
        idle = StageConfig.idle_fields()
        content = {
            "seed": self.seed,
            "model": self.model.model_dump(mode="json"),
            "stages": [entry.model_dump(mode="json", exclude=idle) for entry in stages],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
