"""The front door: one-off and opened videos, streaming, sampling, options, dtypes, layouts."""

from __future__ import annotations

import gc
import json
import sys
import threading
import weakref
from itertools import zip_longest

import numpy as np
import pytest
import torch
from PIL import Image

from tempo_fast import Answer, OptionError, TempoError, TempoFastPipeline
from tempo_fast.answer import STAGES
from tempo_fast.engine.kv_cache import KVCache
from tempo_fast.language_model.generation import Generation
from tempo_fast.options import AskOptions, OpenOptions

QUESTION = "What color is the ball?"


def test_ask_equals_a_fresh_pipe(pipe, clip):
    questions = ("What moves?", "When does it stop?", "What moves?")
    with pipe.open(clip) as video:
        asked = [video.ask(q, max_new_tokens=8, visual_token_budget=60) for q in questions]
    for question, answer in zip(questions, asked, strict=True):
        fresh = pipe(clip, question, max_new_tokens=8, visual_token_budget=60)
        assert answer.to_dict() | {"timings": {}} == fresh.to_dict() | {"timings": {}}


def test_answer_holds_what_a_caller_needs(pipe, clip):
    answer = pipe(clip, QUESTION, max_new_tokens=4)
    assert isinstance(answer, Answer)
    assert answer.segments[0][0] == 0
    assert len(answer.segments) == len(answer.relevance) == len(answer.allocations) == 4
    assert answer.segments[-1][1] == pytest.approx(15, abs=0.5)
    assert all(0 <= score <= 1 for score in answer.relevance)
    assert tuple(answer.timings) == STAGES
    assert all(seconds > 0 for seconds in answer.timings.values())
    assert json.loads(json.dumps(answer.to_dict()))["text"] == answer.text


def test_a_later_question_does_not_pay_for_the_video(pipe, clip):
    with pipe.open(clip) as video:
        later = video.ask(QUESTION, max_new_tokens=1)
    assert video.timings["vision"] > 0
    for stage in ("decode", "resize", "vision"):
        assert later.timings[stage] == 0


def test_stream_joined_is_the_answer(pipe, golden_case):
    case = golden_case("full_hd")
    options = case.opening | case.asking
    stream = pipe.stream(case.video, case.query, **options)
    with pytest.raises(TempoError, match="not whole"):
        _ = stream.answer
    pieces = list(stream)
    whole = pipe(case.video, case.query, **options)
    assert len(pieces) > 1
    assert "".join(pieces) == stream.answer.text == whole.text
    assert stream.answer.token_ids == whole.token_ids
    with pipe.open(case.video, **case.opening) as video:
        asked = video.ask(case.query, stream=True, **case.asking)
        assert "".join(asked) == whole.text


def test_the_end_token_stops(pipe, clip_frames, monkeypatch):
    whole = pipe(clip_frames, QUESTION, fps=2.0, max_new_tokens=12)
    end = whole.token_ids[6]
    first = whole.token_ids.index(end)
    with pipe.open(clip_frames, fps=2.0) as video:
        video._stop_tokens = frozenset({end})
        answer = video.ask(QUESTION, max_new_tokens=12)
    assert answer.finish_reason == "stop"
    assert answer.token_ids == whole.token_ids[: first + 1]


def test_a_stop_string_ends_the_text_before_it(pipe, golden_case):
    case = golden_case("full_hd")
    asking = case.asking | {"stop": "visual"}
    answer = pipe(case.video, case.query, **case.opening, **asking)
    assert answer.finish_reason == "stop"
    assert answer.text == case.text[: case.text.index("visual")].strip()
    assert len(answer.token_ids) < 24


def test_sampling_is_repeatable_with_a_seed(pipe, clip_frames):
    options = {"temperature": 1.0, "max_new_tokens": 12}
    with pipe.open(clip_frames, fps=2.0) as video:
        one, two = (video.ask(QUESTION, seed=5, **options).token_ids for _ in range(2))
        other = video.ask(QUESTION, seed=6, **options).token_ids
        narrow = video.ask(QUESTION, seed=5, top_p=1e-6, **options).token_ids
        greedy = video.ask(QUESTION, max_new_tokens=12).token_ids
    assert one == two != other
    assert narrow == greedy != one


def test_images_come_as_path_array_or_pil(pipe, golden_case, tmp_path):
    case = golden_case("image")
    path = tmp_path / "picture.png"
    Image.fromarray(case.video).save(path)
    answers = [
        pipe(image, case.query, max_new_tokens=4)
        for image in (case.video, path, str(path), Image.open(path), torch.from_numpy(case.video))
    ]
    expected = case.tensors["generated_ids"][:4].tolist()
    assert [answer.token_ids for answer in answers] == [expected] * 5
    assert answers[0].allocations == [16]


def test_options_of_opening_reach_the_video(pipe, clip):
    with pipe.open(clip, max_frames=12, frame_windows=4) as video:
        assert len(video.segments) == 3
    with pipe.open(clip, clip=(5, 9), video_fps=1.0) as video:
        assert video.segments[-1][1] == pytest.approx(4, abs=0.2)
    with pipe.open(clip, max_frames=24, frame_windows=8, frame_stride=4) as video:
        starts = [start for start, _ in video.segments]
        assert len(starts) == 6
        assert starts[1] == pytest.approx(video.segments[0][1] / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 5}, "unknown option budget"),
        ({"fps": 2.0, "frame_windows": 0}, "frame_windows"),
        ({"fps": 2.0, "video_fps": float("nan")}, "video_fps"),
        ({"fps": 2.0, "max_frames": 1.5}, "max_frames"),
        ({"fps": 2.0, "clip": (3, 1)}, "clip"),
        ({"fps": 2.0, "clip": 3}, "clip"),
        ({"fps": 2.0, "strategy": "best"}, "strategy"),
        ({"fps": 2.0, "pruning": "topk", "strategy": "uniform"}, "give one of them"),
        ({"fps": 2.0, "visual_token_budget": 0}, "visual_token_budget"),
        ({"fps": 2.0, "temperature": -1}, "temperature"),
        ({"fps": 2.0, "temperature": True}, "temperature"),
        ({"fps": 2.0, "top_p": 0}, "top_p must be a number from 1e-30 to 1; got 0"),
        ({"fps": 2.0, "top_p": 1e-46}, "top_p"),
        ({"fps": 2.0, "seed": -1}, "seed"),
        ({"fps": 2.0, "seed": 2**64}, "seed"),
        ({"fps": 2.0, "stop": [""]}, "stop"),
        ({"fps": 2.0, "stop": 5}, "stop"),
        ({"fps": 2.0, "stop": None}, "stop"),
        ({"fps": 2.0, "max_new_tokens": 0}, "max_new_tokens"),
        ({"fps": 2.0, "max_new_tokens": 10**12}, "max_new_tokens"),
        ({"fps": 2.0, "visual_token_budget": 10**30}, "visual_token_budget"),
        ({"fps": 2.0, "temperature": float("inf")}, "temperature"),
        ({"fps": 2.0, "video_fps": 1e308}, "video_fps"),
        ({"fps": float("inf")}, "fps"),
        ({"fps": 2.0, "clip": (0, 1e308)}, "clip"),
        ({"fps": 2.0, "lazy": "no"}, "lazy"),
        ({"fps": 2.0, "tokenizer_model_max_length": 20}, "raise tokenizer_model_max_length"),
        ({"fps": 2.0, "visual_token_budget": 4}, "5"),
        ({}, "fps"),
    ],
)
def test_bad_options_are_refused_before_any_work(pipe, clip_frames, options, message):
    reports = []
    with pytest.raises(OptionError, match=message):
        pipe(clip_frames, QUESTION, progress=lambda *report: reports.append(report), **options)
    assert reports == []


def test_open_and_ask_take_their_own_options_only(pipe, clip_frames):
    with pytest.raises(OptionError, match="temperature"):
        pipe.open(clip_frames, fps=2.0, temperature=1.0)
    with pipe.open(clip_frames, fps=2.0) as video, pytest.raises(OptionError, match="video_fps"):
        video.ask(QUESTION, video_fps=1.0)


@pytest.mark.parametrize("query", [None, 5, b"bytes", "\ud800"])
def test_a_question_must_be_text(pipe, clip_frames, query):
    with pytest.raises(OptionError, match="question"):
        pipe(clip_frames, query, fps=2.0)


def test_max_frames_below_min_frames_wins(pipe, clip):
    with pipe.open(clip, max_frames=2) as video:
        assert len(video.segments) == 1


def test_a_closed_video_says_so(pipe, clip_frames):
    video = pipe.open(clip_frames, fps=2.0)
    video.close()
    video.close()
    with pytest.raises(TempoError, match="closed"):
        video.ask(QUESTION)


def test_a_failing_encoder_leaves_no_thread(pipe, clip_frames, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # a crew stays, idle: test_crew.py
    before = set(threading.enumerate())

    def fail(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr(pipe._compressors["video"], "_see", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        pipe(clip_frames, QUESTION, fps=2.0)
    assert set(threading.enumerate()) <= before


def test_questions_from_several_threads(pipe, clip_frames):
    questions = ["What moves?", "When?", "Who opens the door?", "Why?"]
    with pipe.open(clip_frames, fps=2.0) as video:
        expected = [video.ask(q, max_new_tokens=4).token_ids for q in questions]
        actual = [None] * len(questions)

        def ask(i):
            actual[i] = video.ask(questions[i], max_new_tokens=4).token_ids

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(questions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert actual == expected


def test_progress_counts_every_stage_to_its_end(pipe, clip_frames):
    reports = {}
    pipe(
        clip_frames,
        QUESTION,
        fps=2.0,
        max_new_tokens=3,
        progress=lambda stage, done, total: reports.setdefault(stage, []).append((done, total)),
    )
    assert reports["decode"] == [(i, 5) for i in range(6)]
    for stage in ("encode", "score", "write"):
        assert reports[stage][0] == (0, 5)
        assert reports[stage][-1] == (5, 5)
    assert reports["generate"] == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_bfloat16_stays_near_the_cpus_float32(golden, pipe, case, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    low = TempoFastPipeline.from_pretrained(
        golden / "checkpoint" / "tiny-tempo", device=device, dtype="bfloat16"
    )
    everything = case.asking | {"strategy": "none"}
    with low.open(case.video, **case.opening) as rough, pipe.open(case.video, **case.opening) as ex:
        actual = rough.compress(case.query, **everything)
        expected = ex.compress(case.query, **everything)
    assert actual.tokens.dtype == actual.inputs_embeds.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits; through 4 + 4 layers the golden cases measure 0.005, 0.012 and 0.016.
    assert (actual.relevance.cpu() - expected.relevance).abs().max() < 0.01
    difference = actual.tokens.float().cpu() - expected.tokens
    assert difference.square().mean().sqrt() < 0.02 * expected.tokens.square().mean().sqrt()
    assert difference.abs().max() < 0.03 * expected.tokens.abs().max()


@pytest.mark.parametrize(
    "changes",
    [
        {"mm_projector_type": "linear"},
        {"mm_projector_type": "mlp3x_gelu"},
        {"mm_projector_type": "identity", "hidden_size": 64},
        {"tie_word_embeddings": False},
        {"dynamic_compress": False},
        {"mm_use_im_start_end": True},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    ],
)
def test_other_layouts_load_and_answer(made_pipe, clip_frames, changes):
    pipe = made_pipe(**changes)
    answer = pipe(clip_frames, QUESTION, fps=2.0, max_new_tokens=3, visual_token_budget=30)
    assert answer.token_ids
    whole = changes.get("dynamic_compress") is False
    assert answer.allocations == [16] * 5 if whole else sum(answer.allocations) <= 30
    if "mm_use_im_start_end" in changes:
        before, after = pipe._prompt.text("x")
        decode = pipe.checkpoint.tokenizer.tokenizer.decode
        assert decode(before).endswith("<im_start>")
        assert decode(after).startswith("<im_end>\nx")


def test_the_context_cuts_the_end_of_the_visual_part(pipe, clip_frames):
    with pipe.open(clip_frames, fps=2.0) as video:
        whole = video.compress(QUESTION)
        cut = video.compress(QUESTION, tokenizer_model_max_length=90)
    before, after = (len(part) for part in pipe._prompt.text(QUESTION))
    assert len(cut.inputs_embeds) == 90 - 16
    visual = 90 - 16 - before - after
    assert torch.equal(cut.inputs_embeds[: before + visual], whole.inputs_embeds[: before + visual])
    assert torch.equal(cut.inputs_embeds[-after:], whole.inputs_embeds[-after:])


def test_array_views_and_tensors_are_read_alike(pipe, clip_frames):
    expected = pipe.compress(clip_frames, QUESTION, fps=2.0).tokens
    flipped = np.ascontiguousarray(clip_frames[:, :, ::-1])[:, :, ::-1]
    for same in (flipped, torch.from_numpy(clip_frames), clip_frames.copy()):
        assert torch.equal(pipe.compress(same, QUESTION, fps=2.0).tokens, expected)


def test_every_option_has_its_published_default():
    opening, asking = OpenOptions(), AskOptions()
    assert (opening.video_fps, opening.max_frames, opening.min_frames) == (2.0, 1024, 4)
    assert (opening.frame_windows, opening.stride, opening.clip) == (8, 8, None)
    assert (asking.visual_token_budget, asking.min_tokens, asking.strategy) == (8192, 4, "head")
    assert asking.dynamic_compress
    assert asking.tokenizer_model_max_length == 16384
    assert (asking.temperature, asking.top_p, asking.seed, asking.stop) == (0.0, 1.0, None, ())
    assert asking.max_new_tokens == 1024


def test_options_at_the_edge_of_their_ranges(pipe, clip_frames):
    answer = pipe(
        clip_frames,
        QUESTION,
        fps=2.0,
        temperature=1e-40,
        seed=np.int64(3),
        max_new_tokens=2,
        visual_token_budget=2**31 - 1,
    )
    greedy = pipe(clip_frames, QUESTION, fps=2.0, max_new_tokens=2)
    assert answer.token_ids == greedy.token_ids
    assert len(pipe(clip_frames[:1], QUESTION, fps=2.0, max_new_tokens=1).token_ids) == 1


def test_a_cache_that_could_not_grow_is_still_right(pipe, clip_frames, monkeypatch):
    """Out of memory, or Ctrl-C, at every allocation of a growing cache."""
    long = "What moves? " * 40
    expected = pipe.compress(clip_frames, QUESTION, fps=2.0).tokens
    with pipe.open(clip_frames, fps=2.0) as video:
        plain, allocations = KVCache._zeros, 2 * pipe.config.compressor.layers
        for failing in range(allocations):
            left = iter([False] * failing + [True])

            def fail(cache, capacity, left=left):
                if next(left, False):
                    raise KeyboardInterrupt
                return plain(cache, capacity)

            monkeypatch.setattr(KVCache, "_zeros", fail)
            with pytest.raises(KeyboardInterrupt):
                video.compress(long + "more " * 20 * failing)
            monkeypatch.undo()
            assert torch.equal(video.compress(QUESTION).tokens, expected)


def test_closing_a_stream_frees_its_cache(pipe, clip_frames):
    gc.disable()
    try:
        with pipe.open(clip_frames, fps=2.0) as video:
            for use in (lambda s: s.close(), next, lambda s: None, lambda s: s.finish()):
                stream = video.ask(QUESTION, stream=True, max_new_tokens=30)
                held = weakref.ref(next(o for o in gc.get_objects() if isinstance(o, Generation)))
                use(stream)
                del stream
                assert held() is None
    finally:
        gc.enable()


def test_two_streams_of_one_video_do_not_disturb_each_other(pipe, golden_case):
    case = golden_case("full_hd")
    questions = (case.query, "What moves?")
    with pipe.open(case.video, **case.opening) as video:
        expected = [video.ask(q, **case.asking).text for q in questions]
        streams = [video.ask(q, stream=True, **case.asking) for q in questions]
        pieces = list(zip_longest(*streams, fillvalue=""))
    assert ["".join(column) for column in zip(*pieces, strict=True)] == expected


def test_a_progress_callback_may_close_but_not_ask(pipe, clip_frames):
    with pipe.open(clip_frames, fps=2.0) as video:
        answer = video.ask(QUESTION, max_new_tokens=1, progress=lambda *_: video.close())
        assert answer.token_ids
    with pipe.open(clip_frames, fps=2.0) as video, pytest.raises(TempoError, match="callback"):
        video.ask(QUESTION, progress=lambda *_: video.ask(QUESTION))


def test_opening_beside_asking_keeps_special_tokens_apart(pipe):
    """The tokenizer's mode is a state of it: threads must not see each other's."""
    prompt = pipe._compressors["video"].prompt
    expected = prompt.visual([[0.5, 1.5]], 4), prompt.query("<|im_end|>")
    wrong = []

    def check(make, right):
        wrong.extend(got for got in (make() for _ in range(300)) if got != right)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        jobs = [
            (lambda: prompt.visual([[0.5, 1.5]], 4), expected[0]),
            (lambda: prompt.query("<|im_end|>"), expected[1]),
        ]
        threads = [threading.Thread(target=check, args=job) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
