"""Where published data sets are downloaded from: the hub, or a folder in its layout.

The hub's own library does the transfer, so that a download that was cut goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from mmembed.errors import DataError

__all__ = ["Hub", "Mirror", "RepositorySource"]

# Where the errors of connections come from, by version of the hub's library.
_TRANSPORTS = ("httpx", "httpx2", "requests.exceptions")


class RepositorySource(Protocol):
    """Repositories of data sets at revisions."""

    def resolve(self, repo: str, revision: str) -> tuple[str, Mapping[str, int]]:
        """The commit of a revision, and the files there with their sizes in bytes.

        Raises:
            DataError: no such repository or revision, or it cannot be reached.
        """
        ...

    def download(
        self, repo: str, commit: str, folder: Path, patterns: Sequence[str] | None = None
    ) -> None:
        """Put the files that match a pattern, or all, below `folder`; what is complete stays."""
        ...

    def open(self, repo: str, commit: str, name: str) -> Any:
        """A context manager that gives one file to read from, bytes, seekable."""
        ...


class Hub:
    """The hub, or what `HF_ENDPOINT` names."""

    def __init__(self) -> None:
        import huggingface_hub

        self._library = huggingface_hub
        self._api = huggingface_hub.HfApi()

    def resolve(self, repo: str, revision: str) -> tuple[str, Mapping[str, int]]:
        with _named(repo, revision):
            found = self._api.dataset_info(repo, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in found.siblings or ()}
        return str(found.sha), sizes

    def download(
        self, repo: str, commit: str, folder: Path, patterns: Sequence[str] | None = None
    ) -> None:
        with _named(repo, commit):
            self._api.snapshot_download(
                repo,
                repo_type="dataset",
                revision=commit,
                local_dir=folder,
                allow_patterns=None if patterns is None else list(patterns),
            )

    @contextmanager
    def open(self, repo: str, commit: str, name: str) -> Iterator[BinaryIO]:
        files = self._library.HfFileSystem(endpoint=self._api.endpoint)
        with _named(repo, commit), files.open(f"datasets/{repo}@{commit}/{name}", "rb") as file:
            yield file


class Mirror:
    """A folder with repositories in `owner/name`, as a copy of the hub has them.

    A file `.commit` in a repository says which commit it is; else that is not known.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def resolve(self, repo: str, revision: str) -> tuple[str, Mapping[str, int]]:
        folder = self._folder(repo)
        files = [path for path in folder.rglob("*") if path.is_file()]
        names = {path.relative_to(folder): path.stat().st_size for path in files}
        noted = folder / ".commit"
        commit = noted.read_text("ascii").strip() if noted.is_file() else ""
        return commit, {
            name.as_posix(): size for name, size in names.items() if name.parts[0][0] != "."
        }

    def download(
        self, repo: str, commit: str, folder: Path, patterns: Sequence[str] | None = None
    ) -> None:
        for name in self.resolve(repo, commit)[1]:
            if patterns is not None and not any(fnmatch(name, pattern) for pattern in patterns):
                continue
            source, target = self._folder(repo) / name, folder / name
            if target.is_file() and target.stat().st_size == source.stat().st_size:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(target.name + ".part")
            shutil.copyfile(source, part)
            part.replace(target)

    @contextmanager
    def open(self, repo: str, commit: str, name: str) -> Iterator[BinaryIO]:
        with (self._folder(repo) / name).open("rb") as file:
            yield file

    def _folder(self, repo: str) -> Path:
        folder = self.root / repo
        if not folder.is_dir():
            raise DataError(f"{self.root} has no {repo}; expected the folder {folder}")
        return folder


@contextmanager
def _named(repo: str, revision: str) -> Iterator[None]:
    """Errors of the hub's library as one line with what to do."""
    from huggingface_hub import errors

    what = f"{repo}@{revision}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise DataError(
            f"{what}: access has to be granted: accept the terms on the page of the data set, "
            f"then `hf auth login` ({_first_line(error)})"
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise DataError(
            f"{what}: the hub has no such repository or revision, or it is private "
            f"(`hf auth login`): {_first_line(error)}"
        ) from None
    except Exception as error:
        known = (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError)
        if not isinstance(error, known) and type(error).__module__ not in _TRANSPORTS:
            raise
        raise DataError(
            f"{what}: cannot be downloaded: {_first_line(error)}. Give the command again to go "
            "on; without a network, --source names a folder with copies of repositories"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
