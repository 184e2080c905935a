"""The table of data sets beside published results."""

from __future__ import annotations

import json
from pathlib import Path

from data_adapters.mmeb.catalog import load_entries

COUNTS = json.loads(
    (Path(__file__).parents[2] / "golden" / "mmeb_counts.json").read_text(encoding="utf-8")
)


def test_every_data_set_has_as_many_queries_as_a_published_run_scored():
    counts = {entry.card.name: entry.card.num_queries for entry in load_entries()}
    assert len(counts) == 78
    assert counts == COUNTS["num_data"]
