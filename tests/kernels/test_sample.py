"""Tokens drawn from the nucleus, number by number against the reference, and in distribution."""

from __future__ import annotations

import pytest
import torch

from tempo_kernels.sample import BLOCK_V, LEAST_TOP_P, sample, sample_ref

from .tolerances import limit

DTYPES = [torch.float32, torch.bfloat16]


def logits_of(rows: int, vocabulary: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows + vocabulary)
    return (torch.randn(rows, vocabulary, generator=generator) * 3).to(dtype)


def uniforms(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


def assert_drawn_alike(found, logits, temperature, top_p, uniform) -> None:
    """The reference's tokens, but for numbers at the border where its choice changes."""
    found = found.cpu()
    assert ((found >= 0) & (found < logits.shape[1])).all()
    border = limit("sample: border")
    near = torch.stack(
        [
            sample_ref(logits, temperature, top_p, (uniform + shift).clamp(0, 1))
            for shift in (0, -border, border)
        ]
    )
    assert (found == near).any(0).all(), (found, near)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("vocabulary", "temperature", "top_p"),
    [
        (1, 1.0, 0.9),
        (63, 0.7, 0.5),
        (131, 1.3, 1.0),
        (131, 0.01, 0.3),
        (BLOCK_V, 1.0, 1e-6),
        (2 * BLOCK_V + 1, 2.0, 0.9),
        (BLOCK_V + 63, 0.8, 0.999999),
    ],
)
def test_tokens_of_the_reference(device, vocabulary, temperature, top_p, dtype):
    logits, uniform = logits_of(2, vocabulary, dtype), uniforms(2, vocabulary)
    out = torch.full((2,), -1, dtype=torch.int64, device=device)
    found = sample(logits.to(device), temperature, top_p, uniform.to(device), out=out)
    assert found is out
    assert_drawn_alike(found, logits, temperature, top_p, uniform)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tokens_of_the_reference_over_the_whole_vocabulary(device, interpreted, in_numpy, dtype):
    # The nucleus of float32 logits takes twice as many passes, too long for the interpreter.
    top_p = 1.0 if interpreted and dtype == torch.float32 else 0.9
    rows = 1 if interpreted else 4 if in_numpy else 64
    logits, uniform = logits_of(rows, 151936, dtype), uniforms(rows)
    found = sample(logits.to(device), 1.0, top_p, uniform.to(device))
    assert_drawn_alike(found, logits, 1.0, top_p, uniform)


@pytest.mark.parametrize("dtype", DTYPES)
def test_of_equals_at_the_border_the_lowest_stay(device, dtype):
    # Two certain tokens of weight 4 to eight equals of weight 1, half of which 3/4 of all needs.
    logits = torch.full((1, BLOCK_V + 63), float("-inf"))
    logits[:, [3, BLOCK_V + 5]] = 4.0
    equals = [1, 2, 500, 501, BLOCK_V, BLOCK_V + 1, BLOCK_V + 9, BLOCK_V + 10]
    logits[:, equals] = 0.0
    temperature = 4 / torch.tensor(4.0).log().item()
    allowed = sorted([3, BLOCK_V + 5, *equals[:4]])
    # Weights 1 1 4 1 1 4 in index order, of 12.
    points = [(0.04, 1), (0.3, 3), (0.62, 501), (0.99999, BLOCK_V + 5)]
    assert {token for _, token in points} < set(allowed)
    rows = logits.repeat(len(points), 1).to(dtype)
    uniform = torch.tensor([number for number, _ in points])
    expected = [token for _, token in points]
    # Just below 3/4: at 3/4 itself a rounding could ask for one more.
    found = sample(rows.to(device), temperature, 0.749, uniform.to(device))
    assert found.tolist() == expected
    assert sample_ref(rows, temperature, 0.749, uniform).tolist() == expected


def test_tokens_of_no_probability_are_never_drawn(device):
    logits = torch.full((4, 131), float("-inf"))
    logits[:, [5, 100]] = torch.tensor([0.0, 1.0])
    uniform = torch.tensor([0.0, 0.26, 0.27, 0.9999999])
    for top_p in (1.0, 0.99):
        found = sample(logits.to(device), 1.0, top_p, uniform.to(device))
        assert found.tolist() == [5, 5, 100, 100]


def test_a_tiny_temperature_is_greedy(device):
    logits = logits_of(2, 131, torch.float32)
    uniform = torch.tensor([0.0, 0.999]).to(device)
    found = sample(logits.to(device), 1e-35, 1.0, uniform).cpu()
    assert torch.equal(found, logits.argmax(-1))


def assert_distributed(tokens: torch.Tensor, logits: torch.Tensor, top_p: float) -> None:
    """Counts of tokens against the sampler's rule: sort, cut off at top_p, normalise."""
    ordered, index = torch.softmax(logits.double(), -1).sort(descending=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
    expected = torch.zeros_like(ordered).scatter(0, index, ordered / ordered.sum())
    counts = torch.bincount(tokens.cpu(), minlength=len(logits)).double()
    assert not counts[expected == 0].any()
    spread = (len(tokens) * expected * (1 - expected)).sqrt()
    allowed = limit("sample: spread") * spread + limit("sample: count")
    assert ((counts - len(tokens) * expected).abs() <= allowed).all()


@pytest.mark.parametrize("top_p", [0.8, 1.0])
def test_the_reference_has_the_samplers_distribution(top_p):
    logits = logits_of(1, 63, torch.float32)
    count = 20000
    tokens = sample_ref(logits.expand(count, -1), 1.0, top_p, uniforms(count))
    assert_distributed(tokens, logits[0], top_p)


@pytest.mark.parametrize("top_p", [0.8, 1.0])
def test_the_kernels_have_the_samplers_distribution(device, interpreted, in_numpy, top_p):
    logits = logits_of(1, 63, torch.bfloat16)
    # Evenly spread numbers, so that a few show as much as many random ones.
    count = 12 if interpreted else 1000 if in_numpy else 20000
    uniform = (torch.arange(count) + 0.5) / count
    rows = logits.repeat(count, 1).to(device)
    assert_distributed(sample(rows, 1.0, top_p, uniform.to(device)), logits[0].float(), top_p)


def test_equal_inputs_give_equal_tokens(device):
    logits, uniform = logits_of(2, 131, torch.float32).to(device), uniforms(2).to(device)
    assert torch.equal(sample(logits, 1.0, 0.9, uniform), sample(logits, 1.0, 0.9, uniform))


def test_the_least_nucleus_is_the_likeliest_token(device):
    logits, uniform = logits_of(2, 131, torch.float32).to(device), uniforms(2).to(device)
    found = sample(logits, 1.0, LEAST_TOP_P, uniform)
    assert torch.equal(found, logits.argmax(-1))
    assert torch.equal(sample_ref(logits, 1.0, LEAST_TOP_P, uniform), found)


@pytest.mark.gpu
def test_a_captured_graph_draws_anew(device, interpreted, needs_cuda):
    if interpreted:
        pytest.skip("graphs are of a GPU")
    logits, uniform = logits_of(4, 5000, torch.bfloat16).to(device), uniforms(4).to(device)
    out = sample(logits, 1.0, 0.9, uniform)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sample(logits, 1.0, 0.9, uniform, out=out)
    for seed in range(5):
        uniform.copy_(uniforms(4, seed))
        graph.replay()
        assert torch.equal(out, sample(logits, 1.0, 0.9, uniform))


@pytest.mark.parametrize(
    ("temperature", "top_p", "uniform", "message"),
    [
        (0.0, 0.9, torch.zeros(2), "temperature is 0.0; above 0 is needed"),
        (float("nan"), 0.9, torch.zeros(2), "temperature is nan"),
        (1.0, 0.0, torch.zeros(2), r"top_p is 0.0; 1\.17\d*e-38 to 1 is needed"),
        (1.0, 1e-46, torch.zeros(2), "top_p is 1e-46"),
        (1.0, 1.5, torch.zeros(2), "top_p is 1.5"),
        (1.0, 0.9, torch.zeros(3), r"uniform has shape \[3\]; \[2\] is needed"),
        (1.0, 0.9, torch.zeros(2).double(), "uniform is torch.float64"),
    ],
)
def test_bad_input_is_a_value_error(device, temperature, top_p, uniform, message):
    with pytest.raises(ValueError, match=message):
        sample(torch.zeros(2, 131, device=device), temperature, top_p, uniform.to(device))
