"""Pixels -> rows of patches, and positions of visual tokens: the geometry of a Qwen-VL style tower.

Equal to transformers' image processor (torchvision backend) bit for bit: resize in uint8 with
antialiased bicubic interpolation, then cut into patches ordered by merge block. The rows stay
uint8; the encoder normalises them on its device (performance: a quarter of the bytes to move).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict

from mmembed.inputs.sizing import MediaBudget, smart_resize

__all__ = [
    "VisionGeometry",
    "first_resize",
    "first_size",
    "flat_positions",
    "on_grid",
    "patch_positions",
    "patchify",
    "resize",
    "rotary_positions",
]


class VisionGeometry(BaseModel):
    """What the vision tower expects; read from `preprocessor_config.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)  # CLIP's
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    @property
    def factor(self) -> int:
        """Pixels on the side of one visual token."""
        return self.patch_size * self.merge_size

    @property
    def patch_dim(self) -> int:
        """Numbers in one row of patches: 3 colours x frames x rows x columns."""
        return 3 * self.temporal_patch_size * self.patch_size**2


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (height, width, 3) uint8, antialiased bicubic; strides of any order."""
    if picture.shape[:2] == (height, width):
        return picture
    tensor = torch.from_numpy(np.require(picture, requirements=["C", "W"]))
    # channels_last is the layout that the uint8 kernel is fast in; values do not depend on it
    resized = torch.nn.functional.interpolate(
        tensor.permute(2, 0, 1).unsqueeze(0), size=(height, width), mode="bicubic", antialias=True
    )
    return resized[0].permute(1, 2, 0).numpy()


def first_size(height: int, width: int, factor: int) -> tuple[int, int]:
    """The grid within 4..16384 tokens that qwen-vl-utils resizes to before the processor does."""
    area = factor**2
    return smart_resize(height, width, factor=factor, min_pixels=4 * area, max_pixels=16384 * area)


def first_resize(picture: np.ndarray, factor: int) -> np.ndarray:
    """(H, W, 3) uint8 -> the same on `first_size`, by Pillow's bicubic filter as there."""
    height, width = first_size(picture.shape[0], picture.shape[1], factor)
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def on_grid(
    pictures: Sequence[np.ndarray], budget: MediaBudget, *, twice: bool, together: bool
) -> list[np.ndarray]:
    """(H, W, 3) uint8 pictures -> (height, width, 3), resized into the budget.

    Args:
        twice: resize to `first_size` before.
        together: all to the size of the first, as the frames of one clip.
    """
    shapes = [(picture.shape[0], picture.shape[1]) for picture in pictures]
    if twice:
        shapes = [first_size(height, width, budget.factor) for height, width in shapes]
        pictures = [first_resize(picture, budget.factor) for picture in pictures]
    sizes = [budget.resize(*shape) for shape in shapes]
    if together:
        sizes = [sizes[0]] * len(sizes)
    return [resize(picture, *size) for picture, size in zip(pictures, sizes, strict=True)]


def patchify(
    frames: Sequence[np.ndarray], geometry: VisionGeometry
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Frames of equal size (H, W, 3), already on the grid -> rows of patches.

    One frame is an image and is repeated to fill the temporal patch; several are a video and the
    last one is repeated to a whole number of temporal patches.

    Returns:
        rows (t*h*w, patch_dim) uint8 in merge-block order, and the grid (t, h, w).
    """
    depth, size, merge = geometry.temporal_patch_size, geometry.patch_size, geometry.merge_size
    height, width, _ = frames[0].shape
    t, h, w = -(-len(frames) // depth), height // size, width // size
    line = np.dtype((np.void, size))  # of a patch, as one element: twice as fast as single bytes
    rows = np.empty((t, h // merge, w // merge, merge, merge, 3, depth, size), line)
    for place in range(t * depth):
        target = rows[place // depth, :, :, :, :, :, place % depth]
        if place >= len(frames):  # the last one, from where it is already in order
            target[:] = rows[-1, :, :, :, :, :, (len(frames) - 1) % depth]
            continue
        colours = np.ascontiguousarray(frames[place].transpose(2, 0, 1))  # (3, H, W)
        lines = colours.view(line).reshape(3, h // merge, merge, size, w // merge, merge)
        # block row, block column, row, column, colour, line
        target[:] = lines.transpose(1, 4, 2, 5, 0, 3)
    return rows.reshape(t * h * w, 3 * depth * size).view(np.uint8), (t, h, w)


def patch_positions(grids: np.ndarray, merge_size: int) -> np.ndarray:
    """Row and column of every patch row (P, 2) int64, in the merge-block order of `patchify`.

    Args:
        grids: (V, 3) patches (t, h, w) of each picture.
    """
    return np.concatenate(
        [np.tile(_grid_positions(int(h), int(w), merge_size), (int(t), 1)) for t, h, w in grids]
    )


@lru_cache(maxsize=256)
def _grid_positions(height: int, width: int, merge: int) -> np.ndarray:
    rows, columns = np.indices((height, width))
    blocks = (height // merge, merge, width // merge, merge)
    return np.stack(
        [axis.reshape(blocks).transpose(0, 2, 1, 3).reshape(-1) for axis in (rows, columns)], axis=1
    )


def flat_positions(length: int) -> np.ndarray:
    """0..L-1 on all three axes (3, L): what the released code of the reference model used."""
    return np.broadcast_to(np.arange(length, dtype=np.int64), (3, length)).copy()


def rotary_positions(visual: np.ndarray, grids: np.ndarray, merge_size: int) -> np.ndarray:
    """M-RoPE positions of one item (arXiv 2409.12191, section 2.1), vectorised.

    Args:
        visual: (L,) bool, True where the token stands for a part of a picture.
        grids: (V, 3) patches (t, h, w) of each picture, in order.

    Returns:
        (3, L) int64: time, height and width position of each token. Text advances all three by
        one; a picture spans its grid and the text behind it starts after its longer side.
    """
    positions = np.empty((3, len(visual)), dtype=np.int64)
    edges = np.flatnonzero(np.diff(visual.astype(np.int8))) + 1
    bounds = [0, *edges.tolist(), len(visual)]
    cursor, grid_index = 0, 0
    for begin, end in itertools.pairwise(bounds):
        if begin == end:
            continue
        if not visual[begin]:
            positions[:, begin:end] = np.arange(cursor, cursor + end - begin)
            cursor += end - begin
            continue
        at = begin
        while at < end:  # pictures may touch when a template puts nothing between them
            t, h, w = (int(n) for n in grids[grid_index] // (1, merge_size, merge_size))
            count = t * h * w
            index = np.arange(count)
            positions[0, at : at + count] = cursor + index // (h * w)
            positions[1, at : at + count] = cursor + index // w % h
            positions[2, at : at + count] = cursor + index % w
            cursor += max(h, w)
            at += count
            grid_index += 1
    return positions
