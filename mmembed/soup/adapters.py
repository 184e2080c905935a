"""Souping LoRA adapters by their products (RzenEmbed 3.4.5).

An adapter changes a weight by Delta W = s B A, with s = alpha / r. The soup changes it by
sum_k w_k s_k B_k A_k. Averaging the factors apart is something else: mean(B) mean(A) holds the
cross terms B_j A_k. The sum is kept as one adapter by concatenating ranks, where every B_k and A_k
is scaled by sqrt(w_k), or it is added to the base.

Adapters are folders in peft's format: adapter_config.json and adapter_model.safetensors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmembed.encoder.model_files import read_json
from mmembed.errors import CheckpointError
from mmembed.soup.methods import widened
from mmembed.soup.tensors import Layout, TensorFolder, refuse_nonfinite, write_tensors

__all__ = [
    "CONFIG_FILE",
    "Adapter",
    "Factors",
    "concatenate_ranks",
    "mean_of_products",
    "read_adapter",
    "refuse_other_adapters",
    "write_adapter",
    "write_merged",
]

CONFIG_FILE = "adapter_config.json"
_WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
# Wrappers that a checkpoint's names have or lack, depending on the class that saved it.
_WRAPPERS = {"base_model", "model", "language_model"}
_UNSUPPORTED = {
    "use_dora": "a magnitude vector, which has no sum of products",
    "lora_bias": "biases of its own",
    "modules_to_save": "whole modules beside the factors",
    "trainable_token_indices": "token rows beside the factors",
    "fan_in_fan_out": "transposed weights",
    "layer_replication": "replicated layers",
}
# Initialisations that take a part out of the base, so that the base is no longer the common one.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq")

Factors = tuple[Tensor, Tensor]  # A (r, in) and B (out, r)


def mean_of_products(
    factors: Sequence[Factors], scalings: Sequence[float], weights: Sequence[float]
) -> Tensor:
    """sum_k w_k s_k B_k A_k, (out, in), at least float32."""
    total: Tensor | None = None
    for (a, b), scaling, weight in zip(factors, scalings, weights, strict=True):
        product = (widened(b) @ widened(a)).mul_(weight * scaling)
        total = product if total is None else total.add_(product)
    assert total is not None, "the mean of no products"
    return total


def concatenate_ranks(
    factors: Sequence[Factors],
    scalings: Sequence[float],
    weights: Sequence[float],
    *,
    scaling: float,
) -> Factors:
    """A (sum r, in) and B (out, sum r) with scaling * B @ A = `mean_of_products`.

    Each pair is multiplied by sqrt(w_k s_k / scaling) on both sides, which is sqrt(w_k) when all
    scalings agree.
    """
    roots = [math.sqrt(w * s / scaling) for s, w in zip(scalings, weights, strict=True)]
    a = torch.cat([widened(a) * root for (a, _), root in zip(factors, roots, strict=True)], dim=0)
    b = torch.cat([widened(b) * root for (_, b), root in zip(factors, roots, strict=True)], dim=1)
    return a, b


class Adapter:
    """The factors of one adapter folder, read when asked.

    Attributes:
        modules: the adapted modules, named as in the base, without peft's prefix.
    """

    def __init__(self, folder: Path, config: dict[str, Any], tensors: TensorFolder) -> None:
        self.folder = folder
        self.config = config
        self.tensors = tensors
        self._keys: dict[str, dict[str, str]] = {}
        for key, (_, shape) in tensors.layouts.items():
            match = _FACTOR.fullmatch(key)
            if match is None or len(shape) != 2:
                raise CheckpointError(
                    f"{folder}: {key} {shape} is not a factor of a linear layer; only plain LoRA "
                    "of linear layers can be souped"
                )
            self._keys.setdefault(match[1].removeprefix(_PREFIX), {})[match[2]] = key
        for module, keys in self._keys.items():
            if keys.keys() != {"A", "B"}:
                raise CheckpointError(f"{folder}: {module} has lora_{'/'.join(keys)} only")
            (_, (rank, _)), (_, (_, columns)) = (self.layout(module, side) for side in "AB")
            if rank != columns:
                raise CheckpointError(f"{folder}: {module} has rank {rank} in A, {columns} in B")
        self.modules = list(self._keys)

    def layout(self, module: str, side: str) -> Layout:
        return self.tensors.layouts[self._keys[module][side]]

    def key(self, module: str, side: str) -> str:
        """The name of a factor in the file."""
        return self._keys[module][side]

    def rank(self, module: str) -> int:
        return self.layout(module, "A")[1][0]

    def scaling(self, module: str) -> float:
        """alpha / r, or alpha / sqrt(r) of rank-stabilised LoRA (arXiv 2312.03732)."""
        alpha, rank = self.config["lora_alpha"], self.rank(module)
        for pattern, value in (self.config.get("alpha_pattern") or {}).items():
            if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module):
                alpha = value
                break
        return float(alpha) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def factors(self, module: str) -> Factors:
        a, b = (self._keys[module][side] for side in "AB")
        return (
            refuse_nonfinite(self.tensors.read(a), self.folder, a),
            refuse_nonfinite(self.tensors.read(b), self.folder, b),
        )


def read_adapter(folder: Path) -> Adapter:
    """An adapter folder.

    Raises:
        CheckpointError: not an adapter, or of a kind whose change of the base is not s B A.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not an adapter: it has no {CONFIG_FILE}. Whole models are souped with "
            "the methods linear, slerp, greedy and cocktail"
        )
    config = read_json(path)
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{path}: peft_type is {config.get('peft_type')!r}; allowed: 'LORA'")
    for name, what in _UNSUPPORTED.items():
        if config.get(name):
            raise CheckpointError(f"{path}: {name} is {config[name]!r}; it means {what}")
    if config.get("bias", "none") != "none":
        raise CheckpointError(f"{path}: bias is {config['bias']!r}; allowed: 'none'")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(_CHANGES_BASE):
        raise CheckpointError(
            f"{path}: init_lora_weights is {start!r}, which changes the base; convert the adapter "
            "to plain LoRA first"
        )
    alpha = config.get("lora_alpha")
    if not isinstance(alpha, int | float) or not alpha > 0:
        raise CheckpointError(f"{path}: lora_alpha is {alpha!r}; it must be a positive number")
    return Adapter(folder, config, TensorFolder(folder, _WEIGHTS_FILE))


def refuse_other_adapters(adapters: Sequence[Adapter]) -> None:
    """Raises CheckpointError unless all adapt the same modules of the same base."""
    first = adapters[0]
    for other in adapters[1:]:
        for name in ("base_model_name_or_path", "revision"):
            ours, theirs = first.config.get(name), other.config.get(name)
            if ours != theirs:
                raise CheckpointError(
                    f"{other.folder} does not fit {first.folder}: {name} is {theirs!r} there, "
                    f"{ours!r} in {first.folder.name}"
                )
        missing = sorted(set(first.modules) - set(other.modules))
        added = sorted(set(other.modules) - set(first.modules))
        if missing or added:
            raise CheckpointError(
                f"{other.folder} does not fit {first.folder}: it lacks {missing[:3]} and adds "
                f"{added[:3]}"
            )
        for module in first.modules:
            for side, axis in (("A", 1), ("B", 0)):
                (dtype, shape), (other_dtype, other_shape) = (
                    adapter.layout(module, side) for adapter in (first, other)
                )
                if (dtype, shape[axis]) != (other_dtype, other_shape[axis]):
                    raise CheckpointError(
                        f"{other.folder}: {other.key(module, side)} is {other_dtype} "
                        f"{other_shape}, in {first.folder} it is {dtype} {shape}"
                    )


def write_adapter(
    folder: Path,
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    advance: Callable[[int], None],
) -> None:
    """Write the soup as one adapter; its rank is the sum of the members' ranks."""
    first = adapters[0]
    ranks = {module: sum(each.rank(module) for each in adapters) for module in first.modules}
    scalings = {module: first.scaling(module) for module in first.modules}
    layouts: dict[str, Layout] = {}
    owner = {}
    for module, rank in ranks.items():
        for side in "AB":
            dtype, shape = first.layout(module, side)
            wide = (rank, shape[1]) if side == "A" else (shape[0], rank)
            layouts[first.key(module, side)] = dtype, wide
            owner[first.key(module, side)] = module, side

    def make(key: str) -> Tensor:
        module, side = owner[key]
        made = concatenate_ranks(
            [adapter.factors(module) for adapter in adapters],
            [adapter.scaling(module) for adapter in adapters],
            weights,
            scaling=scalings[module],
        )
        advance(1)
        return made["AB".index(side)]

    write_tensors(folder / _WEIGHTS_FILE, layouts, make)
    alphas = {module: _tidy(scalings[module] * rank) for module, rank in ranks.items()}
    rank, alpha = ranks[first.modules[0]], alphas[first.modules[0]]
    config = {
        **first.config,
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": False,
        "init_lora_weights": True,
        "rank_pattern": _exceptions(ranks, rank),
        "alpha_pattern": _exceptions(alphas, alpha),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_merged(
    folder: Path,
    base: TensorFolder,
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    advance: Callable[[int], None],
) -> None:
    """Write the weights of `base` with the soup added; rounded once, to the base's dtype.

    Raises:
        CheckpointError: a module that the base does not have, or has in another shape.
    """
    targets = _targets(base, adapters[0])

    def make(key: str) -> Tensor:
        tensor = refuse_nonfinite(base.read(key), base.folder, key)
        module = targets.get(key)
        if module is not None:
            change = mean_of_products(
                [adapter.factors(module) for adapter in adapters],
                [adapter.scaling(module) for adapter in adapters],
                weights,
            )
            tensor = change.add_(tensor).to(tensor.dtype)
        advance(1)
        return tensor

    for name, keys in base.files.items():
        write_tensors(folder / name, {key: base.layouts[key] for key in keys}, make)


def _targets(base: TensorFolder, adapter: Adapter) -> dict[str, str]:
    """Tensor of the base -> adapted module. Names are compared without wrappers."""
    found: dict[str, list[str]] = {}
    for key in base.layouts:
        found.setdefault(_plain(key), []).append(key)
    targets = {}
    for module in adapter.modules:
        keys = found.get(_plain(module + ".weight"), [])
        if len(keys) != 1:
            raise CheckpointError(
                f"{adapter.folder} adapts {module}, of which {base.folder} has {len(keys)} "
                "weights; give the model that the adapters were trained on"
            )
        shape = (adapter.layout(module, "B")[1][0], adapter.layout(module, "A")[1][1])
        if base.layouts[keys[0]][1] != shape:
            raise CheckpointError(
                f"{adapter.folder} changes {module} of shape {shape}; in {base.folder} it is "
                f"{base.layouts[keys[0]][1]}"
            )
        targets[keys[0]] = module
    return targets


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _exceptions(values: Mapping[str, Any], usual: Any) -> dict[str, Any]:
    """As peft reads them: regular expressions, here of one whole module name each."""
    return {f"^{re.escape(name)}": value for name, value in values.items() if value != usual}


def _tidy(value: float) -> int | float:
    return round(value) if math.isclose(value, round(value), rel_tol=1e-12) else value
