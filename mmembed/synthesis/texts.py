"""Texts cut into words, sentences and paragraphs, how far two of them differ, and their language.

Under `acceptance.py`. Everything here is arithmetic on characters: no model, no table of a language
but for short lists of frequent words of those that share the Latin script.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from difflib import SequenceMatcher
from functools import lru_cache

__all__ = [
    "count_words",
    "difference",
    "is_written_in",
    "language_of",
    "normalized",
    "paragraphs",
    "same_language",
    "script_of",
    "sentences",
    "words",
]

# Scripts, by the first word of a character's Unicode name, that put no blanks between words.
_UNSPACED = {"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR"}
_ENDS = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f\u0964\u061f])\s*|\n+")
_SCRIPTS = {
    "zh": "CJK",
    "ja": "KANA",
    "ko": "HANGUL",
    "ru": "CYRILLIC",
    "uk": "CYRILLIC",
    "bg": "CYRILLIC",
    "sr": "CYRILLIC",
    "ar": "ARABIC",
    "fa": "ARABIC",
    "ur": "ARABIC",
    "he": "HEBREW",
    "hi": "DEVANAGARI",
    "mr": "DEVANAGARI",
    "bn": "BENGALI",
    "ta": "TAMIL",
    "te": "TELUGU",
    "th": "THAI",
    "el": "GREEK",
}
_FREQUENT = {
    "en": "the and of to in is that for it with as was on are be this by from at which not have",
    "de": "der die das und ist nicht ein eine mit von zu den im auf sich wird als auch dem es",
    "fr": "le la les et des est une dans que qui pour pas sur avec au du ce il sont par plus",
    "es": "el los las y es una que en por con para del se no su como al lo pero este mas",
    "it": "il gli e di che una per non con del della sono come nel alla piu si dei questo anche",
    "pt": "o os as e uma que em por com para do da nao se mais como dos no na ao foi",
    "nl": "de het een en van is niet dat op te met voor zijn aan die er ook als bij naar",
    "pl": "i w nie na to jest z do sie ze jak co od przez dla po tak oraz byl sa",
    "tr": "ve bir bu icin ile de da ne gibi daha cok olarak en ama olan var kadar sonra her",
    "vi": "va la cua co cho nhung khong duoc trong mot nguoi voi cac nay khi den tu ra o da",
    "id": "yang dan di itu dengan untuk tidak ini dari dalam akan pada juga saya ke karena ada",
}
_FREQUENT_WORDS = {code: frozenset(text.split()) for code, text in _FREQUENT.items()}
_LEAST_FREQUENT = 2  # frequent words that a short text must show before its language is judged


def normalized(text: str) -> str:
    """Compatibility forms unified, lower case, without punctuation, single blanks."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    letters = (c if unicodedata.category(c)[0] in "LMN" else " " for c in folded)
    return " ".join("".join(letters).split())


def words(text: str) -> list[str]:
    """Words of `normalized` text; in scripts without blanks each character."""
    found: list[str] = []
    for run in normalized(text).split():
        start = 0
        for place, letter in enumerate(run):
            if _script(letter) in _UNSPACED:
                if run[start:place]:
                    found.append(run[start:place])
                found.append(letter)
                start = place + 1
        if run[start:]:
            found.append(run[start:])
    return found


def count_words(text: str) -> float:
    """Words; in scripts without blanks two characters count as one."""
    return sum(0.5 if len(w) == 1 and _script(w) in _UNSPACED else 1.0 for w in words(text))


def sentences(text: str) -> list[str]:
    return [piece.strip() for piece in _ENDS.split(text) if piece and piece.strip()]


def paragraphs(text: str) -> list[str]:
    """Lines: a blank line between paragraphs is allowed and not needed."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def difference(first: str, second: str) -> float:
    """0 for the same words in the same order, 1 for no word in common (Ratcliff-Obershelp)."""
    a, b = words(first), words(second)
    if not a and not b:
        return 0.0
    return 1.0 - SequenceMatcher(None, a, b, autojunk=False).ratio()


def script_of(text: str) -> str:
    """The script of most letters: `LATIN`, `CJK`, `KANA` (Japanese), `CYRILLIC`, ... or empty."""
    counts = Counter(_script(letter) for letter in text if letter.isalpha())
    counts.pop("", None)
    kana = counts.pop("HIRAGANA", 0) + counts.pop("KATAKANA", 0)
    if kana and 4 * kana >= counts["CJK"]:
        counts["KANA"] = kana + counts.pop("CJK", 0)
    else:
        counts["CJK"] += kana
    script, number = max(counts.items(), key=lambda item: item[1], default=("", 0))
    return script if number else ""


def language_of(text: str) -> str | None:
    """A code of ISO 639-1 where script or frequent words tell; None where they do not."""
    script = script_of(text)
    if script != "LATIN":
        codes = [code for code, its_script in _SCRIPTS.items() if its_script == script]
        return codes[0] if len(codes) == 1 else None
    found = Counter(_plain(word) for word in words(text))
    scores = {c: sum(found[w] for w in listed) for c, listed in _FREQUENT_WORDS.items()}
    (best, most), (_, next_most), *_ = sorted(scores.items(), key=lambda item: -item[1])
    return best if most >= _LEAST_FREQUENT and most > 1.3 * next_most else None


def same_language(first: str, second: str) -> bool:
    """False when the scripts differ, or both languages can be told and differ."""
    scripts = script_of(first), script_of(second)
    if "" in scripts:
        return True
    if scripts[0] != scripts[1]:
        return False
    told = language_of(first), language_of(second)
    return None in told or told[0] == told[1]


def is_written_in(text: str, code: str) -> bool:
    """False when the script or the frequent words say another language than `code`."""
    script, told = script_of(text), language_of(text)
    return script in {"", _SCRIPTS.get(code, "LATIN")} and told in {None, code}


@lru_cache(maxsize=1 << 16)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "").split(" ")[0].split("-")[0]
    return name if letter.isalpha() or name in _UNSPACED else ""


def _plain(word: str) -> str:
    """Without accents."""
    return "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))
