"""Text rows of the bundled emoji with planted faults, to study losses that should bear them.

    data_adapters.emoji_faults:FaultyNames       name -> name in the other language, or keywords
    data_adapters.emoji_faults:shared_captions   test: name -> the caption that it shares

A faultless row is a name and its translation, as hard as it gets without words in common. Shares
of the rows can be replaced:

    wrong             the positive belongs to another emoji
    duplicates        the positive is a caption that many emoji share ("face"), under its own id:
                      only its text tells that it is not a negative of the others
    near_duplicates   such a caption written in one of several ways ("Face", "a face!")
    easy              the positive repeats the query

Which rows are faulty depends on the arguments and the row's number only, so a fault stays where it
is in every epoch.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import lru_cache
from random import Random

from data_adapters.emoji_source import LANGUAGES, LICENSE, REVISION, Emoji, emoji_of_split
from mmembed.tasks import RetrievalTask
from mmembed.types import ContrastiveExample, MultimodalInput, Task, Text

__all__ = ["FAULTS", "FaultyNames", "shared_captions"]

FAULTS = ("wrong", "duplicates", "near_duplicates", "easy")
_FRAMES = ("{}.", "{}!", "a {}", "the {}", "({})", "{} {}")
_MAX_KEYWORDS = 4


class FaultyNames:
    """Names of emoji in two languages; query and document in either, row by row.

    Args:
        languages: two of them; only emoji that have names and keywords in both are used.
        documents: `names`, or `keywords`: up to four of them, in either language, which say less.
        wrong, duplicates, near_duplicates, easy: shares of the rows; the rest is faultless.
        num_hard_negatives: of each row: what the positive would be for others of its subgroup.
        views: rows of each emoji.
        seed: of everything that is drawn.

    Raises:
        ValueError: an argument that is not possible.
    """

    task: Task = "retrieval"
    revision = REVISION
    license = LICENSE
    citation = "Unicode CLDR 48.2 (Unicode, Inc.), emoji-data (Cal Henderson)"

    def __init__(
        self,
        *,
        languages: tuple[str, str] = ("en", "de"),
        documents: str = "names",
        wrong: float = 0.0,
        duplicates: float = 0.0,
        near_duplicates: float = 0.0,
        easy: float = 0.0,
        num_hard_negatives: int = 0,
        split: str = "train",
        views: int = 1,
        seed: int = 0,
    ) -> None:
        if len(set(languages)) != 2 or not set(languages) <= set(LANGUAGES):
            raise ValueError(f"languages are {languages}; give two of: {', '.join(LANGUAGES)}")
        if documents not in ("names", "keywords"):
            raise ValueError(f"documents is {documents!r}; it must be names or keywords")
        shares = dict(
            zip(FAULTS, map(float, (wrong, duplicates, near_duplicates, easy)), strict=True)
        )
        if min(shares.values()) < 0 or sum(shares.values()) > 1 + 1e-9:
            raise ValueError(f"the shares {shares} must be >= 0 and sum to at most 1")
        if views < 1 or num_hard_negatives < 0:
            raise ValueError(
                f"views is {views}, num_hard_negatives {num_hard_negatives}; they must be at "
                "least 1 and 0"
            )
        self.name = f"emoji/{documents}"
        self.languages = tuple(languages)
        self.documents = documents
        self.shares = shares
        self.num_hard_negatives = num_hard_negatives
        self.seed = seed
        self.views = views
        self.emoji = tuple(
            emoji
            for emoji in emoji_of_split(split)
            if all(lang in emoji.names and lang in emoji.keywords for lang in languages)
        )
        self._relatives: dict[str, list[Emoji]] = defaultdict(list)
        for emoji in self.emoji:
            self._relatives[emoji.subgroup].append(emoji)

    def __len__(self) -> int:
        return len(self.emoji) * self.views

    def __getitem__(self, index: int) -> ContrastiveExample:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {self.name}; it has {len(self)} rows")
        rng = Random(f"{self.name}/{self.seed}/{index}")
        emoji = self.emoji[index % len(self.emoji)]
        first, second = rng.sample(self.languages, 2)
        fault = self.fault(index)
        query, document, document_id = emoji.names[first], "", emoji.id
        if fault == "wrong":
            other = rng.choice([other for other in self.emoji if other is not emoji])
            document, document_id = self._document(other, second, rng), other.id
        elif fault in ("duplicates", "near_duplicates"):
            document = _captions(second)[emoji.id]
            document_id = f"{emoji.id}/{index}"
            if fault == "near_duplicates":
                document = rng.choice(_FRAMES).format(document, document)
        elif fault == "easy":
            document = f"{query}, {rng.choice(emoji.keywords[first])}"
        else:
            document = self._document(emoji, second, rng)
        return ContrastiveExample(
            query=_text(query),
            positives=(_text(document),),
            hard_negatives=self._hard_negatives(emoji, document, second, rng),
            query_id=f"{self.name}/{index}",
            positive_ids=(document_id,),
        )

    def fault(self, index: int) -> str | None:
        """What is planted in a row: one of `FAULTS`, or None."""
        drawn = Random(f"fault/{self.name}/{self.seed}/{index}").random()
        for name, share in self.shares.items():
            if drawn < share:
                return name
            drawn -= share
        return None

    def _document(self, emoji: Emoji, language: str, rng: Random) -> str:
        if self.documents == "names":
            return emoji.names[language]
        keywords = emoji.keywords[rng.choice(self.languages)]
        return ", ".join(rng.sample(keywords, min(len(keywords), _MAX_KEYWORDS)))

    def _hard_negatives(
        self, emoji: Emoji, positive: str, language: str, rng: Random
    ) -> tuple[MultimodalInput, ...]:
        """Others of the subgroup, then any others, where it is too small."""
        wanted = self.num_hard_negatives
        if not wanted:
            return ()
        family = [other for other in self._relatives[emoji.subgroup] if other is not emoji]
        chosen = rng.sample(family, min(wanted, len(family)))
        while len(chosen) < wanted:
            other = rng.choice(self.emoji)
            if other is not emoji and other not in chosen:
                chosen.append(other)
        texts = [self._document(other, language, rng) for other in chosen]
        return tuple(_text(text) for text in texts if text != positive)


def shared_captions(
    *, query_language: str = "de", language: str = "en", split: str = "train"
) -> RetrievalTask:
    """Names to the captions that `duplicates` plants, each once: classification by its labels."""
    captions = _captions(language)
    asked = [
        emoji
        for emoji in emoji_of_split(split)
        if query_language in emoji.names and emoji.id in captions
    ]
    corpus = sorted({captions[emoji.id] for emoji in asked})
    return RetrievalTask(
        name=f"emoji names->captions, {query_language}->{language}, {split}, corpus {len(corpus)}",
        queries={emoji.id: _text(emoji.names[query_language]) for emoji in asked},
        corpus={caption: _text(caption) for caption in corpus},
        relevant={emoji.id: {captions[emoji.id]: 1.0} for emoji in asked},
    )


@lru_cache(maxsize=len(LANGUAGES))
def _captions(language: str) -> dict[str, str]:
    """For each emoji that of its keywords that most emoji have."""
    usable = [emoji for emoji in emoji_of_split("all") if language in emoji.keywords]
    counts = Counter(word for emoji in usable for word in set(emoji.keywords[language]))
    return {
        emoji.id: max(emoji.keywords[language], key=lambda word: (counts[word], word))
        for emoji in usable
    }


def _text(text: str) -> MultimodalInput:
    return MultimodalInput((Text(text),))
