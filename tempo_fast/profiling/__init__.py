"""One question under a profiler: a trace with named stages, and what the GPU drew meanwhile."""

from tempo_fast.profiling.nvml import GpuSampler, open_nvml
from tempo_fast.profiling.question import Profile, profile_question

__all__ = ["GpuSampler", "Profile", "open_nvml", "profile_question"]
