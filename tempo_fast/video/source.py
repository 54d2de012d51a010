"""Find out what kind of video was given and open it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from PIL import Image

from tempo_fast.address import is_url
from tempo_fast.errors import OptionError, VideoError
from tempo_fast.options import OpenOptions
from tempo_fast.video.arrays import ArrayImage, ArrayVideo, NpyVideo
from tempo_fast.video.frames import FrameSource, let_go
from tempo_fast.video.npz import NpzVideo
from tempo_fast.video.remote import download
from tempo_fast.video.stills import (
    IMAGE_SUFFIXES,
    Animation,
    ImageFolder,
    is_animation,
    read_image,
    to_rgb,
)

__all__ = ["FrameSource", "open_source"]


def open_source(
    video: str | os.PathLike | np.ndarray | torch.Tensor | Image.Image, options: OpenOptions
) -> FrameSource:
    """Open a video or an image for reading its sampled frames.

    video: a path to a video file (mp4, mkv, avi, webm and whatever else FFmpeg reads), a gif or an
    animated webp or png, a `.npy` file or a `.npz` file of one array (uint8 [F, H, W, 3]), a folder
    of images in natural order, or an image file; with options.allow_remote the http(s) address of
    such a file; or an array or tensor of uint8, [F, H, W, 3] for frames that are already sampled
    (with options.fps, their rate, and no further sampling) or [H, W, 3] for an image; or a PIL
    image.
    A `.npy` or `.npz` file and a folder are sampled like a video of options.fps frames a second, by
    default of options.video_fps; an animation and a video file have times of their own.
    Images and videos are turned upright when their metadata says how they were held.

    Raises VideoError when it can't be read as what it seems to be, OptionError when an option
    doesn't go with it.
    """
    began = perf_counter()
    try:
        source = _open(video, options)
    except OSError as error:
        raise VideoError(f"{video} can't be read: {error.strerror or error}") from error
    except BaseException as error:
        let_go(error)
        raise
    source.decode_seconds += perf_counter() - began
    return source


def _open(video: object, options: OpenOptions) -> FrameSource:
    if isinstance(video, Image.Image):
        return _image(to_rgb(video, "the image"), options)
    if isinstance(video, torch.Tensor):
        video = video.detach().cpu()
        if video.dtype == torch.bfloat16:
            raise VideoError("frames must be uint8 values from 0 to 255; got bfloat16")
        video = video.numpy()
    if isinstance(video, np.ndarray):
        return _image(video, options) if video.ndim == 3 else ArrayVideo(video, options)
    if isinstance(video, str) and is_url(video):
        return _open_url(video, options)
    if isinstance(video, str | os.PathLike) and os.fspath(video):
        return _open_path(Path(os.fsdecode(video)), options)
    raise VideoError(
        "a video is a path, a uint8 array or tensor [F, H, W, 3] or [H, W, 3], or a PIL image; "
        f"got {repr(video) if isinstance(video, str) else type(video).__name__}"
    )


def _open_url(url: str, options: OpenOptions) -> FrameSource:
    folder = tempfile.TemporaryDirectory(prefix="tempo-fast-")
    try:
        path = download(url, options, Path(folder.name))
        try:
            source = _open_path(path, options)
        except VideoError as error:
            raise VideoError(f"what came from {url} can't be used: {error}") from error
    except BaseException:  # Ctrl-C too must leave no temporary file; raised on below
        folder.cleanup()
        raise
    source.on_close(folder.cleanup)
    return source


def _open_path(path: Path, options: OpenOptions) -> FrameSource:
    if path.is_dir():
        return ImageFolder(path, options)
    if not path.exists():
        raise VideoError(f"no such file: {path}")
    if not path.is_file():
        raise VideoError(f"{path} is no file: a pipe or a device can't be read more than once")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return NpyVideo(path, options)
    if suffix == ".npz":
        return NpzVideo(path, options)
    if suffix not in IMAGE_SUFFIXES:
        _refuse_fps(path, options)
        return _video_file(path, options)
    if is_animation(path):
        _refuse_fps(path, options)
        return Animation(path, options)
    return _image(read_image(path), options)


def _video_file(path: Path, options: OpenOptions) -> FrameSource:
    try:  # here, because everything but video files works without PyAV
        from tempo_fast.video.decode import VideoFile
        from tempo_fast.video.torchcodec_file import TorchcodecFile
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise VideoError(
            f"reading {path.name} needs PyAV, which isn't installed: pip install av (frames in an "
            "array or a .npy file need none)"
        ) from error
    # Measured on two cores: from file to patches torchcodec takes 1.8 to 2.1 times as long as PyAV
    # by our plan (five files, benchmarks/results/video-*.json). NVDEC is not measured.
    kind = VideoFile if options.decoder in ("auto", "pyav") else TorchcodecFile
    return kind(path, options)


def _refuse_fps(path: Path, options: OpenOptions) -> None:
    if options.fps is not None:
        raise OptionError(
            f"fps={options.fps:g} is for frames that have no rate of their own; {path.name} has "
            "one (video_fps sets how densely it is sampled)"
        )


def _image(pixels: np.ndarray, options: OpenOptions) -> FrameSource:
    for name in ("clip", "fps"):
        if getattr(options, name) is not None:
            raise OptionError(f"{name} is for videos; this is a single image")
    return ArrayImage(pixels)
