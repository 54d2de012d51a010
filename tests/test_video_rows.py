"""Sums of weighted rows leave Pillow's pixels, and the bits that torch's own resizing leaves."""

import numpy as np
import pytest
import torch
from PIL import Image

from tempo_fast.video import lines, resize, rows
from tempo_fast.video.lines import Lines, as_pillow, as_torch, enlarged
from tempo_fast.video.resize import plan_resize, resize_frames
from tempo_fast.video.rows import MOST_TAPS, exact, pillow_rows, resize_planes, torch_rows

SUMS = pytest.mark.skipif(not rows.AVAILABLE, reason="torch has no FBGEMM here")
FMA = torch.backends.cpu.get_cpu_capability() != "DEFAULT"


def noise(height, width, seed=0):
    return torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    )


def torchs(frame, height, width):
    return resize_planes(frame.permute(2, 0, 1).float(), height, width)


def pillows(frame, height, width):
    image = Image.fromarray(frame.numpy()).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image))


def pixels(planes):
    return planes.clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0)


def made(step, frame, height, width):
    resized = step(Lines.of(frame), height, width)
    assert resized.size == (height, width)
    return resized.pixels()


def both_planes(frame, height, width):
    resized = enlarged(Lines.of(frame), height, width)
    return (torchs(frame, height, width) if resized is None else resized.planes()), torchs(
        frame, height, width
    )


def stark(frame):
    """Black and white: where Pillow clamps, and where sums cancel out."""
    return (frame & 1) * 255


def published_steps(count, most):
    """The steps (before, after, by_pillow) that frames of all shapes go through."""
    found = set()
    for size in np.random.default_rng(1).integers(16, most, (count, 2)).tolist():
        for step in plan_resize(*size):
            found.add((tuple(size), (step.height, step.width), step.by_pillow))
            size = (step.height, step.width)
    return sorted(found)


@SUMS
def test_every_size_that_torch_enlarges():
    sizes = [step[:2] for step in published_steps(400, 2048) if not step[2]]
    assert len(sizes) > 10
    for before, after in sizes:
        frame = noise(*before, seed=2)
        # Where torch's compiled code fuses no product with its sum, most have no such rows.
        assert enlarged(Lines.of(frame), *after) is not None or not FMA
        assert torch.equal(*both_planes(frame, *after))
        for shown in (frame, stark(frame)):
            assert torch.equal(made(as_torch, shown, *after), pixels(torchs(shown, *after)))


@SUMS
def test_every_size_that_pillow_resizes():
    sizes = [step[:2] for step in published_steps(60, 1200) if step[2]]
    assert len(sizes) > 40
    for before, after in sizes:
        frame = noise(*before, seed=3)
        for shown in (frame, stark(frame)):
            assert torch.equal(made(as_pillow, shown, *after), pillows(shown, *after))


ODD = [
    ((1, 1), (1, 1)),
    ((1, 1), (7, 9)),
    ((2, 3), (5, 3)),
    ((63, 131), (64, 1000)),
    ((131, 63), (131, 64)),
    ((64, 64), (1024, 1024)),
]


@SUMS
@pytest.mark.parametrize(("before", "after"), ODD)
def test_odd_sizes(before, after):
    frame = noise(*before)
    assert torch.equal(*both_planes(frame, *after))
    assert torch.equal(made(as_torch, frame, *after), pixels(torchs(frame, *after)))
    assert torch.equal(made(as_pillow, frame, *after), pillows(frame, *after))
    assert torch.equal(made(as_pillow, noise(*after), *before), pillows(noise(*after), *before))


@pytest.mark.parametrize("after", [(63, 128), (64, 127), (32, 32)])
def test_what_shrinks_is_left_to_torch(after):
    frame = noise(64, 128)
    assert enlarged(Lines.of(frame), *after) is None
    assert torch.equal(made(as_torch, frame, *after), pixels(torchs(frame, *after)))


@pytest.mark.parametrize(("size", "out"), [(1, 1), (1, 5), (5, 5), (64, 96), (131, 132), (10, 500)])
def test_torchs_weights(size, out):
    """Each output's weights are those of `interpolate`, at the inputs where they belong."""
    made = torch_rows(size, out, 1)
    dense = torch.zeros(out, size).scatter_add_(1, made.index.long(), made.weight)
    assert torch.equal(dense, resize_planes(torch.eye(size).expand(3, -1, -1), size, out)[0].t())
    assert made.index.shape[1] <= 5


def test_pillows_weights_are_whole():
    """Their parts are such that no sum of products with bytes needs more than 24 bits."""
    size = 64 * MOST_TAPS // 4 - 64
    assert exact(size, 64) and not exact(2 * size, 64)
    made = pillow_rows(size, 64, 1)
    high, low = made.high * 2**11, made.low * 2**11
    assert torch.equal(high, high.round()) and torch.equal(low, low.round())
    assert (high * 2**11 + low).sum(1).sub(2**22).abs().max() <= MOST_TAPS
    assert max(255 * part.abs().sum(1).max() for part in (high, low)) < 2**24


def test_a_frame_that_shrinks_much_is_pillows():
    frame = noise(2, 64 * MOST_TAPS)
    assert as_pillow(Lines.of(frame), 2, 64) is None
    resized = resize_frames(frame[None], [(2, 64, True), (4, 96, False)])[0]
    assert torch.equal(resized, pixels(torchs(pillows(frame, 2, 64), 4, 96)))


def test_pillows_planes():
    """Pillow's step after torch's, which leaves planes, as no published chain has it."""
    frame = noise(30, 50)
    resized = resize_frames(frame[None], [(60, 100, False), (45, 90, True)])[0]
    assert torch.equal(resized, pillows(pixels(torchs(frame, 60, 100)).contiguous(), 45, 90))


def test_a_machine_that_leaves_other_bits_takes_torchs(monkeypatch):
    sums = rows._sums
    monkeypatch.setattr(rows, "_sums", lambda *args: sums(*args).mul_(1 + 1e-6))
    lines._leaves_torchs_bits.cache_clear()
    try:
        frame = noise(64, 128)
        assert enlarged(Lines.of(frame), 256, 512) is None
        assert torch.equal(made(as_torch, frame, 256, 512), pixels(torchs(frame, 256, 512)))
    finally:
        lines._leaves_torchs_bits.cache_clear()


def test_a_machine_without_fast_sums_takes_pillow_and_torch(monkeypatch):
    frame, steps = noise(90, 160)[None], [(128, 192, True), (320, 448, False)]
    fast = resize_frames(frame, steps)
    monkeypatch.setattr(lines, "AVAILABLE", False)
    lines._leaves_torchs_bits.cache_clear()
    called, by_pillow = [], resize._by_pillow
    monkeypatch.setattr(resize, "_by_pillow", lambda *a: called.append(1) or by_pillow(*a))
    try:
        assert torch.equal(resize_frames(frame, steps), fast)
        assert called
    finally:
        lines._leaves_torchs_bits.cache_clear()
