"""Frames in memory that the threads which encode resize: the same pixels, and an end at once."""

import signal
import threading
import time

import numpy as np
import pytest
import torch

from tempo_fast import pipeline
from tempo_fast.compression import encoder
from tempo_fast.engine import crew
from tempo_fast.engine.crew import crew_has_all_cores

from .test_crew import CPU, idle

pytestmark = pytest.mark.usefixtures("four_cores")


def test_who_has_all_cores(monkeypatch):
    assert crew_has_all_cores(CPU)
    monkeypatch.setattr(crew, "usable_cores", lambda: 16)  # a crew of four leaves some to others
    assert not crew_has_all_cores(CPU)
    monkeypatch.setattr(crew, "usable_cores", lambda: 1)
    assert not crew_has_all_cores(CPU)
    assert not crew_has_all_cores(torch.device("cuda"))


@pytest.mark.parametrize("shape", [(90, 160), (256, 256), (256, 512)])
def test_a_crew_resizes_frames_in_memory_alike(pipe, monkeypatch, shape):
    """Pillow's step and torch's, torch's alone, and none; an odd last frame."""
    frames = np.random.default_rng(0).integers(0, 256, (67, *shape, 3), np.uint8)
    by = []
    resize_lines = encoder.resize_lines
    monkeypatch.setattr(encoder, "resize_lines", lambda *args: by.append(1) or resize_lines(*args))
    ask = {"fps": 2.0, "visual_token_budget": 24}
    found = pipe.compress(frames, "What moves?", **ask)
    assert len(by) == (0 if shape == (256, 512) else 34)
    planes = np.ascontiguousarray(frames.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    planes = pipe.compress(planes, "What moves?", **ask)
    assert torch.equal(found.inputs_embeds, planes.inputs_embeds)
    by.clear()
    pipe.compress(frames[:56], "What moves?", **ask)  # 7 segments are too few for four threads
    assert not by
    overlapping = pipe.compress(frames, "What moves?", frame_stride=4, **ask)
    assert not by
    monkeypatch.setattr(pipeline, "crew_has_all_cores", lambda device: False)
    plain = pipe.compress(frames, "What moves?", **ask)
    assert not by
    assert torch.equal(found.inputs_embeds, plain.inputs_embeds)
    again = pipe.compress(frames, "What moves?", frame_stride=4, **ask)
    assert torch.equal(overlapping.inputs_embeds, again.inputs_embeds)


def test_the_crews_resizing_is_on_the_clock(pipe):
    frames = np.zeros((64, 90, 160, 3), np.uint8)
    timings = pipe(frames, "What moves?", fps=2.0, max_new_tokens=1).timings
    assert min(timings[stage] for stage in ("decode", "resize", "vision")) > 0


def test_the_crew_ends_before_the_next_pair(pipe, monkeypatch):
    """As at a Ctrl-C: nobody waits until the frames of a whole chunk are resized."""
    resized, resize_lines = [], encoder.resize_lines

    def interrupts(frames, steps):
        resized.append(1)
        if len(resized) == 3:
            time.sleep(0.3)  # by when the main thread waits for a chunk
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.1)
        return resize_lines(frames, steps)

    monkeypatch.setattr(encoder, "resize_lines", interrupts)
    frames = np.zeros((256, 90, 160, 3), np.uint8)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            pipe.open(frames, fps=2.0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(resized) < 8 * crew.MOST and idle()  # a chunk has 16 pairs


def test_held_frames_are_counted_by_the_pair(pipe, monkeypatch):
    """A plan for less memory than segments of full size would take keeps its threads."""
    frames, needed = np.zeros((64, 720, 1280, 3), np.uint8), []
    for held in (True, False):
        monkeypatch.setattr(pipeline, "crew_has_all_cores", lambda device, held=held: held)
        with pipe.open(frames, fps=2.0) as video:
            needed.append(video.memory.activations)
    segment = 8 * 256 * 512 * 3
    pair = 2 * 720 * 1280 * 3
    assert needed[0] - needed[1] == 5 * crew.MOST * (pair - segment)
