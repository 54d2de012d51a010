"""The decoder and the vision encoder against Hugging Face's modules, and extend against itself."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3VLConfig, Qwen3VLModel

from tempo_fast.models.tempo import TOWER

# Float32 sums in another order, through four layers; a wrong formula is off by 1e-4 and more.
ROUNDING = 1e-5


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope="module")
def weights(golden):
    return load_file(golden / "checkpoint" / "tiny-tempo" / "model.safetensors")


def strip(weights: dict, prefix: str) -> dict:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
def published_vl(golden, weights):
    """Hugging Face's Qwen3-VL with the frequencies that the published code computes with."""
    config = Qwen3VLConfig.from_pretrained(golden / "checkpoint" / "tiny-qwen3-vl")
    model = Qwen3VLModel(config).eval().requires_grad_(False)
    model.load_state_dict(strip(weights, f"{TOWER}vlm.model."))
    for rotary in (model.language_model.rotary_emb, model.visual.rotary_pos_emb):
        rotary.inv_freq = rotary.inv_freq.half().float()
    return model


def decode(decoder, ids, pieces, outputs="all"):
    """The hidden states of ids appended in pieces of the given lengths."""
    cache = decoder.new_cache(1, 1)
    parts, first = [], 0
    for length in pieces:
        positions = torch.arange(first, first + length)
        if decoder.config.mrope_section:
            positions = positions.expand(3, -1)
        packing = cache.pack([0], [length])
        embeds = decoder.embed(ids[first : first + length])
        parts.append(decoder.extend(embeds, positions, packing, cache, outputs=outputs))
        first += length
    return torch.cat(parts), cache


def test_language_model_equals_hugging_face(pipe, golden, weights):
    settings = json.loads((golden / "checkpoint" / "tiny-tempo" / "config.json").read_text())
    known = {k: v for k, v in settings.items() if k not in ("model_type", "architectures")}
    model = Qwen3ForCausalLM(Qwen3Config(**known)).eval().requires_grad_(False)
    model.load_state_dict(
        {k: v for k, v in weights.items() if "vision_tower" not in k and "projector" not in k},
        strict=False,
    )
    ids = torch.randint(0, 400, (37,), generator=torch.Generator().manual_seed(1))
    expected = model(ids[None]).logits[0]
    decoder = pipe.checkpoint.model.language_model
    hidden, _ = decode(decoder, ids, [37])
    logits = decoder.norm(hidden) @ pipe.checkpoint.model.lm_head.T
    assert error(logits, expected) < ROUNDING


def test_vision_encoder_equals_hugging_face(pipe, published_vl):
    generator = torch.Generator().manual_seed(2)
    for h, w in ((8, 8), (4, 12), (14, 6), (50, 2)):
        patches = torch.randn(3, h * w, 1536, generator=generator)
        expected = published_vl.visual(patches.flatten(0, 1), torch.tensor([[3, h, w]]))
        tokens, features = pipe.checkpoint.model.vision(patches, (h, w))
        assert error(tokens.flatten(0, 1), expected.pooler_output) < ROUNDING
        for mine, theirs in zip(features, expected.deepstack_features, strict=True):
            assert error(mine.flatten(0, 1), theirs) < ROUNDING


def test_segment_positions_equal_hugging_face(pipe, published_vl, golden_case):
    case = golden_case("odd_tail_portrait")
    compressor = pipe._compressors["video"]
    video = pipe.open(case.video, **case.opening)
    query = compressor.prompt.query(case.query)
    for i, segment in enumerate(video._encoded.plan.segments):
        ids = torch.tensor([[*compressor.prompt.system, *segment.ids.tolist(), *query]])
        kinds = (ids == compressor.prompt.pad_token).int() * 2
        grid = case.tensors["video_grid_thw"][i : i + 1]
        expected, _ = published_vl.get_rope_index(ids, kinds, video_grid_thw=grid)
        expected = expected[-3:, 0]
        system = len(compressor.prompt.system)
        end = system + len(segment.ids)
        assert torch.equal(segment.positions, expected[:, system:end])
        assert expected[:, end].tolist() == [segment.next_position] * 3


@pytest.mark.parametrize("which", ["compressor", "language_model"])
def test_extend_in_pieces_equals_one_pass(pipe, which):
    decoder = getattr(pipe.checkpoint.model, which)
    ids = torch.randint(0, 400, (40,), generator=torch.Generator().manual_seed(3))
    whole, cache = decode(decoder, ids, [40])
    for pieces in ([39, 1], [1, 39], [13, 14, 13], [1] * 40):
        parts, other = decode(decoder, ids, pieces)
        assert error(parts, whole) < ROUNDING
        assert error(other.keys[-1][:, :40], cache.keys[-1][:, :40]) < ROUNDING


def test_extend_packs_sequences_without_mixing_them(pipe):
    decoder = pipe.checkpoint.model.compressor
    generator = torch.Generator().manual_seed(4)
    lengths, past = [7, 1, 12, 7], [0, 5, 3, 0]
    cache = decoder.new_cache(4, 30)
    singles = []
    before = [torch.randint(0, 400, (n,), generator=generator) for n in past]
    after = [torch.randint(0, 400, (n,), generator=generator) for n in lengths]
    for row, (old, new) in enumerate(zip(before, after, strict=True)):
        singles.append(decode(decoder, torch.cat((old, new)), [len(old) + len(new)])[0][len(old) :])
        if len(old):
            packing = cache.pack([row], [len(old)])
            positions = torch.arange(len(old)).expand(3, -1)
            decoder.extend(decoder.embed(old), positions, packing, cache, outputs="none")
    positions = torch.cat([torch.arange(p, p + n) for p, n in zip(past, lengths, strict=True)])
    packing = cache.pack(range(4), lengths)
    embeds = decoder.embed(torch.cat(after))
    hidden = decoder.extend(embeds, positions.expand(3, -1), packing, cache)
    assert error(hidden, torch.cat(singles)) < ROUNDING
    assert cache.lengths == [p + n for p, n in zip(past, lengths, strict=True)]


def test_outputs_last_and_none_are_parts_of_all(pipe):
    decoder = pipe.checkpoint.model.language_model
    ids = torch.randint(0, 400, (21,), generator=torch.Generator().manual_seed(5))
    every, cache = decode(decoder, ids, [10, 11])
    last, other = decode(decoder, ids, [10, 11], outputs="last")
    assert error(last, every[[9, 20]]) < ROUNDING
    none, third = decode(decoder, ids, [10, 11], outputs="none")
    assert none.shape == (0, decoder.config.width)
    for kept in (other, third):
        assert error(kept.values[-1][:, :21], cache.values[-1][:, :21]) < ROUNDING
