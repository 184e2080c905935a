"""Rules for weak pairs, one by one, and the two files that they give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed.config.mining import FilterConfig
from mmembed.data.row_files import RowFile
from mmembed.mining.filter_job import FilterReport, describe_filter, filter_rows
from mmembed.mining.filters import FilterBounds, Verdict, filter_bounds, judge
from mmembed.types import ContrastiveExample
from tests.mining.rows import ChosenVectors, ListedRows, opened, row, text

POSITIVES = np.array([0.5, 0.75, 0.25], dtype=np.float32)
HITS = np.array([40, 41, 42])
HIT_SCORES = np.array([0.875, 0.8125, 0.1], dtype=np.float32)


def verdict(
    bounds: FilterBounds = FilterBounds(),  # noqa: B008
    *,
    is_duplicate: bool = False,
    **settings: Any,
) -> Verdict:
    return judge(
        POSITIVES,
        FilterConfig(**settings),
        bounds=bounds,
        is_duplicate=is_duplicate,
        hits=HITS,
        hit_scores=HIT_SCORES,
    )


def test_without_settings_everything_stays_as_it_is() -> None:
    found = verdict(is_duplicate=True)
    assert found == Verdict(None, (0, 1, 2), rank=3)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"duplicates": True}, "duplicates"),
        ({"min_score": 0.75}, "min_score"),  # must score above
        ({"min_score": 0.74}, None),
        ({"top_k": 2}, "top_k"),  # two documents are nearer
        ({"top_k": 3}, None),
        ({"min_positive": 0.8}, "min_positive"),
        ({"duplicates": True, "min_score": 0.9, "top_k": 1}, "duplicates"),
        ({"min_positive": 0.8, "min_score": 0.9, "top_k": 1}, "min_positive"),
    ],
)
def test_the_first_broken_rule_is_the_reason(settings: dict[str, Any], problem: str | None) -> None:
    assert verdict(is_duplicate=True, **settings).problem == problem


def test_bad_positives_go_and_the_best_may_come_first() -> None:
    assert verdict(min_positive=0.5).positives == (0, 1)
    assert verdict(min_positive=0.51).positives == (1,)
    assert verdict(FilterBounds(positive=0.3)).positives == (0, 1)
    assert verdict(best_first=True).positives == (1, 0, 2)
    assert verdict(best_first=True, min_positive=0.5).positives == (1, 0)


def test_the_nearest_document_becomes_a_positive_only_when_asked_and_better() -> None:
    assert verdict().pseudo_positive is None
    assert verdict(pseudo_positive=0.12).pseudo_positive == 40
    assert verdict(pseudo_positive=0.125).pseudo_positive is None


@pytest.mark.parametrize("count", [0, 1, 19, 20, 100])
@pytest.mark.parametrize("lowest", [0, 5, 50, 100])
def test_as_many_rows_go_as_the_percentage_says(count: int, lowest: float) -> None:
    best = np.random.default_rng(0).permutation(count) / 100
    bounds = filter_bounds(best, best, FilterConfig(lowest=lowest))
    gone = {score for score in best if bounds.row is not None and score < bounds.row}
    assert gone == set(sorted(best)[: int(count * lowest / 100)])


def test_a_percentile_of_positives_bounds_positives() -> None:
    scores = np.linspace(0, 1, 101)
    found = filter_bounds(scores, scores, FilterConfig(min_positive_percentile=10))
    assert found == FilterBounds(pytest.approx(0.1), None)


def run(out: Path, data: ListedRows, encoder: ChosenVectors, **settings: Any) -> FilterReport:
    options = {name: settings.pop(name) for name in ("part",) if name in settings}
    return filter_rows(
        opened(data),
        encoder,
        FilterConfig(**settings),
        out,
        show_progress_bar=False,
        chunk_rows=2,
        **options,
    )


def angles(**degrees: float) -> ChosenVectors:
    radians = {name: np.deg2rad(angle) for name, angle in degrees.items()}
    return ChosenVectors({n: (np.cos(a), np.sin(a)) for n, a in radians.items()}, dimension=2)


def texts(items: Any) -> list[str]:
    return [item.parts[0].text for item in items]


ENCODER = angles(q=0, close=10, middle=50, far=80, r=180, behind=170, s=90, t=91)
ROWS = [
    row("q", ["far", "close", "middle"], ["behind"], positive_ids=("f", "c", "m")),
    row("r", "s"),
    row("q", ["middle", "far", "close"], ["behind"]),
    row("t", "s"),
    "no such file",
]


def test_every_readable_row_is_in_one_of_the_two_files(tmp_path: Path) -> None:
    report = run(tmp_path, ListedRows(ROWS), ENCODER, min_score=0.7, duplicates=True)
    kept, dropped = RowFile(report.kept["listed"]), RowFile(report.dropped["listed"])
    assert [kept.meta(n)["row"] for n in range(len(kept))] == [0, 3]
    assert [kept[n].query_id for n in range(2)] == ["listed/0", "listed/3"]
    reasons = {dropped.meta(n)["row"]: dropped.meta(n)["reason"] for n in range(len(dropped))}
    assert reasons == {1: "min_score", 2: "duplicates"}
    original = ListedRows(ROWS)
    assert dropped[0].positives == original[1].positives
    assert kept[0].hard_negatives == original[0].hard_negatives
    counts = report.counts["listed"]
    assert (counts["rows"], counts["kept"], counts["unusable"]) == (5, 2, 1)
    words = "\n".join(describe_filter("listed", counts))
    assert "2 of 5 rows kept" in words and "min_score 1" in words and "not readable 1" in words


def test_positives_that_went_are_named_and_ids_follow_the_order(tmp_path: Path) -> None:
    report = run(tmp_path, ListedRows(ROWS[:1]), ENCODER, min_positive=0.5, best_first=True)
    kept = RowFile(report.kept["listed"])
    assert texts(kept[0].positives) == ["close", "middle"]
    assert kept[0].positive_ids == ("c", "m")
    assert kept.meta(0)["removed_positives"] == ["far"]
    assert report.counts["listed"]["positives_removed"] == 1


def test_graded_scores_follow_their_positives(tmp_path: Path) -> None:
    graded = ContrastiveExample(
        text("q"), (text("far"), text("close")), (text("behind"),), scores=(0.2, 0.9, 0.1)
    )
    report = run(tmp_path, ListedRows([graded]), ENCODER, best_first=True)
    assert RowFile(report.kept["listed"])[0].scores == (0.9, 0.2, 0.1)


def test_a_pseudo_positive_comes_first_and_is_no_negative(tmp_path: Path) -> None:
    rows = [row("q", "far", ["close", "behind"], positive_ids=("f",)), row("r", "behind")]
    report = run(tmp_path, ListedRows(rows), ENCODER, pseudo_positive=0.1)
    kept = RowFile(report.kept["listed"])
    assert texts(kept[0].positives) == ["close", "far"]
    assert texts(kept[0].hard_negatives) == ["behind"] and len(kept[0].positive_ids) == 2
    assert texts(kept[1].positives) == ["behind"]
    assert report.counts["listed"]["pseudo_positives"] == 1


def test_agreement_counts_documents_of_the_pool_that_are_no_positives(tmp_path: Path) -> None:
    rows = [row("q", "middle"), row("q", "close"), row("r", "behind"), row("s", "far")]
    # `close` is a positive of q, so that nothing stands before `middle`
    report = run(tmp_path, ListedRows(rows), ENCODER, top_k=1)
    kept = RowFile(report.kept["listed"])
    assert [kept.meta(n)["positive_rank"] for n in range(len(kept))] == [1, 1, 1, 1]
    rows[1] = row("t", "close")
    report = run(tmp_path, ListedRows(rows), ENCODER, top_k=1)
    reasons = RowFile(report.dropped["listed"])
    assert [reasons.meta(n)["row"] for n in range(len(reasons))] == [0, 1]


def test_what_cannot_be_encoded_is_dropped_with_its_reason(tmp_path: Path) -> None:
    encoder = ChosenVectors(refused=["bad"])
    report = run(tmp_path, ListedRows([row("q", "bad"), row("r", "fine")]), encoder)
    dropped = RowFile(report.dropped["listed"])
    assert len(dropped) == 1 and dropped.meta(0)["reason"] == "not_encoded"


def test_parts_end_in_the_bytes_of_one_run_and_a_second_call_does_nothing(tmp_path: Path) -> None:
    data = ListedRows([row(f"q{n}", f"d{n}") for n in range(20)])
    whole = run(tmp_path / "1", data, ChosenVectors(), min_score=0.0, lowest=10)
    first = run(tmp_path / "2", data, ChosenVectors(), min_score=0.0, lowest=10, part=(1, 2))
    assert not first.is_complete
    parts = run(tmp_path / "2", data, ChosenVectors(), min_score=0.0, lowest=10, part=(0, 2))
    for name in ("listed.jsonl", "listed.dropped.jsonl"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert whole.counts == parts.counts
    encoder = ChosenVectors()
    again = run(tmp_path / "2", data, encoder, min_score=0.0, lowest=10)
    assert encoder.num_encoded == 0 and again.counts == whole.counts
    record = json.loads((tmp_path / "2" / "filter.json").read_text())
    assert record["config"]["lowest"] == 10 and record["teacher"]["name"] == "chosen"
