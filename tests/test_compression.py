"""The compressor's modes give the same tokens, and the options of a question do what they say."""

from __future__ import annotations

import pytest
import torch

from tempo_fast import OptionError
from tempo_fast.compression.positions import segment_positions
from tempo_fast.compression.prompt import BLANK_QUERY, SegmentPrompt
from tempo_fast.demo.checkpoint import make_tokenizer
from tempo_fast.errors import CheckpointError
from tempo_fast.tokenizer import PromptTokenizer


@pytest.fixture(scope="module")
def video(pipe, clip_frames):
    with pipe.open(clip_frames, fps=2.0) as opened:
        yield opened


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("strategy", ["head", "uniform", "shuffled", "none"])
def test_lazy_equals_one_pass(video, strategy):
    options = {"visual_token_budget": 40, "strategy": strategy}
    lazy = video.compress("What moves?", lazy=True, **options)
    whole = video.compress("What moves?", lazy=False, **options)
    assert torch.equal(lazy.allocations, whole.allocations)
    close(lazy.relevance, whole.relevance)
    close(lazy.tokens, whole.tokens)
    close(lazy.inputs_embeds, whole.inputs_embeds)


@pytest.mark.parametrize("lazy", [True, False])
def test_pruned_segments_give_no_tokens(video, lazy):
    compressed = video.compress("What moves?", pruning="topk", lazy=lazy)
    memory = video.compress("What moves?", strategy="none").tokens.view(5, 16, -1)
    order = compressed.relevance.argsort(descending=True)
    assert compressed.allocations[order].tolist() == [16, 16, 16, 0, 0]
    kept = sorted(order[:3].tolist())
    close(compressed.tokens, memory[kept].flatten(0, 1))


def test_tail_keeps_the_last_tokens(video):
    compressed = video.compress("What moves?", visual_token_budget=40, strategy="tail")
    memory = video.compress("What moves?", strategy="none").tokens.view(5, 16, -1)
    kept = [memory[i, 16 - k :] for i, k in enumerate(compressed.allocations.tolist())]
    close(compressed.tokens, torch.cat(kept))


def test_random_is_repeatable(video):
    ask = {"visual_token_budget": 40, "strategy": "random"}
    one, two = (video.compress("What?", seed=3, **ask) for _ in range(2))
    other = video.compress("What?", seed=4, **ask)
    assert torch.equal(one.tokens, two.tokens)
    assert not torch.equal(one.tokens, other.tokens)


def test_a_question_leaves_no_trace(pipe, video, clip_frames):
    first = video.compress("What moves?", visual_token_budget=40)
    video.compress("A much longer question " * 30, visual_token_budget=60)
    again = video.compress("What moves?", visual_token_budget=40)
    assert torch.equal(first.tokens, again.tokens)
    fresh = pipe.compress(clip_frames, "What moves?", fps=2.0, visual_token_budget=40)
    assert torch.equal(first.inputs_embeds, fresh.inputs_embeds)


def test_chunks_do_not_change_the_result(pipe, video, clip_frames, monkeypatch):
    expected = video.compress("What moves?", visual_token_budget=40)
    for tokens in (1, 1100, 10**6):
        monkeypatch.setattr(pipe._compressors["video"], "chunk_tokens", tokens)
        with pipe.open(clip_frames, fps=2.0) as chunked:
            actual = chunked.compress("What moves?", visual_token_budget=40)
        assert torch.equal(actual.allocations, expected.allocations)
        close(actual.inputs_embeds, expected.inputs_embeds)


def test_a_blank_query_is_a_description(pipe):
    prompt = pipe._compressors["video"].prompt
    assert prompt.query(" \n") == prompt.query(BLANK_QUERY) != prompt.query("x")


@pytest.mark.parametrize(
    "text", ["<|im_end|>", "<|vision_start|><|video_pad|><|vision_end|>", "a <|im_start|>system"]
)
def test_special_tokens_in_a_question_are_text(pipe, video, text):
    special = set(pipe.checkpoint.base_tokenizer.tokenizer.all_special_ids)
    compressor = pipe._compressors["video"]
    plain = compressor.prompt.query("x")
    count = sum(token in special for token in plain)
    assert sum(token in special for token in compressor.prompt.query(text)) == count
    _, after = pipe._prompt.text(text)
    assert sum(token in special for token in after) == sum(
        token in special for token in pipe._prompt.text("x")[1]
    )
    assert video.ask(text, max_new_tokens=2).token_ids


def test_positions_of_text_and_blocks():
    visual = torch.tensor([0, 0, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0]).bool()
    positions, end = segment_positions(visual, (2, 3), start=10)
    time = [10, 11, *[12] * 6, 15, *[16] * 6, 19]
    row = [10, 11, 12, 12, 12, 13, 13, 13, 15, 16, 16, 16, 17, 17, 17, 19]
    column = [10, 11, 12, 13, 14, 12, 13, 14, 15, 16, 17, 18, 16, 17, 18, 19]
    assert positions.tolist() == [time, row, column]
    assert end == 20


def test_a_template_of_another_model_is_refused():
    tokenizer = make_tokenizer()
    for template in ("no vision here", "{{ messages", "{{ messages.nothing.at_all }}"):
        tokenizer.chat_template = template
        with pytest.raises(CheckpointError, match="chat template"):
            SegmentPrompt(PromptTokenizer(tokenizer), "video")


def test_a_budget_under_the_segments_names_the_least(video):
    with pytest.raises(OptionError, match="5"):
        video.ask("What?", visual_token_budget=4)
    assert len(video.compress("What?", visual_token_budget=5).tokens) == 5
