"""Finding files in a folder that does not let everything be seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmembed.search.walk import walk


def test_a_folder_that_may_be_listed_but_not_entered_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    for name in ("locked/a.png", "b.png"):
        (tmp_path / name).touch()
    original = Path.is_dir

    def refuse(path: Path) -> bool:
        if path.parent.name == "locked":
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(Path, "is_dir", refuse)
    found = walk(tmp_path, skip=tmp_path / "index")
    assert found.files == [tmp_path / "b.png"]
    assert found.unread == {tmp_path / "locked" / "a.png": "Permission denied"}
