"""A caller may use torch.inference_mode() around some calls and not around others."""

from __future__ import annotations

import pytest
import torch

from tempo_fast import TempoFastPipeline


@pytest.mark.parametrize("graphs", [False, True])
def test_what_was_made_in_inference_mode_is_used_outside_of_it(golden, clip_frames, graphs):
    folder = golden / "checkpoint" / "tiny-tempo"
    pipe = TempoFastPipeline.from_pretrained(folder, graphs=graphs)
    with torch.inference_mode():
        video = pipe.open(clip_frames[:16], fps=2.0)
        first = video.ask("What moves?", max_new_tokens=4)
    with video:
        assert video.ask("What moves?", max_new_tokens=4).token_ids == first.token_ids
