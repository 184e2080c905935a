"""Questions about clips with a few options each; the options are the pool.

Options: `columns` names the layout of the rows; `configs` are configurations that are read one
after the other, where the frames of each lie in a folder of its name. Of the profile, `letters`
says whether an option is embedded with its letter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from data_adapters.cells import INDEX, NAME, OPTIONS, TEXT, Kind, shortened
from data_adapters.mmeb.catalog import Entry
from data_adapters.mmeb.files import MediaFiles
from data_adapters.mmeb.video_items import Gathering, annotation_rows, clip, label, query
from mmembed.errors import DataError
from mmembed.tasks import Profile, RetrievalTask

__all__ = ["load"]


@dataclass(frozen=True)
class _Question:
    """One row. `names` are the options with their letters, or as the source has them."""

    video: str
    text: str
    names: Sequence[str]
    bare: Sequence[str]
    answer: int | str


def load(entry: Entry, media: MediaFiles, profile: Profile) -> RetrievalTask:
    gathered = Gathering(entry)
    layout, columns = _LAYOUTS[entry.options["columns"]]
    lettered = profile.letters.get(entry.card.name, False)
    for config in entry.options.get("configs", [None]):
        for number, row in enumerate(annotation_rows(entry, media, columns, config)):
            name = f"{config}/{number}" if config else str(number)
            asked = layout(row, profile.reference_defects)
            right = _right(asked, f"{entry.card.name}: question {name}")
            for option, bare in zip(asked.names, asked.bare, strict=True):
                gathered.add_document(option, label(option if lettered else bare))
            folder = f"{config}/{asked.video}" if config else asked.video
            video = clip(entry, media, profile, folder)
            item = None if video is None else query(entry, profile, video, asked.text)
            gathered.add_query(name, item, right, asked.names)
    return gathered.task()


def _right(asked: _Question, where: str) -> list[str]:
    """All options that say the same as the right one."""
    known = list(asked.bare)
    answer = asked.answer if isinstance(asked.answer, str) else None
    if isinstance(asked.answer, int) and 0 <= asked.answer < len(known):
        answer = known[asked.answer]
    if answer not in known:
        raise DataError(
            f"{where}: the answer {shortened(asked.answer)} is no option of {shortened(known)}"
        )
    return [name for name, bare in zip(asked.names, known, strict=True) if bare == answer]


def _mvbench(row: dict[str, Any], defects: bool) -> _Question:
    return _listed(row["video"], row["question"], row["candidates"], row["answer"])


def _nextqa(row: dict[str, Any], defects: bool) -> _Question:
    options = [row[f"a{number}"] for number in range(5)]
    return _listed(row["video"], row["question"], options, int(row["answer"]))


def _listed(video: Any, question: str, options: Sequence[str], answer: int | str) -> _Question:
    names = [f"({ascii_uppercase[number]}) {option}" for number, option in enumerate(options)]
    text = "\n".join([question, "Options:", *names]).rstrip()
    return _Question(str(video), text, names, options, answer)


def _videomme(row: dict[str, Any], defects: bool) -> _Question:
    options = row["options"]
    text = "\n".join([row["question"], *options])
    bare = [_without_letter(option, defects) for option in options]
    return _Question(str(row["videoID"]), text, options, bare, _LETTERS.get(row["answer"], -1))


def _egoschema(row: dict[str, Any], defects: bool) -> _Question:
    options = row["option"]
    text = row["question"] + ("" if defects else " ") + " ".join(options)
    bare = [_without_letter(option, defects) for option in options]
    return _Question(str(row["video_idx"]), text, options, bare, int(row["answer"]))


def _activitynetqa(row: dict[str, Any], defects: bool) -> _Question:
    text = f"{row['question']}? (A) yes; (B) no."
    return _Question(f"v_{row['video_name']}", text, ["yes", "no"], ["yes", "no"], row["answer"])


def _without_letter(option: str, defects: bool) -> str:
    """The option `A. Text.` as `Text`.

    With the defect, everything up to the first full stop is taken for the letter, and when there
    is none only the last character stays.
    """
    if defects:
        return option[option.find(". ") :].strip(". ")
    return option[1:].strip(". ") if re.match(r"[A-Z]\. ", option) else option


_LETTERS = {letter: number for number, letter in enumerate(ascii_uppercase)}
_LAYOUTS: dict[str, tuple[Callable[[dict[str, Any], bool], _Question], dict[str, Kind]]] = {
    "mvbench": (
        _mvbench,
        {"video": NAME, "question": TEXT, "candidates": OPTIONS, "answer": TEXT},
    ),
    "videomme": (
        _videomme,
        {"videoID": NAME, "question": TEXT, "options": OPTIONS, "answer": TEXT},
    ),
    "nextqa": (
        _nextqa,
        {"video": NAME, "question": TEXT, "answer": INDEX}
        | dict.fromkeys(("a0", "a1", "a2", "a3", "a4"), TEXT),
    ),
    "egoschema": (
        _egoschema,
        {"video_idx": NAME, "question": TEXT, "option": OPTIONS, "answer": INDEX},
    ),
    "activitynetqa": (_activitynetqa, {"video_name": NAME, "question": TEXT, "answer": TEXT}),
}
