import gc
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
import torch

from tempo_fast.errors import OptionError, VideoError
from tempo_fast.options import OpenOptions
from tempo_fast.video import open_source
from tempo_fast.video.frames import FrameSource, as_it_is
from tempo_fast.video.segments import HeldSegments, SegmentReader, depth_for, windows


class Numbered(FrameSource):
    """Frame i is filled with i; counts how far it was read; may fail or end early."""

    def __init__(self, count, fail_at=None, end_at=None):
        super().__init__(count=count, height=2, width=2, real_fps=2.0)
        self.read = 0
        self.fail_at, self.end_at = fail_at, end_at
        self.released = False

    def _frames(self):
        try:
            for index in range(self.count):
                if index == self.fail_at:
                    raise RuntimeError(f"frame {index} is broken")
                if index == self.end_at:
                    return
                self.read = index + 1
                yield np.full((2, 2, 3), index, np.uint8)
        finally:
            self.released = True


def same(frame):
    return frame


def numbers(segment):
    assert segment.dtype == torch.uint8 and segment.shape[1:] == (2, 2, 3)
    return segment[:, 0, 0, 0].tolist()


def reader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("tempo-fast-")]


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    gc.collect()
    assert reader_threads() == []


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 16, 21])
@pytest.mark.parametrize(("size", "stride"), [(8, 8), (4, 2), (8, 3), (2, 5), (1, 1), (3, 3)])
def test_segments_are_the_windows(count, size, stride):
    found = [numbers(s) for s in SegmentReader(Numbered(count), size, stride, resize=same)]
    expected = [list(range(cut.start, cut.end)) for cut in windows(count, size, stride)]
    assert found == [cut + cut[-1:] * (len(cut) % 2) for cut in expected]


def test_each_frame_is_resized_once_and_frames_in_gaps_not_at_all():
    seen = []

    def note(frame):
        seen.append(int(frame[0, 0, 0]))
        return frame

    list(SegmentReader(Numbered(12), 4, 2, resize=note))
    assert sorted(seen) == list(range(12))
    seen.clear()
    list(SegmentReader(Numbered(12), 2, 5, resize=note))
    assert sorted(seen) == [0, 1, 5, 6, 10, 11]


@pytest.mark.parametrize(("size", "stride"), [(8, 8), (8, 1), (5, 3)])
def test_frames_that_are_done_out_of_order(size, stride):
    def uneven(frame):
        time.sleep(0.004 * (frame[0, 0, 0] % 4 == 0))
        return frame

    reader = SegmentReader(Numbered(41), size, stride, resize=uneven, depth=1, workers=5)
    found = []
    for segment in reader:
        found.append(numbers(segment))
        segment[:] = 99  # what one segment's owner does to it shows in no other
    expected = [list(range(cut.start, cut.end)) for cut in windows(41, size, stride)]
    assert found == [cut + cut[-1:] * (len(cut) % 2) for cut in expected]


@pytest.mark.parametrize("workers", [1, 3])
def test_few_frames_are_in_memory(workers):
    alive = weakref.WeakSet()
    most, release = 0, threading.Event()

    class Pixels(np.ndarray):
        __hash__ = object.__hash__

    class Watched(Numbered):
        def _frames(self):
            for frame in super()._frames():
                frame = frame.view(Pixels)
                alive.add(frame)
                yield frame

    def wait(frame):
        nonlocal most
        release.wait(5)
        most = max(most, len(alive))
        return np.array(frame)

    source = Watched(64)
    with SegmentReader(source, 16, 16, resize=wait, workers=workers) as reader:
        time.sleep(0.05)
        assert source.read == workers + 2
        release.set()
        assert len(list(reader)) == 4
    assert most <= workers + 2


def test_torch_keeps_its_threads():
    seen = []

    def note(frame):
        seen.append(torch.get_num_threads())
        return frame

    def elsewhere():
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return seen.pop()

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        list(SegmentReader(Numbered(8), 8, 8, resize=note))
        assert seen == [1] * 8
        assert torch.get_num_threads() == elsewhere() == 3
    finally:
        torch.set_num_threads(before)


def test_a_program_ends_with_a_reader_open():
    program = """
import numpy as np
from tempo_fast.options import OpenOptions
from tempo_fast.video import open_source
from tempo_fast.video.segments import SegmentReader
frames = np.zeros((400, 64, 64, 3), np.uint8)
reader = SegmentReader(open_source(frames, OpenOptions(fps=2.0)), 8, 8)
print(len(next(iter(reader))))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "8\n", "")


@pytest.mark.parametrize("depth", [1, 3])
def test_the_thread_keeps_a_bounded_lead(depth):
    source = Numbered(400)
    with SegmentReader(source, 8, 8, resize=same, depth=depth) as reader:
        for taken, _ in enumerate(reader, 1):
            full = min(400, 8 * (taken + depth + 1))
            deadline = time.monotonic() + 5
            while source.read < full and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.005)  # room to run past the limit, were there none
            assert source.read == full
            if taken == 10:
                break
    assert source.released


def test_seconds_are_counted():
    def slow(frame):
        time.sleep(0.002)
        return frame

    reader = SegmentReader(Numbered(16), 8, 8, resize=slow)
    list(reader)
    assert reader.resize_seconds >= 16 * 0.002
    assert 0 < reader.decode_seconds < reader.resize_seconds


def test_source_error_comes_after_the_segments_before_it():
    found = []
    with pytest.raises(RuntimeError, match="frame 18 is broken"):
        for segment in SegmentReader(Numbered(24, fail_at=18), 8, 8, resize=same):
            found.append(numbers(segment)[0])  # noqa: PERF401 (a comprehension would lose them)
    assert found == [0, 8]


def test_resize_error_is_raised_as_it_is():
    def refuse(frame):
        raise VideoError("too thin")

    with pytest.raises(VideoError, match="too thin"):
        list(SegmentReader(Numbered(8), 8, 8, resize=refuse))


def test_resize_error_comes_after_the_segments_before_it():
    def refuse(frame):
        time.sleep(0.02 * (frame[0, 0, 0] == 7))  # still at work when the next segment fails
        if frame[0, 0, 0] == 9:
            raise VideoError("too thin")
        return frame

    source, found = Numbered(400), []
    with pytest.raises(VideoError, match="too thin"):
        for segment in SegmentReader(source, 8, 8, resize=refuse, workers=4):
            found.append(numbers(segment))  # noqa: PERF401 (a comprehension would lose them)
    assert found == [list(range(8))] and source.released and source.read < 24


def test_source_that_ends_early():
    with pytest.raises(VideoError, match="after 5 of 8"):
        list(SegmentReader(Numbered(8, end_at=5), 8, 8, resize=same))


def test_consumer_error_stops_the_thread():
    source = Numbered(400)
    with pytest.raises(KeyError):
        for segment in SegmentReader(source, 8, 8, resize=same):
            raise KeyError(numbers(segment)[0])
    gc.collect()
    assert reader_threads() == [] and source.released and source.read < 400


def test_close_before_during_and_after():
    for taken in (0, 1, 99):
        source = Numbered(80)
        reader = SegmentReader(source, 8, 8, resize=same, depth=2)
        segments = iter(reader)
        for _ in range(taken):
            next(segments, None)
        reader.close()
        reader.close()
        assert reader_threads() == []
        assert list(segments) == []


def test_a_reader_that_nobody_wants_ends_its_thread():
    reader = SegmentReader(Numbered(400), 8, 8, resize=same)
    assert reader_threads()
    del reader
    gc.collect()
    assert reader_threads() == []


def test_close_wakes_a_waiting_consumer():
    release = threading.Event()

    def wait(frame):
        release.wait(5)
        return frame

    reader = SegmentReader(Numbered(8), 8, 8, resize=wait)
    found = []
    consumer = threading.Thread(target=lambda: found.extend(reader))
    consumer.start()
    closer = threading.Thread(target=reader.close)
    closer.start()
    release.set()
    consumer.join(5)
    closer.join(5)
    assert not consumer.is_alive() and not closer.is_alive()
    assert len(found) <= 1


def test_an_interrupt_ends_a_program_at_once():
    program = """
import threading, time
import numpy as np
from tempo_fast.options import OpenOptions
from tempo_fast.video import open_source
from tempo_fast.video.segments import SegmentReader

def slow(frame):
    time.sleep(0.05)
    return frame

source = open_source(np.zeros((4000, 8, 8, 3), np.uint8), OpenOptions(fps=2.0))
try:
    for segment in SegmentReader(source, 8, 8, resize=slow):
        print("ready", flush=True)
except KeyboardInterrupt:
    print([thread.name for thread in threading.enumerate()])
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=30)
    assert running.returncode == 0
    assert out.splitlines()[-1] == "['MainThread']" and out.count("ready") < 9


def test_few_segments_wait_where_they_are_large():
    assert depth_for(8, 256, 512) == 4
    assert depth_for(8, 1080, 1920) == 4
    assert depth_for(8, 2160, 3840) == 1
    assert depth_for(1024, 4096, 4096) == 1


def test_depth_or_workers_of_zero():
    with pytest.raises(OptionError, match="depth"):
        SegmentReader(Numbered(8), 8, 8, depth=0)
    with pytest.raises(OptionError, match="workers"):
        SegmentReader(Numbered(8), 8, 8, workers=0)


@pytest.mark.parametrize(("count", "size"), [(1, 8), (16, 8), (21, 8), (5, 1), (9, 3)])
def test_held_segments_are_those_of_a_reader(count, size):
    frames = np.random.default_rng(0).integers(0, 256, (count, 20, 30, 3), np.uint8)
    frames.flags.writeable = False
    source = open_source(frames, OpenOptions(fps=2.0, clip=(0.0, 8.0)))
    with HeldSegments(source, size, size) as held:
        found = [list(window.split(2)) for window in held]
    read = list(SegmentReader(source, size, size, resize=as_it_is))
    assert [len(parts) for parts in found] == [len(window) // 2 for window in read]
    for parts, window in zip(found, read, strict=True):
        assert torch.equal(torch.cat(parts), window)
    held = HeldSegments(source, size, size)
    source.close()  # what was begun is not ended by it
    assert torch.equal(next(next(iter(held)).split(2)), read[0][:2])
    with pytest.raises(VideoError, match="closed"):
        HeldSegments(source, size, size)


def test_held_segments_of_frames_in_another_order_of_memory():
    planes = np.random.default_rng(0).integers(0, 256, (5, 3, 20, 30), np.uint8)
    source = open_source(planes.transpose(0, 2, 3, 1), OpenOptions(fps=2.0))
    window = next(iter(HeldSegments(source, 8, 8)))
    for frames, pair in zip(window.split(2), ([0, 1], [2, 3], [4, 4]), strict=True):
        assert frames.is_contiguous()
        assert (frames.numpy() == planes.transpose(0, 2, 3, 1)[pair]).all()
