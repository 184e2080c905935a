"""Every number and string of losses.json is claimed by a test.

A file that speaks of golden numbers claims an id by naming it, or a prefix of it in `startswith`;
and the expected fields by naming those too. Names count in code, not in comments.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

GOLDEN = json.loads((Path(__file__).parent / "losses.json").read_text(encoding="utf-8"))
FIELDS = {case["id"]: set(case["expected"]) for case in GOLDEN["tests"]}
TEMPLATES = [entry["id"] for entry in GOLDEN["templates"]]


def names(source: str) -> tuple[set[str], tuple[str, ...]]:
    """String literals of a file (pieces of f-strings too), and those that `startswith` asks for."""
    nodes = list(ast.walk(ast.parse(source)))
    literals = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    prefixes = tuple(
        node.args[0].value
        for node in nodes
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "startswith"
        and isinstance(node.args[0], ast.Constant)
    )
    return literals, prefixes


def claims() -> dict[str, set[str]]:
    """The literals of the files that claim an id, by id."""
    found: dict[str, set[str]] = {}
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if path == Path(__file__) or "golden" not in source.lower():
            continue
        literals, prefixes = names(source)
        for name in [*FIELDS, *TEMPLATES]:
            if name in literals or name.startswith(prefixes):
                found.setdefault(name, set()).update(literals)
    return found


CLAIMS = claims()


def test_the_file_is_the_published_one():
    assert (len(FIELDS), len(TEMPLATES)) == (75, 18)


@pytest.mark.parametrize("name", [*FIELDS, *TEMPLATES])
def test_every_case_is_claimed_by_a_test_with_all_its_fields(name: str):
    assert name in CLAIMS, f"no test file names {name}"
    assert not FIELDS.get(name, set()) - CLAIMS[name], f"fields of {name} that no test names"


def test_a_name_in_a_comment_claims_nothing():
    assert names("# lsq\nx = f'{y}pooling'  # z.startswith('a')") == ({"pooling"}, ())
    assert names("x.startswith('rzen_tau')") == ({"rzen_tau"}, ("rzen_tau",))
