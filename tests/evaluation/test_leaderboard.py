"""The leaderboard's file: what is in it, and what its schema refuses (EV-15)."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_adapters.mmeb.catalog import load_entries
from mmembed.config.validation import validate
from mmembed.errors import ConfigError, DataError
from mmembed.evaluation.leaderboard import Metadata, json_schema, leaderboard, validate_leaderboard
from mmembed.evaluation.metrics import METRICS
from mmembed.evaluation.results import RunResults
from tests.evaluation.made_up_runs import card, hits, result

METADATA = Metadata(model_name="m", model_size=2.2, report_generated_date="2026-11-22")
CARDS = [
    card("cls", "image", "I-CLS", num_queries=10),
    card("pages", "visdoc", "OOD", num_queries=10, leaderboard_name="pages-fixed"),
]


def run(*results, **record) -> RunResults:
    return RunResults(Path("out"), {each.name: each for each in results}, record)


def good() -> dict[str, Any]:
    done = run(result(CARDS[0], hits(10, 0.5)), result(CARDS[1], hits(10, 0.3)))
    return leaderboard(done, CARDS, METADATA)


def test_the_file_of_all_78_data_sets_has_their_keys_and_counts():
    cards = [entry.card for entry in load_entries()]
    done = run(*(result(each, hits(each.num_queries, 0.5)) for each in cards))
    content = leaderboard(done, cards, METADATA)
    assert {name: len(sets) for name, sets in content["metrics"].items()} == {
        "image": 36, "video": 18, "visdoc": 24
    }  # fmt: skip
    for sets in content["metrics"].values():
        for values in sets.values():
            assert list(values) == [*METRICS, "num_pred", "num_data"]
            assert len(values) == 26
    assert {"ViDoSeek-page-fixed", "MMLongBench-page-fixed"} <= set(content["metrics"]["visdoc"])
    assert "ViDoSeek-page" not in content["metrics"]["visdoc"]
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_official_ties_stand_in_it():
    tied = result(CARDS[0], hits(10, 0.2), official=hits(10, 0.8))
    assert leaderboard(run(tied), CARDS, METADATA)["metrics"]["image"]["cls"]["hit@1"] == 0.8


def test_data_sets_without_a_complete_result_are_left_out():
    torn = result(CARDS[1], hits(10, 0.5), missing=("a.png",))
    content = leaderboard(run(result(CARDS[0], hits(10, 0.5)), torn), CARDS, METADATA)
    assert list(content["metrics"]) == ["image"]
    with pytest.raises(DataError, match="no complete result"):
        leaderboard(run(torn), CARDS, METADATA)


def test_a_subset_is_no_submission():
    done = run(result(CARDS[0], hits(10, 0.5)), subset={"queries": 10})
    with pytest.raises(DataError, match="subset"):
        leaderboard(done, CARDS, METADATA)


def test_another_number_of_queries_is_refused():
    with pytest.raises(DataError, match=r"image\.cls\.num_data: Input should be 10"):
        leaderboard(run(result(CARDS[0], hits(9, 1.0))), CARDS, METADATA)


def changed(path: str, value: Any) -> dict[str, Any]:
    content: Any = deepcopy(good())
    *parents, last = path.split("/")
    place = content
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metrics/image/cls", "FILE_N/A"),
        ("metrics/image/cls", None),
        ("metrics/image/cls", {"acc": 0.5}),
        ("metrics/image/stranger", {}),
        ("metrics/visdoc/pages", {}),
        ("metrics/audio", {}),
        ("metrics/video", None),
        ("metrics/image/cls/hit@1", ...),
        ("metrics/image/cls/hit@1", "0.5"),
        ("metrics/image/cls/hit@1", True),
        ("metrics/image/cls/hit@1", None),
        ("metrics/image/cls/hit@1", float("nan")),
        ("metrics/image/cls/hit@1", float("inf")),
        ("metrics/image/cls/hit@1", 1.5),
        ("metrics/image/cls/hit@1", -0.1),
        ("metrics/image/cls/hit@3", 0.5),
        ("metrics/image/cls/num_data", 9),
        ("metrics/image/cls/num_data", 10.5),
        ("metrics/image/cls/num_pred", ...),
        ("metadata", ...),
        ("metadata/model_name", ...),
        ("metadata/model_size", -1),
        ("metadata/model_release_date", "last year"),
        ("metadata/modelname", "x"),
        ("metrics", ...),
        ("extra", 1),
    ],
)
def test_what_breaks_the_schema_is_refused(path: str, value: Any):
    validate_leaderboard(good(), CARDS)
    with pytest.raises(DataError, match="not a leaderboard file"):
        validate_leaderboard(changed(path, value), CARDS)


@pytest.mark.parametrize("content", [[], None, "scores", {"acc": 0.5}])
def test_what_is_no_such_file_at_all_is_refused(content: Any):
    with pytest.raises(DataError, match="not a leaderboard file"):
        validate_leaderboard(content, CARDS)


def test_a_file_of_one_modality_is_accepted():
    validate_leaderboard(changed("metrics/visdoc", ...), CARDS)


def test_the_json_schema_names_what_the_models_check():
    schema = json_schema(CARDS)
    sets = schema["$defs"]["metrics_of_visdoc"]
    assert list(sets["properties"]) == ["pages-fixed"]
    assert sets["additionalProperties"] is False
    values = schema["$defs"]["metrics_of_10_queries"]
    assert len(values["required"]) == len(values["properties"]) == 26
    assert values["properties"]["num_data"]["const"] == 10
    assert values["properties"]["hit@1"]["maximum"] == 1.0
    assert "default" not in sets["properties"]["pages-fixed"]


def test_metadata_come_from_options_as_text():
    fields = {"model_name": "m", "model_size": "8.29", "report_generated_date": "2026-11-22"}
    assert validate(Metadata, fields, where="--metadata").model_size == 8.29
    with pytest.raises(ConfigError, match="did you mean 'model_size'"):
        validate(Metadata, {**fields, "modelsize": "1"}, where="--metadata")


def test_pairs_are_no_part_of_it():
    judged = replace(result(CARDS[0], hits(10, 0.5)), metrics={"official": {"spearman": 0.5}})
    with pytest.raises(DataError, match="26 values"):
        leaderboard(run(judged), CARDS, METADATA)
