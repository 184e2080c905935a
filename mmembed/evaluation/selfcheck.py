"""The evaluator's promises, checked on a few numbers whose answers are known.

Needs no data and no model. Each check says what it looked at and raises `CheckFailed` when the
answer is another one.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from mmembed.baselines.stored_vectors import StoredVectors
from mmembed.errors import DataError, MMEmbedError
from mmembed.evaluation.aggregation import means
from mmembed.evaluation.example_tasks import ExampleTasks, HashingEncoder
from mmembed.evaluation.pickled_vectors import read_array, write_array
from mmembed.evaluation.profiles import load_profile
from mmembed.evaluation.results import TaskResult
from mmembed.evaluation.runs import evaluate, run
from mmembed.evaluation.scoring import score_retrieval
from mmembed.evaluation.suites import list_suites, load_suite
from mmembed.tasks import Profile, RetrievalTask, TaskCard
from mmembed.types import MultimodalInput, Role, Text

__all__ = ["CHECKS", "CheckFailed", "Outcome", "selfcheck"]

_CARD = TaskCard("check", "text", "T", "hit@1", source="made up")
Value = TypeVar("Value")
_LOADER = "mmembed.evaluation.example_tasks:load_hashing_encoder"


class CheckFailed(MMEmbedError, AssertionError):  # noqa: N818  it is what happened
    """A promise does not hold on this machine."""


@dataclass(frozen=True)
class Outcome:
    """`problem` is None when the check passed."""

    name: str
    detail: str
    problem: str | None = None


def selfcheck() -> Iterator[Outcome]:
    """Every check in turn; a check that fails does not end the others."""
    for name, check in CHECKS.items():
        try:
            yield Outcome(name, check())
        except (MMEmbedError, OSError) as error:
            yield Outcome(name, "", str(error) or type(error).__name__)


def _closed_forms() -> str:
    """One query, relevant documents at ranks 2 and 4 of 6."""
    metrics = _ranked([0, 1, 0, 1, 0, 0]).metrics["pessimistic"]
    second, fourth = 1 / math.log2(3), 1 / math.log2(5)
    ideal = 1 + second
    expected = {
        "hit@1": 0.0,
        "hit@5": 1.0,
        "precision@5": 2 / 5,
        "recall@5": 1.0,
        "f1@5": 4 / 7,
        "map@5": (1 / 2 + 2 / 4) / 2,
        "map@1": 0.0,
        "mrr@5": 1 / 2,
        "ndcg_linear@5": (second + fourth) / ideal,
        "ndcg_exponential@5": (second + fourth) / ideal,
    }
    for name, value in expected.items():
        _equal(name, metrics[name], value)
    return f"{len(expected)} metrics of one ranking"


def _graded_gains() -> str:
    """Gains 1, 3, 0, 2: each gain belongs to its own document, whatever the names are."""
    metrics = _ranked([1, 3, 0, 2]).metrics["pessimistic"]
    log = [math.log2(rank) for rank in (2, 3, 4, 5)]
    linear = (1 / log[0] + 3 / log[1] + 2 / log[3]) / (3 / log[0] + 2 / log[1] + 1 / log[2])
    exponential = (1 / log[0] + 7 / log[1] + 3 / log[3]) / (7 / log[0] + 3 / log[1] + 1 / log[2])
    _equal("ndcg_linear@5", metrics["ndcg_linear@5"], linear)
    _equal("ndcg_exponential@5", metrics["ndcg_exponential@5"], exponential)
    return f"nDCG@5 {linear:.4f} linear, {exponential:.4f} exponential"


def _constant_encoder() -> str:
    """All vectors equal, the relevant one first in its pool."""
    ids = ["a", "b", "c", "d"]
    task = _task(ids, {"a": 1.0}, pools=True)
    rows = np.tile(np.eye(1, 8, dtype=np.float32), (4, 1))
    result = score_retrieval(_CARD, task, rows[:1], rows)
    for ties, value in {"pessimistic": 0.0, "official": 1.0, "docid": 0.0}.items():
        _equal(f"hit@1 under {ties}", result.metrics[ties]["hit@1"], value)
    _equal("tie_affected", result.tie_affected, 1)
    return "hit@1 is 0 under pessimistic and docid, 1 under official; the tie is counted"


def _order_decides_nothing() -> str:
    """Queries, corpus, labels and pools in another order."""
    source, vectors = _example()
    for card in source.cards():
        task = source.load(card.name).task
        if not isinstance(task, RetrievalTask):
            continue
        turned = _turned(task)
        straight, other = (_scored(card, each, vectors) for each in (task, turned))
        for ties in ("pessimistic", "docid"):
            if straight.metrics[ties] != other.metrics[ties]:
                raise CheckFailed(f"{card.name} under {ties} depends on the order")
    return "equal metrics under pessimistic and docid"


def _top_is_exact() -> str:
    """Streaming top-k against a full sort, with ties."""
    rng = np.random.default_rng(0)
    rows = rng.integers(-1, 2, size=(300, 6)).astype(np.float32)
    rows[:, 0] += 4
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = [f"d{number:03}" for number in range(len(rows))]
    task = _task(ids, {ids[7]: 1.0, ids[123]: 1.0})
    query = rows[7:8]
    top = score_retrieval(_CARD, task, query, rows).queries[0].top
    scores = rows.astype(np.float64) @ query[0].astype(np.float64)
    best = np.sort(scores)[::-1][: len(top)]
    worst = float(np.abs(np.array([score for _, score in top]) - best).max())
    if worst > 1e-6:
        raise CheckFailed(f"the first {len(top)} scores differ by {worst:.1e} from a full sort")
    return f"first {len(top)} of {len(rows)} documents"


def _broken_vectors_are_refused() -> str:
    """NaN, infinity, zeros: by the encode layer and by the scorer."""
    item = MultimodalInput((Text("a"),))
    kinds = {"NaN": np.nan, "infinity": np.inf, "zero": 0.0}
    task, good = _task(["a"], {"a": 1.0}), np.eye(1, 8, dtype=np.float32)
    for kind, value in kinds.items():
        rows = np.full((1, 8), value, np.float32)
        _refused(f"encoding {kind}", partial(_encode_rows, rows, item))
        _refused(f"scoring {kind}", partial(score_retrieval, _CARD, task, good, rows))
    return ", ".join(kinds)


def _means_are_plain() -> str:
    """A modality is the mean over its data sets, not over its groups."""
    groups = {"a": "G1", "b": "G1", "c": "G2"}
    cards = [replace(_CARD, name=name, group=group) for name, group in groups.items()]
    values = {"a": 0.0, "b": 0.0, "c": 0.9}
    found = {mean.name: mean.value for mean in means(values, cards)}
    _equal("modality", found["text"], 0.3)
    del values["a"]
    lacking = {mean.name: mean.value for mean in means(values, cards)}
    if lacking["text"] is not None or lacking["all"] is not None:
        raise CheckFailed("a mean with a missing data set is not empty")
    return "mean of 3 data sets in 2 groups; empty when one is missing"


def _pickles_run_no_code() -> str:
    """The files of the public scorers: arrays round-trip, code does not run."""
    rows = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="mmembed-selfcheck-") as folder:
        path = Path(folder) / "rows"
        write_array(path, rows)
        if read_array(path).tobytes() != rows.tobytes():
            raise CheckFailed("an array does not come back as it was")
        touched = Path(folder) / "touched"
        path.write_bytes(f"cos\nmkdir\n(S'{touched}'\ntR.".encode())
        _refused("reading a pickle that calls os.mkdir", lambda: read_array(path))
        if touched.exists():
            raise CheckFailed("a pickle ran code")
    return "bytes equal; a pickle with a call is refused"


def _suite_from_end_to_end() -> str:
    """The suite `example`: planned, encoded, scored, and all of it again."""
    with tempfile.TemporaryDirectory(prefix="mmembed-selfcheck-") as folder:
        store = Path(folder) / "store"
        runs = [
            run(
                "example",
                "selfcheck",
                Path(folder) / name,
                store=store,
                device="cpu",
                loader=_LOADER,
                show_progress_bar=False,
            )
            for name in ("first", "second")
        ]
        items = [each.record["items"] for each in runs]
        _equal("items encoded by the second run", items[1]["encoded"], 0)
        _equal("items encoded by the first run", items[0]["encoded"], items[0]["distinct"])
        for name, result in runs[0].tasks.items():
            files = [each.folder / "scores" / f"{name}.json" for each in runs]
            if files[0].read_bytes() != files[1].read_bytes():
                raise CheckFailed(f"{name}: the second run has another score file")
            if result.value() < 0.5:
                raise CheckFailed(
                    f"{name} is {result.value():.3f}; the hashing encoder does better"
                )
    asked, distinct = items[0]["asked"], items[0]["distinct"]
    return f"{len(runs[0].tasks)} tasks, {asked} items asked, {distinct} distinct, second run 0"


def _bundled_suites_open() -> str:
    """Every bundled suite and its profile can be read, without any data."""
    counts = []
    with tempfile.TemporaryDirectory(prefix="mmembed-selfcheck-") as folder:
        for name in list_suites():
            suite = load_suite(name)
            load_profile(suite.config.profile)
            counts.append(f"{name} {len(suite.open(Path(folder)).cards)}")
    return ", ".join(counts)


CHECKS: Mapping[str, Callable[[], str]] = {
    "metrics are their closed forms": _closed_forms,
    "graded nDCG pairs gains with documents": _graded_gains,
    "a constant encoder scores nothing": _constant_encoder,
    "order decides nothing": _order_decides_nothing,
    "top documents are exact": _top_is_exact,
    "broken vectors are refused": _broken_vectors_are_refused,
    "means are over data sets": _means_are_plain,
    "pickles run no code": _pickles_run_no_code,
    "a suite from end to end": _suite_from_end_to_end,
    "bundled suites open": _bundled_suites_open,
}


class _Given:
    """An encoder that gives what it was given."""

    name = "given"
    space = "0" * 64

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows
        self.embedding_dimension = rows.shape[1]

    def encode(
        self,
        items: Sequence[MultimodalInput],
        *,
        role: Role,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        return self.rows

    def describe(self) -> Mapping[str, object]:
        return {}

    def close(self) -> None: ...


def _encode_rows(rows: np.ndarray, item: MultimodalInput) -> None:
    StoredVectors(_Given(rows)).ensure([item], "query")


def _task(
    ids: Sequence[str], relevant: Mapping[str, float], *, pools: bool = False
) -> RetrievalTask:
    item = MultimodalInput((Text("x"),))
    return RetrievalTask(
        "check",
        {"q": item},
        dict.fromkeys(ids, item),
        {"q": relevant},
        pools={"q": list(ids)} if pools else None,
    )


def _ranked(gains: Sequence[float]) -> TaskResult:
    """The result of one query whose documents come in the order of these gains."""
    angles = np.linspace(0.1, 1.2, len(gains))
    documents = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    ids = [f"d{len(gains) - place}" for place in range(len(gains))]
    relevant = {name: gain for name, gain in zip(ids, gains, strict=True) if gain}
    query = np.array([[1.0, 0.0]], np.float32)
    return score_retrieval(_CARD, _task(ids, relevant), query, documents)


def _example() -> tuple[ExampleTasks, StoredVectors]:
    source = ExampleTasks(None, Profile("plain"))
    vectors = StoredVectors(HashingEncoder())
    evaluate({card.name: (card, source.load(card.name)) for card in source.cards()}, vectors)
    return source, vectors


def _scored(card: TaskCard, task: RetrievalTask, vectors: StoredVectors) -> TaskResult:
    queries = vectors.rows(list(task.queries.values()), "query")
    documents = vectors.rows(list(task.corpus.values()), "document")
    return score_retrieval(card, task, queries, documents)


def _turned(task: RetrievalTask) -> RetrievalTask:
    relevant = {name: _backwards(task.relevant[name]) for name in task.relevant}
    return replace(
        task,
        queries=_backwards(task.queries),
        corpus=_backwards(task.corpus),
        relevant=_backwards(relevant),
        pools=task.pools and {name: list(pool)[::-1] for name, pool in task.pools.items()},
    )


def _backwards(found: Mapping[str, Value]) -> dict[str, Value]:
    return dict(list(found.items())[::-1])


def _refused(what: str, action: Callable[[], object]) -> None:
    try:
        action()
    except DataError:
        return
    raise CheckFailed(f"{what} was not refused")


def _equal(what: str, found: float | None, expected: float) -> None:
    if found is None or abs(found - expected) > 1e-9:
        raise CheckFailed(f"{what} is {found}, not {expected}")
