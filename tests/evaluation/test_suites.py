"""Suites and profiles: strict files, names that are explained, lists of what is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmembed.errors import ConfigError, DataError
from mmembed.evaluation.profiles import dump_profile, load_profile, parse_profile, profile_sha256
from mmembed.evaluation.suites import Selection, list_suites, load_suite
from mmembed.tasks import Profile
from tests.evaluation.fixture_suite import write_data, write_suite


def test_every_bundled_suite_opens_without_data(tmp_path: Path) -> None:
    counts = {name: len(load_suite(name).open(tmp_path).cards) for name in list_suites()}
    assert counts["mmeb-v2"] == counts["nano-mmeb"] == 78
    assert counts["mmeb-v1"] == 36


def test_the_parts_of_the_full_suite_are_36_18_and_24(tmp_path: Path) -> None:
    suite = load_suite("mmeb-v2").open(tmp_path)
    counts = {
        modality: len(suite.select(Selection(modality=(modality,))).cards)
        for modality in ("image", "video", "visdoc")
    }
    assert counts == {"image": 36, "video": 18, "visdoc": 24}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"subsett": {"queries": 1, "documents": 1}},
            "unknown key 'subsett'; did you mean 'subset'",
        ),
        ({"subset": {"queries": 0, "documents": 1}}, "subset.queries"),
        ({"sources": []}, "sources"),
        ({"profile": None}, "profile"),
    ],
)
def test_a_wrong_suite_file_says_where(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    path = write_suite(tmp_path / "s.yaml", **fields)
    with pytest.raises(ConfigError, match=message) as caught:
        load_suite(path)
    assert "s.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(only=("picture",)), "no task 'picture'; did you mean 'pictures'"),
        (Selection(modality=("txt",)), "no modality 'txt'; did you mean 'text'"),
        (Selection(group=("I-CLA",)), "no group 'I-CLA'; did you mean 'I-CLS'"),
        (Selection(only=("words",), modality=("image",)), "no task of suite"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_one(
    tmp_path: Path, selection: Selection, message: str
) -> None:
    suite = load_suite(write_suite(tmp_path / "s.yaml")).open(write_data(tmp_path / "data"))
    with pytest.raises(ConfigError, match=message):
        suite.select(selection)


def test_selections_keep_the_order_of_reports(tmp_path: Path) -> None:
    suite = load_suite(write_suite(tmp_path / "s.yaml")).open(write_data(tmp_path / "data"))
    assert list(suite.select(Selection(only=("clips", "words"))).cards) == ["words", "clips"]
    assert list(suite.select(Selection(modality=("image",))).cards) == ["pictures", "labels"]


def test_a_suite_that_needs_data_says_which(tmp_path: Path) -> None:
    suite = load_suite(write_suite(tmp_path / "s.yaml"))
    with pytest.raises(DataError, match=r"needs a data root .files of write_data., but no"):
        suite.open()
    with pytest.raises(DataError, match="gone is no folder"):
        suite.open(tmp_path / "gone")


def test_the_missing_files_of_all_tasks_are_listed_at_once(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    (data / "expected.txt").write_text("p0.png " + " ".join(f"x{n}.png" for n in range(25)))
    suite = load_suite(write_suite(tmp_path / "s.yaml")).open(data)
    with pytest.raises(DataError) as caught:
        suite.load_all()
    assert caught.value.missing == tuple(f"pictures/x{n}.png" for n in range(25))
    message = str(caught.value)
    assert "25 files are missing" in message and "for pictures, labels" in message
    assert "x19.png" in message and "x20.png" not in message and "and 5 more" in message
    tasks = suite.load_all(allow_missing=True)
    assert len(tasks["labels"][1].missing) == 25 and not tasks["words"][1].missing


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    source = {"reference": "tests.evaluation.fixture_suite:FixtureSuite"}
    suite = load_suite(write_suite(tmp_path / "s.yaml", sources=[source, source]))
    with pytest.raises(ConfigError, match="two tasks named 'words'"):
        suite.open(tmp_path)


def test_the_hash_of_a_profile_is_of_every_field_but_its_name() -> None:
    profile = Profile("a", prompts={"x": "Find:"})
    changes: list[dict[str, Any]] = [
        {"prompts": {"x": "Find: "}},
        {"prompts": {"y": "Find:"}},
        {"template": "plain"},
        {"instruction_in_text": True},
        {"separator": " "},
        {"document_instructions": False},
        {"num_frames": 9},
        {"letters": {"NExTQA": True}},
        {"reference_defects": True},
        {"options": {"x": 1}},
    ]
    hashes = {profile_sha256(replace(profile, **change)) for change in [{}, *changes]}
    assert len(hashes) == len(changes) + 1
    assert profile_sha256(replace(profile, name="b")) == profile_sha256(profile)


def test_a_profile_comes_back_from_its_dump() -> None:
    for name in ("plain", "rzen", "vlm2vec", "qwen3vl"):
        profile = load_profile(name)
        dumped = json.loads(json.dumps(dump_profile(profile)))
        assert parse_profile(dumped, where="a dump") == profile
        assert profile_sha256(parse_profile(dumped, where="a dump")) == profile_sha256(profile)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"name": "x", "prompt": {}}', "unknown key 'prompt'; did you mean 'prompts'"),
        ('{"name": "x", "num_frames": "8"}', "num_frames"),
        ('{"name": "x", "prompts": {"a": 1}}', "prompts.a"),
        ('{"name": "x", "name": "y"}', "the key 'name' is given twice"),
        ("[]", "a profile is a JSON object"),
        ("{", "is not JSON"),
    ],
)
def test_a_wrong_profile_says_where(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_profile(path)
    assert "p.json" in str(caught.value)


def test_an_unknown_profile_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="no profile file 'plane'; did you mean 'plain'"):
        load_profile("plane")
