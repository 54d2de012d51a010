"""A CUDA device that isn't there: its tensors are the host's, and it refuses what a GPU refuses.

Whatever the calling thread asks of torch passes through a TorchFunctionMode, which knows the
tensors on the device by their class. It raises where a GPU would, or where one would give other
results: for operations on tensors of both devices; for kernels that get a tensor of the host; while
a graph is recorded, for what waits for the device, copies from or to the host, or draws random
numbers; for streams that are in each other's way (see `pretend_streams`). A replay does the
recorded operations again on the recording's tensors: what was the host's then stays as it was.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from functools import wraps
from types import SimpleNamespace

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from tempo_fast.checkpoint import weights
from tempo_fast.engine import graphs, ops

from . import pretend_names as names
from . import pretend_streams
from .pretend_streams import Event, Graph, Memory, RefusedError, Stream, address, tensors_of

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
GIB = 2**30
PLACE = {"device": CUDA, "is_cuda": True, "is_cpu": False}


class OnDevice(torch.Tensor):
    """A tensor that says it is on the device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def record_stream(self, stream: Stream) -> None:
        Event.device.memory.hold(self, stream)


class Pretence(TorchFunctionMode):
    """The device. waits: what the host waited for. replays: of graphs. kernels: those launched."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = Stream()
        self.memory = Memory()
        self.graph: Graph | None = None
        self.waits: list[str] = []
        self.replays = 0
        self.kernels: list[str] = []
        self.interpret = True
        self._pinned: set[int] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        if name == "__get__":  # an attribute
            name = func.__self__.__name__
            here = isinstance(args[0], OnDevice)
            if here and name in PLACE:
                return PLACE[name]
        if name in names.COPIES:
            return getattr(self, f"_{name.rstrip('_')}")(func, args, kwargs)
        if name == "_has_compatible_shallow_copy_type":
            return all(isinstance(x, OnDevice) for x in args)
        if name in names.FACTS:
            return func(*args, **kwargs)
        if name in names.RANDOM and self.graph is not None:
            raise RefusedError(f"{name} in a recording")
        if "device" in kwargs or name == "new_tensor":
            return self._make(func, name, args, kwargs)
        return self._compute(func, name, args, kwargs)

    def _compute(self, func, name, args, kwargs):
        tensors = tensors_of((args, kwargs))
        if not any(isinstance(x, OnDevice) for x in tensors):
            return func(*args, **kwargs)
        written = tensors_of(kwargs.get("out"))
        if name in names.INPLACE or (name.endswith("_") and not name.endswith("__")):
            written += tensors_of(args[0]) if args else tensors[:1]
        hosts = [x for x in tensors if not isinstance(x, OnDevice)]
        wide = [x for x in hosts if x.dim()]
        if (wide and name not in names.INDEXED) or (hosts and name in names.GATHERS):
            raise RefusedError(f"{name} of tensors on {CUDA} and {CPU}")
        if not all(isinstance(x, OnDevice) for x in written):
            raise RefusedError(f"{name} of a tensor on {CPU} with one on {CUDA}")
        if why := self._asks(name, args, kwargs, wide):
            self.blocks(why)
        if self.graph is not None:  # which has the host's numbers as they are now
            args, kwargs = tree_map(_frozen, args), tree_map(_frozen, kwargs)
        return self.run(lambda: func(*args, **kwargs), tensors, written)

    def _asks(self, name, args, kwargs, hosts) -> str | None:
        """Why the host waits for an operation, if it does: its result's size, a copy, a number."""
        unsized = name == "repeat_interleave" and "output_size" not in kwargs
        if name in names.VALUES | names.SIZES or (name == "where" and len(args) == 1) or unsized:
            return name
        if name in names.INDEXED and name != "where":
            index = tree_leaves([_bounds(part) for part in tree_leaves(args[1])])
            parts = [x for x in index if isinstance(x, OnDevice)]
            if hosts or isinstance(args[1], list) or any(not x.dim() for x in parts):
                return f"{name} by numbers of the host"
            if any(x.dtype in (torch.bool, torch.uint8) for x in parts):
                return f"{name} by a mask"
        if name in ("narrow", "select") and any(isinstance(x, OnDevice) for x in args[1:]):
            return name
        return None

    def run(self, work: Callable, tensors, written):
        """Do work on the current stream that reads `tensors` and changes those that are written."""
        if self.graph is not None:
            self.graph.undo += [(x, x.clone()) for x in written]
        made = tree_map(on_device, work())
        self.touch(tensors, written, tensors_of(made))
        if self.graph is not None:
            self.graph.calls.append((work, made, tensors, written))
        return made

    def touch(self, tensors, written, made) -> None:
        """Note what the current stream reads, writes and makes; a recording does nothing yet."""
        if self.graph is not None:
            return
        known = set(map(address, tensors))
        for x in tensors:
            if isinstance(x, OnDevice) and x.numel():
                self.memory.read(x, self.stream)
        for x in written:
            if x.numel():
                self.memory.write(x, self.stream)
        for x in made:
            if x.numel() and address(x) not in known:
                self.memory.make(x, self.stream)

    def _make(self, func, name, args, kwargs):
        """A function that is told where to make a tensor."""
        place, like = kwargs.get("device"), tensors_of(args)
        if place is None and any(isinstance(x, OnDevice) for x in like):
            place = CUDA
        pinned = kwargs.pop("pin_memory", False)
        if place is None or torch.device(place).type != "cuda":
            made = func(*args, **kwargs)
            return self.pin(made) if pinned else made
        kwargs["device"] = CPU
        data = like[1:] if name == "new_tensor" else like
        if name in names.COPYING and not any(isinstance(x, OnDevice) for x in data):
            self.blocks(f"{name} of the host's numbers")
        elif name not in names.COPYING and any(
            isinstance(x, OnDevice) and not x.dim() for x in like
        ):
            self.blocks(f"{name} of a number on the device")
        return self.run(lambda: func(*args, **kwargs), [], [])

    def _to(self, func, args, kwargs):
        tensor, *rest = args
        here = isinstance(tensor, OnDevice)
        there = here
        for x in (*rest, kwargs.get("device")):
            if isinstance(x, torch.Tensor):
                there = isinstance(x, OnDevice)
            elif isinstance(x, str | torch.device):
                there = torch.device(x).type == "cuda"

        def host(x):
            return CPU if isinstance(x, str | torch.device) else x

        args, kwargs = (tensor, *map(host, rest)), {key: host(x) for key, x in kwargs.items()}
        if here == there:
            return self._compute(func, "to", args, kwargs)
        self._crosses(tensor, kwargs.get("non_blocking", False), to_host=here)
        if not here:
            self._pinned_side(tensor, written=False)
            return self.run(lambda: func(*args, **kwargs).clone(), [], [])
        self.memory.read(tensor, self.stream)
        return func(*args, **kwargs).clone().as_subclass(torch.Tensor)

    def _cpu(self, func, args, kwargs):
        return self._to(torch.Tensor.to, (args[0], CPU), {})

    def _copy(self, func, args, kwargs):
        target, source = args[:2]
        here = isinstance(target, OnDevice)
        if here == isinstance(source, OnDevice):
            return self._compute(func, "copy_", args, kwargs)
        waitless = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        self._crosses(source if here else target, waitless, to_host=not here)
        self._pinned_side(source if here else target, written=not here)
        if here:
            self.memory.write(target, self.stream)
        else:
            self.memory.read(source, self.stream)
        return func(*args, **kwargs)

    def _pinned_side(self, host, *, written: bool) -> None:
        """Pinned memory is the device's too: copies on other streams have to wait."""
        if address(host) in self._pinned:
            (self.memory.write if written else self.memory.read)(host, self.stream)

    def _crosses(self, host, waitless: bool, *, to_host: bool) -> None:
        """A copy between a tensor of the host and the device."""
        if self.graph is not None:
            raise RefusedError("a copy between host and device in a recording")
        if not waitless or address(host) not in self._pinned:
            self.blocks("a copy to the host" if to_host else "a copy from the host")

    def _pin_memory(self, func, args, kwargs):
        if isinstance(args[0], OnDevice) or self.graph is not None:
            raise RefusedError("pin_memory of the device's memory, or in a recording")
        return self.pin(args[0].clone())

    def _is_pinned(self, func, args, kwargs):
        return address(args[0]) in self._pinned

    def pin(self, tensor):
        self.memory.take(tensor)
        self._pinned.add(address(tensor))
        weakref.finalize(tensor, self._pinned.discard, address(tensor))
        return tensor

    def blocks(self, what: str) -> None:
        """The host waits for the device."""
        if self.graph is not None:
            raise RefusedError(f"{what} in a recording")
        self.waits.append(what)

    def operation(self, function: Callable) -> Callable:
        """A package's function, as one operation that changes nothing that it gets."""

        @wraps(function)
        def run(*args, **kwargs):
            def work():
                with torch._C.DisableTorchFunction():
                    return function(*tree_map(plain, args), **tree_map(plain, kwargs))

            tensors = tensors_of((args, kwargs))
            if not all(isinstance(x, OnDevice) for x in tensors):
                raise RefusedError(f"{function.__name__} was given a tensor of the host")
            return self.run(work, tensors, [])

        return run

    def launch(self, name: str, run: Callable, args, kwargs) -> None:
        """A Triton kernel. What it writes is told by what changes."""
        tensors = tensors_of((args, kwargs))
        if not all(isinstance(x, OnDevice) for x in tensors):
            raise RefusedError(f"the kernel {name} was given a tensor of the host")
        self.kernels.append(name)
        if not self.interpret:
            return

        def work():
            with torch._C.DisableTorchFunction():
                run(*map(plain, args), **{key: plain(x) for key, x in kwargs.items()})

        before = [plain(x).clone() for x in tensors]
        if self.graph is not None:
            self.graph.undo += list(zip(tensors, before, strict=True))
        work()
        pairs = zip(tensors, before, strict=True)
        written = [x for x, old in pairs if not _same(plain(x), old)]
        self.touch(tensors, written, [])
        if self.graph is not None:
            self.graph.calls.append((work, None, tensors, written))

    @contextmanager
    def recording(self, graph, *, pool=None, stream, capture_error_mode="global"):
        """`torch.cuda.graph`"""
        if self.graph is not None:
            raise RefusedError("a recording in a recording")
        stream.wait_stream(self.stream)
        with self.on(stream):
            self.graph = graph
            try:
                yield
            finally:
                self.graph = None
                graph.forget()

    @contextmanager
    def on(self, stream):
        """`torch.cuda.stream`"""
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before


def _bounds(index):
    return [index.start, index.stop, index.step] if isinstance(index, slice) else index


def _frozen(x):
    return x.clone() if isinstance(x, torch.Tensor) and not isinstance(x, OnDevice) else x


def on_device(x):
    return x.as_subclass(OnDevice) if type(x) in (torch.Tensor, torch.nn.Parameter) else x


def plain(x):
    return x.as_subclass(torch.Tensor) if isinstance(x, OnDevice) else x


def _same(one: torch.Tensor, two: torch.Tensor) -> bool:
    one, two = (x.contiguous().view(-1).view(torch.uint8) for x in (one, two))
    return torch.equal(one, two)


@contextmanager
def pretend_cuda(monkeypatch, *, interpret: bool = False):
    """A GPU of compute capability 9.0, for this thread; yields the Pretence.

    interpret: run the kernels in Triton's interpreter. Else their launchers check what they get,
    and the references compute, which takes a hundredth of the time.
    """
    device = Pretence()
    generator = torch.Generator
    stand_ins = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda *_: (9, 0),
        "is_bf16_supported": lambda *_: True,
        "mem_get_info": lambda *_: (64 * GIB, 80 * GIB),
        "get_allocator_backend": lambda: "native",
        "memory_snapshot": list,
        "empty_cache": lambda: None,
        "synchronize": lambda *_: device.blocks("torch.cuda.synchronize"),
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": device.recording,
        "graph_pool_handle": lambda: None,
        "stream": device.on,
        "current_stream": lambda *_: device.stream,
        "is_current_stream_capturing": lambda: device.graph is not None,
        "device": lambda *_: nullcontext(),
    }
    with monkeypatch.context() as patch:
        for name, stand_in in stand_ins.items():
            patch.setattr(torch.cuda, name, stand_in)
        patch.setattr(torch.accelerator, "empty_host_cache", lambda: None, raising=False)
        made = {"__new__": lambda *_, **__: generator()}
        patch.setattr(torch, "Generator", type("Generator", (), made))
        patch.setattr(pretend_streams.Event, "device", device)
        patch.setattr(ops, "_mode", "auto")
        patch.setattr(graphs, "_streams", {})
        _patch_loading(patch)
        _patch_kernels(patch, device)
        if not interpret:
            _patch_operations(patch, device)
        with device:
            yield device


def _patch_loading(patch) -> None:
    """safetensors copies to the device by itself."""
    opened = weights.opened

    @contextmanager
    def by_the_host(path, place):
        with opened(path, "cpu") as shard:
            yield SimpleNamespace(get_tensor=lambda name: shard.get_tensor(name).to(place))

    patch.setattr(weights, "opened", by_the_host)


def _patch_kernels(patch, device: Pretence) -> None:
    from triton.runtime.interpreter import GridExecutor

    interpreted = GridExecutor.__call__

    def call(executor, *args, **kwargs):
        name = executor.fn.__name__
        device.launch(name, lambda *a, **k: interpreted(executor, *a, **k), args, kwargs)

    patch.setattr(GridExecutor, "__call__", call)


def _patch_operations(patch, device: Pretence) -> None:
    """Let launchers check and references compute."""
    device.interpret = False

    def both(operation, reference):
        def run(*args, **kwargs):
            done = operation(*args, **kwargs)
            return reference(*args, **kwargs) if isinstance(args[0], OnDevice) else done

        return run

    for name, operation in vars(ops).copy().items():
        launcher = getattr(operation, "__wrapped__", None)
        if launcher is not None:
            reference = getattr(sys.modules[launcher.__module__], f"{name}_ref")
            patch.setattr(ops, name, both(operation, reference))
