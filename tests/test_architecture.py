"""The import order, the fences and the forbidden constructs, checked on the syntax tree.

Each rule runs over the whole tree, over planted violations that it must catch and over innocent
code that it must pass. The lists may only shrink.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.architecture.planted import RULES, Rule
from tests.architecture.rules import ARCHITECTURE_HOMES, Module

REPOSITORY = Path(__file__).resolve().parent.parent

MAX_LINES = 400
# path: (lines today, why it is one file). A number may only go down; the entry goes at 400.
LONG_FILES: dict[str, tuple[int, str]] = {}


def load_modules() -> list[Module]:
    modules = []
    for package in ("mmembed", "data_adapters", "benchmarks"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            parts = list(path.relative_to(REPOSITORY).with_suffix("").parts)
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            modules.append(Module(name, path.read_text(encoding="utf-8"), is_package))
    return modules


MODULES = load_modules()


def by_name(value: object) -> str | None:
    return getattr(value, "__name__", None)


@pytest.mark.parametrize("rule", RULES, ids=by_name)
def test_the_whole_tree_follows_the_rule(rule: Rule) -> None:
    found = [f"{m.name}:{line}: {what}" for m in MODULES for line, what in rule(m)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("rule", "module"), [(rule, bad) for rule, (bads, _) in RULES.items() for bad in bads],
    ids=by_name,
)  # fmt: skip
def test_a_planted_violation_is_caught(rule: Rule, module: Module) -> None:
    assert list(rule(module)), module.source


@pytest.mark.parametrize(
    ("rule", "module"), [(rule, good) for rule, (_, goods) in RULES.items() for good in goods],
    ids=by_name,
)  # fmt: skip
def test_innocent_code_passes(rule: Rule, module: Module) -> None:
    assert not list(rule(module)), module.source


def test_every_module_is_looked_at() -> None:
    names = {module.name for module in MODULES}
    assert {"mmembed", "mmembed.types", "mmembed.encoder.backbone"} <= names
    assert ARCHITECTURE_HOMES <= names


def size_violations(sizes: dict[str, int], known: dict[str, tuple[int, str]]) -> list[str]:
    """What is too long, and which entry of the list of known long files is out of date."""
    found = []
    for path, lines in sizes.items():
        limit = known[path][0] if path in known else MAX_LINES
        if lines > limit:
            found.append(f"{path} has {lines} lines, at most {limit}: split it")
    for path, (limit, _) in known.items():
        if sizes.get(path, 0) <= MAX_LINES:
            found.append(f"{path} is no longer long: remove it from LONG_FILES")
        elif sizes[path] < limit:
            found.append(f"{path} shrank to {sizes[path]} lines: lower its entry from {limit}")
    return found


def test_no_file_is_two_files() -> None:
    folders = ("mmembed", "data_adapters", "benchmarks", "tests")
    paths = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    sizes = {
        path.relative_to(REPOSITORY).as_posix(): len(path.read_text("utf-8").splitlines())
        for path in paths
    }
    assert not size_violations(sizes, LONG_FILES)


def test_the_list_of_long_files_may_only_shrink() -> None:
    known = {"a.py": (450, "a reason")}
    assert not size_violations({"a.py": 450, "b.py": 400}, known)
    assert size_violations({"a.py": 451}, known)
    assert size_violations({"a.py": 449}, known)
    assert size_violations({"a.py": 400}, known)
    assert size_violations({"a.py": 450, "b.py": 401}, known)
