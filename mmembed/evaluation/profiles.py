"""How a family of models words the items of tasks: strict JSON to `Profile`.

`configs/evaluation/profiles/*.json`; read before a suite opens its sources.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import Field, StrictBool, StrictStr

from mmembed.config.files import find_config
from mmembed.config.validation import StrictModel, validate
from mmembed.errors import ConfigError
from mmembed.tasks import Profile

__all__ = ["dump_profile", "load_profile", "parse_profile", "profile_sha256"]

_FOLDER = "evaluation/profiles"


class _ProfileFile(StrictModel):
    """The fields of `Profile`; `note` says where the strings are from and decides nothing."""

    name: str
    note: str = ""
    prompts: dict[str, StrictStr] = Field(default_factory=dict)
    template: str | None = None
    instruction_in_text: StrictBool = False
    separator: str = ""
    document_instructions: StrictBool = True
    num_frames: int = Field(default=8, ge=1, strict=True)
    letters: dict[str, StrictBool] = Field(default_factory=dict)
    reference_defects: StrictBool = False
    options: dict[str, Any] = Field(default_factory=dict)


def load_profile(name_or_path: str | Path) -> Profile:
    """A bundled profile by name, or one from a file.

    Raises:
        ConfigError: no such file, a key given twice or unknown, a wrong value.
    """
    path = find_config(str(name_or_path), folder=_FOLDER, suffix=".json", kind="profile")
    try:
        fields = json.loads(path.read_text("utf-8"), object_pairs_hook=_once)
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    return parse_profile(fields, where=str(path))


def parse_profile(fields: Any, *, where: str) -> Profile:
    """What `dump_profile` gave, or a file's content.

    Raises:
        ConfigError: an unknown key, a wrong value; `where` names the place.
    """
    if not isinstance(fields, dict):
        raise ConfigError(f"{where} holds {type(fields).__name__}; a profile is a JSON object")
    checked = validate(_ProfileFile, fields, where=where)
    return Profile(**checked.model_dump(exclude={"note"}))


def dump_profile(profile: Profile) -> dict[str, Any]:
    """Plain JSON of all fields."""
    return asdict(profile)


def profile_sha256(profile: Profile) -> str:
    """64 hex digits over all fields but the name: every prompt with every character (EV-6)."""
    fields = dump_profile(profile)
    del fields["name"]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode("ascii")).hexdigest()


def _once(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return found
