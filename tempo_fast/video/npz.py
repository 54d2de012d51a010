"""Frames in a `.npz` file, read one after another: unpacked whole they may not fit in memory."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from tempo_fast.errors import VideoError
from tempo_fast.options import OpenOptions
from tempo_fast.video.frames import FrameSource
from tempo_fast.video.sampling import sample_indices

_CHUNK = 1 << 20
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, tuple[int, ...]]]:
    """The bytes of the archive's one array of frames, after its header, and its shape."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) != 1:
                names = ", ".join(member.filename for member in members) or "nothing"
                raise VideoError(f"{path} must hold a single array of frames; it holds {names}")
            with archive.open(members[0]) as file:
                yield file, _shape(path, file, members[0].file_size)
    except (VideoError, GeneratorExit):
        raise
    except Exception as error:  # damaged archives and headers fail in many ways
        raise VideoError(f"{path} is not a whole .npz file of plain numbers: {error!r}") from error


def _shape(path: Path, file: BinaryIO, size: int) -> tuple[int, ...]:
    read_header = _HEADERS.get(npy.read_magic(file))
    if read_header is None:
        raise VideoError(f"{path} holds an array in a format that isn't known here")
    shape, columns_first, dtype = read_header(file)
    if dtype != np.uint8:
        raise VideoError(f"{path} must hold uint8 values from 0 to 255; got {dtype}")
    if len(shape) != 4 or shape[-1] != 3:
        raise VideoError(f"{path} must have the shape [F, H, W, 3]; got {list(shape)}")
    if math.prod(shape) == 0:
        raise VideoError(f"{path} is empty: its shape is {list(shape)}")
    if columns_first:
        raise VideoError(f"{path} is in Fortran order; save np.ascontiguousarray(frames)")
    if size - file.tell() != math.prod(shape):
        raise VideoError(f"{path} doesn't hold the {math.prod(shape)} bytes that its shape says")
    return shape


class NpzVideo(FrameSource):
    """A `.npz` file of one array, uint8 [total, H, W, 3], sampled like a video."""

    def __init__(self, path: Path, options: OpenOptions) -> None:
        with _opened(path) as (_, shape):
            total, height, width, _ = shape
        self._path = path
        self._indices, real_fps = sample_indices(
            total,
            options.fps or options.video_fps,
            video_fps=options.video_fps,
            max_frames=options.max_frames,
            min_frames=options.min_frames,
            clip=options.clip,
        )
        super().__init__(count=len(self._indices), height=height, width=width, real_fps=real_fps)

    def _frames(self) -> Iterator[np.ndarray]:
        size = self.height * self.width * 3
        frame, at = None, -1
        with _opened(self._path) as (file, _):
            for index in self._indices.tolist():
                if index != at:
                    _skip(file, (index - at - 1) * size)
                    pixels = np.frombuffer(_read(file, size), np.uint8)
                    frame, at = pixels.reshape(self.height, self.width, 3), index
                yield frame


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError("it ends early")
    return data


def _skip(file: BinaryIO, size: int) -> None:
    """Read past bytes: an archive has no other way, and seeking back would unpack all again."""
    while size:
        size -= len(_read(file, min(size, _CHUNK)))
