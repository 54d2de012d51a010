"""What the tests share: the golden cases, and pipelines on the golden checkpoint."""

from __future__ import annotations

import json
import os
import runpy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

# Kernels are bound to Triton's interpreter or compiler when they are imported.
if not (torch.cuda.is_available() or os.environ.get("TEMPO_FAST_PTX")):
    os.environ.setdefault("TRITON_INTERPRET", "1")

from tempo_fast import TempoFastPipeline
from tempo_fast.demo.checkpoint import make_checkpoint
from tempo_fast.engine import chunks, crew

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.stem for path in (GOLDEN / "cases").glob("*.safetensors"))
make_frames = runpy.run_path(str(GOLDEN / "frames.py"))["make_frames"]


@dataclass(frozen=True)
class GoldenCase:
    """What the published code was given (settings) and what it printed (text, tensors)."""

    name: str
    settings: dict
    text: str
    tensors: dict[str, torch.Tensor]

    @property
    def query(self) -> str:
        return self.settings["query"]

    @property
    def video(self) -> np.ndarray:
        frames = make_frames(*(self.settings[name] for name in ("n", "h", "w", "seed")))
        return frames[0] if self.settings.get("image") else frames

    @property
    def opening(self) -> dict:
        """Options of `open`."""
        if self.settings.get("image"):
            return {}
        window = self.settings.get("win", 8)
        return {"fps": self.settings.get("fps", 2.0), "frame_windows": window}

    @property
    def asking(self) -> dict:
        """Options of `ask`."""
        return {
            "visual_token_budget": self.settings.get("budget", 8192),
            "tokenizer_model_max_length": self.settings.get("max_len", 16384),
            "dynamic_compress": self.settings.get("dynamic", True),
            "max_new_tokens": 24,
        }


def read_case(name: str) -> GoldenCase:
    with safe_open(GOLDEN / "cases" / f"{name}.safetensors", "pt") as file:
        notes = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not iterable
    return GoldenCase(name, json.loads(notes["case"]), notes["text"], tensors)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> GoldenCase:
    """Each golden case in turn."""
    return read_case(request.param)


@pytest.fixture(scope="session")
def golden_case():
    """golden_case(name) → GoldenCase."""
    return read_case


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden data."""
    return GOLDEN


@pytest.fixture(scope="session")
def pipe() -> TempoFastPipeline:
    """The golden checkpoint in float32 on the CPU, as a user there has it."""
    return TempoFastPipeline.from_pretrained(GOLDEN / "checkpoint" / "tiny-tempo", device="cpu")


@pytest.fixture(scope="session")
def made_pipe(tmp_path_factory: pytest.TempPathFactory):
    """made_pipe(**changes of config.json) → a pipeline on a checkpoint made for it."""

    def make(**changes: object) -> TempoFastPipeline:
        folder = make_checkpoint(tmp_path_factory.mktemp("made") / "tempo", **changes)
        return TempoFastPipeline.from_pretrained(folder, device="cpu")

    return make


@pytest.fixture(scope="session")
def clip() -> Path:
    """A short video file, where PyAV is installed to read it."""
    pytest.importorskip("av")
    return GOLDEN / "clip.mp4"


@pytest.fixture(scope="session")
def clip_frames() -> np.ndarray:
    """A short array video of five segments, the last of one frame."""
    return make_frames(33, 90, 160, 20)


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch):
    """As on a machine with four."""
    before = torch.get_num_threads()
    monkeypatch.setattr(crew, "usable_cores", lambda: 4)
    monkeypatch.setattr(chunks, "FEWEST_TOKENS", 1)
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)
