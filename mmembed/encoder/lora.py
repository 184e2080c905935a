"""Low-rank adapters (LoRA, arXiv 2106.09685) on a loaded encoder, through peft.

Training adapts; a model folder holds plain weights. `save_encoder` writes W + alpha / r * B A under
the plain names while the encoder keeps its adapters; `save_adapter` writes B and A alone, in peft's
own format, for the folder of the base model. peft is needed to add or load adapters, not to use a
saved model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmembed.config.lora import LoraConfig
from mmembed.encoder.backbone import Backbone
from mmembed.encoder.encoder import Encoder
from mmembed.encoder.model_files import read_json
from mmembed.errors import CheckpointError, ConfigError, MissingDependencyError

__all__ = [
    "ADAPTER_CONFIG_FILE",
    "ADAPTER_FILE",
    "adapted_layers",
    "add_lora",
    "load_adapter",
    "merge_lora",
    "merged_weights",
    "save_adapter",
]

ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
_NAME = "default"
_PREFIX = "base_model.model."  # as peft writes
# Settings of peft that change the function; we read adapters that have them switched off.
_OFF: dict[str, Any] = {
    "alpha_pattern": {},
    "bias": "none",
    "fan_in_fan_out": False,
    "rank_pattern": {},
    "use_dora": False,
    "use_rslora": False,
}
_PLAIN_STARTS = (None, True, False, "gaussian")  # others of peft change the weights of the base


def add_lora(encoder: Encoder, config: LoraConfig, *, seed: int = 0) -> None:
    """Put untrained adapters into `encoder`; from now on only they take gradients.

    B is zero, so no vector changes. A follows from `seed` alone.

    Raises:
        ConfigError: no rank, unknown targets, no vision tower, or there are adapters already.
        MissingDependencyError: peft is not installed.
    """
    _refuse_second(encoder)
    if config.rank is None:
        raise ConfigError("lora.rank is null, which means no adapters; give a rank such as 16")
    _inject(encoder, _target_names(encoder.backbone, config), config, seed=seed)


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """The layers with an adapter, by the plain name of the layer; empty without any."""
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "base_layer")
    }


def merged_weights(
    model: nn.Module, state: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """All weights under plain names, adapters added in float32. `model` stays as it is.

    `state` is the state dict of `model`, where `model` has only a part of it.
    """
    own = model.state_dict() if state is None else state
    weights = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in own.items()
        if ".lora_" not in name
    }
    for name, layer in adapted_layers(model).items():
        halves = (own[f"{name}.lora_{half}.{_NAME}.weight"] for half in "BA")
        weights[f"{name}.weight"] = _sum(
            own[f"{name}.base_layer.weight"], *halves, scaling=layer.scaling[_NAME]
        )
    return weights


def merge_lora(encoder: Encoder) -> None:
    """Add the adapters to the weights and take them out; all parameters take gradients again.

    Raises:
        ConfigError: there is no adapter.
    """
    model = encoder.backbone.model
    layers = adapted_layers(model)
    if not layers:
        raise ConfigError("there is no adapter to merge; call add_lora or load_adapter first")
    for name, layer in layers.items():
        plain = layer.base_layer
        plain.weight.data = _merged(layer)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, plain)
    del model.peft_config
    model.requires_grad_(True)


def save_adapter(
    folder: Path,
    encoder: Encoder,
    *,
    base: str | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the adapters alone, as `peft.PeftModel.from_pretrained` reads them.

    An adapter means nothing without its base model. Write into a folder of its own, because
    transformers would apply an adapter that it finds beside a model.

    Args:
        base: name or path of the base model, written down for readers.
        weights: see `save_encoder`.

    Raises:
        ConfigError: there is no adapter.
    """
    model = encoder.backbone.model
    layers = adapted_layers(model)
    if not layers:
        raise ConfigError("there is no adapter to save; call add_lora or load_adapter first")
    folder.mkdir(parents=True, exist_ok=True)
    own = model.state_dict() if weights is None else weights
    tensors = {
        f"{_PREFIX}{name}.lora_{half}.weight": own[f"{name}.lora_{half}.{_NAME}.weight"]
        .detach()
        .cpu()
        .contiguous()
        for name in layers
        for half in "AB"
    }
    save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})
    settings = model.peft_config[_NAME]
    fields = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": settings.r,
        "lora_alpha": float(settings.lora_alpha),
        "lora_dropout": settings.lora_dropout,
        "target_modules": sorted(layers),
        "inference_mode": True,
        **_OFF,
    }
    text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
    (folder / ADAPTER_CONFIG_FILE).write_text(text, encoding="utf-8")


def load_adapter(encoder: Encoder, folder: Path) -> None:
    """Put saved adapters into `encoder`, which must hold the weights of their base model.

    Raises:
        CheckpointError: files missing or damaged; a layer that the model lacks; a tensor that is
            unused, missing or of another shape.
        ConfigError: there are adapters already.
        MissingDependencyError: peft is not installed.
    """
    _refuse_second(encoder)
    fields = read_json(folder / ADAPTER_CONFIG_FILE) if folder.is_dir() else {}
    try:
        tensors = load_file(folder / ADAPTER_FILE)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} holds no readable {ADAPTER_FILE} ({type(error).__name__})"
        ) from None
    odd = sorted(name for name, off in _OFF.items() if (fields.get(name) or off) != off)
    if fields.get("init_lora_weights") not in _PLAIN_STARTS:
        odd.append(f"init_lora_weights {fields['init_lora_weights']!r}")
    targets = fields.get("target_modules")
    if fields.get("peft_type") != "LORA" or odd or not isinstance(targets, list):
        raise CheckpointError(
            f"{folder / ADAPTER_CONFIG_FILE}: only plain LoRA with a list of target_modules is "
            f"read; found peft_type {fields.get('peft_type')!r}"
            + (f" and {', '.join(odd)}" if odd else "")
        )
    try:
        config = LoraConfig(
            rank=fields["r"],
            alpha=fields["lora_alpha"],
            dropout=fields.get("lora_dropout", 0.0),
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{folder / ADAPTER_CONFIG_FILE}: {error}") from None
    linear = _linear_names(encoder.backbone.model)
    absent = sorted(target for target in targets if not _fitting(linear, target))
    if absent:
        raise CheckpointError(
            f"{folder.name} adapts {_first(absent)}, which this model does not have; it belongs "
            "to another model"
        )
    names = [name for name in linear if any(_fitting([name], target) for target in targets)]
    shapes = {
        key: shape
        for name in names
        for key, shape in _shapes(name, encoder.backbone.model.get_submodule(name), fields["r"])
    }
    unused, missing = sorted(tensors.keys() - shapes), sorted(shapes.keys() - tensors)
    reshaped = sorted(k for k in shapes.keys() & tensors if tensors[k].shape != shapes[k])
    if unused or missing or reshaped:
        raise CheckpointError(
            f"{folder.name} does not fit this model: unused {_first(unused)}, missing "
            f"{_first(missing)}, of another shape {_first(reshaped)}"
        )
    _inject(encoder, names, config, seed=0)
    with torch.no_grad():
        for name, layer in adapted_layers(encoder.backbone.model).items():
            for key, parameter in _tensors(name, layer).items():
                parameter.copy_(tensors[key])


def _target_names(backbone: Backbone, config: LoraConfig) -> list[str]:
    model = backbone.model
    place = {id(module): name for name, module in model.named_modules()}
    language = [
        place[id(module)] for module in backbone.layers.modules() if isinstance(module, nn.Linear)
    ]
    names = language
    if config.targets != "all-linear":
        unknown = [target for target in config.targets if not _fitting(language, target)]
        if unknown or not config.targets:
            known = sorted({name.rpartition(".")[2] for name in language})
            raise ConfigError(
                f"lora.targets: no linear layer ends with {', '.join(unknown) or '(nothing)'}; "
                f"there are {', '.join(known)}, or 'all-linear' for all"
            )
        names = [n for n in language if any(_fitting([n], target) for target in config.targets)]
    if config.vision:
        if backbone.tower is None:
            raise ConfigError("lora.vision is true; this model takes text only. Set it to false")
        names = names + [
            place[id(module)]
            for module in backbone.tower.modules()
            if isinstance(module, nn.Linear)
        ]
    return names


def _refuse_second(encoder: Encoder) -> None:
    if adapted_layers(encoder.backbone.model):
        raise ConfigError("the model has adapters already; merge them first (merge_lora)")


def _inject(encoder: Encoder, names: list[str], config: LoraConfig, *, seed: int) -> None:
    try:
        import peft
    except ImportError:
        raise MissingDependencyError("peft", "train") from None
    model = encoder.backbone.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(
            peft.LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha or config.rank,
                lora_dropout=config.dropout,
                target_modules=names,
            ),
            model,
            adapter_name=_NAME,
        )
    assert sorted(adapted_layers(model)) == sorted(names), "peft adapted other layers"
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def _merged(layer: Any) -> Tensor:
    halves = (getattr(layer, f"lora_{half}")[_NAME].weight for half in "BA")
    return _sum(layer.base_layer.weight, *halves, scaling=layer.scaling[_NAME])


@torch.no_grad()
def _sum(weight: Tensor, b: Tensor, a: Tensor, *, scaling: float) -> Tensor:
    return (weight.float() + scaling * (b.float() @ a.float())).to(weight.dtype)


def _tensors(name: str, layer: Any) -> dict[str, Tensor]:
    """The two matrices of a layer's adapter, under the keys of an adapter file."""
    return {
        f"{_PREFIX}{name}.lora_{half}.weight": getattr(layer, f"lora_{half}")[_NAME].weight
        for half in "AB"
    }


def _shapes(name: str, layer: Any, rank: int) -> list[tuple[str, tuple[int, int]]]:
    return [
        (f"{_PREFIX}{name}.lora_A.weight", (rank, layer.in_features)),
        (f"{_PREFIX}{name}.lora_B.weight", (layer.out_features, rank)),
    ]


def _linear_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def _fitting(names: Iterable[str], target: str) -> list[str]:
    return [name for name in names if f".{name}".endswith(f".{target}")]


def _first(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) or "none") + more
