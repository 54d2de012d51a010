"""Kernels that ahead-of-time compilation must refuse, and one that it must not: prints the figures.

Run as a program, without TRITON_INTERPRET, by test_aot.py.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import triton
import triton.language as tl

from tempo_kernels.aot import compile_variant
from tempo_kernels.launch import Variant


@triton.jit
def softmax(p_x, p_out, width: tl.constexpr):
    o_d = tl.arange(0, width)
    b_e = tl.exp(tl.load(p_x + o_d))
    tl.store(p_out + o_d, b_e / tl.sum(b_e, 0))


@triton.jit
def strided(p_x, p_out, width: tl.constexpr):
    o_d = tl.arange(0, width) * 3
    tl.store(p_out + o_d, tl.load(p_x + o_d))


@triton.jit
def scattered(p_x, p_out, width: tl.constexpr):
    o_d = tl.arange(0, width)
    tl.store(p_out + o_d * 3, tl.load(p_x + o_d))


@triton.jit
def square(p_x, p_out, width: tl.constexpr):
    o_d = tl.arange(0, width)
    p_tile = o_d[:, None] * width + o_d[None, :]
    b_x = tl.load(p_x + p_tile)
    tl.store(p_out + p_tile, tl.dot(b_x, b_x))


def variant(name: str, kernel, width: int, warps: int, **narrow: str) -> Variant:
    pointers = {"p_x": "*fp32", "p_out": "*fp32"}
    return Variant(name, kernel, pointers, {"width": width}, tuple(pointers), warps, **narrow)


if __name__ == "__main__":
    unfit = [
        variant("fits", softmax, 1024, 4),
        variant("spills", softmax, 16384, 1),
        variant("narrow", strided, 1024, 4),
        variant("narrow, allowed", strided, 1024, 4, narrow_load="3 apart", narrow_store="3 apart"),
        variant("narrow store", scattered, 1024, 4),
        variant("narrow store, allowed", scattered, 1024, 4, narrow_store="3 apart"),
        variant("wide after all", softmax, 1024, 4, narrow_load="none", narrow_store="none"),
        variant("shared", square, 256, 16),
    ]
    print(json.dumps([asdict(compile_variant("made_up", each, 80)) for each in unfit]))
