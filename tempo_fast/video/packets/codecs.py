"""The syntax of each codec, by FFmpeg's name of it."""

from __future__ import annotations

from collections.abc import Callable

from tempo_fast.video.packets.av1 import Av1
from tempo_fast.video.packets.h264 import H264
from tempo_fast.video.packets.hevc import Hevc
from tempo_fast.video.packets.syntax import Keyframes, Mjpeg, Mpeg2, Mpeg4, Syntax, Vp8, Vp9

_BY_NAME: dict[str, Callable[[bytes], Syntax]] = {
    "h264": H264,
    "hevc": Hevc,
    "av1": lambda _: Av1(),
    "libdav1d": lambda _: Av1(),
    "mpeg4": Mpeg4,
    "mjpeg": lambda _: Mjpeg(),
    "vp8": lambda _: Vp8(),
    "vp9": lambda _: Vp9(),
    "mpeg1video": lambda _: Mpeg2(),
    "mpeg2video": lambda _: Mpeg2(),
    **{
        name: lambda _: Keyframes()
        for name in ("dnxhd", "huffyuv", "ffvhuff", "png", "prores", "rawvideo", "utvideo")
    },
}


def syntax_of(codec: str, extradata: bytes | None) -> Syntax:
    """The syntax of a stream; one that knows nothing where its headers can't be read."""
    try:
        return _BY_NAME.get(codec, lambda _: Syntax())(extradata or b"")
    except IndexError:
        return Syntax()
