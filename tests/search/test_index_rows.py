"""What every engine keeps of rows and vectors that it was given."""

from __future__ import annotations

import numpy as np

from mmembed.search.rows import Box, Row
from tests.search.engines import DIMENSION, Place, row, unit


def test_every_field_of_a_row_survives_even_odd_names(place: Place) -> None:
    odd = Row(
        id="/a/\udcff<script>#page='2'\\",
        path="/a/../\udcff<script>",
        kind="pdf",
        key="0" * 64,
        content_hash="1" * 64,
        size=3,
        mtime_ns=1_700_000_000_123_456_789,
        items_in_file=7,
        cut="12345678",
        page=2,
        start_seconds=0.1,
        end_seconds=2.5,
        duration_seconds=7.25,
        start_char=0,
        end_char=9,
        text="line\u2028end \udcff \x00 '",
        boxes=(Box(0.1, 0.2, 0.3, 0.4, 0, 9),),
    )
    index = place.new()
    index.upsert([odd], unit(1, seed=0))
    index.commit()
    again = place.open()
    assert list(again.rows()) == again.get([odd.id]) == [odd]
    assert again.search_text("end", 1)[0].row == odd
    with again.writing():
        assert again.delete([odd.id]) == 1
        again.commit()
    assert len(again) == 0 and not list(again.rows())


def test_vectors_are_those_of_the_call_whatever_the_caller_does_with_his_array(
    place: Place,
) -> None:
    vectors = unit(2, seed=0)
    given = np.array(vectors, dtype=np.float32)
    index = place.new()
    index.upsert([row(0), row(1)], given)
    given[:] = np.eye(DIMENSION, dtype=np.float32)[0]
    index.commit()
    np.testing.assert_allclose(
        place.open().vectors([row(0).id, row(1).id]), vectors, rtol=0, atol=1e-6
    )
