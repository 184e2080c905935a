"""Five rows of each layout of pictures, as the sources write them, for any card of a family."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from data_adapters.catalog import find_entry
from mmembed.datasets import DatasetCard
from tests.data_adapters.images.files import (
    jpeg,
    write_json,
    write_lines,
    write_parquet,
    write_pictures,
    write_tar,
)

__all__ = ["LAYOUTS", "NUM_ROWS"]

NUM_ROWS = 5


def _merged(card: DatasetCard, folder: Path) -> None:
    options = find_entry(card.name).options
    instruction = (card.query_instructions or ("Embed it.",))[0]
    wording = (card.document_instructions or ("Represent it.",))[0]
    takes_text = "text" in card.query.split("+")
    rows = []
    for number in range(NUM_ROWS):
        query, document = f"images/{number}.jpg", f"images/{number + 1}.jpg"
        captioned = "+text" in card.document
        shown = "image" in card.document
        rows.append(
            {
                "qry": f"<|image_1|>\n{instruction}{f' text {number}' * takes_text}\n",
                "qry_image_path": query if "image" in card.query else "",
                "pos_text": f"<|image_1|>\n{wording}{' caption' * captioned}\n"
                if shown
                else f"answer {number}",
                "pos_image_path": document if shown else "",
                "neg_text": f"{wording} other" * captioned if shown else "another answer",
                "neg_image_path": "images/7.jpg" if shown else "",
            }
        )
    config = card.config
    if "files" in options:
        for row in rows:
            row["neg_text"] = str([row["neg_text"]])
            row["neg_image_path"] = str([row["neg_image_path"]])
        write_parquet(folder / config / f"{config}.parquet", rows)
    else:
        write_parquet(folder / config / f"{card.split}-00000-of-00001.parquet", rows)
    write_pictures(folder / options.get("images", ""), [f"images/{n}.jpg" for n in range(8)])


def _megapairs(card: DatasetCard, folder: Path) -> None:
    lines = [
        {"q_img": f"{n}.jpg", "q_text": ["a"], "t_img": f"{n + 1}.jpg", "hns": [f"{n}.jpg"]}
        for n in range(NUM_ROWS)
    ]
    write_lines(folder / "annotation" / "megapairs.jsonl", lines)
    write_pictures(folder / "images", [f"{n}.jpg" for n in range(NUM_ROWS + 1)])


def _conversations(card: DatasetCard, folder: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A wall."}]
    rows = [{"id": f"{n}", "image": f"a/{n}.jpg", "conversations": turns} for n in range(NUM_ROWS)]
    write_json(folder / find_entry(card.name).options["annotation"], rows)
    write_pictures(
        folder / find_entry(card.name).options.get("images", ""), [row["image"] for row in rows]
    )


def _web(card: DatasetCard, folder: Path) -> None:
    names = find_entry(card.name).options.get("captions", ["caption"])
    meta = {"width": 80, "height": 80, "status": "success", **dict.fromkeys(names, "A wall.")}
    members: dict[str, bytes] = {}
    for number in range(NUM_ROWS):
        members[f"{number:09}.jpg"] = jpeg(80, 80)
        members[f"{number:09}.txt"] = b"A wall."
        members[f"{number:09}.json"] = json.dumps(meta).encode()
    write_tar(
        folder / find_entry(card.name).options.get("files", "00000.tar").replace("*", "0000"),
        members,
    )


def _captions(card: DatasetCard, folder: Path) -> None:
    if card.name == "flickr30k":
        sentences = [{"raw": f"Sentence {n}."} for n in range(NUM_ROWS)]
        images = [{"filename": "1.jpg", "split": "train", "sentences": sentences}]
        content: dict[str, object] = {"images": images}
    else:
        notes = [{"image_id": 1, "caption": f"Sentence {n}."} for n in range(NUM_ROWS)]
        content = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": notes}
    write_json(folder / find_entry(card.name).options["annotation"], content)
    write_pictures(folder / find_entry(card.name).options["images"], ["1.jpg"])


LAYOUTS: dict[str, Callable[[DatasetCard, Path], None]] = {
    "images.merged": _merged,
    "images.megapairs": _megapairs,
    "images.conversations": _conversations,
    "images.web": _web,
    "images.captions": _captions,
}
