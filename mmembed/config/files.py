"""Recipe files: strict YAML, one level of `base:`, overrides, and a dump that reloads.

    load_recipe("tiny", overrides=["stages.1.steps=10"])

Order: read the file, put entries in the place of mixtures, merge it over its `base:`, apply the
overrides, merge `defaults:` under every stage, validate. Unknown keys are errors with the nearest
known key.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmembed.config.mixtures import expand_data, expand_recipe
from mmembed.config.recipe import Recipe
from mmembed.config.stage import DataConfig
from mmembed.config.validation import did_you_mean, merge, validate
from mmembed.errors import ConfigError

__all__ = [
    "config_folders",
    "dump_recipe",
    "find_config",
    "list_configs",
    "load_mixture",
    "load_recipe",
    "parse_recipe",
    "read_yaml",
]


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars (`no` is a word, 1e-4 is a number); a key twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"}
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def read_yaml(text: str, *, source: str) -> Any:
    """One YAML document; `source` names it in errors.

    Raises:
        ConfigError: not YAML, or a key given twice, with line and column.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {error}") from None
    finally:
        loader.dispose()


def config_folders() -> tuple[Path, ...]:
    """Where bare names are looked up: a checkout's `configs/`, then those of the package."""
    package = Path(__file__).parent.parent
    checkout = package.parent
    folders = [package / "_configs"]
    if (checkout / "pyproject.toml").is_file() and (checkout / "configs").is_dir():
        folders.insert(0, checkout / "configs")
    return tuple(folders)


def list_configs(folder: str = "", *, suffix: str = ".yaml") -> dict[str, Path]:
    """Bare name -> file, of those in `configs/` or a folder under it."""
    known: dict[str, Path] = {}
    for root in reversed(config_folders()):
        found = sorted((root / folder).glob(f"*{suffix}"))
        known.update({path.name.removesuffix(suffix): path for path in found})
    return dict(sorted(known.items()))


def find_config(
    name: str,
    *,
    beside: Path | None = None,
    folder: str = "",
    suffix: str = ".yaml",
    kind: str = "recipe",
) -> Path:
    """The file of a recipe given as a path or as a bare name (`rzenembed`).

    Args:
        folder: of bare names, under `configs/`.
        kind: what such files are, for the message.

    Raises:
        ConfigError: no such file; lists the names there are.
    """
    direct = Path(name).expanduser()
    direct = beside / direct if beside is not None and not direct.is_absolute() else direct
    for candidate in (direct, direct.with_name(direct.name + suffix)):
        if candidate.is_file():
            return candidate
    known = list_configs(folder, suffix=suffix)
    if name.removesuffix(suffix) in known:
        return known[name.removesuffix(suffix)]
    raise ConfigError(
        f"no {kind} file {name!r}{did_you_mean(name, known)}. "
        f"Give a path, or one of: {', '.join(known) or '(none installed)'}"
    )


def load_recipe(name_or_path: str | Path, *, overrides: Sequence[str] = ()) -> Recipe:
    """Read, merge, override and validate a recipe.

    Args:
        overrides: `dotted.key=value` with a YAML value; list entries by number from 0.

    Raises:
        ConfigError: naming file, key, what was found and what is allowed.
    """
    path = find_config(str(name_or_path))
    return parse_recipe(
        path.read_text(encoding="utf-8"), source=path.name, overrides=overrides, beside=path.parent
    )


def parse_recipe(
    text: str, *, source: str = "recipe", overrides: Sequence[str] = (), beside: Path | None = None
) -> Recipe:
    """`load_recipe` for the text of a YAML file; `beside` is where its `base:` may stand.

    Raises:
        ConfigError: see `load_recipe`.
    """
    fields = _expanded(_mapping(text, source), beside)
    base = fields.pop("base", None)
    if base is not None:
        base_path = find_config(str(base), beside=beside)
        parent = _expanded(_read_mapping(base_path), base_path.parent)
        if "base" in parent:
            raise ConfigError(
                f"{source}: base {base_path.name} has a base itself; one level is allowed"
            )
        fields = merge(parent, fields)
    for override in overrides:
        _apply(fields, override)
    if overrides:
        fields = _expanded(fields, beside)  # they may name mixtures too
    defaults: dict[str, Any] = fields.pop("defaults", None) or {}
    if isinstance(fields.get("stages"), list):
        fields["stages"] = [_stage_over(defaults, stage) for stage in fields["stages"]]
    recipe = validate(Recipe, fields, where=source)
    recipe.member_stages()
    return recipe


def load_mixture(name_or_path: str | Path) -> tuple[DataConfig, ...]:
    """The entries of a mixture file, those of mixtures that it takes in included.

    Raises:
        ConfigError: naming file, key, what was found and what is allowed.
    """
    path = _find_mixture(str(name_or_path), None)
    data = expand_data(str(path), beside=None, find=_find_mixture, read=_read_mapping)
    return tuple(
        validate(DataConfig, entry, where=f"{path.name}, data.{number}")
        for number, entry in enumerate(data)
    )


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML that loads to an equal recipe without any other file."""
    return yaml.safe_dump(
        recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100
    )


def _find_mixture(name: str, beside: Path | None) -> Path:
    return find_config(name, beside=beside, folder="data", kind="mixture")


def _expanded(fields: Mapping[str, Any], beside: Path | None) -> dict[str, Any]:
    return expand_recipe(fields, beside=beside, find=_find_mixture, read=_read_mapping)


def _read_mapping(path: Path) -> dict[str, Any]:
    return _mapping(path.read_text(encoding="utf-8"), path.name)


def _mapping(text: str, source: str) -> dict[str, Any]:
    fields = read_yaml(text, source=source)
    if not isinstance(fields, dict):
        raise ConfigError(f"{source} holds {type(fields).__name__}; expected keys such as model:")
    return fields


def _stage_over(defaults: Mapping[str, Any], stage: Any) -> Any:
    if not isinstance(stage, Mapping):
        return stage
    merged = merge(defaults, stage)
    for given, other in (("steps", "epochs"), ("epochs", "steps")):
        if stage.get(given) is not None and other not in stage:
            merged.pop(other, None)  # a stage's own length replaces the default length
    return merged


def _apply(fields: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {override!r} is not of the form dotted.key=value")
    value = read_yaml(text, source=f"override {override!r}")
    steps = key.strip().split(".")
    node: Any = fields
    for depth, step in enumerate(steps):
        last = depth == len(steps) - 1
        where = ".".join(steps[: depth + 1])
        if isinstance(node, list):
            if not step.isdigit() or int(step) >= len(node):
                raise ConfigError(
                    f"override {override!r}: {where} does not exist; the list "
                    f"{'.'.join(steps[:depth])} has entries 0..{len(node) - 1}"
                )
            if last:
                node[int(step)] = value
            else:
                node = node[int(step)]
        elif isinstance(node, dict):
            if last:
                node[step] = value
            else:
                if node.get(step) is None:
                    node[step] = {}
                node = node[step]
        else:
            raise ConfigError(
                f"override {override!r}: {'.'.join(steps[:depth])} is {node!r} and has no keys"
            )
