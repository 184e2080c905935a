"""A tiny encoder that counts, no network, and mteb's caches in a folder of the test."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed.baselines.our_model import OurModel
from mmembed.encoder.embedder import Embedder
from mmembed.types import MultimodalInput, Role

# mteb is in the extra `evaluation`, which a checkout for developers need not have
collect_ignore_glob = [] if find_spec("mteb") else ["test_*.py"]


class CountingEncoder:
    """Another encoder's answers; `items` are all that it was asked for."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        self.name = "test/tiny"
        self.space = encoder.space
        self.embedding_dimension = encoder.embedding_dimension
        self.items: list[tuple[MultimodalInput, Role]] = []

    def encode(
        self,
        items: Sequence[MultimodalInput],
        *,
        role: Role,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        self.items += [(item, role) for item in items]
        return self.encoder.encode(items, role=role, show_progress_bar=False)

    def describe(self) -> Mapping[str, Any]:
        return self.encoder.describe()

    def close(self) -> None:
        return None


@pytest.fixture(scope="session")
def our_model(tiny_checkpoint: Path) -> Iterator[OurModel]:
    model = OurModel(Embedder.from_pretrained(tiny_checkpoint, num_workers=1), name="test/tiny")
    yield model
    model.close()


@pytest.fixture
def encoder(our_model: OurModel) -> CountingEncoder:
    return CountingEncoder(our_model)


@pytest.fixture(scope="session", autouse=True)
def mteb_without_its_warnings() -> Iterator[None]:
    """mteb and what it imports warn about themselves; ours stay errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mteb
        import mteb.mocks

        assert mteb.mocks
    yield


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture(autouse=True)
def attempts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every attempt to reach a network; there must be none."""
    found: list[str] = []

    def refuse(*arguments: Any, **options: Any) -> Any:
        found.append(repr(arguments[-1]))
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield found
    assert not found
