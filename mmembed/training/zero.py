"""DeepSpeed's ZeRO behind `Backend`.

Its engine owns the optimizer of the model; what the losses learn keeps one of its own. Weights stay
float32, and autocast is ours as everywhere, so that the numbers are those of one process.

What differs: an optimizer step moves all parameters, also those that a batch did not use (the
vision tower in a batch of texts): their gradient is zero, but momentum and weight decay act. The
other backends let them rest. And Adam counts steps for all parameters together.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mmembed.config.stage import StageConfig
from mmembed.encoder.encoder import Encoder
from mmembed.errors import ConfigError, MissingDependencyError
from mmembed.training.backends import Backend, clip_factor, first_has
from mmembed.training.objectives import Objectives
from mmembed.training.optim import adamw, model_groups, objective_groups

__all__ = ["Zero"]

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Zero(Backend):
    """Stages 1, 2 and 3, as the settings say."""

    equal_chunks = True  # gradients are reduced in buckets, which must be the same everywhere
    rests = False  # stage 3 would take the gradient of an earlier step

    def __init__(self, accelerator: Accelerator, settings: Mapping[str, Any]) -> None:
        super().__init__(accelerator)
        try:
            with redirect_stdout(sys.stderr):
                import deepspeed
        except ImportError:
            raise MissingDependencyError("deepspeed", "train") from None
        self._deepspeed: Any = deepspeed
        self._settings = settings
        self._stage: int = settings["zero_optimization"]["stage"]
        self._engine: Any = None
        found = deepspeed.get_accelerator().device_name()
        if found != accelerator.device.type:
            raise ConfigError(
                f"DeepSpeed has chosen {found} and training runs on {accelerator.device.type}; "
                f"set the environment variable DS_ACCELERATOR={accelerator.device.type}"
            )

    def prepare(
        self, encoder: Encoder, objectives: Objectives, stage: StageConfig
    ) -> tuple[nn.Module, Any]:
        tower = encoder.backbone.tower
        if tower is not None:  # its projection reads the weight without calling the module
            self._deepspeed.utils.set_z3_leaf_modules(encoder, [type(tower.patch_embed)])
        settings = {
            **self._settings,
            "train_micro_batch_size_per_gpu": 1,  # asked for; batches are ours
            "gradient_accumulation_steps": 1,  # the boundary is set by hand
            "gradient_clipping": 1.0,  # replaced at each step
            "steps_per_print": sys.maxsize,
            "torch_autocast": {
                "enabled": stage.dtype == "bfloat16",
                "dtype": stage.dtype,
                "lower_precision_safe_modules": [],  # gradients are exchanged in float32
            },
        }
        with redirect_stdout(sys.stderr):
            self._engine, *_ = self._deepspeed.initialize(
                model=encoder, optimizer=adamw(model_groups(encoder, stage), stage), config=settings
            )
        groups = objective_groups(objectives, stage)
        own = adamw(groups, stage) if groups else None
        return self._engine, _ZeroOptimizer(self._engine, own, self._stage)

    @contextmanager
    def _within_the_batch(self) -> Iterator[None]:
        self._engine.set_gradient_accumulation_boundary(False)
        try:
            yield
        finally:
            self._engine.set_gradient_accumulation_boundary(True)

    def no_sync(self, model: nn.Module) -> AbstractContextManager[object]:
        return self._within_the_batch()

    def backward(self, loss: Tensor) -> None:
        with warnings.catch_warnings():  # of stage 3's own hooks, at every backward pass
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            self._engine.backward(loss)

    def clip_gradients(self, optimizer: Any, max_norm: float) -> float:
        return float(optimizer.clip_gradients(max_norm))

    def gathered_weights(self, model: nn.Module) -> dict[str, Tensor] | None:
        names = {id(tensor): name for name, tensor in model.named_parameters()}
        found = {}
        for name, tensor in model.state_dict(keep_vars=True).items():
            cut = self._stage == 3 and id(tensor) in names
            with self._deepspeed.zero.GatheredParameters([tensor], enabled=cut):
                found[name] = first_has(tensor)
        return found

    def free(self) -> None:
        if self._engine is not None:
            self._engine.destroy()
        self._engine = None
        super().free()


class _ZeroOptimizer:
    """What the trainer asks of an optimizer.

    Attributes:
        state: by parameter, as that of torch's optimizers; reading and writing need all processes.
    """

    def __init__(self, engine: Any, own: torch.optim.Optimizer | None, stage: int) -> None:
        self._engine = engine
        self._own = own
        self._stage = stage
        self._groups = list(engine.optimizer.param_groups)
        self._create_moments()
        self.state = _States(engine, own, self._flat)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self._groups + ([] if self._own is None else self._own.param_groups)

    def step(self) -> None:
        self._engine.step()
        if self._own is not None:
            self._own.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        if self._own is not None:
            self._own.zero_grad(set_to_none=set_to_none)

    @torch.no_grad()
    def clip_gradients(self, max_norm: float) -> float:
        """The engine scales by its own norm and bound: the bound is set so that all scale alike."""
        zero = self._engine.optimizer
        if self._stage == 3:
            groups = torch.stack([norm.float() for norm in zero._get_norm_groups()])
            of_model = math.nan if (groups < 0).any() else float(groups.norm())
        else:
            of_model = float(zero.scaled_global_norm())
            of_model = math.nan if of_model < 0 else of_model  # its mark of what is not finite
        others = [] if self._own is None else self._own.param_groups
        gradients = [p.grad for group in others for p in group["params"] if p.grad is not None]
        of_others = float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0
        norm = math.hypot(of_model, of_others)
        if math.isfinite(norm):
            factor = clip_factor(norm, max_norm)
            zero.clip_grad = factor * (of_model + 1e-6)
            for gradient in gradients:
                gradient.mul_(factor)
        return norm

    @property
    def _flat(self) -> list[nn.Parameter]:
        """This process's piece of each group, which is what torch's optimizer moves."""
        zero = self._engine.optimizer
        pieces = (
            zero.fp32_partitioned_groups_flat
            if self._stage == 3
            else zero.single_partition_of_fp32_groups
        )
        return list(pieces)

    def _create_moments(self) -> None:
        """At once: stages 1 and 2 would look for those of all groups after the first one's step."""
        zero = self._engine.optimizer
        for piece in self._flat:
            zero.optimizer.state[piece] = {
                "step": torch.zeros((), device=piece.device),
                **{name: torch.zeros_like(piece) for name in _MOMENTS},
            }
        if self._stage < 3:
            zero._lazy_init_hp_params_optimizer_state()


class _States:
    """What `torch.optim.Optimizer.state` gives: one parameter's tensors, each whole."""

    def __init__(
        self, engine: Any, own: torch.optim.Optimizer | None, pieces: list[nn.Parameter]
    ) -> None:
        self._engine = engine
        self._own = own
        self._pieces = pieces

    def __getitem__(self, parameter: nn.Parameter) -> Any:
        if self._own is not None and any(
            parameter is each for group in self._own.param_groups for each in group["params"]
        ):
            return self._own.state[parameter]
        return _State(parameter, [self._engine.optimizer.optimizer.state[p] for p in self._pieces])

    def get(self, parameter: nn.Parameter, default: Any = None) -> Any:
        return self[parameter] if parameter.requires_grad else default


class _State:
    """Of one parameter, whole."""

    def __init__(self, parameter: nn.Parameter, pieces: list[dict[str, Tensor]]) -> None:
        self._parameter = parameter
        self._pieces = pieces

    def __getitem__(self, key: str) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        if key == "step":
            return self._pieces[0]["step"]
        found: Tensor = safe_get_full_optimizer_state(self._parameter, key)
        return found.reshape(self.shape)

    def __setitem__(self, key: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        if key == "step":
            for piece in self._pieces:
                piece["step"].copy_(torch.maximum(piece["step"], value))
        else:
            safe_set_full_optimizer_state(self._parameter, value, key)

    @property
    def shape(self) -> torch.Size:
        return getattr(self._parameter, "ds_shape", self._parameter.shape)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        return ((key, self[key]) for key in ("step", *_MOMENTS))
