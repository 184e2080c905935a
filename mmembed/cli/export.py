"""`mmembed export`: run a model folder in other servers, with the same vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmembed.cli.console import Device, say

if TYPE_CHECKING:
    from mmembed.encoder.serving import ServingPlan

__all__ = ["export"]


def export(
    model: Annotated[str, typer.Argument(help="A model folder or a hub id.")],
    server: Annotated[
        Literal["sentence-transformers", "vllm", "tei", "all"],
        typer.Option("--for", help="The server; tei is text-embeddings-inference."),
    ] = "all",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Write a folder that has every file and name they need; new."
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare vectors with those of sentence-transformers."),
    ] = False,
    device: Device = None,
) -> None:
    """Say how to run a model in other servers, and whether that gives the same vectors.

    Refuses, with the reason, where it would not. What is said of vLLM and of
    text-embeddings-inference follows their documentation and has not been run with them;
    sentence-transformers is compared by --verify.

    \b
    Examples:
      mmembed export run/model --for sentence-transformers --verify
      mmembed export run/model --for vllm --out served
    """
    from mmembed.encoder.checkpoint import resolve_folder
    from mmembed.encoder.serving import SERVERS, plan_serving, write_served_folder

    folder = resolve_folder(model)
    if out is not None:
        write_served_folder(folder, out)
        say(f"{out}: written. Indexes made with {model} are still searched with {model}")
        folder = out
    names = SERVERS if server == "all" else (server,)
    plans = [plan_serving(folder.absolute(), name) for name in names]
    for plan in plans:
        _show(plan)
    usable = {plan.server for plan in plans if not plan.problems}
    if verify:
        if "sentence-transformers" in names and "sentence-transformers" not in usable:
            raise typer.Exit(2)
        _verify(folder, device)
    # of all servers, one is enough
    if not usable:
        raise typer.Exit(2)


def _show(plan: ServingPlan) -> None:
    typer.echo(f"{plan.server}: {'no' if plan.problems else 'yes'}")
    for problem in plan.problems:
        typer.echo(f"  {problem}")
    if plan.problems:
        typer.echo("")
        return
    if not plan.is_tested:
        typer.echo("  as its documentation says; not run with mmembed: compare vectors first")
    for text in (plan.command, plan.request):
        typer.echo("\n" + "\n".join(f"    {line}" for line in text.splitlines()))
    typer.echo("")
    for difference in plan.differences:
        typer.echo(f"  - {difference}")
    typer.echo("")


def _verify(folder: Path, device: str | None) -> None:
    from mmembed.baselines.sentence_transformers import SentenceTransformersModel
    from mmembed.encoder.embedder import Embedder
    from mmembed.encoder.serving_check import TOLERANCE, compare

    with Embedder.from_pretrained(folder, device=device, dtype="float32") as embedder:
        peer = SentenceTransformersModel(folder, device=device, dtype="float32")
        try:
            found = compare(embedder, peer)
        finally:
            peer.close()
    for name, difference in found.items():
        typer.echo(f"{name}: largest difference {difference:.1e}")
    if not all(difference <= TOLERANCE for difference in found.values()):
        say(f"error: vectors differ by more than {TOLERANCE:g}")
        raise typer.Exit(2)
    typer.echo(f"sentence-transformers gives the same vectors, within {TOLERANCE:g}")
