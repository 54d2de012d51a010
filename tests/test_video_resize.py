import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch.nn import functional

from tempo_fast.checkpoint.config import read_config
from tempo_fast.demo.checkpoint import make_tokenizer, random_configs
from tempo_fast.engine.ops import preprocess
from tempo_fast.errors import CheckpointError, VideoError
from tempo_fast.options import OpenOptions
from tempo_fast.video import open_source
from tempo_fast.video.resize import (
    FrameLimits,
    frame_size,
    plan_resize,
    resize_frame,
    resize_image,
)
from tempo_fast.video.segments import SegmentReader
from tempo_kernels.patches import lies_in_planes

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.stem for path in (GOLDEN / "cases").glob("*.safetensors"))


def make_frames(*args):
    spec = importlib.util.spec_from_file_location("golden_frames", GOLDEN / "frames.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_frames(*args)


def read_case(name):
    with safe_open(GOLDEN / "cases" / f"{name}.safetensors", "pt") as file:
        names = ("pixel_shape", "pixel_mean", "pixel_value", "pixel_index")
        grid = "image_grid_thw" if "image_grid_thw" in file.keys() else "video_grid_thw"  # noqa: SIM118
        tensors = {key: file.get_tensor(key) for key in names}
        return json.loads(file.metadata()["case"]), tensors, file.get_tensor(grid).tolist()


def image_limits():
    text = (GOLDEN / "checkpoint" / "tiny-qwen3-vl" / "preprocessor_config.json").read_text()
    size = json.loads(text)["size"]
    return {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}


@pytest.mark.parametrize("name", CASES)
def test_pixels_equal_the_published_ones(name):
    case, golden, grid = read_case(name)
    frames = make_frames(case["n"], case["h"], case["w"], case["seed"])
    size = case.get("win", 8)
    if case.get("image"):
        image = torch.from_numpy(resize_image(frames[0], factor=32, **image_limits()))
        segments = [torch.stack([image, image])]
    else:
        source = open_source(frames, OpenOptions(fps=case.get("fps", 2.0)))
        segments = list(SegmentReader(source, size, size))
    assert [[len(s) // 2, s.shape[1] // 16, s.shape[2] // 16] for s in segments] == grid
    pixels = torch.cat([preprocess(s, (), torch.float32).reshape(-1, 1536) for s in segments])
    assert list(pixels.shape) == golden["pixel_shape"].tolist()
    found = pixels.reshape(-1)[golden["pixel_index"]]
    assert (found - golden["pixel_value"]).abs().max() <= 1e-6
    assert abs(pixels.double().mean() - golden["pixel_mean"]) <= 1e-6


@pytest.mark.parametrize(
    ("size", "steps"),
    [
        ((720, 1280), [(288, 512, True), (256, 512, True)]),
        ((180, 320), [(192, 320, True), (288, 480, False)]),
        ((512, 512), []),
        ((2160, 3840), [(288, 512, True), (256, 512, True)]),
        ((2, 400), [(64, 384, True), (160, 896, False)]),  # the least area, one side at its least
        ((30, 4000), [(16, 512, True), (64, 512, True), (128, 1024, False)]),
        ((64, 64), [(128, 128, True), (384, 384, False)]),
    ],
)
def test_plan(size, steps):
    plan = plan_resize(*size)
    assert [(step.height, step.width, step.by_pillow) for step in plan] == steps
    shape = (*((plan[-1].height, plan[-1].width) if plan else size), 3)
    out = resize_frame(np.full((*size, 3), 77, np.uint8))
    assert out.dtype == np.uint8 and out.shape == shape
    assert (out == 77).all()


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (16, 16),
        (16, 3200),  # a panorama
        (17, 33),
        (64, 64),
        (180, 320),
        (256, 512),  # already at size
        (512, 512),
        (513, 511),
        (720, 1280),
        (1280, 720),  # portrait
        (800, 1920),  # whose last step is torch's
        (360, 15),
        (1081, 1919),
        (4096, 4096),
        (4096, 64),
    ],
)
def test_segments_hold_what_each_frame_gives_alone(height, width):
    frames = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), np.uint8)
    plain = torch.stack([torch.from_numpy(np.array(plain_resize(frame))) for frame in frames])
    source = open_source(frames, OpenOptions(fps=2.0))
    found = torch.cat([segment[:2] for segment in SegmentReader(source, 2, 1, workers=3)])
    assert torch.equal(found, plain[[0, 1, 1, 2, 2, 2]])
    assert tuple(found.shape[1:3]) == frame_size(height, width)
    # A width that is resized leaves planes, from which patches are cut fastest.
    widths = {width, *(step.width for step in plan_resize(height, width))}
    segment = next(iter(SegmentReader(source, 2, 1)))
    assert lies_in_planes(segment) == (len(widths) > 1)


def plain_resize(frame):
    """The published steps one by one, as its libraries are called there."""

    def pillow(frame, height, width):
        image, bicubic = Image.fromarray(frame), Image.Resampling.BICUBIC
        # Until version 13 Pillow itself begins with the width.
        image = image.resize((width, image.height), bicubic)
        return np.asarray(image.resize((width, height), bicubic))

    def multiples(height, width, factor, least):
        rows, columns = (max(factor, round(side / factor) * factor) for side in (height, width))
        if rows * columns < least:
            grow = math.sqrt(least / (height * width))
            rows, columns = (math.ceil(side * grow / factor) * factor for side in (height, width))
        return rows, columns

    height, width = frame.shape[:2]
    if max(height, width) > 512:
        scale = 512 / max(height, width)
        sides = [max(16, int(round(side * scale / 16) * 16)) for side in (height, width)]
        frame = pillow(frame, *sides)
    frame = pillow(frame, *multiples(*frame.shape[:2], 64, 4 * 64**2))
    size = multiples(*frame.shape[:2], 32, 128 * 32**2)
    planes = torch.from_numpy(np.array(frame)).permute(2, 0, 1).contiguous()[None].float()
    planes = functional.interpolate(planes, size, mode="bicubic", antialias=True)
    return planes.clamp(0, 255).round().to(torch.uint8)[0].permute(1, 2, 0).numpy()


def test_aspect_ratio_over_200():
    assert plan_resize(2, 400)
    for size in ((2, 402), (402, 2)):
        with pytest.raises(VideoError, match="aspect ratio over 200"):
            resize_frame(np.zeros((*size, 3), np.uint8))
        with pytest.raises(VideoError, match="aspect ratio over 200"):
            resize_image(np.zeros((*size, 3), np.uint8), factor=32, min_pixels=1, max_pixels=9999)


def test_image_limits_scale_down_and_up():
    image = np.zeros((100, 200, 3), np.uint8)
    small = resize_image(image, factor=32, min_pixels=1024, max_pixels=10_000)
    large = resize_image(image, factor=32, min_pixels=50_000, max_pixels=100_000)
    same = resize_image(image[:96, :192], factor=32, min_pixels=1024, max_pixels=100_000)
    assert small.shape == (64, 128, 3)  # beta = sqrt(2): 70.7 and 141.4 down
    assert large.shape == (160, 320, 3)  # beta = sqrt(2.5): 158.1 and 316.2 up
    assert same.shape == (96, 192, 3)


def test_limits_of_a_checkpoints_own():
    small = FrameLimits(longest_side=128, min_pixels=128 * 128)
    assert frame_size(720, 720, small) == (128, 128)
    assert frame_size(128, 128, small) == (128, 128)
    assert frame_size(64, 64, small) == (128, 128)
    frame = np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    assert resize_frame(frame, small).shape[:2] == frame_size(300, 500, small)
    assert frame_size(300, 500, small) != frame_size(300, 500)


def test_limits_in_a_configuration():
    tokenizer = make_tokenizer()
    tempo, base = random_configs(tokenizer, {})
    assert read_config(tempo, base).frames == FrameLimits()
    own = {"video_longest_side": 128, "video_min_pixels": 16384}
    assert read_config(tempo | own, base).frames == FrameLimits(128, 16384)
    for wrong in (0, "128", 12.5, True):
        with pytest.raises(CheckpointError, match="video_longest_side="):
            read_config(tempo | {"video_longest_side": wrong}, base)
