"""Five rows of each of the 18 video data sets, in the files that their sources have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data_adapters.mmeb.picture import JPEG

FRAMES = "video-tasks/frames"
NUM_FRAMES = (3, 8, 9, 20, 70)  # below, at and above the 8 and the 64 that profiles ask for
MVBENCH = {"action_sequence": 3, "episodic_reasoning": 2}

Row = Mapping[str, Any]


def write_video_data(root: Path) -> None:
    _classification(root)
    _questions(root)
    _retrieval(root)
    _moments(root)


def write_frames(folder: Path, count: int, name: str = "{:04d}.jpeg") -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / name.format(number)).write_bytes(JPEG)


def write_jsonl(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


def declare(folder: Path, files: Mapping[str, tuple[str, str]]) -> None:
    """README.md whose head names the file of each configuration and its split."""
    lines = ["---", "configs:"]
    for config, (split, path) in files.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        lines += [f"  - split: {split}", f"    path: {path}"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")


def repository(root: Path, name: str) -> Path:
    return root / "annotations" / name


def _classification(root: Path) -> None:
    labels = {
        "Kinetics-700": (
            "K700",
            ["archery", "yoga", "squat", "tai_chi", "massaging_person's_head"],
        ),
        "HMDB51": ("HMDB51", ["wave", "dive", "sword", "turn", "run"]),
        "UCF101": ("UCF101", ["Biking", "YoYo", "TaiChi", "Rowing", "Punch"]),
        "Breakfast": ("Breakfast", ["coffee", "milk", "tea", "juice", "coffee"]),
    }
    for source, (folder, texts) in labels.items():
        rows = [
            {"video_id": f"clip_{n}", "pos_text": text, "neg_text": [], "dataset_name": source}
            for n, text in enumerate(texts)
        ]
        write_jsonl(repository(root, f"VLM2Vec/{source}") / "data" / "test.jsonl", rows)
        for n, count in enumerate(NUM_FRAMES):
            write_frames(root / FRAMES / "video_cls" / folder / f"clip_{n}", count, "frame_{}.jpg")
    texts = ["Opening something", "Closing something", "Tipping something over"]
    rows = [
        {"video_id": 100 + n, "pos_text": texts[n % 3], "neg_text": texts[: 2 + n % 2]}
        for n in range(5)
    ]
    write_jsonl(repository(root, "VLM2Vec/SmthSmthV2") / "data" / "test.jsonl", rows)
    for n, count in enumerate(NUM_FRAMES):
        write_frames(root / FRAMES / "video_cls" / "SSv2" / str(100 + n), count)


def _questions(root: Path) -> None:
    frames = root / FRAMES / "video_qa"
    folder = repository(root, "VLM2Vec/MVBench")
    names = list(mvbench_configs())
    declare(folder, {name: ("train", f"json/{name}.json") for name in names})
    for name in names:
        rows = [
            {
                "video": f"{name}_{n}.mp4",
                "question": f"What happened before turn {n}?",
                "candidates": ["Put down the bag.", "Ate the sandwich.", "Sat."][: 2 + n % 2],
                "answer": "Ate the sandwich.",
                "start": 0.5,
                "end": 9.0,
            }
            for n in range(MVBENCH.get(name, 0))
        ]
        write_json(folder / "json" / f"{name}.json", rows)
        for n, row in enumerate(rows):
            write_frames(frames / "MVBench" / name / str(row["video"]), NUM_FRAMES[n])

    rows = [
        {
            "video_id": f"00{n}",
            "videoID": f"fFjv93ACGo{n}",
            "question_id": f"00{n}-1",
            "domain": "Knowledge",
            "sub_category": "History",
            "question": "When is the tree lit?",
            "options": ["A. In 1804.", "B. Mr. Ash did.", "C. Twice.", "D. E.g. now."],
            "answer": "ABCDA"[n],
        }
        for n in range(5)
    ]
    rows[4]["options"] = ["A. Yes", "B. No", "C. Maybe", "None"]
    write_parquet(
        repository(root, "VLM2Vec/Video-MME") / "data" / "test-00000-of-00001.parquet", rows
    )
    for n, count in enumerate(NUM_FRAMES):
        write_frames(frames / "Video-MME" / f"fFjv93ACGo{n}", count)

    rows = [
        {"video": 4010069380 + n, "frame_count": 369, "width": 640, "height": 480}
        | {"question": "why is the boy clapping", "answer": n, "qid": 6 + n, "type": "CW"}
        | {"a0": "dance", "a1": "happy", "a2": "dance", "a3": "cold", "a4": "to sing"}
        for n in range(5)
    ]
    write_parquet(repository(root, "VLM2Vec/NExTQA") / "MC" / "test-00000-of-00001.parquet", rows)
    for n, count in enumerate(NUM_FRAMES):
        write_frames(frames / "NExTQA" / str(4010069380 + n), count)

    rows = [
        {
            "question_idx": str(n),
            "question": "What is C doing?",
            "video_idx": f"001934bb-{n}",
            "option": [f"{'ABCDE'[i]}. C folds {what}." for i, what in enumerate(_THINGS)],
            "answer": str(n),
        }
        for n in range(5)
    ]
    write_parquet(
        repository(root, "VLM2Vec/EgoSchema") / "Subset" / "test-00000-of-00001.parquet", rows
    )
    for n, count in enumerate(NUM_FRAMES):
        write_frames(frames / "EgoSchema" / f"001934bb-{n}", count)

    rows = [
        {
            "video_name": f"1QIUV7WYKX{n}",
            "question": "is the athlete wearing trousers",
            "question_id": f"v_1QIUV7WYKX{n}_3",
            "answer": ("yes", "no")[n % 2],
            "type": "3",
        }
        for n in range(5)
    ]
    write_parquet(
        repository(root, "VLM2Vec/ActivityNetQA") / "data" / "test-00000-of-00001.parquet", rows
    )
    for n, count in enumerate(NUM_FRAMES):
        write_frames(frames / "ActivityNetQA" / f"v_1QIUV7WYKX{n}", count)


_THINGS = ("a shirt", "paper", "a map", "the towel", "a net")


def mvbench_configs() -> tuple[str, ...]:
    from data_adapters.mmeb.catalog import load_entries

    entry = next(e for e in load_entries() if e.card.name == "MVBench")
    return tuple(entry.options["configs"])


def retrieval_rows() -> dict[str, tuple[list[Row], list[str]]]:
    """Rows of each source, and the names of their clips."""
    captions = ["a man  is driving", "two dogs run", "\u0161koda", 'a "red" car', "rain"]
    ids = [f"video{7020 + n}" for n in range(5)]
    zipped = list(zip(ids, captions, strict=True))
    return {
        "DiDeMo": (
            [{"video": f"test/{name}.mp4", "caption": text, "source": "DiDeMo"}
             for name, text in zipped], ids,
        ),
        "MSR-VTT": (
            [{"video_id": name, "video": f"{name}.mp4", "caption": text} for name, text in zipped],
            ids,
        ),
        "MSVD": (
            [{"video_id": name, "video": f"{name}.avi", "caption": [text, "other"]}
             for name, text in zipped], ids,
        ),
        "VATEX": (
            [{"videoID": name, "enCap": [text, "other"], "chCap": ["x"]} for name, text in zipped],
            ids,
        ),
        "YouCook2": (
            [{"id": name, "video_path": f"YouCookIIVideos/val/{name}.mp4", "sentence": text,
              "recipe_type": "113", "segment": [90, 102]} for name, text in zipped], ids,
        ),
    }  # fmt: skip


def _retrieval(root: Path) -> None:
    rows = {name: rows for name, (rows, _) in retrieval_rows().items()}
    write_jsonl(repository(root, "VLM2Vec/DiDeMo") / "test.jsonl", rows["DiDeMo"])
    folder = repository(root, "VLM2Vec/MSR-VTT")
    declare(folder, {"test_1k": ("test", "msrvtt_test_1k.json"), "default": ("test", "all.json")})
    write_json(folder / "msrvtt_test_1k.json", rows["MSR-VTT"])
    folder = repository(root, "VLM2Vec/MSVD")
    declare(folder, {"default": ("test", "msvd_test.json")})
    write_json(folder / "msvd_test.json", rows["MSVD"])
    write_jsonl(repository(root, "VLM2Vec/VATEX") / "data" / "test.jsonl", rows["VATEX"])
    folder = repository(root, "lmms-lab/YouCook2") / "data"
    write_parquet(folder / "val-00000-of-00002.parquet", rows["YouCook2"][:2])
    write_parquet(folder / "val-00001-of-00002.parquet", rows["YouCook2"][2:])
    for name, (_, clips) in retrieval_rows().items():
        for clip, count in zip(clips, NUM_FRAMES, strict=True):
            write_frames(root / FRAMES / "video_ret" / name / clip, count)


def _moments(root: Path) -> None:
    frames = root / FRAMES / "video_mret"
    for name, folder in (("QVHighlight", "QVHighlight"), ("Charades-STA", "Charades_STA")):
        rows = [
            {"query": f"A person opens door {n}", "video_path": f"videos/{name[:2]}_{n}.mp4"}
            for n in range(5)
        ]
        write_jsonl(repository(root, f"VLM2Vec/{name}") / "data" / "test.jsonl", rows)
        for n, count in enumerate(NUM_FRAMES):
            here = frames / folder / f"{name[:2]}_{n}"
            write_frames(here / "query", count)
            for clip in ("positive", "negative_10", "negative_2"):
                write_frames(here / clip, 8, "frame_{:04d}.jpg")
            (here / "info.json").write_text("{}", encoding="utf-8")

    asked = ["", "sports/q1.mp4", "ego_q2.jpg", "", "movie/q4.mp4"]
    rows = [
        {
            "query": f"How many points at {n}?",
            "input_frames": given,
            "positive_frames": _listed(f"sports/game_{n}.mp4", *["ego/a.mp4"][: n % 2]),
            "negative_frames": _listed(f"movie/{n}_x.mp4", "movie/shared.mp4"),
        }
        for n, given in enumerate(asked)
    ]
    write_jsonl(repository(root, "VLM2Vec/MomentSeeker") / "data" / "test.jsonl", rows)
    clips = [f"sports_game_{n}" for n in range(5)] + [f"movie_{n}_x" for n in range(5)]
    here = frames / "MomentSeeker"
    for n, clip in enumerate([*clips, "ego_a", "movie_shared", "sports_q1", "movie_q4"]):
        write_frames(here / "video_frames" / clip, NUM_FRAMES[n % 5], "frame_{:04d}.jpg")
    (here / "query_ego_q2.jpg").write_bytes(JPEG)


def _listed(*paths: str) -> list[dict[str, str]]:
    return [{"output_path": path, "start": "0"} for path in paths]
