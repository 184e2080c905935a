"""`mmembed soup` and `mmembed soup-card`: several models made into one, and what that gained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmembed.cli.console import Device, Workers, numbers
from mmembed.errors import ConfigError

if TYPE_CHECKING:
    from mmembed.soup.card import Results

__all__ = ["soup", "soup_card"]


def soup(
    checkpoints: Annotated[
        list[Path], typer.Argument(help="Model folders of one architecture, or LoRA adapters.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new model folder.")],
    method: Annotated[
        Literal["linear", "slerp", "greedy", "cocktail", "lora"],
        typer.Option(help="How to merge, see below."),
    ] = "linear",
    weights: Annotated[
        str | None,
        typer.Option(help="linear, lora: a number for each member, 0.6,0.4; default: equal."),
    ] = None,
    t: Annotated[
        float | None,
        typer.Option("--t", min=0, max=1, help="slerp of two: 0 = the first, 1 = the second."),
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(help="JSON lines to score models on: query, positive, negatives."),
    ] = None,
    losses: Annotated[
        str | None, typer.Option(help="cocktail: known losses instead of --examples, 0.9,1.1.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="cocktail: of the softmax over losses; default: 5.")
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(help="lora: the model to merge into; default: stay an adapter."),
    ] = None,
    num_workers: Workers = None,
    device: Device = None,
) -> None:
    """Merge the weights of several models into one.

    Members must differ in weights only. The new folder tells what it is made of in soup.json and
    README.md.

    \b
    Methods:
      linear    mean of the weights, equal or as --weights says
      slerp     along the arc between two models; several are folded one by one
      greedy    mean of those members that raise MRR on --examples
      cocktail  mean weighted by softmax(-loss / temperature), losses of --examples
      lora      adapters (peft folders), averaged as products B A

    \b
    Examples:
      mmembed soup run/a run/b --out run/soup --weights 0.6,0.4
      mmembed soup run/a run/b --out run/soup --method slerp --t 0.3
      mmembed soup run/a run/b run/c --out run/soup --method greedy --examples dev.jsonl
      mmembed soup run/a run/b --out run/soup --method cocktail --examples few.jsonl
      mmembed soup lora/a lora/b --out run/soup --method lora --base run/base

    \b
    A line of --examples; media are beside the file, negatives may be left out:
      {"query": "a dog", "positive": {"image": "dog.jpg"}, "negatives": ["a cat"]}
    With linear and slerp, --examples only adds scores to the README.
    """
    options: dict[str, Any] = {"losses": numbers("--losses", losses), "temperature": temperature}
    if method in ("greedy", "cocktail") and examples is None and options["losses"] is None:
        raise ConfigError(f"--method {method} needs --examples FILE.jsonl")
    if method == "lora" and examples is not None:
        raise ConfigError("--examples scores whole models; adapters are not scored")
    chosen = numbers("--weights", weights)
    from mmembed.soup.souping import soup as make_soup

    if examples is not None:
        options |= _scored(examples, method, options["losses"], device, num_workers)
    make_soup(
        checkpoints,
        output=out,
        method=method,
        weights=chosen,
        t=t,
        base=base,
        show_progress=True,
        **options,
    )
    typer.echo(out)


def soup_card(
    folder: Annotated[Path, typer.Argument(help="A folder made by `mmembed soup`.")],
    soup: Annotated[Path, typer.Option(help="Results of the soup, a JSON file.")],
    member: Annotated[
        list[Path], typer.Option(help="Results of a member; once for each, in order.")
    ],
) -> None:
    """Add evaluation results to a soup's README: its gain over the mean and the best member.

    Each file holds {task: {metric: number}}, higher is better.

    \b
    Example:
      mmembed soup-card run/soup --soup soup.json --member a.json --member b.json
    """
    from mmembed.soup.card import add_results, read_results

    add_results(folder, members=[read_results(path) for path in member], soup=read_results(soup))
    typer.echo(folder / "README.md")


def _scored(
    path: Path,
    method: str,
    losses: list[float] | None,
    device: str | None,
    num_workers: int | None,
) -> dict[str, Any]:
    """The options of `soup` that come from scoring models on the examples."""
    from mmembed.soup.examples import Examples, read_examples

    scores = Examples(read_examples(path), device=device, num_workers=num_workers)

    def evaluate(folder: Path) -> Results:
        found = scores(folder)
        return {path.stem: {"mrr": found.mrr, "recall@1": found.recall_at_1}}

    options: dict[str, Any] = {"evaluate": evaluate}
    if method == "greedy":
        options["score"] = lambda folder: scores(folder).mrr
    if method == "cocktail" and losses is None:
        options["losses"] = lambda folder: scores(folder).loss
    return options
