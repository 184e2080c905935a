"""LLaVA's conversations about one picture: captions and first questions.

A list of objects in JSON, or JSON lines, with `image` and `conversations`: turns with `from`,
`human` and `gpt` in turn, and `value`. The first question and its answer are used. The marker
`<image>` in the question says where the picture stood.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_adapters.cells import Kind, check_cells, shortened
from data_adapters.document_ids import document_ids
from data_adapters.images.captioned import caption_of, captioned, check_direction
from data_adapters.media import media_source
from mmembed.datasets import DatasetCard, ExampleRows
from mmembed.errors import DataError, InputError
from mmembed.tables.examples import TableRows
from mmembed.tables.opening import open_table
from mmembed.types import ContrastiveExample, Image, MultimodalInput, Text

__all__ = ["load"]

_MARKER = "<image>"
_TURNS = Kind("a list of turns", lambda value: isinstance(value, list) and len(value) >= 2)


def load(
    card: DatasetCard,
    folder: Path,
    annotation: str = "",
    images: str = "",
    direction: str = "t2i",
) -> ExampleRows:
    """A row for each conversation; those without a picture are refused one by one.

    Args:
        annotation: file below `folder`.
        images: folder that the paths of pictures count from, if it is not `folder`.
        direction: `t2i`: the answer, a caption, asks for the picture; `i2t`: the picture asks for
            the answer; `qa`: picture and question ask for the answer.
    """
    check_direction(direction, ("t2i", "i2t", "qa"))
    file = folder / annotation
    if not file.is_file():
        raise DataError(f"{card.name}: {file} is not there; mmembed data fetch {card.name}")
    root = folder / images

    def parse(row: dict[str, Any], where: str) -> ContrastiveExample:
        check_cells(row, {"conversations": _TURNS}, where)
        if "image" not in row:
            raise InputError("empty", f"{where}: a conversation without a picture")
        image = Image(media_source(row["image"], root, where=where))
        question, answer = _first_exchange(row["conversations"], where)
        if direction == "qa":
            text = caption_of(question.replace(_MARKER, ""), "the question", where)
            positive = MultimodalInput((Text(answer),))
            query = MultimodalInput((image, Text(text)))
            ids = document_ids((positive,))
            example = ContrastiveExample(query, (positive,), task=card.task, positive_ids=ids)
        else:
            example = captioned(card.task, image, (answer,), direction, root=root)
        return example

    return TableRows(card, open_table([file]), parse)


def _first_exchange(turns: list[Any], where: str) -> tuple[str, str]:
    values = []
    for speaker, turn in zip(("human", "gpt"), turns, strict=False):
        if not isinstance(turn, dict) or turn.get("from") != speaker:
            raise InputError(
                "invalid_type",
                f"{where}: expected a turn from {speaker!r}, found {shortened(turn)}",
            )
        values.append(caption_of(turn.get("value"), f"the turn from {speaker!r}", where))
    question, answer = values
    return question, answer
