"""Validation with messages for people, and the one merge rule of configurations."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from mmembed.errors import ConfigError

__all__ = ["StrictModel", "did_you_mean", "merge", "validate"]


Model = TypeVar("Model", bound=BaseModel)


class StrictModel(BaseModel):
    """Immutable, and an unknown key is an error."""

    # protected_namespaces: `model` is the field's own word here, not pydantic's.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` wins key by key; lists and scalars are replaced whole."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = merge(below, value)
        merged[key] = value
    return merged


def validate(model: type[Model], fields: Mapping[str, Any], *, where: str) -> Model:
    """Build a model, or say in one line what is wrong at which key.

    Raises:
        ConfigError: unknown keys with the nearest known key, missing keys, wrong values.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        lines = [_explain(model, detail) for detail in error.errors(include_url=False)]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from None


def _explain(model: type[BaseModel], detail: Any) -> str:
    location = [str(part) for part in detail["loc"]]
    path = ".".join(location)
    if detail["type"] == "extra_forbidden":
        owner = _model_at(model, location[:-1])
        known = list(owner.model_fields) if owner is not None else []
        guess = did_you_mean(location[-1], known)
        return f"unknown key {path!r}{guess}; known keys: {', '.join(known)}"
    if detail["type"] == "missing":
        return f"{path} is required"
    message = detail["msg"].removeprefix("Value error, ")
    found = "" if isinstance(detail["input"], dict) else f" (found {detail['input']!r})"
    return f"{path}: {message}{found}" if path else message


def _model_at(model: type[BaseModel], location: Sequence[str]) -> type[BaseModel] | None:
    current: type[BaseModel] | None = model
    for step in location:
        if step.isdigit():
            continue
        field = current.model_fields.get(step) if current is not None else None
        current = _model_in(field.annotation) if field is not None else None
    return current


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside `Model | None` or `tuple[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
