"""What callers may pass to `Embedder`, checked before any work is done."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from mmembed.encoder.head import PRECISIONS
from mmembed.errors import ConfigError
from mmembed.types import MultimodalInput, Role

__all__ = [
    "ON_ERROR",
    "ROLES",
    "as_list",
    "check_choice",
    "check_count",
    "check_encode",
    "loading_options",
    "resolve_device",
    "resolve_dtype",
]

ON_ERROR = ("raise", "skip", "null")
ROLES: tuple[str, ...] = get_args(Role)
_LOADING = {"inputs", "encoder", "text_errors", "allow_special_tokens"}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def as_list(items: Any) -> tuple[bool, list[Any]]:
    """(was a single item, list of items).

    A list, tuple, generator, 4-D array or array of strings is several items; everything else is
    one, also what is no item at all and will be refused as such.
    """
    if isinstance(items, np.ndarray):
        if (items.dtype.kind in "UO" and items.ndim == 1) or items.ndim == 4:
            return False, list(items)
        return True, [items]
    single = (str, bytes, bytearray, memoryview, Mapping, Path, MultimodalInput, torch.Tensor)
    if isinstance(items, single) or not isinstance(items, Iterable):
        return True, [items]
    return False, list(items)


def check_choice(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Raises ConfigError listing what is allowed."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")


def check_count(name: str, value: Any, *, most: int | None = None) -> None:
    """None, or an integer of at least 1 (and at most `most`), else ConfigError."""
    if value is None:
        return
    is_int = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_int or value < 1 or (most is not None and value > most):
        limit = "1 or more" if most is None else f"1 to {most}"
        raise ConfigError(f"{name} is {value!r}; allowed: {limit}")


def check_encode(
    *,
    role: Any,
    on_error: Any,
    precision: Any,
    normalize: Any,
    on_model: bool,
) -> None:
    """The choices of one `encode` call; `on_model` says whether the model normalises.

    Raises:
        ConfigError: an unknown value, or values that contradict each other.
    """
    check_choice("role", role, ROLES)
    check_choice("on_error", on_error, ON_ERROR)
    check_choice("precision", precision, PRECISIONS)
    if precision == "float32":
        return
    if on_error == "null":
        raise ConfigError(
            f"precision={precision!r} cannot carry the NaN rows of on_error='null'; use 'skip' "
            "or 'raise', or precision='float32'"
        )
    if not (on_model if normalize is None else normalize):
        raise ConfigError(f"precision={precision!r} needs unit vectors; normalize_embeddings=True")


def loading_options(
    device: Any, dtype: Any, num_workers: int | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments of `load_encoder` / `load_reranker` from those of `from_pretrained`.

    Raises:
        ConfigError: an unknown option, or a device, dtype or number that cannot be.
    """
    unknown = sorted(set(options) - _LOADING)
    if unknown:
        raise ConfigError(
            f"unknown option {', '.join(unknown)}; known: {', '.join(sorted(_LOADING))}"
        )
    check_count("num_workers", num_workers)
    device = resolve_device(device)
    return {
        "device": device,
        "dtype": resolve_dtype(dtype, device),
        "num_workers": num_workers or min(8, os.cpu_count() or 1),
        **options,
    }


def resolve_device(device: Any) -> torch.device:
    """The given device, else CUDA when there is one, else the CPU.

    Raises:
        ConfigError: not a device of this machine.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ConfigError(
            f"device is {device!r}; use 'cpu', or 'cuda' where there is one"
        ) from error
    return found


def resolve_dtype(dtype: Any, device: torch.device) -> torch.dtype:
    """The given dtype or its name; default: bfloat16 on CUDA, float32 elsewhere.

    Raises:
        ConfigError: not a floating dtype that models run in.
    """
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    found = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or found not in _DTYPES.values():
        raise ConfigError(f"dtype is {dtype!r}; allowed: {', '.join(_DTYPES)}")
    return found
