"""Jobs on Ray: several actors on this machine, one of them killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from mmembed.search.item_sources import plan_sources
from mmembed.search.job_folder import JobSettings, verify_job
from mmembed.search.jobs import encode_dataset
from mmembed.search.ray_runner import _Actor
from mmembed.search.shard_worker import WorkerSpec
from mmembed.search.worker_protocol import parse_answer
from tests.search.jobs import all_rows, contents, texts, write_lines

REPOSITORY = Path(__file__).resolve().parents[2]


def actors_below(ancestor: int) -> list[int]:
    """Process ids of the Ray actors that a program has started, directly or not."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
            names[int(folder.name)] = (folder / "cmdline").read_bytes()
        except (OSError, IndexError):  # it has ended meanwhile
            continue

    def is_below(pid: int) -> bool:
        return pid in parents and (parents[pid] == ancestor or is_below(parents[pid]))

    return [
        pid
        for pid, name in names.items()
        if b"ray::" in name and b"MapBatches" in name and is_below(pid)
    ]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for actors in /proc")
def test_a_job_on_ray_with_a_killed_actor_has_each_row_once_and_the_bytes_of_one_process(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    pytest.importorskip("ray.data")
    rows = [*texts(600), {"id": "odd", "colour": "red"}]
    source = write_lines(tmp_path / "items.jsonl", rows)
    settings = JobSettings(shard_rows=10, on_error="null")
    encode_dataset(source, tiny_checkpoint, tmp_path / "one", settings=settings)
    command = [
        *(sys.executable, "-m", "mmembed", "encode", source, "--model", tiny_checkpoint),
        *("--out", tmp_path / "ray", "--shard-rows", "10", "--on-error", "null"),
        *("--runner", "ray", "--processes", "3", "--num-workers", "1"),
    ]
    # whoever sets this has said which cluster to use, and these are to be local
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    with (tmp_path / "errors.txt").open("w") as errors:
        job = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=errors, env=environment
        )
        manifest = tmp_path / "ray" / "manifest.jsonl"
        while not (manifest.exists() and manifest.stat().st_size):
            assert job.poll() is None, (tmp_path / "errors.txt").read_text()
        actors = actors_below(job.pid)
        assert len(actors) >= 2
        os.kill(actors[0], signal.SIGKILL)
        done_before = len(manifest.read_bytes().splitlines())
        said, _ = job.communicate()
    shown = (tmp_path / "errors.txt").read_text()
    assert done_before < 55, "killed too late to matter"
    assert job.returncode == 2, shown  # one row has failed
    assert said.decode().count("\n") == 1, said
    assert "601 of 601 rows, 601 of them in this run" in said.decode()
    ids, _ = all_rows(tmp_path / "ray")
    assert ids == [row["id"] for row in rows]
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")
    assert verify_job(tmp_path / "ray")[1] == []
    shards = [json.loads(line)["shard"] for line in manifest.read_bytes().splitlines()]
    assert sorted(shards) == list(range(61))


def test_a_shard_whose_actors_die_is_given_up_by_the_third(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    source = write_lines(tmp_path / "items.jsonl", texts(4))
    plan = plan_sources([source], shard_rows=2, folder=tmp_path)
    spec = WorkerSpec(
        model=str(tiny_checkpoint),
        folder=str(tmp_path),
        settings=JobSettings(shard_rows=2),
        files=plan.files,
        num_workers=1,
    )
    (tmp_path / "staged").mkdir()
    batches = [{"shard": [json.dumps(asdict(shard))]} for shard in plan.shards]
    attempts = tmp_path / "staged" / "attempts-000001"
    for died in range(4):
        attempts.write_text("." * died)
        given = _Actor(spec.model_dump(mode="json"))(batches[1])
        reply = parse_answer(json.loads(given["answer"][0]), given["index"][0])
        assert reply.shard == 1
        assert (reply.problem is None) == (died < 2), died
    assert reply.problem == "its actor died 2 times"
