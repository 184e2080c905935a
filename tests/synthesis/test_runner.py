"""Whole runs against a real local server that behaves badly."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mmembed.errors import ConfigError, EndpointError
from mmembed.synthesis.estimate import check_limits, estimate
from mmembed.synthesis.rows import open_rows
from mmembed.synthesis.runner import SynthesisReport, synthesize
from tests.endpoints.server import Fault, ModelServer
from tests.synthesis.scripted import (
    DiligentModel,
    client_of,
    document,
    documents_file,
    lines_of,
    small_pipeline,
)

KEY = "sk-made-up-0123456789abcdef"
PRICES = ("limits.price_per_million.input=1000", "limits.price_per_million.output=3000")


def run(
    server: ModelServer, folder: Path, *overrides: str, rows: int = 6, **options: Any
) -> SynthesisReport:
    source = documents_file(folder, rows)
    limit = options.pop("limit", None)
    with client_of(server, **options) as client:
        return synthesize(
            small_pipeline(folder, *overrides),
            open_rows(str(source)),
            client,
            folder / "out",
            limit=limit,
        )


def sources(folder: Path) -> list[str]:
    """Ids of the input rows in both files."""
    rows = [row["id"] for row in lines_of(folder / "out" / "rows.jsonl")]
    return rows + [row["id"] for row in lines_of(folder / "out" / "rejected.jsonl")]


def test_faults_of_the_server_cost_no_row_and_no_row_twice(tmp_path: Path) -> None:
    faults = [
        Fault("status", 429, {"Retry-After": "0"}),
        Fault("status", 429),
        Fault("status", 500),
        Fault("body", b'{"choices": ['),
        Fault("cut"),
        Fault("close"),
    ]

    def every_other(number: int, body: dict[str, Any]) -> Fault | None:
        place, is_good = divmod(number, 2)
        return None if is_good or place >= len(faults) else faults[place]

    with ModelServer(DiligentModel(), fault=every_other) as server:
        report = run(server, tmp_path)
    assert (report.num_rows, report.num_rejected, report.num_open) == (6, 0, 0)
    assert sources(tmp_path) == [f"d{n}" for n in range(6)]
    assert set(server.answered.values()) == {1}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b'{"choices": []}', "the answer was empty"),
        (b'{"result": "hello"}', "the answer was empty"),
        (b'{"choices": [{"message": {"content": null}}]}', "the answer was empty"),
        (b'{"choices": [{"message": {"content": ""}}]}', "the answer was empty"),
        (b'{"choices": [{"message": {"content": "sorry"}}]}', "not one JSON object"),
        (b'{"choices": [{"message": {"content": "{}"}, "finish_reason": "length"}]}', "cut off"),
        (b'{"choices": [{"message": {"content": "{}"}}], "usage": 3}', "lacks the key question"),
    ],
)
def test_replies_that_are_no_answer_are_tried_so_often_and_then_named(
    tmp_path: Path, reply: bytes, reason: str
) -> None:
    with ModelServer(fault=lambda n, body: Fault("body", reply)) as server:
        report = run(server, tmp_path, rows=2)
    assert (report.num_rows, report.num_rejected) == (0, 2)
    assert len(server.requests) == 2 * 4
    for line in lines_of(tmp_path / "out" / "rejected.jsonl"):
        assert reason in line["reason"] and "after 4 tries" in line["reason"]


def test_the_model_is_told_what_was_wrong_and_its_last_answer(tmp_path: Path) -> None:
    diligent = DiligentModel()

    def careless(body: dict[str, Any]) -> str:
        return diligent(body) if len(body["messages"]) > 1 else '{"question": ""}'

    with ModelServer(careless) as server:
        report = run(server, tmp_path, rows=1)
    second = server.requests[1].body["messages"]
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert second[1]["content"] == '{"question": ""}'
    assert "question must be a non-empty string" in second[2]["content"]
    assert report.num_rows == 1


def test_a_duplicate_answer_is_tried_again_and_rejected_in_the_end(tmp_path: Path) -> None:
    with ModelServer(lambda body: '{"question": "The same?", "kind": "fact"}') as server:
        report = run(server, tmp_path, rows=3, concurrency=1)
    assert (report.num_rows, report.num_rejected) == (1, 2)
    assert len(server.requests) == 2 + 2 * 4
    reasons = {line["reason"] for line in lines_of(tmp_path / "out" / "rejected.jsonl")}
    assert all("has been written before" in reason for reason in reasons)


def test_repeated_queries_are_dropped_from_the_output_with_the_first_one_named(
    tmp_path: Path,
) -> None:
    with ModelServer(lambda body: '{"question": "The same?", "kind": "fact"}') as server:
        report = run(server, tmp_path, "steps.ask.accept=[]", rows=3)
    assert (report.num_rows, report.num_rejected, report.num_duplicates) == (1, 2, 2)
    reasons = [line["reason"] for line in lines_of(tmp_path / "out" / "rejected.jsonl")]
    assert reasons == ["output: the same query as of d0"] * 2


def test_cost_and_tokens_are_those_that_the_server_billed(tmp_path: Path) -> None:
    with ModelServer(DiligentModel()) as server:
        report = run(server, tmp_path, *PRICES)
    billed = server.billed
    assert (report.input_tokens, report.output_tokens) == (
        billed["prompt_tokens"],
        billed["completion_tokens"],
    )
    expected = (1000 * billed["prompt_tokens"] + 3000 * billed["completion_tokens"]) / 1e6
    assert report.cost == pytest.approx(expected)
    assert report.num_requests == len(server.requests) == 12
    rows = lines_of(tmp_path / "out" / "rows.jsonl")
    steps = [step for row in rows for step in row["meta"]["synthesis"]["steps"]]
    assert sum(step["input_tokens"] for step in steps) == billed["prompt_tokens"]


def test_a_run_stops_before_its_cost_is_exceeded_and_goes_on_when_it_may(tmp_path: Path) -> None:
    with ModelServer(DiligentModel()) as server:
        first = run(server, tmp_path, *PRICES, "limits.max_cost=0.5")
        assert first.stopped is not None and "max_cost" in first.stopped
        assert 0 < first.cost <= 0.5 and 0 < first.num_open < 6
        second = run(server, tmp_path, *PRICES, "limits.max_cost=100")
        assert second.stopped is None and second.num_open == 0
        assert set(server.answered.values()) == {1}
    assert sources(tmp_path) == [f"d{n}" for n in range(6)]


def test_a_run_stops_at_its_number_of_requests(tmp_path: Path) -> None:
    with ModelServer(DiligentModel()) as server:
        report = run(server, tmp_path, "limits.max_requests=5")
    assert len(server.requests) == 5 == report.num_requests
    assert "max_requests" in str(report.stopped)


def test_an_estimate_is_near_and_a_run_above_the_limit_is_refused(tmp_path: Path) -> None:
    pipeline = small_pipeline(tmp_path, *PRICES, "limits.max_cost=0.5")
    rows = open_rows(str(documents_file(tmp_path, 50)))
    found = estimate(pipeline, rows)
    assert (found.num_rows, found.num_sampled, found.num_requests) == (50, 20, 100)
    assert found.output_tokens == 50 * 15
    assert found.cost == pytest.approx(
        (found.input_tokens * 1000 + found.output_tokens * 3000) / 1e6, rel=1e-3
    )
    assert found.most_cost > found.cost
    with pytest.raises(ConfigError, match="more than max_cost"):
        check_limits(pipeline, found, num_done=0)
    check_limits(small_pipeline(tmp_path, *PRICES, "limits.max_cost=500"), found, num_done=0)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_everybody_ends_the_run(tmp_path: Path, status: int) -> None:
    with ModelServer(fault=lambda n, body: Fault("status", status)) as server:
        with pytest.raises(EndpointError, match=str(status)):
            run(server, tmp_path, rows=50)
        assert len(server.requests) < 15


def test_a_refusal_of_one_request_rejects_its_row_only(tmp_path: Path) -> None:
    def moderated(number: int, body: dict[str, Any]) -> Fault | None:
        return Fault("status", 400, message="policy") if document(2) in str(body) else None

    with ModelServer(DiligentModel(), fault=moderated) as server:
        report = run(server, tmp_path)
    assert (report.num_rows, report.num_rejected) == (5, 1)
    (line,) = lines_of(tmp_path / "out" / "rejected.jsonl")
    assert line["id"] == "d2" and "policy" in line["reason"]
    # the form is still asked for strictly: the refusal was not about it
    assert server.requests[-1].body.get("response_format", {}).get("type") == "json_schema"


def test_a_server_without_structured_output_is_asked_in_words(tmp_path: Path) -> None:
    with ModelServer(DiligentModel(), fault=lambda n, body: Fault("no_schema")) as server:
        report = run(server, tmp_path, concurrency=1)
    assert report.num_rows == 6
    forms = [asked.body.get("response_format", {}).get("type") for asked in server.requests]
    assert forms == ["json_schema", "json_object"] + [None] * 12


def test_a_server_that_stays_broken_leaves_rows_open_and_the_next_run_does_them(
    tmp_path: Path,
) -> None:
    def broken(number: int, body: dict[str, Any]) -> Fault | None:
        return Fault("status", 500) if document(3) in str(body) else None

    with ModelServer(DiligentModel(), fault=broken) as server:
        report = run(server, tmp_path, max_retries=2)
        assert (report.num_rows, report.num_open) == (5, 1)
        assert "row 3" in report.failures[0] and "500" in report.failures[0]
        server.fault = lambda number, body: None
        report = run(server, tmp_path, max_retries=2)
    assert (report.num_rows, report.num_open) == (6, 0)
    assert sources(tmp_path) == [f"d{n}" for n in range(6)]


def test_a_dead_server_ends_the_run_soon(tmp_path: Path) -> None:
    with ModelServer(fault=lambda n, body: Fault("status", 503)) as server:
        with pytest.raises(EndpointError, match="rows failed one after another"):
            run(server, tmp_path, rows=100, max_retries=0)
        assert len(server.requests) < 20


def test_a_finished_run_asks_nothing_when_it_is_started_again(tmp_path: Path) -> None:
    with ModelServer(DiligentModel()) as server:
        run(server, tmp_path)
        before = (tmp_path / "out" / "rows.jsonl").read_bytes()
        run(server, tmp_path)
        assert len(server.requests) == 12
    assert (tmp_path / "out" / "rows.jsonl").read_bytes() == before


def test_more_rows_may_be_asked_for_later(tmp_path: Path) -> None:
    with ModelServer(DiligentModel()) as server:
        assert run(server, tmp_path, limit=2).num_rows == 2
        assert run(server, tmp_path).num_rows == 6
        assert len(server.requests) == 12


def test_a_folder_belongs_to_one_pipeline_and_model(tmp_path: Path) -> None:
    with ModelServer(DiligentModel()) as server:
        run(server, tmp_path, limit=1)
        with pytest.raises(ConfigError, match="begun with pipeline"):
            run(server, tmp_path, "seed=1")
        with pytest.raises(ConfigError, match="begun with model 'toy'"):
            run(server, tmp_path, model="other")


def test_rows_that_lack_a_field_or_cannot_be_read_cost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    lines = [json.dumps({"text": "A good text."}), "{broken", json.dumps({"text": "  "})]
    path.write_text("\n".join(lines) + "\n")
    with ModelServer(DiligentModel()) as server, client_of(server) as client:
        report = synthesize(
            small_pipeline(tmp_path), open_rows(str(path)), client, tmp_path / "out"
        )
    assert (report.num_rows, report.num_rejected, len(server.requests)) == (1, 2, 2)
    reasons = [line["reason"] for line in lines_of(tmp_path / "out" / "rejected.jsonl")]
    assert "input" in reasons[0] and "the row has no document" in reasons[1]


def test_the_key_is_in_no_file_and_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TOY_KEY", KEY)
    caplog.set_level(0)
    diligent = DiligentModel()

    def leaky(body: dict[str, Any]) -> str:
        return json.dumps({"question": f"{diligent.value('question', '')} {KEY}", "kind": "fact"})

    def refuse(number: int, body: dict[str, Any]) -> Fault | None:
        return Fault("status", 400, message=f"bad {KEY}") if document(1) in str(body) else None

    with ModelServer(leaky, fault=refuse) as server:
        report = run(server, tmp_path, api_key_env="TOY_KEY")
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert report.num_rows == 5
    for path in (tmp_path / "out").iterdir():
        assert KEY.encode() not in path.read_bytes(), path.name
    assert KEY not in caplog.text + str(report)


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    released, begun = threading.Event(), threading.Event()

    def slow(number: int, body: dict[str, Any]) -> None:
        begun.set()
        released.wait(30)

    with ModelServer(DiligentModel(), fault=slow) as server:
        thread = threading.Thread(target=run, args=(server, tmp_path))
        thread.start()
        assert begun.wait(10)
        with pytest.raises(ValueError, match="another process is writing"):
            run(server, tmp_path)
        released.set()
        thread.join(30)
    assert Counter(sources(tmp_path)) == {f"d{n}": 1 for n in range(6)}


def test_requests_are_told_apart_by_what_they_say_also_without_a_seed(tmp_path: Path) -> None:
    with ModelServer(DiligentModel()) as server:
        assert run(server, tmp_path, "send_seed=false").num_rows == 6
    assert len({asked.headers["idempotency-key"] for asked in server.requests}) == 12
    assert not any("seed" in asked.body for asked in server.requests)


def test_a_server_that_refuses_everybody_rejects_no_row(tmp_path: Path) -> None:
    refusal = Fault("status", 400, message="use max_completion_tokens")
    with ModelServer(DiligentModel(), fault=lambda n, body: refusal) as server:
        with pytest.raises(EndpointError, match=r"every request.*--set max_tokens_field="):
            run(server, tmp_path, rows=20)
        assert run(server, tmp_path, rows=20, limit=2).num_open == 2
        server.fault = lambda number, body: None
        report = run(server, tmp_path, "max_tokens_field=max_completion_tokens", rows=20)
    assert (report.num_rows, report.num_rejected) == (20, 0)
    assert server.requests[-1].body["max_completion_tokens"] == 20
    assert "max_tokens" not in server.requests[-1].body


def test_more_fields_are_sent_with_every_request(tmp_path: Path) -> None:
    with ModelServer(DiligentModel()) as server:
        run(server, tmp_path, "extra.chat_template_kwargs={enable_thinking: false}")
    assert {str(asked.body["chat_template_kwargs"]) for asked in server.requests} == {
        "{'enable_thinking': False}"
    }


def test_half_a_character_in_an_answer_ends_no_run(tmp_path: Path) -> None:
    diligent = DiligentModel()
    texts = iter(['{"question": "what \\ud83d"}', '{"question": "what \ud83d"}'])

    def broken(body: dict[str, Any]) -> str:
        return next(texts, None) or diligent(body)

    with ModelServer(broken) as server:
        report = run(server, tmp_path, rows=1)
    assert (report.num_rows, report.num_requests) == (1, 4)


def test_what_is_paid_for_is_written_when_the_server_goes_away(tmp_path: Path) -> None:
    with ModelServer(
        DiligentModel(), fault=lambda n, b: Fault("close") if n > 7 else None
    ) as server:
        with pytest.raises(EndpointError, match="one after another"):
            run(server, tmp_path, rows=30, max_retries=0, concurrency=1)
    assert len(lines_of(tmp_path / "out" / "rows.jsonl")) == 4
