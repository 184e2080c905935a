"""Schema of one stage of training: its data, schedule, loss and temperature.

Every knob's neutral value means "off".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import Field, model_validator

from mmembed.config.lora import LoraConfig
from mmembed.config.mining import StageMiningConfig
from mmembed.config.objective import LossConfig
from mmembed.config.validation import StrictModel, did_you_mean, merge
from mmembed.types import Task

__all__ = ["DataConfig", "SamplingConfig", "StageConfig", "TemperatureConfig", "first_phrasing"]


Instruction: TypeAlias = str | Annotated[tuple[str, ...], Field(min_length=1)] | None
LossName: TypeAlias = Annotated[str, Field(pattern=r"^[\w-]+$")]


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
        query_instruction, document_instruction: for items that bring none themselves. Of several
            phrasings, one is drawn for each row in each epoch.
        task: of the rows, in place of the adapter's own.
        loss: which of the stage's `losses` trains these rows; the task if None.
        share: multiplies the probability of the group under `sampling.exponent`; entries of one
            group have one share.
    """

    adapter: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    arguments: dict[str, Any] = Field(default_factory=dict)
    name: str | None = None
    weight: float = Field(default=1.0, gt=0)
    cap: int | None = Field(default=None, ge=1)
    group: str | None = None
    temperature_group: str | None = None
    query_instruction: Instruction = None
    document_instruction: Instruction = None
    task: Task | None = None
    loss: LossName | None = None
    share: float = Field(default=1.0, gt=0)


def first_phrasing(instruction: str | Sequence[str] | None) -> str | None:
    """What is said where one wording must do, such as to the teacher of mining."""
    return instruction if isinstance(instruction, str | None) else instruction[0]


class SamplingConfig(StrictModel):
    """How often each group of the mixture gives the batch.

    Args:
        exponent: a group is drawn with probability share * size^exponent / sum, size after caps and
            weights; 0 leaves the shares alone. None = every row once in an epoch.
        task_shares: share of the batches that groups of a task get together, e.g.
            `{retrieval: 0.72}`; tasks that are not named share the rest by size^exponent.
        sub_batch_size: a batch is made of sub-batches of so many rows, each of one group, from
            the groups of one task; the contrast is over the whole batch. None = one group.
        distinct: what no two rows of a batch share: `documents` by their ids, or also `contents`
            of queries and positives under whatever ids (reads every row and file once to plan).
    """

    exponent: float | None = Field(default=None, ge=0)
    task_shares: dict[Task, float] = Field(default_factory=dict)
    sub_batch_size: int | None = Field(default=None, ge=1)
    distinct: Literal["documents", "contents"] = "documents"

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
        chunk_tokens: the batch runs in chunks of so many tokens, patch rows of pictures included;
            memory no longer grows with `batch_size`. None = all at once.
        gradient_checkpointing: keep less of the forward pass and compute it twice.
        tower_cache_mb: memory of each process for the features of pictures that a frozen vision
            tower has seen: it sees each picture once while they fit. A run that is continued then
            repeats the straight one up to rounding. 0 = off.
        compile: compile the layers of both towers with torch.compile; the first steps are slow.
        loss: of every batch that `losses` does not name.
        losses: by task, or by the name that data have under `loss`; each a whole `LossConfig`
            merged over `loss`.
        sampling: which group gives the next batch.
        mining: hard negatives are mined for the data of the stage before its first step, but for
            graded pairs (`cosent`), which stay as they are; stages that follow each other mine
            anew. None = the rows have their own.
        lora: train low-rank updates; they are merged into the model folder.
        freeze: parts whose parameter names start so are not trained (`visual`, ...).
        save_every: steps between checkpoints; None = only the end.
        evaluation: rows that are not trained on. The queries of an entry look for their positives
            among all positives and hard negatives of that entry; `cap` bounds the cost.
        evaluate_every: steps between these searches; they also run before the first step and at
            the end. None = only there.
        keep_best: a metric of `evaluation`, e.g. `evaluation/<name>/MRR`: the model of the stage is
            the evaluated step with its highest value; None = the last step.
        keep_checkpoints: the newest so many stay, and the best one where there are scores.
        seed: of the data order; the recipe's if None.
        num_workers: threads that decode and tokenise ahead; 0 = in the training loop.
        prepared_cache_mb: memory for prepared items that come again in later epochs; 0 = off.
        prepared_ahead_mb: batches are prepared ahead while they fit in so much memory; one always.
        on_bad_row: a row whose media or text cannot be used: stop, or put another row of its group
            in its place and write it to `skipped.jsonl`.
        max_bad_fraction: stop when more of the rows are bad, counted over at least 200.
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
    losses: dict[LossName, LossConfig] = Field(default_factory=dict)
    sampling: SamplingConfig = SamplingConfig()
    mining: StageMiningConfig | None = None
    lora: LoraConfig = LoraConfig()
    temperature: TemperatureConfig = TemperatureConfig()
    dtype: Literal["float32", "bfloat16"] = "float32"
    chunk_tokens: int | None = Field(default=None, ge=1)
    gradient_checkpointing: bool = False
    tower_cache_mb: int = Field(default=0, ge=0)
    compile: bool = False
    freeze: tuple[str, ...] = ()
    save_every: int | None = Field(default=None, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    log_every: int = Field(default=1, ge=1)
    evaluation: tuple[DataConfig, ...] = ()
    evaluate_every: int | None = Field(default=None, ge=1)
    keep_best: str | None = None
    seed: int | None = None
    num_workers: int = Field(default=1, ge=0)
    prepared_cache_mb: int = Field(default=0, ge=0)
    prepared_ahead_mb: int = Field(default=8192, ge=0)
    on_bad_row: Literal["raise", "skip"] = "raise"
    max_bad_fraction: float = Field(default=0.05, ge=0, le=1)

    @staticmethod
    def idle_fields() -> set[str]:
        """Settings without effect on the weights but that of rounding."""
        memory = {"chunk_tokens", "gradient_checkpointing", "tower_cache_mb", "compile"}
        checkpoints = {"save_every", "keep_checkpoints"} | StageConfig.looking_fields()
        preparing = {"num_workers", "prepared_cache_mb", "prepared_ahead_mb"}
        bad_rows = {"on_bad_row", "max_bad_fraction"}  # `raise` gives no weights to differ from
        return memory | checkpoints | preparing | bad_rows | {"name", "log_every"}

    @staticmethod
    def looking_fields() -> set[str]:
        """Settings without effect on the weights unless `keep_best` chooses by them."""
        return {"evaluation", "evaluate_every"}

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

    def loss_of(self, key: str) -> LossConfig:
        """By the task of a batch, or the name that its data have under `loss`."""
        return self.losses.get(key, self.loss)

    def mining_of(self, key: str) -> StageMiningConfig | None:
        """By what `loss_of` takes; None where rows stay as they are."""
        return None if self.loss_of(key).objective == "cosent" else self.mining

    def batch_size_of(self, task: Task) -> int:
        return self.batch_sizes.get(task, self.batch_size)

    @model_validator(mode="after")
    def _one_length(self) -> StageConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give steps or epochs, exactly one of them")
        return self

    @model_validator(mode="after")
    def _losses_are_named(self) -> StageConfig:
        tasks = get_args(Task)
        asked = dict.fromkeys(entry.loss for entry in self.data if entry.loss is not None)
        known = [*tasks, *self.losses]
        absent = next((name for name in asked if name not in known), None)
        if absent is not None:
            raise ValueError(
                f"data ask for loss {absent!r}{did_you_mean(absent, known)}; losses has "
                f"{', '.join(self.losses) or 'none'}, and tasks are {', '.join(tasks)}"
            )
        idle = next((name for name in self.losses if name not in (*tasks, *asked)), None)
        if idle is not None:
            guess = did_you_mean(idle, [*tasks, *asked])
            raise ValueError(
                f"losses.{idle} is no task{guess}, and no data have loss: {idle}; tasks are "
                f"{', '.join(tasks)}"
            )
        return self

    @model_validator(mode="after")
    def _shares_are_drawn(self) -> StageConfig:
        if self.sampling.exponent is None and any(entry.share != 1 for entry in self.data):
            raise ValueError(
                "share of data needs sampling.exponent; without it every row comes once in an "
                "epoch, and weight says how often"
            )
        return self

    @model_validator(mode="after")
    def _tower_is_frozen(self) -> StageConfig:
        adapted = self.lora.rank is not None and not self.lora.vision
        if self.tower_cache_mb and not self.freeze and not adapted:
            raise ValueError(
                "tower_cache_mb keeps what a frozen vision tower gives, but nothing is frozen; "
                "set freeze: [visual], or tower_cache_mb: 0"
            )
        return self

    @model_validator(mode="after")
    def _evaluation_fits(self) -> StageConfig:
        given = [name for name in ("evaluate_every", "keep_best") if getattr(self, name)]
        if given and not self.evaluation:
            raise ValueError(f"{given[0]} needs evaluation: a list of data that is not trained on")
        return self
