from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tempo_fast.errors import OptionError, VideoError
from tempo_fast.options import OpenOptions
from tempo_fast.video import load_frames, open_source

CLIP = Path(__file__).parent / "golden" / "clip.mp4"


def grey(value, height=20, width=30):
    return np.full((height, width, 3), value, np.uint8)


def greys(frames):
    return [int(frame[0, 0, 0]) for frame in frames]


def write_images(folder, values, size=(20, 30), suffix=".png"):
    folder.mkdir(exist_ok=True)
    for value in values:
        Image.fromarray(grey(value, *size)).save(folder / f"{value}{suffix}")
    return folder


def write_animation(path, values, duration, **options):
    first, *others = (Image.fromarray(grey(value)) for value in values)
    first.save(path, save_all=True, append_images=others, duration=duration, **options)
    return path


def test_array_is_already_sampled():
    frames = np.stack([grey(i) for i in range(2000 // 8)])
    with open_source(frames, OpenOptions(fps=0.5, max_frames=4)) as source:
        assert (source.count, source.height, source.width) == (250, 20, 30)
        assert source.real_fps == 0.5 and not source.is_image
        found = list(source)
    assert (np.stack(found) == frames).all()
    found[0][:] = 99
    assert (frames[0] == 0).all()  # the caller's array is not written through


def test_tensor_and_clip_of_an_array():
    frames = torch.stack([torch.full((8, 8, 3), i, dtype=torch.uint8) for i in range(20)])
    source = open_source(frames, OpenOptions(fps=2.0, clip=(3.0, 5.0)))
    assert greys(source) == [6, 7, 8, 9, 10] and source.real_fps == 2.0


def test_array_in_another_memory_order():
    frames = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 6), np.uint8).transpose(0, 2, 3, 1)
    found = list(open_source(frames, OpenOptions(fps=1.0)))
    assert all(frame.flags.c_contiguous for frame in found)
    assert (np.stack(found) == frames).all()


@pytest.mark.parametrize(
    "video", [grey(7), torch.from_numpy(grey(7)), Image.fromarray(grey(7)), None]
)
def test_single_images(tmp_path, video):
    if video is None:
        video = tmp_path / "image.png"
        Image.fromarray(grey(7)).save(video)
    source = open_source(video, OpenOptions())
    assert source.is_image and source.count == 1 and (source.height, source.width) == (20, 30)
    (frame,) = source
    assert frame.dtype == np.uint8 and (frame == 7).all()
    with pytest.raises(OptionError, match="single image"):
        open_source(video, OpenOptions(clip=(0.0, 1.0)))
    with pytest.raises(OptionError, match="single image"):
        open_source(video, OpenOptions(fps=1.0))


def test_images_are_upright_opaque_and_rgb(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # held a quarter turn to the left
    pixels = grey(0)
    pixels[:, :5] = 255
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    source = open_source(tmp_path / "photo.jpg", OpenOptions())
    assert (source.height, source.width) == (30, 20)
    (frame,) = source
    assert frame[:4].min() > 200 and frame[8:].max() < 50
    (frame,) = open_source(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), OpenOptions())
    assert frame.shape == (4, 4, 3) and (frame == 255).all()
    (frame,) = open_source(Image.new("L", (4, 4), 9), OpenOptions())
    assert frame.shape == (4, 4, 3) and (frame == 9).all()


def test_npy_is_sampled(tmp_path):
    path = tmp_path / "frames.npy"
    np.save(path, np.stack([grey(i) for i in range(100)]))
    frames, real_fps = load_frames(path)
    assert greys(frames) == list(range(100)) and real_fps == 2.0
    frames, real_fps = load_frames(path, fps=25.0)
    assert greys(frames) == [0, 14, 28, 42, 57, 71, 85, 99] and real_fps == 2.0
    frames, _ = load_frames(path, fps=25.0, clip=(2.0, 3.0), video_fps=25)
    assert greys(frames) == list(range(50, 76))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_sampled_like_npy(tmp_path, save):
    pixels = np.random.default_rng(0).integers(0, 256, (100, 20, 30, 3), np.uint8)
    np.save(tmp_path / "frames.npy", pixels)
    save(tmp_path / "frames.npz", frames=pixels)
    for options in ({}, {"fps": 25.0}, {"fps": 1.0}, {"fps": 25.0, "clip": (2.0, 3.0)}):
        expected, rate = load_frames(tmp_path / "frames.npy", **options)
        frames, real_fps = load_frames(tmp_path / "frames.npz", **options)
        assert real_fps == rate and np.array_equal(frames, expected)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "it holds nothing"),
        ({"a": np.zeros(3), "b": np.zeros(3)}, r"it holds a\.npy, b\.npy"),
        ({"a": np.zeros((2, 8, 8, 3))}, "uint8"),
        ({"a": np.array([{"a": 1}], dtype=object)}, "uint8"),
        ({"a": np.zeros((8, 8, 3), np.uint8)}, "shape"),
        ({"a": np.zeros((0, 8, 8, 3), np.uint8)}, "empty"),
        ({"a": np.asfortranarray(np.zeros((2, 8, 8, 3), np.uint8))}, "Fortran"),
    ],
)
def test_npz_that_is_no_video(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(VideoError, match=message):
        load_frames(tmp_path / "bad.npz")


def test_npz_that_is_broken(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, np.zeros((9, 8, 8, 3), np.uint8))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[400] ^= 1  # in the frames: the checksum tells at the end
    header = whole.replace(b"(9, 8, 8, 3)", b"(7, 8, 8, 3)")
    for content in (b"", b"words", whole[:200], bytes(flipped), header):
        path.write_bytes(content)
        with pytest.raises(VideoError, match=r"bad\.npz"):
            load_frames(path)


def test_folder_in_natural_order(tmp_path):
    folder = write_images(tmp_path / "frames", [2, 10, 1, 33, 100])
    (folder / "notes.txt").write_text("not an image")
    frames, real_fps = load_frames(folder)
    assert greys(frames) == [1, 2, 10, 33, 100] and real_fps == 2.0
    frames, real_fps = load_frames(str(folder), fps=5.0, video_fps=3.0, min_frames=1)
    assert greys(frames) == [1, 10, 100] and real_fps == 3.0
    frames, _ = load_frames(folder, fps=1.0)
    assert greys(frames) == [1, 1, 2, 2, 10, 10, 33, 33, 100, 100]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_animation_has_its_own_rate(tmp_path, name):
    path = write_animation(tmp_path / name, range(10, 50, 2), 100, lossless=True)
    frames, real_fps = load_frames(path, video_fps=5.0)
    assert real_fps == 5.0
    expected = np.rint(np.linspace(0, 19, 10)) * 2 + 10
    assert np.abs(np.array(greys(frames)) - expected).max() <= 1  # a gif has a palette
    frames, _ = load_frames(path, video_fps=10.0, clip=(1.0, 1.45))
    assert np.abs(np.array(greys(frames)) - [30, 32, 34, 36, 38]).max() <= 1


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_animation_is_sampled_by_the_times_of_its_frames(tmp_path, name):
    path = write_animation(tmp_path / name, range(0, 160, 20), [50, 450] * 4, lossless=True)
    source = open_source(path, OpenOptions())
    assert source.count == 4 and source.real_fps == 2.0  # 8 frames in 2 s
    # At 0.25, 0.75, 1.25 and 1.75 s; a pair of frames begins every 0.5 s.
    assert np.abs(np.array(greys(source)) - [20, 60, 100, 140]).max() <= 1
    path = write_animation(tmp_path / name, range(0, 80, 20), [1700, 100, 100, 100], lossless=True)
    for options, expected in (
        ({"video_fps": 10}, [0] * 17 + [20, 40, 60]),
        ({"video_fps": 20, "clip": (1.0, 2.0)}, [0] * 14 + [20, 20, 40, 40, 60, 60]),
        ({"max_frames": 1, "clip": (0.0, 0.4)}, [0]),
    ):
        frames, _ = load_frames(path, **options)
        assert np.abs(np.array(greys(frames)) - expected).max() <= 1


def test_gif_without_times_and_with_one_frame(tmp_path):
    path = write_animation(tmp_path / "untimed.gif", range(0, 60, 10), 0)
    frames, real_fps = load_frames(path)
    assert len(frames) == 6 and real_fps == 2.0
    Image.fromarray(grey(3)).save(tmp_path / "one.gif")
    source = open_source(tmp_path / "one.gif", OpenOptions())
    assert source.count == 1 and not source.is_image


def test_sources_with_a_rate_of_their_own_refuse_another(tmp_path):
    gif = write_animation(tmp_path / "a.gif", (0, 50), 100)
    for path in (gif, CLIP):
        with pytest.raises(OptionError, match="rate of their own"):
            load_frames(path, fps=3.0)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (np.zeros((0, 8, 8, 3), np.uint8), "empty"),
        (np.zeros((2, 0, 8, 3), np.uint8), "empty"),
        (np.zeros((0, 8, 3), np.uint8), "empty"),
        (np.zeros((2, 8, 8, 3), np.float32), "uint8"),
        (np.zeros((2, 8, 8, 3), np.int64), "uint8"),
        (np.zeros((8, 8, 3), np.float32), "uint8"),
        (torch.zeros(2, 8, 8, 3), "uint8"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.bfloat16), "uint8"),
        (np.zeros((2, 3, 8, 8), np.uint8), "shape"),
        (np.zeros((8, 8), np.uint8), "shape"),
        (np.zeros((1, 2, 8, 8, 3), np.uint8), "shape"),
        (np.zeros((2, 8, 8, 4), np.uint8), "shape"),
        ([1, 2, 3], "list"),
        (None, "NoneType"),
    ],
)
def test_arrays_that_are_no_video(video, message):
    with pytest.raises(VideoError, match=message):
        open_source(
            video, OpenOptions(fps=2.0) if getattr(video, "ndim", 4) != 3 else OpenOptions()
        )


def test_array_needs_its_rate():
    with pytest.raises(OptionError, match="fps="):
        open_source(np.zeros((2, 8, 8, 3), np.uint8), OpenOptions())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), "uint8"),
        (np.array([{"a": 1}], dtype=object), "plain numbers"),
        (np.zeros((8, 8, 3), np.uint8), "shape"),
        (np.zeros((0, 8, 8, 3), np.uint8), "npy"),
    ],
)
def test_npy_that_is_no_video(tmp_path, array, message):
    path = tmp_path / "bad.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(VideoError, match=message):
        load_frames(path)


def test_npy_that_is_broken(tmp_path):
    path = tmp_path / "bad.npy"
    np.save(path, np.zeros((4, 8, 8, 3), np.uint8))
    whole = path.read_bytes()
    for content in (b"", b"words", whole[:200]):
        path.write_bytes(content)
        with pytest.raises(VideoError, match=r"bad\.npy"):
            load_frames(path)
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))
    with pytest.raises(VideoError, match="archive"):
        load_frames(path)


def test_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(VideoError, match="no images"):
        load_frames(tmp_path)


def test_folder_of_different_sizes_says_which(tmp_path):
    write_images(tmp_path, [1, 2, 3])
    write_images(tmp_path, [4], size=(10, 30))
    with pytest.raises(VideoError, match=r"1\.png is 30x20, 4\.png is 30x10"):
        load_frames(tmp_path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.webp"])
def test_images_that_are_broken(tmp_path, name):
    path = tmp_path / name
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    for content in (b"", b"words", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(VideoError, match=name):
            load_frames(path)
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}{path.suffix}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VideoError, match="folder"):
        load_frames(folder)


def test_an_animation_whose_frames_grow(tmp_path):
    small, large = tmp_path / "small.gif", tmp_path / "large.gif"
    for path, side in ((small, 8), (large, 16)):
        Image.fromarray(np.arange(side * side, dtype=np.uint8).reshape(side, side)).save(path)
    data = large.read_bytes()
    blocks = data[13 + 3 * (2 << (data[10] & 7)) :]  # after the screen's header and palette
    (tmp_path / "grown.gif").write_bytes(small.read_bytes()[:-1] + blocks)
    with pytest.raises(VideoError, match=r"frame 1 of .* is 16x16 and not 8x8 as the first"):
        load_frames(tmp_path / "grown.gif", video_fps=1000)
