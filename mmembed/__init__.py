"""One encoder and one vector space for text, images, video and document pages.

    from mmembed import Embedder

    embedder = Embedder.from_pretrained("path/to/model")
    vectors = embedder.encode(["a red bicycle", {"image": "bicycle.jpg"}])

Names are imported on first use, so `import mmembed` loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmembed.encoder.embedder import Embedder
    from mmembed.encoder.reranker import Reranker
    from mmembed.types import Image, MultimodalInput, Page, Text, Video

__all__ = [
    "Embedder",
    "Image",
    "MultimodalInput",
    "Page",
    "Reranker",
    "Text",
    "Video",
    "__version__",
]

__version__ = "0.1.0"

_HOME = {
    "Embedder": "mmembed.encoder.embedder",
    "Image": "mmembed.types",
    "MultimodalInput": "mmembed.types",
    "Page": "mmembed.types",
    "Reranker": "mmembed.encoder.reranker",
    "Text": "mmembed.types",
    "Video": "mmembed.types",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home module when it is first used (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
