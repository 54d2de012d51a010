"""Decode steps in captured blocks, driven without a GPU, against the plain loop."""

from __future__ import annotations

import math

import pytest
import torch

from tempo_fast import ModelError, OptionError, TempoFastPipeline
from tempo_fast.engine.graphs import STREAMS, WARM_UPS, EagerGraphs, RecordingStreams
from tempo_fast.language_model.generation import Generation
from tempo_fast.language_model.sampling import Sampler
from tempo_fast.language_model.steps import (
    BLOCK,
    CACHE_STEP,
    MOST_GRAPHS,
    StepPool,
    block_sizes,
)

CPU = torch.device("cpu")
SAMPLED = {"temperature": 1.0, "seed": 3}


class Recorder(EagerGraphs):
    """Counts, and refuses a replay whose buffers have moved, as a CUDA graph could not know."""

    def __init__(self):
        self.captures = self.replays = 0
        self.cache = None

    def capture(self, run, reset):
        self.captures += 1
        replay, places = super().capture(run, reset), self.places()

        def checked():
            assert places == self.places()
            self.replays += 1
            replay()

        return checked

    def places(self):
        return [tensor.data_ptr() for tensor in (*self.cache.keys, *self.cache.values)]


@pytest.fixture
def recorded(pipe):
    """A pool whose graphs are recorded, and the recorder."""
    recorder = Recorder()
    pool = StepPool(pipe.checkpoint.model, lambda device: recorder)
    steps = pool.take()
    recorder.cache = steps.cache
    pool.give_back(steps)
    return pool, recorder


def prompt(length, seed=0):
    return torch.randn(length, 96, generator=torch.Generator().manual_seed(seed))


def begin(pipe, embeds, most, pool, *, temperature=0.0, top_p=1.0, seed=None, stop=()):
    generation = Generation(pipe.checkpoint.model, embeds, most, pool)
    return generation.tokens(Sampler(temperature, top_p, seed, CPU), frozenset(stop))


def generate(*arguments, **options):
    return list(begin(*arguments, **options))


@pytest.mark.parametrize("sampling", [{}, SAMPLED, SAMPLED | {"top_p": 0.5}])
def test_blocks_give_the_plain_loops_tokens(pipe, recorded, sampling):
    pool, recorder = recorded
    embeds = prompt(37)
    whole = generate(pipe, embeds, 2 * BLOCK + 5, None, **sampling)
    for most in (1, 2, BLOCK, BLOCK + 1, BLOCK + 2, 2 * BLOCK + 5):
        recorder.replays = 0
        tokens = generate(pipe, embeds, most, pool, **sampling)
        assert tokens == whole[:most]
        assert recorder.replays == most - 1
    assert recorder.captures == 1


def test_a_stop_token_within_a_block_ends_the_answer(pipe, recorded):
    pool, _ = recorded
    whole = generate(pipe, prompt(20), 3 * BLOCK, None, **SAMPLED)
    for place in (0, 1, BLOCK - 1, BLOCK, BLOCK + 3):
        stop = {whole[place]}
        expected = whole[: whole.index(whole[place]) + 1]
        assert generate(pipe, prompt(20), 3 * BLOCK, None, stop=stop, **SAMPLED) == expected
        assert generate(pipe, prompt(20), 3 * BLOCK, pool, stop=stop, **SAMPLED) == expected


def test_tokens_come_in_blocks_that_double(pipe, recorded):
    pool, recorder = recorded
    tokens = begin(pipe, prompt(5), 3 * BLOCK, pool)
    replays = []
    for _ in range(2 * BLOCK + 1):
        next(tokens)
        replays.append(recorder.replays)
    assert replays == [0] + [1] + [3] * 2 + [7] * 4 + [15] * 8 + [23]


@pytest.mark.parametrize("most", [1, 2, BLOCK])
@pytest.mark.parametrize("steps", [*range(2 * BLOCK), 1000])
def test_fewer_steps_are_thrown_away_than_tokens_given(steps, most):
    sizes, given = list(block_sizes(steps, most)), 1
    assert sum(sizes) == steps and max(sizes, default=1) <= most
    for size in sizes:
        assert 1 <= size <= given
        given += size
    assert len(sizes) <= steps / most + math.log2(2 * most)


def test_on_a_cpu_the_plain_loop_looks_at_each_token(pipe, monkeypatch):
    steps, plain = [], Generation._extend

    def extend(self, embeds):
        steps.append(len(embeds))
        return plain(self, embeds)

    monkeypatch.setattr(Generation, "_extend", extend)
    tokens = begin(pipe, prompt(5), 2 * BLOCK, None)
    for given in range(2 * BLOCK):
        next(tokens)
        assert steps == [5] + [1] * given


def test_the_cache_grows_and_the_graphs_follow(pipe, recorded):
    pool, recorder = recorded
    embeds = prompt(CACHE_STEP - 12)
    expected = generate(pipe, embeds, 3 * BLOCK, None, **SAMPLED)
    assert generate(pipe, embeds, 3 * BLOCK, pool, **SAMPLED) == expected
    assert recorder.cache.capacity == 2 * CACHE_STEP
    assert recorder.captures == 2
    # Now there is room: the first bucket again, which grew no further, and the second as it is.
    assert generate(pipe, embeds, 3 * BLOCK, pool, **SAMPLED) == expected
    assert recorder.captures == 3


def test_leaving_early_gives_the_steps_back_clean(pipe, recorded):
    pool, recorder = recorded
    expected = generate(pipe, prompt(30, 1), 12, None)
    for reads in (1, 2, BLOCK + 2):
        tokens = begin(pipe, prompt(40), 30, pool)
        for _ in range(reads):
            next(tokens)
        tokens.close()
        assert [steps.cache for steps in pool._idle] == [recorder.cache]
        assert generate(pipe, prompt(30, 1), 12, pool) == expected
    assert recorder.captures == 1


def test_two_answers_at_once_have_steps_of_their_own(pipe):
    pool = StepPool(pipe.checkpoint.model)
    expected = [generate(pipe, prompt(20 + i, i), 12, None, **SAMPLED) for i in range(2)]
    both = [begin(pipe, prompt(20 + i, i), 12, pool, **SAMPLED) for i in range(2)]
    assert [list(column) for column in zip(*zip(*both, strict=True), strict=True)] == expected
    assert len(pool._idle) == 1


def test_each_way_of_sampling_has_its_graph_and_few_are_kept(pipe, recorded):
    pool, recorder = recorded
    for i in range(MOST_GRAPHS + 2):
        generate(pipe, prompt(5), 3, pool, temperature=1.0 + i, seed=0)
    assert recorder.captures == MOST_GRAPHS + 2
    generate(pipe, prompt(5), 3, pool, temperature=2.0 + MOST_GRAPHS, seed=0)
    assert recorder.captures == MOST_GRAPHS + 2
    generate(pipe, prompt(5), 3, pool, temperature=1.0, seed=0)
    assert recorder.captures == MOST_GRAPHS + 3


@pytest.mark.parametrize("captured", [True, False])
@pytest.mark.parametrize(
    "reads", [1, 2, 4]
)  # after which the next step of the CPU is another block
def test_logits_that_are_no_numbers_within_a_block_are_an_error(made_pipe, captured, reads):
    pipe = made_pipe()
    pool = StepPool(pipe.checkpoint.model) if captured else None
    tokens = begin(pipe, prompt(5), 30, pool)
    for _ in range(reads):
        next(tokens)
    pipe.checkpoint.model.language_model.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        next(tokens)
    if captured:
        assert len(pool._idle) == 1


def test_a_warm_up_starts_from_the_reset_state_and_leaves_it():
    state, seen = torch.zeros(1), []

    def run():
        seen.append(int(state))
        state.add_(1)

    replay = EagerGraphs().capture(run, lambda: state.fill_(5))
    assert seen == [5] * WARM_UPS and state.item() == 5
    replay()
    assert state.item() == 6


def test_whole_answers_through_blocks_are_the_golden_ones(pipe, golden_case):
    captured = TempoFastPipeline(pipe.checkpoint, graphs=True)
    case = golden_case("full_hd")
    with captured.open(case.video, **case.opening) as video:
        stream = video.ask(case.query, stream=True, **case.asking)
        pieces = list(stream)
    assert stream.answer.token_ids == case.tensors["generated_ids"].tolist()
    assert "".join(pieces) == stream.answer.text == case.text.strip()


def test_graphs_and_streams_are_off_unless_asked_for(pipe, golden):
    assert (pipe.graphs, pipe.streams) == (False, False)
    both = TempoFastPipeline(pipe.checkpoint, graphs=True, streams=True)
    assert (both.graphs, both.streams) == (True, True)
    with pytest.raises(OptionError, match="graphs"):
        TempoFastPipeline.from_pretrained(golden / "nowhere", graphs="yes")


def test_a_stream_to_record_on_serves_one_graph_at_a_time(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", lambda priority: object())
    streams = RecordingStreams()
    taken = [streams.take() for _ in range(STREAMS)]
    assert len(set(taken)) == STREAMS and streams.take() is None
    streams.give_back(taken[3])
    assert streams.take() is taken[3] and streams.take() is None
