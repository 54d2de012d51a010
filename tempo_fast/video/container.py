"""Opening a video file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from tempo_fast.errors import VideoError

# Titles in no known encoding; from PyAV 19 on they never are an error.
_TITLES = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


@contextmanager
def open_video(path: Path, **options: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its first video stream that is more than a cover picture.

    Raises VideoError, also in place of what FFmpeg raises inside the block.
    """
    try:
        # An absolute path, so that no part of a name is taken for a protocol.
        with av.open(str(path.resolve()), options=options, **_TITLES) as container:
            streams = [
                stream
                for stream in container.streams.video
                if not stream.disposition & av.stream.Disposition.attached_pic
            ]
            if not streams:
                kinds = ", ".join(sorted({stream.type for stream in container.streams}))
                raise VideoError(
                    f"{path} has no video in it, only: {kinds}"
                    if kinds
                    else f"{path} can't be read as a video: it was cut off before its index"
                )
            if streams[0].codec_context is None:
                raise VideoError(f"{path} can't be read as a video: no decoder for its codec")
            yield container, streams[0]
    except av.FFmpegError as error:
        reason = error.strerror or error
        raise VideoError(f"{path} can't be read as a video: {reason}") from error
