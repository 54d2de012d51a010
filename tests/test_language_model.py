"""Sampling and text, the parts of the answering side that need no model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tempo_fast.demo.checkpoint import make_tokenizer
from tempo_fast.errors import ModelError
from tempo_fast.language_model.generation import Generation
from tempo_fast.language_model.sampling import Sampler
from tempo_fast.language_model.steps import NOT_FINITE, unless_not_finite
from tempo_fast.language_model.text import TextStream
from tempo_fast.tokenizer import PromptTokenizer

CPU = torch.device("cpu")
TOKENIZER = PromptTokenizer(make_tokenizer())


def test_greedy_takes_the_largest():
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    assert Sampler(0.0, 1.0, None, CPU)(logits).tolist() == [1]


def draws(logits, temperature, top_p, count=4000):
    sampler = Sampler(temperature, top_p, 0, CPU)
    tokens = torch.cat([sampler(logits[None]) for _ in range(count)])
    return torch.bincount(tokens, minlength=len(logits)) / count


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature):
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5])
    expected = torch.softmax(logits / temperature, 0)
    # Four standard deviations of 4,000 draws.
    assert (draws(logits, temperature, 1.0) - expected).abs().max() < 4 * 0.5 / 4000**0.5


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p():
    logits = torch.tensor([0.4, 0.1, 0.3, 0.2]).log()
    assert draws(logits, 1.0, 0.69).nonzero()[:, 0].tolist() == [0, 2]
    assert draws(logits, 1.0, 0.71).nonzero()[:, 0].tolist() == [0, 2, 3]
    assert draws(logits, 1.0, 0.01).nonzero()[:, 0].tolist() == [0]


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet=st.sampled_from("ab \n\té球🎈�"), max_size=12),
    st.lists(st.sampled_from(["ab", "b球", " ", "é\n", "🎈🎈"]), max_size=2),
    st.lists(st.integers(0, 11), max_size=3),
)
def test_pieces_joined_are_the_stripped_text_before_a_stop(text, stop, cuts):
    (ids,) = TOKENIZER.encode([text])
    for cut in cuts:  # special tokens anywhere, even inside a character
        ids.insert(min(cut, len(ids)), TOKENIZER.tokenizer.eos_token_id)
    whole = TOKENIZER.decode(ids)
    stream = TextStream(TOKENIZER, tuple(stop))
    given_so_far = ""
    for token in ids:
        given_so_far += stream.push(token)
        if stream.stopped:
            break
    given_so_far += stream.finish()
    ends = [whole.find(s) for s in stop if s in whole]
    assert given_so_far == whole[: min(ends, default=len(whole))].strip()


def test_text_comes_as_soon_as_it_is_certain():
    stream = TextStream(TOKENIZER, ("stop",))
    pieces = [stream.push(token) for token in TOKENIZER.encode(["a b sto球"])[0]]
    assert pieces == ["a", "", " b", "", "", "", "", "", "", " sto球"]


def test_logits_that_are_no_numbers_are_an_error(made_pipe):
    model = made_pipe().checkpoint.model
    model.language_model.norm.weight.fill_(float("inf"))
    with pytest.raises(ModelError, match="not finite"):
        Generation(model, torch.randn(5, 96), 4)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_one_logit_that_is_no_number_is_an_error(wrong, temperature):
    """Whichever token sampling then draws: the others' share of it is none, or unknown."""
    logits = torch.zeros(1, 50)
    logits[0, 40] = wrong
    token = Sampler(temperature, 1.0, 0, CPU)(logits)
    assert unless_not_finite(token, logits).tolist() == [NOT_FINITE]
    logits[0, 40] = float("-inf")  # a token that can't come
    assert unless_not_finite(token.zero_(), logits).tolist() == [0]
