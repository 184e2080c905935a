"""Training and judging of one run, many of them in a few processes, and the file of results.

results.jsonl holds one line for each finished run. A line counts while the fingerprint of its
settings is that of the experiment file; so an arm that was changed runs again and the others do
not. One process trains many runs: what takes longest at this size is starting Python.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import multiprocessing
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from mmembed.ablation.judge import Scores, judge
from mmembed.ablation.plan import Ablation, Run
from mmembed.config.recipe import Recipe
from mmembed.encoder.scratch import create_checkpoint
from mmembed.errors import ConfigError, TrainingDiverged
from mmembed.evaluation.references import TaskEntry
from mmembed.tasks import RetrievalTask
from mmembed.training.metrics import read_metrics
from mmembed.training.stages import train

__all__ = ["Record", "Results", "each_result", "execute", "last_stage", "make_start", "starts"]

_TAIL = 0.25  # of the steps, over which training metrics are averaged
_SHOWN_METRICS = ("loss", "accuracy", "masked_fraction", "negative_similarity")

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Record:
    """A finished run.

    Attributes:
        scores: of the model; None when the training diverged.
        members: the mean over the models that a soup averages; None without one.
        training: means of metrics of the last quarter of the steps; temperatures by group.
        seconds: of training and judging together.
    """

    run: Run
    fingerprint: str
    scores: Scores | None
    members: Scores | None
    training: Mapping[str, float]
    seconds: float


class Results:
    """results.jsonl: the records of the settings of a plan, in any order."""

    def __init__(self, path: Path, plan: Ablation) -> None:
        self.path = path
        wanted = {run: plan.fingerprint(run) for run in plan.runs()}
        self.records = {
            record.run: record
            for record in _read_records(path)
            if wanted.get(record.run) == record.fingerprint
        }

    def add(self, record: Record) -> None:
        row = asdict(record)
        row = {**row.pop("run"), **row}
        whole = not self.path.is_file() or self.path.read_bytes()[-1:] in (b"", b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("" if whole else "\n") + json.dumps(row) + "\n")
        self.records[record.run] = record


def _read_records(path: Path) -> Iterator[Record]:
    """Whole lines only: a crash may have cut one off."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            run = Run(row.pop("problem"), row.pop("arm"), row.pop("seed"))
            yield Record(run, **row)


def starts(plan: Ablation, runs: Iterable[Run], output: Path) -> list[Run]:
    """For each starting point that is not made yet one of the runs that need it."""
    chosen: dict[Path, Run] = {}
    for run in runs:
        chosen.setdefault(_start_folder(plan, run, output), run)
    return [run for folder, run in chosen.items() if not (folder / "complete").is_file()]


def make_start(plan: Ablation, run: Run, output: Path) -> bool | None:
    """Make what a run starts from: random weights, then all stages but the last.

    Returns:
        None when it was interrupted.
    """
    folder = _start_folder(plan, run, output)
    if not (folder / "untrained" / "complete").is_file():
        texts = list(plan.texts.call())
        create_checkpoint(folder / "untrained", texts, seed=run.seed, **plan.checkpoint)
        (folder / "untrained" / "complete").touch()
    recipe = plan.resolved(run, folder / "untrained")
    start = plan.start_of(recipe)
    if start is not None and train(start[1], output=folder / "run", cpu=True).interrupted:
        return None
    (folder / "complete").touch()
    return True


def execute(plan: Ablation, run: Run, output: Path) -> Record | None:
    """Train and judge; the models are deleted afterwards.

    Returns:
        None when it was interrupted; the same call continues it.
    """
    begin = time.perf_counter()
    fingerprint = plan.fingerprint(run)
    folder = output / "unfinished" / fingerprint[:16]
    scores = members = None
    training: dict[str, float] = {}
    try:
        trained = train(last_stage(plan, run, output), output=folder, cpu=True)
    except TrainingDiverged:  # a result too
        pass
    except ConfigError as error:
        raise ConfigError(f"{run}: {error}") from error
    else:
        if trained.interrupted:
            return None
        tasks = _tasks(plan)
        scores = judge(trained.model, tasks)
        members = _mean([judge(member, tasks) for member in trained.members])
        training = _training_metrics(folder)
    shutil.rmtree(folder)
    return Record(run, fingerprint, scores, members, training, time.perf_counter() - begin)


def each_result(
    work: Callable[[Ablation, Item, Path], Result | None],
    plan: Ablation,
    items: Iterable[Item],
    output: Path,
    *,
    jobs: int,
) -> Iterator[Result]:
    """The results of `work` as they finish, each computed on one thread of one of `jobs` processes.

    After Ctrl-C the results that are still coming in are given before it is raised: trainings end
    after their step, judgements end.

    Raises:
        KeyboardInterrupt: also when a process was interrupted.
    """
    waiting = iter(items)
    if jobs == 1:
        with _one_thread():
            for item in waiting:
                yield _finished(work(plan, item, output))
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, context, _prepare_process) as pool:
        running: set[concurrent.futures.Future[Result | None]] = set()
        try:
            while True:
                for item in waiting:
                    running.add(pool.submit(work, plan, item, output))
                    if len(running) == jobs:
                        break
                if not running:
                    return
                done, _ = concurrent.futures.wait(
                    running, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    running.remove(future)
                    yield _finished(future.result())
        except KeyboardInterrupt:
            for future in concurrent.futures.as_completed(running):
                result = future.result()
                if result is not None:
                    yield result
            raise


def _finished(result: Result | None) -> Result:
    if result is None:
        raise KeyboardInterrupt
    return result


def _prepare_process() -> None:
    """One thread. Ctrl-C is for the main process and for a training, which ends its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _start_folder(plan: Ablation, run: Run, output: Path) -> Path:
    start = plan.start_of(plan.resolved(run, Path("model")))
    name = start[0] if start is not None else plan.checkpoint_digest()[:16]
    return output / "starts" / f"{name}-seed{run.seed}"


def last_stage(plan: Ablation, run: Run, output: Path) -> Recipe:
    """The run's recipe from its starting point on: equal to the whole recipe, but shorter."""
    folder = _start_folder(plan, run, output)
    recipe = plan.resolved(run, folder / "untrained")
    if len(recipe.stages) == 1:
        return recipe
    last = len(recipe.stages) - 1
    stage = recipe.stages[last].model_copy(update={"name": recipe.stage_name(last)})
    model = recipe.model.model_copy(update={"path": str(folder / "run" / "model")})
    return recipe.model_copy(update={"stages": (stage,), "model": model})


def _tasks(plan: Ablation) -> Mapping[str, RetrievalTask]:
    return _made_tasks(json.dumps([task.model_dump() for task in plan.tasks]))


@lru_cache(maxsize=1)
def _made_tasks(content: str) -> Mapping[str, RetrievalTask]:
    """Once in a process; keyed by content, because every call of a process unpickles its plan."""
    entries = [TaskEntry.model_validate(fields) for fields in json.loads(content)]
    return {entry.title: entry.call() for entry in entries}


def _training_metrics(folder: Path) -> dict[str, float]:
    """Means over the end of the last stage, over all members of a soup."""
    values: dict[str, list[float]] = {}
    for path in sorted(folder.glob("*/metrics.jsonl")):
        rows = read_metrics(path)
        for row in rows[-max(1, round(_TAIL * len(rows))) :]:
            for name in _SHOWN_METRICS:
                if name in row:
                    values.setdefault(name, []).append(row[name])
            for group, tau in row.get("temperature", {}).items():
                values.setdefault(f"temperature, {group}", []).append(tau)
    return {name: float(np.mean(found)) for name, found in values.items()}


def _mean(scores: list[Scores]) -> Scores | None:
    if not scores:
        return None
    return {
        task: {name: float(np.mean([each[task][name] for each in scores])) for name in metrics}
        for task, metrics in scores[0].items()
    }
