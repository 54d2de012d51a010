"""Triton's two names, or stand-ins with which the references import where it isn't installed."""

from __future__ import annotations

try:
    import triton
    import triton.language as tl

    HAS_TRITON = True
except ModuleNotFoundError:

    class _Absent:
        """Whatever is done with it gives itself, so that decorators and constants can be read."""

        def __getattr__(self, name: str) -> _Absent:
            return self

        def __call__(self, *args: object, **kwargs: object) -> _Absent:
            return self

    triton = tl = _Absent()
    HAS_TRITON = False

__all__ = ["HAS_TRITON", "tl", "triton"]
