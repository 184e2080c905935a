"""From judgements to what people read: the terminal table and the parts of the HTML report."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from mmembed.encoder.identity import package_versions
from mmembed.evaluation.training_curves import training_charts
from mmembed.html.item_cards import item_card
from mmembed.html.page import (
    Example,
    Hit,
    LineChart,
    Matrix,
    Score,
    TaskResult,
)
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.quickstart.judge import CUTOFFS, Judgement, chance
from mmembed.search.row_items import row_item
from mmembed.search.rows import Row
from mmembed.search.searcher import Hit as Found
from mmembed.tasks import RetrievalTask
from mmembed.training.metrics import read_metrics
from mmembed.types import MultimodalInput

__all__ = [
    "Models",
    "charts",
    "environment",
    "examples",
    "found_example",
    "matrix",
    "results",
    "summary",
    "terminal_table",
]

_HITS = 5


class Models:
    """The judgements of every model of a run."""

    def __init__(self, untrained: Judgement, members: Sequence[Judgement], soup: Judgement) -> None:
        self.untrained = untrained
        self.members = tuple(members)
        self.soup = soup

    def score(self, title: str, task: RetrievalTask, k: int) -> Score:
        return Score(
            metric=f"R@{k}",
            chance=chance(task, k),
            untrained=self.untrained.hit_rate(title, k),
            members=tuple(member.hit_rate(title, k) for member in self.members),
            soup=self.soup.hit_rate(title, k),
        )


def results(models: Models, tasks: Mapping[str, RetrievalTask]) -> tuple[TaskResult, ...]:
    """Rows of the results table, in the order of the tasks."""
    return tuple(
        TaskResult(
            name=title,
            num_queries=len(task.queries),
            num_documents=len(task.corpus),
            scores=tuple(models.score(title, task, k) for k in CUTOFFS),
        )
        for title, task in tasks.items()
    )


def terminal_table(rows: Sequence[TaskResult]) -> Table:
    """The results as a table for the terminal."""
    last = f"R@{CUTOFFS[-1]}"
    table = Table(
        title=f"The soup beside its members, the untrained model and chance (these three: {last})"
    )
    table.add_column("task (queries in documents)", min_width=22)
    for k in CUTOFFS:
        table.add_column(f"R@{k}", justify="right", no_wrap=True)
    for column in ("members", "untrained", "chance"):
        table.add_column(column, justify="right", min_width=6)
    for row in rows:
        score = row.scores[-1]
        table.add_row(
            f"{row.name} ({row.num_queries} in {row.num_documents})",
            *(f"{one.soup:.3f}" for one in row.scores),
            " ".join(f"{value:.3f}" for value in score.members),
            f"{score.untrained:.3f}",
            f"{score.chance:.4f}",
        )
    return table


def summary(
    rows: Sequence[TaskResult], train_seconds: float, num_parameters: int
) -> tuple[str, ...]:
    """What the numbers say and what they do not."""
    first = rows[0]
    found = first.scores[-1]
    souped = [score for row in rows for score in row.scores]
    above_mean = sum(score.soup >= np.mean(score.members) - 1e-9 for score in souped)
    return (
        f"A Qwen2-VL of {num_parameters / 1e6:.1f} million parameters was trained from random "
        f"weights on emoji, in two stages and {len(first.scores[0].members)} souped members; "
        f"the training took {train_seconds / 60:.1f} minutes on this machine.",
        f"{first.name}: {found.soup:.1%} of the queries have a right picture among the first "
        f"{CUTOFFS[-1]} of {first.num_documents}; chance is {found.chance:.2%}, the untrained "
        f"model reaches {found.untrained:.2%}.",
        "What this shows: that data, losses, both stages, the soup, encoding of all four "
        "modalities, evaluation and search work together on real pictures and words, in a drawing "
        "style that training never saw. What it does not show: how good a real model would be. "
        "The model knows nothing but emoji. `Trained` rows ask for emoji whose words and first "
        "drawing were trained on (trained names: the very pairs), in a drawing that was not; "
        "held-out emoji were seen in no form, so their recall is low and measures how far "
        "colours, shapes and parts of words generalise. Flags among them can be found by chance "
        "only.",
        f"The soup is at least as good as the mean of its members in {above_mean} of "
        f"{len(souped)} figures. Differences of a few thousandths are noise at this size. Of equal "
        "scores, what is not relevant counts as found first.",
    )


def matrix(
    judgement: Judgement,
    grid: Mapping[tuple[str, str], str],
    tasks: Mapping[str, RetrievalTask],
    k: int,
) -> Matrix:
    """R@k of every modality (row) searched in every other; `grid` names the tasks."""
    names = tuple(dict.fromkeys(row for row, _ in grid))
    values = tuple(
        tuple(
            judgement.hit_rate(grid[row, column], k) if (row, column) in grid else None
            for column in names
        )
        for row in names
    )
    first = next(iter(tasks.values()))
    return Matrix(
        title=f"R@{k}, every modality searched in every other",
        rows=names,
        columns=names,
        values=values,
        comment=f"The same {len(first.corpus)} trained emoji as name, picture, clip and page, all "
        f"in the unseen drawing; chance is {chance(first, k):.3f}.",
    )


def charts(stages: Mapping[str, Path]) -> tuple[LineChart, ...]:
    """The main curves of each stage, from its metrics file."""
    return training_charts(
        {name: read_metrics(path) for name, path in stages.items()},
        titles={"Loss", "Temperature", "In-batch accuracy", "Masked share of negatives"},
    )


def examples(
    judgement: Judgement, tasks: Mapping[str, RetrievalTask], *, per_task: int = 3
) -> tuple[Example, ...]:
    """Evenly spaced queries of every task with their first hits, right or wrong."""
    shown = []
    with MediaDecoder() as decoder:
        for title, task in tasks.items():
            answered = judgement.results[title].queries
            for row in np.linspace(0, len(answered) - 1, per_task + 2).astype(int)[1:-1]:
                query = answered[row]
                hits = tuple(
                    Hit(item_card(task.corpus[name], decoder), score, is_relevant)
                    for (name, score), is_relevant in zip(query.top, query.relevant, strict=True)
                )
                asked = item_card(task.queries[query.id], decoder)
                shown.append(Example(title, asked, hits[:_HITS]))
    return tuple(shown)


def found_example(
    title: str, query: MultimodalInput, hits: Sequence[Found], rows: Sequence[Row]
) -> Example:
    """A search of the index with thumbnails of the files that were found; `rows` are the hits'."""
    with MediaDecoder() as decoder:
        cards = [
            Hit(item_card(row_item(row), decoder, caption=hit.place), hit.score)
            for hit, row in zip(hits[:_HITS], rows, strict=False)
        ]
        return Example(title, item_card(query, decoder), tuple(cards))


def environment(seed: int) -> dict[str, str]:
    """Machine and versions, for whoever compares numbers."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} logical cores, "
        f"{torch.get_num_threads()} threads, {platform.system()}",
        "seed": str(seed),
        **package_versions(),
    }
