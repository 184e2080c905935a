"""MegaPairs: a picture and a wish lead to another picture.

`annotation/megapairs.jsonl` has on each line `q_img`, `q_text` (several wordings of the wish),
`t_img` and `hns`, pictures that are hard negatives; the first of them is `q_img` itself, so that
the wish cannot be ignored. https://github.com/VectorSpaceLab/MegaPairs
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Any

from data_adapters.cells import TEXTS, Kind, check_cells
from data_adapters.document_ids import document_ids
from data_adapters.images.captioned import caption_of
from data_adapters.media import safe_path
from mmembed.datasets import DatasetCard, ExampleRows
from mmembed.errors import ConfigError, DataError, InputError
from mmembed.tables.examples import TableRows
from mmembed.tables.opening import open_table
from mmembed.types import ContrastiveExample, Image, MultimodalInput, Text

__all__ = ["load"]

_ONE = Kind("the path of a picture", lambda value: isinstance(value, str) and bool(value))
_CELLS = {"q_img": _ONE, "q_text": TEXTS, "t_img": _ONE, "hns": TEXTS}


def load(
    card: DatasetCard,
    folder: Path,
    annotation: str = "annotation/megapairs.jsonl",
    images: str = "images",
    draw: int = 0,
    num_negatives: int | None = None,
) -> ExampleRows:
    """A row for each line.

    Args:
        images: folder that the paths of pictures count from.
        draw: which of the wordings is taken: always the same for a line; another number takes
            others.
        num_negatives: at most so many of `hns`, from the front; all if None.
    """
    if num_negatives is not None and num_negatives < 0:
        raise ConfigError(f"num_negatives must be 0 or more: {num_negatives}")
    file = folder / annotation
    if not file.is_file():
        raise DataError(f"{card.name}: {file} is not there; mmembed data fetch {card.name}")
    root = folder / images

    def positive(row: dict[str, Any], where: str = "t_img") -> MultimodalInput:
        return MultimodalInput((Image(safe_path(root, row.get("t_img"), where=where)),))

    def ids(row: dict[str, Any]) -> tuple[str, ...]:
        return document_ids((positive(row),), root)

    def parse(row: dict[str, Any], where: str) -> ContrastiveExample:
        check_cells(row, _CELLS, where)
        query = safe_path(root, row["q_img"], where=where)
        target = safe_path(root, row["t_img"], where=where)
        hard = [safe_path(root, path, where=where) for path in row["hns"][:num_negatives]]
        if target == query:
            raise InputError("invalid_type", f"{where}: q_img and t_img are the same picture")
        wordings = [text for text in row["q_text"] if text.strip()]
        if not wordings:
            raise InputError("empty", f"{where}: q_text has no text")
        drawn = blake2b(f"{draw} {row['q_img']} {row['t_img']}".encode(), digest_size=8).digest()
        text = caption_of(wordings[int.from_bytes(drawn, "big") % len(wordings)], "q_text", where)
        return ContrastiveExample(
            MultimodalInput((Image(query), Text(text))),
            (positive(row, where),),
            tuple(MultimodalInput((Image(path),)) for path in hard if path != target),
            task=card.task,
            positive_ids=ids(row),
        )

    return TableRows(card, open_table([file]), parse, document_ids=ids)
