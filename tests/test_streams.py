"""Chunks beside each other: every user waits for what it uses, and holds it; captured chunks."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import pytest
import torch

from tempo_fast import TempoFastPipeline
from tempo_fast.compression.captured import BUCKET, MOST_GRAPHS, CapturedPrefill
from tempo_fast.compression.compressor import Compressor
from tempo_fast.compression.encoder import SegmentEncoder
from tempo_fast.engine.clock import Clock
from tempo_fast.engine.graphs import EagerGraphs
from tempo_fast.engine.streams import LANES, LaneMaker, Lanes, OneLane

QUESTION, ASK = "What moves?", {"visual_token_budget": 40}
CPU = torch.device("cpu")


class FakeLanes(Lanes):
    """Runs everything at once and writes down what a device would be told.

    log: (lane, what, detail). A mark is the place in the log that it stands behind.
    """

    in_flight = 2

    def __init__(self):
        super().__init__(Clock(CPU))
        self.log, self.lane = [], "host"
        self.made = {}  # the tensor's memory → the lane that made it and the place in the log

    def __call__(self, clock):
        return self

    def note(self, what, detail=None):
        self.log.append((self.lane, what, detail))
        return len(self.log) - 1

    @contextmanager
    def on(self, lane):
        before, self.lane = self.lane, lane
        yield
        self.lane = before

    def send(self, tensor, device):
        self.note("send")
        return tensor.to(device)

    def mark(self):
        return self.note("mark")

    def use(self, mark, *tensors):
        self.note("wait", mark)
        self.note("hold", {tensor.untyped_storage().data_ptr() for tensor in tensors})

    def end_chunk(self):
        self.note("end")

    def __enter__(self):
        self.note("begin")
        return self

    def __exit__(self, *exception):
        self.note("finish")


def storages(*tensors):
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@pytest.fixture
def lanes(pipe, monkeypatch):
    """Fake lanes under the video encoder, which note what each network reads and makes."""
    fake, compressor = FakeLanes(), pipe._compressors["video"]
    monkeypatch.setattr(compressor, "lanes", fake)
    monkeypatch.setattr(compressor, "chunk_tokens", 1)
    monkeypatch.setattr(compressor, "by_pairs", False)  # which a CPU has no lanes for

    def noted(name, reads, makes):
        plain = getattr(SegmentEncoder, name)

        def run(self, *args):
            fake.note("read", storages(*reads(args)))
            result = plain(self, *args)
            fake.note("made", storages(*makes(result)))
            return result

        monkeypatch.setattr(Compressor, name, run)

    noted("_patches", lambda args: (), lambda patches: (patches,))
    noted("_embed", lambda args: (args[0],), lambda embedded: ())
    noted("_see", lambda args: (), lambda result: (result[0], *result[1]))
    noted("_prefill", lambda args: (args[2], *args[3]), lambda result: ())
    return fake


def test_every_user_waits_for_its_maker_and_holds_what_it_made(pipe, clip_frames, lanes):
    expected = None
    with pipe.open(clip_frames, fps=2.0) as video:
        expected = video.compress(QUESTION, **ASK).allocations
    assert len(expected) == 5
    waited = {lane: set() for lane in LANES}  # places in the log that a lane's work is behind
    held = {lane: set() for lane in LANES}
    made = {}  # memory → (lane, place in the log)
    used = Counter()
    for place, (lane, what, detail) in enumerate(lanes.log):
        if what == "wait":
            assert lanes.log[detail][1] == "mark" and detail < place
            maker = lanes.log[detail][0]
            waited[lane] |= {i for i, note in enumerate(lanes.log[:detail]) if note[0] == maker}
        elif what == "hold":
            held[lane] |= detail
        elif what == "made":
            made |= dict.fromkeys(detail, (lane, place))
        elif what == "read":
            for memory in detail:
                maker, when = made[memory]
                assert maker != lane and when in waited[lane] and memory in held[lane]
                used[maker, lane] += 1
    assert used == {("copy", "vision"): 5, ("vision", "compress"): 5 * 4}
    whats = [what for _, what, _ in lanes.log]
    assert (whats[0], whats[-1]) == ("begin", "finish")
    assert [lane for lane, what, _ in lanes.log if what == "end"] == ["compress"] * 5


def test_two_chunks_in_flight_are_planned_for(pipe, clip_frames, lanes, monkeypatch):
    with pipe.open(clip_frames, fps=2.0) as video:
        double = video.memory.activations
    monkeypatch.undo()
    monkeypatch.setattr(pipe._compressors["video"], "chunk_tokens", 1)
    with pipe.open(clip_frames, fps=2.0) as video:
        assert video.memory.activations < double


def test_without_cuda_there_is_one_lane():
    maker = LaneMaker(CPU, streams=True)
    assert maker.in_flight == 1
    clock = Clock(CPU)
    with maker(clock) as lanes:
        assert isinstance(lanes, OneLane)
        with lanes.on("copy"):
            assert lanes.send(torch.ones(2), CPU).tolist() == [1, 1]
    assert clock.seconds["vision"] > 0


class CountedGraphs(EagerGraphs):
    def __init__(self):
        self.captures = self.replays = 0

    def capture(self, run, reset):
        self.captures += 1
        replay = super().capture(run, reset)

        def counted():
            self.replays += 1
            replay()

        return counted


@pytest.fixture
def captured(pipe):
    """A pipeline that captures, two segments a chunk, and what counts its graphs."""
    other = TempoFastPipeline(pipe.checkpoint, graphs=True)
    compressor, graphs = other._compressors["video"], CountedGraphs()
    compressor.captured = CapturedPrefill(compressor.decoder, graphs)
    compressor.chunk_tokens = 1000
    return other, graphs


def close(actual, expected):
    assert torch.equal(actual.allocations, expected.allocations)
    mine, theirs = actual.inputs_embeds, expected.inputs_embeds
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("placement", ["device", "host", "dropped"])
def test_captured_chunks_give_the_plain_result(pipe, captured, clip_frames, monkeypatch, placement):
    other, graphs = captured
    expected = pipe.compress(clip_frames, QUESTION, fps=2.0, **ASK)
    monkeypatch.setattr("tempo_fast.engine.memory.PLACEMENTS", (placement,))
    for _ in range(2):
        with other.open(clip_frames, fps=2.0) as video:
            close(video.compress(QUESTION, **ASK), expected)
    # Four whole segments, in one chunk or two, and one of a frame pair.
    assert graphs.captures >= 1 and graphs.replays > graphs.captures


def test_segments_that_differ_and_new_shapes_are_not_captured(captured, clip_frames):
    other, graphs = captured
    prefills = []
    plain = other._compressors["video"].captured.prefill

    def watch(rows, segments, *rest):
        done = plain(rows, segments, *rest)
        prefills.append((len({int(segment.visual.sum()) for segment in segments}), done))
        return done

    other._compressors["video"].captured.prefill = watch
    other._compressors["video"].chunk_tokens = 10**6
    for _ in range(2):
        with other.open(clip_frames, fps=2.0):  # the last segment is short
            pass
        with other.open(clip_frames[:32], fps=2.0):
            pass
    assert prefills == [(2, False), (1, False), (2, False), (1, True)]
    assert graphs.captures == 1


def test_few_captured_chunks_are_kept(captured, clip_frames):
    other, graphs = captured
    compressor = other._compressors["video"]
    for frames in range(2, 2 * MOST_GRAPHS + 6, 2):
        for _ in range(2):
            with other.open(clip_frames[:frames], fps=2.0, frame_windows=frames):
                pass
    assert graphs.captures == MOST_GRAPHS + 2
    assert len(compressor.captured._chunks) == MOST_GRAPHS
    assert all(shape[1] % BUCKET == 0 for shape in compressor.captured._chunks)


def test_padding_behind_a_segment_changes_nothing(captured, pipe, clip_frames):
    """Time tags of other lengths, in one bucket: each row ends where its own segment does."""
    other, _ = captured
    with pipe.open(clip_frames[:16], fps=0.7) as video:
        lengths = video._encoded.visual_lengths
        expected = video.compress(QUESTION, **ASK)
    for _ in range(2):
        with other.open(clip_frames[:16], fps=0.7) as video:
            assert video._encoded.visual_lengths == lengths
            close(video.compress(QUESTION, **ASK), expected)
