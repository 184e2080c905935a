"""Our tasks under mteb: the same numbers from two scorers (EV-25)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed.baselines.stored_vectors import StoredVectors, with_instruction
from mmembed.errors import ConfigError, DataError
from mmembed.evaluation.mteb_runs.model import mteb_model
from mmembed.evaluation.mteb_runs.running import run_tasks
from mmembed.evaluation.mteb_runs.tasks import local_tasks, main_score
from mmembed.evaluation.plan import sides
from mmembed.evaluation.scoring import score_retrieval
from mmembed.tasks import LoadedTask, RetrievalTask, SimilarityTask, TaskCard
from mmembed.types import Image, MultimodalInput, Page, Text, Video
from tests.evaluation.mteb_runs.conftest import CountingEncoder
from tests.evaluation.mteb_runs.mteb_data import WORDS, picture


def item(*parts: Any, instruction: str | None = None) -> MultimodalInput:
    wrapped = [Text(part) if isinstance(part, str) else part for part in parts]
    return MultimodalInput(tuple(wrapped), instruction)


class Source:
    """A `TaskSource` over files that it writes into a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.loaded: list[str] = []
        for number in range(12):
            picture(number).save(root / f"{number}.png")

    def image(self, number: int) -> Image:
        return Image(self.root / f"{number}.png")

    def clip(self, *numbers: int) -> Video:
        return Video(tuple(self.root / f"{number}.png" for number in numbers))

    def cards(self) -> Sequence[TaskCard]:
        return [
            TaskCard("Labels", "image", "I-CLS", "hit@1", "made up"),
            TaskCard("Pools", "image", "I-RET", "hit@1", "made up", has_pools=True),
            TaskCard("Pages", "visdoc", "VDRv1", "ndcg_linear@5", "made up"),
            TaskCard("Clips", "video", "V-MRET", "hit@1", "made up", has_pools=True),
            TaskCard("Alike", "text", "STS", "spearman", "made up"),
        ]

    def load(self, name: str, *, allow_missing: bool = False) -> LoadedTask:
        self.loaded.append(name)
        return LoadedTask(getattr(self, name.lower())())

    def labels(self) -> RetrievalTask:
        queries = {f"q{n}": item(self.image(n), f" what?\n{n}\n\n") for n in range(6)}
        corpus = {word: item(f"{word} \n") for word in WORDS}
        relevant = {f"q{n}": {WORDS[n % 5]: 1.0} for n in range(6)}
        return RetrievalTask("Labels", queries, corpus, relevant, "Name it: ", None)

    def pools(self) -> RetrievalTask:
        """Every candidate stands twice, so that ties decide; candidates are pictures with text."""
        queries = {f"q{n}": item(WORDS[n], instruction=f"own {n}") for n in range(5)}
        corpus = {f"{side}{n}": item(self.image(n), "a caption") for n in range(6) for side in "ab"}
        pools = {f"q{n}": [f"a{n}", f"b{n}", f"b{n + 1}", f"a{n + 1}"] for n in range(5)}
        relevant = {f"q{n}": {f"{'ab'[n % 2]}{n}": 1.0} for n in range(5)}
        return RetrievalTask("Pools", queries, corpus, relevant, None, "Represent it.", pools)

    def pages(self) -> RetrievalTask:
        """Graded."""
        queries = {f"q{n}": item(WORDS[n]) for n in range(5)}
        corpus = {f"page {n}": item(self.image(n)) for n in range(12)}
        relevant = {
            f"q{n}": {f"page {n}": 2.0, f"page {n + 3}": 1.0, f"page {n + 5}": 3.0, "page 0": 0.0}
            for n in range(5)
        }
        return RetrievalTask("Pages", queries, corpus, relevant, "Find: ", "Understand it.")

    def clips(self) -> RetrievalTask:
        """Queries of three kinds, as MomentSeeker has them."""
        queries = {
            "text": item(WORDS[0]),
            "image": item(self.image(3), WORDS[1], instruction="with a picture"),
            "video": item(self.clip(1, 2), WORDS[2], instruction="with a clip"),
        }
        corpus = {f"clip{n}": item(self.clip(n, n + 1, n + 2)) for n in range(8)}
        pools = {name: [f"clip{n + 2 * place}" for n in (3, 1, 0, 2)]
                 for place, name in enumerate(queries)}  # fmt: skip
        relevant = {
            name: {f"clip{2 * place}": 1.0, f"clip{2 * place + 1}": 1.0}
            for place, name in enumerate(queries)
        }
        return RetrievalTask("Clips", queries, corpus, relevant, None, None, pools)

    def alike(self) -> SimilarityTask:
        return SimilarityTask("Alike", {"1": (item("a"), item("b"))}, {"1": 0.5})


@pytest.fixture
def source(tmp_path: Path) -> Source:
    folder = tmp_path / "data"
    folder.mkdir()
    return Source(folder)


def our_rows(task: RetrievalTask, vectors: StoredVectors) -> list[np.ndarray]:
    return [
        vectors.rows([with_instruction(each, instruction) for each in items.values()], role)
        for _, role, instruction, items in sides(task)
    ]


def test_mteb_gives_the_numbers_of_our_scorer_and_shares_its_vectors(
    source: Source, encoder: CountingEncoder, tmp_path: Path
) -> None:
    vectors = StoredVectors(encoder, tmp_path / "store")
    local = local_tasks(source.cards(), source.load)
    assert [task.metadata.name for task in local.tasks] == [
        "MMEB.Labels", "MMEB.Pools", "MMEB.Pages", "MMEB.Clips"
    ]  # fmt: skip
    assert local.left_out == ("Alike",)
    assert not source.loaded
    expected = {}
    for card in source.cards()[:4]:
        task = source.load(card.name).task
        assert isinstance(task, RetrievalTask)
        result = score_retrieval(card, task, *our_rows(task, vectors))
        expected[f"MMEB.{card.name}"] = result.metrics["docid"]
    encoder.items.clear()
    model = mteb_model(encoder, vectors, local_tasks=local.retrieval_task)
    scores = run_tasks(model, local.tasks, tmp_path / "out", stop_on_error=True)
    assert not encoder.items
    for score in scores:
        path = next((tmp_path / "out").rglob(f"{score.task}.json"))
        (found,) = json.loads(path.read_text())["scores"]["test"]
        ours = expected[score.task]
        for metric in ("hit@1", "hit@5", "ndcg_linear@5", "recall@10", "precision@5", "mrr@10"):
            assert found[main_score(metric)] == pytest.approx(ours[metric], abs=6e-6), metric
        assert 0 < found["ndcg_at_5"] < 1
    by_task = {score.task: score for score in scores}
    assert by_task["MMEB.Pages"].main_score == "ndcg_at_5"
    assert by_task["MMEB.Pools"].main_score == "hit_rate_at_1"


def test_the_columns_alone_give_other_models_the_same_numbers(
    source: Source, encoder: CountingEncoder, tmp_path: Path
) -> None:
    """Where all items of a side have one instruction, and texts have no blanks at their ends."""
    local = local_tasks(source.cards()[2:3], source.load)
    vectors = StoredVectors(encoder)
    (by_items,) = run_tasks(
        mteb_model(encoder, vectors, local_tasks=local.retrieval_task), local.tasks, tmp_path / "a"
    )
    encoder.items.clear()
    (by_columns,) = run_tasks(mteb_model(encoder, vectors), local.tasks, tmp_path / "b")
    assert by_items == by_columns
    assert not encoder.items  # the same files, so the same content


def test_metadata_are_filled_before_and_exact_after_loading(source: Source) -> None:
    tasks = {task.metadata.name: task for task in local_tasks(source.cards(), source.load).tasks}
    for task in tasks.values():
        assert task.metadata.reference is None  # nowhere: made up
        task.metadata._validate_metadata()
    assert tasks["MMEB.Pools"].metadata.type == "VisionCentricQA"
    assert tasks["MMEB.Clips"].metadata.type == "VideoCentricQA"
    assert tasks["MMEB.Pages"].metadata.type == "Any2AnyRetrieval"
    found = {}
    for name, task in tasks.items():
        task.load_data()
        found[name] = (task.metadata.category, task.metadata.modalities)
    assert found == {
        "MMEB.Labels": ("it2t", ["image", "text"]),
        "MMEB.Pools": ("t2it", ["image", "text"]),
        "MMEB.Pages": ("t2i", ["image", "text"]),
        "MMEB.Clips": (None, ["image", "text", "video"]),
    }
    assert tasks["MMEB.Pages"].metadata.prompt == {"query": "Find: ", "document": "Understand it."}


def test_pictures_are_files_until_they_are_read(source: Source) -> None:
    (task,) = local_tasks(source.cards()[2:3], source.load).tasks
    task.load_data()
    column = task.dataset["default"]["test"]["corpus"].data.column("image").to_pylist()
    assert column[0] == {"bytes": None, "path": str(source.root / "0.png")}
    task.unload_data()
    assert task.items is None


def test_pages_clips_in_memory_and_similarities_are_told_apart(
    encoder: CountingEncoder, tmp_path: Path
) -> None:
    """Pages of a PDF have no column in mteb; our model takes the items themselves."""
    pages = pytest.importorskip("pymupdf")
    document = pages.open()
    for word in WORDS:
        document.new_page(width=200, height=100).insert_text((20, 50), word)
    payload = document.tobytes()
    frames = tuple(np.asarray(picture(number)) for number in range(3))
    task = RetrievalTask(
        "Mixed",
        {"q0": item(WORDS[0]), "q1": item(WORDS[1])},
        {"p1": item(Page(payload, "1")), "p2": item(Page(payload, "2")),
         "clip": item(Video(frames)), "bytes": item(Image(_png(5)))},
        {"q0": {"p1": 1.0}, "q1": {"clip": 1.0}},
    )  # fmt: skip
    card = TaskCard("Mixed", "mixed", "any", "hit@1", "made up")
    local = local_tasks([card], lambda name: LoadedTask(task), prefix="OWN")
    vectors = StoredVectors(encoder)
    model = mteb_model(encoder, vectors, local_tasks=local.retrieval_task)
    (score,) = run_tasks(model, local.tasks, tmp_path, stop_on_error=True)
    result = score_retrieval(card, task, *our_rows(task, vectors))
    assert score.task == "OWN.Mixed"
    assert score.value == pytest.approx(result.value("docid"), abs=6e-6)


def _png(number: int) -> bytes:
    import io

    buffer = io.BytesIO()
    picture(number).save(buffer, format="PNG")
    return buffer.getvalue()


def test_what_mteb_cannot_judge_is_refused() -> None:
    with pytest.raises(ConfigError, match="no score for 'map@5'"):
        main_score("map@5")
    task = RetrievalTask("Half", {"q": item("a")}, {"d": item("b")}, {"q": {"d": 0.5}})
    card = TaskCard("Half", "text", "any", "hit@1", "made up")
    (half,) = local_tasks([card], lambda name: LoadedTask(task)).tasks
    with pytest.raises(DataError, match="no whole number"):
        half.load_data()
    pairs = SimilarityTask("Pairs", {}, {})
    (wrong,) = local_tasks([card], lambda name: LoadedTask(pairs)).tasks
    with pytest.raises(DataError, match="SimilarityTask, no retrieval"):
        wrong.load_data()
