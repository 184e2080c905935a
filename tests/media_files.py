"""Make the good and bad media files of the tests: small, deterministic, nothing downloaded.

Every frame of a clip carries its number in a row of grey blocks, so a test can say which frame it
was given, whichever way it was scaled.
"""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

BLOCKS = 10  # a white one, eight bits (lowest first), a black one


def numbered_frame(number: int, width: int = 160, height: int = 96) -> np.ndarray:
    """uint8 (height, width, 3): the number in the upper half, dark grey below."""
    blocks = [255, *(255 * (number >> bit & 1) for bit in range(8)), 0]
    frame = np.full((height, width, 3), 40, np.uint8)
    for position, value in enumerate(blocks):
        left, right = (width * edge // BLOCKS for edge in (position, position + 1))
        frame[: height // 2, left:right] = value
    return frame


def read_number(frame: np.ndarray) -> int:
    """The number in a frame that stands upright; -1 when it does not."""
    height, width = frame.shape[:2]
    row = frame[height // 4 - 1 : height // 4 + 2].mean(axis=(0, 2))
    values = [row[int((position + 0.5) * width / BLOCKS)] for position in range(BLOCKS)]
    below = frame[height * 3 // 4].mean()
    if values[0] < 200 or values[-1] > 60 or not 20 < below < 70:
        return -1
    return sum(int(value > 128) << bit for bit, value in enumerate(values[1:9]))


def video(
    num_frames: int = 60,
    *,
    fps: int = 15,
    codec: str = "libx264",
    container: str = "mp4",
    size: tuple[int, int] = (160, 96),
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    times: list[float] | None = None,
    picture: Any = numbered_frame,
) -> bytes:
    """A clip of numbered frames; `times` (seconds) makes its frame rate variable."""
    import av

    if options is None:
        options = {"g": "12", "bf": "2"} if codec == "libx264" else {}
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=container_options or {}) as output:
        stream = output.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.pts = number if times is None else round(times[number] * 1000)
            frame.time_base = Fraction(1, fps) if times is None else Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


def with_index_first(mp4: bytes) -> bytes:
    """The clip with `moov` before `mdat`, so that a cut file keeps its index."""
    start = mp4.index(b"moov") - 4
    length = struct.unpack(">I", mp4[start : start + 4])[0]
    index = bytearray(mp4[start : start + length])
    first = mp4.index(b"mdat") - 4
    table = index.index(b"stco") + 8
    for entry in range(struct.unpack(">I", index[table : table + 4])[0]):
        place = table + 4 + 4 * entry
        offset = struct.unpack(">I", index[place : place + 4])[0]
        index[place : place + 4] = struct.pack(">I", offset + length)
    return mp4[:first] + bytes(index) + mp4[first:start] + mp4[start + length :]


def audio(codec: str = "aac", container: str = "mp4") -> bytes:
    """Half a second of silence and no picture."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 8000), np.int16), format="s16", layout="mono"
        )
        frame.rate = 16000
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


def song_with_cover() -> bytes:
    """Sound and a still picture that players show beside it: an MP3 with an ID3 picture."""
    sound = audio("mp3", "mp3")
    if sound.startswith(b"ID3"):  # its own tag gives way to ours
        size = 0
        for byte in sound[6:10]:
            size = size << 7 | byte
        sound = sound[10 + size :]
    cover = b"\0image/png\0\x03\0" + encode_image(photo(16, 16))
    frame = b"APIC" + struct.pack(">I", len(cover)) + b"\0\0" + cover
    size = len(frame)
    synchsafe = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + synchsafe + frame + sound


# (a, b, c, d) of the display matrix: shown (x, y) = (a x + c y, b x + d y)
DISPLAY_MOVES = {
    "rotate_90": (0, 1, -1, 0),
    "rotate_180": (-1, 0, 0, -1),
    "rotate_270": (0, -1, 1, 0),
    "mirror": (-1, 0, 0, 1),
    "flip": (1, 0, 0, -1),
    "transpose": (0, 1, 1, 0),
}


def with_display_matrix(mp4: bytes, move: tuple[int, int, int, int]) -> bytes:
    """The clip with this matrix in its track header (ISO/IEC 14496-12, 8.3.2)."""
    start = mp4.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in move)
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    return mp4[:start] + matrix + mp4[start + 36 :]


def with_box_field(mp4: bytes, box: bytes, offset: int, value: bytes) -> bytes:
    """The clip with bytes of a box overwritten, `offset` counted behind the name of the box."""
    start = mp4.index(box) + 4 + offset
    return mp4[:start] + value + mp4[start + len(value) :]


def encode_image(picture: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def photo(width: int = 64, height: int = 48, seed: int = 0) -> np.ndarray:
    """uint8 (height, width, 3): smooth colours, none like another picture's."""
    grid = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR))


def png_header_only(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def png_with_bad_checksum() -> bytes:
    """A PNG whose pixel data do not match their checksum; it has crashed other decoders."""
    data = bytearray(encode_image(photo()))
    start = data.index(b"IDAT")
    length = struct.unpack(">I", data[start - 4 : start])[0]
    data[start + 4 + length] ^= 0xFF
    return bytes(data)


def text_named_as(kind: str) -> bytes:
    """What is found under a media name and is none: `text`, `html`, `svg`, `hls`, `concat`."""
    return {
        "text": b"this is a plain text, whatever its name says\n" * 20,
        "html": b"<!DOCTYPE html><html><body><h1>404</h1></body></html>\n" * 20,
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect/></svg>' * 5,
        "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.ts\n#EXT-X-ENDLIST\n" * 4,
        "concat": b"ffconcat version 1.0\nfile secret.mp4\n" * 8,
        "dash": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>' * 5,
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n" * 8,
    }[kind]


def pdf(
    num_pages: int = 3, *, size: tuple[float, float] = (300, 400), **save_options: Any
) -> bytes:
    """Pages that say `page N` and hold a black square whose position depends on N."""
    import pymupdf

    with pymupdf.open() as document:
        for number in range(1, num_pages + 1):
            page = document.new_page(width=size[0], height=size[1])
            page.insert_text((20, 40), f"page {number} of the test document", fontsize=14)
            page.draw_rect(pymupdf.Rect(200, 60 * number, 240, 60 * number + 40), fill=(0, 0, 0))
        return document.tobytes(**save_options)
