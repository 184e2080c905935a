"""The preview shows what rows hold, in one file that stands alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mmembed.data.opening import OpenedDataset
from mmembed.data.row_files import RowFile
from mmembed.inputs.prompt import load_template
from mmembed.inspection.preview import exact_prompts, write_preview
from mmembed.types import ContrastiveExample, Image, MultimodalInput, Text
from tests.inspection.planted import emoji_picture, png
from tests.media_files import pdf, video

HOSTILE = "<script>alert('1')</script> & \"quotes\" </style>"


def opened(path: Path, name: str = "rows") -> OpenedDataset:
    return OpenedDataset(name, RowFile(path), "mmembed.data.row_files:RowFile", {"path": "x"})


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(png(emoji_picture(40)))
    (tmp_path / "b.pdf").write_bytes(pdf(2))
    (tmp_path / "c.mp4").write_bytes(video(10))
    lines = [
        {"id": "one", "query": HOSTILE, "positives": [{"image": "a.png"}], "negatives": ["no cat"]},
        {"id": "two", "query": "two pages", "positives": [{"pdf": "b.pdf"}], "label": "paper"},
        {"id": "three", "query": {"video": "c.mp4", "instruction": "find it"}, "positives": ["x"]},
        {"id": "four", "query": "gone", "positives": [{"image": "none.png"}], "scores": [0.25]},
        {"id": "five", "typo": 1},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def page_of(path: Path) -> str:
    page = path.read_text(encoding="utf-8")
    ElementTree.fromstring(page.partition("\n")[2])  # well formed
    return page


def test_everything_of_a_row_is_on_the_page_and_nothing_from_elsewhere(
    rows: Path, tmp_path: Path
) -> None:
    page = page_of(write_preview(tmp_path / "page.html", [opened(rows)], title=HOSTILE))
    for words in (
        "rows.jsonl, line 1",
        "id one",
        "no cat",
        "negative",
        "label &#x27;paper&#x27;",
        "instruction: find it",
        "score 0.250",
        "cannot be shown: not_found",
        "cannot be read",
        "query characters",
        "pixels",
    ):
        assert words in page, words
    assert page.count("data:image/webp;base64") == 3  # a picture, pages, frames
    assert "<script" not in page and not re.search(r'(src|href)="(?!data:)', page)


def test_the_rows_depend_on_the_seed_only(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [{"id": f"row{n}", "query": f"q{n:04}", "positives": [f"p{n:04}"]} for n in range(300)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def shown(seed: int) -> list[str]:
        out = tmp_path / f"{seed}.html"
        write_preview(out, [opened(path)], title="t", num_rows=10, seed=seed)
        return re.findall(r"id (row\d+)", page_of(out))

    first = shown(0)
    assert shown(0) == first != shown(1)
    assert 10 <= len(first) <= 14


def test_the_longest_and_the_shortest_rows_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    texts = ["some words"] * 400
    texts[123], texts[321] = "many words " * 200, "w"
    lines = [{"id": f"row{n}", "query": text, "positives": ["p"]} for n, text in enumerate(texts)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = write_preview(tmp_path / "page.html", [opened(path)], title="t", num_rows=1)
    page = page_of(out)
    assert "id row123, longest texts" in page and "id row321, shortest texts" in page


def test_every_data_set_of_a_mixture_is_shown_with_its_share(rows: Path, tmp_path: Path) -> None:
    sets = [opened(rows, "first"), opened(rows, "second")]
    page = page_of(write_preview(tmp_path / "page.html", sets, title="mixture", num_rows=2))
    assert "Composition" in page and page.count("50.0%") == 2
    assert "<h2>first</h2>" in page and "<h2>second</h2>" in page


def test_prompts_are_those_that_the_model_reads(rows: Path, tmp_path: Path) -> None:
    template = load_template("rzen_release")
    query = MultimodalInput((Image(b"x"), Text("a cat")), "Find it.")
    example = ContrastiveExample(query, (MultimodalInput((Text("a dog"),)),))
    asked, document = exact_prompts(template, example)
    assert asked.startswith("query: ") and document.startswith("document: ")
    assert asked.count("<|image_pad|>") == 1 and "Find it." in asked
    assert "a cat" in asked and "a dog" in document and "Find it." not in document
    out = write_preview(tmp_path / "page.html", [opened(rows)], title="t", template=template)
    assert "document: " in page_of(out)


def test_a_template_of_pairs_shows_both_sides_at_once() -> None:
    template = load_template("qwen3_reranker")
    example = ContrastiveExample(MultimodalInput.of("a cat"), (MultimodalInput.of("a dog"),))
    (pair,) = exact_prompts(template, example)
    assert pair.index("a cat") < pair.index("a dog")
