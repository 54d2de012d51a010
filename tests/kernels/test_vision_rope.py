"""The vision encoder's rotation in place: exactly PyTorch's operations."""

from __future__ import annotations

import pytest
import torch
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision

from tempo_kernels.vision_rope import vision_rope, vision_rope_ref

DTYPES = [torch.float32, torch.bfloat16]


def make(n, patches, heads, dim, dtype, device):
    torch.manual_seed(0)
    angle = 10 * torch.randn(patches, dim // 2).repeat(1, 2)
    qkv = torch.randn(n, patches, 3 * heads * dim).to(device, dtype)
    return qkv, angle.cos().to(device), angle.sin().to(device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("n", "patches", "heads", "dim"),
    [(1, 1, 16, 64), (2, 3, 16, 64), (3, 63, 3, 8), (1, 131, 1, 2), (2, 5, 5, 6)],
)
def test_equals_pytorch(device, n, patches, heads, dim, dtype):
    qkv, cos, sin = make(n, patches, heads, dim, dtype, device)
    packed = qkv.clone()
    parts = vision_rope(packed, cos, sin, heads=heads)
    for part, expected in zip(parts, vision_rope_ref(qkv, cos, sin, heads=heads), strict=True):
        assert torch.equal(part, expected)
        assert part.stride() == (patches * 3 * heads * dim, 3 * heads * dim, dim, 1)
        assert part.untyped_storage().data_ptr() == packed.untyped_storage().data_ptr()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_is_as_good_as_pytorch(device, as_good, dtype):
    qkv, cos, sin = make(2, 7, 4, 64, dtype, device)
    exact = vision_rope_ref(qkv.double(), cos.double(), sin.double(), heads=4)
    reference = vision_rope_ref(qkv, cos, sin, heads=4)
    result = vision_rope(qkv, cos, sin, heads=4)
    for part, theirs, values in zip(result[:2], reference[:2], exact[:2], strict=True):
        as_good(part, theirs, values, "vision_rope")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_reference_is_the_published_rotation(dtype):
    qkv, cos, sin = make(2, 5, 3, 8, dtype, "cpu")
    q, k, v = qkv.unflatten(-1, (3, 3, -1)).unbind(2)
    query, key, value = vision_rope_ref(qkv, cos, sin, heads=3)
    expected = apply_rotary_pos_emb_vision(q, k, cos, sin)
    assert torch.equal(query, expected[0]) and torch.equal(key, expected[1])
    assert torch.equal(value, v)


def test_no_frames(device):
    qkv, cos, sin = make(0, 5, 3, 8, torch.bfloat16, device)
    assert [part.shape for part in vision_rope(qkv, cos, sin, heads=3)] == [(0, 5, 3, 8)] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv": lambda t: t.half()}, "qkv is torch.float16"),
        ({"qkv": lambda t: t[:, :-1].contiguous()}, "qkv has shape"),
        ({"qkv": lambda t: t[:, :, :72]}, "qkv has shape"),
        ({"qkv": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1)}, "qkv has strides"),
        ({"qkv": lambda t: t.to("meta")}, "qkv is on meta"),
        ({"cos": lambda t: t.bfloat16()}, "cos is torch.bfloat16"),
        ({"cos": lambda t: t[:, None]}, "cos has shape"),
        ({"cos": lambda t: t[:, :7].contiguous()}, "cos has rows of 7"),
        ({"sin": lambda t: t[:-1]}, "sin has shape"),
        ({"heads": lambda h: 0}, "heads is 0"),
    ],
)
def test_bad_input_is_a_value_error(device, change, message):
    qkv, cos, sin = make(2, 5, 4, 8, torch.float32, device)
    given = {"qkv": qkv, "cos": cos, "sin": sin, "heads": 4}
    given = {name: change.get(name, lambda t: t)(value) for name, value in given.items()}
    with pytest.raises(ValueError, match=message):
        vision_rope(**given)


def test_too_many_heads_are_a_value_error(device):
    qkv, cos, sin = make(1, 1, 300, 64, torch.float32, device)
    with pytest.raises(ValueError, match="qkv has 300 heads of 64"):
        vision_rope(qkv, cos, sin, heads=300)
