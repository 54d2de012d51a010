"""What approximate instructions give: any value within the error that the PTX ISA allows.

Seed 0 gives the nearest value. By any other one is chosen at random, the same for the same inputs,
as on a GPU: what relies on more than the ISA says fails with some seed.

Source: NVIDIA's "PTX ISA", section "Floating Point Instructions": `ex2` "2 ulp from correctly
rounded result", `div.full` "maximum ulp error is 2", `rcp.approx` 1; `rsqrt.approx` "maximum
relative error 2^-22.9", `lg2.approx` 2^-22. Errors are taken from the exact result here.
"""

from __future__ import annotations

import numpy as np

from .rounding import flushed

__all__ = ["Errors"]


class Errors:
    """Errors of approximate float32 instructions, by a seed."""

    def __init__(self, seed: int) -> None:
        self._salt = np.uint32(np.random.default_rng(seed).integers(1 << 32)) if seed else None

    def exponential(self, a):
        """ex2.approx.f32"""
        exact = np.exp2(a.astype(np.float64))
        return np.where(a == 0, np.float32(1), self._near(exact, _units(exact, 2), a))

    def quotient(self, a, b):
        """div.full.f32"""
        exact = a.astype(np.float64) / b.astype(np.float64)
        return self._near(exact, _units(exact, 2), a, b)

    def reciprocal(self, a):
        """rcp.approx.ftz.f32"""
        a = flushed(a)
        exact = 1.0 / a.astype(np.float64)
        return flushed(self._near(exact, _units(exact, 1), a))

    def inverse_root(self, a):
        """rsqrt.approx.ftz.f32"""
        a = flushed(a)
        exact = 1.0 / np.sqrt(a.astype(np.float64))
        return self._near(exact, exact * 2.0**-22.9, a)

    def logarithm(self, a):
        """lg2.approx.f32: the error is relative, and absolute for inputs of 0.5 to 2."""
        exact = np.log2(a.astype(np.float64))
        near_one = (a > 0.5) & (a < 2)
        return self._near(exact, np.where(near_one, 1.0, np.abs(exact)) * 2.0**-22, a)

    def _near(self, exact, most, *inputs):
        """A float32 no further than `most` from `exact`, chosen by the inputs' bits.

        Zeros and infinities are given as they are, and no sign changes.
        """
        nearest = exact.astype(np.float32)
        if self._salt is None:
            return nearest
        chosen = (exact + most * self._choice(*inputs)).astype(np.float32)
        fits = np.abs(chosen.astype(np.float64) - exact) <= most
        fits &= np.isfinite(chosen) & (chosen * np.sign(nearest) > 0)
        return np.where(fits, chosen, nearest)

    def _choice(self, *inputs):
        """Numbers of -1 to 1 by the bits of the inputs."""
        mixed = self._salt
        for x in inputs:
            mixed = (mixed ^ np.ascontiguousarray(x).view(np.uint32)) * np.uint32(0x85EBCA6B)
            mixed = (mixed ^ (mixed >> np.uint32(13))) * np.uint32(0xC2B2AE35)
            mixed = mixed ^ (mixed >> np.uint32(16))
        return mixed * (2.0 / (2**32 - 1)) - 1.0


def _units(exact, count: int):
    """So many units in the last place of float32."""
    return count * np.spacing(np.abs(exact.astype(np.float32))).astype(np.float64)
