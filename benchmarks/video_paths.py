"""Ways from a video file to the vision encoder's patches, one a process.

`python benchmarks/video_paths.py WAY FILE SAMPLES CHECK` prints one line of JSON and leaves some of
the patches' values in CHECK (.npy), by which the ways are compared.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

WINDOW = 8
_EVERY = 4999  # of the values, for the comparison
_MOST = 1 << 24  # values compared


def indices(total: int, samples: int) -> list[int]:
    """The published rule, where the number of samples is its upper limit."""
    return np.rint(np.linspace(0, total - 1, samples)).astype(int).tolist()


def tempo_fast(path: str, samples: int, decoder: str = "auto") -> Iterator[torch.Tensor]:
    """This package: segments as they are made, patched as the engine does.

    That is by a thread with its share of torch's: a team of all of them would wait, spinning, for
    its members to get a core from the decoders.
    """
    from tempo_fast.engine.crew import crew_size
    from tempo_fast.engine.ops import preprocess
    from tempo_fast.options import OpenOptions
    from tempo_fast.threads import torch_in_threads
    from tempo_fast.video import open_source
    from tempo_fast.video.segments import SegmentReader

    options = OpenOptions(max_frames=samples, video_fps=1000, decoder=decoder)
    torch_in_threads(max(1, torch.get_num_threads() // crew_size(torch.device("cpu"))))
    with open_source(path, options) as source:
        for segment in SegmentReader(source, WINDOW, WINDOW):
            yield preprocess(segment, (), torch.float32).reshape(-1, 1536)


def published(path: str, samples: int) -> Iterator[torch.Tensor]:
    """The published code's way: decord, then Pillow, then the processor segment by segment."""
    from decord import VideoReader, cpu

    reader = VideoReader(path, ctx=cpu(0))
    yield from _published_arithmetic(reader.get_batch(indices(len(reader), samples)).asnumpy())


def pyav(path: str, samples: int) -> Iterator[torch.Tensor]:
    """Decode every frame in order with PyAV and FFmpeg's threads, then as published."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        wanted = set(indices(stream.frames, samples))
        frames = [
            frame.to_ndarray(format="rgb24")
            for number, frame in enumerate(container.decode(stream))
            if number in wanted
        ]
    yield from _published_arithmetic(frames)


def torchcodec(path: str, samples: int) -> Iterator[torch.Tensor]:
    """torchcodec in its exact mode, then as published."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=0)
    batch = decoder.get_frames_at(indices(decoder.metadata.num_frames, samples))
    yield from _published_arithmetic(batch.data.numpy())


def one_core(path: str, samples: int) -> Iterator[torch.Tensor]:
    """This package on one core, to see what the others are worth."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    yield from tempo_fast(path, samples)


def our_torchcodec(path: str, samples: int) -> Iterator[torch.Tensor]:
    """This package with torchcodec in the place of its own decoding."""
    yield from tempo_fast(path, samples, decoder="torchcodec")


def nvdec(path: str, samples: int) -> Iterator[torch.Tensor]:
    """This package with a GPU's decoder through torchcodec, whose colours are its own."""
    yield from tempo_fast(path, samples, decoder="nvdec")


_WAYS = (tempo_fast, published, pyav, torchcodec, our_torchcodec, nvdec, one_core)
WAYS = {way.__name__: way for way in _WAYS}
NEEDS = {
    "published": "decord",
    "pyav": "av",
    "torchcodec": "torchcodec.decoders",
    "our_torchcodec": "torchcodec.decoders",
    "nvdec": "torchcodec.decoders",
}


def _bicubic(image: Image.Image, height: int, width: int) -> Image.Image:
    """The width first, as Pillow itself did when the published code was run."""
    for size in ((width, image.height), (width, height)):
        image = image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)
    return image


def _published_arithmetic(frames: np.ndarray | list[np.ndarray]) -> Iterator[torch.Tensor]:
    from tempo_fast.video.resize import plan_resize

    steps = plan_resize(*frames[0].shape[:2])
    images = [Image.fromarray(frame) for frame in frames]
    for step in steps:
        if step.by_pillow:
            images = [_bicubic(image, step.height, step.width) for image in images]
    for start in range(0, len(images), WINDOW):
        pixels = torch.stack(
            [
                torch.from_numpy(np.array(image)).permute(2, 0, 1)
                for image in images[start : start + WINDOW]
            ]
        )
        if steps and not steps[-1].by_pillow:
            size = (steps[-1].height, steps[-1].width)
            pixels = functional.interpolate(pixels.float(), size, mode="bicubic", antialias=True)
            pixels = pixels.clamp(0, 255).round()
        if len(pixels) % 2:
            pixels = torch.cat([pixels, pixels[-1:]])
        yield _patches((pixels.float() - 127.5) / 127.5)


def _patches(pixels: torch.Tensor) -> torch.Tensor:
    """[T, 3, h, w] to [T/2 · h/16 · w/16, 1536], patches of one 2×2 block side by side."""
    frames, channels, height, width = pixels.shape
    blocks = pixels.reshape(frames // 2, 2, channels, height // 32, 2, 16, width // 32, 2, 16)
    return blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, channels * 2 * 16 * 16)


def _peak_bytes() -> int:
    """The most memory that this process held (its own: ru_maxrss begins with its parent's)."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if "VmHWM" in line)
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main(way: str, path: str, samples: str, check: str) -> None:
    """Run one way and print its figures."""
    for module in (
        "tempo_fast.video.decode",
        "tempo_fast.video.segments",
        "tempo_fast.engine.ops",
        NEEDS.get(way),
    ):
        if module:
            importlib.import_module(module)
    # Small tensors kept between large ones would keep the allocator from using their room again.
    check_values = np.empty(_MOST, np.float32)
    baseline, cpu = _peak_bytes(), _cpu_seconds()
    began, first, count, kept = time.perf_counter(), None, 0, 0
    for patches in WAYS[way](path, int(samples)):
        count += len(patches)
        some = patches.reshape(-1)[::_EVERY].numpy()
        check_values[kept : kept + len(some)] = some
        kept += len(some)
        first = first or time.perf_counter() - began
    figures = {
        "seconds": time.perf_counter() - began,
        "first_segment_seconds": first,
        "cpu_seconds": _cpu_seconds() - cpu,
        "peak_bytes": _peak_bytes(),
        "imports_bytes": baseline,
        "patches": count,
    }
    np.save(check, check_values[:kept])
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
