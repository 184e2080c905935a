"""One model on one suite: read and plan, encode what has no row yet, score, write it all down.

    preparation.prepare -> encode (here, or in processes) -> scoring -> results.py

Every part can be stopped at any moment: called again, a run goes on with the rows and scores that
are there, and ends with the same bytes in `scores/`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mmembed import __version__
from mmembed.baselines.stored_vectors import EncodeShard, StoredVectors, open_space
from mmembed.config.checkout import git_revision
from mmembed.errors import ConfigError, DataError, StoreError
from mmembed.evaluation.calibration import read_calibration
from mmembed.evaluation.encode_worker import (
    Encoded,
    EncodeSpec,
    encode_with_processes,
    load_encoder,
)
from mmembed.evaluation.machine import default_threads, hardware, threads
from mmembed.evaluation.manifest import write_manifest
from mmembed.evaluation.plan import Plan, make_plan
from mmembed.evaluation.preparation import Prepared, hashes_file, prepare
from mmembed.evaluation.profiles import dump_profile, parse_profile, profile_sha256
from mmembed.evaluation.results import RunResults, TaskResult, read_results
from mmembed.evaluation.run_folder import RunFolder, read_run_record
from mmembed.evaluation.scoring import score_retrieval, score_similarity
from mmembed.evaluation.suites import Selection, recorded_suite
from mmembed.evaluation.vectors import encode_plan
from mmembed.progress import shown_progress
from mmembed.search.processes import default_processes
from mmembed.store.file_hashes import FileHashes
from mmembed.tasks import LoadedTask, Profile, RetrievalTask, TaskCard

__all__ = ["LOADER", "evaluate", "run", "score_task", "stored_tasks"]

LOADER = "mmembed.baselines.loading:load_model"


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
        DataError: an item that cannot be encoded, or a row that is no unit vector.
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
        loader: `package.module:name` or `file.py:name` of what makes the encoder.

    Raises:
        ConfigError: a wrong name or option, or `out` holds results of something else.
        DataError: data are missing or not those of `plan`; an item that cannot be
            encoded; a row that is no unit vector.
        StoreError: the store is damaged, a process died twice on one shard, or another run writes
            to `out`.
    """
    out = out.resolve()
    store = (store or out / "vectors").resolve()
    seconds: dict[str, float] = {}
    begun = time.time()
    with FileHashes(hashes_file()) as hashes, ExitStack() as held:
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
        opened, profile = prepared.suite, prepared.suite.profile
        digest = profile_sha256(profile)
        shards = _shards(prepared.plan, part)
        results = RunFolder(out, suite=opened.suite.name, profile=profile, profile_sha256=digest)
        if part is None:
            held.enter_context(results.locked())
        processes = processes or default_processes(device)
        spec = EncodeSpec(
            model=str(Path(model).resolve() if Path(model).is_dir() else model),
            device=device,
            dtype=dtype,
            num_workers=num_workers,
            num_threads=num_threads or default_threads(device),
            loader=loader,
            template=profile.template,
            store=str(store),
            suite=str(opened.suite.path),
            root=None if opened.root is None else str(opened.root),
            profile=dump_profile(profile),
            allow_missing=allow_missing,
            hashes=None if (path := hashes_file()) is None else str(path),
        )
        with _timed(seconds, "encode"):
            encoded = _encode(
                prepared.plan,
                shards,
                spec,
                processes,
                hashes,
                check=results.check_space,
                show=show_progress_bar,
            )
        counts = {"encoded": encoded.count, "truncated": encoded.truncated}
        if part is not None:
            return RunResults(out, {}, {"items": counts})
        record = {
            "version": __version__,
            "git_revision": git_revision(),
            "suite": opened.suite.name,
            "summary": opened.suite.config.summary,
            **_label(prepared),
            "model": encoded.description["model"],
            "encoder": dict(encoded.description),
            "space": encoded.space,
            "embedding_dimension": encoded.dimension,
            "profile": {**dump_profile(profile), "sha256": digest},
            "data_root": spec.root,
            "store": str(store),
            "allow_missing": allow_missing,
            "loader": spec.loader,
            "plan": {"sha256": prepared.plan.sha256, "verified": plan is not None},
            "items": {
                "asked": prepared.plan.asked,
                "distinct": len(prepared.plan.items),
                "cached": len(prepared.plan.items) - encoded.count,
                **counts,
            },
            "processes": processes,
            "num_threads": spec.num_threads,
            "hardware": hardware(),
            "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begun)),
        }
        vectors = open_space(store, encoded.space, encoded.dimension)
        write_manifest(out, prepared.manifest)
        with _timed(seconds, "score"):
            wanted = results.begin(record, prepared.plan.tasks, again=again)
            with shown_progress(show_progress_bar, "scoring", len(wanted), "tasks") as advance:
                for name in wanted:
                    rows = map(vectors.get, prepared.plan.rows[name])
                    result = score_task(*prepared.tasks[name], *rows)
                    results.add(prepared.plan.tasks[name], result)
                    advance(1)
        record["wall_seconds"] = round(sum(seconds.values()), 3)
        record["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
        results.write()
        return read_results(out)


def stored_tasks(
    folder: Path, *, only: Sequence[str] = (), suite: str | None = None
) -> Iterator[tuple[TaskCard, LoadedTask, np.ndarray, np.ndarray]]:
    """Every task of a finished run with its rows, read again from data and store.

    Args:
        only: names of tasks; default: all of the run.
        suite: that of the run, which must be given where it is a file; see `recorded_suite`.

    Raises:
        ConfigError: the suite is a file and is not given.
        DataError: no finished run there, or its data have changed since.
        StoreError: its rows are gone.
    """
    record = read_run_record(folder)
    if not record:
        raise DataError(f"{folder} has no run.json, so no finished run")
    profile = {key: value for key, value in record["profile"].items() if key != "sha256"}
    root = record["data_root"]
    opened = recorded_suite(record["suite"], suite).open(
        None if root is None else Path(root), parse_profile(profile, where=f"{folder}/run.json")
    )
    names = tuple(only) or tuple(name for name in opened.cards if name in record["tasks"])
    opened = opened.select(Selection(only=names))
    vectors = open_space(Path(record["store"]), record["space"])
    with FileHashes(hashes_file()) as hashes:
        for name, card in opened.cards.items():
            entry = record["tasks"].get(name, {})
            loaded = opened.load(name, allow_missing=bool(entry.get("missing")))
            plan = make_plan({name: (card, loaded)}, digest=hashes)
            if plan.tasks[name] != entry.get("sha256"):
                raise DataError(
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


def _encode(
    plan: Plan,
    shards: Sequence[EncodeShard],
    spec: EncodeSpec,
    processes: int,
    hashes: FileHashes,
    *,
    check: Callable[[str], None],
    show: bool | None,
) -> Encoded:
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
                return Encoded(
                    encoder.space,
                    encoder.embedding_dimension,
                    {"model": encoder.name, **encoder.describe()},
                    vectors.num_encoded,
                    vectors.num_truncated,
                )
            finally:
                encoder.close()


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
