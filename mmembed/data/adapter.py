"""Dataset adapters: what they promise, how they are found, and a check that they keep it.

An adapter turns one source into plain `ContrastiveExample`s: no tokenizer, no prompt, no resizing;
media stay references. A recipe names it as `package.module:Name`; the name is resolved from
installed modules when a stage starts, so mmembed itself depends on no dataset.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, get_args, runtime_checkable

from mmembed.config.validation import did_you_mean
from mmembed.errors import ConfigError, InputError
from mmembed.types import ContrastiveExample, MultimodalInput, Task

__all__ = [
    "DatasetAdapter",
    "check_adapter",
    "check_example",
    "first_row",
    "problem_of",
    "resolve_adapter",
    "take",
]


@runtime_checkable
class DatasetAdapter(Protocol):
    """A sequence of training rows with its provenance. `__getitem__` must be thread-safe.

    The same index gives the same row in every process and every epoch; rows with equal
    `positive_ids` have the same document. An adapter whose rows are expensive to make may also
    have `document_ids(index) -> tuple[str, ...]`, the `positive_ids` of a row without the row:
    batches are planned with it, else each row is read once more than it is trained on. One that
    reads many rows faster than one by one may have
    `take(indices) -> list[ContrastiveExample | InputError]`.
    """

    name: str
    task: Task
    revision: str
    license: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> ContrastiveExample: ...


def resolve_adapter(reference: str, arguments: Mapping[str, Any] | None = None) -> DatasetAdapter:
    """Import `package.module:Name`, call it with `arguments`, and check what it gives.

    Raises:
        ConfigError: no such module, name or argument, or the adapter breaks its protocol.
    """
    module_name, _, name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"adapter {reference!r}: no module named {error.name!r}; install the package that "
            "has it, or correct the name"
        ) from error
    factory = getattr(module, name, None)
    if factory is None:
        public = getattr(module, "__all__", None) or [n for n in vars(module) if n[0] != "_"]
        raise ConfigError(
            f"adapter {reference!r}: {module_name} has no {name!r}{did_you_mean(name, public)}; "
            f"it has {', '.join(sorted(public))}"
        )
    arguments = dict(arguments or {})
    try:
        signature = inspect.signature(factory)
        signature.bind(**arguments)
    except TypeError as error:
        known = ", ".join(str(parameter) for parameter in signature.parameters.values())
        raise ConfigError(
            f"adapter {reference!r}: {error}; its arguments are: {known or '(none)'}"
        ) from None
    adapter = factory(**arguments)
    check_adapter(adapter, reference)
    return adapter


def take(adapter: DatasetAdapter, indices: Sequence[int]) -> list[ContrastiveExample | InputError]:
    """The row, or why it cannot be used, for each index."""
    many = getattr(adapter, "take", None)
    if many is not None:
        taken: list[ContrastiveExample | InputError] = many(indices)
        return taken
    rows: list[ContrastiveExample | InputError] = []
    for index in indices:
        try:
            rows.append(adapter[index])
        except InputError as error:
            rows.append(error)
    return rows


def check_adapter(adapter: Any, reference: str) -> None:
    """Refuse an object that is no `DatasetAdapter`; reads its first row that can be used.

    Raises:
        ConfigError: naming the adapter and what is missing.
    """
    expected = ("name", "task", "revision", "license", "__len__", "__getitem__")
    missing = [name for name in expected if not hasattr(adapter, name)]
    if missing:
        raise ConfigError(
            f"adapter {reference!r} gives {type(adapter).__name__} without {', '.join(missing)}; "
            "see mmembed.data.adapter.DatasetAdapter"
        )
    if adapter.task not in get_args(Task):
        raise ConfigError(
            f"adapter {reference!r}: task {adapter.task!r} is unknown; tasks are "
            f"{', '.join(get_args(Task))}"
        )
    if len(adapter) == 0:
        raise ConfigError(f"adapter {reference!r} has no rows with these arguments")
    try:
        check_example(first_row(adapter), f"adapter {reference!r}, its first row")
    except InputError as error:
        raise ConfigError(
            f"adapter {reference!r} has no row that can be used; the first: {error.detail}"
        ) from None


def first_row(adapter: DatasetAdapter) -> ContrastiveExample:
    """The first row that can be used.

    Raises:
        InputError: of the first row; there is no other.
    """
    first: InputError | None = None
    for index in range(len(adapter)):
        try:
            return adapter[index]
        except InputError as error:
            first = first or error
    assert first is not None, "an adapter without rows"
    raise first


def check_example(example: Any, where: str) -> None:
    """Refuse a row that cannot be trained on.

    Raises:
        ConfigError: naming the row and what is wrong with it.
    """
    problem = problem_of(example)
    if problem is not None:
        raise ConfigError(f"{where} {problem}")


def problem_of(example: Any) -> str | None:
    """Why a row cannot be trained on, to be read behind its place; None where it can."""
    if not isinstance(example, ContrastiveExample):
        return f"is {type(example).__name__}; expected ContrastiveExample"
    positives, hard_negatives = example.positives, example.hard_negatives
    for item in (example.query, *positives, *hard_negatives):
        if not isinstance(item, MultimodalInput):
            return (
                f"holds {type(item).__name__} where MultimodalInput is expected; "
                "use MultimodalInput.of(...)"
            )
    if not positives:
        return "has no positive"
    if example.positive_ids and len(example.positive_ids) != len(positives):
        return (
            f"has {len(positives)} positives and {len(example.positive_ids)} positive_ids; give "
            "one id each, or none"
        )
    num_documents = len(positives) + len(hard_negatives)
    if example.scores is not None and len(example.scores) != num_documents:
        return (
            f"has {num_documents} positives and hard negatives and {len(example.scores)} scores; "
            "give one each, or None"
        )
    if example.negative_labels and len(example.negative_labels) != len(hard_negatives):
        return (
            f"has {len(hard_negatives)} hard_negatives and {len(example.negative_labels)} "
            "negative_labels; give one each, or none"
        )
    return None
