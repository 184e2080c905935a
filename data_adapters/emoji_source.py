"""The bundled emoji table: records, the split that holds whole emoji out, sentence frames.

1,911 emoji drawn by two vendors, with names and keywords in up to 12 languages; sources and
licences are in `emoji_data/README.md`. `emoji.py` turns records into training examples,
`emoji_tasks.py` into retrieval tests, `emoji_drawing.py` draws them.

Two things can be held out. A *vendor*: nothing here stops a caller from training on both, so a
test of an unseen drawing style must name one vendor for training and the other for the test. And
*emoji*: the split `held_out` has 200, chosen by SHA-256 of their family within each group, as many
of each group as its share of the table. Families are never divided between the splits: the
man / woman / person, hair and direction variants of one activity, and emoji that one of the
vendors draws alike (Norway, Svalbard and Bouvet Island share a flag). Families of more
than six (clock faces, family groups, people without an activity) are in `train` only. What remains
related across the splits is meant to be: a held-out blue book can be found by a model that knows
blue hearts and green books. A held-out country flag is a name that was never read and a picture
that was never seen; only chance or the word `flag` can find it.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = [
    "LANGUAGES",
    "LICENSE",
    "NUM_HELD_OUT",
    "REVISION",
    "SPLITS",
    "VENDORS",
    "Emoji",
    "emoji_of_split",
    "load_emoji",
    "picture_twins",
    "templates",
    "texts",
]

LANGUAGES = ("en", "zh", "es", "fr", "de", "ja", "ar", "hi", "ru", "pt", "ko", "sw")
VENDORS = ("noto", "twemoji")
SPLITS = ("train", "held_out", "all")
NUM_HELD_OUT = 200
REVISION = "emoji-datasource 16.0.0, cldr-annotations-full 48.2"
LICENSE = "Apache-2.0 AND CC-BY-4.0 AND Unicode-3.0 AND MIT"

_FOLDER = Path(__file__).parent / "emoji_data"
_MAX_HELD_OUT_FAMILY = 6
# man, woman, person; female and male sign; arrow right, as parts of a joined sequence
_VARIANT_PARTS = frozenset({"1f468", "1f469", "1f9d1", "2640", "2642", "27a1"})


@dataclass(frozen=True)
class Emoji:
    """One emoji: names and keywords by language, pictures (WebP bytes, 64 x 64 RGBA) by vendor.

    `id` is its code points in hexadecimal, joined by `-`; `family` is shared by near duplicates.
    Every emoji has an English name; 326 (flags and joined sequences) have nothing else.
    """

    id: str
    char: str
    group: str
    subgroup: str
    names: Mapping[str, str]
    keywords: Mapping[str, tuple[str, ...]]
    pictures: Mapping[str, bytes]
    family: str


@lru_cache(maxsize=1)
def load_emoji() -> tuple[Emoji, ...]:
    """All records, sorted by `id`; read once per process.

    Raises:
        ImportError: pyarrow is missing.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ImportError(
            "pyarrow is not installed. Install it with: pip install 'mmembed[quickstart]'"
        ) from None
    # without threads: data workers are forked after the table was read
    rows = parquet.read_table(_FOLDER / "emoji.parquet", use_threads=False).to_pylist()
    rows.sort(key=lambda row: row["id"])
    families = _families(rows)
    return tuple(
        Emoji(
            id=row["id"],
            char=row["char"],
            group=row["group"],
            subgroup=row["subgroup"],
            names={language: " ".join(name.split()) for language, name in row["names"]},
            keywords={language: tuple(words) for language, words in row["keywords"] if words},
            pictures={vendor: row[vendor] for vendor in VENDORS},
            family=families[row["id"]],
        )
        for row in rows
    )


def emoji_of_split(split: str) -> tuple[Emoji, ...]:
    """Records of `train`, `held_out` or `all`, sorted by `id`.

    Raises:
        ValueError: no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of: {', '.join(SPLITS)}")
    if split == "all":
        return load_emoji()
    held_out = _held_out_ids()
    return tuple(emoji for emoji in load_emoji() if (emoji.id in held_out) == (split == "held_out"))


@lru_cache(maxsize=len(VENDORS))
def picture_twins(vendor: str) -> Mapping[str, tuple[str, ...]]:
    """For each emoji the ids, its own included and sorted, that this vendor draws alike."""
    twins: dict[str, tuple[str, ...]] = {emoji.id: (emoji.id,) for emoji in load_emoji()}
    for group in _twin_groups()[vendor]:
        twins.update(dict.fromkeys(group, tuple(group)))
    return twins


@lru_cache(maxsize=1)
def _twin_groups() -> Mapping[str, list[list[str]]]:
    """Pictures that differ by less than .02 (RMS of 0..1, on white, at 32 x 32); next is .024."""
    content: dict[str, list[list[str]]] = json.loads(
        (_FOLDER / "twins.json").read_text(encoding="utf-8")
    )
    return content


@lru_cache(maxsize=1)
def templates() -> Mapping[str, Mapping[str, Any]]:
    """Sentence frames by language: `picture` and `page` lists, and one frame for each clip."""
    content: dict[str, dict[str, Any]] = json.loads(
        (_FOLDER / "templates.json").read_text(encoding="utf-8")
    )
    return content


def texts(languages: tuple[str, ...] = LANGUAGES, split: str = "train") -> Iterator[str]:
    """Names, keywords and sentence frames: what a tokenizer for this data is trained on."""
    for emoji in emoji_of_split(split):
        for language in languages:
            if language in emoji.names:
                yield emoji.names[language]
            yield from emoji.keywords.get(language, ())
    for language in languages:
        for frames in templates()[language].values():
            for frame in [frames] if isinstance(frames, str) else frames:
                yield frame.format(name="", first="", second="").strip()


def _families(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Family of each id: near duplicates by code points, then merged where pictures are equal."""
    key = {row["id"]: _family_key(row) for row in rows}
    parent = {family: family for family in key.values()}

    def root(family: str) -> str:
        while parent[family] != family:
            family = parent[family]
        return family

    for groups in _twin_groups().values():
        for first, *others in groups:
            for other in others:
                parent[root(key[other])] = root(key[first])
    return {name: root(family) for name, family in key.items()}


def _family_key(row: Mapping[str, Any]) -> str:
    if row["subgroup"] == "time" and (
        "o\u2019clock" in _english(row) or "-thirty" in _english(row)
    ):
        return "clock face"
    if row["subgroup"] == "family" or _english(row).startswith("family"):
        return "family"
    if row["group"] != "People & Body":
        return str(row["id"])
    parts = [part.removesuffix("-fe0f") for part in row["id"].split("-200d-")]
    kept = [part for part in parts if part not in _VARIANT_PARTS]
    return "-".join(kept) or "person"


def _english(row: Mapping[str, Any]) -> str:
    return next(name for language, name in row["names"] if language == "en")


@lru_cache(maxsize=1)
def _held_out_ids() -> frozenset[str]:
    groups: dict[str, list[Emoji]] = defaultdict(list)
    for emoji in load_emoji():
        groups[emoji.group].append(emoji)
    total = len(load_emoji())
    shares = {group: NUM_HELD_OUT * len(members) / total for group, members in groups.items()}
    quotas = {group: int(share) for group, share in shares.items()}
    by_remainder = sorted(shares, key=lambda group: (quotas[group] - shares[group], group))
    for group in by_remainder[: NUM_HELD_OUT - sum(quotas.values())]:
        quotas[group] += 1

    family_size: dict[str, int] = defaultdict(int)
    for emoji in load_emoji():
        family_size[emoji.family] += 1
    chosen: set[str] = set()
    for group, members in sorted(groups.items()):
        left = quotas[group]
        families: dict[str, list[str]] = defaultdict(list)
        for emoji in members:
            families[emoji.family].append(emoji.id)
        for family in sorted(families, key=_fixed_hash):
            size = len(families[family])
            if size == family_size[family] and size <= min(left, _MAX_HELD_OUT_FAMILY):
                chosen.update(families[family])
                left -= size
    return frozenset(chosen)


def _fixed_hash(text: str) -> str:
    """Unlike `hash()`, the same in every process and version."""
    return hashlib.sha256(f"mmembed held-out emoji/{text}".encode()).hexdigest()
