"""Published tables as data: whole, with sources, obeying the rule of means, and never mixed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from data_adapters.mmeb.catalog import load_entries
from mmembed.errors import ConfigError
from mmembed.evaluation.aggregation import means
from mmembed.evaluation.reference_scores import (
    Delta,
    ReferenceRow,
    References,
    compare_with,
    list_references,
    load_references,
    matches,
    page_sets,
)
from tests.evaluation.made_up_runs import card

PARTS = {
    "image": ("I-CLS", "I-QA", "I-RET", "I-GD"),
    "video": ("V-CLS", "V-QA", "V-RET", "V-MRET"),
    "visdoc": ("VDRv1", "VDRv2", "VisRAG", "VisDoc-OOD"),
}


@pytest.mark.parametrize("name", ["mmeb-v2", "mmeb-v1", "mteb"])
def test_bundled_rows_are_per_cent_with_a_source(name: str):
    references, rows = load_references(name)
    assert references.benchmark == name
    assert len({(row.model, row.page_set) for row in rows}) == len(rows)
    for row in rows:
        assert row.source
        values = [*row.groups.values(), *row.modalities.values(), *row.splits.values()]
        values += row.tasks.values()
        values += [value for each in row.benchmarks.values() for value in each.values()]
        values += [] if row.overall is None else [row.overall]
        assert values and all(1 < value < 100 for value in values)
        if name == "mmeb-v2":
            assert row.page_set in ("original", "repaired")


@pytest.mark.parametrize("name", ["mmeb-v2", "mmeb-v1"])
def test_printed_means_are_those_of_their_parts(name: str):
    """Groups weighted by their data sets give the modality, modalities and splits everything; to
    0.1 for the rounding. A row for which that fails upstream says so in its note."""
    references, rows = load_references(name)
    sizes = references.sizes
    assert sum(sizes[group] for group in PARTS["image"]) == sizes["image"] == 36

    def mean(table: dict[str, float]) -> float:
        return sum(sizes[key] * value for key, value in table.items()) / sum(
            sizes[key] for key in table
        )

    checked, wrong = 0, []
    for row in rows:
        claims = []
        for modality, groups in PARTS.items():
            table = {group: row.groups[group] for group in groups if group in row.groups}
            if len(table) == 4:
                claims.append((mean(table), row.modalities[modality]))
        if len(row.modalities) == 3:
            claims.append((mean(row.modalities), row.overall))
        if row.splits:
            claims.append((mean(row.splits), row.overall))
        checked += len(claims)
        if any(abs(found - printed) > 0.1 for found, printed in claims):
            wrong.append(row)
    assert checked > 40
    assert len(wrong) <= 5
    assert all("average" in row.note for row in wrong), [row.model for row in wrong]


def test_the_values_of_a_published_file_average_to_the_printed_means():
    """78 data sets of one model, by the rule, with the cards of the adapter: the means that the
    specification states (1.10), and groups as another table prints them; its V-MRET differs."""
    _, (row,) = load_references("mmeb-v2:VLM2Vec-V2 (files)")
    cards = [entry.card for entry in load_entries()]
    values = {name.removesuffix("_1k8"): value for name, value in row.tasks.items()}
    assert set(values) == {card.name for card in cards}
    found = {(each.level, each.name): each.value for each in means(values, cards)}
    modalities = {name: round(found["modality", name], 2) for name in row.modalities}
    assert modalities == row.modalities == {"image": 64.85, "video": 34.58, "visdoc": 65.36}
    assert round(found["overall", "all"], 2) == row.overall == 58.02
    printed = load_references("mmeb-v2:VLM2Vec-V2")[1][0].groups
    groups = {name: round(found["group", name], 1) for name in printed}
    assert {name for name in printed if groups[name] != printed[name]} == {"V-MRET"}


def test_values_over_other_queries_or_pages_are_never_set_against_the_cards():
    """The file's MomentSeeker has 1800 queries, the card's 1602; two page sets were repaired."""
    references, rows = load_references("mmeb-v2:VLM2Vec-V2 (files)")
    cards = [entry.card for entry in load_entries()]
    values = {card.name: 0.5 for card in cards}
    found = compare_with(references, rows, means(values, cards), values, cards)
    tasks = {each.name: each for each in found if each.level == "task"}
    assert {card.name for card in cards} - set(tasks) == {"MomentSeeker"}
    refused = {name for name, each in tasks.items() if each.difference is None}
    assert refused == {"ViDoSeek-page", "MMLongBench-page"}
    assert tasks["HatefulMemes"].difference == pytest.approx(50 - 56.3)


def test_rows_of_the_target_are_the_printed_ones():
    _, rows = load_references("mmeb-v2:RzenEmbed-2B")
    assert [*rows[0].groups.values()] == [
        68.5, 66.3, 74.5, 90.3, 50.4, 49.7, 46.6, 38.9, 87.1, 55.1, 87.2, 43.4
    ]  # fmt: skip
    assert rows[0].modalities == {"image": 72.3, "video": 47.3, "visdoc": 74.5}
    assert (rows[0].overall, rows[0].page_set) == (67.2, "original")
    _, rows = load_references("mmeb-v1:RzenEmbed-7B")
    assert rows[0].splits == {"IND": 78.5, "OOD": 72.7}


CARDS = [
    card("a", "image", "I-CLS"),
    card("b", "image", "I-CLS"),
    card("page", "visdoc", "VisDoc-OOD", source="hub/page-fixed / test"),
    card("doc", "visdoc", "VDRv1"),
]
VALUES = {"a": 0.5, "b": 0.7, "page": 0.4, "doc": 0.8}


def made_up(*rows: ReferenceRow, **fields) -> References:
    return References(
        benchmark="made-up",
        unit="percent",
        rows=rows,
        page_sets={"original": ("hub/page",), "repaired": ("hub/page-fixed",)},
        **fields,
    )


def row(page_set: str | None = "repaired", **fields) -> ReferenceRow:
    return ReferenceRow(model="m", source="a table", page_set=page_set, **fields)


def deltas(references: References, values: dict[str, float] = VALUES) -> dict[str, Delta]:
    found = means(values, CARDS)
    return {d.name: d for d in compare_with(references, references.rows, found, values, CARDS)}


def test_differences_are_points_and_small_ones_are_noise():
    published = row(
        overall=60.05, modalities={"image": 60.2, "visdoc": 50.0},
        groups={"I-CLS": 60.25, "VDRv1": 80.31}, tasks={"a": 50.29, "b": 69.0},
    )  # fmt: skip
    found = deltas(made_up(published))
    assert found["image"].difference == pytest.approx(-0.2)
    verdicts = {name: each.verdict for name, each in found.items()}
    assert verdicts == {
        "a": "within noise",
        "b": "above",
        "I-CLS": "within noise",
        "VDRv1": "below",
        "image": "below",
        "visdoc": "above",
        "all": "within noise",
    }


def test_page_sets_are_never_mixed():
    published = row("original", overall=60.0, modalities={"image": 60.0, "visdoc": 60.0},
                    groups={"VDRv1": 70.0, "VisDoc-OOD": 40.0})  # fmt: skip
    found = deltas(made_up(published))
    refused = {name for name, each in found.items() if each.difference is None}
    assert refused == {"all", "visdoc", "VisDoc-OOD"}
    assert "repaired page sets" in found["all"].verdict
    assert found["image"].difference == pytest.approx(0.0)
    assert matches(list(found.values())) is None


def test_a_row_of_which_nothing_can_be_compared_is_an_error():
    references = made_up(row("original", overall=60.0), row(overall=59.0))
    with pytest.raises(ConfigError, match=r"repaired page sets.*original: m; repaired: m"):
        compare_with(references, references.rows[:1], means(VALUES, CARDS), VALUES, CARDS)


def test_the_page_sets_of_a_suite_are_read_from_its_sources():
    references, _ = load_references("mmeb-v2")
    fixed = card("x", "visdoc", source="VLM2Vec/ViDoSeek-page-fixed / test")
    assert page_sets(references, [fixed, card("y")]) == ("repaired",)
    assert page_sets(references, [card("y")]) == ()


def test_means_over_other_data_sets_are_not_compared():
    found = deltas(made_up(row(overall=60.0, modalities={"image": 60.0}), sizes={"all": 78}))
    assert "over 78 data sets, the suite has 4" in found["all"].verdict
    assert found["image"].difference is not None


def test_an_incomplete_mean_is_not_compared():
    values = {name: value for name, value in VALUES.items() if name != "b"}
    found = deltas(made_up(row(overall=60.0, tasks={"a": 50.0}, modalities={"image": 9})), values)
    assert found["all"].verdict == found["image"].verdict == "no complete result"
    assert found["a"].verdict == "within noise"


@pytest.mark.parametrize(("image", "expected"), [(60.5, True), (60.51, False)])
def test_a_match_is_half_a_point_on_every_modality(image: float, expected: bool):
    found = deltas(made_up(row(modalities={"image": image, "visdoc": 59.5}, overall=10.0)))
    assert matches(list(found.values())) is expected


def test_files_and_rows_are_named(tmp_path: Path):
    assert {"mmeb-v2", "mmeb-v1", "mteb"} <= set(list_references())
    path = tmp_path / "odd:name.json"
    fields = {"benchmark": "x", "unit": "percent", "rows": [{"model": "a:b", "source": "s"}]}
    path.write_text(json.dumps(fields))
    assert load_references(f"{path}:a:b")[1][0].model == "a:b"
    with pytest.raises(ConfigError, match="no row 'a:c'"):
        load_references(f"{path}:a:c")
    with pytest.raises(ConfigError, match=re.escape("one of: mmeb-v1")):
        load_references("mmeb-v9")
    path.write_text("[1]")
    with pytest.raises(ConfigError, match="no JSON object"):
        load_references(str(path))
    path.write_text(json.dumps({**fields, "unit": "share"}))
    with pytest.raises(ConfigError, match="unit"):
        load_references(str(path))
