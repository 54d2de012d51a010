"""Progress bars on stderr: only on a terminal, and only for what takes over a second."""

from __future__ import annotations

import sys
from collections.abc import Collection
from threading import Lock

from tqdm import tqdm

UNITS = {
    "decode": "segment",
    "encode": "segment",
    "score": "segment",
    "write": "segment",
    "generate": "token",
}


def make_bar(description: str, total: int, unit: str) -> tqdm:
    """A bar that shows itself after a second, if stderr is a terminal, and leaves no trace."""
    return tqdm(
        desc=description,
        total=total,
        unit=unit,
        unit_scale=False,
        file=sys.stderr,
        disable=None,
        delay=1,
        leave=False,
        dynamic_ncols=True,
    )


class Progress:
    """A `progress(stage, done, total)` of the pipeline that draws one bar a stage.

    hidden: stages without a bar. It may be called from several threads. Closing it, which the end
    of its `with` block does, wipes the bars of stages that ended before their total.
    """

    def __init__(self, hidden: Collection[str] = ()) -> None:
        self._hidden = frozenset(hidden)
        self._bars: dict[str, tqdm] = {}
        self._lock = Lock()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage in self._hidden:
            return
        with self._lock:
            bar = self._bars.get(stage)
            if bar is None:
                if done >= total:
                    return
                bar = self._bars[stage] = make_bar(stage, total, UNITS.get(stage, "it"))
            bar.total = total
            bar.update(done - bar.n)
            if done >= total:
                self._bars.pop(stage).close()

    def close(self) -> None:
        with self._lock:
            while self._bars:
                self._bars.popitem()[1].close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
