"""Runs a pipeline over rows: many at once, within its limits, each exactly once.

    open_rows -> RowWriting in threads -> Journal -> publish: rows.jsonl and rejected.jsonl

A run that was stopped or killed goes on when it is started again with the same folder: rows that
are done stay done and no answer in the journal is asked for again.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmembed.endpoints.client import EndpointClient
from mmembed.endpoints.workers import work_through
from mmembed.errors import ConfigError, DataError, EndpointError, InputError
from mmembed.progress import progress_bar
from mmembed.store.durable import lock_folder, write_atomically
from mmembed.synthesis.acceptance import Accepted
from mmembed.synthesis.budget import Budget, BudgetSpent
from mmembed.synthesis.chat import Chat
from mmembed.synthesis.journal import Journal
from mmembed.synthesis.personas import PersonaFinder
from mmembed.synthesis.pictures import PictureReader
from mmembed.synthesis.pipeline import Pipeline
from mmembed.synthesis.publishing import publish
from mmembed.synthesis.rows import InputRow, InputRows
from mmembed.synthesis.writing import RowWork, RowWriting

__all__ = ["SynthesisReport", "num_done", "synthesize"]

RUN, JOURNAL = "run.json", "journal.jsonl"
SHOWN_FAILURES = 5


@dataclass(frozen=True)
class SynthesisReport:
    """Of all runs in the folder so far.

    Attributes:
        num_open: rows that are not done: failed, or behind a limit.
        failures: why rows failed in this run, the first few.
        stopped: which limit ended the run; None: none did.
    """

    num_rows: int
    num_rejected: int
    num_duplicates: int
    num_open: int
    num_requests: int
    input_tokens: int
    output_tokens: int
    cost: float
    failures: tuple[str, ...]
    stopped: str | None

    def __str__(self) -> str:
        return (
            f"{self.num_rows:,} rows, {self.num_rejected:,} rejected "
            f"({self.num_duplicates:,} duplicates), {self.num_open:,} open; "
            f"{self.num_requests:,} answers, {self.input_tokens:,} + {self.output_tokens:,} "
            f"tokens, cost {self.cost:.4f}"
        )


def synthesize(
    pipeline: Pipeline,
    rows: InputRows,
    client: EndpointClient,
    out: Path,
    *,
    limit: int | None = None,
    show_progress_bar: bool | None = None,
) -> SynthesisReport:
    """Work on the first `limit` rows and write `out`.

    Ctrl-C lets requests in flight end and be logged, then raises `KeyboardInterrupt`.

    Raises:
        ConfigError: `out` belongs to another pipeline, model, seed or input.
        DataError: a row of the input is not the one that was worked on.
        EndpointError: the server refuses everybody, or fails for row after row.
        StoreError: another process works in `out`, or its journal is damaged.
    """
    out.mkdir(parents=True, exist_ok=True)
    personas = PersonaFinder(pipeline.personas) if pipeline.personas else None
    indices = rows.select(limit)
    with (
        lock_folder(out, wait=False),
        Journal(out / JOURNAL) as journal,
        PictureReader(pipeline.pictures) as reader,
    ):
        _claim_folder(pipeline, rows, client, out)
        _check_input(rows, journal)
        tokens = (journal.input_tokens, journal.output_tokens)
        budget = Budget(pipeline.limits, num_requests=journal.num_answers, tokens=tokens)
        accepted = Accepted()
        for record in journal.rows():
            accepted.restore(record["key"], record["taken"])
        chat = Chat(client, pipeline, journal, budget)
        writing = RowWriting(pipeline, chat, reader, accepted, personas)
        try:
            failures, stopped = _work(
                rows, indices, client, journal, writing, accepted, budget, show_progress_bar
            )
        except EndpointError:  # what is paid for is written, though the server may stay away
            publish(pipeline, rows, indices, journal, out)
            raise
        published = publish(pipeline, rows, indices, journal, out)
        return SynthesisReport(
            published.num_rows,
            published.num_rejected,
            published.num_duplicates,
            num_open=len(indices) - published.num_rows - published.num_rejected,
            num_requests=journal.num_answers,
            input_tokens=journal.input_tokens,
            output_tokens=journal.output_tokens,
            cost=budget.cost(journal.input_tokens, journal.output_tokens),
            failures=tuple(failures[:SHOWN_FAILURES]),
            stopped=stopped,
        )


def num_done(out: Path) -> int:
    """Rows that earlier runs in this folder have done."""
    if not (out / JOURNAL).exists():
        return 0
    with lock_folder(out, wait=False), Journal(out / JOURNAL) as journal:
        return sum(1 for _ in journal.rows())


def _work(
    rows: InputRows,
    indices: range,
    client: EndpointClient,
    journal: Journal,
    writing: RowWriting,
    accepted: Accepted,
    budget: Budget,
    show: bool | None,
) -> tuple[list[str], str | None]:
    failures: list[str] = []
    refused: list[_Refused] = []
    stopped: str | None = None
    in_a_row = 0

    def undone() -> Iterator[int]:
        for index in indices:
            if stopped is not None:
                return
            if not journal.has_row(str(index)):
                yield index

    def work(index: int) -> None:
        try:
            row = rows[index]
        except InputError:  # costs nothing; is looked at again in the next run
            return
        outcome = writing.write(row)
        if outcome.problem is not None:
            accepted.release(row.key)
        if outcome.is_refused and not journal.num_answers:
            raise _Refused(row, outcome)
        _log_row(journal, row, outcome, accepted.taken_by(row.key))

    total = sum(not journal.has_row(str(index)) for index in indices)
    threads = max(1, min(client.concurrency, total))
    with _bar(show, total, lambda: f"cost {budget.spent:.4f}") as advance:
        for index, error in work_through(work, undone(), num_threads=threads, stop=client.stop):
            if error is None:
                in_a_row = 0
                advance(1)
            elif isinstance(error, BudgetSpent):
                stopped = stopped or str(error)
            elif isinstance(error, _Refused):
                refused.append(error)
                in_a_row += 1
                if in_a_row >= max(3, threads) and not journal.num_answers:
                    hint = ""
                    if "max_completion_tokens" in str(error):
                        hint = ". Give --set max_tokens_field=max_completion_tokens"
                    raise EndpointError(f"the server refuses every request. {error}{hint}")
            elif isinstance(error, EndpointError) and error.retryable:
                failures.append(f"row {index}: {error}")
                in_a_row += 1
                if in_a_row >= max(3, threads):
                    raise EndpointError(
                        f"{in_a_row} rows failed one after another, the last with: {error}. Run "
                        "the same command again when the server is well",
                        status=error.status,
                        retryable=True,
                    )
            else:
                raise error
    for one in refused:
        if journal.num_answers:  # the server takes others: it is this one that it refuses
            _log_row(journal, one.row, one.work, [])
        else:
            failures.append(f"row {one.row.key}: {one.work.problem}")
    return failures, stopped


class _Refused(Exception):  # noqa: N818  a row, by a server that has not answered any yet
    def __init__(self, row: InputRow, work: RowWork) -> None:
        super().__init__(work.problem)
        self.row = row
        self.work = work


def _check_input(rows: InputRows, journal: Journal) -> None:
    for record in journal.rows():
        index = int(record["key"])
        try:
            found = rows[index].id if index < len(rows) else "none"
            is_same = index < len(rows) and rows[index].digest() == record["digest"]
        except InputError as error:
            found, is_same = str(error), False
        if not is_same:
            raise DataError(
                f"row {index} of {rows.name} was {record['id']!r} when it was worked on, and now "
                f"it is another ({found}); the input has changed. Restore it, or write to another "
                "folder"
            )


def _claim_folder(pipeline: Pipeline, rows: InputRows, client: EndpointClient, out: Path) -> None:
    """Write down what this folder is for, or see that it is for the same."""
    wanted = {
        "format": "mmembed-synthesis/1",
        "pipeline": pipeline.fingerprint,
        "model": client.model,
        "input": rows.name,
    }
    path = out / RUN
    if not path.exists():
        settings = pipeline.model_dump(mode="json")
        text = json.dumps({**wanted, "settings": settings}, indent=1, ensure_ascii=False)
        write_atomically(path, text.encode())
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = {}
    for name, value in wanted.items():
        if found.get(name) != value:
            raise ConfigError(
                f"{out} was begun with {name} {found.get(name)!r}, and this run has {value!r}. "
                "Give the same settings to go on, or another folder"
            )


def _log_row(journal: Journal, row: InputRow, work: RowWork, taken: list[str]) -> None:
    own = row.fields()
    journal.add_row(
        row.key,
        {
            "id": row.id,
            "digest": row.digest(),
            "problem": work.problem,
            "fields": {name: value for name, value in work.fields.items() if name not in own},
            "requests": work.requests,
            "taken": taken,
        },
    )


@contextlib.contextmanager
def _bar(
    show: bool | None, total: int, report: Callable[[], str]
) -> Iterator[Callable[[int], None]]:
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda count: None
        return
    with progress_bar("writing", total, unit="rows", report=report) as advance:
        yield advance
