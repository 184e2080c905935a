"""Five rows of each layout of video, as the sources write them, for any card of a family."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_adapters.catalog import find_entry
from mmembed.datasets import DatasetCard
from tests.media_files import encode_image, numbered_frame, video

# In ActivityNet's style: three clips of one video, one of another, and one that was not cut.
CUT = ("v_a1-Scene-001", "v_a1-Scene-002", "v_a1-Scene-010", "v_b2-Scene-001", "video7")


def conversations(card: DatasetCard, folder: Path) -> None:
    """LLaVA-Hound's frames and JSON lines, or VideoChat-Flash's JSON lists."""
    options = find_entry(card.name).options
    file = folder / options["annotations"]
    media = folder / options["media"]
    if file.suffix == ".jsonl":
        for name in CUT:
            write_frames(media / name, ["c01_0001.jpeg", "c01_0002.jpeg", "c01_0010.jpeg"])
        write_lines(file, [hound_row(number, name) for number, name in enumerate(CUT)])
        return
    if options.get("frames_per_second"):
        for name in ("long1", "deep/long2"):
            write_frames(media / name, [f"{number:05d}.jpg" for number in range(1, 7)])
    else:
        for name in ("long1.mp4", "deep/long2.mp4"):
            write_clip(media / name)
    write_json(file, flash_rows("" if options.get("frames_per_second") else ".mp4"))


def hound_row(number: int, name: str) -> dict[str, Any]:
    said = [
        ("human", "<video>\nDescribe it."),
        ("gpt", f"Caption {number}."),
        ("human", "What moves?"),
        ("gpt", f"Thing {number}."),
    ]
    turns = [{"from": who, "value": words} for who, words in said]
    return {"id": f"{name}_{number}", "video": name, "conversations": turns}


def flash_rows(suffix: str) -> list[dict[str, Any]]:
    def turns(question: str, answer: str) -> list[dict[str, str]]:
        return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]

    first, second = f"long1{suffix}", f"deep/long2{suffix}"
    return [
        {"video": first, "conversations": turns("<image>\nHow often?", "Twice.")},
        {"video": first, "start": 0.0, "end": 1.0, "QA": [{"q": "What?", "a": "A start."}]},
        {
            "video": first,
            "start": 1.0,
            "end": 2.5,
            "QA": [{"i": "Look.", "q": "What?", "a": "End."}],
        },
        {
            "video": second,
            "conversations": [*turns("<video>Who?", "A man."), *turns("Where?", "Outside.")],
        },
        {"video": second, "start": 0, "end": 2, "conversations": turns("<video>\nWhy?", "Fun.")},
    ]


def captions(card: DatasetCard, folder: Path) -> None:
    """JSON lists as on the hub, WebVid's CSV."""
    options = find_entry(card.name).options
    file = folder / options["annotations"].format(config=card.config, split=card.split)
    media = folder / options["media"]
    if file.suffix == ".csv":
        rows = [
            {"videoid": f"{n}", "contentUrl": f"https://x/{n}", "duration": "PT00H00M02S"}
            | {"page_dir": "000001_000050", "name": f'Clip {n}, "close up"'}
            for n in range(5)
        ]
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        for number in range(5):
            write_clip(media / "000001_000050" / f"{number}.mp4")
        return
    several = "msr" in card.name
    rows = [
        {
            "video_id": f"video{number}",
            "video": f"video{number}.{'mp4' if several else 'avi'}",
            "caption": [f"a{number}", f"b{number}"] if several else f"First. Then {number}.",
        }
        for number in range(5)
    ]
    write_json(file, rows)
    for number in range(5):  # DiDeMo's files were often converted: another suffix than is said
        write_clip(media / f"video{number}.mp4")


def moments(card: DatasetCard, folder: Path) -> None:
    """ActivityNet Captions, DiDeMo and MSR-VTT as their authors published them."""
    options = find_entry(card.name).options
    content: dict[str, Any] = {
        "activitynet": {
            "v_one": {
                "duration": 3.0,
                "timestamps": [[0, 1.5], [1.5, 3.0], [0.5, 2]],
                "sentences": ["It starts.", " It ends.", "In between."],
            },
            "v_two": {"duration": 3.0, "timestamps": [[0, 2], [2, 3]], "sentences": ["A", "B"]},
        },
        "didemo": [
            {"video": video, "description": words, "times": times, "annotation_id": number}
            for number, (video, words, times) in enumerate(
                [
                    ("one.mov", "jumps", [[0, 0], [0, 1], [0, 0], [0, 0]]),
                    ("one.mov", "falls", [[1, 1], [1, 2], [1, 2], [1, 2]]),
                    ("one.mov", "waves", [[2, 2], [2, 2], [2, 2], [2, 2]]),
                    ("two.avi", "turns", [[0, 3], [0, 3], [0, 3], [1, 3]]),
                    ("two.avi", "stops", [[4, 5], [5, 5], [5, 5], [5, 5]]),
                ]
            )
        ],
        "msrvtt": {
            "info": {"year": "2016"},
            "videos": [
                {"id": 0, "video_id": "video0", "split": "train", "start time": 0.0},
                {"id": 1, "video_id": "video1", "split": "train", "start time": 0.0},
                {"id": 2, "video_id": "video2", "split": "validate", "start time": 0.0},
            ],
            "sentences": [
                {"sen_id": number, "video_id": f"video{number % 3}", "caption": f"words {number}"}
                for number in range(7)
            ],
        },
    }[options["layout"]]
    write_json(folder / options["annotations"], content)
    names = {"activitynet": ("v_one", "v_two"), "didemo": ("one", "two")}
    for name in names.get(options["layout"], ("video0", "video1", "video2")):
        write_clip(folder / options["media"] / f"{name}.mp4", seconds=30)


def write_clip(file: Path, seconds: int = 3) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(video(seconds * 2, fps=2, size=(64, 48)))


def write_frames(folder: Path, names: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(encode_image(numbered_frame(number, 64, 48), "JPEG"))


def write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def write_lines(file: Path, rows: Sequence[Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    file.write_text(text, encoding="utf-8")


LAYOUTS: dict[str, Callable[[DatasetCard, Path], None]] = {
    "videos.conversations": conversations,
    "videos.captions": captions,
    "videos.moments": moments,
}
