"""Open one picture as a person would see it: upright, on a white background, eight bits a channel.

Called by `media.decode` for files and bytes, and directly for pictures that are already in memory.
A plain `Image.open(x).convert("RGB")` gets 18 of 43 reference pictures wrong (orientation,
transparency, 16-bit depth); the rules here are those that get all of them right.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from mmembed.errors import InputError
from mmembed.inputs.media import DecodedMedia, MediaFile, MediaPolicy, pixels_text, printable_name
from mmembed.inputs.sizing import MediaBudget, check_aspect_ratio

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = [
    "boxes_overrun",
    "decode_image",
    "decode_picture",
    "decoding_errors",
    "image_format",
    "to_rgb",
]

FORMATS = ("PNG", "JPEG", "WebP", "GIF", "BMP", "TIFF", "AVIF")
ORIENTATION_TAG = 0x0112
_ANIMATED = {"GIF", "PNG", "WEBP", "AVIF", "TIFF"}


def image_format(head: bytes) -> str | None:
    """Pillow's name of the format that the first bytes announce; None when it is not allowed.

    The list is short on purpose: rare formats are where decoders break, and EPS would start
    another program.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if head[4:8] == b"ftyp" and (head[8:12] in {b"avif", b"avis"} or _lists_avif(head)):
        return "AVIF"
    # "BM" is also how text may begin: the size of the second header must be a known one
    if head[:2] == b"BM" and head[14:18] in {bytes([n, 0, 0, 0]) for n in (12, 40, 64, 108, 124)}:
        return "BMP"
    return None


def _lists_avif(head: bytes) -> bool:
    """A HEIF brand first, AVIF among the compatible ones."""
    brands = head[8 : int.from_bytes(head[:4], "big")]
    return head[8:12] in {b"mif1", b"msf1"} and b"avif" in brands


def decode_image(media: MediaFile, budget: MediaBudget, policy: MediaPolicy) -> DecodedMedia:
    """Decode an image file to its full size; the first frame of an animated one.

    Raises:
        InputError: `unsupported_format`, `too_many_pixels`, `aspect_ratio` (both before any pixel
            is decoded), `truncated`, `corrupt`, `nonfinite`, `invalid_type`.
    """
    from PIL import Image

    kind = image_format(media.head)
    if kind is None:
        if _is_cut_signature(media):
            raise media.error("truncated", f"only {media.size} bytes of an image file")
        raise media.error(
            "unsupported_format",
            f"not an image that can be read here; readable: {', '.join(FORMATS)}",
        )
    if kind == "PNG" and not _png_checksums_hold(media):
        raise media.error("corrupt", "the PNG data do not match their checksum")
    with decoding_errors(media, kind), Image.open(media.file, formats=(kind,)) as image:
        if policy.scaled_jpeg and kind == "JPEG":
            media.check_pixels(*image.size, policy)
            with media.naming_errors():
                rows, columns = budget.resize(image.height, image.width)
            image.draft(None, (columns, rows))  # by 2, 4 or 8, and not below what is asked for
        return _decode_opened(image, media, policy)


def _png_checksums_hold(media: MediaFile) -> bool:
    """Whether the image data match their checksums; Pillow does not look at the last one.

    A file that ends early passes: decoding it tells better what is wrong.
    """
    position = 8
    while position + 12 <= media.size:
        media.file.seek(position)
        length, name = struct.unpack(">I4s", media.file.read(8))
        position += 12 + length
        if position > media.size or name == b"IEND":
            break
        if name == b"IDAT":
            checksum = zlib.crc32(media.file.read(length), zlib.crc32(name))
            if media.file.read(4) != checksum.to_bytes(4, "big"):
                return False
    media.file.seek(0)
    return True


def _decode_opened(image: PILImage, media: MediaFile, policy: MediaPolicy) -> DecodedMedia:
    """The current frame of an opened image; sizes are checked before it is loaded."""
    width, height = image.size
    media.check_pixels(width, height, policy)
    with media.naming_errors():
        check_aspect_ratio(height, width)
        notes = _animation_note(image)
        frame = to_rgb(image, policy.background)
    return DecodedMedia(frames=(frame,), warnings=notes)


def decode_picture(value: Any, policy: MediaPolicy) -> DecodedMedia:
    """A `PIL.Image` or an array that the caller already holds in memory.

    Arrays are uint8 (height, width), (height, width, 3) or (height, width, 4); any other dtype or
    layout is refused rather than guessed, because each guess is silently wrong for somebody.
    """
    if isinstance(value, np.ndarray):
        return DecodedMedia(frames=(_array_to_rgb(value, policy),))
    from PIL import Image

    if not isinstance(value, Image.Image):
        raise InputError(
            "invalid_type",
            f"got {type(value).__name__}; accepted: PIL.Image or a uint8 array",
            part="image",
        )
    path = getattr(value, "filename", None)
    from pathlib import Path

    name = printable_name(Path(path)) if isinstance(path, str) and path else None
    try:
        _check_picture_size(*value.size, policy)
        with _quiet():
            frame = to_rgb(value, policy.background)
        notes = _animation_note(value)
    except InputError as error:
        error.part, error.source = "image", name
        raise
    except MemoryError:
        raise InputError(
            "out_of_memory", "not enough memory for this picture", part="image", source=name
        ) from None
    except Exception as error:
        code, detail = (
            ("truncated", "the image data end too early")
            if _speaks_of_truncation(error)
            else ("corrupt", "the picture cannot be read")
        )
        raise InputError(code, detail, part="image", source=name) from None  # type: ignore[arg-type]
    return DecodedMedia(frames=(frame,), warnings=notes)


def _check_picture_size(width: int, height: int, policy: MediaPolicy) -> None:
    if width == 0 or height == 0:
        raise InputError("invalid_type", f"the picture is {width} x {height} pixels")
    if width * height > policy.max_pixels:
        raise InputError("too_many_pixels", pixels_text(width, height, policy))
    check_aspect_ratio(height, width)


def _array_to_rgb(array: np.ndarray, policy: MediaPolicy) -> np.ndarray:
    accepted = "accepted: uint8 (height, width), (height, width, 3) or (height, width, 4)"
    found = f"an array of dtype {array.dtype} and shape {array.shape}"
    if array.dtype.kind == "f" and array.size and not np.isfinite(array).all():
        raise InputError("nonfinite", f"{found} holds NaN or infinity", part="image")
    hint = ""
    if array.dtype != np.uint8:
        if array.dtype.kind == "f":
            hint = ". For values in 0..1 pass (array * 255).round().astype('uint8')"
    elif array.ndim == 3 and array.shape[0] in {1, 3, 4} and array.shape[2] not in {3, 4}:
        hint = ". Channels come last: array.transpose(1, 2, 0)"
    elif array.ndim == 4:
        hint = ". For several frames pass a list of arrays under 'video'"
    usable = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in {3, 4})
    if array.dtype != np.uint8 or not usable or array.size == 0:
        raise InputError("invalid_type", f"{found}; {accepted}{hint}", part="image")
    try:
        _check_picture_size(array.shape[1], array.shape[0], policy)
    except InputError as error:
        error.part = "image"
        raise
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    if array.shape[2] == 3:
        return np.ascontiguousarray(array)
    from PIL import Image

    return _on_background(Image.fromarray(np.ascontiguousarray(array)), policy.background)


# Values of the EXIF orientation tag -> the move that makes the stored picture upright
# (EXIF 2.3, table "Orientation"; the same as PIL.ImageOps.exif_transpose).
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def to_rgb(image: PILImage, background: tuple[int, int, int]) -> np.ndarray:
    """Upright eight-bit RGB (height, width, 3) of an image of any mode; loads the image."""
    image.load()
    # read after loading: Pillow turns TIFF upright while loading and then drops the tag
    move = _UPRIGHT.get(_orientation(image))
    frame = _eight_bit_rgb(image, background)
    if move is None:
        return frame
    from PIL import Image

    turned = Image.fromarray(frame).transpose(getattr(Image.Transpose, move))
    return np.array(turned)


def _orientation(image: PILImage) -> int:
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # a damaged EXIF block says nothing about the picture
        return 1


def _eight_bit_rgb(image: PILImage, background: tuple[int, int, int]) -> np.ndarray:
    mode = image.mode
    if mode.startswith("I;16") or mode == "I":
        return _wide_grey(image, background)
    if mode == "F":
        return _float_grey(image)
    if mode in {"RGBA", "LA", "PA", "RGBa", "La"}:
        if mode in {"RGBa", "La"}:  # premultiplied: Pillow converts them only to their twins
            image = image.convert({"RGBa": "RGBA", "La": "LA"}[mode])
        return _on_background(image.convert("RGBA"), background)
    transparency = image.info.get("transparency")
    if transparency is not None and mode in {"1", "L", "RGB", "P"}:
        return _on_background(_with_key_colour(image, transparency), background)
    if mode in {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"}:
        return np.array(image if mode == "RGB" else image.convert("RGB"))
    raise InputError(
        "unsupported_format", f"pixels of mode {mode!r}; convert the picture to RGB first"
    )


def _with_key_colour(image: PILImage, transparency: Any) -> PILImage:
    """RGBA of a picture whose transparent pixels are named by a palette entry or a colour."""
    if image.mode == "RGB" and isinstance(transparency, tuple) and max(transparency) > 255:
        # the key of a 16-bit PNG has 16 bits, the pixels that Pillow loads are its high bytes
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in transparency)
    return image.convert("RGBA")


def _on_background(image: PILImage, background: tuple[int, int, int]) -> np.ndarray:
    from PIL import Image

    canvas = Image.new("RGBA", image.size, (*background, 255))
    return np.array(Image.alpha_composite(canvas, image).convert("RGB"))


def _wide_grey(image: PILImage, background: tuple[int, int, int]) -> np.ndarray:
    """16-bit grey divided by 257 (65535 / 255), which maps the full range on the full range."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise InputError(
            "invalid_type",
            f"integer pixels from {values.min():,} to {values.max():,} whose range is not "
            "declared; allowed: 0..65535. Scale them to eight bits first",
        )
    grey = ((values + 128) // 257).astype(np.uint8)
    frame = np.repeat(grey[:, :, None], 3, axis=2)
    transparency = image.info.get("transparency")
    if isinstance(transparency, int):
        frame[values == transparency] = background
    return frame


def _float_grey(image: PILImage) -> np.ndarray:
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise InputError("nonfinite", "the picture holds NaN or infinity")
    if values.min() < 0.0 or values.max() > 1.0:
        raise InputError(
            "invalid_type",
            f"float pixels from {values.min():g} to {values.max():g} whose range is not declared; "
            "allowed: 0..1. Scale them to eight bits first",
        )
    grey = np.rint(values * 255.0).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _animation_note(image: PILImage) -> tuple[str, ...]:
    count = getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1
    if count <= 1:
        return ()
    if image.format == "TIFF":
        return (f"several pages: page 1 of {count}",)
    return (f"animated: frame 0 of {count}",)


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow warns about odd metadata; what matters is reported in `DecodedMedia.warnings`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def decoding_errors(media: MediaFile, kind: str) -> Iterator[None]:
    """Turn whatever a decoder raises into one of our codes, without its text."""
    from PIL.Image import DecompressionBombError

    try:
        with _quiet():
            yield
    except InputError:
        raise
    except DecompressionBombError:
        raise media.error(
            "too_many_pixels", "more pixels than the image library opens; reduce the image"
        ) from None
    except MemoryError:
        raise media.error("out_of_memory", "not enough memory for this image") from None
    except Exception as error:  # decoders raise a dozen types, from SyntaxError to struct.error
        if _speaks_of_truncation(error) or _is_cut_off(media, kind):
            raise media.error("truncated", f"the {kind} data end too early") from None
        raise media.error("corrupt", f"the {kind} data cannot be decoded") from None


def _speaks_of_truncation(error: Exception) -> bool:
    return isinstance(error, EOFError | struct.error) or "truncated" in str(error).lower()


def _is_cut_signature(media: MediaFile) -> bool:
    """A file shorter than the signature that it begins."""
    signatures = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF", b"II*\0", b"MM\0*")
    return 2 <= media.size < 12 and any(
        signature.startswith(media.head) or media.head.startswith(signature)
        for signature in signatures
    )


def _is_cut_off(media: MediaFile, kind: str) -> bool:
    """Whether a file that failed to decode is shorter than its own structure says."""
    if kind == "PNG":
        return b"IEND" not in media.tail(65536)
    if kind == "JPEG":
        return b"\xff\xd9" not in media.tail(65536)
    if kind == "GIF":
        return b";" not in media.tail(16)
    if kind == "WEBP":
        return len(media.head) < 12 or int.from_bytes(media.head[4:8], "little") + 8 > media.size
    if kind == "BMP":
        return int.from_bytes(media.head[2:6], "little") > media.size
    if kind == "AVIF":
        return boxes_overrun(media)
    return int.from_bytes(media.head[4:8], _tiff_order(media.head)) >= media.size


def _tiff_order(head: bytes) -> Any:
    return "little" if head[:2] == b"II" else "big"


def boxes_overrun(media: MediaFile) -> bool:
    """Whether the last top-level box of an ISO media file (AVIF, MP4) ends behind the file."""
    position = 0
    while position + 8 <= media.size:
        media.file.seek(position)
        header = media.file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:
            return False
        if length < 8:
            return False
        position += length
    return position != media.size
