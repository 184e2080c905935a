"""Does mining find planted near-duplicates, and leave planted false negatives alone?

    python -m benchmarks.planted_negatives --teacher run/model

Two sets are made from the bundled emoji: English names with pictures, and English names with German
ones. Near-duplicates are the other emoji of a subgroup: what mining is to find. False negatives are
documents of the same thing under an id of their own: emoji that look alike, the other vendor's
drawing, and the name in other words.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_adapters.emoji_source import (
    LICENSE,
    REVISION,
    VENDORS,
    Emoji,
    emoji_of_split,
    picture_twins,
)
from mmembed.baselines.item_encoder import ItemEncoder
from mmembed.baselines.loading import load_model
from mmembed.config.mining import MiningConfig
from mmembed.data.opening import OpenedDataset
from mmembed.data.row_files import RowFile
from mmembed.mining.job import mine
from mmembed.types import ContrastiveExample, Image, MultimodalInput, Task, Text

__all__ = ["Found", "Meaning", "PlantedRows", "main", "measure"]

NUM_NEGATIVES = 7
FRAMES = ("{}!", "das {}-Emoji", "({})", "Symbol: {}")
_MEMBERS = range(4, 40)  # of a subgroup that is used


@dataclass(frozen=True)
class Meaning:
    """What a document shows: `thing` is equal for those that show the same."""

    thing: str
    subgroup: str


class PlantedRows:
    """A `DatasetAdapter`.

    Attributes:
        meanings: of each document, by its text or its bytes.
        row_meanings: of each row.
    """

    task: Task = "retrieval"
    revision = REVISION
    license = LICENSE

    def __init__(self, name: str, entries: Sequence[tuple[str, str | bytes, str, Meaning]]) -> None:
        self.name = name
        self.entries = entries
        self.meanings = {document: meaning for _, document, _, meaning in entries}
        self.row_meanings = [meaning for *_, meaning in entries]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> ContrastiveExample:
        query, document, document_id, _ = self.entries[index]
        part = Text(document) if isinstance(document, str) else Image(document)
        return ContrastiveExample(
            MultimodalInput((Text(query),)),
            (MultimodalInput((part,)),),
            query_id=f"{self.name}/{index}",
            positive_ids=(document_id,),
        )

    @classmethod
    def pictures(cls, num_emoji: int) -> PlantedRows:
        """Names with pictures. Every other emoji is there in both drawings."""
        entries = []
        for number, emoji in enumerate(_chosen(num_emoji, "en", with_twins=True)):
            meaning = Meaning(min(_alike(emoji.id)), emoji.subgroup)
            name = emoji.names["en"]
            entries.append((name, emoji.pictures["noto"], emoji.id, meaning))
            if number % 2:
                drawn = (f"a picture of {name}", emoji.pictures["twemoji"], f"drawn/{emoji.id}")
                entries.append((*drawn, meaning))
        return cls("pictures", entries)

    @classmethod
    def names(cls, num_emoji: int) -> PlantedRows:
        """Names with names. Every other emoji's is there in other words, too."""
        entries = []
        for number, emoji in enumerate(_chosen(num_emoji, "de")):
            meaning = Meaning(emoji.id, emoji.subgroup)
            english, german = emoji.names["en"], emoji.names["de"]
            entries.append((english, german, emoji.id, meaning))
            if number % 2:
                words = FRAMES[number // 2 % len(FRAMES)].format(german)
                entries.append((f"{english} emoji", words, f"said/{emoji.id}", meaning))
        return cls("names", entries)


def _alike(emoji: str) -> set[str]:
    """Emoji that one vendor or the other draws alike, through any number of others."""
    found, fresh = {emoji}, {emoji}
    while fresh:
        fresh = {twin for each in fresh for v in VENDORS for twin in picture_twins(v)[each]} - found
        found |= fresh
    return found


def _chosen(count: int, language: str, with_twins: bool = False) -> list[Emoji]:
    """Whole subgroups; those with emoji that look alike first, where they are asked for."""
    twins = picture_twins("noto")
    groups: dict[str, list[Emoji]] = defaultdict(list)
    for emoji in emoji_of_split("train"):
        if language in emoji.names:
            groups[emoji.subgroup].append(emoji)
    flags = groups.get("country-flag", [])
    groups["country-flag"] = [each for each in flags if len(twins[each.id]) > 1]
    usable = [group for group in groups.values() if len(group) in _MEMBERS]
    if with_twins:
        usable.sort(key=lambda group: -sum(len(twins[each.id]) > 1 for each in group))
    return [emoji for group in usable for emoji in group][:count]


@dataclass(frozen=True)
class Found:
    """Shares of one data set under one setting.

    Attributes:
        negative_precision: of the negatives, those that are near-duplicates.
        negative_recall: of the near-duplicates, as many as a row may get, those that were found.
        filter_precision: of what the filters took out, false negatives; 1 where they took nothing.
        filter_recall: of the false negatives among the hits, those that the filters took out.
    """

    negative_precision: float
    negative_recall: float
    filter_precision: float
    filter_recall: float

    def __str__(self) -> str:
        return (
            f"near-duplicates: precision {self.negative_precision:.3f}, recall "
            f"{self.negative_recall:.3f}; false negatives filtered: precision "
            f"{self.filter_precision:.3f}, recall {self.filter_recall:.3f}"
        )


def measure(
    data: PlantedRows, encoder: ItemEncoder, config: MiningConfig, out: Path
) -> tuple[Found, Found]:
    """Without and with the filters of `config`; both look at the hits within its ranks."""
    opened = [OpenedDataset(data.name, data, "benchmarks.planted_negatives:PlantedRows", {})]
    depth = config.ranks[1]
    plain = MiningConfig(ranks=config.ranks, num_negatives=depth)
    hits, passed = (
        _documents(
            mine(
                opened, encoder, settings, out / name, seed=0, store=out / "vectors",
                show_progress_bar=False,
            ).files[data.name]
        )
        for name, settings in (
            ("plain", plain),
            ("filtered", config.model_copy(update={"num_negatives": depth})),
        )
    )  # fmt: skip
    return _found(data, hits, hits), _found(data, hits, passed)


def _documents(path: Path) -> dict[int, list[str | bytes]]:
    """Negatives of each row."""
    rows = RowFile(path)
    found = {}
    for row in range(len(rows)):
        items = rows[row].hard_negatives
        found[int(rows.meta(row)["row"])] = [_content(item) for item in items]
    return found


def _content(item: MultimodalInput) -> str | bytes:
    (part,) = item.parts
    if isinstance(part, Text):
        return part.text
    assert isinstance(part, Image) and isinstance(part.source, Path)
    return part.source.read_bytes()


def _found(
    data: PlantedRows, hits: dict[int, list[str | bytes]], passed: dict[int, list[str | bytes]]
) -> Found:
    in_subgroup: dict[str, list[Meaning]] = defaultdict(list)
    for meaning in data.meanings.values():
        in_subgroup[meaning.subgroup].append(meaning)
    right = given = possible = removed = removed_false = false = 0
    for row, meaning in enumerate(data.row_meanings):
        near = sum(other.thing != meaning.thing for other in in_subgroup[meaning.subgroup])
        possible += min(near, NUM_NEGATIVES)
        negatives = [data.meanings[each] for each in passed.get(row, ())[:NUM_NEGATIVES]]
        given += len(negatives)
        right += sum(
            other.subgroup == meaning.subgroup and other.thing != meaning.thing
            for other in negatives
        )
        stays = set(passed.get(row, ()))
        for each in hits[row]:
            is_false = data.meanings[each].thing == meaning.thing
            false += is_false
            removed += each not in stays
            removed_false += is_false and each not in stays
    return Found(
        right / max(1, given),
        right / max(1, possible),
        removed_false / removed if removed else 1.0,
        removed_false / false if false else 1.0,
    )


def _report(teacher: ItemEncoder, config: MiningConfig, num_emoji: int, out: Path) -> Iterator[str]:
    """A line for each data set and setting."""
    for data in (PlantedRows.pictures(num_emoji), PlantedRows.names(num_emoji)):
        without, with_filters = measure(data, teacher, config, out / data.name)
        yield f"{data.name}, no filter:   {without}"
        yield f"{data.name}, with filter: {with_filters}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--teacher", required=True, help="a model, as `mmembed mine` takes it")
    parser.add_argument("--num-emoji", type=int, default=300)
    parser.add_argument("--relative-margin", type=float)
    parser.add_argument("--max-similarity", type=float, default=0.95)
    parser.add_argument("--max-query-similarity", type=float, default=0.8)
    parser.add_argument("--last-rank", type=int, default=30)
    given = parser.parse_args(arguments)
    config = MiningConfig(
        ranks=(1, given.last_rank),
        relative_margin=given.relative_margin,
        max_similarity=given.max_similarity,
        max_query_similarity=given.max_query_similarity,
    )
    teacher = load_model(given.teacher)
    with tempfile.TemporaryDirectory() as folder:
        for line in _report(teacher, config, given.num_emoji, Path(folder)):
            sys.stdout.write(line + "\n")
    teacher.close()


if __name__ == "__main__":
    main()
