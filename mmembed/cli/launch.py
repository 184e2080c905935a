"""`mmembed launch`: the command that starts `mmembed train` on several GPUs or machines."""

from __future__ import annotations

import shlex
from itertools import pairwise
from typing import Annotated, Literal

import typer

from mmembed.cli.console import say

__all__ = ["launch"]

Launcher = Literal["torchrun", "accelerate"]
_CHECKPOINT_SECONDS = 600  # for the step that runs and the checkpoint of a large model


def launch(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a bundled one.")],
    arguments: Annotated[
        list[str], typer.Argument(metavar="-- OPTIONS", help="Options of mmembed train.")
    ],
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    processes: Annotated[int, typer.Option(min=1, help="Processes on each: its GPUs.")] = 8,
    host: Annotated[
        str | None, typer.Option(help="Name or address of the first machine, if there are several.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="A free port there.")] = 29500,
    launcher: Annotated[
        Launcher, typer.Option(help="What starts the processes of a machine.")
    ] = "torchrun",
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Print a batch script for SLURM instead.")
    ] = False,
) -> None:
    """Print how to start `mmembed train` with many processes; nothing is started.

    The batch size of a recipe is that of all processes together, so any number of them, and any
    --distribution of mmembed train, continues the same run. Give the same command again to go on
    after an interruption; the script for SLURM does so itself when its time is over.

    \b
    Examples:
      mmembed launch rzenembed --processes 8 -- --output run
      mmembed launch rzenembed --nodes 2 --host node1 -- --output run --distribution fsdp2
      mmembed launch rzenembed --nodes 4 --slurm -- --output run > job.sh && sbatch job.sh
    """
    from mmembed.config.files import load_recipe
    from mmembed.errors import ConfigError

    resolved = load_recipe(recipe, overrides=_values_of("--set", arguments))
    if not any(word.startswith(("-o", "--output")) for word in arguments):
        raise ConfigError("mmembed train needs its output folder: add -- --output FOLDER")
    train = ["mmembed", "train", recipe, *arguments]
    if slurm:
        threads = max(stage.num_workers for stage in resolved.stages)
        cpus = 1 + 2 * threads  # each of them has a process that decodes
        typer.echo(_batch_script(train, nodes, processes, port, cpus=cpus), nl=False)
        return
    if nodes > 1 and host is None:
        raise ConfigError(f"{nodes} machines have to find each other: add --host FIRST_MACHINE")
    if launcher == "torchrun":
        typer.echo(shlex.join([*_torchrun(nodes, processes, host, port), *train]))
        if nodes > 1:
            say("run this on each machine")
        return
    for rank in range(nodes):
        typer.echo(shlex.join([*_accelerate(nodes, processes, host, port, rank), *train]))
    if nodes > 1:
        say(f"one line for each machine, the first one for {host}")


def _torchrun(nodes: int, processes: int, host: str | None, port: int) -> list[str]:
    meeting = ["--standalone"]
    if nodes > 1:
        meeting = ["--nnodes", str(nodes), "--rdzv-backend", "c10d"]
        meeting += ["--rdzv-endpoint", f"{host}:{port}", "--rdzv-id", "mmembed"]
    # after SIGTERM, torchrun would give a checkpoint half a minute
    patience = ["env", f"TORCH_ELASTIC_SHUTDOWN_TIMEOUT={_CHECKPOINT_SECONDS}"]
    return [*patience, "torchrun", *meeting, "--nproc-per-node", str(processes), "--no-python"]


def _values_of(option: str, arguments: list[str]) -> list[str]:
    """What is given to an option, as `--set KEY=VALUE` or `--set=KEY=VALUE`."""
    found = [after for word, after in pairwise(arguments) if word == option]
    return found + [word[len(option) + 1 :] for word in arguments if word.startswith(f"{option}=")]


def _accelerate(nodes: int, processes: int, host: str | None, port: int, rank: int) -> list[str]:
    command = ["accelerate", "launch"]
    if nodes * processes > 1:
        command += ["--multi_gpu"]
    command += ["--num_machines", str(nodes), "--num_processes", str(nodes * processes)]
    if nodes > 1:
        command += ["--machine_rank", str(rank), "--main_process_ip", str(host)]
        command += ["--main_process_port", str(port)]
    return [*command, "--mixed_precision", "no", "--dynamo_backend", "no", "--no_python"]


def _batch_script(train: list[str], nodes: int, processes: int, port: int, *, cpus: int) -> str:
    """Each process is a task, so that signals and exit codes pass through no other program."""
    ranks = "RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS"
    task = shlex.quote(f"{ranks} exec {shlex.join(train)}")
    return f"""\
#!/bin/bash
# Options of sbatch on its command line replace these, e.g. sbatch --partition=gpu --time=8:00:00
#SBATCH --job-name=mmembed
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={processes}
#SBATCH --gpus-per-node={processes}
#SBATCH --cpus-per-task={cpus}
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=mmembed-%j.log
# five minutes before the end: training saves a checkpoint and exits with 143
#SBATCH --signal=TERM@300

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT={port} OMP_NUM_THREADS=1
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
srun --kill-on-bad-exit=1 bash -c {task}
code=$?
if [ "$code" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"  # goes on from the checkpoint
fi
exit "$code"
"""
