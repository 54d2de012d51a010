"""Work on numbered jobs in several threads and hand over what they give, in order."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

from tempo_fast.video.frames import let_go, never

Job = TypeVar("Job")
Item = TypeVar("Item")
# How often one who waits asks whether that is still wanted.
_ASK_SECONDS = 0.1


class _Desk(Generic[Item]):
    """Where workers take job numbers and leave items, and the consumer takes the items in order.

    No more than `room` items wait. The job whose turn it is may always leave one, so that items of
    later jobs never keep it from going on.
    """

    def __init__(self, jobs: int, room: int) -> None:
        self._jobs, self._room = jobs, room
        self._changed = threading.Condition()
        self._items: defaultdict[int, deque[Item]] = defaultdict(deque)
        self._done: set[int] = set()
        self._errors: dict[int, BaseException] = {}
        self._given = self._turn = self._waiting = 0
        self._stopped = False

    def stopped(self) -> bool:
        return self._stopped

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    def next_job(self) -> int | None:
        with self._changed:
            if self._stopped or self._given == self._jobs:
                return None
            self._given += 1
            return self._given - 1

    def _may_put(self, job: int) -> bool:
        if self._stopped or self._waiting < self._room:
            return True
        return job == self._turn and not self._items[job]

    def put(self, job: int, item: Item) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._may_put(job))
            if not self._stopped:
                self._items[job].append(item)
                self._waiting += 1
                self._changed.notify_all()

    def finish(self, job: int, error: BaseException | None = None) -> None:
        with self._changed:
            self._done.add(job)
            if error is not None:
                self._errors[job] = error
            self._changed.notify_all()

    def take(self, stopped: Callable[[], bool]) -> Iterator[Item]:
        """All items in the order of their jobs; raises a job's error after its items.

        Ends early once stopped(), also where no item comes.
        """
        for job in range(self._jobs):
            with self._changed:
                self._turn = job
                self._changed.notify_all()
            while True:
                with self._changed:
                    while not self._changed.wait_for(self._turn_has_news, _ASK_SECONDS):
                        if stopped():
                            return
                    if not self._items[job]:
                        break
                    item = self._items[job].popleft()
                    self._waiting -= 1
                    self._changed.notify_all()
                yield item
                del item
            with self._changed:
                del self._items[job]
                error = self._errors.pop(job, None)
            if error is not None:
                raise error

    def _turn_has_news(self) -> bool:
        return bool(self._items[self._turn]) or self._turn in self._done


def _work(
    desk: _Desk[Item],
    jobs: list[Job],
    open_tool: Callable[[], AbstractContextManager],
    run: Callable[[object, Job, Callable[[], bool]], Iterator[Item]],
) -> None:
    job, tool, item = desk.next_job(), None, None
    try:
        if job is None:
            return
        with open_tool() as tool:
            while job is not None:
                for item in run(tool, jobs[job], desk.stopped):
                    desk.put(job, item)
                desk.finish(job)
                job = desk.next_job()
    except BaseException as error:  # whatever it is, it belongs to the consumer's thread
        let_go(error)
        tool = item = None  # which the error would keep, since it came through here too
        desk.finish(job, error)


def in_order(
    jobs: list[Job],
    open_tool: Callable[[], AbstractContextManager],
    run: Callable[[object, Job, Callable[[], bool]], Iterator[Item]],
    *,
    workers: int,
    room: int,
    stopped: Callable[[], bool] = never,
) -> Iterator[Item]:
    """Yield the items of all jobs, in order, while `workers` threads work on jobs ahead.

    open_tool: opens what a worker works with, once for each. run: (tool, job, stopped) gives the
    items of a job; it should end soon after stopped() turns true. room: items that may wait.
    stopped: whether the consumer wants no more, while it waits here.
    An error of a job is raised after the items before it. The threads have ended when the iteration
    has, however it ends.
    """
    desk: _Desk[Item] = _Desk(len(jobs), room)
    threads = [
        threading.Thread(
            target=_work,
            args=(desk, jobs, open_tool, run),
            name=f"tempo-fast-decode-{number}",
            daemon=True,
        )
        for number in range(workers)
    ]
    try:
        for thread in threads:
            thread.start()
        yield from desk.take(stopped)
    finally:
        desk.stop()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
