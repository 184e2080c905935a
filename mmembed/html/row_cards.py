"""A training row as a card of a page: its query beside its documents, each with its words.

`mmembed data preview` and the sheets of mining show rows this way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mmembed.html.markup import Child, Markup, element
from mmembed.html.page import Card, card_figure

__all__ = ["DocumentCard", "RowCard", "row_article"]


@dataclass(frozen=True)
class DocumentCard:
    """One document. `words` stand below it: what it is, its rank, its score.

    `mark`: a `positive` has a green border, a `doubtful` document a red one.
    """

    card: Card
    words: str = ""
    mark: Literal["", "positive", "doubtful"] = ""


@dataclass(frozen=True)
class RowCard:
    """`title` names the row and its place; `notes` are paragraphs, `exact` is shown as it is."""

    title: str
    query: Card
    documents: Sequence[DocumentCard]
    notes: Sequence[str] = ()
    exact: Sequence[str] = ()


def row_article(row: RowCard) -> Markup:
    query = element("div", card_figure(row.query), class_="query")
    documents = element("ul", [_document(each) for each in row.documents], class_="hits")
    notes: list[Child] = [element("p", note, class_="muted") for note in row.notes]
    notes += [element("pre", text, dir="auto") for text in row.exact]
    return element(
        "article", element("h3", row.title), element("div", query, documents, class_="row"), notes
    )


def _document(document: DocumentCard) -> Markup:
    words = element("span", document.words, class_="score") if document.words else ""
    border = {"positive": "relevant", "doubtful": "doubtful"}.get(document.mark)
    return element("li", card_figure(document.card), words, class_=border)
