"""Resizing: Pillow's pixels bit for bit, and torch's float32 ones but for ties of rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tempo_kernels import resize_weights
from tempo_kernels.resize import (
    resize_float,
    resize_float_ref,
    resize_pillow,
    resize_pillow_ref,
)
from tempo_kernels.resize_weights import pillow_windows, torch_windows, windows_on

from .tolerances import limit

# (height, width) before and after: both ways, odd, one side only, extreme, tiny.
SMALL = [
    ((45, 80), (12, 21)),
    ((33, 57), (64, 96)),
    ((20, 130), (20, 63)),
    ((36, 31), (32, 31)),
    ((131, 9), (3, 33)),
    ((3, 200), (2, 7)),
    ((1, 1), (3, 5)),
    ((2, 3), (1, 1)),
]
LARGE = [
    ((1080, 1920), (288, 512)),
    ((288, 512), (256, 512)),
    ((2160, 3840), (288, 512)),
    ((719, 405), (512, 288)),
    ((144, 177), (128, 192)),
    ((16, 3200), (16, 512)),
]


def noise(count: int, height: int, width: int) -> torch.Tensor:
    """Blocks of black and white among noise: overshoots on both sides, and all values."""
    rng = np.random.default_rng(height * 10000 + width)
    frames = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    frames[:, : height // 2] = np.where(frames[:, : height // 2] < 128, 0, 255)
    return torch.from_numpy(frames)


def by_pillow(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The width first, which Pillow itself does until version 13."""
    bicubic = Image.Resampling.BICUBIC
    images = [Image.fromarray(frame.numpy()) for frame in frames]
    images = [image.resize((width, image.height), bicubic) for image in images]
    images = [image.resize((width, height), bicubic) for image in images]
    return torch.stack([torch.from_numpy(np.array(image)) for image in images])


def assert_rounded_alike(found: torch.Tensor, frames: torch.Tensor, size: tuple[int, int]) -> None:
    """One level apart at most, and only where the float32 value is near a half."""
    reference = resize_float_ref(frames, *size)
    planes = frames.permute(0, 3, 1, 2).double()
    exact = torch.nn.functional.interpolate(planes, size, mode="bicubic", antialias=True)
    from_half = (exact.permute(0, 2, 3, 1) % 1 - 0.5).abs()
    differs = (found.int() - reference.int()).abs()
    assert differs.max() <= limit("resize: levels")
    assert from_half[differs > 0].le(limit("resize: from a half")).all()
    assert differs.float().mean() < limit("resize: levels apart")


@pytest.mark.parametrize(("before", "after"), SMALL + LARGE)
def test_the_reference_gives_pillows_pixels(before, after):
    frames = noise(1, *before)
    assert torch.equal(resize_pillow_ref(frames, *after), by_pillow(frames, *after))


def test_the_weights_are_pillows_for_any_two_sizes():
    rng = np.random.default_rng(0)
    for size, out in np.exp(rng.uniform(0, np.log(3000), (150, 2))).astype(int):
        row = torch.from_numpy(rng.integers(0, 256, (1, 1, size, 3), dtype=np.uint8))
        assert torch.equal(resize_pillow_ref(row, 1, out), by_pillow(row, 1, out)), (size, out)


def test_the_width_comes_first():
    rng = np.random.default_rng(0)
    for height, width, *after in np.exp(rng.uniform(1, 5, (200, 4))).astype(int):
        frames = noise(1, height, width)
        after = tuple(map(int, after))
        assert torch.equal(resize_pillow_ref(frames, *after), by_pillow(frames, *after))


def test_windows_stay_within_the_input():
    for windows_of in (pillow_windows, torch_windows):
        for size, out in ((1, 5), (2, 3), (5, 2), (100, 7), (7, 100), (512, 512), (3000, 1)):
            windows = windows_of(size, out)
            assert windows.starts.min() >= 0
            assert windows.starts.max() + windows.taps <= size
            assert len(windows.weights) % 4 == 0
            assert not windows.weights[windows.taps :].any()


@pytest.mark.parametrize(("before", "after"), SMALL)
def test_pillows_pixels_bit_for_bit(device, before, after):
    frames = noise(2, *before)
    found = resize_pillow(frames.to(device), *after)
    assert found.is_contiguous()
    assert torch.equal(found.cpu(), by_pillow(frames, *after))


@pytest.mark.gpu
@pytest.mark.parametrize(("before", "after"), LARGE)
def test_pillows_pixels_bit_for_bit_at_full_size(device, interpreted, before, after):
    if interpreted:
        pytest.skip("full sizes take minutes in the interpreter")
    frames = noise(3, *before)
    assert torch.equal(resize_pillow(frames.to(device), *after).cpu(), by_pillow(frames, *after))


@pytest.mark.parametrize(("before", "after"), SMALL)
def test_torchs_pixels_but_for_ties(device, interpreted, before, after):
    frames = noise(2, *before)
    found = resize_float(frames.to(device), *after).cpu()
    assert_rounded_alike(found, frames, after)
    # Of an enlarging the very bits are torch's, but the interpreter rounds every product.
    if not interpreted and all(a >= b for a, b in zip(after, before, strict=True)):
        assert torch.equal(found, resize_float_ref(frames, *after))


def test_the_weights_are_torchs_for_any_two_sizes():
    rng = np.random.default_rng(0)
    for size, out in np.exp(rng.uniform(0, np.log(3000), (150, 2))).astype(int).tolist():
        windows = torch_windows(size, out)
        # A single one among zeros shows its weights, without any sum.
        for one in rng.integers(0, size, 3).tolist():
            row = torch.zeros(1, 1, 1, size)
            row[..., one] = 1
            theirs = torch.nn.functional.interpolate(
                row, (1, out), mode="bicubic", antialias=True
            ).flatten()
            taps = torch.arange(windows.taps)[:, None]
            here = windows.starts + taps == one
            ours = (windows.weights[: windows.taps] * here).sum(0)
            assert torch.equal(ours, theirs), (size, out, one)


def test_bytes_that_start_between_words_are_read_right(device):
    frames = noise(3, 7, 9)  # 189 bytes a frame
    stored = torch.zeros(frames.numel() + 1, dtype=torch.uint8, device=device)
    moved = stored[1:].view_as(frames).copy_(frames)
    assert torch.equal(resize_pillow(moved, 5, 6).cpu(), by_pillow(frames, 5, 6))
    odd = moved[1:]
    assert torch.equal(resize_pillow(odd, 5, 6).cpu(), by_pillow(frames[1:], 5, 6))


def test_the_same_size_is_left_alone(device):
    frames = noise(1, 5, 6).to(device)
    assert resize_pillow(frames, 5, 6) is frames
    assert resize_float(frames, 5, 6) is frames


@pytest.mark.parametrize("resize", [resize_pillow, resize_float])
@pytest.mark.parametrize(
    ("wrong", "size", "message"),
    [
        (lambda f: f.float(), (4, 4), "frames is torch.float32; torch.uint8 is needed"),
        (lambda f: f[..., :2], (4, 4), r"frames has shape \[2, 5, 6, 2\]"),
        (lambda f: f[:, :, ::2], (4, 4), "a contiguous tensor is needed"),
        (lambda f: f[:0], (4, 4), "frames is empty"),
        (lambda f: f, (0, 4), "a frame of 4x0"),
        (lambda f: f, (1 << 20, 1 << 10), "a frame of 1024x1048576"),
    ],
)
def test_bad_input_is_a_value_error(device, resize, wrong, size, message):
    with pytest.raises(ValueError, match=message):
        resize(wrong(noise(2, 5, 6).to(device)), *size)


def test_weights_are_made_once_for_two_sizes(device, monkeypatch):
    packed, made = resize_weights._packed, []

    def counted(low, weights, size):
        made.append((size, weights.shape[1]))
        return packed(low, weights, size)

    monkeypatch.setattr(resize_weights, "_packed", counted)
    for cached in (windows_on, pillow_windows, torch_windows):
        cached.cache_clear()
    frames = noise(1, 7, 9).to(device)
    for _ in range(3):
        resize_pillow(frames, 4, 6)
    assert made == [(9, 6), (7, 4)]
    for _ in range(3):
        resize_float(frames, 4, 6)
    assert made == [(9, 6), (7, 4)] * 2
    resize_pillow(frames, 4, 5)  # another width, the same height
    assert made == [(9, 6), (7, 4)] * 2 + [(9, 5)]
    kept = windows_on(frames.device, 9, 6, True)
    assert kept is windows_on(frames.device, 9, 6, True)
    assert kept.weights.device == frames.device
