"""Dataset adapters: what they promise, how they are found, and a check that they keep it.

An adapter turns one source into plain `ContrastiveExample`s: no tokenizer, no prompt, no resizing;
media stay references. A recipe names it as `package.module:Name`; the name is resolved from
installed modules when a stage starts, so mmembed itself depends on no dataset.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, Protocol, get_args, runtime_checkable

from mmembed.config.validation import did_you_mean
from mmembed.errors import ConfigError
from mmembed.types import ContrastiveExample, MultimodalInput, Task

__all__ = ["DatasetAdapter", "check_adapter", "check_example", "resolve_adapter"]


@runtime_checkable
class DatasetAdapter(Protocol):
    """A sequence of training rows with its provenance. `__getitem__` must be thread-safe.

    The same index gives the same row in every process and every epoch; rows with equal
    `positive_ids` have the same document. An adapter whose rows are expensive to make may also
    have `document_ids(index) -> tuple[str, ...]`, the `positive_ids` of a row without the row:
    batches are planned with it, else each row is read once more than it is trained on.
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


def check_adapter(adapter: Any, reference: str) -> None:
    """Refuse an object that is no `DatasetAdapter`; reads its first row.

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
    check_example(adapter[0], f"adapter {reference!r}, row 0")


def check_example(example: Any, where: str) -> None:
    """Refuse a row that cannot be trained on.

    Raises:
        ConfigError: naming the row and what is wrong with it.
    """
    if not isinstance(example, ContrastiveExample):
        raise ConfigError(f"{where} is {type(example).__name__}; expected ContrastiveExample")
    items = (example.query, *example.positives, *example.hard_negatives)
    wrong = next((item for item in items if not isinstance(item, MultimodalInput)), None)
    if wrong is not None:
        raise ConfigError(
            f"{where} holds {type(wrong).__name__} where MultimodalInput is expected; "
            "use MultimodalInput.of(...)"
        )
    if not example.positives:
        raise ConfigError(f"{where} has no positive")
    if example.positive_ids and len(example.positive_ids) != len(example.positives):
        raise ConfigError(
            f"{where} has {len(example.positives)} positives and "
            f"{len(example.positive_ids)} positive_ids; give one id each, or none"
        )
    num_documents = len(example.positives) + len(example.hard_negatives)
    if example.scores is not None and len(example.scores) != num_documents:
        raise ConfigError(
            f"{where} has {num_documents} positives and hard negatives and "
            f"{len(example.scores)} scores; give one each, or None"
        )
    if example.negative_labels and len(example.negative_labels) != len(example.hard_negatives):
        raise ConfigError(
            f"{where} has {len(example.hard_negatives)} hard_negatives and "
            f"{len(example.negative_labels)} negative_labels; give one each, or none"
        )
