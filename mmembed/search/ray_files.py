"""Encodes the files of a folder on a Ray cluster, for `corpus.index_folder`.

    candidates -> Ray Data: actors that run a `FileEncoder` -> FileResult -> the driver's index

Actors hash, cut and encode; the driver alone writes, so a run on a cluster leaves the rows that a
run on one machine leaves. The folder and the model must be at the same path on all machines.
Actors look for known vectors in the index where its address can be opened from there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from mmembed.config.validation import StrictModel
from mmembed.errors import MMEmbedError
from mmembed.search.file_encoder import Candidate, FileEncoder, FileResult, Vectors
from mmembed.search.index import Index
from mmembed.search.ray_runner import actor_share, ray_session
from mmembed.search.rows import dump_row, parse_row
from mmembed.search.segments import Segmentation
from mmembed.search.summary import Failure
from mmembed.search.worker_protocol import ProcessSpec

__all__ = ["RayFiles", "RayWorkers"]

_FILES_IN_BLOCK = 32


class RayWorkers(StrictModel):
    """Where files are encoded.

    Attributes:
        model: a hub id, or a folder at the same path on all machines.
        processes: actors; default: one for each GPU of the cluster, or for each of its CPUs.
        address: of a running cluster, or `auto`; None starts one on this machine.
        num_workers: decode processes of each actor.
    """

    model: str
    processes: int | None = None
    address: str | None = None
    device: str | None = None
    num_workers: int | None = None


class _Spec(ProcessSpec):
    index: str | None
    fingerprint: str
    dimension: int
    segmentation: dict[str, Any]
    batch_items: int


class RayFiles:
    """The `encode` of a `FileEncoder`, done by a cluster; results come in any order."""

    def __init__(
        self, workers: RayWorkers, index: Index, segmentation: Segmentation, batch_items: int
    ) -> None:
        self.workers = workers
        self.spec = _Spec(
            model=workers.model,
            device=workers.device,
            num_workers=workers.num_workers,
            index=None if index.uri == "memory:" else index.uri,
            fingerprint=index.fingerprint,
            dimension=index.dimension,
            segmentation=asdict(segmentation),
            batch_items=batch_items,
        )

    def encode(self, candidates: Iterable[Candidate]) -> Iterator[FileResult]:
        """
        Raises:
            MissingDependencyError: ray. ConfigError: no cluster there.
        """
        files = list(candidates)
        if not files:
            return
        with ray_session(self.workers.address):
            import ray.data

            blocks = -(-len(files) // _FILES_IN_BLOCK)
            count, share, told = actor_share(self.spec, self.workers.processes, blocks)
            rows = [{"files": json.dumps(files[place::blocks])} for place in range(blocks)]
            answers = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
                _Actor,
                fn_constructor_kwargs={"spec": told.model_dump(mode="json")},
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=count),
                **share,
            )
            for answer in answers.iter_rows():
                yield _parse(json.loads(answer["result"]), answer["vectors"], self.spec.dimension)


class _Actor:
    """One model, loaded with the first files."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = _Spec(**spec)
        self._encoder: FileEncoder | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        answers: dict[str, list[Any]] = {"result": [], "vectors": []}
        for text in batch["files"]:
            candidates = [Candidate(*values) for values in json.loads(text)]
            for result in self._encode(candidates):
                answers["result"].append(json.dumps(_fields(result)))
                vectors = b"" if result.vectors is None else np.asarray(result.vectors, np.float32)
                answers["vectors"].append(bytes(vectors))
        return answers

    def _encode(self, candidates: list[Candidate]) -> Iterator[FileResult]:
        if self._encoder is None:
            self._encoder = _load(self._spec)
        done: set[str] = set()
        try:
            for result in self._encoder.encode(candidates):
                yield result
                done.add(result.candidate.path)
        except MMEmbedError:
            raise
        except Exception as error:  # a defect must cost these files, not the run
            for candidate in candidates:
                if candidate.path not in done:
                    detail = f"its worker failed with {type(error).__name__}: {error}"
                    yield FileResult.failed(candidate, "decoder_crash", detail)


def _load(spec: _Spec) -> FileEncoder:
    from mmembed.encoder.embedder import Embedder
    from mmembed.search.opening import open_index
    from mmembed.store.vectors import check_space

    if spec.num_threads is not None:
        import torch

        torch.set_num_threads(spec.num_threads)
    embedder = Embedder.from_pretrained(
        spec.model, device=spec.device, num_workers=spec.num_workers
    )
    check_space(
        "the index",
        (spec.fingerprint, spec.dimension),
        (embedder.fingerprint, spec.dimension),
    )
    index = open_index(spec.index) if spec.index is not None else None

    def known_vectors(keys: Iterable[str]) -> Vectors:
        if index is None:
            return {}
        index.refresh()
        return index.known_vectors(keys)

    return FileEncoder(
        embedder,
        dimension=spec.dimension,
        segmentation=Segmentation.of(spec.segmentation),
        decoder=embedder.processor.decoder,
        known_vectors=known_vectors,
        batch_items=spec.batch_items,
    )


def _fields(result: FileResult) -> dict[str, Any]:
    return {
        "candidate": result.candidate,
        "rows": [dump_row(row).decode("ascii") for row in result.rows],
        "is_unchanged": result.is_unchanged,
        "is_partial": result.is_partial,
        "failures": [asdict(failure) for failure in result.failures],
        "warnings": result.warnings,
        "encoded": result.encoded,
        "reused": result.reused,
    }


def _parse(fields: dict[str, Any], vectors: bytes, dimension: int) -> FileResult:
    rows = [parse_row(line) for line in fields["rows"]]
    return FileResult(
        candidate=Candidate(*fields["candidate"]),
        rows=rows,
        vectors=np.frombuffer(vectors, np.float32).reshape(len(rows), dimension) if rows else None,
        is_unchanged=fields["is_unchanged"],
        is_partial=fields["is_partial"],
        failures=[Failure(**failure) for failure in fields["failures"]],
        warnings=fields["warnings"],
        encoded=fields["encoded"],
        reused=fields["reused"],
    )
