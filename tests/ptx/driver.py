"""A driver of Triton's whose GPU is the machine here: kernels are compiled, and run in NumPy.

Tensors are the CPU's.
"""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.driver import driver

from .machine import run
from .program import FaultError, Program, read

__all__ = ["LAUNCHES", "TARGETS", "install"]

# Shared memory that a block can have, in bytes, by compute capability.
TARGETS = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024}
# How often each kernel has run.
LAUNCHES: Counter[str] = Counter()

_FORMATS = {"i1": "?", "i8": "b", "i16": "h", "i32": "i", "i64": "q"}
_FORMATS |= {"u1": "?", "u8": "B", "u16": "H", "u32": "I", "u64": "Q"}
_FORMATS |= {"fp32": "f", "f32": "f", "fp64": "d"}


def install(target: str, seed: int = 0) -> None:
    """From now on this process compiles for `target` and runs kernels here.

    seed: of what a GPU leaves open: the order of blocks and, unless it is 0, the errors of
        approximate instructions.
    """
    made = _Driver(target, seed)
    knobs.runtime.kernel_load_start_hook.add(made.utils.note_ptx)
    driver.set_active(made)


class _Utils:
    """What Triton asks of a driver when it loads a kernel."""

    def __init__(self, target: str) -> None:
        self._shared = TARGETS[target]
        self._ptx = Path()

    def note_ptx(self, module, function, name, metadata_group, hash) -> None:
        """Where the text is of the kernel that is about to be loaded."""
        (self._ptx,) = (
            Path(path) for file, path in metadata_group.items() if file.endswith(".ptx")
        )

    def get_device_properties(self, device):
        return {"max_shared_mem": self._shared, "multiprocessor_count": 132}

    def load_binary(self, name, binary, shared, device):
        """(module, function, registers, spills, most threads): the function is the Program."""
        program = read(self._ptx.read_text())
        if program.name != name:
            raise FaultError(f"{name} is to be loaded, and {program.name} was compiled")
        return None, program, 0, 0, 1024


class _Driver(DriverBase):
    def __init__(self, target: str, seed: int) -> None:
        self._capability = int(target.removeprefix("sm_"))
        self.utils = _Utils(target)
        self._seed = seed

    def launcher_cls(self, source, metadata):
        if metadata.global_scratch_size or metadata.profile_scratch_size or metadata.num_ctas > 1:
            raise FaultError("scratch memory or clusters of blocks")
        kinds = list(source.signature.values())
        return lambda *arguments: self._launch(kinds, metadata, *arguments)

    def _launch(self, kinds, metadata, x, y, z, stream, program: Program, *arguments):
        if not x * y * z:
            return
        # Triton's own four come first: packed metadata, the launch's, two hooks.
        given, tensors = [], []
        for kind, value in zip(kinds, arguments[4:], strict=True):
            if kind.startswith("*"):
                given.append(struct.pack("<Q", value.data_ptr()))
                tensors.append((value.data_ptr(), _span(value)))
            elif kind != "constexpr":
                given.append(struct.pack("<" + _FORMATS[kind], value))
        # Two pointers to scratch memory, which there is none of.
        given += [bytes(8)] * 2
        named = dict(zip(program.parameters, given, strict=True))
        LAUNCHES[program.name] += 1
        options = {"shared": metadata.shared, "seed": self._seed, "launch": LAUNCHES.total()}
        run(program, (x, y, z), named, tensors, **options)

    @classmethod
    def is_active(cls):
        return True

    def map_python_to_cpp_type(self, kind):
        return kind

    def get_current_target(self):
        return GPUTarget("cuda", self._capability, 32)

    def get_active_torch_device(self):
        return torch.device("cpu")

    def get_benchmarker(self):
        raise NotImplementedError("nothing is measured here")

    def get_current_device(self):
        return 0

    def set_current_device(self, device):
        pass

    def get_current_stream(self, device):
        return 0

    def get_device_capability(self, device=0):
        return divmod(self._capability, 10)


def _span(tensor: torch.Tensor) -> int:
    """Bytes from a tensor's first element to its last."""
    if not tensor.numel():
        return 0
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return (sum((size - 1) * stride for size, stride in steps) + 1) * tensor.element_size()
