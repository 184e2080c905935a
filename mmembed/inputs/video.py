"""Decode a clip: the chosen frames, upright, at the size that the model reads.

Called by `media.decode`; picks the reader. Animated GIF, WebP, PNG and AVIF are read here with
Pillow, containers by `pyav_reader` or, for parity with published numbers, `decord_reader`.
"""

from __future__ import annotations

import numpy as np

from mmembed.inputs.images import decoding_errors, image_format, to_rgb
from mmembed.inputs.media import DecodedMedia, MediaFile, MediaPolicy
from mmembed.inputs.sampling import check_sampling, choose_frames
from mmembed.inputs.sizing import MediaBudget
from mmembed.types import Video

__all__ = ["decode_video"]


def decode_video(
    media: MediaFile, part: Video, budget: MediaBudget, policy: MediaPolicy
) -> DecodedMedia:
    """The chosen frames of a clip, scaled to the budget.

    Raises:
        InputError: `unsupported_format`, `no_video_stream`, `no_frames`, `too_many_frames`,
            `too_many_pixels`, `aspect_ratio`, `truncated`, `corrupt`, `invalid_type`.
    """
    with media.naming_errors():
        check_sampling(part)
        if policy.video_reader == "decord":
            from mmembed.inputs import decord_reader

            return decord_reader.decode_with_decord(media, part, budget, policy)
        if image_format(media.head) is not None:
            return _decode_animation(media, part, budget, policy)
        from mmembed.inputs import pyav_reader

        return pyav_reader.decode_with_pyav(media, part, budget, policy)


def _decode_animation(
    media: MediaFile, part: Video, budget: MediaBudget, policy: MediaPolicy
) -> DecodedMedia:
    from PIL import Image

    kind = image_format(media.head)
    assert kind is not None
    notes: list[str] = []
    with decoding_errors(media, kind), Image.open(media.file, formats=(kind,)) as picture:
        total = getattr(picture, "n_frames", 1)
        if kind not in {"GIF", "WEBP", "PNG", "AVIF"} or (total == 1 and kind != "GIF"):
            raise media.error("unsupported_format", f"a still {kind} picture; pass it as an image")
        width, height = picture.size
        media.check_pixels(width, height, policy)
        target = budget.resize(height, width)
        times, clock = [], 0.0
        for index in range(total):
            picture.seek(index)
            times.append(clock)
            clock += (picture.info.get("duration") or 100) / 1000  # browsers take 0 as 100 ms
        chosen = choose_frames(times, part, budget, policy, notes)
        frames: dict[int, np.ndarray] = {}
        for index in sorted(set(chosen)):
            picture.seek(index)
            frame = Image.fromarray(to_rgb(picture, policy.background))
            frames[index] = np.array(frame.resize((target[1], target[0]), Image.Resampling.BICUBIC))
    return DecodedMedia(
        frames=tuple(frames[index] for index in chosen),
        timestamps=tuple(times[index] for index in chosen),
        warnings=tuple(notes),
    )
