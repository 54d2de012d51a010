"""The chain from decoded frames to patches, against the published code's pixels."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tempo_fast.video.resize import plan_resize, resize_image
from tempo_kernels import resize_columns, resize_rows
from tempo_kernels.patches import to_patches_ref
from tempo_kernels.preprocess import preprocess, preprocess_ref

from .tolerances import limit

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = sorted(path.stem for path in (GOLDEN / "cases").glob("*.safetensors"))
SMALLEST = "starved_budget"


def make_frames(case: dict) -> torch.Tensor:
    spec = importlib.util.spec_from_file_location("golden_frames", GOLDEN / "frames.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return torch.from_numpy(module.make_frames(case["n"], case["h"], case["w"], case["seed"]))


def read_case(name: str) -> tuple[dict, torch.Tensor, torch.Tensor]:
    with safe_open(GOLDEN / "cases" / f"{name}.safetensors", "pt") as file:
        case = json.loads(file.metadata()["case"])
        return case, file.get_tensor("pixel_index"), file.get_tensor("pixel_value")


def steps_for(frames: torch.Tensor) -> list[tuple[int, int, bool]]:
    return plan_resize(*frames.shape[1:3])


def image_limits() -> dict[str, int]:
    text = (GOLDEN / "checkpoint" / "tiny-qwen3-vl" / "preprocessor_config.json").read_text()
    size = json.loads(text)["size"]
    return {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}


@pytest.mark.parametrize("name", CASES)
def test_the_reference_gives_the_published_pixels(name):
    case, index, value = read_case(name)
    frames = make_frames(case)
    if case.get("image"):  # resized by the image processor's own rule, on the host
        image = torch.from_numpy(resize_image(frames[0].numpy(), factor=32, **image_limits()))
        found = [to_patches_ref(torch.stack((image, image)), torch.float32)]
    else:
        found = []
        for segment in frames.split(case.get("win", 8)):
            even = torch.cat((segment, segment[-1:])) if len(segment) % 2 else segment
            found.append(preprocess_ref(even, steps_for(frames), torch.float32))
    pixels = torch.cat([patches.flatten() for patches in found])
    assert (pixels[index] - value).abs().max() <= limit("preprocess: golden pixels")


def test_the_kernels_give_the_published_pixels(device, interpreted, monkeypatch):
    if interpreted:  # it pays by the program
        monkeypatch.setattr(resize_rows, "BLOCK_Y", 64)
        monkeypatch.setattr(resize_columns, "BLOCK_Y", 64)
        monkeypatch.setattr(resize_columns, "BLOCK_X", 512)
    case, index, value = read_case(SMALLEST)
    frames = make_frames(case)[:2]
    steps = steps_for(frames)
    assert {by_pillow for *_, by_pillow in steps} == {True, False}
    pixels = preprocess(frames.to(device), steps, torch.float32).flatten().cpu()
    here = index < pixels.numel()
    assert here.sum() > 500
    assert (pixels[index[here]] - value[here]).abs().max() <= limit("preprocess: golden pixels")


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in CASES if name != "image"])
def test_the_kernels_give_every_case_its_pixels(device, interpreted, name):
    if interpreted:
        pytest.skip("whole cases take minutes in the interpreter")
    case, index, value = read_case(name)
    frames = make_frames(case)
    found = []
    for segment in frames.split(case.get("win", 8)):
        even = torch.cat((segment, segment[-1:])) if len(segment) % 2 else segment
        found.append(preprocess(even.to(device), steps_for(frames), torch.float32).flatten())
    pixels = torch.cat(found).cpu()
    assert (pixels[index] - value).abs().max() <= limit("preprocess: golden pixels")


CHAINS = {
    "both, columns last": [(48, 96, True), (32, 96, True)],
    "columns of interleaved pixels": [(32, 80, True), (64, 64, True)],
    "only columns": [(64, 80, True), (32, 80, True), (32, 96, True)],
    "only rows": [(40, 64, True), (32, 64, True), (32, 128, True)],
    "float from frames": [(64, 96, False)],
    "float rows": [(32, 80, True), (32, 96, False)],
    "float columns of planes": [(40, 96, True), (64, 96, False)],
    "a step that keeps the size": [(40, 80, True), (32, 64, True), (32, 64, False)],
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_chain_of_passes(device, name, dtype):
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 40, 80, 3), generator=generator, dtype=torch.uint8)
    expected = preprocess_ref(frames, CHAINS[name], dtype)
    out = torch.full_like(expected, float("nan"), device=device)
    assert preprocess(frames.to(device), CHAINS[name], dtype, out=out) is out
    by_float = any(not by_pillow for *_, by_pillow in CHAINS[name])
    differs = (out.cpu().double() - expected.double()).abs()
    allowed = limit("preprocess: one level")
    allowed += limit("preprocess: bfloat16") * (dtype == torch.bfloat16)
    assert differs.max() <= allowed * by_float
    assert (differs > 0).double().mean() <= limit("preprocess: levels apart") * by_float


@pytest.mark.parametrize(
    "name", ["both, columns last", "only rows", "columns of interleaved pixels"]
)
def test_frames_whose_planes_lie_in_memory(device, name):
    frames = torch.randint(0, 256, (2, 3, 40, 80), dtype=torch.uint8).permute(0, 2, 3, 1)
    expected = preprocess_ref(frames.contiguous(), CHAINS[name])
    assert torch.equal(preprocess_ref(frames, CHAINS[name]), expected)
    assert torch.equal(preprocess(frames.to(device), CHAINS[name]).cpu(), expected)
    small = frames[:, :32, :64].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert torch.equal(preprocess(small.to(device), []).cpu(), to_patches_ref(small.contiguous()))
    with pytest.raises(ValueError, match="a contiguous tensor is needed"):
        preprocess(frames.to(device)[:, :, :64], [])


def test_no_steps_cut_the_frames_as_they_are(device):
    frames = torch.randint(0, 256, (2, 32, 64, 3), dtype=torch.uint8)
    assert torch.equal(preprocess(frames.to(device), []).cpu(), to_patches_ref(frames))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([(48, 96, True)], "2 frames of 96x48 don't divide"),
        ([], "2 frames of 80x40 don't divide"),
        ([(0, 32, True)], "a frame of 32x0"),
    ],
)
def test_bad_input_is_a_value_error(device, steps, message):
    frames = torch.zeros(2, 40, 80, 3, dtype=torch.uint8, device=device)
    with pytest.raises(ValueError, match="frames is a list"):
        preprocess([frames], steps)
    with pytest.raises(ValueError, match=message):
        preprocess(frames, steps)
    with pytest.raises(ValueError, match="3 frames of 32x32 don't divide"):
        preprocess(torch.zeros(3, 40, 80, 3, dtype=torch.uint8, device=device), [(32, 32, True)])
