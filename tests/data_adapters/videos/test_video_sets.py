"""Data sets of clips: rows in the sources' own files become exactly the expected examples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_adapters.catalog import Dataset, find_entry, load_entries
from mmembed.errors import ConfigError, DataError, InputError
from mmembed.inputs.sandbox import MediaDecoder
from tests.data_adapters.videos.described import check_rows, described
from tests.data_adapters.videos.layouts import CUT, LAYOUTS, hound_row, write_clip, write_lines

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens/videos.json").read_text())
NAMES = [name for name, entry in load_entries().items() if entry.family in LAYOUTS]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMEMBED_CACHE", str(tmp_path / "cache"))


def prepared(name: str, root: Path) -> Path:
    """The folder of a data set with its five rows."""
    card = find_entry(name).card
    folder = root / (card.repo or card.name)
    LAYOUTS[find_entry(name).family](card, folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_rows_keep_every_promise_and_equal_the_golden(name, tmp_path):
    folder = prepared(name, tmp_path)
    rows = Dataset(name, tmp_path)
    with MediaDecoder() as decoder:
        examples = check_rows(rows, decoder)
    expected = GOLDENS.get(name, [])
    assert [described(example, folder) for example in examples[: len(expected)]] == expected
    assert all(example.task == rows.card.task for example in examples)
    for example in examples:
        assert example.query.modality == rows.card.query.replace("text+video", "text+video")
        assert {item.modality for item in example.positives} == {rows.card.document}


def test_every_family_has_a_golden():
    families = {find_entry(name).family for name in GOLDENS}
    assert families == set(LAYOUTS)


def test_clips_that_were_cut_from_one_video_are_siblings(tmp_path):
    prepared("llavahound-caption-to-video", tmp_path)
    rows = Dataset("llavahound-caption-to-video", tmp_path)
    keys = [rows.sibling_key(index) for index in range(5)]
    assert keys == ["v_a1", "v_a1", "v_a1", "v_b2", ""]
    prepared("videochat-flash-clips", tmp_path)
    clips = Dataset("videochat-flash-clips", tmp_path)
    assert [clips.sibling_key(n) for n in range(5)] == [
        "",
        "long1.mp4",
        "long1.mp4",
        "",
        "deep/long2.mp4",
    ]
    prepared("activitynet-captions", tmp_path)
    moments = Dataset("activitynet-captions", tmp_path)
    assert [moments.sibling_key(n) for n in range(5)] == ["v_one"] * 3 + ["v_two"] * 2


def test_two_captions_of_a_clip_name_one_document_and_two_parts_of_it_do_not(tmp_path):
    prepared("msr-vtt-train-9k", tmp_path)
    ids = [Dataset("msr-vtt-train-9k", tmp_path)[n].positive_ids for n in range(3)]
    assert ids[0] == ids[1] != ids[2]
    prepared("activitynet-captions", tmp_path)
    moments = Dataset("activitynet-captions", tmp_path)
    assert len({moments[n].positive_ids for n in range(5)}) == 5


def test_options_of_a_recipe_go_over_those_of_the_card(tmp_path):
    prepared("llavahound-qa", tmp_path)
    rows = Dataset("llavahound-qa", tmp_path, turns="all", num_frames=None)
    assert len(rows) == 10
    assert rows[1].query.parts[1].text == "What moves?"
    assert rows[1].positives[0].parts[0].text == "Thing 0."
    assert rows[1].query.parts[0].num_frames is None
    assert rows.where(1) == "video_240k_caption_15k.jsonl, line 1, exchange 2"
    for wrong in ({"turns": "none"}, {"direction": "v2v"}, {"frames": 8}):
        with pytest.raises(ConfigError, match=r"none|v2v|frames"):
            Dataset("llavahound-qa", tmp_path, **wrong)


def test_a_bad_row_is_refused_with_file_and_line_and_the_others_stay(tmp_path):
    folder = prepared("llavahound-caption-to-video", tmp_path)
    name = find_entry("llavahound-caption-to-video").options["annotations"]
    good = [hound_row(number, clip) for number, clip in enumerate(CUT)]
    absent = hound_row(1, "not_there")
    escaping = hound_row(2, "../../elsewhere")
    silent = {**good[3], "conversations": [{"from": "human", "value": "<video>"}]}
    empty = hound_row(4, CUT[4])
    empty["conversations"][1]["value"] = " "
    half = {**hound_row(5, CUT[4]), "start": 2.0, "end": 1.0}
    frames = {**hound_row(6, CUT[4]), "start": 0.0, "end": 1.0}
    write_lines(folder / name, [good[0], absent, escaping, silent, empty, half, frames, good[1]])
    rows = Dataset("llavahound-caption-to-video", tmp_path)
    codes = {1: "not_found", 2: "forbidden_path", 3: "invalid_type", 4: "empty"}
    codes |= {5: "invalid_type", 6: "invalid_type"}
    for index, code in codes.items():
        with pytest.raises(InputError, match=f"line {index + 1}") as caught:
            rows[index]
        assert caught.value.code == code
    assert rows[0].query.parts[0].text == "Caption 0."
    assert rows[7].query.parts[0].text == "Caption 1."


def test_bad_moments_are_refused_one_by_one(tmp_path):
    folder = prepared("activitynet-captions", tmp_path)
    content = {
        "v_one": {"timestamps": [[0, 1], [2, 1], "later"], "sentences": ["A", "B", "C", "D"]},
        "v_lost": {"timestamps": [[0, 1]], "sentences": ["E"]},
        "v_none": [],
    }
    (folder / "train.json").write_text(json.dumps(content))
    rows = Dataset("activitynet-captions", tmp_path)
    assert len(rows) == 6
    assert rows[0].positives[0].parts[0].end == 1
    for index in range(1, 6):
        with pytest.raises(InputError, match=r"train\.json, v_(one|lost|none), sentence \d"):
            rows[index]


def test_a_file_that_is_no_list_or_not_there_refuses_the_data_set(tmp_path):
    folder = prepared("didemo-moments", tmp_path)
    (folder / "train_data.json").write_text("{}")
    with pytest.raises(DataError, match="expected a list"):
        Dataset("didemo-moments", tmp_path)
    (folder / "train_data.json").unlink()
    with pytest.raises(DataError, match="get it as https"):
        Dataset("didemo-moments", tmp_path)


def test_a_clip_is_found_under_another_suffix_and_as_frames(tmp_path):
    folder = prepared("didemo-paragraphs", tmp_path)
    (folder / "video/video0.mp4").unlink()
    (folder / "video/video0").mkdir()
    rows = Dataset("didemo-paragraphs", tmp_path)
    with pytest.raises(InputError, match="no frames"):
        rows[0]
    (folder / "video/video0").rmdir()
    write_clip(folder / "video/video0.webm")
    assert rows[0].positives[0].parts[0].source == folder / "video/video0.webm"
