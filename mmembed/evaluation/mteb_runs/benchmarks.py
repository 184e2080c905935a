"""Which tasks of mteb: a benchmark by name or short name, or tasks by name.

Short names are data: `configs/evaluation/mteb/benchmarks.json`. Tasks that cannot or should not run
are left out by name and reason, never silently: private ones, tasks of modalities that the model
does not take, and for a reranker those that hand over no candidates.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmembed.config.files import find_config
from mmembed.config.validation import StrictModel, did_you_mean, validate
from mmembed.errors import ConfigError
from mmembed.evaluation.mteb_runs.library import load_mteb
from mmembed.evaluation.mteb_runs.localize import parts_of_task

__all__ = [
    "BenchmarkNames",
    "Chosen",
    "benchmark_names",
    "choose_tasks",
    "find_benchmark",
    "find_tasks",
    "known_benchmarks",
]

# Their tasks come with candidates for each query.
_POOLED_TYPES = frozenset({
    "Any2AnyReranking",
    "InstructionReranking",
    "Reranking",
    "VideoCentricQA",
    "VisionCentricQA",
})  # fmt: skip


class BenchmarkNames(StrictModel):
    """The content of `benchmarks.json`.

    Attributes:
        aliases: short name -> name of mteb.
        prefixes: suite of ours -> what stands before the names of its tasks in mteb; the suite's
            name unless it is listed.
    """

    aliases: dict[str, str]
    prefixes: dict[str, str]


@dataclass(frozen=True)
class Chosen:
    """Tasks to run, and the others with the reason."""

    tasks: Sequence[Any]
    left_out: Mapping[str, str] = field(default_factory=dict)


def benchmark_names() -> BenchmarkNames:
    path = find_config(
        "benchmarks", folder="evaluation/mteb", suffix=".json", kind="list of benchmarks"
    )
    return validate(BenchmarkNames, json.loads(path.read_text("utf-8")), where=str(path))


def known_benchmarks() -> dict[str, tuple[str, ...]]:
    """Every benchmark of mteb, with our short names for it."""
    aliases = benchmark_names().aliases
    names = sorted(benchmark.name for benchmark in load_mteb().get_benchmarks())
    return {name: tuple(short for short, long in aliases.items() if long == name) for name in names}


def find_benchmark(name: str) -> Sequence[Any]:
    """The tasks of a benchmark, its beta tasks among them: asking for it asks for them.

    Raises:
        ConfigError: no such benchmark, with the nearest one.
    """
    aliases = benchmark_names().aliases
    try:
        benchmark = load_mteb().get_benchmark(aliases.get(name, name))
    except KeyError:
        known = [*aliases, *(each.name for each in load_mteb().get_benchmarks())]
        raise ConfigError(
            f"mteb has no benchmark {name!r}{did_you_mean(name, known)}. Short names: "
            f"{', '.join(aliases)}; all: mmembed eval mteb --list"
        ) from None
    return list(benchmark.tasks)


def find_tasks(names: Sequence[str], *, beta: bool = False) -> Sequence[Any]:
    """Tasks by name, in this order.

    Args:
        beta: whether tasks that mteb still verifies are meant; without it they are refused.

    Raises:
        ConfigError: an unknown name, or a beta task without `beta`.
    """
    mteb = load_mteb()
    found = []
    for name in names:
        try:
            found.append(mteb.get_task(name))
        except KeyError as error:
            raise ConfigError(f"mteb has no task {name!r}: {error.args[0]}") from None
    unverified = [task.metadata.name for task in found if task.metadata.is_beta]
    if unverified and not beta:
        raise ConfigError(
            f"mteb still verifies {', '.join(unverified)} (beta); add --beta to run them anyway"
        )
    return found


def choose_tasks(
    tasks: Iterable[Any],
    *,
    modalities: Collection[str],
    public_only: bool = True,
    only_pooled: bool = False,
) -> Chosen:
    """Those that a model can run.

    Args:
        modalities: that the model takes.
        only_pooled: only tasks that give each query its candidates, for rerankers.
    """
    chosen, left_out = [], {}
    for task in tasks:
        leaves = [leaf.metadata for leaf in parts_of_task(task)]
        foreign = sorted({each for leaf in leaves for each in leaf.modalities} - set(modalities))
        if foreign:
            left_out[task.metadata.name] = f"the model takes no {', '.join(foreign)}"
        elif public_only and not all(leaf.is_public for leaf in leaves):
            left_out[task.metadata.name] = "its data are private"
        elif only_pooled and not all(leaf.type in _POOLED_TYPES for leaf in leaves):
            left_out[task.metadata.name] = "it hands over no candidates to rerank"
        else:
            chosen.append(task)
    return Chosen(chosen, left_out)
