"""A film of shapes as an H.264 video."""

from __future__ import annotations

from pathlib import Path

import av

from tempo_fast.demo.film import Film

CRF = "20"  # of x264: hardly a difference to be seen


def write_film(film: Film, path: Path, *, side: int = 320, fps: int = 8, threads: int = 0) -> Path:
    """Write a film as H.264 in mp4, whole or not at all; return its path.

    side: pixels of the square frames, an even number. fps: frames a second. threads: of the
    encoder, 0 for as many as it likes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with av.open(str(part), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=fps, options={"crf": CRF})
            stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
            stream.codec_context.thread_count = threads
            for number in range(round(film.seconds * fps)):
                frame = av.VideoFrame.from_ndarray(film.frame(number / fps, side), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
