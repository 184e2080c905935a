"""Further candidates of mining: documents in JSON lines."""

from __future__ import annotations

from array import array
from pathlib import Path

from mmembed.errors import ConfigError, InputError
from mmembed.inputs.item_files import file_item, line_value, lines_of
from mmembed.types import MultimodalInput

__all__ = ["CorpusFile"]


class CorpusFile:
    """A JSON-lines file of documents; a line is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets, self.numbers = array("q"), array("q")
        for number, offset, _ in lines_of(path):
            self.offsets.append(offset)
            self.numbers.append(number)

    def __len__(self) -> int:
        return len(self.offsets)

    def item(self, row: int) -> MultimodalInput:
        with self.path.open("rb") as file:
            file.seek(self.offsets[row])
            line = file.readline().decode("utf-8-sig")
        number = self.numbers[row]
        found = file_item(*line_value(line, number), folder=self.path.parent).item
        if isinstance(found, InputError):
            raise ConfigError(f"{self.path}, line {number}: {found}")
        return found
