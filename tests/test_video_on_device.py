"""On a (pretended) GPU the frames go up as they were decoded, and a kernel resizes them there."""

import numpy as np
import pytest

pytest.importorskip("av")

from tempo_fast import TempoFastPipeline
from tempo_fast.engine import ops
from tempo_fast.video import load_frames, resize
from tempo_kernels.launch import HAS_TRITON, INTERPRETED

from .pretend_cuda import OnDevice, plain, pretend_cuda
from .test_video_decode import make_clip

if not (HAS_TRITON and INTERPRETED):
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)

OPENING = {"video_fps": 4, "frame_windows": 4}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Two seconds of 192x64, shown to the model as 512x256: Pillow's step, then torch's."""
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


def watched(preprocess, segments):
    def run(frames, steps, *args, **kwargs):
        segments.append((frames, steps))
        return preprocess(frames, steps, *args, **kwargs)

    return run


def test_a_kernel_resizes_and_the_host_does_not(clip, golden, monkeypatch):
    with pretend_cuda(monkeypatch) as gpu, monkeypatch.context() as patch:
        patch.setattr(resize, "resize_lines", None)  # which can't be called
        folder = golden / "checkpoint" / "tiny-tempo"
        pipe = TempoFastPipeline.from_pretrained(folder, device="cuda")
        gpu.kernels.clear()
        segments = []
        patch.setattr(ops, "preprocess", watched(ops.preprocess, segments))
        with pipe.open(clip, **OPENING):
            launched = {name.strip("_").removesuffix("_kernel") for name in gpu.kernels}
    assert {"rows", "columns"} <= launched
    frames, _ = load_frames(clip, video_fps=4)
    steps = resize.plan_resize(64, 192)
    assert len(steps) == 2 and [by_pillow for *_, by_pillow in steps] == [True, False]
    assert all(isinstance(part, OnDevice) and given == steps for part, given in segments)
    uploaded = np.concatenate([plain(part).numpy() for part, _ in segments])
    assert uploaded.dtype == np.uint8 and (uploaded == frames).all()
