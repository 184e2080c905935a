"""The 18 video data sets: five rows in the sources' files become exactly the expected items."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_adapters.mmeb.catalog import load_entries
from data_adapters.mmeb.suite import MMEB
from mmembed.errors import DataError
from mmembed.evaluation.profiles import load_profile
from mmembed.inputs.prompt import Placeholder, UserText, load_template
from mmembed.tasks import LoadedTask, Profile, RetrievalTask
from mmembed.types import Image, MultimodalInput, Text, Video
from tests.data_adapters.mmeb.described import PROFILES, described, golden
from tests.data_adapters.mmeb.video_data import (
    FRAMES,
    NUM_FRAMES,
    repository,
    retrieval_rows,
    write_frames,
    write_jsonl,
    write_parquet,
    write_video_data,
)

ENTRIES = {e.card.name: e for e in load_entries() if e.card.modality == "video"}
LOADED = {name: load_profile(name) for name in PROFILES}
GOLDEN = golden("video")
# Specification 1.4: repository, configuration, split, queries, size of the pool where it is known.
TABLE = {
    "K700": ("VLM2Vec/Kinetics-700", "", "test", 1000, 700),
    "SmthSmthV2": ("VLM2Vec/SmthSmthV2", "", "test", 1000, None),
    "HMDB51": ("VLM2Vec/HMDB51", "", "test", 1000, 51),
    "UCF101": ("VLM2Vec/UCF101", "", "test", 1000, 101),
    "Breakfast": ("VLM2Vec/Breakfast", "", "test", 433, 10),
    "MVBench": ("VLM2Vec/MVBench", "", "train", 4000, None),
    "Video-MME": ("VLM2Vec/Video-MME", "", "test", 2700, 4),
    "NExTQA": ("VLM2Vec/NExTQA", "MC", "test", 8564, 5),
    "EgoSchema": ("VLM2Vec/EgoSchema", "Subset", "test", 500, 5),
    "ActivityNetQA": ("VLM2Vec/ActivityNetQA", "", "test", 1000, 2),
    "DiDeMo": ("VLM2Vec/DiDeMo", "", "test", 1004, 1004),
    "MSR-VTT": ("VLM2Vec/MSR-VTT", "test_1k", "test", 1000, 1000),
    "MSVD": ("VLM2Vec/MSVD", "", "test", 670, 670),
    "VATEX": ("VLM2Vec/VATEX", "", "test", 4478, 4478),
    "YouCook2": ("lmms-lab/YouCook2", "", "val", 3179, 3179),
    "QVHighlight": ("VLM2Vec/QVHighlight", "", "test", 1083, None),
    "Charades-STA": ("VLM2Vec/Charades-STA", "", "test", 727, None),
    "MomentSeeker": ("VLM2Vec/MomentSeeker", "", "test", 1602, None),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video")
    write_video_data(folder)
    return folder


@pytest.fixture
def own_root(root: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(root, tmp_path / "data"))


def loaded(
    root: Path, name: str, profile: Profile = LOADED["rzen"], allow_missing: bool = False
) -> LoadedTask:
    return MMEB(root, profile, check_counts=False).load(name, allow_missing=allow_missing)


def task(root: Path, name: str, profile: Profile = LOADED["rzen"]) -> RetrievalTask:
    found = loaded(root, name, profile).task
    assert isinstance(found, RetrievalTask)
    return found


def clips(found: RetrievalTask) -> list[tuple[Path, ...]]:
    items = [*found.queries.values(), *found.corpus.values()]
    parts = [part for item in items for part in item.parts if isinstance(part, Video)]
    return [part.source for part in parts]  # type: ignore[misc]


def test_the_catalog_says_what_the_table_of_the_specification_says():
    found = {
        name: (e.repo, e.config, e.split, e.card.num_queries, e.card.num_documents)
        for name, e in ENTRIES.items()
    }
    assert found == TABLE
    for name, entry in ENTRIES.items():
        assert entry.card.main_metric == "hit@1"
        own_pools = entry.card.group in ("V-QA", "V-MRET") or name == "SmthSmthV2"
        assert entry.card.has_pools == own_pools
        assert entry.card.source.startswith(entry.repo)
        for unknown in ("revision", "size"):
            assert unknown in entry.card.note


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", TABLE)
def test_five_rows_become_exactly_the_golden_items(root, name, profile):
    assert described(task(root, name, LOADED[profile]), root) == GOLDEN[name][profile]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_clip_has_the_first_and_last_saved_frame_and_none_twice(root, profile):
    most = LOADED[profile].num_frames
    for name in TABLE:
        for frames in clips(task(root, name, LOADED[profile])):
            saved = len(list(frames[0].parent.iterdir()))
            numbers = [int(path.stem.removeprefix("frame_")) for path in frames]
            assert len(frames) == min(saved, most)
            assert numbers == sorted(set(numbers))
            assert (numbers[0], numbers[-1]) == (0, saved - 1)
            assert all(path.is_file() for path in frames)


def prompt_of(item: MultimodalInput, template: str) -> str:
    prompt = load_template(template)
    content = [
        UserText(part.text) if isinstance(part, Text)
        else Placeholder("image" if isinstance(part, Image) else "video")
        for part in item.parts
    ]  # fmt: skip
    return prompt.text(prompt.render(content, instruction=item.instruction, role="query"))


@pytest.mark.parametrize("name", sorted(set(TABLE) - {"EgoSchema"}))
def test_raw_prompts_are_medium_instruction_text_with_one_blank_between(root, name):
    """Against the plain formula, with the parts as the other profile words them."""
    plain, raw = task(root, name), task(root, name, LOADED["vlm2vec"])
    for key, item in plain.queries.items():
        texts = [part.text for part in item.parts if isinstance(part, Text)]
        media = ["<|image_pad|>" if isinstance(part, Image) else "<|video_pad|>"
                 for part in item.parts if not isinstance(part, Text)]  # fmt: skip
        blank = " " if ENTRIES[name].query_prompt == "VQ" else ""  # the prompt has one of its own
        instruction = str(item.instruction)
        if texts:
            instruction = instruction.removesuffix(" ") + blank
        expected = " ".join([*media, instruction, *texts])
        assert prompt_of(raw.queries[key], "vlm2vec") == expected


@pytest.mark.parametrize(
    "layout",
    [
        "video_ret/{}",
        "video_ret/{}/frames",
        "video_ret/data/ziyan/video_retrieval/{}/frames",
        "data/ziyan/video_retrieval/{}/frames",
    ],
)
def test_the_retrieval_archive_may_be_unpacked_in_each_known_way(root, own_root, layout):
    for name in retrieval_rows():
        saved = own_root / "moved"
        (own_root / FRAMES / "video_ret" / name).rename(saved)
        target = own_root / FRAMES / layout.format(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        saved.rename(target)
        text = json.dumps(described(task(own_root, name), own_root))
        moved = text.replace(f"{FRAMES}/{layout.format(name)}/", f"{FRAMES}/video_ret/{name}/")
        assert json.loads(moved) == GOLDEN[name]["rzen"]


def test_the_copies_of_the_benchmark_stand_in_for_absent_repositories(own_root):
    rows, _ = retrieval_rows()["YouCook2"]
    write_jsonl(own_root / "video-tasks" / "data" / "youcook2-val.jsonl", rows)
    shutil.rmtree(repository(own_root, "lmms-lab/YouCook2"))
    assert described(task(own_root, "YouCook2"), own_root) == GOLDEN["YouCook2"]["rzen"]

    json_folder = repository(own_root, "VLM2Vec/MVBench") / "json"
    json_folder.rename(own_root / "video-tasks" / "data" / "mvbench")
    assert described(task(own_root, "MVBench"), own_root) == GOLDEN["MVBench"]["rzen"]


@pytest.mark.parametrize("name", TABLE)
def test_missing_frames_fail_with_their_names_or_make_the_task_partial(own_root, name):
    folder = sorted({frames[0].parent for frames in clips(task(own_root, name))})[0]
    for path in folder.iterdir():  # the folder itself says that there is such a clip of a moment
        path.unlink()
    relative = str(folder.relative_to(own_root))
    with pytest.raises(DataError, match="allow missing") as caught:
        loaded(own_root, name)
    assert relative in str(caught.value)
    partial = loaded(own_root, name, allow_missing=True)
    assert partial.missing == (relative,)
    left = partial.task
    assert isinstance(left, RetrievalTask)
    assert all(frames[0].parent != folder for frames in clips(left))
    for key, grades in left.relevant.items():
        pool = left.corpus if left.pools is None else left.pools[key]
        assert set(grades) & set(pool) and set(grades) <= set(left.corpus)
    assert set(left.relevant) == set(left.queries)


def test_a_missing_query_picture_is_named(own_root):
    (own_root / FRAMES / "video_mret/MomentSeeker/query_ego_q2.jpg").unlink()
    with pytest.raises(DataError, match=r"MomentSeeker/query_ego_q2\.jpg"):
        loaded(own_root, "MomentSeeker")
    partial = loaded(own_root, "MomentSeeker", allow_missing=True)
    assert set(partial.task.queries) == {"0", "1", "3", "4"}  # type: ignore[union-attr]


@pytest.mark.parametrize("clip", ["query", "positive", "negative_2"])
def test_a_video_without_its_whole_or_its_positive_clip_is_not_asked_about(own_root, clip):
    for path in (own_root / FRAMES / "video_mret/QVHighlight/QV_2" / clip).iterdir():
        path.unlink()
    partial = loaded(own_root, "QVHighlight", allow_missing=True)
    assert partial.missing == (f"{FRAMES}/video_mret/QVHighlight/QV_2/{clip}",)
    left = partial.task
    assert isinstance(left, RetrievalTask) and left.pools is not None
    if clip == "negative_2":
        assert left.pools["2"] == ("QV_2/negative_10", "QV_2/positive")
    else:
        assert "2" not in left.queries
        assert not any(name.startswith("QV_2/") for name in left.corpus)


def test_a_whole_folder_of_moments_may_be_missing(own_root):
    shutil.rmtree(own_root / FRAMES / "video_mret/QVHighlight/QV_2")
    partial = loaded(own_root, "QVHighlight", allow_missing=True)
    assert partial.missing == (f"{FRAMES}/video_mret/QVHighlight/QV_2/query",)
    assert set(partial.task.queries) == {"0", "1", "3", "4"}  # type: ignore[union-attr]


def test_several_positive_clips_are_all_relevant(own_root):
    folder = own_root / FRAMES / "video_mret/Charades_STA/Ch_1"
    write_frames(folder / "positive_2", 3)
    found = task(own_root, "Charades-STA")
    assert found.relevant["1"] == {"Ch_1/positive": 1.0, "Ch_1/positive_2": 1.0}


@pytest.mark.parametrize(
    ("gone", "missing"),
    [(["positive"], "positive*"), (["negative_2", "negative_10"], "the other clips")],
)
def test_a_video_without_a_positive_or_any_other_clip_was_unpacked_in_part(own_root, gone, missing):
    """With one candidate every model would be right."""
    for name in gone:
        shutil.rmtree(own_root / FRAMES / "video_mret/Charades_STA/Ch_1" / name)
    with pytest.raises(DataError, match=r"Charades-STA: 1 media files .*Ch_1/"):
        loaded(own_root, "Charades-STA")
    partial = loaded(own_root, "Charades-STA", allow_missing=True)
    assert partial.missing == (f"{FRAMES}/video_mret/Charades_STA/Ch_1/{missing}",)
    assert set(partial.task.queries) == {"0", "2", "3", "4"}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", TABLE)
def test_a_task_without_any_media_is_refused_even_where_missing_ones_are_allowed(own_root, name):
    shutil.rmtree(own_root / FRAMES)
    with pytest.raises(DataError, match=f"{name}: nothing is left to judge") as caught:
        loaded(own_root, name, allow_missing=True)
    assert caught.value.missing and "unpacked" in str(caught.value)


BROKEN = [
    ("SmthSmthV2", "neg_text", "Opening something", "a list of texts"),
    ("SmthSmthV2", "video_id", None, "a name or a whole number"),
    ("HMDB51", "pos_text", 3, "a text"),
    ("VATEX", "enCap", [], "a text or a list of texts"),
    ("DiDeMo", "video", "", "a name"),
    ("DiDeMo", "caption", "\ud800", "a text"),
    ("QVHighlight", "video_path", {"path": "a.mp4"}, "a text"),
    ("MomentSeeker", "positive_frames", ["a.mp4"], "a list of objects with `output_path`"),
    ("MomentSeeker", "query", "x" * 10**6 + "\udfff", "a text"),
]


@pytest.mark.parametrize(("name", "column", "value", "expected"), BROKEN)
def test_a_broken_cell_is_named(own_root, name, column, value, expected):
    entry = ENTRIES[name]
    (file,) = repository(own_root, entry.repo).rglob("*.jsonl")
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    rows[2][column] = value
    write_jsonl(file, rows)
    where = f"^{name}, row 2, column '{column}': found .*; expected {expected}"
    with pytest.raises(DataError, match=where) as caught:
        loaded(own_root, name)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("path", ["../../secret", "a\0b", "..", "x" * 300])
def test_the_name_of_a_clip_leads_nowhere_else(own_root, path):
    rows = [{"video_id": path, "pos_text": "wave"}]
    write_jsonl(repository(own_root, "VLM2Vec/HMDB51") / "data" / "test.jsonl", rows)
    with pytest.raises(DataError, match=r"^HMDB51: "):
        loaded(own_root, "HMDB51", allow_missing=True)


def test_options_keep_their_letter_where_the_profile_says_so(root):
    lettered = replace(LOADED["rzen"], letters=dict.fromkeys(TABLE, True))
    for name in ("MVBench", "NExTQA", "Video-MME", "EgoSchema"):
        for key, item in task(root, name, lettered).corpus.items():
            assert item == MultimodalInput((Text(key),))
    bare = task(root, "MVBench", replace(LOADED["rzen"], letters={}))
    assert bare.corpus["(C) Sat."] == MultimodalInput((Text("Sat."),))


def test_the_defects_of_the_reference_are_repeated_only_on_request(root):
    for name, plain, defect in [("rzen", "None", "e"), ("vlm2vec", "None", "e")]:
        item = task(root, "Video-MME", LOADED[name]).corpus["None"]
        expected = defect if LOADED[name].reference_defects else plain
        assert item == MultimodalInput((Text(expected),))
    joined = replace(LOADED["rzen"], reference_defects=True)
    plain_text, defect_text = (
        task(root, "EgoSchema", profile).queries["0"].parts[-1].text  # type: ignore[union-attr]
        for profile in (LOADED["rzen"], joined)
    )
    assert plain_text.startswith("What is C doing? A. C folds")
    assert defect_text.startswith("What is C doing?A. C folds")


def test_only_the_first_thousand_rows_are_judged(own_root):
    rows = [
        {"video_id": 100 + n % 5, "pos_text": "Holding something", "neg_text": ["x"]}
        for n in range(1003)
    ]
    write_jsonl(repository(own_root, "VLM2Vec/SmthSmthV2") / "data" / "test.jsonl", rows)
    found = MMEB(own_root, LOADED["rzen"]).load("SmthSmthV2").task
    assert isinstance(found, RetrievalTask) and len(found.queries) == 1000
    assert found.pools is not None and set(found.pools["0"]) == {"x", "Holding something"}


@pytest.mark.parametrize("name", TABLE)
def test_five_rows_are_refused_where_the_card_knows_the_number(root, name):
    with pytest.raises(DataError, match=f"5 queries, expected {TABLE[name][3]}"):
        MMEB(root, LOADED["rzen"]).load(name)


def test_an_unknown_label_is_refused(own_root):
    rows = [{"video_id": "clip_0", "pos_text": "breakfast"}]
    write_jsonl(repository(own_root, "VLM2Vec/HMDB51") / "data" / "test.jsonl", rows)
    with pytest.raises(DataError, match="'breakfast', which is none of the 51 labels"):
        loaded(own_root, "HMDB51")


def test_an_answer_that_is_no_option_is_refused(own_root):
    path = repository(own_root, "VLM2Vec/MVBench") / "json" / "action_sequence.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
    rows[1]["answer"] = "nothing"
    path.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(DataError, match="action_sequence/1: the answer 'nothing'"):
        loaded(own_root, "MVBench")


@pytest.mark.parametrize("answer", ["E", "a", ""])
def test_a_letter_that_no_option_has_is_refused(own_root, answer):
    """-1 would be the last option."""
    (path,) = repository(own_root, "VLM2Vec/Video-MME").rglob("*.parquet")
    row = {"videoID": "v", "question": "?", "options": ["A. Yes", "B. No"], "answer": answer}
    write_parquet(path, [row])
    with pytest.raises(DataError, match="Video-MME: question 0: the answer"):
        loaded(own_root, "Video-MME")


def test_a_column_that_is_not_there_is_named(own_root):
    path = repository(own_root, "VLM2Vec/UCF101") / "data" / "test.jsonl"
    path.write_text('{"id": "clip_0", "pos_text": "Biking"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="has no video_id; it has id, pos_text"):
        loaded(own_root, "UCF101")


def test_a_profile_without_a_prompt_says_which_one_to_add(root):
    bare = replace(LOADED["rzen"], prompts={"DQ": "Find."})
    with pytest.raises(DataError, match=r"needs the prompt 'VQ'.*Add it"):
        loaded(root, "NExTQA", bare)


def test_the_number_of_saved_frames_covers_all_cases():
    assert min(NUM_FRAMES) < 8 < 9 in NUM_FRAMES and max(NUM_FRAMES) > 64
