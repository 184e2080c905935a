"""Bodies as the public pages of each API show them, with media of the tests in their places."""

from __future__ import annotations

import base64
import functools
import json
from pathlib import Path
from typing import Any

from tests import media_files

FOLDER = Path(__file__).parent / "bodies"


@functools.cache
def media() -> dict[str, bytes]:
    return {
        "$PNG": media_files.encode_image(media_files.photo(seed=1)),
        "$JPEG": media_files.encode_image(media_files.photo(seed=2), "JPEG"),
        "$MP4": media_files.video(8, fps=4),
        "$PDF": media_files.pdf(1),
    }


def recorded(prefix: str = "") -> list[str]:
    return sorted(path.stem for path in FOLDER.glob(f"{prefix}*.json"))


def load(name: str) -> dict[str, Any]:
    """`body` as sent; everything else with bytes in place of media."""
    case = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    body = sent(case.pop("body"))
    return {**_opened(case), "body": body}


def sent(value: Any) -> Any:
    """The value with base64 in place of media."""
    written = json.dumps(value)
    for word, data in media().items():
        written = written.replace(word, base64.b64encode(data).decode())
    return json.loads(written)


def _opened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _opened(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_opened(each) for each in value]
    return media().get(value, value) if isinstance(value, str) else value
