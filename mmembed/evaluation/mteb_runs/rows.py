"""Rows of mteb's batches -> items: pictures, clips and text, whatever a row has of them.

mteb hands over media that `datasets` has decoded, one after the other, in the main process.
`undecoded` asks the same loader for files and bytes instead: our decode workers open them, and a
picture counts by the file it came in, as in our own evaluations. `prefetched` reads batches while
the model is busy.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from mmembed.errors import DataError
from mmembed.evaluation.mteb_runs.library import load_datasets
from mmembed.sources import is_picture
from mmembed.types import Image, ImageSource, MultimodalInput, Part, Text, Video

__all__ = ["frame_places", "has_media", "item_of", "prefetched", "rows_of", "undecoded", "windows"]

Item = TypeVar("Item")

# Of one call of the encoder: pictures hold memory, and long texts should find others of their kind.
_WINDOW_PICTURES = 512
_WINDOW_ITEMS = 8192
_READ_AHEAD = 4


def rows_of(batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A batch, a list for each column, as rows."""
    columns = {name: list(values) for name, values in batch.items()}
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def has_media(row: Mapping[str, Any]) -> bool:
    return row.get("image") is not None or row.get("video") is not None


def item_of(row: Mapping[str, Any], instruction: str | None, num_frames: int) -> MultimodalInput:
    """Clip, then pictures, then text: the order in which the backbones were trained.

    A row without any media is text, be it empty: then the instruction alone is embedded.

    Args:
        num_frames: of a clip, evenly spaced; all of them when it has fewer.

    Raises:
        DataError: a value that is none of the forms in which mteb has media.
    """
    parts: list[Part] = []
    if row.get("video") is not None:
        parts.append(_video(row["video"], num_frames))
    if row.get("image") is not None:
        value = row["image"]
        listed = value if isinstance(value, list | tuple) else [value]
        parts.extend(Image(_picture(entry)) for entry in listed)
    text = row.get("text") or ""
    if text or not parts:
        parts.append(Text(str(text)))
    return MultimodalInput(tuple(parts), instruction)


def frame_places(num_source: int, num_frames: int) -> list[int]:
    """`linspace(0, n - 1, k)` truncated; all places when there are no more than k."""
    if num_source <= num_frames:
        return list(range(num_source))
    return [int(place) for place in np.linspace(0, num_source - 1, num_frames)]


def _video(value: Any, num_frames: int) -> Video:
    if isinstance(value, Mapping) or isinstance(value, str | Path | bytes):
        return Video(cast("Path | bytes", _file(value)), num_frames=num_frames)
    if isinstance(value, list | tuple):
        if not value:
            raise DataError("a row has a clip without frames")
        frames = [value[place] for place in frame_places(len(value), num_frames)]
        return Video(tuple(map(_picture, frames)))
    if hasattr(value, "get_frames_at"):  # torchcodec's VideoDecoder
        places = frame_places(len(value), num_frames)
        return Video(_array_frames(value.get_frames_at(indices=places).data))
    if hasattr(value, "shape") and len(value.shape) == 4:
        places = frame_places(len(value), num_frames)
        return Video(_array_frames(value[places]))
    raise DataError(
        f"a row's video is {type(value).__name__}; known are a file, its bytes, a list of "
        "pictures or paths, a (T, C, H, W) tensor and torchcodec's VideoDecoder"
    )


def _array_frames(clip: Any) -> tuple[ImageSource, ...]:
    """(T, C, H, W) or (T, H, W, C), uint8."""
    return tuple(_array_picture(frame) for frame in clip)


def _array_picture(value: Any) -> np.ndarray:
    """(C, H, W) or (H, W, C), uint8."""
    array = np.asarray(value)
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise DataError(
            f"a picture is an array of {array.dtype} with shape {array.shape}; allowed are uint8 "
            "(height, width, channels) and (channels, height, width)"
        )
    return np.ascontiguousarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _picture(value: Any) -> ImageSource:
    if isinstance(value, Mapping) or isinstance(value, str | Path | bytes):
        return _file(value)
    if hasattr(value, "shape"):
        return _array_picture(value)
    if is_picture(value):
        return cast("ImageSource", value)
    raise DataError(
        f"a row's image is {type(value).__name__}; known are a PIL image, a file, its bytes and "
        "a uint8 array"
    )


def _file(value: Any) -> ImageSource:
    """What `datasets` stores of a picture or a clip: bytes, else the path of a local file."""
    if isinstance(value, Mapping):
        path = value.get("path")
        if value.get("bytes") is not None:
            return bytes(value["bytes"])
        if path is None:
            raise DataError("a row's picture or clip has neither bytes nor a path")
        if not Path(path).is_file():  # inside an archive, or behind an address
            return cast("ImageSource", load_datasets().Image().decode_example(dict(value)))
        return Path(path)
    return Path(value) if isinstance(value, str) else cast("ImageSource", value)


def undecoded(loader: Any) -> Any:
    """A loader of the same rows whose pictures and clips are files or bytes; else the same one.

    Only where `datasets` would decode each of them by itself: a column that a task transforms
    keeps what the task makes of it.
    """
    dataset, library = loader.dataset, load_datasets()
    if not isinstance(dataset, library.Dataset) or dataset.format["type"] is not None:
        return loader
    features = dataset.features
    kinds = {"image": library.Image, "video": library.Video}
    plain: dict[str, Any] = {}
    for name, kind in kinds.items():
        feature = features.get(name)
        if isinstance(feature, kind) and feature.decode:
            plain[name] = kind(decode=False)
        elif isinstance(feature, library.List) and isinstance(feature.feature, library.Image):
            plain[name] = library.List(library.Image(decode=False))
    if not plain:
        return loader
    for name, feature in plain.items():
        dataset = dataset.cast_column(name, feature)
    from torch.utils.data import DataLoader

    return DataLoader(
        dataset,
        batch_size=loader.batch_size,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        shuffle=False,
    )


def windows(items: Iterable[MultimodalInput]) -> Iterator[list[MultimodalInput]]:
    """Lists of items that fit into memory, in order."""
    window: list[MultimodalInput] = []
    pictures = 0
    for item in items:
        window.append(item)
        sources = (getattr(part, "source", None) for part in item.parts)
        pictures += sum(len(one) if isinstance(one, tuple) else one is not None for one in sources)
        if len(window) >= _WINDOW_ITEMS or pictures >= _WINDOW_PICTURES:
            yield window
            window, pictures = [], 0
    if window:
        yield window


class _Failure:
    def __init__(self, error: Exception) -> None:
        self.error = error


_END = object()


def prefetched(source: Iterable[Item]) -> Iterator[Item]:
    """The same, read on another thread a few ahead. An error comes where it would have come."""
    ready: queue.Queue[Any] = queue.Queue(_READ_AHEAD)
    stopped = threading.Event()

    def put(value: Any) -> None:
        while not stopped.is_set():
            try:
                ready.put(value, timeout=0.1)
                return
            except queue.Full:
                continue

    def read() -> None:
        try:
            for value in chain(source, [_END]):
                put(value)
                if stopped.is_set():
                    return
        except Exception as error:
            put(_Failure(error))

    reader = threading.Thread(target=read, name="mteb-batches", daemon=True)
    reader.start()
    try:
        while (value := ready.get()) is not _END:
            if isinstance(value, _Failure):
                raise value.error
            yield cast("Item", value)
    finally:
        stopped.set()
        reader.join()
