"""Suites: which tasks, in whose words, and how much of them. YAML to `TaskCard`s and tasks.

`configs/evaluation/suites/*.yaml` -> load_suite -> Suite.open(root, profile) -> OpenSuite: cards
without any data, tasks read one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from mmembed.config.files import find_config, list_configs, read_yaml
from mmembed.config.validation import StrictModel, did_you_mean, validate
from mmembed.errors import ConfigError, DataError
from mmembed.evaluation.profiles import load_profile
from mmembed.evaluation.references import Reference
from mmembed.evaluation.subsets import Subset, subset_card, subset_task
from mmembed.tasks import LoadedTask, Profile, TaskCard, TaskSource

__all__ = [
    "OpenSuite",
    "Selection",
    "Suite",
    "SuiteConfig",
    "list_suites",
    "load_suite",
    "recorded_suite",
]

_FOLDER = "evaluation/suites"
_SHOWN_MISSING = 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # of a task, which names files


class Selection(StrictModel):
    """Which tasks of a suite; an empty field selects all."""

    only: tuple[str, ...] = ()
    modality: tuple[str, ...] = ()
    group: tuple[str, ...] = ()


class SuiteConfig(StrictModel):
    """The content of a suite's file.

    Attributes:
        sources: called (root, profile, **arguments), each gives a `TaskSource`: an installed
            `package.module:Name`, or `file.py:Name` beside the suite's file.
        profile: name of the profile unless a call gives another one.
        tasks: which tasks of the sources.
        data: what stands in the folder of the data, for people; None: the sources bring their own.
        subset: how much of each task; the rest of a nano suite.
        calibration: file with what `mmembed eval calibrate` found, beside the suite's file.
    """

    summary: str
    sources: tuple[Reference, ...] = Field(min_length=1)
    profile: str
    tasks: Selection = Selection()
    data: str | None = None
    subset: Subset | None = None
    calibration: str | None = None


@dataclass(frozen=True)
class Suite:
    """A suite before its sources are opened. `name` is a bundled suite's, or a path."""

    name: str
    config: SuiteConfig
    path: Path

    @property
    def calibration(self) -> Path | None:
        """None for a subset that was never compared with full runs: `uncalibrated`."""
        named = self.config.calibration
        return None if named is None else self.path.parent / named

    def open(
        self,
        root: Path | None = None,
        profile: Profile | str | None = None,
        *,
        cards_only: bool = False,
    ) -> OpenSuite:
        """Make the sources; reads no data.

        Args:
            cards_only: nothing will be loaded, so no folder of data is asked for.

        Raises:
            ConfigError: a source or the profile does not exist, or two tasks of one name.
            DataError: the suite needs data and `root` is no folder.
        """
        if not isinstance(profile, Profile):
            profile = load_profile(profile or self.config.profile)
        if cards_only:
            root = None
        elif self.config.data is not None and (root is None or not root.is_dir()):
            found = "none was given" if root is None else f"{root} is no folder"
            raise DataError(
                f"suite {self.name} needs a data root ({self.config.data}), but {found}"
            )
        root = None if root is None else root.resolve()
        sources = [self._source(entry, root, profile) for entry in self.config.sources]
        homes: dict[str, TaskSource] = {}
        cards: dict[str, TaskCard] = {}
        for source in sources:
            for card in source.cards():
                if not _NAME.fullmatch(card.name):
                    raise ConfigError(f"suite {self.name}: {card.name!r} cannot name a file")
                if card.name in cards:
                    raise ConfigError(f"suite {self.name} has two tasks named {card.name!r}")
                homes[card.name], cards[card.name] = source, card
        chosen = _select(cards, self.config.tasks, self.name)
        if self.config.subset is not None:
            chosen = {name: subset_card(card, self.config.subset) for name, card in chosen.items()}
        return OpenSuite(self, root, profile, chosen, homes)

    def _source(self, entry: Reference, root: Path | None, profile: Profile) -> TaskSource:
        try:
            source = entry.call(root, profile, beside=self.path.parent)
        except ConfigError as error:
            raise ConfigError(f"suite {self.name}: {error}") from error
        if not isinstance(source, TaskSource):
            raise ConfigError(
                f"suite {self.name}: {entry.reference!r} gives {type(source).__name__}; a source "
                "has the methods cards() and load(name, *, allow_missing=False)"
            )
        return source


@dataclass(frozen=True)
class OpenSuite:
    """A suite whose tasks can be read.

    Attributes:
        cards: by name, in the order of reports; those of a subset say so.
    """

    suite: Suite
    root: Path | None
    profile: Profile
    cards: Mapping[str, TaskCard]
    homes: Mapping[str, TaskSource]

    def select(self, selection: Selection) -> OpenSuite:
        """The same suite with fewer tasks.

        Raises:
            ConfigError: an unknown name, with the nearest known one.
        """
        cards = _select(self.cards, selection, self.suite.name)
        return OpenSuite(self.suite, self.root, self.profile, cards, self.homes)

    def load(self, name: str, *, allow_missing: bool = False) -> LoadedTask:
        """Read one task, cut to the suite's subset; errors as `TaskSource.load`."""
        loaded = self.homes[name].load(name, allow_missing=allow_missing)
        subset = self.suite.config.subset
        if subset is None:
            return loaded
        return LoadedTask(subset_task(loaded.task, subset), loaded.files, loaded.missing)

    def load_all(
        self, *, allow_missing: bool = False, on_progress: Callable[[int], None] | None = None
    ) -> dict[str, tuple[TaskCard, LoadedTask]]:
        """All tasks.

        Raises:
            DataError: files are missing; lists those of all tasks.
        """
        tasks: dict[str, tuple[TaskCard, LoadedTask]] = {}
        missing: dict[str, None] = {}
        incomplete: list[str] = []
        for name, card in self.cards.items():
            try:
                tasks[name] = card, self.load(name, allow_missing=allow_missing)
            except DataError as error:
                if not error.missing:
                    raise
                incomplete.append(name)
                missing |= dict.fromkeys(error.missing)
            if on_progress:
                on_progress(1)
        if incomplete:
            raise _missing(incomplete, list(missing), self.root)
        return tasks


def list_suites() -> dict[str, Path]:
    """Name -> file of the bundled suites."""
    return list_configs(_FOLDER)


def load_suite(name_or_path: str | Path) -> Suite:
    """A bundled suite by name, or one from a file.

    Raises:
        ConfigError: no such file, an unknown key, a wrong value.
    """
    path = find_config(str(name_or_path), folder=_FOLDER, kind="suite").resolve()
    fields = read_yaml(path.read_text("utf-8"), source=path.name)
    if not isinstance(fields, dict):
        raise ConfigError(f"{path} holds {type(fields).__name__}; expected keys such as sources:")
    config = validate(SuiteConfig, fields, where=str(path))
    bundled = list_suites().get(path.stem)
    is_bundled = bundled is not None and bundled.resolve() == path
    return Suite(path.stem if is_bundled else str(path), config, path)


def recorded_suite(named: str, given: str | None = None) -> Suite:
    """The suite of results: `given`, else the bundled one that their `run.json` names.

    A file runs the code that it names, so one is opened only when the caller gives it, not because
    results that may be anybody's say so.

    Raises:
        ConfigError: `named` is no bundled suite and none is given.
    """
    if given is not None:
        return load_suite(given)
    bundled = list_suites()
    if named not in bundled:
        raise ConfigError(
            f"the results name the suite {named!r}, a file that runs code of its own; if it is "
            f"yours, add --suite {named}"
        )
    return load_suite(bundled[named])


def _select(cards: Mapping[str, TaskCard], selection: Selection, suite: str) -> dict[str, TaskCard]:
    wanted: tuple[tuple[str, tuple[str, ...], Callable[[TaskCard], str]], ...] = (
        ("task", selection.only, lambda card: card.name),
        ("modality", selection.modality, lambda card: card.modality),
        ("group", selection.group, lambda card: card.group),
    )
    chosen = dict(cards)
    for kind, names, of in wanted:
        known = list(dict.fromkeys(of(card) for card in cards.values()))
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"suite {suite} has no {kind} {name!r}{did_you_mean(name, known)}; it has "
                    f"{', '.join(known)}"
                )
        if names:
            chosen = {name: card for name, card in chosen.items() if of(card) in names}
    if not chosen:
        raise ConfigError(f"no task of suite {suite} is in all that was asked for: {selection}")
    return chosen


def _missing(tasks: Sequence[str], files: Sequence[str], root: Path | None) -> DataError:
    """The error that lists missing files of several tasks."""
    shown = "".join(f"\n  {name}" for name in files[:_SHOWN_MISSING])
    more = f"\n  and {len(files) - _SHOWN_MISSING:,} more" if len(files) > _SHOWN_MISSING else ""
    return DataError(
        f"{len(files):,} files are missing under {root}, for {', '.join(tasks)}; fetch them, leave "
        f"the tasks out, or drop what needs them with --allow-missing (the scores become partial):"
        f"{shown}{more}",
        missing=files,
    )
