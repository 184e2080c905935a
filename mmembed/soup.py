"""Model soup: one model whose weights are the mean of its members' (RzenEmbed 3.4.5).

Members are model folders of one architecture, tokenizer, prompt and pooling, e.g. the last stage
trained with several seeds or mixtures. Tensors are read, averaged in float32 and written one at a
time, so memory holds one tensor and not one model. Learnt temperatures are averaged as theta, that
is as a geometric mean of tau.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import struct
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmembed.encoder.checkpoint import DESCRIPTION_FILE, read_description, write_description
from mmembed.encoder.encoder import EncoderConfig
from mmembed.errors import CheckpointError, ConfigError
from mmembed.inputs.processor import InputConfig

__all__ = ["soup"]

# Of a training run and not of a model; the soup is not a point of any run.
_LEFT_OUT = {"manifest.json", "training_state.json", "training"}
_IDLE_CONFIG_KEYS = ("_name_or_path", "transformers_version")
_DTYPE_NAMES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def soup(
    checkpoints: Sequence[str | Path],
    *,
    output: str | Path,
    method: str = "linear",
    weights: Sequence[float] | None = None,
) -> Path:
    """Write the weighted mean of model folders as a model folder.

    Args:
        weights: one for each checkpoint, normalised to sum 1; uniform if None.
        output: must not exist, or be a model folder that will be replaced.

    Raises:
        ConfigError: no checkpoints, an unknown method, or unusable weights.
        CheckpointError: members that do not fit together, naming the tensor or setting, or a
            tensor with NaN or infinity.
    """
    folders = [Path(checkpoint) for checkpoint in checkpoints]
    output = Path(output)
    if method != "linear":
        raise ConfigError(f"soup method {method!r} is unknown; methods: linear")
    shares = _normalised(weights, len(folders))
    for folder in folders:
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is not a model folder")
        if output.resolve() == folder.resolve():
            raise ConfigError(f"output {output} is one of the members; choose another folder")
    for folder in folders[1:]:
        _refuse_other_settings(folders[0], folder)
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f".{output.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        shutil.copytree(
            folders[0],
            aside,
            ignore=lambda _, names: [
                name for name in names if name in _LEFT_OUT or name.endswith(".safetensors")
            ],
        )
        with contextlib.ExitStack() as stack:
            members = [stack.enter_context(_Tensors(folder)) for folder in folders]
            _refuse_other_tensors(members)
            for name in members[0].files:
                _write_file(aside / name, members, name, shares)
        _describe(aside, folders, method, shares)
        _sync(aside)
        if output.exists():
            if not (output / DESCRIPTION_FILE).is_file():
                raise CheckpointError(f"{output} exists and is not a model folder; choose another")
            shutil.rmtree(output)
        aside.rename(output)
    finally:
        if aside.exists():
            shutil.rmtree(aside)
    return output


def _normalised(weights: Sequence[float] | None, count: int) -> list[float]:
    if count == 0:
        raise ConfigError("a soup needs at least one checkpoint")
    chosen = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(chosen) != count:
        raise ConfigError(f"{len(chosen)} weights for {count} checkpoints; give one each")
    total = sum(chosen)
    if not all(0 <= weight < float("inf") for weight in chosen) or total <= 0:
        raise ConfigError(f"weights {chosen} must be finite, >= 0 and not all 0")
    return [weight / total for weight in chosen]


# -- tensors ----------------------------------------------------------------------------------


class _Tensors:
    """The safetensors files of a folder, opened lazily and read tensor by tensor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, list[str]] = {}
        self._home: dict[str, Any] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Tensors:
        paths = sorted(self.folder.glob("*.safetensors"))
        if not paths:
            raise CheckpointError(f"{self.folder} holds no .safetensors file")
        for path in paths:
            try:
                file = self._stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path} cannot be read: {error}") from None
            self.files[path.name] = list(file.keys())
            self._home.update(dict.fromkeys(file.keys(), file))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def names(self) -> set[str]:
        return set(self._home)

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self._home[name].get_tensor(name)
        return tensor

    def layout(self, name: str) -> tuple[str, tuple[int, ...]]:
        """dtype and shape, without reading the tensor."""
        part = self._home[name].get_slice(name)
        return part.get_dtype(), tuple(part.get_shape())


def _refuse_other_tensors(members: Sequence[_Tensors]) -> None:
    first = members[0]
    for member in members[1:]:
        missing = sorted(first.names() - member.names())
        added = sorted(member.names() - first.names())
        if missing or added:
            raise CheckpointError(
                f"{member.folder} does not fit {first.folder}: it lacks {missing[:3]} and adds "
                f"{added[:3]}"
            )
        for name in sorted(first.names()):
            if member.layout(name) != first.layout(name):
                raise CheckpointError(
                    f"{member.folder}: {name} is {member.layout(name)}, in {first.folder} it is "
                    f"{first.layout(name)}"
                )


def _mean(members: Sequence[_Tensors], name: str, shares: Sequence[float]) -> Tensor:
    total: Tensor | None = None
    dtype = torch.float32
    for member, share in zip(members, shares, strict=True):
        tensor = member.read(name)
        dtype = tensor.dtype
        if not dtype.is_floating_point:
            if total is not None and not torch.equal(total, tensor):
                raise CheckpointError(
                    f"{member.folder}: {name} holds integers that differ from those of "
                    f"{members[0].folder}; they have no mean"
                )
            total = tensor
            continue
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{member.folder}: {name} has NaN or infinite values")
        wide = tensor.to(torch.promote_types(dtype, torch.float32)) * share
        total = wide if total is None else total.add_(wide)
    assert total is not None
    return total.to(dtype)


def _write_file(
    path: Path, members: Sequence[_Tensors], name: str, shares: Sequence[float]
) -> None:
    """Write one safetensors file tensor by tensor.

    The format (https://github.com/huggingface/safetensors#format): 8 bytes little-endian length
    of a JSON header, the header, then the tensors' bytes at the offsets it gives.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    keys = members[0].files[name]
    for key in keys:
        dtype, shape = members[0].layout(key)
        size = _numel(shape) * _element_size(dtype)
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    payload = json.dumps(header, separators=(",", ":")).encode()
    payload += b" " * (-len(payload) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(payload)) + payload)
        for key in keys:
            tensor = _mean(members, key, shares).contiguous()
            assert _DTYPE_NAMES[tensor.dtype] == header[key]["dtype"]
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())


def _numel(shape: Sequence[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _element_size(dtype: str) -> int:
    for known, name in _DTYPE_NAMES.items():
        if name == dtype:
            return known.itemsize
    raise CheckpointError(
        f"tensors of type {dtype} cannot be averaged; known: {', '.join(_DTYPE_NAMES.values())}"
    )


# -- settings ---------------------------------------------------------------------------------


def _refuse_other_settings(first: Path, other: Path) -> None:
    """Refuse members that would embed the same item differently, naming what differs."""
    for name, read in _COMPARED.items():
        left, right = read(first), read(other)
        for key in sorted(left.keys() | right.keys()):
            if left.get(key) != right.get(key):
                raise CheckpointError(
                    f"{other} does not fit {first}: {name} differs in {key!r} "
                    f"({_short(right.get(key))} and {_short(left.get(key))})"
                )


def _architecture(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} has no readable config.json ({type(error).__name__})"
        ) from None
    return {key: value for key, value in config.items() if key not in _IDLE_CONFIG_KEYS}


def _tokenizer(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer.json"
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None}


def _section(name: str) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: dict(read_description(folder).get(name) or {})


_COMPARED: dict[str, Callable[[Path], dict[str, Any]]] = {
    "the architecture": _architecture,
    "the tokenizer": _tokenizer,
    "the input settings": _section("inputs"),
    "the encoder settings": _section("encoder"),
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _describe(folder: Path, members: Sequence[Path], method: str, shares: Sequence[float]) -> None:
    description = read_description(folder)
    if not description:
        return  # members are plain Hugging Face folders, so is their soup
    write_description(
        folder,
        InputConfig(**description["inputs"]),
        EncoderConfig(**description.get("encoder", {})),
        embedding_dimension=description["embedding_dimension"],
        recipe=description.get("recipe"),
        soup={
            "method": method,
            "members": [
                {"fingerprint": read_description(member).get("fingerprint"), "weight": share}
                for member, share in zip(members, shares, strict=True)
            ],
        },
    )


def _sync(folder: Path) -> None:
    for path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
