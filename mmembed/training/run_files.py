"""What is written down about a run, and whether a call may continue what a folder holds.

`recipe.yaml` has the settings, `run.json` versions and the fingerprint. Each checkpoint has the
`sources` of its stage: what the settings name, but do not contain.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from mmembed.config.checkout import git_revision
from mmembed.config.files import dump_recipe, parse_recipe
from mmembed.config.recipe import Recipe
from mmembed.config.stage import StageConfig
from mmembed.data.mixture import Mixture
from mmembed.encoder.identity import package_versions
from mmembed.errors import ConfigError
from mmembed.inputs.prompt import load_template
from mmembed.store.durable import write_atomically
from mmembed.training.step_folders import read_state

__all__ = ["METRICS_FILE", "Resume", "check_continues", "sources_of", "write_run_files"]

RECIPE_FILE = "recipe.yaml"
RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
Resume = Literal["auto", "never", "must"]
_MODEL_FILES = ("*.safetensors", "config.json", "tokenizer.json")


def write_run_files(recipe: Recipe, output: Path, *, resume: Resume = "auto") -> None:
    """Write down the settings, after refusing a folder that the call may not continue.

    Raises:
        ConfigError: it holds a run of other settings, or `resume` forbids or demands a run.
    """
    path = output / RECIPE_FILE
    # a call that failed before its first step, for a mistyped path say, has left settings only
    holds_run = path.is_file() and next(output.glob(f"*/{METRICS_FILE}"), None) is not None
    if resume == "never" and holds_run:
        raise ConfigError(
            f"{output} holds a run; choose another output folder, or continue it with resume auto"
        )
    if resume == "must" and not holds_run:
        raise ConfigError(f"{output} holds no run to continue; correct it, or use resume auto")
    if holds_run:
        before = parse_recipe(path.read_text(encoding="utf-8"), source=str(path))
        old, new = before.model_dump(mode="json"), recipe.model_dump(mode="json")
        changed = sorted(_differing_keys(old, new) - _idle_keys(old, new))
        if changed:
            raise ConfigError(
                f"{output} holds a run with other settings: {', '.join(changed[:8])}. "
                "Choose another output folder, or undo the change to continue that run"
            )
    write_atomically(path, dump_recipe(recipe).encode())
    fields = {
        "versions": package_versions(),
        "git_revision": git_revision(),
        "fingerprint": recipe.fingerprint(len(recipe.stages)),
    }
    write_atomically(output / RUN_FILE, (json.dumps(fields, indent=2) + "\n").encode())


def sources_of(recipe: Recipe, start: Path, mixture: Mixture) -> dict[str, str]:
    """What a stage stands on besides its settings, by key: weights, prompt, data.

    Args:
        start: the model folder that the stage starts from.
    """
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _MODEL_FILES for path in start.glob(pattern)):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    found = {"model": digest.hexdigest()}
    if recipe.model.prompt is not None:
        prompt = load_template(recipe.model.prompt).model_dump_json()
        found["model.prompt"] = hashlib.sha256(prompt.encode()).hexdigest()
    for entry in mixture.entries:
        adapter = entry.adapter
        found[f"data {entry.name}"] = f"revision {adapter.revision}, {len(adapter)} rows"
    return found


def check_continues(checkpoint: Path, fingerprint: str, sources: dict[str, str]) -> None:
    """Refuse a checkpoint of other settings, or whose model, prompt or data have changed since.

    Raises:
        ConfigError: naming what differs.
    """
    state = read_state(checkpoint)
    if state.fingerprint != fingerprint:
        raise ConfigError(f"{checkpoint} belongs to other settings; choose another output folder")
    changed = [
        f"{key} ({state.sources[key][:40]} -> {value[:40]})"
        for key, value in sources.items()
        if state.sources.get(key, value) != value
    ]
    if changed:
        raise ConfigError(
            f"since {checkpoint} was written, this has changed: {', '.join(changed)}. Choose "
            "another output folder, or undo the change to continue that run"
        )


def _differing_keys(old: Any, new: Any, path: str = "") -> set[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        pairs = [(str(key), old.get(key), new.get(key)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(key), *pair) for key, pair in enumerate(zip(old, new, strict=True))]
    else:
        return set() if old == new else {path}
    return {
        key
        for name, left, right in pairs
        for key in _differing_keys(left, right, f"{path}.{name}" if path else name)
    }


def _idle_keys(old: Any, new: Any) -> set[str]:
    """Differing keys that do not change the weights."""
    idle = StageConfig.idle_fields() | {"name"}
    return {key for key in _differing_keys(old, new) if idle & set(key.split("."))}
