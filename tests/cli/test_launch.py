"""`mmembed launch` prints commands that a shell reads back as they were meant."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmembed.cli import app


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["launch", *arguments])


def test_one_machine_needs_no_address():
    done = run("tiny", "--processes", "4", "--", "-o", "my run", "--distribution", "fsdp2")
    assert shlex.split(done.stdout) == [
        *(
            "env",
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600",
            "torchrun",
            "--standalone",
            "--nproc-per-node",
            "4",
            "--no-python",
        ),
        *("mmembed", "train", "tiny", "-o", "my run", "--distribution", "fsdp2"),
    ]


def test_several_machines_meet_at_the_first():
    done = run("tiny", "--nodes", "2", "--host", "node1", "--", "--output", "run")
    words = shlex.split(done.stdout)
    assert words[words.index("--rdzv-endpoint") + 1] == "node1:29500"
    assert words[words.index("--nnodes") + 1] == "2"
    assert "each machine" in done.stderr


def test_the_recipe_is_the_one_that_training_will_read():
    values = ["--set", "stages.0.num_workers=5", "--set=stages.1.num_workers=7", "-orun"]
    done = run("tiny", "--slurm", "--", *values)
    assert "#SBATCH --cpus-per-task=15\n" in done.stdout
    mistyped = run("tiny", "--", "--set", "stages.0.steeps=5", "-orun")
    assert mistyped.exit_code == 2 and "did you mean 'steps'" in mistyped.stderr


def test_accelerate_gets_a_line_for_each_machine():
    done = run(
        "tiny", "--nodes", "2", "--host", "node1", "--launcher", "accelerate", "--", "--output=run"
    )
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert [line[line.index("--machine_rank") + 1] for line in lines] == ["0", "1"]
    for line in lines:
        assert line[line.index("--num_processes") + 1] == "16"
        assert line[-4:] == ["mmembed", "train", "tiny", "--output=run"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tiny", "--", "--tracker", "wandb"], "add -- --output FOLDER"),
        (["tiny", "--nodes", "2", "--", "-o", "run"], "add --host FIRST_MACHINE"),
        (["absent", "--", "-o", "run"], "no recipe file 'absent'"),
    ],
)
def test_what_is_missing_is_named(arguments: list[str], said: str):
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.parametrize(("code", "requeued"), [(143, True), (0, False), (3, False)])
def test_the_slurm_script_starts_each_process_and_requeues_after_a_signal_only(
    tmp_path: Path, code: int, requeued: bool
):
    """With stand-ins for SLURM's commands: srun runs its command as task 5 of 8."""
    script = tmp_path / "job.sh"
    done = run("tiny", "--nodes", "2", "--processes", "4", "--slurm", "--", "-o", "it's a $run")
    script.write_text(done.stdout)
    for line in ("--nodes=2", "--ntasks-per-node=4", "--signal=TERM@300", "--requeue"):
        assert f"#SBATCH {line}\n" in done.stdout
    stand_ins = {
        "scontrol": 'if [ "$1" = show ]; then printf "first\\nsecond\\n"; else echo "$@"; fi',
        "srun": 'shift; [ "$SRUN_CPUS_PER_TASK" = 3 ] || exit 9; '
        'SLURM_PROCID=5 SLURM_LOCALID=1 SLURM_NTASKS=8 "$@"',
        "mmembed": 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT"; '
        f'printf "%s\\n" "$@"; exit {code}',
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    found = subprocess.run(
        ["/bin/bash", str(script)],
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "SLURM_JOB_ID": "17",
            "SLURM_JOB_NODELIST": "x",
            "SLURM_CPUS_PER_TASK": "3",
        },
        capture_output=True,
        text=True,
    )
    lines = found.stdout.splitlines()
    assert lines[0] == "5 1 8 first 29500"
    assert lines[1:5] == ["train", "tiny", "-o", "it's a $run"]
    assert lines[5:] == (["requeue 17"] if requeued else [])
    assert found.returncode == code


@pytest.mark.parametrize(
    ("command", "taught"),
    [
        ("plan", ["largest batch first", "writes nothing", "--memory 20GiB", "Exit code 2"]),
        ("launch", ["nothing is started", "any number of them", "sbatch job.sh"]),
    ],
)
def test_help_teaches(command: str, taught: list[str]):
    text = " ".join(CliRunner().invoke(app, [command, "--help"]).stdout.split())
    for words in taught:
        assert words in text
