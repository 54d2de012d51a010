"""Sums of weighted rows leave the bits that torch's own resizing leaves."""

import numpy as np
import pytest
import torch

from tempo_fast.video import enlarge
from tempo_fast.video.enlarge import resize_float, resize_planes, rows_of
from tempo_fast.video.resize import plan_resize

FMA = torch.backends.cpu.get_cpu_capability() != "DEFAULT"


def noise(height, width, seed=0):
    return torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    )


def torchs(frame, height, width):
    return resize_planes(frame.permute(2, 0, 1).float(), height, width)


def pixels(planes):
    return planes.clamp(0, 255).round().to(torch.uint8)


def published_sizes():
    """What the published steps leave to torch, for frames of all shapes."""
    found = set()
    for height, width in np.random.default_rng(1).integers(16, 2048, (400, 2)).tolist():
        steps = plan_resize(height, width)
        if steps and not steps[-1].by_pillow:
            before = (steps[-2].height, steps[-2].width) if len(steps) > 1 else (height, width)
            found.add((before, (steps[-1].height, steps[-1].width)))
    return sorted(found)


def test_every_size_that_the_published_steps_enlarge():
    sizes = published_sizes()
    assert len(sizes) > 10
    for before, after in sizes:
        # Where torch's compiled code fuses no product with its sum, most have no such plan.
        assert enlarge._plan(*before, *after) is not None or not FMA
        frame = noise(*before, seed=2)
        assert torch.equal(resize_float(frame, *after), torchs(frame, *after))
        stark = (frame & 1) * 255
        assert torch.equal(*(pixels(f(stark, *after)) for f in (resize_float, torchs)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1, 1), (1, 1)),
        ((1, 1), (7, 9)),
        ((2, 3), (5, 3)),
        ((63, 131), (64, 1000)),
        ((131, 63), (131, 64)),
        ((64, 64), (1024, 1024)),
    ],
)
def test_odd_sizes(before, after):
    frame = noise(*before)
    assert torch.equal(resize_float(frame, *after), torchs(frame, *after))


@pytest.mark.parametrize("after", [(63, 128), (64, 127), (32, 32)])
def test_what_shrinks_is_left_to_torch(after):
    frame = noise(64, 128)
    assert enlarge._plan(64, 128, *after) is None
    assert torch.equal(resize_float(frame, *after), torchs(frame, *after))


@pytest.mark.parametrize(("size", "out"), [(1, 1), (1, 5), (5, 5), (64, 96), (131, 132), (10, 500)])
def test_weights(size, out):
    """Each output's weights are those of `interpolate`, at the inputs where they belong."""
    rows = rows_of(size, out)
    dense = torch.zeros(out, size).scatter_add_(1, rows.index.long(), rows.weight)
    assert torch.equal(dense, resize_planes(torch.eye(size).expand(3, -1, -1), size, out)[0].t())
    assert rows.index.shape[1] <= 5


def test_a_machine_that_leaves_other_bits_takes_torchs(monkeypatch):
    monkeypatch.setattr(enlarge, "_by_rows", lambda frame, *plan: torch.zeros(1))
    enlarge._plan.cache_clear()
    try:
        frame = noise(64, 128)
        assert enlarge._plan(64, 128, 256, 512) is None
        assert torch.equal(resize_float(frame, 256, 512), torchs(frame, 256, 512))
    finally:
        enlarge._plan.cache_clear()
