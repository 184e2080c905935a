"""The sheet of mined rows: documents with scores and ranks, suspected ones marked."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mmembed.mining.sheet import SheetDocument, SheetRow, write_sheet
from mmembed.types import Image, MultimodalInput

HOSTILE = "<script>alert('1')</script> & \"quotes\""


def test_a_sheet_shows_scores_and_ranks_and_marks_suspected_documents(tmp_path: Path) -> None:
    picture = MultimodalInput((Image(np.full((40, 60, 3), 90, np.uint8)),))
    text = MultimodalInput.of
    row = SheetRow(
        "rows.jsonl, line 3",
        text("a cat", "find it"),
        [SheetDocument(picture, score=0.75, rank=2), SheetDocument(text("p"), is_suspected=True)],
        [
            SheetDocument(text("a kitten"), 0.8, 1, is_suspected=True, note="above the positive"),
            SheetDocument(text("a dog"), 0.25, 1234),
        ],
        notes=("threshold 0.7",),
    )
    path = write_sheet(tmp_path / "a" / "sheet.html", iter([row, row]), title="mined")
    page = path.read_text(encoding="utf-8")
    tree = ElementTree.fromstring(page.partition("\n")[2])
    articles = tree.findall(".//article")
    assert len(articles) == 2
    items = articles[0].findall(".//ul/li")
    assert [item.get("class") for item in items] == ["relevant", "doubtful", "doubtful", None]
    words = ["".join(item.itertext()) for item in items]
    assert words[0] == "positive, rank 2, score 0.750"
    assert words[1].endswith("positive, false positive?")
    assert words[2].endswith("rank 1, score 0.800, false negative?, above the positive")
    assert words[3].endswith("hard negative, rank 1,234, score 0.250")
    whole = "".join(articles[0].itertext())
    assert "threshold 0.7" in whole and "find it" in whole and "rows.jsonl, line 3" in whole
    assert "2 rows, 4 suspected" in page
    assert page.count("data:image/webp") == 2


def test_a_sheet_escapes_and_says_what_cannot_be_shown(tmp_path: Path) -> None:
    missing = MultimodalInput((Image(tmp_path / "none.png"),))
    row = SheetRow(HOSTILE, MultimodalInput.of(HOSTILE), [SheetDocument(missing, note=HOSTILE)])
    path = write_sheet(tmp_path / "sheet.html", [row], title=HOSTILE, summary=(HOSTILE,))
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page and "cannot be shown: not_found" in page
