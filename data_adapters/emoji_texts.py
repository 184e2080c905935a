"""Text rows from the bundled emoji with what some losses ask for: classes, grades, hard negatives.

They stand in for the classification, similarity and mined retrieval sets of the text recipes. As
in `emoji.py`, row `index` depends on the adapter's arguments and on `index`, on nothing else, and
there are `views` rows for each emoji. Document ids name content: the code points of an emoji for a
text about it, the class for a label.

    data_adapters.emoji_texts:EmojiGroups               an emoji -> one of its class, or the label
    data_adapters.emoji_texts:EmojiSimilarity           two names, graded 2, 1 or 0
    data_adapters.emoji_texts:EmojiNamesWithNegatives   keywords -> name and keywords, K negatives
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from random import Random
from typing import Literal

from data_adapters.emoji_source import (
    LANGUAGES,
    LICENSE,
    REVISION,
    VENDORS,
    Emoji,
    emoji_of_split,
)
from mmembed.types import ContrastiveExample, Image, MultimodalInput, Task, Text

__all__ = ["EmojiGroups", "EmojiNamesWithNegatives", "EmojiSimilarity"]

GRADES = (0, 1, 2)
_SMOOTHING = 0.02  # keeps the log-odds of no and of full overlap finite: -3.9 and 3.9


class _TextRows(ABC):
    """What the adapters share: which emoji, in which languages, how often."""

    task: Task
    name: str
    revision = REVISION
    license = LICENSE
    citation = "Unicode CLDR 48.2 (Unicode, Inc.), emoji-data (Cal Henderson)"

    def __init__(
        self,
        *,
        split: str = "train",
        languages: Sequence[str] = LANGUAGES,
        views: int = 1,
        seed: int = 0,
    ) -> None:
        self.languages = tuple(dict.fromkeys(languages))
        unknown = [language for language in self.languages if language not in LANGUAGES]
        if unknown or not self.languages or isinstance(languages, str):
            raise ValueError(f"languages: {languages!r}; give some of: {', '.join(LANGUAGES)}")
        if views < 1:
            raise ValueError(f"views is {views}; it must be at least 1")
        self.views = views
        self.seed = seed
        self.emoji = tuple(emoji for emoji in emoji_of_split(split) if self._is_usable(emoji))
        self._subgroups = _by(self.emoji, "subgroup")
        self._groups = _by(self.emoji, "group")

    def __len__(self) -> int:
        return len(self.emoji) * self.views

    def __getitem__(self, index: int) -> ContrastiveExample:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {self.name}; it has {len(self)} rows")
        # from text, as integers would be mixed by arithmetic that repeats rows under other seeds
        rng = Random(f"{self.name}/{self.seed}/{index}")
        return self._row(index, self.emoji[index % len(self.emoji)], rng)

    def _is_usable(self, emoji: Emoji) -> bool:
        return any(language in emoji.names for language in self.languages)

    @abstractmethod
    def _row(self, index: int, emoji: Emoji, rng: Random) -> ContrastiveExample: ...

    def _language(self, emoji: Emoji, rng: Random) -> str:
        return rng.choice([language for language in self.languages if language in emoji.names])

    def _name(self, emoji: Emoji, rng: Random) -> MultimodalInput:
        return _text(emoji.names[self._language(emoji, rng)])


class EmojiGroups(_TextRows):
    """Classification: an emoji, to another one of its class, or to the class's label.

    Args:
        level: classes are the 10 groups or the 99 subgroups of the emoji table.
        form: `example`: the positive and the hard negatives are names of emoji of the same class
            and of others. `label`: they are labels, and classes take turns, because a batch
            holds a document once and would leave the rest of a large class for later.
        show: the query is a name, or a bundled picture by `vendor`.
        num_hard_negatives: all of different classes.
    """

    task: Task = "classification"

    def __init__(
        self,
        *,
        level: Literal["group", "subgroup"] = "subgroup",
        form: Literal["example", "label"] = "example",
        show: Literal["name", "picture"] = "name",
        num_hard_negatives: int = 4,
        vendor: str = "noto",
        split: str = "train",
        languages: Sequence[str] = LANGUAGES,
        views: int = 1,
        seed: int = 0,
    ) -> None:
        _choice("level", level, ("group", "subgroup"))
        _choice("form", form, ("example", "label"))
        _choice("show", show, ("name", "picture"))
        _choice("vendor", vendor, VENDORS)
        self.level, self.form, self.show, self.vendor = level, form, show, vendor
        self.name = f"emoji/{level}_{form}" + ("_of_picture" if show == "picture" else "")
        super().__init__(split=split, languages=languages, views=views, seed=seed)
        classes = self._groups if level == "group" else self._subgroups
        if form == "example":  # a class of one has no other example
            classes = {label: members for label, members in classes.items() if len(members) > 1}
            self.emoji = tuple(e for e in self.emoji if getattr(e, level) in classes)
        self._classes, self._labels = classes, tuple(classes)
        self.num_hard_negatives = _count(num_hard_negatives, len(classes) - 1)

    def _row(self, index: int, emoji: Emoji, rng: Random) -> ContrastiveExample:
        if self.form == "label":
            emoji = rng.choice(self._classes[self._labels[index % len(self._labels)]])
        label: str = getattr(emoji, self.level)
        others = [name for name in self._labels if name != label]
        others = rng.sample(others, self.num_hard_negatives)
        if self.form == "label":
            positive, positive_id = _label_text(label), f"{self.level}/{label}"
            negatives = [_label_text(name) for name in others]
        else:
            like = rng.choice([one for one in self._classes[label] if one is not emoji])
            positive, positive_id = self._name(like, rng), like.id
            negatives = [self._name(rng.choice(self._classes[name]), rng) for name in others]
        shown = self._name(emoji, rng)
        if self.show == "picture":
            shown = MultimodalInput((Image(emoji.pictures[self.vendor]),))
        return ContrastiveExample(
            query=shown,
            positives=(positive,),
            hard_negatives=tuple(negatives),
            task=self.task,
            query_id=f"{self.name}/{index}",
            positive_ids=(positive_id,),
            label=label,
            negative_labels=tuple(others),
        )


class EmojiSimilarity(_TextRows):
    """Similarity: the same emoji in two languages is 2, one subgroup 1, other groups 0.

    Args:
        grades: which of 0, 1, 2; rows take turns. `[2]` is for losses that know positives only.
        num_hard_negatives: names of the same subgroup and of other families, of grade 1; fewer
            where the subgroup is small.
    """

    task: Task = "sts"
    name = "emoji/similarity"

    def __init__(
        self,
        *,
        grades: Sequence[int] = GRADES,
        num_hard_negatives: int = 0,
        split: str = "train",
        languages: Sequence[str] = LANGUAGES,
        views: int = 1,
        seed: int = 0,
    ) -> None:
        self.grades = tuple(dict.fromkeys(grades))
        if not self.grades or not set(self.grades) <= set(GRADES):
            raise ValueError(f"grades: {list(grades)}; give some of 0, 1, 2")
        super().__init__(split=split, languages=languages, views=views, seed=seed)
        self.num_hard_negatives = _count(num_hard_negatives, len(self.emoji))
        if 1 in self.grades:
            self.emoji = tuple(e for e in self.emoji if len(self._subgroups[e.subgroup]) > 1)

    def _is_usable(self, emoji: Emoji) -> bool:
        return sum(language in emoji.names for language in self.languages) > 1

    def _row(self, index: int, emoji: Emoji, rng: Random) -> ContrastiveExample:
        # the second term: an emoji is not of the same grade in every view
        grade = self.grades[(index + index // len(self.emoji)) % len(self.grades)]
        language = self._language(emoji, rng)
        if grade == 2:
            other = emoji
            spoken = [one for one in self.languages if one in emoji.names and one != language]
            document = _text(emoji.names[rng.choice(spoken)])
        else:
            if grade == 1:
                near = [one for one in self._subgroups[emoji.subgroup] if one is not emoji]
                other = rng.choice(near)
            else:
                group = rng.choice([name for name in self._groups if name != emoji.group])
                other = rng.choice(self._groups[group])
            document = self._name(other, rng)
        others = [one for one in self._subgroups[emoji.subgroup] if one.family != emoji.family]
        others = [one for one in others if one is not other]
        others = rng.sample(others, min(self.num_hard_negatives, len(others)))
        return ContrastiveExample(
            query=_text(emoji.names[language]),
            positives=(document,),
            hard_negatives=tuple(self._name(one, rng) for one in others),
            task=self.task,
            query_id=f"{self.name}/{index}",
            positive_ids=(other.id,),
            scores=(float(grade), *(1.0 for _ in others)),
        )


class EmojiNamesWithNegatives(_TextRows):
    """Retrieval: a few keywords, to the name with all keywords of an emoji, among near ones.

    Hard negatives are emoji of the same subgroup (where it is too small, of the group, then any)
    and of another family, because those of one family share most keywords.

    Args:
        num_hard_negatives: K of each row.
        teacher: give scores, as a reranker would: the log-odds of the share of the query's
            keywords that a document's emoji has. A stand-in that reads the table, not the text:
            it also knows the keywords in the query's language when the document has another.
    """

    task: Task = "retrieval"
    name = "emoji/names_with_negatives"

    def __init__(
        self,
        *,
        num_hard_negatives: int = 7,
        teacher: bool = False,
        split: str = "train",
        languages: Sequence[str] = LANGUAGES,
        views: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(split=split, languages=languages, views=views, seed=seed)
        self.num_hard_negatives = _count(num_hard_negatives, len(self.emoji) - len(self._groups))
        self.teacher = teacher

    def _is_usable(self, emoji: Emoji) -> bool:
        return any(len(emoji.keywords.get(language, ())) > 1 for language in self.languages)

    def _row(self, index: int, emoji: Emoji, rng: Random) -> ContrastiveExample:
        language = self._described_in(emoji, rng)
        words = emoji.keywords[language]
        asked = rng.sample(words, min(len(words), rng.randint(2, 3)))
        others = self._near(emoji, rng)
        scores = None
        if self.teacher:
            scores = tuple(_log_odds(asked, one, language) for one in (emoji, *others))
        return ContrastiveExample(
            query=_text(" ".join(asked)),
            positives=(self._passage(emoji, rng),),
            hard_negatives=tuple(self._passage(one, rng) for one in others),
            task=self.task,
            query_id=f"{self.name}/{index}",
            positive_ids=(emoji.id,),
            scores=scores,
        )

    def _described_in(self, emoji: Emoji, rng: Random) -> str:
        return rng.choice([one for one in self.languages if len(emoji.keywords.get(one, ())) > 1])

    def _passage(self, emoji: Emoji, rng: Random) -> MultimodalInput:
        language = self._described_in(emoji, rng)
        return _text(f"{emoji.names[language]}: {', '.join(emoji.keywords[language])}")

    def _near(self, emoji: Emoji, rng: Random) -> list[Emoji]:
        chosen: dict[str, Emoji] = {}
        for pool in (self._subgroups[emoji.subgroup], self._groups[emoji.group], self.emoji):
            fresh = [one for one in pool if one.family != emoji.family and one.id not in chosen]
            missing = self.num_hard_negatives - len(chosen)
            chosen.update({one.id: one for one in rng.sample(fresh, min(missing, len(fresh)))})
        return list(chosen.values())


def _log_odds(asked: Iterable[str], emoji: Emoji, language: str) -> float:
    found = [word in emoji.keywords.get(language, ()) for word in asked]
    share = sum(found) / len(found)
    return math.log((share + _SMOOTHING) / (1 - share + _SMOOTHING))


def _by(emoji: Iterable[Emoji], attribute: str) -> dict[str, tuple[Emoji, ...]]:
    found: dict[str, list[Emoji]] = defaultdict(list)
    for one in emoji:
        found[getattr(one, attribute)].append(one)
    return {name: tuple(members) for name, members in sorted(found.items())}


def _text(text: str) -> MultimodalInput:
    return MultimodalInput((Text(text),))


def _label_text(label: str) -> MultimodalInput:
    return _text(label.replace("-", " "))


def _count(value: int, most: int) -> int:
    if not 0 <= value <= most:
        raise ValueError(f"num_hard_negatives is {value}; it must be between 0 and {most}")
    return value


def _choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of: {', '.join(allowed)}")
