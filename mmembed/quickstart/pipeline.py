"""The order of events of `mmembed quickstart`. A step that is complete is not done again."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from safetensors import safe_open

from mmembed.encoder.embedder import Embedder
from mmembed.encoder.scratch import create_checkpoint
from mmembed.errors import SpaceMismatchError
from mmembed.evaluation.references import resolve
from mmembed.html.page import Example, Report, write_report
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.quickstart import pages
from mmembed.quickstart.experiment import Experiment, load_experiment, scaled_recipe
from mmembed.quickstart.judge import Judgement, judge, num_items
from mmembed.search.corpus import index_folder
from mmembed.search.exact_index import ExactIndex
from mmembed.search.searcher import Searcher
from mmembed.tasks import RetrievalTask
from mmembed.training.progress import training_progress
from mmembed.training.stages import TrainResult, train
from mmembed.training.start import model_overrides
from mmembed.types import MultimodalInput

__all__ = ["fresh_index", "run"]

TABLE_FILE = "results.json"
REPORT_FILE = "report.html"


def run(
    *,
    output: Path,
    seed: int = 0,
    minutes: float | None = None,
    experiment: str = "quickstart",
) -> Path:
    """Train a small model on bundled data, judge it, index a folder with it, and search.

    Args:
        output: folder for everything; an interrupted run continues there.
        seed: of weights, data order and evaluation; the same seed gives the same table.
        minutes: about how long to train on two cores; scales the number of steps.
        experiment: name or path of the experiment file.

    Returns:
        The path of the HTML report.
    """
    output = Path(output)
    console = Console(stderr=True)
    plan = load_experiment(experiment)
    seconds: dict[str, float] = {}
    with _step(console, seconds, "create an untrained model"):
        untrained = _untrained(plan, output / "untrained", seed)
        num_parameters = _num_parameters(untrained)
    recipe = scaled_recipe(plan, model=untrained, seed=seed, minutes=minutes)
    with (
        _step(console, seconds, "train two stages and soup"),
        training_progress(console=console) as progress,
    ):
        trained = train(recipe, output=output / "run", progress=progress, cpu=True)
    if trained.interrupted:
        raise KeyboardInterrupt
    with _step(console, seconds, "judge"):
        tasks = {entry.title: entry.call() for entry in plan.tasks}
        grid, grid_tasks = _grid(plan)
        models, soup_grid = _judge_all(
            untrained, model_overrides(recipe.model), trained, tasks, grid_tasks, console
        )
    with _step(console, seconds, "index a folder and search it"):
        searches = _search_library(plan, trained.model, output, console)
    with _step(console, seconds, "write the report"):
        rows = pages.results(models, tasks)
        paragraphs = pages.summary(rows, _train_seconds(seconds, output), num_parameters)
        report = write_report(
            output / REPORT_FILE,
            Report(
                title="mmembed quickstart",
                summary=paragraphs,
                results=rows,
                matrix=pages.matrix(soup_grid, grid, grid_tasks, k=10),
                examples=pages.examples(models.soup, tasks),
                searches=searches,
                charts=pages.charts(_metrics_files(output / "run")),
                environment=pages.environment(seed),
                seconds=seconds,
                attribution=plan.attribution,
            ),
        )
        _write_table(output / TABLE_FILE, rows)
    console.print(pages.terminal_table(rows))
    for paragraph in paragraphs:
        console.print(paragraph, markup=False)
    command = Path(sys.argv[0])
    program = command if command.name == "mmembed" else "mmembed"
    for line in (
        f"Report: {report}",
        f"Model:  {trained.model}",
        f'Search: {program} search {output / "library.index"} "a happy cat"',
        f"Demo:   {program} demo --quickstart --output {output}",
        f"Judge:  {program} eval run --suite nano-emoji --model {trained.model} "
        f"--out {output / 'nano-emoji'}",
    ):
        console.print(line, markup=False, soft_wrap=True)
    return report


def _untrained(plan: Experiment, folder: Path, seed: int) -> Path:
    """The model before training; made again when it is incomplete or of another seed."""
    note = folder / "seed.json"
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")) == seed:
        return folder
    create_checkpoint(folder, list(plan.texts.call()), seed=seed, **plan.checkpoint)
    note.write_text(json.dumps(seed), encoding="utf-8")
    return folder


def _num_parameters(folder: Path) -> int:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())


def _grid(plan: Experiment) -> tuple[dict[tuple[str, str], str], dict[str, RetrievalTask]]:
    """Names of the matrix's tasks by (row, column), and the tasks by name."""
    made: Mapping[tuple[str, str], RetrievalTask] = resolve(plan.matrix.grid)(
        plan.matrix.items.call()
    )
    names = {cell: f"{cell[0]} -> {cell[1]}" for cell in made}
    return names, {names[cell]: task for cell, task in made.items()}


def _judge_all(
    untrained: Path,
    settings: Mapping[str, Any],
    trained: TrainResult,
    tasks: Mapping[str, RetrievalTask],
    grid_tasks: Mapping[str, RetrievalTask],
    console: Console,
) -> tuple[pages.Models, Judgement]:
    """Every model on every task, all with the same input settings; the matrix is the soup's."""
    with Progress(console=console) as progress, MediaDecoder(num_workers=2) as decoder:

        def judged(
            label: str,
            model: Path,
            wanted: Mapping[str, RetrievalTask],
            options: Mapping[str, Any] | None = None,
        ) -> Judgement:
            bar = progress.add_task(label, total=num_items(wanted))
            return judge(
                model,
                wanted,
                options={"media": decoder, **(options or {})},
                on_progress=lambda count: progress.advance(bar, count),
            )

        before = judged("untrained", untrained, tasks, settings)
        members = [
            judged(f"member {number}", folder, tasks)
            for number, folder in enumerate(trained.members, start=1)
        ]
        soup = judged("soup", trained.model, tasks)
        cells = judged("matrix", trained.model, grid_tasks)
    return pages.Models(before, members or [soup], soup), cells


def _search_library(
    plan: Experiment, model: Path, output: Path, console: Console
) -> tuple[Example, ...]:
    """Index a folder of mixed files and answer three queries about it."""
    library = output / "library"
    content: dict[str, str] = plan.library.call(library)
    shown = []
    with Embedder.from_pretrained(model, device="cpu") as embedder:
        index = fresh_index(output / "library.index", embedder)
        index.settings["model"] = str(model.resolve())
        report = index_folder(
            library, embedder=embedder, index=index, decoder=embedder.processor.decoder
        )
        console.print(str(report), markup=False)
        searcher = Searcher(embedder, index)
        for title, query in _queries(library, content).items():
            hits = searcher.search(query, k=5)
            console.print(title, style="bold", markup=False)
            for hit in hits:
                place = Path(hit.path).name + (f" page {hit.page}" if hit.page else "")
                name = Path(hit.path).name
                what = content.get(f"{name}#{hit.page}", content.get(name, ""))
                console.print(f"  {hit.score:.3f}  {place}  ({what})", markup=False)
            rows = index.get([hit.id for hit in hits])
            shown.append(pages.found_example(title, query, hits, rows))
    return tuple(shown)


def fresh_index(folder: Path, embedder: Embedder) -> ExactIndex:
    """The index of a library; one that an earlier model of this output made is replaced."""
    width = embedder.embedding_dimension
    try:
        return ExactIndex(folder, fingerprint=embedder.fingerprint, dimension=width)
    except SpaceMismatchError:
        shutil.rmtree(folder)
        return ExactIndex(folder, fingerprint=embedder.fingerprint, dimension=width)


def _queries(library: Path, content: Mapping[str, str]) -> dict[str, MultimodalInput]:
    """A text for a picture, a text for a page, and a picture as the query."""
    pictures = [name for name in content if name.endswith(".png")]
    page = next(name for name in content if "#" in name)
    return {
        f'text: "{content[pictures[0]]}"': MultimodalInput.of(content[pictures[0]]),
        f'text: "{content[page]}"': MultimodalInput.of(content[page]),
        f"picture: {pictures[-1]} ({content[pictures[-1]]})": MultimodalInput.of(
            library / pictures[-1]
        ),
    }


def _metrics_files(run: Path) -> dict[str, Path]:
    return {path.parent.name: path for path in sorted(run.glob("*/metrics.jsonl"))}


def _train_seconds(seconds: dict[str, float], output: Path) -> float:
    """Training time, also when this call only continued a finished run."""
    path = output / "train_seconds.json"
    spent = seconds["train two stages and soup"]
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else 0.0
    if spent > before:
        path.write_text(json.dumps(spent), encoding="utf-8")
    return max(spent, before)


def _write_table(path: Path, rows: Any) -> None:
    table = [
        {
            "task": row.name,
            "num_queries": row.num_queries,
            "num_documents": row.num_documents,
            "scores": {
                score.metric: {
                    "soup": score.soup,
                    "members": list(score.members),
                    "untrained": score.untrained,
                    "chance": score.chance,
                }
                for score in row.scores
            },
        }
        for row in rows
    ]
    path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _step(console: Console, seconds: dict[str, float], label: str) -> Iterator[None]:
    console.print(f"[bold]{label}[/bold]")
    begin = time.monotonic()
    yield
    seconds[label] = time.monotonic() - begin
