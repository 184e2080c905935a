"""Safetensors files, read and written one tensor at a time.

Under every method of souping: memory holds a tensor of each member at most, never a model.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmembed.encoder.identity import EXTRA_TENSORS_FILE
from mmembed.errors import CheckpointError

__all__ = ["Layout", "TensorFolder", "refuse_nonfinite", "write_tensors"]

Layout = tuple[str, tuple[int, ...]]  # dtype in the words of safetensors, and shape

_DTYPES = {
    "F32": torch.float32,
    "F64": torch.float64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class TensorFolder:
    """The weights of a folder: names and layouts now, values when asked.

    Attributes:
        files: the names in each file.
        layouts: dtype and shape of each tensor.

    Raises:
        CheckpointError: no safetensors file, or one that cannot be read.
    """

    def __init__(self, folder: Path, pattern: str = "*.safetensors") -> None:
        self.folder = folder
        self.files: dict[str, list[str]] = {}
        self.layouts: dict[str, Layout] = {}
        self._home: dict[str, Path] = {}
        for path in sorted(folder.glob(pattern)):
            if path.name == EXTRA_TENSORS_FILE:
                continue
            with _opened(path) as file:
                names = list(file.keys())
                for name in names:
                    part = file.get_slice(name)
                    self.layouts[name] = part.get_dtype(), tuple(part.get_shape())
            self.files[path.name] = names
            self._home.update(dict.fromkeys(names, path))
        if not self.files:
            raise CheckpointError(
                f"{folder} holds no {pattern.replace('*', '')} file; weights in other formats are "
                "not read, save the model as safetensors"
            )

    def is_floating(self, name: str) -> bool:
        dtype = _DTYPES.get(self.layouts[name][0])
        return dtype is not None and dtype.is_floating_point

    def read(self, name: str) -> Tensor:
        """One tensor.

        The file is mapped for this tensor alone. A mapping that stays open would keep every page
        that was ever read in memory: in the end the whole model.
        """
        with _opened(self._home[name]) as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def write_tensors(path: Path, layouts: Mapping[str, Layout], make: Callable[[str], Tensor]) -> None:
    """Write a safetensors file, asking `make` for one tensor after the other.

    The format (https://github.com/huggingface/safetensors#format): 8 bytes little-endian length
    of a JSON header, the header, then the tensors' bytes at the offsets it gives.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape) in layouts.items():
        if dtype not in _DTYPES:
            raise CheckpointError(
                f"{name} is of type {dtype}, which has no mean; known: {', '.join(_DTYPES)}"
            )
        size = math.prod(shape) * _DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    payload = json.dumps(header, separators=(",", ":")).encode()
    payload += b" " * (-len(payload) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(payload)) + payload)
        for name, (dtype, shape) in layouts.items():
            tensor = make(name).to(_DTYPES[dtype]).contiguous()
            assert tensor.shape == shape, (name, tensor.shape, shape)
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def refuse_nonfinite(tensor: Tensor, folder: Path, name: str) -> Tensor:
    """The tensor itself. Raises CheckpointError when it has NaN or infinity."""
    if tensor.dtype.is_floating_point and not torch.isfinite(tensor).all():
        raise CheckpointError(f"{folder}: {name} has NaN or infinite values")
    return tensor
