"""Work in chunks that shrink when memory runs out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

from tempo_fast.engine.crew import Crew
from tempo_fast.engine.memory import MemoryPlan
from tempo_fast.engine.meter import Meter, is_out_of_memory
from tempo_fast.errors import OutOfMemoryError

T = TypeVar("T")
# Less isn't worth a thread.
FEWEST_TOKENS = 256
# By how much the busiest thread may have more to do than the average: all cores on one chunk after
# the other lose about as much.
UNEVEN = 1.2
HELP = (
    "try dtype='bfloat16', fewer or shorter segments (max_frames, frame_windows), a smaller "
    "visual_token_budget, or end other programs that use the device's memory"
)


def in_chunks(
    tokens: Sequence[int],
    memory: MemoryPlan,
    meter: Meter,
    work: Callable[[range], T],
    before: Callable[[range], None] | None = None,
    release: Callable[[], object] | None = None,
) -> Iterator[tuple[range, T]]:
    """Yield (items, work(items)) for items 0…len(tokens), each once and in order.

    tokens: of each item. A chunk has at most memory.chunk_tokens tokens, or one item. Where
    memory.threads are several and have about the same to do, they work on chunks beside each other.
    `before` is called first, in the caller's thread, and what it raises is raised. When `work` runs
    out of memory, `release` (by default the meter's) gives back what it can, the chunk is halved,
    in `memory` too, and work is called again with its first half and with what was begun behind it:
    it must be able to start over. One item is tried once more, with nothing beside it.
    Raises OutOfMemoryError when that is too much as well.
    """
    chunk, threads = _cutter(tokens, memory)
    begun: deque[tuple[range, Callable[[], T]]] = deque()
    ahead, failed = 0, None
    with Crew(threads) as crew:
        while begun or ahead < len(tokens):
            if ahead < len(tokens) and len(begun) < (crew.ahead if memory.threads > 1 else 1):
                items = chunk(ahead)
                if before:
                    before(items)
                begun.append((items, crew.begin(work, items)))
                ahead = items.stop
                continue
            items, finish = begun.popleft()
            try:
                result = finish()
            except BaseException as error:
                # It holds the exception, whose traceback holds this frame.
                finish = None
                if not isinstance(error, (RuntimeError, MemoryError)) or not is_out_of_memory(
                    error
                ):
                    raise
                if len(items) == 1 and items == failed:
                    raise _explained("one segment", meter) from error
            else:
                yield items, result
                continue
            crew.settle()
            # The exceptions and their frames go now, and with them the tensors of the attempts.
            begun.clear()
            (release or meter.release)()
            failed = items
            if len(items) > 1:
                memory.halve(sum(tokens[item] for item in items))
            else:
                memory.threads = 1
            ahead = items.start


def _cutter(tokens: Sequence[int], memory: MemoryPlan) -> tuple[Callable[[int], range], int]:
    """How the next chunk is cut, from its first item, and how many threads are worth it."""

    def chunk(first: int, share: float = math.inf) -> range:
        most, end, total = min(memory.chunk_tokens, share), first + 1, tokens[first]
        while end < len(tokens) and total + tokens[end] <= most:
            total += tokens[end]
            end += 1
        return range(first, end)

    total = sum(tokens)
    for threads in range(min(memory.threads, len(tokens), torch.get_num_threads()), 1, -1):
        for parts in (1, 2, 4):
            share = max(FEWEST_TOKENS, -(-total // (threads * parts)))
            busy, end = [0] * threads, 0
            while end < len(tokens):
                items = chunk(end, share)
                busy[busy.index(min(busy))] += sum(tokens[item] for item in items)
                end = items.stop
            if max(busy) * threads <= UNEVEN * total:
                return partial(chunk, share=share), threads
    return chunk, 1


@contextmanager
def memory_explained(what: str, meter: Meter | None = None) -> Iterator[None]:
    """Turn an allocation that fails inside into an OutOfMemoryError that names `what`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise _explained(what, meter) from error


def _explained(what: str, meter: Meter | None) -> OutOfMemoryError:
    free = None if meter is None else meter.free()
    left = "" if free is None else f" ({free / 2**30:.1f} GiB are free)"
    return OutOfMemoryError(f"the device's memory is too small for {what}{left}: {HELP}")
