"""Cutting into patches moves and normalises: exactly what the reference gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tempo_kernels.patches import _lies_in_lines, to_patches, to_patches_ref


def frames_of(count: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height + width)
    shape = (count, height, width, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def test_the_reference_by_plain_indexing():
    frames = frames_of(4, 64, 96)
    patches = to_patches_ref(frames, torch.float32)
    assert patches.shape == (2, 24, 1536)
    # Block (1, 2) of 2 × 3 is number 5; patch (1, 0) in it is number 2: rows 48-63, columns 64-79.
    expected = frames[2:4, 48:64, 64:80].permute(3, 0, 1, 2).reshape(-1).float()
    assert torch.equal(patches[1, 5 * 4 + 2], (expected - 127.5) / 127.5)
    assert torch.equal(to_patches_ref(frames, torch.bfloat16), patches.bfloat16())


def in_planes(frames: torch.Tensor) -> torch.Tensor:
    """The same frames [F, H, W, 3] with their planes one after the other in memory."""
    return frames.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)


@pytest.mark.parametrize("size", [(2, 32, 32), (6, 64, 160), (2, 96, 352), (0, 32, 32)])
def test_the_reference_takes_frames_wherever_they_are(size):
    frames = frames_of(*size)
    expected = to_patches_ref(frames, torch.float32)
    assert torch.equal(to_patches_ref(in_planes(frames), torch.float32), expected)
    turned = frames.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(to_patches_ref(turned, torch.float32), expected)
    # Planes that begin between two 16-byte lines, and frames between others.
    shifted = torch.zeros(frames.numel() + 5, dtype=torch.uint8)[5:].view(size[0], 3, *size[1:])
    shifted = shifted.permute(0, 2, 3, 1).copy_(frames)
    assert torch.equal(to_patches_ref(shifted, torch.float32), expected)
    bare = torch.from_numpy(np.zeros(frames.numel() + 5, np.uint8)[5:])
    bare = bare.view(size[0], 3, *size[1:]).permute(0, 2, 3, 1).copy_(frames)
    assert torch.equal(to_patches_ref(bare, torch.float32), expected)
    assert torch.equal(to_patches_ref(in_planes(frames)[2:4]), to_patches_ref(frames[2:4]))


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(2, 32, 32), (4, 64, 160), (2, 96, 352)])
def test_patches_exactly(device, size, dtype, planar):
    frames = frames_of(*size)
    expected = to_patches_ref(frames, dtype)
    given = frames.permute(0, 3, 1, 2).contiguous() if planar else frames
    out = torch.full_like(expected, float("nan"), device=device)
    assert to_patches(given.to(device), dtype, planar=planar, out=out) is out
    assert torch.equal(out.cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_value_is_normalised_exactly(device, dtype):
    frames = torch.arange(256, dtype=torch.uint8).repeat(2 * 32 * 32 * 3 // 256)
    frames = frames.view(2, 32, 32, 3)
    assert torch.equal(to_patches(frames.to(device), dtype).cpu(), to_patches_ref(frames, dtype))


def test_no_frames_are_no_patches(device):
    assert to_patches(frames_of(0, 64, 32).to(device)).shape == (0, 8, 1536)


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        (frames_of(3, 32, 32), {}, "3 frames of 32x32 don't divide"),
        (frames_of(2, 48, 32), {}, "2 frames of 32x48 don't divide"),
        (frames_of(2, 32, 32).float(), {}, "frames is torch.float32"),
        (frames_of(2, 32, 32).transpose(1, 2), {}, "a contiguous tensor is needed"),
        (frames_of(2, 32, 32), {"planar": True}, r"frames has shape \[2, 32, 32, 3\]"),
        (frames_of(2, 32, 32), {"dtype": torch.float16}, "not torch.float16"),
        (frames_of(2, 32, 32), {"out": torch.empty(1, 4, 1536)}, "out is torch.float32"),
    ],
)
def test_bad_input_is_a_value_error(device, frames, options, message):
    options = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    with pytest.raises(ValueError, match=message):
        to_patches(frames.to(device), **options)


def test_where_lines_are_moved_sixteen_bytes_at_a_time():
    """In planes, of one frame after the other or the red ones of all first; else value by value."""
    frames = frames_of(4, 32, 64)
    orders = {
        "interleaved": (frames, False),
        "planes": (in_planes(frames), True),
        "red first": (frames.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0), True),
    }
    moved = torch.empty(frames.numel() + 1, dtype=torch.uint8)[1:].view(4, 3, 32, 64)
    orders["not aligned"] = (moved.copy_(frames.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), False)
    expected = to_patches_ref(frames, torch.float32)
    for name, (lying, in_lines) in orders.items():
        assert _lies_in_lines(lying) == in_lines, name
        assert torch.equal(to_patches_ref(lying, torch.float32), expected), name
