"""The suite `nano-emoji`: small tasks of every modality on the bundled emoji, complete in itself.

Tests of `emoji_tasks.py` cut to a fixed part, and classification, questions and graded pairs made
of the same table. Emoji and documents are chosen by SHA-256 of their ids, so tasks share most items
and a model encodes about 1,240 pictures, 140 clips, 60 pages and 2,650 short texts.

Tasks named `trained` ask for emoji that the quickstart's training data hold, in a drawing that it
never saw (`twemoji`); `held_out` ones for emoji that it holds in no form. To other models they are
alike. The items bring no instruction: a model takes its own default.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from data_adapters.emoji_drawing import ACTIONS
from data_adapters.emoji_source import (
    LICENSE,
    REVISION,
    Emoji,
    emoji_of_split,
    load_emoji,
    picture_twins,
    templates,
)
from data_adapters.emoji_tasks import (
    cross_lingual,
    image_to_image,
    text_to_image,
    text_to_page,
    text_to_video,
)
from mmembed.errors import DataError
from mmembed.tasks import (
    EvaluationTask,
    LoadedTask,
    Profile,
    RetrievalTask,
    SimilarityTask,
    TaskCard,
)
from mmembed.types import Image, MultimodalInput, Text

__all__ = ["EmojiSuite"]

_QUERY_VENDOR, _VENDOR = "noto", "twemoji"
_QUERIES = {"train": 200, "held_out": 100}
_DOCUMENTS = 500
_CHOICES = 10
_VIDEO_EMOJI = 10
_PAGES = 60
_ASKED = 100
_ANCHORS = 60
_QUESTION = "What is this called in German?"
# All flags are alike but for the country, and the parts of emoji have no meaning of their own.
_NOT_COMPARED = ("Flags", "Component")


class EmojiSuite:
    """A `TaskSource` that brings its own data; `root` and `profile` have no part in it."""

    def __init__(self, root: Path | None = None, profile: Profile | None = None) -> None:
        self.root = root
        self.profile = profile

    def cards(self) -> Sequence[TaskCard]:
        return tuple(card for card, _ in _TASKS.values())

    def load(self, name: str, *, allow_missing: bool = False) -> LoadedTask:
        if name not in _TASKS:
            raise DataError(f"no task {name!r}; there are: {', '.join(_TASKS)}")
        _, build = _TASKS[name]
        folder = Path(__file__).parent / "emoji_data"
        files = tuple(folder / each for each in ("emoji.parquet", "twins.json", "templates.json"))
        return LoadedTask(replace(build(), name=name), files)


def _smaller(task: RetrievalTask, num_queries: int, num_documents: int) -> RetrievalTask:
    """The first queries by hash, all that answers them, and the first other documents by hash."""
    kept = _first(task.queries, num_queries)
    relevant = {name: task.relevant[name] for name in task.queries if name in kept}
    wanted = {document for grades in relevant.values() for document in grades}
    others = [document for document in task.corpus if document not in wanted]
    wanted |= _first(others, num_documents - len(wanted))
    return RetrievalTask(
        name=task.name,
        queries={name: item for name, item in task.queries.items() if name in kept},
        corpus={name: item for name, item in task.corpus.items() if name in wanted},
        relevant=relevant,
    )


def _part(build: Callable[..., RetrievalTask], split: str) -> Callable[[], RetrievalTask]:
    return lambda: _smaller(build(split=split), _QUERIES[split], _DOCUMENTS)


def _groups() -> RetrievalTask:
    """A picture to the name of its group."""
    chosen = _pictured()
    labels = sorted({one.group for one in chosen})
    return RetrievalTask(
        name="",
        queries={one.id: _image(one, _VENDOR) for one in chosen},
        corpus={label: _text(label) for label in labels},
        relevant={one.id: {one.group: 1.0} for one in chosen},
    )


def _names() -> RetrievalTask:
    """A picture to its name, among names of other things of its group."""
    chosen, twins = _pictured(), picture_twins(_VENDOR)
    pools: dict[str, list[str]] = {}
    corpus: dict[str, MultimodalInput] = {}
    for one in chosen:
        near = [
            other.id
            for other in load_emoji()
            if other.group == one.group
            and other.family != one.family
            and other.id not in twins[one.id]
            and other.names["en"] != one.names["en"]
        ]
        others = _ordered(near, f"names of {one.id}")[: _CHOICES - 1]
        pools[one.id] = _ordered([one.id, *others], "order")
    by_id = {one.id: one for one in load_emoji()}
    for pool in pools.values():
        corpus.update({name: _text(by_id[name].names["en"]) for name in pool})
    return RetrievalTask(
        name="",
        queries={one.id: _image(one, _VENDOR) for one in chosen},
        corpus=corpus,
        relevant={one.id: {one.id: 1.0} for one in chosen},
        pools=pools,
    )


def _questions() -> RetrievalTask:
    """A picture and a question about it, to the answer among names in two languages."""
    usable = [one for one in emoji_of_split("train") if "de" in one.names]
    names = {language: [one.names[language].casefold() for one in usable] for language in _SPOKEN}
    unclear = {
        name for language in _SPOKEN for name in names[language] if names[language].count(name) > 1
    } | set(names["en"]) & set(names["de"])
    usable = [one for one in usable if unclear.isdisjoint(_casefolded(one))]
    usable = [one for one in usable if len(picture_twins(_QUERY_VENDOR)[one.id]) == 1]
    kept = _first((one.id for one in usable), _ASKED)
    chosen = [one for one in usable if one.id in kept]
    return RetrievalTask(
        name="",
        queries={
            one.id: MultimodalInput((Image(one.pictures[_QUERY_VENDOR]), Text(_QUESTION)))
            for one in chosen
        },
        corpus={
            f"{language}/{one.id}": _text(one.names[language])
            for one in chosen
            for language in _SPOKEN
        },
        relevant={one.id: {f"de/{one.id}": 1.0} for one in chosen},
    )


@lru_cache(maxsize=1)
def _clips() -> RetrievalTask:
    return text_to_video(num_emoji=_VIDEO_EMOJI)


def _captions() -> RetrievalTask:
    """A clip to what happens in it, among the captions of all motions of the same emoji."""
    clips = _clips()
    moving = [name for name in clips.corpus if name.rpartition("/")[2] in ACTIONS]
    pools = {name: [f"{name.rpartition('/')[0]}/{action}" for action in ACTIONS] for name in moving}
    return RetrievalTask(
        name="",
        queries={name: clips.corpus[name] for name in moving},
        corpus={name: clips.queries[name] for name in moving},
        relevant={name: {name: 1.0} for name in moving},
        pools=pools,
    )


def _composed() -> RetrievalTask:
    """A picture by one vendor and a motion, to the clip of it drawn by the other."""
    clips, frames = _clips(), templates()["en"]
    by_id = {one.id: one for one in load_emoji()}
    queries: dict[str, MultimodalInput] = {}
    for name in clips.corpus:
        emoji_id, _, action = name.rpartition("/")
        if action in ACTIONS:
            picture = Image(by_id[emoji_id].pictures[_QUERY_VENDOR])
            motion = Text(str(frames[action]).format(name="this"))
            queries[name] = MultimodalInput((picture, motion))
    return RetrievalTask(
        name="",
        queries=queries,
        corpus=clips.corpus,
        relevant={name: {name: 1.0} for name in queries},
    )


@lru_cache(maxsize=1)
def _pages() -> RetrievalTask:
    return text_to_page(num_pages=_PAGES)


def _pages_by_picture() -> RetrievalTask:
    """A picture by one vendor to the page that shows the same thing drawn by the other."""
    pages, twins = _pages(), picture_twins(_QUERY_VENDOR)
    by_id = {one.id: one for one in load_emoji()}
    return RetrievalTask(
        name="",
        queries={name: _image(by_id[name], _QUERY_VENDOR) for name in pages.corpus},
        corpus=pages.corpus,
        relevant={
            name: {twin: 1.0 for twin in twins[name] if twin in pages.corpus}
            for name in pages.corpus
        },
    )


def _similarity(language: str) -> SimilarityTask:
    """English names beside keywords (`en`) or names in another language, graded 3 to 0.

    3 for the same emoji, 2 for one subgroup, 1 for one group, 0 for two groups; never one family
    but for 3.
    """
    usable = [
        one
        for one in load_emoji()
        if one.group not in _NOT_COMPARED and language in one.names and language in one.keywords
    ]
    pairs: dict[str, tuple[MultimodalInput, MultimodalInput]] = {}
    scores: dict[str, float] = {}
    for anchor in sorted(usable, key=lambda one: _hash(one.id))[:_ANCHORS]:
        strange = [one for one in usable if one.family != anchor.family]
        levels = {
            3: [anchor],
            2: [one for one in strange if one.subgroup == anchor.subgroup],
            1: [
                one
                for one in strange
                if one.group == anchor.group and one.subgroup != anchor.subgroup
            ],
            0: [one for one in strange if one.group != anchor.group],
        }
        for grade, members in levels.items():
            order = _ordered([one.id for one in members], f"pairs of {anchor.id}")
            if not order:
                continue
            other = next(one for one in members if one.id == order[0])
            name = f"{anchor.id}/{grade}"
            pairs[name] = _text(anchor.names["en"]), _text(_described(other, language))
            scores[name] = float(grade)
    return SimilarityTask(name="", pairs=pairs, scores=scores)


def _described(emoji: Emoji, language: str) -> str:
    """Another text about it than its English name."""
    if language != "en":
        return emoji.names[language]
    words = [word for word in emoji.keywords["en"] if word != emoji.names["en"]]
    return ", ".join(words or emoji.keywords["en"])


_SPOKEN = ("en", "de")


def _casefolded(emoji: Emoji) -> set[str]:
    return {emoji.names[language].casefold() for language in _SPOKEN}


def _pictured() -> list[Emoji]:
    """The emoji whose pictures are classified: nearly all are asked for by text, too."""
    usable = [one for one in emoji_of_split("train") if one.group != "Component"]
    kept = _first((one.id for one in usable), _QUERIES["train"])
    return [one for one in usable if one.id in kept]


def _first(names: Iterable[str], count: int) -> set[str]:
    """The `count` names with the lowest hashes."""
    return set(sorted(names, key=_hash)[: max(0, count)])


def _ordered(names: Iterable[str], salt: str) -> list[str]:
    return sorted(names, key=lambda name: _hash(f"{salt}/{name}"))


def _hash(text: str) -> str:
    return hashlib.sha256(f"nano-emoji/{text}".encode()).hexdigest()


def _text(text: str) -> MultimodalInput:
    return MultimodalInput((Text(text),))


def _image(emoji: Emoji, vendor: str) -> MultimodalInput:
    return MultimodalInput((Image(emoji.pictures[vendor]),))


def _card(
    name: str, modality: str, group: str, queries: int, documents: int, note: str, **more: object
) -> TaskCard:
    return TaskCard(
        name=name,
        modality=modality,
        group=group,
        source="bundled: data_adapters/emoji_data",
        revision=REVISION,
        license=LICENSE,
        num_queries=queries,
        num_documents=documents,
        note=f"bundled, complete; {note}",
        **{"main_metric": "hit@1", **more},  # type: ignore[arg-type]
    )


_TASKS: dict[str, tuple[TaskCard, Callable[[], EvaluationTask]]] = {
    card.name: (card, build)
    for card, build in (
        (
            _card("text_image_trained", "image", "I-RET", 200, 500, "names to pictures"),
            _part(text_to_image, "train"),
        ),
        (
            _card("text_image_held_out", "image", "I-RET", 100, 500, "names to pictures"),
            _part(text_to_image, "held_out"),
        ),
        (
            _card("image_image_trained", "image", "I-RET", 200, 500, "from vendor to vendor"),
            _part(image_to_image, "train"),
        ),
        (
            _card("image_image_held_out", "image", "I-RET", 100, 500, "from vendor to vendor"),
            _part(image_to_image, "held_out"),
        ),
        (
            _card("image_group", "image", "I-CLS", 200, 9, "pictures to names of their groups"),
            _groups,
        ),
        (
            _card(
                "image_name", "image", "I-CLS", 200, 10, "names within a group", has_pools=True
            ),
            _names,
        ),
        (
            _card("image_question", "image", "I-QA", 100, 200, "picture and question to a name"),
            _questions,
        ),
        (_card("text_video", "video", "V-RET", 80, 80, "captions to clips"), _clips),
        (
            _card("image_text_video", "video", "V-RET", 60, 80, "picture and motion to clip"),
            _composed,
        ),
        (
            _card("video_motion", "video", "V-CLS", 60, 6, "clips to motions", has_pools=True),
            _captions,
        ),
        (
            _card("text_page", "visdoc", "VD-RET", 60, 60, "names to PDF pages"),
            _pages,
        ),
        (
            _card("image_page", "visdoc", "VD-RET", 60, 60, "pictures to PDF pages"),
            _pages_by_picture,
        ),
        (
            _card("text_text_trained", "text", "T-RET", 200, 500, "German names to English"),
            _part(cross_lingual, "train"),
        ),
        (
            _card("text_text_held_out", "text", "T-RET", 100, 500, "German names to English"),
            _part(cross_lingual, "held_out"),
        ),
        (
            _card(
                "similarity_en", "text", "T-STS", 240, 240, "graded pairs", main_metric="spearman"
            ),
            lambda: _similarity("en"),
        ),
        (
            _card(
                "similarity_en_de", "text", "T-STS", 240, 240, "graded pairs of two languages",
                main_metric="spearman",
            ),
            lambda: _similarity("de"),
        ),
    )
}  # fmt: skip
