"""What a soup is made of, written beside it: soup.json for programs, README.md for people.

With evaluation results of the soup and of its members, the card also says for every task how much
the soup gained over the mean and over the best of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmembed import __version__
from mmembed.encoder.model_files import read_json
from mmembed.errors import CheckpointError, ConfigError
from mmembed.soup.folders import CARD_FILE

__all__ = ["Results", "add_results", "compare", "read_card", "read_results", "write_card"]

Results = Mapping[str, Mapping[str, float]]  # task -> metric -> value, higher is better

_README = "README.md"


def write_card(folder: Path, card: Mapping[str, Any], *, title: str) -> None:
    """Write soup.json and README.md; `title` is the name the folder will have."""
    text = json.dumps({"title": title, **card}, indent=2, ensure_ascii=False) + "\n"
    (folder / CARD_FILE).write_text(text, encoding="utf-8")
    (folder / _README).write_text(_markdown(title, card), encoding="utf-8")


def read_card(folder: Path) -> dict[str, Any]:
    """The parsed soup.json. Raises CheckpointError when the folder has none."""
    path = folder / CARD_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a soup: it has no {CARD_FILE}")
    return read_json(path)


def add_results(folder: Path, *, members: Sequence[Results], soup: Results) -> None:
    """Add evaluation results to the card of a finished soup, replacing earlier ones.

    Args:
        members: in the order of the card.

    Raises:
        ConfigError: another number of members, or a task or metric that one of them lacks.
    """
    card = read_card(folder)
    if len(members) != len(card["members"]):
        raise ConfigError(
            f"{len(members)} results for {len(card['members'])} members; give one each: "
            + ", ".join(member["name"] for member in card["members"])
        )
    title = card.pop("title")
    write_card(folder, {**card, "results": compare(members, soup)}, title=title)


def compare(members: Sequence[Results], soup: Results) -> list[dict[str, Any]]:
    """One row for each task and metric of the soup, with its gain over mean and best member.

    Raises:
        ConfigError: a member lacks a task or metric of the soup.
    """
    rows = []
    for task, metrics in soup.items():
        for metric, value in metrics.items():
            scores = []
            for number, member in enumerate(members, 1):
                if metric not in member.get(task, {}):
                    raise ConfigError(f"the results of member {number} lack {metric} of {task}")
                scores.append(float(member[task][metric]))
            mean, best = math.fsum(scores) / len(scores), max(scores)
            rows.append(
                {
                    "task": task,
                    "metric": metric,
                    "soup": float(value),
                    "members": scores,
                    "mean": mean,
                    "best": best,
                    "minus_mean": value - mean,
                    "minus_best": value - best,
                }
            )
    return rows


def read_results(path: Path) -> dict[str, dict[str, float]]:
    """A JSON file {task: {metric: value}}.

    Raises:
        ConfigError: it cannot be read or holds something else.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(fields, dict) or not all(
        isinstance(metrics, dict)
        and all(type(value) in (int, float) and math.isfinite(value) for value in metrics.values())
        for metrics in fields.values()
    ):
        raise ConfigError(f"{path} must hold {{task: {{metric: number}}}}")
    return fields


def _markdown(title: str, card: Mapping[str, Any]) -> str:
    members = card["members"]
    settings = ", ".join(f"{name} {value}" for name, value in card["settings"].items())
    measured = [name for name in ("score", "loss") if name in members[0]]
    lines = [
        f"# {title}",
        "",
        "## Soup",
        "",
        f"A soup of {len(members)} members, made by mmembed {__version__} with the method "
        f"`{card['method']}`{f' ({settings})' if settings else ''}. Fingerprint "
        f"`{card['fingerprint']}`.",
        "",
        *_table(
            ["member", "weight", *measured, "fingerprint"],
            [
                [
                    member["name"],
                    f"{member['weight']:.4f}",
                    *(f"{member[name]:.4f}" for name in measured),
                    f"`{member['fingerprint'][:12]}`",
                ]
                for member in members
            ],
        ),
    ]
    rows = card.get("results")
    if rows:
        columns = ("soup", "mean", "best")
        lines += [
            "",
            "### Against its members",
            "",
            "Higher is better. Mean and best are over all members listed above.",
            "",
            *_table(
                ["task", "metric", "soup", "mean", "best", "soup - mean", "soup - best"],
                [
                    [row["task"], row["metric"], *(f"{row[name]:.4f}" for name in columns)]
                    + [f"{row[name]:+.4f}" for name in ("minus_mean", "minus_best")]
                    for row in rows
                ],
            ),
        ]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    rule = ["---"] * len(head)
    return ["| " + " | ".join(row) + " |" for row in (cells[0], rule, *cells[1:])]
