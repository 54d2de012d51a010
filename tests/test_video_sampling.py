import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempo_fast.errors import OptionError, VideoError
from tempo_fast.video.sampling import sample_indices
from tempo_fast.video.segments import windows


@pytest.mark.parametrize(
    ("total", "fps", "options", "indices", "real_fps"),
    [
        (300, 30.0, {"max_frames": 3, "min_frames": 1}, [0, 150, 299], 0.3),  # 149.5 to even: 150
        (300, 30.0, {"max_frames": 1, "min_frames": 1}, [299], 0.1),
        (1, 30.0, {}, [0], 30.0),
        (2, 30.0, {}, [0, 0, 1, 1], 60.0),
        (10, 0.0, {}, list(range(10)), 2.0),
        (10, -1.0, {"video_fps": 4.0}, list(range(10)), 4.0),
        (5, 4.0, {"video_fps": 2.0, "min_frames": 1}, [0, 4], 1.6),  # round(2.5) is 2
        (7, 4.0, {"video_fps": 2.0, "min_frames": 1}, [0, 2, 4, 6], 16 / 7),  # round(3.5) is 4
        (300, 30.0, {"clip": (2.0, 3.0), "min_frames": 2}, [60, 90], 60 / 31),
        (300, 30.0, {"clip": (9.0, 99.0), "min_frames": 2}, [270, 299], 2.0),
        (300, 30.0, {"clip": (9.99, 99.0)}, [299], 30.0),
    ],
)
def test_published_rule(total, fps, options, indices, real_fps):
    found, rate = sample_indices(total, fps, **options)
    assert found.dtype == np.int64
    assert found.tolist() == indices
    assert rate == pytest.approx(real_fps, rel=1e-12)


def test_clip_past_the_end_and_no_frames():
    with pytest.raises(OptionError, match="ends after 10 s"):
        sample_indices(300, 30.0, clip=(10.5, 12.0))
    with pytest.raises(VideoError, match="no frames"):
        sample_indices(0, 30.0)


@given(
    total=st.integers(1, 5000),
    fps=st.floats(0.1, 120),
    wanted=st.floats(0.01, 60),
    most=st.integers(1, 64),
    least=st.integers(1, 64),
)
def test_samples_are_in_order_and_within_limits(total, fps, wanted, most, least):
    found, rate = sample_indices(
        total, fps, video_fps=wanted, max_frames=max(most, least), min_frames=least
    )
    assert (np.diff(found) >= 0).all()
    assert found[-1] == total - 1 and (found[0] == 0 or len(found) == 1)
    assert len(found) == 1 if total == 1 else least <= len(found) <= max(most, least)
    assert rate == pytest.approx(len(found) * fps / total)


@given(count=st.integers(0, 200), size=st.integers(1, 20), stride=st.integers(1, 20))
def test_windows_start_every_stride(count, size, stride):
    cuts = windows(count, size, stride)
    assert [cut.index for cut in cuts] == list(range(-(-count // stride)))
    for cut in cuts:
        assert cut.start == cut.index * stride < count
        assert cut.end == min(cut.start + size, count)


@pytest.mark.parametrize(("size", "stride"), [(0, 1), (1, 0)])
def test_windows_need_a_size_and_a_stride(size, stride):
    with pytest.raises(OptionError):
        windows(8, size, stride)
