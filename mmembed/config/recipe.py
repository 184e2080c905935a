"""The models of a recipe. Only data: nothing is built or opened here.

A recipe is a model, stages in order, and a soup of the last one. Recipes differ in values, never in
code; the neutral value of every knob means "off", and nothing is read from a recipe's name.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mmembed.config.lora import LoraConfig
from mmembed.config.objective import LossConfig
from mmembed.config.validation import StrictModel, merge, validate
from mmembed.types import Task

__all__ = [
    "DataConfig",
    "ModelConfig",
    "Recipe",
    "SamplingConfig",
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


class SamplingConfig(StrictModel):
    """How often each group of the mixture gives the batch.

    Args:
        exponent: a group is drawn with probability size^exponent / sum, size after caps and
            weights; None = every row once in an epoch.
        task_shares: share of the batches that groups of a task get together, e.g.
            `{retrieval: 0.72}`; tasks that are not named share the rest by size^exponent.
    """

    exponent: float | None = Field(default=None, ge=0)
    task_shares: dict[Task, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _shares_fit(self) -> SamplingConfig:
        if self.task_shares and self.exponent is None:
            raise ValueError("task_shares need an exponent; 1 draws groups by their size")
        if any(share < 0 for share in self.task_shares.values()) or (
            sum(self.task_shares.values()) > 1 + 1e-9
        ):
            raise ValueError("task_shares must be >= 0 and sum to at most 1")
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
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        if self.learnable and not self.min <= self.init <= self.max:
            raise ValueError(f"init {self.init} is outside [{self.min}, {self.max}]")
        return self


class StageConfig(StrictModel):
    """One training run: a mixture, a schedule, a loss.

    Args:
        name: its folder in the run; `stage1`, `stage2`, ... if None.
        steps, epochs: the length; exactly one of them.
        batch_size: queries in a global batch.
        batch_sizes: by task, where it differs from `batch_size`.
        max_query_tokens, max_document_tokens: of an item of that role; None = `model.max_tokens`.
        warmup_ratio: share of the steps with a linearly rising learning rate.
        max_grad_norm: gradients are scaled down to this norm; None = off.
        dtype: bfloat16 = autocast; weights and optimizer stay float32.
        loss: of every task that `losses` does not name.
        losses: by task of the batch, each a whole `LossConfig` merged over `loss`.
        sampling: which group gives the next batch.
        lora: train low-rank updates; they are merged into the model folder.
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
    batch_sizes: dict[Task, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    max_query_tokens: int | None = Field(default=None, ge=8)
    max_document_tokens: int | None = Field(default=None, ge=8)
    learning_rate: float = Field(default=1e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    loss: LossConfig = LossConfig()
    losses: dict[Task, LossConfig] = Field(default_factory=dict)
    sampling: SamplingConfig = SamplingConfig()
    lora: LoraConfig = LoraConfig()
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

    @model_validator(mode="before")
    @classmethod
    def _losses_over_loss(cls, fields: Any) -> Any:
        """`losses.sts` says only what differs from `loss`."""
        if not isinstance(fields, dict) or not isinstance(fields.get("losses"), dict):
            return fields
        under = fields.get("loss") or {}
        merged = {
            task: merge(under, over) if isinstance(over, dict) and isinstance(under, dict) else over
            for task, over in fields["losses"].items()
        }
        return {**fields, "losses": merged}

    def loss_of(self, task: Task) -> LossConfig:
        return self.losses.get(task, self.loss)

    def batch_size_of(self, task: Task) -> int:
        return self.batch_sizes.get(task, self.batch_size)

    @model_validator(mode="after")
    def _one_length(self) -> StageConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give steps or epochs, exactly one of them")
        return self


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
        idle = StageConfig.idle_fields()
        content = {
            "seed": self.seed,
            "model": self.model.model_dump(mode="json"),
            "stages": [entry.model_dump(mode="json", exclude=idle) for entry in stages],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
