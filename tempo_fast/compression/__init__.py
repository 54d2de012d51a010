"""Segments to memory tokens: prompt, positions, compressor, allocation and its ablations."""

from tempo_fast.compression.allocation import allocate

__all__ = ["allocate"]
