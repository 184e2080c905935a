"""`mmembed mine`: hard negatives for the rows of data sets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mmembed.cli.console import Device, Workers, say
from mmembed.cli.data.options import Arguments, Format, Root, opened
from mmembed.errors import ConfigError

__all__ = ["Config", "Part", "Store", "Targets", "Teacher", "mine", "part_of", "settings_of"]

Targets = Annotated[
    list[str],
    typer.Argument(
        help="Files, published data sets, `package.module:Name`, recipes or mixtures in YAML."
    ),
]
Teacher = Annotated[
    str,
    typer.Option(
        "--teacher",
        "-t",
        help="A model folder or hub id, sentence-transformers:FOLDER, "
        "open_clip:ARCHITECTURE:TAG, or endpoint:URL#MODEL.",
    ),
]
Config = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        help="Settings in YAML, a file or a name of configs/mining; options win over them.",
    ),
]
Store = Annotated[
    Path | None,
    typer.Option(help="Folder of the teacher's vectors, to be shared; default: OUT/vectors."),
]
Part = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="This process does part I of N, over one shared OUT."),
]


def mine(
    targets: Targets,
    teacher: Teacher,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the mined rows.")],
    ranks: Annotated[
        str | None, typer.Option(metavar="A-B", help="Ranks that may be taken; default: 1-100.")
    ] = None,
    num_negatives: Annotated[
        int | None, typer.Option("--num-negatives", "-k", help="Of each row; default: 7.")
    ] = None,
    sampling: Annotated[
        Literal["top", "random"] | None, typer.Option(help="Of those that pass; default: top.")
    ] = None,
    min_score: Annotated[float | None, typer.Option(help="Of a negative.")] = None,
    max_score: Annotated[float | None, typer.Option(help="Of a negative.")] = None,
    absolute_margin: Annotated[
        float | None, typer.Option(help="A negative scores below the positive minus this.")
    ] = None,
    relative_margin: Annotated[
        float | None, typer.Option(help="0.05: a negative scores below 95 % of the positive.")
    ] = None,
    max_percentile: Annotated[
        float | None,
        typer.Option(help="A negative scores at most this percentile of all positives."),
    ] = None,
    max_similarity: Annotated[
        float | None, typer.Option(help="Of a negative to a positive, as documents.")
    ] = None,
    max_query_similarity: Annotated[
        float | None,
        typer.Option(help="Of the query to queries that the negative is a positive of."),
    ] = None,
    min_positive: Annotated[
        float | None, typer.Option(help="Rows without a positive above this are dropped.")
    ] = None,
    max_positive_rank: Annotated[
        int | None, typer.Option(help="Rows whose positive is behind this rank are dropped.")
    ] = None,
    pool: Annotated[
        Literal["own", "all"] | None,
        typer.Option(help="Candidates: of the row's data set, or of all together; default: own."),
    ] = None,
    corpus: Annotated[
        list[str] | None, typer.Option(help="JSON lines of further candidates; repeatable.")
    ] = None,
    siblings: Annotated[
        bool | None, typer.Option("--siblings", help="Other clips of a row's video come first.")
    ] = None,
    top_up: Annotated[
        bool | None, typer.Option("--top-up", help="Fill short lists with random documents.")
    ] = None,
    scores: Annotated[
        Literal["none", "teacher"] | None, typer.Option(help="Write the teacher's scores as well.")
    ] = None,
    reranker: Annotated[
        str | None, typer.Option(help="Folder of a reranker whose scores are written as `scores`.")
    ] = None,
    query_instruction: Annotated[
        str | None, typer.Option(help="For queries that bring none; the teacher sees it only.")
    ] = None,
    document_instruction: Annotated[str | None, typer.Option(help="For documents.")] = None,
    config: Config = None,
    sheet: Annotated[
        Path | None, typer.Option(help="A page of some of the rows, to be looked at.")
    ] = None,
    sheet_rows: Annotated[int, typer.Option(min=1, help="Rows on that page.")] = 50,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    part: Part = None,
    store: Store = None,
    root: Root = Path("data"),
    format: Format = None,
    arguments: Arguments = None,
    device: Device = None,
    num_workers: Workers = None,
) -> None:
    """Find hard negatives: documents that a teacher takes for nearly right.

    OUT gets a file of rows for each data set, to be trained on, and mining.json. Known positives
    are never negatives: by content, by id, by label, and those of rows with the same query. Stop it
    at any moment; the same command goes on from there. Media files that were replaced since do not
    make it another job: mine them into another folder.

    \b
    Examples:
      mmembed mine pairs.jsonl --teacher run/model --out mined --sheet sheet.html
      mmembed mine msmarco --teacher run/model --out mined --ranks 50-100 --sampling random
      mmembed mine msmarco --teacher run/model --out mined --config qwen3_vl
      mmembed mine photos.jsonl -t open_clip:ViT-B-32:laion2b_s34b_b79k -o mined \\
        --relative-margin 0.05 --max-similarity 0.95
      mmembed mine mixture.yaml -t endpoint:http://localhost:8000/v1#bge-m3 -o mined --pool all
      mmembed mine big.jsonl -t run/model -o mined --part 1/4     (and 2/4, 3/4, 4/4)

    The options are the most used settings; --config mining.yaml takes all of them.
    """
    from mmembed.baselines.loading import load_model
    from mmembed.config.mining import MiningConfig
    from mmembed.mining.counts import describe_mining
    from mmembed.mining.job import mine as mine_rows

    given: dict[str, Any] = {
        "ranks": _ranks(ranks),
        "num_negatives": num_negatives,
        "sampling": sampling,
        "min_score": min_score,
        "max_score": max_score,
        "absolute_margin": absolute_margin,
        "relative_margin": relative_margin,
        "max_percentile": max_percentile,
        "max_similarity": max_similarity,
        "max_query_similarity": max_query_similarity,
        "min_positive": min_positive,
        "max_positive_rank": max_positive_rank,
        "pool": pool,
        "corpus": corpus,
        "siblings": siblings,
        "top_up": top_up,
        "scores": "reranker" if reranker else scores,
        "reranker": reranker,
        "query_instruction": query_instruction,
        "document_instruction": document_instruction,
    }
    settings = settings_of(MiningConfig, config, given)
    share = part_of(part)
    data = [
        each
        for target in targets
        for each in opened(target, root=root, format=format, arguments=arguments)
    ]
    model = load_model(teacher, device=device, num_workers=num_workers)
    try:
        report = mine_rows(data, model, settings, out, seed=seed, store=store, part=share)
    finally:
        model.close()
    if not report.is_complete:
        say(f"{out}: part {part} is done; the part that ends last writes the files")
        return
    for name, path in report.files.items():
        typer.echo(str(path))
        for line in describe_mining(name, report.counts[name]):
            say(line)
    if sheet is not None:
        from mmembed.mining.sampled_rows import sampled_rows
        from mmembed.mining.sheet import write_sheet

        rows = sampled_rows(report.files, sheet_rows, seed=seed)
        write_sheet(sheet, rows, title=f"Hard negatives by {teacher}")
        typer.echo(str(sheet))


def settings_of(model: type[Any], name: str | None, given: dict[str, Any]) -> Any:
    """Settings from a file and from the options that were given, which win."""
    from mmembed.config.files import find_config, read_yaml
    from mmembed.config.validation import validate

    fields: Any = {}
    if name is not None:
        path = find_config(name, folder="mining", kind="mining settings")
        fields = read_yaml(path.read_text(encoding="utf-8"), source=str(path)) or {}
        if not isinstance(fields, dict):
            found = type(fields).__name__
            raise ConfigError(f"{path}: settings are lines of `name: value`; found a {found}")
    fields = {**fields, **{key: value for key, value in given.items() if value is not None}}
    return validate(model, fields, where=name or "options")


def part_of(text: str | None) -> tuple[int, int]:
    """`2/4` as (1, 4)."""
    if text is None:
        return (0, 1)
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(f"--part is {text!r}; give a number and how many there are, such as 1/4")
    return (int(found[1]) - 1, int(found[2]))


def _ranks(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)-(\d+)", text)
    if found is None:
        raise ConfigError(f"--ranks is {text!r}; give the first and the last rank, such as 50-100")
    return (int(found[1]), int(found[2]))
