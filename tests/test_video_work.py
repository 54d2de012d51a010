"""What a video file takes: which frames are converted, by how many workers, how many are held."""

import threading
import time
import weakref
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("av")

import av
from av.video.reformatter import VideoReformatter

from tempo_fast.options import OpenOptions
from tempo_fast.video import decode, pixels, runs, sequential
from tempo_fast.video.decode import VideoFile
from tempo_fast.video.segments import SegmentReader

from .test_video_decode import break_packets, make_clip
from .test_video_exact import VARIANTS, write

TIGHT = {"g": "12", "keyint_min": "12", "sc_threshold": "0"}
EVERY = {"video_fps": 30}


@pytest.fixture
def cores(monkeypatch):
    """cores(count): as if there were so many."""

    def cores(count):
        monkeypatch.setattr(decode, "usable_cores", lambda: count)
        monkeypatch.setattr("tempo_fast.video.segments.usable_cores", lambda: count)

    return cores


@pytest.fixture
def conversions(monkeypatch):
    """The times of the frames whose colours were converted."""
    times = []

    class Counting:
        def __init__(self):
            self.reformatter = VideoReformatter()

        def reformat(self, frame, **wishes):
            times.append(frame.pts)
            return self.reformatter.reformat(frame, **wishes)

    for module in (decode, pixels, runs):
        monkeypatch.setattr(module, "VideoReformatter", Counting)
    return times


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("plain.mp4", "_planned"),
        ("single.mp4", "_planned"),
        ("vp9.webm", "_planned"),
        ("ffv1.mkv", "_everything"),
        ("mpeg4.avi", "_everything"),  # whose frames are counted
    ],
)
def test_only_wanted_frames_are_converted(tmp_path, conversions, cores, name, way, count):
    cores(count)
    path = write(tmp_path / name, *VARIANTS[name])
    source = VideoFile(path, OpenOptions(video_fps=25 / 12))
    assert bool(source._runs) == (way == "_planned")
    assert len(conversions) == 1  # which way up it is shown, and how large
    conversions.clear()
    wanted = np.unique(source._indices)
    assert len(list(source)) == len(wanted) == 8
    assert len(conversions) == 8
    if source._index.times is not None:
        assert sorted(conversions) == source._index.times[wanted].tolist()


@pytest.mark.parametrize("kind", ["mp4", "avi"])
def test_a_frame_that_is_shown_several_times_is_converted_once(tmp_path, conversions, kind):
    path = make_clip(tmp_path / f"clip.{kind}", count=5, bf="0")
    source = VideoFile(path, OpenOptions(video_fps=1, min_frames=12))
    conversions.clear()
    assert len(list(source)) == 12 and len(conversions) == 5


@pytest.fixture
def work(monkeypatch):
    """What decodes: (workers, each one's codec threads), or the threads alone of one that decodes
    everything."""
    found, workers = set(), []
    in_order, open_runs, open_video = decode.in_order, decode.open_runs, sequential.open_video

    def ordered(*args, **options):
        workers.append(options["workers"])
        return in_order(*args, **options)

    @contextmanager
    def runs_opened(*args):
        with open_runs(*args) as reader:
            found.add((workers[-1], reader._context.thread_count))
            yield reader

    @contextmanager
    def video_opened(path):
        with open_video(path) as (container, stream):
            try:
                yield container, stream
            finally:
                found.add(stream.codec_context.thread_count)

    monkeypatch.setattr(decode, "in_order", ordered)
    monkeypatch.setattr(decode, "open_runs", runs_opened)
    monkeypatch.setattr(sequential, "open_video", video_opened)
    return found


def grouped(path, group, bf="0"):
    """Sixty frames, a keyframe every `group`."""
    return make_clip(path, bf=bf, g=str(group), keyint_min=str(group), sc_threshold="0")


@pytest.mark.parametrize(
    ("count", "group", "expected"),
    [
        # Keyframes enough: a decoder of one thread for each core.
        (2, 12, (2, 1)),
        (4, 12, (4, 1)),
        (16, 2, (8, 2)),  # eight at most
        # Fewer runs than cores: the others' cores go to their decoders.
        (4, 20, (3, 1)),
        (4, 30, (2, 2)),
        (16, 30, (2, 8)),
        (4, 60, (1, 4)),
        (1, 12, (1, 1)),
    ],
)
def test_workers_and_codec_threads_by_a_files_keyframes(
    tmp_path, work, cores, count, group, expected
):
    cores(count)
    assert len(list(VideoFile(grouped(tmp_path / "clip.mp4", group), OpenOptions(**EVERY)))) == 60
    assert work == {expected}


def test_a_clip_within_one_group_has_one_decoder_on_all_cores(tmp_path, work, cores):
    cores(4)
    options = OpenOptions(**EVERY, clip=(0.9, 1.1))
    list(VideoFile(grouped(tmp_path / "clip.mp4", 12), options))
    assert work == {(1, 4)}


def test_no_codec_threads_where_damage_is_skipped(tmp_path, work, cores):
    """They notice damage late, or not at all."""
    cores(4)
    path = grouped(tmp_path / "clip.mp4", 30)
    list(VideoFile(path, OpenOptions(**EVERY, on_error="skip")))
    assert work == {(2, 1)}
    break_packets(path, [*range(30, 40)])
    with pytest.warns(match="damaged"):
        list(VideoFile(path, OpenOptions(**EVERY, on_error="skip")))
    assert {threads for _, threads in work} == {1}


@pytest.mark.parametrize("name", ["h264.avi", "ffv1.mkv", "mpeg4_interlaced.mkv"])
def test_one_decoder_where_the_packets_do_not_tell(tmp_path, work, cores, name):
    cores(4)
    source = VideoFile(write(tmp_path / name, *VARIANTS[name]), OpenOptions(**EVERY))
    work.clear()
    list(source)
    with av.open(str(source._path)) as container:
        context = container.streams.video[0].codec_context
        context.open()
        ffmpegs = context.thread_count  # by the machine's cores
    # Frame threads would give other pixels of interlaced MPEG-4.
    assert work == {1 if name == "mpeg4_interlaced.mkv" else ffmpegs}


@pytest.mark.parametrize(("group", "by"), [(12, "decode"), (30, "resize"), (60, "resize")])
def test_who_resizes(tmp_path, cores, group, by):
    """Decoders where there is one for each core, others where these would leave cores idle."""
    cores(4)
    threads = set()

    def note(frame):
        threads.add(threading.current_thread().name)
        return frame

    source = VideoFile(grouped(tmp_path / "clip.mp4", group), OpenOptions(**EVERY))
    list(SegmentReader(source, 8, 8, resize=note))
    assert threads and all(name.startswith(f"tempo-fast-{by}") for name in threads)


@pytest.mark.parametrize(
    ("height", "width", "room"), [(96, 96, 64), (720, 1280, 60), (2160, 3840, 6), (8640, 15360, 4)]
)
def test_room_for_decoded_frames_by_their_size(tmp_path, monkeypatch, height, width, room):
    seen = []

    def nothing(*_, room, **__):
        seen.append(room)
        yield from ()

    monkeypatch.setattr(decode, "in_order", nothing)
    source = VideoFile(make_clip(tmp_path / "clip.mp4"), OpenOptions())
    source.height, source.width = height, width
    with pytest.raises(decode.UnplannedError):
        list(source._planned(source._runs))
    assert seen == [room]


@pytest.fixture
def alive(monkeypatch):
    """How many converted frames there are: now, and at most so far."""
    counts, lock = {"now": 0, "most": 0}, threading.Lock()
    to_pixels = decode.to_pixels

    def count(change):
        with lock:
            counts["now"] += change
            counts["most"] = max(counts.values())

    def counted(*args):
        pixels = to_pixels(*args)
        count(1)
        weakref.finalize(pixels, count, -1)
        return pixels

    monkeypatch.setattr(decode, "to_pixels", counted)
    return counts


def settled(alive, least):
    """Wait until the workers have made what they may, then for what they shouldn't."""
    deadline = time.monotonic() + 10
    while alive["now"] < least and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)


@pytest.mark.parametrize("count", [240, 960])
@pytest.mark.parametrize("workers", [2, 4])
def test_a_slow_consumer_keeps_few_frames_waiting(
    tmp_path, monkeypatch, cores, alive, count, workers
):
    cores(workers)
    monkeypatch.setattr(decode, "_MOST_ROOM", 9)
    path = make_clip(tmp_path / "clip.mp4", count=count, **TIGHT)
    source = VideoFile(path, OpenOptions(**EVERY, max_frames=count))
    assert len(source._runs) == count // 12
    for number, _ in enumerate(source):
        if number % (count // 3) == 0:
            settled(alive, 9 + workers)
    # Those that wait and one of the run whose turn it is, one in the hands of each worker, the
    # consumer's and the one that it takes next.
    assert number == count - 1 and 9 + workers <= alive["most"] <= 9 + 1 + workers + 2


@pytest.mark.parametrize("count", [240, 960])
@pytest.mark.parametrize("group", [12, 960])  # in several workers, or one after the other
def test_a_slow_encoder_keeps_few_frames_in_memory(
    tmp_path, monkeypatch, cores, alive, count, group
):
    cores(2)
    monkeypatch.setattr(decode, "_MOST_ROOM", 9)
    options = TIGHT | {"g": str(group), "keyint_min": str(group)}
    path = make_clip(tmp_path / "clip.mp4", count=count, **options)
    source = VideoFile(path, OpenOptions(**EVERY, max_frames=count))
    with SegmentReader(source, 4, 4, resize=lambda frame: frame, depth=2) as reader:
        for number, _ in enumerate(reader):
            if number % (count // 12) == 0:
                settled(alive, 9)
    # As above, and those that the reader's threads copy into segments.
    assert number == count // 4 - 1 and 9 <= alive["most"] <= 9 + 1 + 2 + 2 + 3
