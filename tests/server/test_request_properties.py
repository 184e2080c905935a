"""Whatever JSON arrives: an answer or a 4xx with a reason, never a fault of the server."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.server.bodies import load, recorded
from tests.server.door import Door

PATHS = ("/v1/embeddings", "/v2/embed", "/v1/multimodalembeddings", "/v1/rerank", "/v2/rerank")
WORDS = (
    "input messages content text image video pdf page type image_url url bytes data role user "
    "system query documents texts images inputs dimensions instruction model on_error null "
    "data:image/png;base64,AAAA data:, http://a/b.png file:///etc/passwd float base64 search_query"
).split()

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=20)  # also halves of characters
    | st.sampled_from(WORDS)
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = (
    "input messages dimensions encoding_format input_type role task truncate on_error modality "
    "texts images inputs embedding_types output_dimension truncation query documents top_n"
).split()
bodies = st.dictionaries(st.sampled_from(FIELDS), values, max_size=3)
RELAXED = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def assert_no_fault(door: Door, path: str, body: Any) -> None:
    response = door.post(path, body)
    assert response.status_code == 200 or 400 <= response.status_code < 500, response.text
    if response.status_code != 200:
        error = response.json()["error"]
        assert error["message"] and error["code"] and error["message"].isprintable()


@RELAXED
@given(path=st.sampled_from(PATHS), body=values | bodies)
@example(path="/v1/embeddings", body={"input": [{"page": 10**18, "pdf": "JVBERi0xLjQK"}]})
@example(path="/v1/embeddings", body={"\ud800": 1})
@example(path="/v1/embeddings", body={"input": "a", "model": "\ud800\x00"})
@example(path="/v1/rerank", body={"query": "\ud800", "documents": ["\ud800"], "on_error": "null"})
def test_random_json_never_makes_the_server_fail(door: Door, path: str, body: Any) -> None:
    assert_no_fault(door, path, body)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside."""
    found = [at] if at else []
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            found += places(inner, (*at, key))
    return found


@RELAXED
@given(name=st.sampled_from(recorded()), data=st.data())
def test_a_good_body_with_one_value_replaced_never_makes_the_server_fail(
    door: Door, name: str, data: st.DataObject
) -> None:
    case = load(name)
    body = copy.deepcopy(case["body"])
    *way, last = data.draw(st.sampled_from(places(body)))
    inner = body
    for step in way:
        inner = inner[step]
    inner[last] = data.draw(values)
    assert_no_fault(door, case["path"], body)
