"""Sums of weighted rows leave Pillow's pixels, and the bits that torch's own resizing leaves."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from tempo_fast.video import lines, rows
from tempo_fast.video.lines import Layout, leaves_torchs_bits, resize_lines
from tempo_fast.video.resize import plan_resize, resize_frame
from tempo_fast.video.rows import (
    LOWER_BITS,
    MOST_TAPS,
    exact,
    pillow_rows,
    resize_planes,
    torch_rows,
)

SUMS = pytest.mark.skipif(not rows.AVAILABLE, reason="torch has no FBGEMM here")
FMA = torch.backends.cpu.get_cpu_capability() != "DEFAULT"


def noise(height, width, seed=0):
    return torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    )


def torchs(frame, height, width):
    return resize_planes(frame.permute(2, 0, 1).float(), height, width)


def pillows(frame, height, width):
    """Width and height one after the other, as Pillow itself did until version 13."""
    image, bicubic = Image.fromarray(frame.numpy()), Image.Resampling.BICUBIC
    image = image.resize((width, image.height), bicubic).resize((width, height), bicubic)
    return torch.from_numpy(np.array(image))


def pixels(planes):
    return planes.clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0)


def made(frame, height, width, *, by_pillow):
    return resize_lines(frame[None], ((height, width, by_pillow),))[0]


def taken(before, after, frames=1):
    """Whether sums of rows take torch's place."""
    return leaves_torchs_bits(Layout(frames, *before), Layout(frames, *after))


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
        assert taken(before, after) or not FMA
        for shown in (frame, stark(frame)):
            resized = made(shown, *after, by_pillow=False)
            assert torch.equal(resized, pixels(torchs(shown, *after)))


@SUMS
def test_every_size_that_pillow_resizes():
    sizes = [step[:2] for step in published_steps(60, 1200) if step[2]]
    assert len(sizes) > 40
    for before, after in sizes:
        frame = noise(*before, seed=3)
        for shown in (frame, stark(frame)):
            assert torch.equal(made(shown, *after, by_pillow=True), pillows(shown, *after))


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
    assert torch.equal(made(frame, *after, by_pillow=False), pixels(torchs(frame, *after)))
    assert torch.equal(made(frame, *after, by_pillow=True), pillows(frame, *after))
    frame = noise(*after)
    assert torch.equal(made(frame, *before, by_pillow=True), pillows(frame, *before))


@pytest.mark.parametrize("after", [(63, 128), (64, 127), (32, 32)])
def test_what_shrinks_is_left_to_torch(after):
    frame = noise(64, 128)
    assert not taken((64, 128), after)
    assert torch.equal(made(frame, *after, by_pillow=False), pixels(torchs(frame, *after)))


@pytest.mark.parametrize(("size", "out"), [(1, 1), (1, 5), (5, 5), (64, 96), (131, 132), (10, 500)])
def test_torchs_weights(size, out):
    """Each output's weights are those of `interpolate`, at the inputs where they belong."""
    made = torch_rows(size, out, 1)
    dense = torch.zeros(out, size).scatter_add_(1, made.index.long(), made.weight)
    assert torch.equal(dense, resize_planes(torch.eye(size).expand(3, -1, -1), size, out)[0].t())
    assert made.index.shape[1] <= 5


def test_pillows_weights_are_whole():
    """Their parts are such that no sum of products with bytes needs more than 24 bits."""
    assert 255 * MOST_TAPS * 2 ** (LOWER_BITS - 1) < 2**24
    size = 64 * MOST_TAPS // 4 - 64
    assert exact(size, 64) and not exact(2 * size, 64)
    made = pillow_rows(size, 64, 1)
    high, low = made.high * 2**11, made.low * 2**11
    assert torch.equal(high, high.round()) and torch.equal(low, low.round())
    assert (high * 2**11 + low).sum(1).sub(2**22).abs().max() <= MOST_TAPS
    assert max(255 * part.abs().sum(1).max() for part in (high, low)) < 2**24


def test_a_frame_that_shrinks_much_is_pillows():
    frame = noise(2, 64 * MOST_TAPS)
    assert not exact(64 * MOST_TAPS, 64)
    resized = resize_lines(frame[None], ((2, 64, True), (4, 96, False)))[0]
    assert torch.equal(resized, pixels(torchs(pillows(frame, 2, 64), 4, 96)))


def chain(frame, *steps):
    """Step after step by the libraries themselves."""
    for height, width, by_pillow in steps:
        frame = pillows(frame, height, width) if by_pillow else pixels(torchs(frame, height, width))
        frame = frame.contiguous()
    return frame


CHAINS = {
    "published, small": ((90, 160), (128, 192, True), (320, 448, False)),
    "published, high": ((720, 1280), (288, 512, True), (256, 512, True)),
    "height alone, twice": ((50, 64), (60, 64, True), (70, 64, False)),
    "planes to Pillow": ((30, 50), (60, 100, False), (45, 90, True)),
    "planes to torch": ((30, 50), (60, 100, False), (61, 110, False)),
    "planes that shrink": ((30, 50), (60, 100, False), (30, 50, False)),
    "planes to Pillow itself": ((4, 30), (5, 64 * MOST_TAPS, False), (6, 64, True)),
    "nothing to do": ((30, 50), (30, 50, True), (30, 50, False)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_frames_together(name):
    """Those of a table are what each is alone, in whatever order their values lie."""
    size, *steps = CHAINS[name]
    frames = torch.stack([noise(*size, seed) for seed in range(3)])
    resized = resize_lines(frames, tuple(steps))
    assert torch.equal(resized, torch.stack([chain(frame, *steps) for frame in frames]))
    lying_otherwise = frames.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    assert torch.equal(resize_lines(lying_otherwise, tuple(steps)), resized)


@pytest.fixture
def planned_anew():
    lines._plan.cache_clear()
    yield
    lines._plan.cache_clear()


def test_frames_stay_as_they_are():
    frames = torch.stack([noise(90, 160, seed) for seed in range(2)])
    before = frames.clone()
    for steps in ((), ((90, 160, False),), ((90, 160, True),)):
        assert resize_lines(frames, steps).data_ptr() == frames.data_ptr()
    for name in ("published, small", "nothing to do"):
        resize_lines(frames, CHAINS[name][1:])
    assert torch.equal(frames, before)
    still = before[0].numpy()
    still.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of torch, for arrays that can't be written to
        resized = resize_frame(still)
    assert np.array_equal(resized, resize_frame(frames[0].numpy()))


@pytest.mark.usefixtures("planned_anew")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_is_nothing_to_it(dtype):
    size, *steps = CHAINS["published, small"]
    frames = noise(*size)[None]
    try:
        torch.set_default_dtype(dtype)
        resized = resize_lines(frames, tuple(steps))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(resized, resize_lines(frames, tuple(steps)))
    assert torch.equal(resized[0], chain(frames[0], *steps))
    assert taken(*((step[0], step[1]) for step in steps)) or not (FMA and rows.AVAILABLE)


@pytest.mark.usefixtures("planned_anew")
@pytest.mark.parametrize("name", ["published, small", "published, high"])
def test_the_default_device_is_nothing_to_it(name):
    size, *steps = CHAINS[name]
    frames = noise(*size)[None]
    with torch.device("meta"):
        planned, again = (resize_lines(frames, tuple(steps)) for _ in range(2))
    assert torch.equal(planned[0], chain(frames[0], *steps)) and torch.equal(planned, again)


@pytest.mark.usefixtures("planned_anew")
@pytest.mark.parametrize("where", ["everywhere", "in black and white"])
def test_a_machine_that_leaves_other_bits_takes_torchs(monkeypatch, where):
    assert taken((64, 128), (128, 512)) or not (FMA and rows.AVAILABLE)
    sums = rows._sums

    def otherwise(table, *args):
        stark = bool(((table == 0) | (table == 255)).all())
        return sums(table, *args).mul_(1 + 1e-6 * (stark or where == "everywhere"))

    monkeypatch.setattr(rows, "_sums", otherwise)
    frame = noise(64, 128)
    assert not taken((64, 128), (128, 512))
    monkeypatch.setattr(lines, "leaves_torchs_bits", lambda *layouts: False)
    assert torch.equal(made(frame, 128, 512, by_pillow=False), pixels(torchs(frame, 128, 512)))


@pytest.mark.usefixtures("planned_anew")
@pytest.mark.parametrize("name", CHAINS)
def test_a_machine_without_fast_sums_takes_pillow_and_torch(monkeypatch, name):
    size, *steps = CHAINS[name]
    frames = torch.stack([noise(*size, seed) for seed in range(2)])
    monkeypatch.setattr(lines, "AVAILABLE", False)
    monkeypatch.setattr(rows, "_sums", None)
    resized = resize_lines(frames, tuple(steps))
    assert torch.equal(resized, torch.stack([chain(frame, *steps) for frame in frames]))
