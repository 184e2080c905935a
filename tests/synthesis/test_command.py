"""`mmembed synthesize`: its options, its messages and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mmembed.cli.synthesize import synthesize
from mmembed.errors import ConfigError
from mmembed.synthesis.pipeline import list_pipelines
from tests.endpoints.server import Fault, ModelServer
from tests.synthesis.scripted import SMALL, DiligentModel, document, documents_file, lines_of

app = typer.Typer()
app.command()(synthesize)


def call(*words: object) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output, result.exception


def arguments(folder: Path, server: ModelServer, count: int = 4) -> list[object]:
    (folder / "small.yaml").write_text(SMALL)
    source = documents_file(folder, count)
    return [folder / "small.yaml", "--input", source, "--out", folder / "out",
            "--endpoint", server.url, "--model", "toy", "--concurrency", 2]  # fmt: skip


def test_the_list_shows_every_pipeline_with_what_it_does() -> None:
    code, output, _ = call("--list")
    assert code == 0
    for name, summary in list_pipelines().items():
        assert name in output and summary and summary in output


def test_a_run_writes_rows_and_says_how_many(tmp_path: Path) -> None:
    with ModelServer(DiligentModel()) as server:
        code, output, _ = call(*arguments(tmp_path, server))
    assert code == 0 and "4 rows, 0 rejected" in output
    assert len(lines_of(tmp_path / "out" / "rows.jsonl")) == 4


def test_an_estimate_asks_nothing(tmp_path: Path) -> None:
    with ModelServer() as server:
        prices = "limits.price_per_million={input: 1, output: 2}"
        code, output, _ = call(*arguments(tmp_path, server), "--estimate", "--set", prices)
        assert not server.requests
    assert code == 0 and "4 rows, about 8 requests" in output and "cost about" in output
    assert not (tmp_path / "out").exists()


def test_a_run_above_the_limit_is_refused_before_the_first_request(tmp_path: Path) -> None:
    with ModelServer() as server:
        prices = "limits.price_per_million={input: 1000, output: 2000}"
        words = [*arguments(tmp_path, server), "--set", prices, "--max-cost", "0.01"]
        code, _, error = call(*words)
        assert not server.requests
    assert code != 0 and isinstance(error, ConfigError) and "max_cost 0.01" in str(error)


def test_open_rows_are_an_exit_code_and_advice(tmp_path: Path) -> None:
    def broken(number: int, body: object) -> Fault | None:
        return Fault("status", 500) if document(1) in str(body) else None

    with ModelServer(DiligentModel(), fault=broken) as server:
        words = [*arguments(tmp_path, server), "--set", "limits.max_retries=0"]
        code, output, _ = call(*words)
    assert code == 2 and "failed: row 1" in output and "run the same command again" in output


@pytest.mark.parametrize("words", [(), ("small",), ("--input", "x")])
def test_what_is_missing_is_named(words: tuple[str, ...]) -> None:
    _, _, error = call(*words)
    assert isinstance(error, ConfigError) and "--list" in str(error)


@pytest.mark.parametrize(("least", "num_kept"), [(-1.0, 4), (1.0, 0)])
def test_a_teacher_has_the_last_word(
    tmp_path: Path, tiny_checkpoint: Path, least: float, num_kept: int
) -> None:
    with ModelServer(DiligentModel()) as server:
        words = [*arguments(tmp_path, server), "--filter-teacher", tiny_checkpoint]
        code, output, error = call(*words, "--filter-min-score", least)
    assert code == 0, error
    assert f"{num_kept} of 4 rows kept" in output
    assert len(lines_of(tmp_path / "out" / "filtered" / "rows.jsonl")) == num_kept
    assert len(lines_of(tmp_path / "out" / "rows.jsonl")) == 4
