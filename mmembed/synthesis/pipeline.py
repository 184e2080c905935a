"""Pipelines: what a model is asked about each row and what becomes of its answers. YAML to types.

`configs/synthesis/*.yaml` -> load_pipeline -> Pipeline, which `runner.py` runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mmembed.config.files import find_config, list_configs, read_yaml
from mmembed.config.validation import StrictModel, did_you_mean, validate
from mmembed.errors import ConfigError
from mmembed.synthesis.acceptance import Rule
from mmembed.synthesis.answers import AnswerField
from mmembed.synthesis.templates import fields_in
from mmembed.types import Task

__all__ = [
    "Limits",
    "Output",
    "OutputItem",
    "Personas",
    "Pictures",
    "Pipeline",
    "Prices",
    "Step",
    "list_pipelines",
    "load_pipeline",
]

_FOLDER = "synthesis"
# Fields that the input row gives: texts of its first query, positive and hard negative; its label;
# code of the document's language where it can be told; seconds of its clip.
ROW_FIELDS = ("query", "document", "negative", "label", "language", "duration")

# What may change between runs in one folder: the same is asked, and rows are written anew.
_OF_THE_RUN = ("summary", "limits", "max_tokens_field", "deduplicate", "near_duplicates")


class Prices(StrictModel):
    """Of a million tokens, in the currency of `max_cost`."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


class Limits(StrictModel):
    """What a run may use.

    Args:
        max_cost: a request that could go beyond is not sent; needs `price_per_million`.
        max_requests: of one run, those of earlier runs in the same folder included.
    """

    max_cost: float | None = Field(default=None, gt=0)
    max_requests: int | None = Field(default=None, gt=0)
    price_per_million: Prices | None = None
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    timeout_seconds: float = Field(default=600.0, gt=0)
    max_retries: int = Field(default=6, ge=0)

    @model_validator(mode="after")
    def _priced(self) -> Limits:
        if self.max_cost is not None and self.price_per_million is None:
            raise ValueError(
                "max_cost needs the prices of the model: limits.price_per_million.input and .output"
            )
        return self


class Personas(StrictModel):
    """Who might ask: the `count` lines of a file that are nearest to the row's document.

    Args:
        file: one persona a line, or JSON lines with `persona`; beside the pipeline's file, or a
            path. What is chosen stands in the field `personas`.
        model: an encoder that says what is near; None: rare words in common.
    """

    file: str
    count: int = Field(default=5, ge=1)
    model: str | None = None


class Pictures(StrictModel):
    """How pictures are sent: at most `max_pixels` each; `num_frames` of a clip."""

    min_pixels: int = Field(default=28 * 28 * 4, gt=0)
    max_pixels: int = Field(default=768 * 768, gt=0)
    num_frames: int = Field(default=16, ge=2)
    jpeg_quality: int = Field(default=90, ge=1, le=95)


class Step(StrictModel):
    """One question to the model.

    Args:
        name: what later templates call its answer: `{name.key}`.
        prompt, prompt_file: the template itself, or a file beside the pipeline's.
        media: the item whose pictures are shown before the prompt.
        answer: keys of the JSON object that is asked for.
        accept: rules for it; one that is broken is told to the model, `tries` times in all.
        expected_tokens: of an answer, for the estimate; `max_tokens` bounds it.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    system: str = ""
    prompt: str = ""
    prompt_file: str | None = None
    media: Literal["query", "document"] | None = None
    answer: dict[str, AnswerField] = Field(min_length=1)
    accept: tuple[Rule, ...] = ()
    tries: int = Field(default=3, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int = Field(default=1024, gt=0)
    expected_tokens: int = Field(default=200, gt=0)

    @model_validator(mode="after")
    def _asks(self) -> Step:
        if not self.prompt.strip():
            raise ValueError(f"step {self.name!r} has no prompt")
        return self


class OutputItem(StrictModel):
    """A query or document of the new row: an item of the input, a text, or both.

    Args:
        start, end: templates of seconds; the part of the item's clip.
    """

    item: Literal["query", "document", "negative"] | None = None
    text: str | None = None
    instruction: str | None = None
    start: str | None = None
    end: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _holds_something(self) -> OutputItem:
        if self.item is None and self.text is None:
            raise ValueError("give item, text or both")
        if (self.start is None) != (self.end is None) or (self.start and self.item is None):
            raise ValueError("start and end go together, with item")
        return self

    def templates(self) -> list[str]:
        values = (self.text, self.instruction, self.start, self.end)
        return [value for value in values if value is not None]


class Output(StrictModel):
    """The new row. A string is a text.

    Args:
        keep_negatives: adds those of the input row, with their labels.
        keep_scores: takes over those of the input row, where the relation of query and documents
            stays; only with its document as the one positive and no new negatives.
    """

    task: Task
    query: OutputItem
    positives: tuple[OutputItem, ...] = Field(min_length=1)
    negatives: tuple[OutputItem, ...] = ()
    keep_negatives: bool = False
    keep_scores: bool = False
    label: str | None = None
    negative_labels: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _scored(self) -> Output:
        is_kept = self.positives == (OutputItem(item="document"),) and not self.negatives
        if self.keep_scores and not is_kept:
            raise ValueError("keep_scores: the positive must be {item: document}, negatives none")
        return self

    def items(self) -> tuple[OutputItem, ...]:
        return (self.query, *self.positives, *self.negatives)


class Pipeline(StrictModel):
    """The content of a pipeline's file.

    Args:
        draws: field -> value -> share; the value of a row depends on seed, row and field only.
        deduplicate: of rows whose written queries are the same the first is kept.
        near_duplicates: so is it where queries share this part of their runs of three words
            (Jaccard); None: only equal ones are duplicates.
        structured: how the answer's form is asked for: `auto` begins with `json_schema` and takes
            what the server understands; the prompt says it in any case.
        send_seed: a seed for each request, for servers that take one.
        max_tokens_field: what the server calls the bound of an answer.
        extra: more fields of every request, such as
            `{chat_template_kwargs: {enable_thinking: false}}`.
    """

    summary: str
    seed: int = 0
    draws: dict[str, dict[str, float]] = Field(default_factory=dict)
    personas: Personas | None = None
    pictures: Pictures = Pictures()
    steps: tuple[Step, ...] = Field(min_length=1)
    output: Output
    deduplicate: bool = True
    near_duplicates: float | None = Field(default=None, ge=0.5, le=1)
    structured: Literal["auto", "json_schema", "json_object", "none"] = "auto"
    send_seed: bool = True
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra: dict[str, Any] = Field(default_factory=dict)
    limits: Limits = Limits()

    @field_validator("draws", mode="before")
    @classmethod
    def _named(cls, draws: Any) -> Any:
        """Values such as lengths are written as numbers."""
        if not isinstance(draws, dict):
            return draws
        return {
            name: {str(value): share for value, share in shares.items()}
            if isinstance(shares, dict)
            else shares
            for name, shares in draws.items()
        }

    @model_validator(mode="after")
    def _fields_exist(self) -> Pipeline:
        for name, shares in self.draws.items():
            if not shares or min(shares.values()) < 0 or sum(shares.values()) <= 0:
                raise ValueError(f"draws.{name}: shares must not be negative, nor all zero")
            if name in ROW_FIELDS:
                raise ValueError(f"draws.{name}: the row gives this field; choose another name")
        known = [*ROW_FIELDS, *self.draws, *(["personas"] if self.personas else [])]
        for step in self.steps:
            if any(name.startswith(f"{step.name}.") for name in known):
                raise ValueError(f"two steps are called {step.name!r}")
            _check(known, f"step {step.name}", (step.system, step.prompt))
            known += [f"{step.name}.{key}" for key in step.answer]
            for rule in step.accept:
                _check(known, f"step {step.name}, {rule.rule}", rule.templates())
        for item in self.output.items():
            _check(known, "output", item.templates())
        _check(known, "output", (self.output.label or "", *self.output.negative_labels))
        if len(self.output.negative_labels) not in {0, len(self.output.negatives)}:
            raise ValueError("output: give each of the negatives a label, or none of them")
        return self

    @property
    def fingerprint(self) -> str:
        """Hash of everything that can change what is asked and answered."""
        fields = self.model_dump(mode="json", exclude=set(_OF_THE_RUN))
        if self.personas is not None and Path(self.personas.file).is_file():
            content = Path(self.personas.file).read_bytes()
            fields["personas"]["file"] = hashlib.sha256(content).hexdigest()
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def prompt_hash(self) -> str:
        """Of the templates alone, for the provenance of rows."""
        texts = [[step.system, step.prompt, sorted(step.answer)] for step in self.steps]
        return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def _check(known: Sequence[str], where: str, templates: Sequence[str]) -> None:
    for name in (name for template in templates for name in fields_in(template)):
        if name not in known:
            raise ValueError(
                f"{where}: no field {{{name}}}{did_you_mean(name, known)}; "
                f"known here: {', '.join(known)}"
            )


def list_pipelines() -> dict[str, str]:
    """Name -> what it does, of those in `configs/synthesis/`."""
    found = {}
    for name, path in list_configs(_FOLDER).items():
        found[name] = str(_mapping(path).get("summary", ""))
    return found


def load_pipeline(name: str, *, overrides: Sequence[str] = ()) -> Pipeline:
    """A pipeline by name or path.

    Args:
        overrides: `dotted.key=value` with a YAML value; steps are addressed by their name,
            `steps.rewrite.tries=5`.

    Raises:
        ConfigError: no such file, or what is wrong in it.
    """
    path = find_config(name, folder=_FOLDER, kind="synthesis pipeline")
    fields = _mapping(path)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"override {override!r} is not of the form dotted.key=value")
        _set(fields, key.strip().split("."), read_yaml(text, source=override), override)
    if isinstance(fields.get("steps"), list):
        fields["steps"] = list(_with_prompts(fields["steps"], path))
    personas = fields.get("personas")
    if isinstance(personas, dict) and isinstance(personas.get("file"), str):
        given = Path(personas["file"]).expanduser()
        beside = path.parent / given
        fields["personas"] = {**personas, "file": str(beside if beside.is_file() else given)}
    return validate(Pipeline, fields, where=path.name)


def _with_prompts(steps: list[Any], path: Path) -> Iterator[Any]:
    for step in steps:
        if isinstance(step, dict) and step.get("prompt_file") and not step.get("prompt"):
            file = path.parent / str(step["prompt_file"])
            if not file.is_file():
                raise ConfigError(f"{path.name}: there is no prompt file {file}")
            step = {**step, "prompt": file.read_text(encoding="utf-8")}
        yield step


def _set(fields: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    """Put a value at a place, whole: shares that are given replace all shares."""
    node = fields
    if keys[0] == "steps" and len(keys) > 2:
        steps = [step for step in fields.get("steps") or [] if isinstance(step, dict)]
        named = {str(step.get("name")): step for step in steps}
        if keys[1] not in named:
            raise ConfigError(f"override {override!r}: steps are {', '.join(named)}")
        node, keys = named[keys[1]], keys[2:]
    for depth, key in enumerate(keys[:-1], 1):
        below = node.setdefault(key, {})
        if not isinstance(below, dict):
            raise ConfigError(f"override {override!r}: {'.'.join(keys[:depth])} has no keys")
        node = below
    node[keys[-1]] = value


def _mapping(path: Path) -> dict[str, Any]:
    fields = read_yaml(path.read_text(encoding="utf-8"), source=path.name)
    if not isinstance(fields, dict):
        raise ConfigError(f"{path.name} holds {type(fields).__name__}; expected keys, as steps:")
    return fields
