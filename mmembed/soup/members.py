"""Which models may be souped together: those that differ in nothing but their weights.

Members that read an item differently (architecture, tokenizer, prompt, budgets, positions) or turn
it into a vector differently (attention, pooling, head) are refused, naming the field and both
values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from mmembed.encoder.checkpoint import load_extra_tensors, read_description
from mmembed.encoder.model_files import read_json
from mmembed.errors import CheckpointError
from mmembed.soup.methods import mean, normalised
from mmembed.soup.tensors import TensorFolder, refuse_nonfinite

__all__ = [
    "extra_tensors",
    "fingerprint_of",
    "refuse_other_settings",
    "refuse_other_tensors",
    "short_names",
]

_IDLE_CONFIG_KEYS = ("_name_or_path", "transformers_version")
_VALUE_WIDTH = 60


def refuse_other_settings(first: Path, other: Path, sections: Sequence[str] = ()) -> None:
    """Compare two folders; `sections` limits the comparison.

    Raises:
        CheckpointError: naming the first field that differs.
    """
    for name in sections or _COMPARED:
        left, right = _COMPARED[name](first), _COMPARED[name](other)
        for key, ours, theirs in _differences(left, right):
            raise CheckpointError(
                f"{other} does not fit {first}: {name} differs in {key!r} "
                f"({_shown(theirs)} there, {_shown(ours)} in {first.name})"
            )


def refuse_other_tensors(members: Sequence[TensorFolder]) -> None:
    """Raises CheckpointError unless all have the same names, shapes and dtypes."""
    first = members[0]
    for member in members[1:]:
        missing = sorted(first.layouts.keys() - member.layouts.keys())
        added = sorted(member.layouts.keys() - first.layouts.keys())
        if missing or added:
            raise CheckpointError(
                f"{member.folder} does not fit {first.folder}: it lacks {missing[:3]} and adds "
                f"{added[:3]}"
            )
        for name, layout in first.layouts.items():
            if member.layouts[name] != layout:
                raise CheckpointError(
                    f"{member.folder}: {name} is {member.layouts[name]}, in {first.folder} it is "
                    f"{layout}"
                )


def extra_tensors(folders: Sequence[Path], shares: Sequence[float]) -> dict[str, Tensor]:
    """The means of what lies beside the models: learnt temperatures, quantiser steps.

    Always the arithmetic mean, whatever the method: these are parameters of the loss and not
    directions. A temperature is stored as theta = log(tau), so tau gets the geometric mean.
    Members of different mixtures learn temperatures of different tasks; each is averaged over the
    members that have it.
    """
    found = [_extra(folder) for folder in folders]
    means: dict[str, Tensor] = {}
    for name in sorted({name for tensors in found for name in tensors}):
        holders = [n for n, tensors in enumerate(found) if name in tensors and shares[n] > 0]
        if not holders:
            continue
        parts = [refuse_nonfinite(found[n][name], folders[n], name) for n in holders]
        for n, part in zip(holders, parts, strict=True):
            if (part.shape, part.dtype) != (parts[0].shape, parts[0].dtype):
                raise CheckpointError(
                    f"{folders[n]}: {name} is {part.dtype} {tuple(part.shape)}, in "
                    f"{folders[holders[0]]} it is {parts[0].dtype} {tuple(parts[0].shape)}"
                )
        weights = normalised([shares[n] for n in holders], len(holders))
        means[name] = mean(parts, weights).to(parts[0].dtype)
    return means


def fingerprint_of(folder: Path) -> str:
    """The embedding space of a model folder; for other folders a hash of their weights."""
    known = read_description(folder).get("fingerprint")
    if known:
        return str(known)
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(path.name.encode() + b"\0")
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def short_names(folders: Sequence[Path]) -> list[str]:
    """As much of the end of each path as tells different folders apart."""
    parts = [folder.absolute().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def _extra(folder: Path) -> dict[str, Tensor]:
    try:
        tensors = load_extra_tensors(folder)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder}: extra tensors cannot be read: {error}") from None
    for name, tensor in tensors.items():
        if not tensor.dtype.is_floating_point or tensor.dtype.itemsize < torch.float16.itemsize:
            raise CheckpointError(f"{folder}: {name} is {tensor.dtype}, which has no mean")
    return tensors


def _architecture(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no readable config.json; it is not a model folder")
    return {key: value for key, value in read_json(path).items() if key not in _IDLE_CONFIG_KEYS}


def _tokenizer(folder: Path) -> dict[str, Any]:
    names = ("tokenizer.json", "vocab.json", "merges.txt")
    files = [folder / name for name in names if (folder / name).is_file()]
    if files and files[0].name == names[0]:
        files = files[:1]  # the others repeat it
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _section(name: str) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: dict(read_description(folder).get(name) or {})


_COMPARED: dict[str, Callable[[Path], dict[str, Any]]] = {
    "the architecture": _architecture,
    "the tokenizer": _tokenizer,
    "the input settings": _section("inputs"),
    "the encoder settings": _section("encoder"),
}


def _differences(left: Any, right: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, left value, right value) of every leaf that differs."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        for key in sorted(left.keys() | right.keys()):
            inner = f"{path}.{key}" if path else str(key)
            yield from _differences(left.get(key), right.get(key), inner)
    elif left != right:
        yield path, left, right


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _VALUE_WIDTH else text[: _VALUE_WIDTH - 3] + "..."
