"""Single training steps on part of a batch, measured: what the planner knows, it knows from here.

A `Workbench` trains the model that a stage would train, as `train_stage` does it, and nothing is
ever saved. A step has the parts of a real one: forward, loss, backward, clipping, the optimizer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open

from mmembed.config.recipe import Recipe
from mmembed.config.stage import StageConfig
from mmembed.data.mixture import Mixture
from mmembed.data.sampler import GlobalBatch
from mmembed.encoder.lora import add_lora
from mmembed.errors import InputError, TrainingDiverged
from mmembed.inputs.collator import chunk_cost, split
from mmembed.inputs.media import MediaPolicy
from mmembed.training.forward import batch_gradients, collator
from mmembed.training.grad_cache import DoesNotFit
from mmembed.training.memory import PeakMeter
from mmembed.training.objectives import build_objectives
from mmembed.training.optim import Schedule, build_optimizer, freeze_parameters
from mmembed.training.start import load_model, start_model

__all__ = [
    "MicroStep",
    "PreparedRows",
    "Workbench",
    "num_passes",
    "stored_weight_bytes",
]

# One forward and one backward pass, without and with gradient checkpointing.
_PASSES = {False: 3, True: 4}


@dataclass(frozen=True)
class MicroStep:
    """One step as it was measured. `cost` counts tokens and patch rows, see `chunk_cost`.

    Args:
        purpose: `warm-up` (the first one: it allocates the optimizer's state), `memory`, `check`
            of a prediction, or `time`.
        rows: of a batch of `group`.
        chunk_cost: of its largest chunk.
        gradient_seconds: forward, loss and backward; update_seconds: clipping and the optimizer.
        cpu_seconds: of all threads of this process.
        peak_bytes: of memory, all in.
        passes: see `num_passes`.
    """

    purpose: Literal["warm-up", "memory", "check", "time"]
    group: str
    rows: int
    tokens: int
    cost: int
    chunk_cost: int
    num_chunks: int
    gradient_checkpointing: bool
    gradient_seconds: float
    update_seconds: float
    cpu_seconds: float
    peak_bytes: int
    passes: float

    @property
    def seconds(self) -> float:
        return self.gradient_seconds + self.update_seconds


def num_passes(num_chunks: float, gradient_checkpointing: bool, *, coupled: bool) -> float:
    """Forward passes that each token of a step costs in the mean; a backward pass counts as two.

    Args:
        coupled: by the loss of an embedder: all chunks but one are embedded twice. Those of a
            reranker are added up, and run once each.
    """
    again = 1 - 1 / num_chunks if coupled else 0
    return _PASSES[gradient_checkpointing] + again


@dataclass(frozen=True)
class PreparedRows:
    """Rows of a planned batch, as tensors.

    Args:
        at: the batch; `rows` may be the first ones of it only.
        costs, longest: of each row, and of its most expensive item.
        num_bytes: of all of them.
        seconds: that preparing took.
        bad: rows that cannot be used.
    """

    at: GlobalBatch
    rows: tuple[Any, ...]
    costs: tuple[int, ...]
    longest: tuple[int, ...]
    num_bytes: int
    seconds: float
    bad: tuple[InputError, ...]

    @property
    def cost(self) -> float:
        """Of the whole batch; rows that were not prepared count like the others."""
        return sum(self.costs) / len(self.costs) * len(self.at.rows)

    @property
    def seconds_per_row(self) -> float:
        return self.seconds / (len(self.costs) + len(self.bad))

    def dearest(self, cost: int) -> PreparedRows:
        """The rows with the longest items, until they cost so much; two at least."""
        order = sorted(range(len(self.rows)), key=lambda n: (-self.longest[n], -self.costs[n], n))
        chosen: list[int] = []
        spent = 0
        for number in order:
            if spent >= cost and len(chosen) >= 2:
                break
            chosen.append(number)
            spent += self.costs[number]
        return replace(
            self,
            rows=tuple(self.rows[n] for n in chosen),
            costs=tuple(self.costs[n] for n in chosen),
            longest=tuple(self.longest[n] for n in chosen),
        )


class Workbench:
    """The model of a stage on its device, its optimizer, and steps of it.

    Gradient checkpointing begins off, whatever the stage says; `recompute` turns it on for good.

    Args:
        stage: its `chunk_tokens` is replaced by that of each step.

    Attributes:
        coupled: see `num_passes`.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: StageConfig,
        mixture: Mixture,
        accelerator: Accelerator,
        *,
        media: MediaPolicy | None,
        seed: int,
        total_steps: int,
    ) -> None:
        # pictures would be known from one step to the next, and compiling would be measured
        self.stage = stage.model_copy(update={"tower_cache_mb": 0, "compile": False})
        self.mixture = mixture
        self.steps: list[MicroStep] = []
        self.gradient_checkpointing = False
        self.coupled = recipe.kind == "embedder"
        self._accelerator = accelerator
        self._seed = seed
        self.encoder, self.processor = load_model(
            recipe,
            stage,
            start_model(recipe.model),
            device=accelerator.device,
            media=media,
            any_kind=True,
            overridden=True,
        )
        if stage.lora.rank is not None:
            add_lora(self.encoder, stage.lora, seed=seed)
        freeze_parameters(self.encoder.backbone.model, stage.freeze)
        self._objectives = build_objectives(stage, mixture).to(self.encoder.device)
        optimizer = build_optimizer(self.encoder, self._objectives, stage)
        Schedule(optimizer, stage, total_steps=total_steps).set_step(0)
        self._model, self._optimizer = accelerator.prepare(self.encoder.train(), optimizer)
        self.meter = PeakMeter(accelerator.device)

    @property
    def weight_bytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.encoder.parameters())

    @property
    def trained_bytes(self) -> int:
        """Of the parameters that are trained: gradients take as much, the optimizer twice."""
        return sum(
            p.numel() * p.element_size() for p in self.encoder.parameters() if p.requires_grad
        )

    def recompute(self) -> None:
        self.encoder.backbone.recompute_activations()
        self.gradient_checkpointing = True

    def prepare(self, at: GlobalBatch, num_rows: int | None = None) -> PreparedRows:
        """Read, decode and tokenise rows of a batch, the first that can be used, on one thread.

        Raises:
            InputError: a row cannot be used; where the stage skips such rows, none can.
        """
        wanted = len(at.rows) if num_rows is None else num_rows
        good: list[Any] = []
        bad: list[InputError] = []
        tried = 0
        begin = time.perf_counter()
        while len(good) < wanted and tried < len(at.rows):
            numbers = at.rows[tried : tried + wanted - len(good)]
            tried += len(numbers)
            for row in self._prepared(numbers, at.epoch):
                if not isinstance(row, InputError):
                    good.append(row)
                elif self.stage.on_bad_row == "raise":
                    raise row
                else:
                    bad.append(row)
        seconds = time.perf_counter() - begin
        if not good:
            raise bad[0]
        inputs = [self._collated([row], None).inputs[0] for row in good]
        return PreparedRows(
            at=at,
            rows=tuple(good),
            costs=tuple(map(chunk_cost, inputs)),
            longest=tuple(max(map(chunk_cost, split(items, 1))) for items in inputs),
            num_bytes=sum(row.num_bytes for row in good),
            seconds=seconds,
            bad=tuple(bad),
        )

    def _prepared(self, numbers: Sequence[int], epoch: int) -> list[Any]:
        """Each row, or its InputError."""
        rows: list[Any] = []
        for number in numbers:
            try:
                rows.append(self.mixture.row(number, epoch=epoch))
            except InputError as error:
                rows.append(error)
        readable = [row for row in rows if not isinstance(row, InputError)]
        collate = collator(self.encoder, self.processor, self.stage)
        prepared = iter(collate.prepare(readable) if readable else [])
        return [row if isinstance(row, InputError) else next(prepared) for row in rows]

    def step(
        self,
        part: PreparedRows,
        *,
        chunk_tokens: int | None,
        purpose: Literal["warm-up", "memory", "check", "time"],
    ) -> MicroStep:
        """Train on these rows once.

        Raises:
            TrainingDiverged: the loss or the gradient is not finite.
            DoesNotFit: memory ran out; training would go on in smaller chunks if there are any.
        """
        batch = self._collated(part.rows, chunk_tokens)
        chunks = [chunk_cost(inputs) for inputs in batch.inputs]
        gradients = batch_gradients(
            self.encoder,
            self.stage,
            self.mixture,
            self._objectives,
            self._accelerator,
            seed=self._seed,
        )
        self.meter.begin()
        cpu, begin = time.process_time(), time.perf_counter()
        try:
            output = gradients(self._model, batch, part.at, 0)
            loss = output.loss.item()  # waits for the device
            middle = time.perf_counter()
            as_asked = gradients.backward.chunk_tokens is None
            if as_asked:
                self._update(loss, part.at)
        except torch.OutOfMemoryError:
            as_asked = False
        # outside the handler, whose traceback would keep the tensors alive
        self._optimizer.zero_grad(set_to_none=True)
        if not as_asked:
            raise DoesNotFit(
                f"memory of {self.encoder.device} ran out in a step of {sum(chunks):,} tokens with "
                f"{max(chunks):,} in a chunk; lower chunk_tokens, set gradient_checkpointing: "
                "true, or train fewer parameters (lora, freeze)"
            )
        if self.encoder.device.type == "cuda":
            torch.cuda.synchronize(self.encoder.device)
        end = time.perf_counter()
        measured = MicroStep(
            purpose=purpose,
            group=part.at.group,
            rows=len(part.rows),
            tokens=batch.num_tokens,
            cost=sum(chunks),
            chunk_cost=max(chunks),
            num_chunks=len(chunks),
            gradient_checkpointing=self.gradient_checkpointing,
            gradient_seconds=middle - begin,
            update_seconds=end - middle,
            cpu_seconds=time.process_time() - cpu,
            peak_bytes=self.meter.read(),
            passes=num_passes(len(chunks), self.gradient_checkpointing, coupled=self.coupled),
        )
        self.steps.append(measured)
        return measured

    def affordable_cost(self, seconds: float) -> float:
        """What a step can do in this time, at the pace of the last one and with many chunks."""
        last = self.steps[-1]
        most = num_passes(math.inf, last.gradient_checkpointing, coupled=self.coupled)
        return seconds / last.gradient_seconds * last.cost * last.passes / most

    def _update(self, loss: float, at: GlobalBatch) -> None:
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        norm = float(
            self._accelerator.clip_grad_norm_(parameters, self.stage.max_grad_norm or math.inf)
        )
        if not math.isfinite(loss) or not math.isfinite(norm):
            rows = self.mixture.named_rows(at.rows)
            raise TrainingDiverged(step=1, loss=loss, grad_norm=norm, rows=rows)
        self._optimizer.step()
        self._objectives.temperature.project_()

    def close(self) -> None:
        self.processor.close()
        self._accelerator.free_memory()

    def _collated(self, rows: Sequence[Any], chunk_tokens: int | None) -> Any:
        stage = self.stage.model_copy(update={"chunk_tokens": chunk_tokens})
        return collator(self.encoder, self.processor, stage).collate(rows)


def stored_weight_bytes(folder: Path) -> int:
    """Of the weights of a model folder in float32, from the heads of its files."""
    total = 0
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="pt") as file:
                total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
        except SafetensorError:
            continue  # loading it says what is wrong
    return 4 * total
