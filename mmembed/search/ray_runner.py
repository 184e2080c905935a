"""Encodes the shards of a job on a Ray cluster: Ray Data maps them over a pool of actors.

The folder of the job and the sources must be at the same path on all machines. Actors only stage
files; the driver, which holds the folder's lock, makes them part of the job.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from mmembed.errors import ConfigError, MissingDependencyError
from mmembed.search.item_sources import Shard
from mmembed.search.shard_worker import ShardWorker, WorkerSpec
from mmembed.search.worker_protocol import ProcessSpec, Reply, answer, parse_answer

__all__ = ["actor_share", "encode_on_ray", "ray_session"]

SpecT = TypeVar("SpecT", bound=ProcessSpec)

_ATTEMPTS = 2


def encode_on_ray(
    spec: WorkerSpec, shards: Sequence[Shard], *, processes: int | None, address: str | None
) -> Generator[Reply]:
    """Replies as they come, in any order.

    A killed actor is replaced and its shard repeated; one that kills actors again and again is
    given up.

    Args:
        processes: actors; default: one for each GPU of the cluster, or for each of its CPUs.
        address: of a running cluster, `auto` for the one of this machine; None starts one here,
            which ends with this program.

    Raises:
        InputError, ConfigError: what ends the job.
    """
    if not shards:
        return
    with ray_session(address):
        for row in _mapped(spec, shards, processes).iter_rows():
            yield parse_answer(json.loads(row["answer"]), row["index"])


@contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """A connection to a cluster while the block runs, unless there is one already.

    Args:
        address: of a running cluster, `auto` for the one of this machine; None starts one here,
            which ends with the block.

    Raises:
        ConfigError: no cluster there. MissingDependencyError: ray.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingDependencyError("ray", "ray") from None
    with ExitStack() as stack:
        if not ray.is_initialized():
            options = {"address": address} if address else {"address": "local"}
            try:
                ray.init(**options, include_dashboard=False, log_to_driver=False)
            except (ConnectionError, ValueError) as error:
                raise ConfigError(f"no Ray cluster at {address!r}: {error}") from None
            stack.callback(ray.shutdown)
        stack.enter_context(_quiet())
        yield


def actor_share(
    spec: SpecT, processes: int | None, num_jobs: int
) -> tuple[int, dict[str, float], SpecT]:
    """How many actors, what Ray is to give each of them, and what each is told of it.

    Args:
        processes: default: one for each GPU of the cluster, or for each of its CPUs.
    """
    import ray

    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    on_gpu = spec.device in (None, "cuda") and gpus > 0
    count = min(processes or (gpus if on_gpu else cpus), num_jobs)
    cores = max(1, cpus // count)
    # parts of a core, where there are more actors than cores
    share = {"num_gpus": 1.0} if on_gpu else {"num_cpus": cores if count <= cpus else cpus / count}
    told = spec.model_copy(
        update={
            "device": "cuda" if on_gpu else spec.device or "cpu",
            "num_threads": None if on_gpu else cores,
            "num_workers": spec.num_workers or min(8, cores),
        }
    )
    return count, share, told


class _Actor:
    """One model; its batches are single shards."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = WorkerSpec(**spec)
        self._worker: ShardWorker | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (text,) = batch["shard"]
        shard = Shard(**json.loads(text))
        return {"index": [shard.index], "answer": [json.dumps(self._answer(shard))]}

    def _answer(self, shard: Shard) -> dict[str, Any]:
        # Ray repeats the shard of a dead actor without end; the file outlives the actors.
        attempts = Path(self._spec.folder) / "staged" / f"attempts-{shard.index:06d}"
        message: dict[str, Any] = {"failed": f"its actor died {_ATTEMPTS} times"}
        while not attempts.exists() or attempts.stat().st_size < _ATTEMPTS:
            with attempts.open("a") as file:
                file.write(".")
            message = answer(lambda: self._encode(shard))
            if "failed" not in message:
                break
        return message

    def _encode(self, shard: Shard) -> Reply:
        if self._worker is None:
            self._worker = ShardWorker(self._spec)
        return self._worker.encode(shard)


def _mapped(spec: WorkerSpec, shards: Sequence[Shard], processes: int | None) -> Any:
    """The data set of answers; nothing runs before its rows are asked for."""
    import ray

    count, share, spec = actor_share(spec, processes, len(shards))
    rows = [{"shard": json.dumps(asdict(shard))} for shard in shards]
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Actor,
        fn_constructor_kwargs={"spec": spec.model_dump(mode="json")},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=count),
        **share,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data without its own progress and plans; errors still show."""
    import ray.data

    context = ray.data.DataContext.get_current()
    log = logging.getLogger("ray.data")
    before = context.enable_progress_bars, context.print_on_execution_start, log.level
    context.enable_progress_bars = context.print_on_execution_start = False
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start, level = before
        log.setLevel(level)
