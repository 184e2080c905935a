"""The model behind a component of a framework: by name until it is needed, then loaded once.

Between `Embedder` and the adapters beside this module. Components are written to files and copied
between processes by their frameworks; what is written is the name, never weights.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmembed.encoder.embedder import Embedder
from mmembed.errors import ConfigError, SpaceMismatchError
from mmembed.types import Role

__all__ = ["SharedModel"]

_loading = threading.Lock()
_loaded: weakref.WeakValueDictionary[str, Embedder] = weakref.WeakValueDictionary()


class SharedModel:
    """A loaded `Embedder`, or a folder or hub id that is loaded when it is first used.

    Components that name the same model with the same options share one in memory, until the
    folder holds another.

    Args:
        options: further arguments of `Embedder.from_pretrained`.
        fingerprint: what `Embedder.fingerprint` must be; None: anything.
    """

    def __init__(
        self,
        model: Embedder | str | Path,
        *,
        options: Mapping[str, Any] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self.options = dict(options or {})
        self.fingerprint = fingerprint
        self._embedder: Embedder | None = None
        if isinstance(model, str | Path):
            self.name = str(model)
            return
        if not isinstance(model, Embedder):
            raise ConfigError(
                f"model is a {type(model).__name__}; allowed: an Embedder, a folder or a hub id"
            )
        if self.options:
            raise ConfigError("options are for a model by name; this Embedder is loaded already")
        self.name = "" if model.folder is None else str(model.folder)
        self._embedder = self._of_space(model)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.description(),)

    @property
    def is_loaded(self) -> bool:
        return self._embedder is not None

    @property
    def embedder(self) -> Embedder:
        """The model, loaded now if it was not.

        Raises:
            CheckpointError, ConfigError: as `Embedder.from_pretrained`.
            SpaceMismatchError: another model than `fingerprint` says.
        """
        if self._embedder is None:
            with _loading:
                key = json.dumps(
                    [self.name, _state(Path(self.name)), self.options], sort_keys=True, default=repr
                )
                embedder = _loaded.get(key)
                if embedder is None:
                    embedder = Embedder.from_pretrained(self.name, **self.options)
                    _loaded[key] = embedder
            self._embedder = self._of_space(embedder)
        return self._embedder

    def _of_space(self, embedder: Embedder) -> Embedder:
        if self.fingerprint is not None and embedder.fingerprint != self.fingerprint:
            raise SpaceMismatchError(
                f"{self.name} gives vectors of the space {embedder.fingerprint[:12]}, but "
                f"{self.fingerprint[:12]} was asked for; load that model, or encode everything "
                "again with this one"
            )
        return embedder

    def description(self) -> dict[str, Any]:
        """Arguments that make this model again, as JSON values.

        A model that was passed in loaded is described by its folder and its fingerprint, so that
        one loaded again without its options is used only where that gives the same vectors.

        Raises:
            ConfigError: the model has no folder, or an option is no JSON value.
        """
        if not self.name:
            raise ConfigError("this model is in no folder; save it first, then give the folder")
        try:
            options = json.loads(json.dumps(self.options))
        except TypeError as error:
            raise ConfigError(f"options cannot be written to a file: {error}") from None
        fingerprint = self.fingerprint
        if fingerprint is None and self._embedder is not None and not self.options:
            fingerprint = self._embedder.fingerprint
        return {"model": self.name, "options": options, "fingerprint": fingerprint}

    def encode(
        self,
        items: Sequence[Any],
        *,
        role: Role,
        instruction: str | None = None,
        truncate_dim: int | None = None,
    ) -> list[list[float]]:
        """The vector of each item as the numbers of `Embedder.encode`, which float64 holds."""
        if not items:
            return []
        vectors = self.embedder.encode(
            list(items),
            role=role,
            instruction=instruction,
            truncate_dim=truncate_dim,
            show_progress_bar=False,
        )
        return vectors.tolist()


def _state(folder: Path) -> list[tuple[str, int, int]]:
    """Changes when the folder is written again; of a hub id nothing."""
    if not folder.is_dir():
        return []
    told = ((path.name, path.stat()) for path in folder.iterdir())
    return sorted((name, status.st_size, status.st_mtime_ns) for name, status in told)


def _restored(description: dict[str, Any]) -> SharedModel:
    return SharedModel(**description)
