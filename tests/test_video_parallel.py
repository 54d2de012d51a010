"""Several threads that decode ahead: in order, within bounds, and gone when nobody wants more."""

import gc
import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

from tempo_fast import threads
from tempo_fast.errors import VideoError
from tempo_fast.options import OpenOptions
from tempo_fast.video import decode
from tempo_fast.video.decode import VideoFile
from tempo_fast.video.parallel import in_order
from tempo_fast.video.plan import Packets, plan

from .process import descriptors, on_linux

GOLDEN = Path(__file__).parent / "golden"


@contextmanager
def nothing():
    yield None


def decoders():
    return [thread for thread in threading.enumerate() if thread.name.startswith("tempo-fast-de")]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("room", [1, 3, 100])
def test_items_come_in_order_and_few_wait(workers, room):
    made, taken = [], []
    most = 0

    def work(_, job, stopped):
        for number in range(job % 4):
            time.sleep(0.0005 * ((job * 7) % 3))
            made.append(None)
            yield job, number

    for item in in_order(list(range(40)), nothing, work, workers=workers, room=room):
        most = max(most, len(made) - len(taken))
        taken.append(item)
    assert taken == [(job, number) for job in range(40) for number in range(job % 4)]
    # One for the job whose turn it is, and one in the hands of each worker.
    assert most <= room + 1 + workers + 1
    assert not decoders()


def test_an_error_comes_after_the_items_before_it():
    def work(_, job, stopped):
        yield job
        if job == 3:
            raise ValueError("third")

    seen = []
    with pytest.raises(ValueError, match="third"):
        seen.extend(in_order(list(range(50)), nothing, work, workers=3, room=4))
    assert seen == [0, 1, 2, 3] and not decoders()


def test_an_error_while_opening_is_raised():
    @contextmanager
    def fails():
        raise OSError("can't open")
        yield

    with pytest.raises(OSError, match="can't open"):
        list(in_order([1, 2], fails, lambda *_: iter(()), workers=2, room=2))
    assert not decoders()


@pytest.mark.parametrize("end", ["close", "forget", "interrupt"])
def test_stopping_early_ends_every_worker(end):
    closed = []

    @contextmanager
    def tool():
        try:
            yield
        finally:
            closed.append(None)

    def work(_, job, stopped):
        while not stopped():
            yield job

    items = in_order(list(range(4)), tool, work, workers=2, room=3)
    assert next(items) == 0 and len(decoders()) == 2
    if end == "close":
        items.close()
    elif end == "forget":
        del items
        gc.collect()
    else:
        with pytest.raises(KeyboardInterrupt):
            items.throw(KeyboardInterrupt)
    assert not decoders() and len(closed) == 2


@pytest.fixture
def many(monkeypatch):
    monkeypatch.setattr(decode, "usable_cores", lambda: 4)


@on_linux
@pytest.mark.parametrize("taken", [0, 1, 9])
def test_leaving_a_video_leaves_no_thread_and_no_file(many, taken):
    path = GOLDEN / "clip.mp4"
    source = VideoFile(path, OpenOptions())
    assert len(source._runs) > 1
    frames = iter(source)
    for _ in range(taken):
        next(frames)
    frames.close()
    assert not decoders() and not descriptors(path)


def test_the_number_of_workers_changes_nothing(monkeypatch):
    source = VideoFile(GOLDEN / "clip.mp4", OpenOptions())
    read = []
    for cores in (1, 2, 3, 16):
        monkeypatch.setattr(decode, "usable_cores", lambda cores=cores: cores)
        read.append(np.stack(list(source)))
    assert all((frames == read[0]).all() for frames in read[1:])


def test_a_file_that_changed_since_it_was_opened(many, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes((GOLDEN / "clip.mp4").read_bytes())
    source = VideoFile(path, OpenOptions())
    path.write_bytes(b"gone")
    with pytest.raises(VideoError):
        list(source)
    assert not decoders()


def test_what_the_packets_promise_and_the_decoder_breaks_is_decoded_in_full(many):
    source = VideoFile(GOLDEN / "clip.mp4", OpenOptions())
    before = np.stack(list(source))
    source._index.packets.times[-20:] += 1  # as if these packets were others when it was opened
    assert (np.stack(list(source)) == before).all()


def packets(times, entries):
    return Packets(np.array(times), np.array(entries), np.array(entries))


def test_a_plan_skips_what_holds_no_wanted_frame():
    # Three groups, shown in the order of decoding.
    known = packets(range(30), [0, 10, 20])
    runs = plan(known, np.array([3, 4, 21]), paired=False)
    assert [(run.start, run.end, run.times) for run in runs] == [(0, 5, (3, 4)), (20, 22, (21,))]
    assert plan(known, np.array([12]), paired=True)[0].end == 14


def test_a_frame_shown_before_its_keyframe_is_decoded_from_the_one_before():
    # Decoding order I0 P3 B1 B2 I6 B4 B5 P9: 4 and 5 may refer to 3.
    known = packets([0, 3, 1, 2, 6, 4, 5, 9], [0, 4])
    runs = plan(known, np.array([5, 6, 9]), paired=False)
    assert [(run.start, run.end, run.times) for run in runs] == [(0, 7, (5,)), (4, 8, (6, 9))]


def test_a_containers_share_of_the_cores(tmp_path, monkeypatch):
    limit = tmp_path / "cpu.max"
    monkeypatch.setattr(threads, "_CPU_MAX", limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    assert threads.usable_cores() == 16
    for says, cores in (
        ("max 100000", 16),
        ("250000 100000", 3),
        ("50000 100000", 1),
        ("3200000 100000", 16),
        ("nonsense", 16),
    ):
        limit.write_text(says + "\n")
        assert threads.usable_cores() == cores
