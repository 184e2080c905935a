"""One model on one suite: read and plan, encode what has no row yet, score, write it all down.

    preparation.prepare -> encode (here, or in processes) -> scoring -> results.py

Every part can be stopped at any moment: called again, a run goes on with the rows and scores that
are there, and ends with the same bytes in `scores/`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmembed import __version__
from mmembed.config.checkout import git_revision
from mmembed.errors import ConfigError, EvaluationDataError, StoreError
from mmembed.evaluation.calibration import read_calibration
from mmembed.evaluation.encode_worker import EncodeSpec, encode_with_processes, load_encoder
from mmembed.evaluation.machine import default_threads, hardware, threads
from mmembed.evaluation.manifest import write_manifest
from mmembed.evaluation.plan import EncodeShard, Plan, make_plan
from mmembed.evaluation.preparation import Prepared, hashes_file, prepare, shown_progress
from mmembed.evaluation.profiles import dump_profile, parse_profile, profile_sha256
from mmembed.evaluation.results import (
    RunResults,
    TaskResult,
    read_results,
    write_run_record,
    write_task_result,
)
from mmembed.evaluation.scoring import score_retrieval, score_similarity
from mmembed.evaluation.suites import Selection, load_suite
from mmembed.evaluation.vectors import StoredVectors, encode_plan, open_space
from mmembed.search.processes import default_processes
from mmembed.store.file_hashes import FileHashes
from mmembed.tasks import LoadedTask, Profile, RetrievalTask, TaskCard

__all__ = ["LOADER", "evaluate", "run", "score_task", "stored_tasks"]

LOADER = "mmembed.baselines.loading:load_model"
_FORMAT = "mmembed-run/1"

Rows = Callable[[Sequence[str]], np.ndarray]


def evaluate(
    tasks: Mapping[str, tuple[TaskCard, LoadedTask]],
    vectors: StoredVectors,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, TaskResult]:
    """Encode in this process and score; writes nothing but rows.

    Args:
        on_progress: called with the number of distinct items since the last call.

    Raises:
        EvaluationDataError: an item that cannot be encoded, or a row that is no unit vector.
    """
    plan = make_plan(tasks, digest=vectors.digest)
    encode_plan(plan, vectors, on_progress=on_progress)
    return {
        name: score_task(card, loaded, *map(vectors.get, plan.rows[name]))
        for name, (card, loaded) in tasks.items()
    }


def score_task(
    card: TaskCard, loaded: LoadedTask, first: np.ndarray, second: np.ndarray
) -> TaskResult:
    """Score rows of queries and corpus, or of both sides of pairs, in the task's order."""
    if isinstance(loaded.task, RetrievalTask):
        return score_retrieval(card, loaded.task, first, second, missing=loaded.missing)
    return score_similarity(card, loaded.task, first, second, missing=loaded.missing)


def run(
    suite: str | Path,
    model: str | Path,
    out: Path,
    *,
    data_root: Path | None = None,
    store: Path | None = None,
    profile: Profile | str | None = None,
    selection: Selection | None = None,
    plan: Path | None = None,
    processes: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    num_threads: int | None = None,
    num_workers: int | None = None,
    allow_missing: bool = False,
    again: bool = False,
    part: tuple[int, int] | None = None,
    loader: str = LOADER,
    show_progress_bar: bool | None = None,
) -> RunResults:
    """Judge a model on a suite; called again, go on where an earlier call stopped.

    Args:
        model: what `loader` understands: a folder, a hub id, `open_clip:...`.
        out: a new folder, or that of a run of the same model and profile on the same suite.
        store: rows are kept here, for all suites and models; default: `out/vectors`.
        plan: folder that `mmembed eval prepare` wrote; other data are refused.
        processes: default: one for each GPU, or one.
        num_threads: of a process on a CPU; default: the cores, at most 4, however many processes
            there are, so that their number changes nothing.
        again: score tasks that have scores, too.
        part: (i, n) encodes every n-th shard from the i-th, into a `store` that machines share, and
            scores nothing; a call without it then finds all rows.
        loader: `package.module:name` of what makes the encoder.

    Raises:
        ConfigError: a wrong name or option, or `out` holds results of something else.
        EvaluationDataError: data are missing or not those of `plan`; an item that cannot be
            encoded; a row that is no unit vector.
        StoreError: the store is damaged, or a process died twice on one shard.
    """
    out = out.resolve()
    store = (store or out / "vectors").resolve()
    seconds: dict[str, float] = {}
    begun = time.time()
    with FileHashes(hashes_file()) as hashes:
        with _timed(seconds, "prepare"):
            prepared = prepare(
                suite,
                data_root,
                profile=profile,
                selection=selection,
                allow_missing=allow_missing,
                manifest=plan,
                hashes=hashes,
                show_progress_bar=show_progress_bar,
            )
        before = _before(out, prepared)
        processes = processes or default_processes(device)
        spec = EncodeSpec(
            model=str(Path(model).resolve() if Path(model).is_dir() else model),
            device=device,
            dtype=dtype,
            num_workers=num_workers,
            num_threads=num_threads or default_threads(device),
            loader=loader,
            template=prepared.suite.profile.template,
            store=str(store),
            suite=str(prepared.suite.suite.path),
            root=None if prepared.suite.root is None else str(prepared.suite.root),
            profile=dump_profile(prepared.suite.profile),
            allow_missing=allow_missing,
            hashes=None if (path := hashes_file()) is None else str(path),
        )
        with _timed(seconds, "encode"):
            space, described, encoded = _encode(
                prepared.plan,
                _shards(prepared.plan, part),
                spec,
                processes,
                hashes,
                check=partial(_check_space, out, before),
                show=show_progress_bar,
            )
    if part is not None:
        return RunResults(out, {}, {"items": {"encoded": encoded}})
    vectors = open_space(store, *space)
    reused = {} if again or before.get("version") != __version__ else before.get("tasks", {})
    with _timed(seconds, "score"):
        _score(prepared, vectors.get, out, reused, show_progress_bar)
    scored = {name: {"sha256": digest} for name, digest in prepared.plan.tasks.items()}
    record = {
        "format": _FORMAT,
        "version": __version__,
        "git_revision": git_revision(),
        "suite": prepared.suite.suite.name,
        "summary": prepared.suite.suite.config.summary,
        **_label(prepared),
        "model": described["model"],
        "encoder": dict(described),
        "space": space[0],
        "embedding_dimension": space[1],
        "profile": {
            **dump_profile(prepared.suite.profile),
            "sha256": profile_sha256(prepared.suite.profile),
        },
        "data_root": spec.root,
        "store": str(store),
        "allow_missing": allow_missing,
        "loader": loader,
        "plan": {"sha256": prepared.plan.sha256, "verified": plan is not None},
        "tasks": {**before.get("tasks", {}), **scored},
        "items": {
            "asked": prepared.plan.asked,
            "distinct": len(prepared.plan.items),
            "cached": len(prepared.plan.items) - encoded,
            "encoded": encoded,
        },
        "processes": processes,
        "num_threads": spec.num_threads,
        "hardware": hardware(),
        "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begun)),
        "wall_seconds": round(time.time() - begun, 3),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
    write_manifest(out, prepared.manifest)
    write_run_record(out, record)
    return read_results(out)


def stored_tasks(
    folder: Path, *, only: Sequence[str] = ()
) -> Iterator[tuple[TaskCard, LoadedTask, np.ndarray, np.ndarray]]:
    """Every task of a finished run with its rows, read again from data and store.

    Args:
        only: names of tasks; default: all of the run.

    Raises:
        EvaluationDataError: no finished run there, or its data have changed since.
        StoreError: its rows are gone.
    """
    record = _record(folder)
    if not record:
        raise EvaluationDataError(f"{folder} has no run.json, so no finished run")
    profile = {key: value for key, value in record["profile"].items() if key != "sha256"}
    root = record["data_root"]
    opened = load_suite(record["suite"]).open(
        None if root is None else Path(root), parse_profile(profile, where=f"{folder}/run.json")
    )
    names = tuple(only) or tuple(name for name in opened.cards if name in record["tasks"])
    opened = opened.select(Selection(only=names))
    vectors = open_space(Path(record["store"]), record["space"])
    with FileHashes(hashes_file()) as hashes:
        for name, card in opened.cards.items():
            loaded = opened.load(name, allow_missing=record["allow_missing"])
            plan = make_plan({name: (card, loaded)}, digest=hashes)
            if plan.tasks[name] != record["tasks"].get(name, {}).get("sha256"):
                raise EvaluationDataError(
                    f"the data of {name} are not those of the run in {folder}; run it again"
                )
            try:
                first, second = (vectors.get(keys) for keys in plan.rows[name])
            except KeyError:
                raise StoreError(
                    f"rows of {name} are not in the store {record['store']}; run it again"
                ) from None
            yield card, loaded, first, second


def _shards(plan: Plan, part: tuple[int, int] | None) -> list[EncodeShard]:
    first, step = part or (0, 1)
    if not 0 <= first < step:
        raise ConfigError(f"part {first} of {step}; parts of {step} are 0 to {step - 1}")
    return plan.shards()[first::step]


def _check_space(out: Path, before: Mapping[str, Any], space: str) -> None:
    if before and before["space"] != space:
        raise ConfigError(
            f"{out} holds results of another model (space {before['space'][:16]}, this one is "
            f"{space[:16]}); give another --out"
        )


def _encode(
    plan: Plan,
    shards: Sequence[EncodeShard],
    spec: EncodeSpec,
    processes: int,
    hashes: FileHashes,
    *,
    check: Callable[[str], None],
    show: bool | None,
) -> tuple[tuple[str, int], Mapping[str, Any], int]:
    """(space, dimension), what the model is, and how many rows were encoded."""
    count = sum(len(shard.keys) for shard in shards)
    with shown_progress(show, "encoding", count, "items") as advance:
        if processes > 1 and shards:
            return encode_with_processes(
                spec, shards, processes, on_ready=check, on_progress=advance
            )
        with threads(spec.num_threads):
            encoder = load_encoder(spec)
            try:
                check(encoder.space)
                vectors = StoredVectors(encoder, Path(spec.store), digest=hashes)
                encode_plan(plan, vectors, shards=shards, on_progress=advance)
                space = (encoder.space, encoder.embedding_dimension)
                described = {"model": encoder.name, **encoder.describe()}
                return space, described, vectors.num_encoded
            finally:
                encoder.close()


def _score(
    prepared: Prepared, rows: Rows, out: Path, reused: Mapping[str, Any], show: bool | None
) -> None:
    plan = prepared.plan
    with shown_progress(show, "scoring", len(plan.tasks), "tasks") as advance:
        for name, (card, loaded) in prepared.tasks.items():
            done = reused.get(name, {}).get("sha256") == plan.tasks[name]
            if not (done and (out / "scores" / f"{name}.json").is_file()):
                first, second = map(rows, plan.rows[name])
                write_task_result(out, score_task(card, loaded, first, second))
            advance(1)


def _before(out: Path, prepared: Prepared) -> dict[str, Any]:
    """The record of an earlier run in this folder, which must be one of the same kind."""
    record = _record(out)
    if not record:
        return {}
    suite, digest = prepared.suite.suite.name, profile_sha256(prepared.suite.profile)
    if record["suite"] != suite or record["profile"]["sha256"] != digest:
        raise ConfigError(
            f"{out} holds results of suite {record['suite']} in the words of profile "
            f"{record['profile']['name']}; give another --out for suite {suite} and profile "
            f"{prepared.suite.profile.name}"
        )
    return record


def _record(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    if not path.is_file():
        return {}
    record = json.loads(path.read_text("utf-8"))
    if record.get("format") != _FORMAT:
        raise EvaluationDataError(f"{path} is no record of this version ({_FORMAT})")
    return dict(record)


def _label(prepared: Prepared) -> dict[str, Any]:
    """Whether the numbers are those of whole tasks, and if not, what they are worth."""
    suite = prepared.suite.suite
    if suite.config.subset is None:
        return {"subset": None, "calibration": None}
    calibration = suite.calibration
    return {
        "subset": suite.config.subset.model_dump(),
        "calibration": "uncalibrated" if calibration is None else read_calibration(calibration),
    }


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    begun = time.monotonic()
    try:
        yield
    finally:
        seconds[name] = time.monotonic() - begun
