"""`mmembed train`: the stages of a recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from mmembed.cli.console import say

__all__ = ["train"]


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a bundled one.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for checkpoints.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe."),
    ] = None,
    tracker: Annotated[
        list[str] | None,
        typer.Option(help="Mirror the metrics: tensorboard, wandb or trackio; may be repeated."),
    ] = None,
    distribution: Annotated[
        str,
        typer.Option(
            help="How several processes share the model: ddp (each has all of it), fsdp2, zero1, "
            "zero2, zero3, or a .json file of DeepSpeed's settings. The weights are the same."
        ),
    ] = "ddp",
    cpu: Annotated[bool, typer.Option("--cpu", help="Do not use a GPU.")] = False,
    resume: Annotated[
        Literal["auto", "never", "must"],
        typer.Option(help="never refuses a folder that holds a run, must one that holds none."),
    ] = "auto",
    data_lock: Annotated[
        Path | None,
        typer.Option(
            "--data-lock", help="Refuse data that are not as in this lock; see `mmembed data lock`."
        ),
    ] = None,
) -> None:
    """Run the stages of a recipe; the same command goes on after Ctrl-C, SIGTERM or a crash.

    \b
    Example:
      mmembed train tiny --output run --set stages.0.steps=50

    `mmembed launch` prints how to start it on several GPUs or machines.
    """
    from rich.console import Console

    from mmembed.config.files import load_recipe
    from mmembed.training import distributed, stages
    from mmembed.training.progress import training_progress

    resolved = load_recipe(recipe, overrides=overrides or [])
    if data_lock is not None:
        from mmembed.data.lock import require_lock
        from mmembed.data.opening import open_entries, recipe_entries

        require_lock(data_lock, open_entries(recipe_entries(resolved)))
    one_voice = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
    with training_progress(console=one_voice) as progress:
        result = stages.train(
            resolved,
            output=output,
            progress=progress,
            cpu=cpu,
            resume=resume,
            trackers=tracker or (),
            distribution=distribution,
        )
    if distributed.is_main_process():
        typer.echo(result.model)
        if result.interrupted:
            say("interrupted; run the same command again to go on")
    if result.stopped_by is not None:
        raise typer.Exit(128 + result.stopped_by)
