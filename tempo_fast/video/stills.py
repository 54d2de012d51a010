"""Videos made of still images: a folder, an animated gif; and single image files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tempo_fast.errors import VideoError
from tempo_fast.options import OpenOptions
from tempo_fast.video.frames import FrameSource
from tempo_fast.video.sampling import sample_indices

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
_ORIENTATION = 0x0112


@contextmanager
def _reading(what: object) -> Iterator[None]:
    """Pillow's errors, of which there are many kinds, as ours."""
    try:
        yield
    except VideoError:
        raise
    except Exception as error:  # its decoders raise whatever a damaged file leads them to
        raise VideoError(f"{what} can't be read as an image: {error!r}") from error


def to_rgb(image: Image.Image, what: object) -> np.ndarray:
    """An image's pixels, upright by its EXIF orientation, on white where it is transparent.

    Returns uint8 [H, W, 3]. Raises VideoError when `image`, called `what`, can't be decoded.
    """
    with _reading(what):
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))


def read_image(path: Path) -> np.ndarray:
    """The pixels of an image file, uint8 [H, W, 3]. Raises VideoError."""
    with _reading(path), Image.open(path) as image:
        return to_rgb(image, path)


def is_animation(path: Path) -> bool:
    """Whether an image file is a moving one: any gif, and a webp or png with several frames."""
    with _reading(path), Image.open(path) as image:
        if image.format == "GIF":
            return True
        return image.format in ("WEBP", "PNG") and getattr(image, "is_animated", False)


def _on_show(indices: np.ndarray, microseconds: list[int]) -> np.ndarray:
    """The frames on show in the middle of each of n equal stretches of time.

    indices: int64 [n], samples as of a video of the mean rate, from the first to the last of which
    the stretches reach. microseconds: how long each frame is shown. Whole numbers keep it exact.
    Returns int64 [n]; `indices` itself where all frames are shown equally long, or no times known.
    """
    if len(set(microseconds)) == 1:
        return indices
    total, length, count = len(microseconds), sum(microseconds), len(indices)
    first, last = int(indices[0]), int(indices[-1])
    starts = np.cumsum([0, *microseconds[:-1]], dtype=object) * (2 * count * total)
    middles = [
        (2 * count * first + (last + 1 - first) * (2 * at + 1)) * length for at in range(count)
    ]
    return np.searchsorted(starts, np.array(middles, object), side="right") - 1


class Animation(FrameSource):
    """A gif (or animated webp or png), sampled evenly in time.

    Where all frames are shown equally long, as by the published rule; else as many samples, spread
    over the time instead of the frames. A file that gives no times counts as one of
    options.video_fps frames a second.
    """

    def __init__(self, path: Path, options: OpenOptions) -> None:
        microseconds = []
        with _reading(path), Image.open(path) as image:
            total = getattr(image, "n_frames", 1)
            width, height = image.size
            for index in range(total):
                image.seek(index)
                image.load()  # a webp learns a frame's duration by decoding it
                microseconds.append(round(1000 * float(image.info.get("duration", 0))))
        self._path = path
        indices, real_fps = sample_indices(
            total,
            1e6 * total / sum(microseconds) if any(microseconds) else 0.0,
            video_fps=options.video_fps,
            max_frames=options.max_frames,
            min_frames=options.min_frames,
            clip=options.clip,
        )
        self._indices = _on_show(indices, microseconds)
        super().__init__(count=len(self._indices), height=height, width=width, real_fps=real_fps)

    def _frames(self) -> Iterator[np.ndarray]:
        with _reading(self._path), Image.open(self._path) as image:
            for index, repeats in groupby(self._indices.tolist()):
                image.seek(index)
                frame = to_rgb(image, self._path)
                if (size := frame.shape[:2]) != (self.height, self.width):
                    raise VideoError(
                        f"frame {index} of {self._path} is {size[1]}x{size[0]} and not "
                        f"{self.width}x{self.height} as the first; give them one size"
                    )
                for _ in repeats:
                    yield frame


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort key in which 2.png comes before 10.png."""
    parts = re.split(r"(\d+)", path.name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _upright_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file as `read_image` gives it, from its header alone."""
    with _reading(path), Image.open(path) as image:
        width, height = image.size
        sideways = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (width, height) if sideways else (height, width)


class ImageFolder(FrameSource):
    """The images of a folder in natural order, sampled like a video of that many frames.

    Their rate is options.fps, by default the wanted options.video_fps. Other files are left out.
    """

    def __init__(self, path: Path, options: OpenOptions) -> None:
        images = sorted(
            (
                file
                for file in path.iterdir()
                if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
            ),
            key=_natural,
        )
        if not images:
            raise VideoError(
                f"the folder {path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})"
            )
        indices, real_fps = sample_indices(
            len(images),
            options.fps or options.video_fps,
            video_fps=options.video_fps,
            max_frames=options.max_frames,
            min_frames=options.min_frames,
            clip=options.clip,
        )
        self._images = [images[index] for index in indices]
        height, width = _upright_size(self._images[0])
        for file in self._images:
            if (size := _upright_size(file)) != (height, width):
                raise VideoError(
                    f"the images of {path} differ in size: {self._images[0].name} is "
                    f"{width}x{height}, {file.name} is {size[1]}x{size[0]}; give them one size"
                )
        super().__init__(count=len(indices), height=height, width=width, real_fps=real_fps)

    def _frames(self) -> Iterator[np.ndarray]:
        for file, repeats in groupby(self._images):
            frame = read_image(file)
            for _ in repeats:
                yield frame
