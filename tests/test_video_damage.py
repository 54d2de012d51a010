"""Damage that a decoder notices: reported with its time, or passed over and replaced."""

import contextlib
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("av")

from tempo_fast.errors import DamageWarning, VideoError
from tempo_fast.options import OpenOptions
from tempo_fast.video.damage import Damage, UntimedDamage
from tempo_fast.video.decode import VideoFile
from tempo_fast.video.segments import SegmentReader

from .test_video_exact import COUNT, VARIANTS, plain, rewritten, write

# I0 P4 B2 b1 b3 P8 B6 b5 b7, I12 B10 b9 b11 P16: numbered as shown, in the order of decoding.
DECODED = [0, 4, 2, 1, 3, 8, 6, 5, 7, 12, 10, 9, 11, 16]
KEYS = (0, 12)


def told(patched=(), failing=(), unseen=()):
    """(time, whether it is sound) of what comes out, in order; unseen: frames that don't come."""
    damage, out = Damage(), []
    held = []

    def come(times):
        for at in times:
            frame = SimpleNamespace(pts=at, key_frame=at in KEYS)
            if at not in unseen:
                out.extend(damage.come(frame, patched=at in patched))

    for number, at in enumerate(DECODED):
        damage.give(at, at in KEYS)
        if at in failing:
            damage.fail()
        else:
            held.append(at)
        ready = [at for at in sorted(held) if at <= number - 3]  # a decoder that holds some back
        held = [at for at in held if at not in ready]
        come(ready)
    come(sorted(held))
    out.extend(damage.end())
    return [(at, frame is not None) for at, frame in out]


def lost(**damage):
    frames = told(**damage)
    times = [at for at, _ in frames]
    assert times == sorted(times) and len(set(times)) == len(times)
    return [at for at, sound in frames if not sound]


def test_a_sound_stream_is_told_whole():
    assert told() == [(at, True) for at in sorted(DECODED)]


def test_frames_shown_before_the_one_that_they_were_made_of():
    # 5, 6 and 7 lean on 8; 9 to 11 are decoded after the keyframe but may lean on 8 as well.
    assert lost(patched={8}) == [5, 6, 7, 8, 9, 10, 11]
    assert lost(patched={4}) == [*range(1, 12)]


def test_a_frame_that_leans_on_nothing_damaged_is_kept():
    assert lost(patched={7}) == [7, 9, 10, 11]
    assert lost(patched={16}) == [16]


def test_packets_that_fail():
    assert lost(failing={8}) == [5, 6, 7, 8, 9, 10, 11]
    assert lost(failing={16}) == [16] and lost(failing={12}) == [9, 10, 11, 12, 16]
    assert lost(patched={4}, failing={8}) == [*range(1, 12)]


def test_frames_that_never_come_hold_nothing_up():
    assert [at for at, _ in told(unseen={4, 16})] == [at for at in sorted(DECODED) if at % 12 != 4]


def test_times_that_start_again_keep_no_more_than_a_few_frames_waiting():
    damage, told = Damage(), 0
    for number in range(200):
        at = number + 1000 if number < 100 else number
        damage.give(at, False)
        frame = SimpleNamespace(pts=at, key_frame=False)
        told += len(list(damage.come(frame, patched=False)))
        assert number - told < 20
    assert told + len(list(damage.end())) == 200


def halved(numbers):
    """Cuts these packets short, so that a decoder patches up what is missing."""
    return lambda number, data: data[: len(data) // 2] if number in numbers else data


BROKEN = {
    "mpeg4.mp4": ("mpeg4", {"g": "24", "bf": "2"}),
    "mpeg4.avi": ("mpeg4", {"g": "24", "bf": "2"}),
    "mpeg4_interlaced.mkv": VARIANTS["mpeg4_interlaced.mkv"],
    "mpeg2.ts": VARIANTS["mpeg2.ts"],
    "h264.ts": ("libx264", {"g": "24", "bf": "3"}),
    "slices.ts": VARIANTS["slices.ts"],
}


NONSENSE = b"\xff" * 9


@pytest.fixture(params=BROKEN)
def broken(request, tmp_path):
    """A file whose 31st packet is cut short, and its frames as they were."""
    whole = write(tmp_path / f"whole_{request.param}", *BROKEN[request.param])
    frames = [pixels for _, pixels in plain(whole)]
    return rewritten(whole, tmp_path / request.param, halved({30})), frames


@pytest.mark.filterwarnings("error::tempo_fast.errors.DamageWarning")
def test_what_a_decoder_patches_up_is_damage(broken):
    path, frames = broken
    taken = []
    with (
        VideoFile(path, OpenOptions(video_fps=25)) as source,
        pytest.raises(VideoError, match=r"damaged (from|at) 1\.\d\d"),
    ):
        taken.extend(source)
    assert 24 < len(taken) <= 33
    assert all((ours == theirs).all() for ours, theirs in zip(taken, frames, strict=False))
    # What lies before and after is as it was.
    for clip in ((0, 0.9), (2.9, 3.8)):
        first = int(clip[0] * 25)
        with VideoFile(path, OpenOptions(video_fps=25, clip=clip)) as source:
            for number, pixels in enumerate(source, first):
                assert (pixels == frames[number]).all()


def test_what_a_decoder_patches_up_can_be_replaced(broken):
    path, frames = broken
    options = OpenOptions(video_fps=25, on_error="skip")
    with VideoFile(path, options) as source, pytest.warns(DamageWarning, match=r"\(1\.\d\d to "):
        taken = list(source)
    check_replaced(taken, frames)


def check_replaced(taken, frames):
    """Every frame is as it was or the last sound one before it."""
    sound = [bool((a == b).all()) for a, b in zip(taken, frames, strict=False)]
    assert all(sound[:20]) and not all(sound[20:48]) and all(sound[49:])
    for number in range(1, len(sound)):
        assert sound[number] or (taken[number] == taken[number - 1]).all()


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("h264.ts", 0.5),
        ("mpeg2.ts", 0.5),
        ("h264.avi", 0.5),
        ("h264.avi", 0),
        ("mpeg4.avi", 0.5),
        ("mpeg4.avi", 0),
        ("raw.h264", 0.5),
    ],
)
def test_any_damaged_packet(tmp_path, name, left):
    """No frame that it has reached is given as sound, before it or after it."""
    codec, made = {"h264.avi": BROKEN["h264.ts"], "raw.h264": BROKEN["h264.ts"]}.get(
        name, BROKEN.get(name)
    )
    whole = write(tmp_path / f"whole_{name}", codec, made, count=72)
    frames = [pixels for _, pixels in plain(whole)]
    for broken in range(25, 47, 2):

        def change(number, data, broken=broken):
            return (data[: int(left * len(data))] or NONSENSE) if number == broken else data

        path = rewritten(whole, tmp_path / name, change)
        options = {"video_fps": 1000, "max_frames": 72}
        taken = []
        with VideoFile(path, OpenOptions(**options)) as source, contextlib.suppress(VideoError):
            taken.extend(source)
        with (
            VideoFile(path, OpenOptions(**options, on_error="skip")) as source,
            pytest.warns(DamageWarning),
        ):
            replaced = list(source)
        assert len(replaced) == source.count and 10 < len(taken) < 50
        # What was made up is never shown, even where a lost frame shifts those after it.
        known = {pixels.tobytes() for pixels in frames}
        assert all(pixels.tobytes() in known for pixels in (*taken, *replaced))
        if source._index.total == 72:
            assert all((a == b).all() for a, b in zip(taken, frames, strict=False))
            check_replaced(replaced, frames)


def test_a_picture_that_has_only_one_row_of_macroblocks_left(tmp_path):
    made = {"g": "24", "bf": "3", "x264-params": "slices=4"}
    whole = write(tmp_path / "whole.ts", "libx264", made, count=48)

    def change(number, data):
        units = data.split(b"\0\0\1")
        slices = [unit for unit in units[1:] if unit[0] & 31 == 1]
        if number != 20:
            return data
        return b"\0\0\1".join(unit for unit in units if unit not in slices[1:])

    path = rewritten(whole, tmp_path / "broken.ts", change)
    frames, taken = [pixels for _, pixels in plain(whole)], []
    with VideoFile(path, OpenOptions(video_fps=25)) as source, pytest.raises(VideoError):
        taken.extend(source)
    assert all((a == b).all() for a, b in zip(taken, frames, strict=False)) and len(taken) > 12


def test_a_recording_that_ends_in_the_middle_of_a_picture_is_no_damage(tmp_path):
    for name in ("mpeg2.ts", "h264.ts"):
        path = write(tmp_path / name, *BROKEN[name])
        data = path.read_bytes()
        path.write_bytes(data[: 188 * (len(data) // 188 - 3)])
        for on_error in ("raise", "skip"):
            with VideoFile(path, OpenOptions(on_error=on_error)) as source:
                assert len(list(source)) == source.count


def test_a_cut_start_is_no_damage(tmp_path, recwarn):
    whole = write(tmp_path / "whole.ts", *VARIANTS["open.ts"])
    data = whole.read_bytes()
    (tmp_path / "cut.ts").write_bytes(data[188 * (len(data) // 188 // 3) :])
    frames = []
    for on_error in ("raise", "skip"):
        with VideoFile(tmp_path / "cut.ts", OpenOptions(on_error=on_error)) as source:
            frames.append(list(source))
    assert not recwarn.list
    assert all((a == b).all() for a, b in zip(*frames, strict=True))


def test_an_avi_with_a_packet_that_nothing_can_be_made_of(tmp_path):
    whole = write(tmp_path / "whole.avi", "ffv1", {"g": "12"})
    frames = [pixels for _, pixels in plain(whole)]
    path = rewritten(
        whole, tmp_path / "broken.avi", lambda number, data: NONSENSE if number == 30 else data
    )
    options = OpenOptions(video_fps=25, on_error="skip")
    with VideoFile(path, options) as source, pytest.warns(DamageWarning, match=r"1\.20 to 1\.40 s"):
        assert source.count == COUNT
        taken = list(source)
    for number, pixels in enumerate(taken):
        assert (pixels == frames[29 if 30 <= number < 36 else number]).all()
    with pytest.raises(
        VideoError,
        match=r"damaged at 1\.20 s: only its samples up to frame 30 of 96",
    ):
        list(VideoFile(path, OpenOptions(video_fps=25)))


def test_a_run_that_fails_after_its_last_frame(tmp_path, monkeypatch):
    source = VideoFile(write(tmp_path / "clip.mp4", *VARIANTS["plain.mp4"]), OpenOptions())
    whole = list(source)

    def fails(*arguments):
        yield from whole
        raise VideoError("at the very end")

    monkeypatch.setattr(source, "_planned", fails)
    assert all((a == b).all() for a, b in zip(source, whole, strict=True))


def test_leaving_a_file_that_must_be_decoded_in_full(tmp_path, monkeypatch):
    path = write(tmp_path / "long.avi", *VARIANTS["mpeg4.avi"], count=300)
    decoded = []
    come = UntimedDamage.come

    def slowly(self, frame, **known):
        decoded.append(None)
        time.sleep(0.01)
        return come(self, frame, **known)

    source = VideoFile(path, OpenOptions(max_frames=2, min_frames=1, video_fps=0.2))
    monkeypatch.setattr(UntimedDamage, "come", slowly)
    reader = SegmentReader(source, 2, 2)
    while len(decoded) < 5:
        time.sleep(0.01)
    reader.close()
    assert len(decoded) < 100 < 300 == len(plain(path))
    assert not [t for t in threading.enumerate() if t.name.startswith("tempo-fast")]


def test_leaving_while_the_decoders_are_at_work(tmp_path, monkeypatch):
    source = VideoFile(write(tmp_path / "clip.mp4", *VARIANTS["plain.mp4"]), OpenOptions())
    began = threading.Event()

    def waits(self, run, to_pixels, stopped):
        began.set()
        while not stopped():
            time.sleep(0.01)
        return iter(())

    monkeypatch.setattr("tempo_fast.video.runs.RunReader.read", waits)
    reader = SegmentReader(source, 8, 8)
    began.wait()
    reader.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("tempo-fast")]
    assert np.shape(source._indices) == (8,)
