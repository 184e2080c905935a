"""Open a video container with FFmpeg so that it can reach nothing but the file at hand.

Used by `pyav_reader`. FFmpeg reads our own file object and only knows the containers listed here:
a playlist named `clip.mp4` would otherwise open other files and hosts (CVE-2016-1897 and its
successors).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mmembed.errors import InputError, MissingDependencyError
from mmembed.inputs.images import boxes_overrun
from mmembed.inputs.media import MediaFile
from mmembed.sources import sniff_media

if TYPE_CHECKING:
    from av.container import InputContainer

__all__ = ["open_container", "video_stream"]

# Containers and raw streams. Absent on purpose: everything that names other
# files or hosts (hls, dash, concat, sdp, rtsp, image2), still pictures (*_pipe), text, devices.
_DEMUXERS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,h264,hevc,vvc,m4v,ivf,obu,av1,mjpeg,"
    "yuv4mpegpipe,nut,mxf,rm,dv,gxf,nsv,wtv,vc1,vc1test,cavsvideo,dirac,h261,h263,lxf,ty,pva,"
    "apv,evc,avs2,avs3,kux,nuv,ifv,lmlm4,moflex,smjpeg,ingenient,mgsts,dhav,"
    "mp3,wav,flac"  # sound alone: to say that it has no pictures
)


@contextmanager
def open_container(media: MediaFile) -> Iterator[InputContainer]:
    """FFmpeg on our own file object, behind an allow-list of containers."""
    try:
        import av
        import av.error
        import av.logging
    except ImportError:
        raise MissingDependencyError("av (PyAV)", "video") from None
    av.logging.set_level(av.logging.PANIC)
    media.file.seek(0)
    try:
        container = av.open(
            media.file,
            options={"format_whitelist": _DEMUXERS, "protocol_whitelist": "none"},
            metadata_errors="replace",
        )
    except MemoryError:
        raise media.error("out_of_memory", "not enough memory to open this clip") from None
    except Exception:  # FFmpegError, OSError, EOFError, ValueError, UnicodeError ...
        raise _open_error(media) from None
    with container:
        yield container


def _open_error(media: MediaFile) -> InputError:
    if sniff_media(media.head) != "video":
        return media.error(
            "unsupported_format",
            "not a video container that can be read here (MP4, MOV, MKV, WebM, AVI, MPEG-TS, ...)",
        )
    is_mp4 = media.head[4:8] in {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"}
    if media.size < 32 or (is_mp4 and boxes_overrun(media)):
        return media.error("truncated", "the file ends before the clip does")
    if media.head[:4] == b"RIFF" and int.from_bytes(media.head[4:8], "little") > media.size:
        return media.error("truncated", "the file ends before the clip does")
    return media.error("corrupt", "the container cannot be read")


def video_stream(media: MediaFile, container: InputContainer) -> Any:
    """The first stream of moving pictures, with its decoder set up (`no_video_stream`)."""
    from av.stream import Disposition

    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic  # the cover of a song
    ]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams})
        raise media.error(
            "no_video_stream", f"the file holds {', '.join(kinds) or 'no stream'} but no video"
        )
    stream = streams[0]
    if stream.codec_context is None:
        raise media.error("unsupported_format", "no decoder for this kind of video")
    # one thread: workers are the unit of parallelism, and each thread keeps its own frames
    stream.codec_context.thread_count = 1
    return stream
