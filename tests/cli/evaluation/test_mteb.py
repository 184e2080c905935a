"""`mmembed eval mteb` and `mmembed eval fetch`, as they are typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("mteb")

from mmembed.cli.application import app
from mmembed.errors import DataError
from mmembed.evaluation.example_tasks import ExampleTasks
from mmembed.evaluation.profiles import load_profile
from mmembed.tasks import LoadedTask

pytestmark = pytest.mark.filterwarnings("ignore")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def test_benchmarks_are_listed_with_their_short_names() -> None:
    result = run("mteb", "--list")
    assert result.exit_code == 0
    assert "MTEB(eng, v2)  = eng\n" in result.stdout
    assert "ViDoRe(v3.1)  = vidore-v3.1\n" in result.stdout
    assert "prompt tables: kalm, qwen3" in result.stderr


def test_tasks_are_listed_with_the_instruction_of_their_queries() -> None:
    result = run("mteb", "-b", "eng", "--list", "--prompts", "table:qwen3")
    lines = result.stdout.splitlines()
    assert len(lines) == 41
    (sts,) = [line for line in lines if line.startswith("STS12 ")]
    assert sts.split("  ", 1)[1].strip().endswith("'Retrieve semantically similar text'")
    assert "of 41 tasks have no entry: ArguAna" in result.stderr


def test_a_suite_of_ours_is_judged_and_a_second_run_encodes_nothing(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    command = [
        "mteb", "-m", tiny_checkpoint, "--suite", "example", "--store", tmp_path / "store",
        "--num-workers", "1",
    ]  # fmt: skip
    first = run(*command, "--out", tmp_path / "out")
    assert first.exit_code == 0, first.output
    assert "Mean (TaskType)" in first.stdout
    assert "items encoded" in first.stderr and "0 items encoded" not in first.stderr
    files = list((tmp_path / "out" / "results").rglob("example.*.json"))
    assert files
    for path in files:
        assert json.loads(path.read_text())["mteb_version"]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["prompts"] == "task" and record["num_encoded"] > 0
    assert set(record["tasks"]) == {path.stem for path in files}
    second = run(*command, "--out", tmp_path / "other")
    assert second.stdout == first.stdout
    assert "0 items encoded" in second.stderr


def test_tasks_of_mteb_run_from_folders_without_a_network(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    import datasets
    import mteb
    from datasets import config

    from mmembed.evaluation.mteb_runs.localize import folder_sha256, repository_key
    from tests.evaluation.mteb_runs.mteb_data import WORDS, write_snapshot

    attempts: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda *address: attempts.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **more: attempts.append(address))
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_snapshot(tmp_path / "SciFact", is_text=True)
    write_snapshot(tmp_path / "AskUbuntuDupQuestions", is_text=True, top_ranked=True)
    pairs = {"sentence1": list(WORDS), "sentence2": list(WORDS[::-1]), "score": [5.0, 1, 5, 1, 2]}
    (tmp_path / "STS12").mkdir()
    datasets.Dataset.from_dict(pairs).to_parquet(tmp_path / "STS12" / "test.parquet")
    names = ["SciFact", "STS12", "AskUbuntuDupQuestions"]
    entries = {
        repository_key(mteb.get_task(name).metadata): {
            "folder": name,
            "sha256": folder_sha256(tmp_path / name),
            "has": ["top_ranked"] if name == "AskUbuntuDupQuestions" else [],
        }
        for name in names
    }
    (tmp_path / "map.json").write_text(json.dumps(entries))
    command = [
        "mteb", "-m", tiny_checkpoint, *(word for name in names for word in ("-t", name)),
        "--localize", tmp_path / "map.json", "--prompts", "table:qwen3", "--num-workers", "1",
        "--out", tmp_path / "out",
    ]  # fmt: skip
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()[:3]] == names
    assert "prompts of mteb are used for what table-qwen3-" in result.stderr
    assert not attempts
    again = run(*command)
    assert again.stdout == result.stdout
    assert "0 items encoded" in again.stderr
    shutil.rmtree(tmp_path / "AskUbuntuDupQuestions" / "top_ranked")
    refused = run(*command, "--again")
    assert refused.exit_code == 2 and "sha256" in refused.stderr


def test_a_reranker_is_judged_on_tasks_that_hand_over_candidates(
    tiny_reranker: Path, tmp_path: Path
) -> None:
    result = run(
        "mteb", "--reranker", tiny_reranker, "--suite", "example", "--num-workers", "1",
        "--out", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    pooled = [card.name for card in ExampleTasks(None, load_profile("plain")).cards()
              if card.has_pools]  # fmt: skip
    tasks = [line.split()[0] for line in result.stdout.splitlines() if "example." in line]
    assert tasks == [f"example.{name}" for name in pooled]
    assert "it hands over no candidates to rerank" in result.stderr


def test_one_task_that_fails_ends_the_others_only_when_asked_for(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: object, name: str, *, allow_missing: bool = False) -> LoadedTask:
        if name == names[0]:
            raise DataError("its files are gone")
        return loaded(self, name)  # type: ignore[arg-type]

    names = [card.name for card in ExampleTasks(None, load_profile("plain")).cards()]
    loaded = ExampleTasks.load
    monkeypatch.setattr(ExampleTasks, "load", load)
    command = [
        "mteb", "-m", tiny_checkpoint, "--suite", "example", "--num-workers", "1",
        "--out", tmp_path,
    ]  # fmt: skip
    result = run(*command)
    assert result.exit_code == 2
    assert "failed  " in result.stdout and "its files are gone" in result.stderr
    assert len(result.stdout.splitlines()) == len(names) - 1 + 2  # pairs are left out; two means
    stopped = run(*command, "--stop-on-error", "--again")
    assert stopped.exit_code == 2 and not stopped.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mteb", "-m", "M", "--out", "O"], "one of --benchmark, --tasks and --suite"),
        (["mteb", "-b", "eng", "-t", "STS12", "--list"], "one of --benchmark"),
        (["mteb", "-b", "eng"], "give --out, and one of --model and --reranker"),
        (["mteb", "-b", "engl", "--list"], "did you mean 'eng'"),
        (["mteb", "-t", "STS-12", "--list"], "mteb has no task 'STS-12'"),
        (["mteb", "-t", "MSRVTTT2V", "--list"], "add --beta"),
        (["mteb", "-b", "eng", "--list", "--prompts", "table:qwen"], "did you mean 'qwen3'"),
        (["fetch", "--out", "O"], "give --benchmark or --tasks"),
    ],
)
def test_wrong_commands_say_what_to_give(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_fetch_shows_each_data_set_once_at_its_revision_and_leaves_private_ones_out(
    tmp_path: Path,
) -> None:
    result = run("fetch", "-b", "vidore-v3", "--dry-run", "--out", tmp_path)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 8
    assert all("@" in line.split()[0] for line in lines)
    assert result.stderr.count("its data are private") == 2
    assert not list(tmp_path.iterdir())


def test_audio_is_left_out_by_name() -> None:
    from mmembed.evaluation.mteb_runs.benchmarks import choose_tasks, find_benchmark

    chosen = choose_tasks(find_benchmark("mveb"), modalities=("text", "image", "video"))
    assert len(chosen.tasks) + len(chosen.left_out) == 23
    assert set(chosen.left_out.values()) == {"the model takes no audio"}
    pooled = choose_tasks(find_benchmark("eng"), modalities=("text",), only_pooled=True)
    assert [task.metadata.type for task in pooled.tasks] == ["Reranking"] * 2


def test_every_short_name_is_a_benchmark_of_mteb() -> None:
    from mmembed.evaluation.mteb_runs.benchmarks import benchmark_names, known_benchmarks

    known = known_benchmarks()
    assert set(benchmark_names().aliases.values()) <= set(known)
