"""Any folder of sentence-transformers, run by its own library, as an encoder of items.

Texts always; pictures and pages, alone or with a text, where the model says that it takes them.
Several texts of an item are joined by a blank. An instruction is the library's `prompt`; one that
goes in front of the text (not into a system message) has a blank behind it. Without an instruction
the folder's own prompt for the role is used, if it has one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch.nn.functional import normalize

from mmembed.baselines.distinct_items import check_rows, distinct_items, raise_all
from mmembed.encoder.identity import package_versions
from mmembed.encoder.options import loading_options
from mmembed.errors import CheckpointError, InputError, MissingDependencyError
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.store.content import hash_file
from mmembed.types import Image, MultimodalInput, Page, Role, Text, Video

__all__ = ["SentenceTransformersModel"]

_PICKLED = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})
_PAGE_PIXELS = 1 << 20
_ITEMS_PER_BLOCK = 256  # of which the pictures are in memory together
_BATCH_SIZE = 32  # the library's default


class SentenceTransformersModel:
    """See `ItemEncoder`.

    Raises:
        CheckpointError: no folder, weights that are no safetensors, or a model that the library
            would only load by running code from the folder.
        MissingDependencyError: sentence-transformers is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str | None = None,
        dtype: str | None = None,
        num_workers: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        _check_folder(self.folder)
        options = loading_options(device, dtype, num_workers, {})
        self.dtype: torch.dtype = options["dtype"]
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise MissingDependencyError("sentence-transformers", "evaluation") from None
        try:
            self.model: Any = SentenceTransformer(
                str(folder),
                device=str(options["device"]),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": self.dtype, "use_safetensors": True},
            ).eval()
        except (OSError, RuntimeError, ValueError, TypeError, KeyError, ImportError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise CheckpointError(
                f"sentence-transformers cannot load {folder}: {lines[0][:300]}"
            ) from error
        self.name = f"sentence-transformers:{folder}"
        self.decoder = MediaDecoder(num_workers=options["num_workers"])
        self._has_pictures = self.model.supports("image")
        self._has_mixes = self.model.supports(("image", "text"))

    @cached_property
    def embedding_dimension(self) -> int:
        return int(self.model.get_embedding_dimension())

    @cached_property
    def space(self) -> str:
        files = {
            path.relative_to(self.folder).as_posix(): hash_file(path)
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.suffix != ".md"
        }
        versions = [version(name) for name in ("sentence-transformers", "transformers", "torch")]
        fields = [
            "sentence-transformers 1",
            files,
            str(self.dtype),
            self.model.device.type,
            versions,
        ]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def encode(
        self,
        items: Sequence[MultimodalInput],
        *,
        role: Role,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        groups = distinct_items(items)
        refused = [(self._refused(item), places[0]) for item, places in groups]
        raise_all([self._refusal(place, found) for found, place in refused if found])
        rows = np.empty((len(items), self.embedding_dimension), dtype=np.float32)
        # one kind and one prompt at a time: the library treats a mixed batch differently
        kinds: dict[tuple[Any, ...], list[tuple[MultimodalInput, list[int]]]] = {}
        for item, places in groups:
            kinds.setdefault((item.instruction, _kind(item)), []).append((item, places))
        for (instruction, _), members in kinds.items():
            for begin in range(0, len(members), _ITEMS_PER_BLOCK):
                block = members[begin : begin + _ITEMS_PER_BLOCK]
                found = self._block(block, instruction, role, bool(show_progress_bar))
                for (_, places), row in zip(block, found, strict=True):
                    rows[places] = row
        return check_rows(rows)

    def _block(
        self,
        block: Sequence[tuple[MultimodalInput, list[int]]],
        instruction: str | None,
        role: Role,
        show: bool,
    ) -> np.ndarray:
        """(N, D) unit rows of items of one kind with one instruction."""
        if instruction and not instruction[-1].isspace() and not self.model.supports("message"):
            instruction += " "
        encode = self.model.encode_query if role == "query" else self.model.encode_document
        found = encode(
            self._values(block),
            prompt=instruction,
            batch_size=_BATCH_SIZE,
            show_progress_bar=show,
            convert_to_tensor=True,
        )
        rows: np.ndarray = normalize(found.float(), dim=-1).cpu().numpy()
        return rows

    def _values(self, block: Sequence[tuple[MultimodalInput, list[int]]]) -> list[Any]:
        """What the library is given for each item: a string, or a dict of its modalities."""
        media = [
            (place, part)
            for item, (place, *_) in block
            for part in item.parts
            if not isinstance(part, Text)
        ]
        budget = MediaBudget(1, _PAGE_PIXELS, factor=1)
        decoded = self.decoder.decode_many([part for _, part in media], [budget] * len(media))
        errors, pictures = [], []
        for (place, _), outcome in zip(media, decoded, strict=True):
            if isinstance(outcome, InputError):
                errors.append(outcome.at(place))
            elif len(outcome.frames) > 1:
                errors.append(self._refusal(place, f"{len(outcome.frames)} pages"))
            else:
                pictures.append(PILImage.fromarray(outcome.frames[0]))
        raise_all(errors)
        shown = iter(pictures)
        values: list[Any] = []
        for item, _ in block:
            value: dict[str, Any] = {}
            if "picture" in _kind(item):
                value["image"] = next(shown)
            if "text" in _kind(item):
                value["text"] = " ".join(p.text for p in item.parts if isinstance(p, Text))
            # a model of texts only takes strings. Of one with pictures a string that looks like a
            # path or address would be opened; a dict says what it is
            values.append(value if self._has_pictures else value["text"])
        return values

    def _refused(self, item: MultimodalInput) -> str:
        """What of the item this model does not take; empty for nothing."""
        pictures = [part for part in item.parts if isinstance(part, Image | Page)]
        has_text = "text" in _kind(item)
        if any(isinstance(part, Video) for part in item.parts):
            return "a video"
        if len(pictures) > 1:
            return f"{len(pictures)} pictures"
        if pictures and not (self._has_mixes if has_text else self._has_pictures):
            return "a picture with a text" if has_text else "a picture"
        return ""

    def _refusal(self, place: int, found: str) -> InputError:
        taken = ["texts"]
        taken += ["one picture or page"] if self._has_pictures else []
        taken += ["a picture with a text"] if self._has_mixes else []
        return InputError(
            "invalid_type",
            f"this model takes {', '.join(taken)}; the item has {found}",
            index=place,
        )

    def describe(self) -> Mapping[str, Any]:
        return {
            "kind": "sentence-transformers",
            "space": self.space,
            "modalities": [
                one if isinstance(one, str) else "+".join(one) for one in self.model.modalities
            ],
            "prompts": dict(self.model.prompts),
            "dtype": str(self.dtype).removeprefix("torch."),
            "max_tokens": self.model.max_seq_length,
            "embedding_dimension": self.embedding_dimension,
            "device": str(self.model.device),
            "versions": {
                **package_versions(),
                "sentence-transformers": version("sentence-transformers"),
            },
        }

    def close(self) -> None:
        self.decoder.close()


def _kind(item: MultimodalInput) -> tuple[str, ...]:
    return tuple(sorted({"text" if isinstance(p, Text) else "picture" for p in item.parts}))


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give one of sentence-transformers")
    for path in sorted(folder.rglob("*")):
        if path.suffix in _PICKLED and not any(path.parent.glob("*.safetensors")):
            raise CheckpointError(
                f"{path} could run code when it is opened, and no safetensors file stands beside "
                "it; convert the model to safetensors"
            )
