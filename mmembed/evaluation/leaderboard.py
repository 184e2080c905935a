"""The file that the public leaderboard takes: `{"metadata": ..., "metrics": {modality: ...}}`.

Its models are built from the cards of a suite, so that the same definition writes, validates and
gives a JSON schema. Values are those of the `official` ties, in [0, 1]. Data sets without a
complete result are left out; so is a modality without any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from mmembed.config.validation import StrictModel
from mmembed.errors import DataError
from mmembed.evaluation.metrics import METRICS
from mmembed.evaluation.results import RunResults, TaskResult
from mmembed.tasks import TaskCard

__all__ = ["Metadata", "json_schema", "leaderboard", "leaderboard_name", "validate_leaderboard"]

_TIES = "official"
_DATE = r"^\d{4}-\d{2}-\d{2}$"
_SHOWN = 10


class Metadata(StrictModel):
    """What the leaderboard shows of a model.

    Attributes:
        model_size: billions of parameters.
        model_release_date, report_generated_date: YYYY-MM-DD; the latter may have a time behind it.
    """

    model_name: str = Field(min_length=1)
    model_backbone: str | None = None
    model_size: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    embedding_dimension: int | None = Field(default=None, ge=1)
    max_length_tokens: int | None = Field(default=None, ge=1)
    model_release_date: str | None = Field(default=None, pattern=_DATE)
    data_source: str = "Self-Reported"
    url: str | None = None
    report_generated_date: str = Field(pattern=_DATE.removesuffix("$"))


def leaderboard_name(card: TaskCard) -> str:
    return card.leaderboard_name or card.name


def leaderboard(
    run: RunResults, expected: Sequence[TaskCard], metadata: Metadata
) -> dict[str, Any]:
    """The content of the file, validated.

    Raises:
        DataError: no data set is complete, a result breaks the schema, or the run is
            over a subset of the tasks.
    """
    if run.record.get("subset") is not None:
        raise DataError(
            f"{run.folder} is over a subset of each task; the leaderboard takes whole ones"
        )
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for card in expected:
        result = run.tasks.get(card.name)
        if result is not None and not result.is_partial:
            values = metrics.setdefault(card.modality, {})
            values[leaderboard_name(card)] = _values(result)
    if not metrics:
        raise DataError(f"{run.folder} has no complete result of the suite's data sets")
    content = {"metadata": metadata.model_dump(exclude_none=True), "metrics": metrics}
    validate_leaderboard(content, expected)
    return content


def validate_leaderboard(content: Any, expected: Sequence[TaskCard]) -> None:
    """Check a file that was parsed from JSON, ours or anyone's.

    Raises:
        DataError: lists what breaks the schema, and where.
    """
    try:
        _file_model(expected).model_validate_json(json.dumps(content))
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, each['loc'])) or 'the file'}: {each['msg']}"
            for each in error.errors(include_url=False)
        ]
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(
            "not a leaderboard file of this suite:"
            + "".join(f"\n  {problem}" for problem in problems[:_SHOWN])
            + more
        ) from None


def json_schema(expected: Sequence[TaskCard]) -> dict[str, Any]:
    """The JSON schema of the file for these data sets."""
    return _file_model(expected).model_json_schema(by_alias=True)


_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_Share = Annotated[float, Field(ge=0.0, le=1.0)]
_Count = Annotated[int, Field(ge=0)]


def _file_model(expected: Sequence[TaskCard]) -> type[BaseModel]:
    values: dict[int | None, type[BaseModel]] = {}
    modalities: dict[str, Any] = {}
    for modality in dict.fromkeys(card.modality for card in expected):
        data_sets: dict[str, Any] = {}
        for card in expected:
            if card.modality == modality:
                if card.num_queries not in values:
                    values[card.num_queries] = _values_model(card.num_queries)
                data_sets[leaderboard_name(card)] = values[card.num_queries]
        modalities[modality] = _model(f"metrics of {modality}", data_sets, required=False)
    metrics = _model("metrics", modalities, required=False)
    return _model("leaderboard file", {"metadata": Metadata, "metrics": metrics})


def _values_model(num_queries: int | None) -> type[BaseModel]:
    """The 26 keys of a data set."""
    count = _Count if num_queries is None else Literal[num_queries]
    fields: dict[str, Any] = {**dict.fromkeys(METRICS, _Share), "num_pred": count}
    name = "metrics" if num_queries is None else f"metrics of {num_queries} queries"
    return _model(name, {**fields, "num_data": count})


def _model(name: str, fields: Mapping[str, Any], *, required: bool = True) -> type[BaseModel]:
    """A strict model; keys that are no Python names come in as aliases. `null` is no value."""
    definitions: dict[str, Any] = {}
    for number, (key, kind) in enumerate(fields.items()):
        field = Field(alias=key) if required else _optional(key)
        definitions[f"field_{number}"] = (kind, field)
    return create_model(name, __config__=_STRICT, **definitions)


def _optional(key: str) -> Any:
    return Field(default=None, alias=key, json_schema_extra=_without_default)


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]


def _values(result: TaskResult) -> dict[str, float]:
    found = result.metrics[_TIES]
    lacking = [key for key in (*METRICS, "num_pred", "num_data") if key not in found]
    if lacking:
        raise DataError(
            f"{result.name} has no {', '.join(lacking[:3])}; the leaderboard takes rankings with "
            "26 values each"
        )
    return {
        **{key: float(found[key]) for key in METRICS},
        **{key: int(found[key]) for key in ("num_pred", "num_data")},
    }
