"""Files and addresses that strangers send to servers."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
from PIL import Image

from tests import media_files as files


def data_uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png_bomb(side: int = 12_000) -> bytes:
    """A real PNG: white, one bit a pixel, a thousandth of its pixels in size."""
    row = b"\0" + b"\xff" * (side // 8)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    body = zlib.compress(row * side, 9)
    chunks = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def png_text_bomb() -> bytes:
    """A small picture with a compressed comment of 200 MB."""
    data = files.encode_image(files.photo())
    comment = b"comment\0\0" + zlib.compress(b"\0" * 200_000_000, 1)
    chunk = (
        struct.pack(">I", len(comment))
        + b"zTXt"
        + comment
        + struct.pack(">I", zlib.crc32(b"zTXt" + comment))
    )
    place = data.index(b"IDAT") - 4
    return data[:place] + chunk + data[place:]


def solid(kind: str, width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L" if kind != "WEBP" else "RGB", (width, height)).save(file, kind)
    return file.getvalue()


def gif_header(width: int, height: int) -> bytes:
    """A GIF whose screen is large and whose one frame is small."""
    data = bytearray(solid("GIF", 8, 8))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def jpeg_header(width: int, height: int) -> bytes:
    data = bytearray(files.encode_image(files.photo(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def bmp_header(width: int, height: int) -> bytes:
    data = bytearray(files.encode_image(files.photo(), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def webp_header(width: int, height: int) -> bytes:
    """An extended WebP that announces a canvas, up to 2^24 pixels wide."""
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunk = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas
    still = solid("WEBP", 8, 8)[12:]
    body = b"WEBP" + chunk + still
    return b"RIFF" + struct.pack("<I", len(body)) + body


def animation(frames: int, side: int = 64) -> bytes:
    """A GIF of many frames, all but the first a few bytes."""
    file = io.BytesIO()
    first = Image.new("L", (side, side))
    others = [Image.new("L", (side, side), number % 2 * 255) for number in range(1, frames)]
    first.save(file, "GIF", save_all=True, append_images=others, duration=10)
    return file.getvalue()


def long_video(hours: int = 10) -> bytes:
    """A clip of few frames over many hours."""
    times = np.linspace(0, hours * 3600, 24).tolist()
    return files.video(24, size=(64, 48), times=times)


def forged_duration(mp4: bytes, seconds: int = 2**31) -> bytes:
    """The clip whose header says that it lasts for ever."""
    return files.with_box_field(mp4, b"mvhd", 16, struct.pack(">I", seconds))


def pdf(*objects: bytes, tail: bytes = b"") -> bytes:
    """A PDF of these objects, numbered from 1; the first is the catalogue."""
    body, places = b"%PDF-1.7\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return (
        body
        + tail
        + b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
        + table
        + b"trailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n"
        % (len(objects) + 1, len(body) + len(tail))
    )


def _stream(content: bytes, fields: bytes = b"") -> bytes:
    packed = zlib.compress(content, 1)
    return (
        b"<</Filter/FlateDecode/Length %d%s>>\nstream\n" % (len(packed), fields)
        + packed
        + b"\nendstream"
    )


def _pdf_of(content: bytes, box: bytes = b"[0 0 200 200]", resources: bytes = b"") -> bytes:
    return pdf(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox%s/Contents 4 0 R/Resources<<%s>>>>" % (box, resources),
        content,
        *([_stream(b"\0" * 30_000_000, _IMAGE)] if resources else []),
    )


_IMAGE = (
    b"/Type/XObject/Subtype/Image/Width 60000/Height 60000/ColorSpace/DeviceGray/BitsPerComponent 8"
)


def pdf_stream_bomb() -> bytes:
    """A page whose drawing commands unpack to 100 MB of spaces."""
    return _pdf_of(_stream(b" " * 100_000_000))


def pdf_image_bomb() -> bytes:
    """A page with a picture of 3.6 gigapixels."""
    return _pdf_of(_stream(b"200 0 0 200 0 0 cm /I Do"), resources=b"/XObject<</I 5 0 R>>")


def pdf_endless_drawing() -> bytes:
    """A page that draws two million lines."""
    return _pdf_of(_stream(b"0 0 m 200 200 l S " * 2_000_000))


def pdf_huge_page() -> bytes:
    return _pdf_of(_stream(b"0 0 m 9 9 l S"), box=b"[0 0 1e9 1e9]")


def pdf_of_pages(count: int) -> bytes:
    kids = b" ".join(b"%d 0 R" % number for number in range(3, count + 3))
    return pdf(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[%s]/Count %d>>" % (kids, count),
        *[b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>"] * count,
    )


def pdf_pages_in_a_circle() -> bytes:
    return pdf(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[2 0 R 2 0 R]/Count 1000000>>",
    )


def paths(secret: str) -> list[str]:
    """Spellings under which a file of the server has been read elsewhere."""
    climbing = "../" * 12 + secret.lstrip("/")
    percent = climbing.replace("..", "%2e%2e").replace("/", "%2f")
    return [
        secret,
        climbing,
        percent,
        percent.replace("%", "%25"),
        climbing.replace("/", "\\"),
        "....//" * 12 + secret.lstrip("/"),
        "./" + climbing,
        "~/" + climbing,
        secret + "\0.png",
        secret + "%00.png",
        " " + secret,
        f"file://{secret}",
        f"FILE://{secret}",
        f"file:{secret}",
        f"file://localhost{secret}",
        f"file:///{percent}",
        f" file://{secret}",
        f"\tfile://{secret}",
        f"fi\nle://{secret}",
        f"jar:file://{secret}!/x",
        f"concat:{secret}",
        f"subfile,,start,0,end,9,,:{secret}",
        f"crypto:{secret}",
        f"data:file://{secret}",
        f"data:image/png,file://{secret}",
        f"data:image/png;base64,file://{secret}",
        f"{secret}?x=.png",
        f"//localhost{secret}",
        f"\\\\localhost{secret}",
        "C:\\Windows\\win.ini",
        "/proc/self/environ",
        "/proc/self/fd/0",
        "/dev/zero",
        "/dev/stdin",
        "-",
        "pipe:0",
        "",
        ".",
        "/",
    ]


def addresses(port: int, inner: str = "127.0.0.1") -> list[str]:
    """Spellings of a server that only this machine can reach; `port` is its port."""
    spelled = [
        f"http://{inner}:{port}/p.png",
        f"http://localhost:{port}/p.png",
        f"http://127.1:{port}/p.png",
        f"http://127.0.1:{port}/p.png",
        f"http://2130706433:{port}/p.png",
        f"http://0x7f000001:{port}/p.png",
        f"http://0x7f.0.0.1:{port}/p.png",
        f"http://0177.0.0.1:{port}/p.png",
        f"http://017700000001:{port}/p.png",
        f"http://127.0.0.1.:{port}/p.png",
        f"http://0:{port}/p.png",
        f"http://0.0.0.0:{port}/p.png",
        f"http://[::1]:{port}/p.png",
        f"http://[0:0:0:0:0:0:0:1]:{port}/p.png",
        f"http://[::ffff:127.0.0.1]:{port}/p.png",
        f"http://[::ffff:7f00:1]:{port}/p.png",
        f"http://[::127.0.0.1]:{port}/p.png",
        f"http://[64:ff9b::7f00:1]:{port}/p.png",
        f"http://[2002:7f00:1::]:{port}/p.png",
        f"http://[::]:{port}/p.png",
        f"http://[fe80::1%25lo]:{port}/p.png",
        f"http://[::1]%00:{port}/p.png",
        f"http://user@127.0.0.1:{port}/p.png",
        f"http://media.example@127.0.0.1:{port}/p.png",
        f"http://media.example:80@127.0.0.1:{port}/p.png",
        f"http://media.example\\@127.0.0.1:{port}/p.png",
        f"http://media.example#@127.0.0.1:{port}/p.png",
        f"http://127.0.0.1:{port}\\@media.example/p.png",
        f"http://media.example%40127.0.0.1:{port}/p.png",
        f"http://127.0.0.1%2f@media.example:{port}/p.png",
        f"http://media.example\t@127.0.0.1:{port}/p.png",
        f"http://\uff11\uff12\uff17.\uff10.\uff10.\uff11:{port}/p.png",
        f"http://\u2460\u2461\u2466.0.0.1:{port}/p.png",
        f"http://127\u30020\u30020\u30021:{port}/p.png",
        f"HTTP://LOCALHOST:{port}/p.png",
        f"hTtP://127.0.0.1:{port}/p.png",
        f"http:127.0.0.1:{port}/p.png",
        f"http:/127.0.0.1:{port}/p.png",
        f"http:///127.0.0.1:{port}/p.png",
        f"//127.0.0.1:{port}/p.png",
        f"https://127.0.0.1:{port}/p.png",
        f"ftp://127.0.0.1:{port}/p.png",
        f"gopher://127.0.0.1:{port}/_GET",
        f"dict://127.0.0.1:{port}/x",
        f"ws://127.0.0.1:{port}/p.png",
        f"rtsp://127.0.0.1:{port}/p.mp4",
        f"hls+http://127.0.0.1:{port}/p.m3u8",
        f"http://inner.example:{port}/p.png",
        f"http://mixed.example:{port}/p.png",
        f"http://media.example.inner.example:{port}/p.png",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/meta-data/",
        f"http://127.0.0.1:{port}/p.png\r\nHost: media.example",
        f"http://127.0.0.1:{port}/%0d%0aX:y",
        f"http://media.example:{port}/p.png",
    ]
    return spelled
