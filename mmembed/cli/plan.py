"""`mmembed plan`: what a recipe will take on this machine, from a few measured steps."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmembed.cli.console import say
from mmembed.errors import ConfigError

if TYPE_CHECKING:
    from mmembed.training.forecast import Plan, StagePlan

__all__ = ["plan"]

_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def plan(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a bundled one.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What training may take, e.g. 20GiB; default: free now."),
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Do not use a GPU.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a recipe will take here: memory, chunk_tokens, time and disk.

    Rows of every stage are read, and a few steps of it measured, the largest batch first. Trains
    nothing that stays, and writes nothing. Exit code 2: a stage does not fit as it is written;
    what to set is said.

    \b
    Examples:
      mmembed plan tiny
      mmembed plan my_recipe.yaml --memory 20GiB --set stages.0.batch_size=1024
    """
    from mmembed.config.files import load_recipe
    from mmembed.training import planner

    resolved = load_recipe(recipe, overrides=overrides or [])
    budget = None if memory is None else _bytes(memory)
    found = planner.plan(resolved, memory_bytes=budget, cpu=cpu, report=say)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
    else:
        _show(found)
    for stage in found.stages:
        if not stage.fits:
            say(f"error: {stage.name} does not fit as it is written: {_advice(stage)}")
    if not found.fits:
        raise typer.Exit(2)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if match is None or not float(match[1]):
        raise ConfigError(f"--memory is {text!r}; give a size, e.g. 20GiB or 800MiB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** _UNITS[match[2].upper()])


def _advice(stage: StagePlan) -> str:
    new = {name: getattr(stage.chosen, name) for name in ("chunk_tokens", "gradient_checkpointing")}
    changes = [
        f"{name}: {json.dumps(value)}"
        for name, value in new.items()
        if value != getattr(stage.written, name)
    ]
    return f"set {' and '.join(changes)}"


def _show(found: Plan) -> None:
    from rich.console import Console

    from mmembed.training.forecast import HEADROOM, byte_text

    console = Console(highlight=False)
    console.print(
        f"{found.recipe} on {found.device}, {byte_text(found.memory_bytes)} of memory, "
        f"of which {HEADROOM:.0%} are used",
        markup=False,
    )
    for stage in found.stages:
        console.print(_memory_table(stage))
    console.print(_time_table(found))
    console.print(
        f"On disk, checkpoints included: {byte_text(found.disk_bytes)}. Steps and the peaks of "
        "checks are measured, all else follows from them. Left out: searches of `evaluation`, "
        "saving, compile, tower_cache_mb; other processes.",
        markup=False,
    )


def _memory_table(stage: StagePlan) -> Any:
    from rich.table import Table

    from mmembed.training.forecast import byte_text

    table = Table(
        "chunk_tokens",
        "gradient_checkpointing",
        "peak memory",
        "",
        title=f"{', '.join(stage.steps)}: {stage.largest_rows:,} rows of {stage.largest_group} "
        f"have {stage.largest_cost:,} tokens, one item up to {stage.longest_cost:,}",
        title_justify="left",
    )
    for setting in stage.settings:
        notes = ["as written"] if setting is stage.written else []
        notes += [] if setting.fits else ["does not fit"]
        notes += ["recommended"] if setting == stage.chosen else []
        table.add_row(
            "all at once" if setting.chunk_tokens is None else f"{setting.chunk_tokens:,}",
            "yes" if setting.gradient_checkpointing else "no",
            "ran out" if setting.peak_bytes is None else byte_text(setting.peak_bytes),
            ", ".join(notes),
        )
    check, bound = stage.check, "" if stage.exact_memory else "at most "
    table.caption = (
        f"check: a step of {check.cost:,} tokens in {check.num_chunks} chunks was predicted to "
        f"take {byte_text(check.predicted_bytes)} and took {bound}"
        f"{byte_text(check.observed_bytes)}; prepared data take {byte_text(stage.data_bytes)} of "
        "the host"
    )
    table.caption_justify = "left"
    if stage.bad_rows:
        table.caption += f"; {stage.bad_rows} of {stage.sampled_rows:,} rows cannot be used"
    return table


def _time_table(found: Plan) -> Any:
    from rich.table import Table

    table = Table("run", title="time", title_justify="left")
    for name in ("steps", "s/step", "tokens/s", "waits for data", "an hour is", "total"):
        table.add_column(name, justify="right")
    for stage in found.stages:
        for name, steps in stage.steps.items():
            table.add_row(
                name,
                f"{steps:,}",
                f"{stage.times.seconds_per_step:.3g}",
                f"{stage.times.tokens_per_second:,.0f}",
                f"{stage.times.data_wait_share:.0%}",
                f"{3600 * steps / stage.times.seconds[name]:,.0f} steps",
                _duration(stage.times.seconds[name]),
            )
    table.add_row("all", f"{found.steps:,}", "", "", "", "", _duration(found.seconds))
    return table


def _duration(seconds: float) -> str:
    """41 s, 12 min, 3.5 h, 20 days."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} s"
