"""A page of mined rows for people: query, positives and hard negatives with scores and ranks.

Whoever mines looks at a sheet before training on what was mined: a false negative is seen at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmembed.html.item_cards import item_card
from mmembed.html.markup import Child, element
from mmembed.html.page import write_page
from mmembed.html.row_cards import DocumentCard, RowCard, row_article
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.types import MultimodalInput

__all__ = ["SheetDocument", "SheetRow", "write_sheet"]


@dataclass(frozen=True)
class SheetDocument:
    """A positive or a hard negative.

    Attributes:
        score: of the query with it; None where nobody has computed it.
        rank: among all documents, from 1.
        is_suspected: perhaps a positive that the data do not know (a false negative), or a
            positive that perhaps is none.
        note: why, or where it is from.
    """

    item: MultimodalInput
    score: float | None = None
    rank: int | None = None
    is_suspected: bool = False
    note: str = ""


@dataclass(frozen=True)
class SheetRow:
    """`title` names the row: its id, or its file and line. `notes` are of the row as a whole."""

    title: str
    query: MultimodalInput
    positives: Sequence[SheetDocument]
    negatives: Sequence[SheetDocument] = ()
    notes: Sequence[str] = ()


def write_sheet(
    path: Path,
    rows: Iterable[SheetRow],
    *,
    title: str,
    summary: Sequence[str] = (),
    decoder: MediaDecoder | None = None,
) -> Path:
    """Write one HTML file that stands alone: no script, no address, thumbnails inside.

    Args:
        rows: shown in this order; some dozens, not a whole data set.
        summary: paragraphs above them.
        decoder: opens media; None starts one with the default limits.
    """
    if decoder is None:
        with MediaDecoder() as own:
            return write_sheet(path, rows, title=title, summary=summary, decoder=own)
    articles: list[Child] = []
    num_suspected = 0
    for row in rows:
        num_suspected += sum(each.is_suspected for each in (*row.positives, *row.negatives))
        articles.append(row_article(_row_card(row, decoder)))
    counted = f"{len(articles):,} rows, {num_suspected:,} suspected documents (red border)."
    words = [element("p", text) for text in (*summary, counted)]
    return write_page(path, title, [element("section", words, class_="summary"), articles])


def _row_card(row: SheetRow, decoder: MediaDecoder) -> RowCard:
    documents = [_document(each, "positive", decoder) for each in row.positives]
    documents += [_document(each, "hard negative", decoder) for each in row.negatives]
    query = item_card(row.query, decoder, caption=row.query.instruction or "")
    return RowCard(row.title, query, documents, row.notes)


def _document(
    document: SheetDocument, kind: Literal["positive", "hard negative"], decoder: MediaDecoder
) -> DocumentCard:
    words: list[str] = [kind]
    if document.rank is not None:
        words.append(f"rank {document.rank:,}")
    if document.score is not None:
        words.append(f"score {document.score:.3f}")
    if document.is_suspected:
        words.append("false negative?" if kind == "hard negative" else "false positive?")
    mark: Literal["", "positive", "doubtful"] = "positive" if kind == "positive" else ""
    if document.is_suspected:
        mark = "doubtful"
    words += [document.note] if document.note else []
    return DocumentCard(item_card(document.item, decoder), ", ".join(words), mark)
