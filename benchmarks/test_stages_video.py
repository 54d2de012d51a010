"""Times the two stages before the vision encoder, decoding and resizing, beside a plain way.

`pytest benchmarks/test_stages_video.py --size tiny --cases 64:8192 --rows FILE`, as for the other
stages. `test_video.py` times the whole way from a file of an hour to its patches.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tempo_fast.engine import ops
from tempo_fast.options import OpenOptions
from tempo_fast.video import load_frames, open_source
from tempo_fast.video.resize import frame_size, plan_resize, resize_frame
from tempo_fast.video.segments import SegmentReader

from . import floors
from .baseline import make_patches
from .workload import FPS, WINDOW, make_video

RESIZED = (720, 1280)  # what the frames of the resizing come in
MOST_RESIZED = 64  # of which so many are held in memory
MOST_DECODED = 1024  # of the at most 1800 frames of the file that is made


def test_decode(compare, rows, tmp_path, models, frames):
    """A video file to frames, against decoding it whole in order with FFmpeg's threads."""
    try:
        import av
    except ImportError:
        missing = "PyAV isn't installed here"
        row = {"suite": "stages", "name": "decode", "size": models.size, "frames": frames}
        rows.append(row | {"missing": missing})
        pytest.skip(f"not measured: {missing}")
    from .video_files import VideoFile

    count = min(frames, MOST_DECODED)
    file = VideoFile(360, 640, gop=48, seconds=min(max(4, count // 2), 60), bit_rate=600_000)
    path = file.path(tmp_path)

    def baseline() -> np.ndarray:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            wanted = set(np.rint(np.linspace(0, stream.frames - 1, count)).astype(int).tolist())
            return np.stack(
                [
                    frame.to_ndarray(format="rgb24")
                    for number, frame in enumerate(container.decode(stream))
                    if number in wanted
                ]
            )

    def check(ours: np.ndarray, theirs: dict) -> None:
        np.testing.assert_array_equal(ours, theirs["baseline"])

    compare(
        "stages",
        "decode",
        lambda: load_frames(path, max_frames=count, video_fps=1000)[0],
        {"baseline": baseline},
        check=check,
        frames=count,
        file=file.name,
    )


@torch.inference_mode()
def test_resize(compare, models, frames):
    """Frames of 1280×720 to patches on the device, as the engine does it there."""
    count = min(frames, MOST_RESIZED)
    video = make_video(count, *RESIZED)
    device, dtype = models.device, models.dtype
    on_device = ops.uses_kernels(device)
    steps = plan_resize(*RESIZED) if on_device else ()
    height, width = frame_size(*RESIZED)
    patches = (height // 16) * (width // 16)
    itemsize = torch.finfo(dtype).bits // 8
    work = floors.Work(count, patches, 0, 0, 0, (), 0, itemsize)

    def engine() -> torch.Tensor:
        source = open_source(video, OpenOptions(fps=FPS))
        resize = (lambda frame: frame) if on_device else resize_frame
        with source, SegmentReader(source, WINDOW, WINDOW, resize=resize) as reader:
            parts = [ops.preprocess(window.to(device), steps, dtype) for window in reader]
        return torch.cat(parts).reshape(-1, parts[0].shape[-1])

    def check(ours: torch.Tensor, theirs: dict) -> None:
        # One of 255 levels, and what the dtype rounds: kernels may round a half the other way.
        off = (ours.float() - theirs["baseline"].float()).abs()
        rounding = torch.finfo(dtype).eps
        assert off.max() <= 1 / 127.5 + rounding, f"a pixel is {off.max():.3g} off"
        assert off.mean() <= rounding + 1e-4, f"pixels are {off.mean():.3g} off on average"

    compare(
        "stages",
        "resize",
        engine,
        {"baseline": lambda: make_patches(video, WINDOW)[0].to(device)},
        check=check,
        floor=floors.resize(RESIZED, work, models.engine.config.vision),
        frames=count,
    )
