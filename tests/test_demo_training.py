"""The training script: it runs, goes on where it stopped, and trains what the engine runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tempo_fast.engine import ops
from tempo_kernels.launch import HAS_TRITON, INTERPRETED

from .pretend_cuda import pretend_cuda

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "tempo_fast" / "demo" / "model"
SCRIPT = ROOT / "scripts" / "train_demo.py"


@pytest.fixture(autouse=True, scope="module")
def scripts_are_importable():
    sys.path.insert(0, str(SCRIPT.parent))
    yield
    sys.path.remove(str(SCRIPT.parent))


@pytest.fixture(autouse=True, scope="module")
def later_tests_have_kernels_again():
    """Training takes the plain path for its whole process."""
    before = ops.set_kernels("auto")
    yield
    ops.set_kernels(before)


@pytest.fixture(scope="module")
def tokenizer():
    from tempo_fast.demo.vocabulary import train_tokenizer

    return train_tokenizer()


def run_smoke(folder: Path, output: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, SCRIPT, "--smoke", "--work", folder / "work", "--output", folder / output],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])},
    )


def test_a_smoke_run_makes_a_checkpoint_that_answers(tmp_path):
    from tempo_fast import TempoFastPipeline

    first = run_smoke(tmp_path, "model")
    assert first.returncode == 0, first.stderr
    log = [json.loads(line) for line in (tmp_path / "work" / "log.jsonl").read_text().splitlines()]
    assert [record["stage"] for record in log] == ["see", "look", "watch", "remember"]
    assert all(np.isfinite(record["answer"]) for record in log[1:])
    assert all(np.isfinite(record["details"]) for record in log[1:3])

    pipe = TempoFastPipeline.from_pretrained(tmp_path / "model", local_files_only=True)
    assert pipe.dtype == torch.bfloat16
    frames = np.random.default_rng(0).integers(0, 256, (16, 200, 200, 3), dtype=np.uint8)
    answer = pipe(frames, "Is there a red square?", fps=2.0, max_new_tokens=3)
    assert len(answer.relevance) == 2
    assert 1 <= len(answer.token_ids) <= 3

    # Nothing is left to learn, and a folder in use is not written over.
    again = run_smoke(tmp_path, "model")
    assert "not an empty folder" in again.stderr
    again = run_smoke(tmp_path, "copy")
    assert again.returncode == 0, again.stderr
    name = "model.safetensors"
    assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "copy" / name).read_bytes()


def test_the_seeds_of_examinations_are_refused(tmp_path):
    command = [sys.executable, str(SCRIPT), "--seed", "1000", "--work", str(tmp_path / "work")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert run.returncode == 2 and "must be from 0 to 999; got 1000" in run.stderr


def test_stopped_and_started_again_it_learns_the_same(tmp_path, tokenizer):
    from demo_training.loop import Training
    from demo_training.recipe import SMOKE

    whole = Training(tmp_path / "whole", tokenizer, seed=3)
    whole.run(SMOKE[:2])
    part = Training(tmp_path / "part", tokenizer, seed=3)
    part.run(SMOKE[:1])
    rest = Training(tmp_path / "part", tokenizer, seed=3)
    assert rest.done == SMOKE[0].steps
    rest.run(SMOKE[:2])
    for one, other in zip(whole.losses.parameters(), rest.losses.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(SystemExit, match="begun with seed 3"):
        Training(tmp_path / "part", tokenizer, seed=4)
    with pytest.raises(SystemExit, match="begun with other stages"):
        Training(tmp_path / "part", tokenizer, seed=3).run((replace(SMOKE[0], batch=8),))


@pytest.mark.skipif(not (HAS_TRITON and INTERPRETED), reason="needs TRITON_INTERPRET=1")
def test_on_a_pretended_gpu_it_learns_the_same(tmp_path, tokenizer, monkeypatch):
    from demo_training.loop import Training
    from demo_training.recipe import SMOKE

    stages = tuple(replace(stage, steps=1) for stage in SMOKE)
    Training(tmp_path / "cpu", tokenizer, seed=3).run(stages)
    with pretend_cuda(monkeypatch):
        Training(tmp_path / "cuda", tokenizer, seed=3, device="cuda").run(stages)
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("cpu", "cuda")]
    assert len(logs[0]) == len(stages)
    for mine, theirs in zip(*(map(json.loads, log) for log in logs), strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() & {"cells", "numbers", "answer", "relevance", "told", "details"}:
            # The pretended one computes in float32 throughout.
            assert mine[name] == pytest.approx(theirs[name], rel=0.03), name


def test_the_shipped_checkpoint_is_of_this_recipe(tokenizer):
    from demo_training.recipe import tempo_config

    tempo, base = tempo_config(tokenizer)
    assert json.loads((MODEL / "config.json").read_text()) == tempo
    assert json.loads((MODEL / "base" / "config.json").read_text()) == base


def test_what_is_trained_is_what_the_engine_runs(tokenizer):
    """Relevance and memory tokens of the differentiable path, and of the compressor."""
    from demo_training.batches import PAD, Batches
    from demo_training.network import Losses, initialise
    from demo_training.recipe import SMOKE, tempo_config
    from tempo_fast.checkpoint.config import read_config
    from tempo_fast.compression.compressor import Compressor
    from tempo_fast.compression.plan import Segment, SegmentPlan
    from tempo_fast.compression.prompt import SegmentPrompt
    from tempo_fast.engine.clock import Clock
    from tempo_fast.models.tempo import TempoModel
    from tempo_fast.options import AskOptions
    from tempo_fast.tokenizer import PromptTokenizer

    device = torch.device("cpu")
    model = TempoModel(read_config(*tempo_config(tokenizer)), device=device, dtype=torch.float32)
    initialise(model, torch.Generator().manual_seed(0))
    model.set_router(torch.randn(2, 128, generator=torch.Generator().manual_seed(1)))
    prompt = SegmentPrompt(PromptTokenizer(tokenizer), "video")
    losses = Losses(model, prompt)
    batch = next(iter(Batches(tokenizer, SMOKE[0], seed=5)))
    with torch.no_grad():
        tokens, features = losses._see(batch["frames"])
        scores, memory = losses.compress(
            batch, tokens.flatten(0, 1), [feature.flatten(0, 1) for feature in features]
        )

        compressor = Compressor(model, prompt)
        for film in batch["film"].unique():
            rows = (batch["film"] == film).nonzero()[:, 0].tolist()
            segments = []
            for row in rows:
                ids = batch["ids"][row]
                ids = ids[ids != PAD]
                positions = batch["positions"][row, :, : len(ids)]
                visual = ids == prompt.pad_token
                segments.append(Segment(ids, visual, positions, int(batch["after"][row])))
            plan = SegmentPlan(segments, (8, 8), [(0.0, 4.0)] * len(rows), [2.0] * len(rows))
            frames = list(batch["frames"][rows])
            memory_plan = compressor.plan_memory(plan, frames[0].numel(), AskOptions())
            cache = compressor.new_rows(plan, memory_plan)
            video = compressor.encode(plan, memory_plan, cache, frames, Clock(device))
            for number, query in enumerate(batch["queries"][film]):
                relevance = compressor.score(video, query[query != PAD].tolist()).relevance
                torch.testing.assert_close(
                    scores[rows, number].sigmoid(), relevance, atol=2e-4, rtol=0
                )
                counts = batch["kept"][rows, number].tolist()
                written = compressor.write(video, query[query != PAD].tolist(), counts)
                mine = [memory[row, number, :k] for row, k in zip(rows, counts, strict=True)]
                torch.testing.assert_close(torch.cat(mine), written, atol=2e-3, rtol=0)


def test_batches_repeat_and_say_what_is_so(tokenizer):
    from demo_training.batches import IGNORE, MEMORY_PLACE, Batches
    from demo_training.recipe import SMOKE

    one = next(iter(Batches(tokenizer, SMOKE[1], seed=7, start=4)))
    stream = iter(Batches(tokenizer, SMOKE[1], seed=7))
    for _ in range(5):
        other = next(stream)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name
    assert torch.equal(one["told"][..., 0] >= 0, one["relevant"] > 0)
    kept = one["kept"].unflatten(0, (-1, 2)).transpose(1, 2).sum(-1).flatten()
    assert torch.equal((one["prompts"] == MEMORY_PLACE).sum(1), kept)
    # The last token that is asked for ends the answer.
    for targets in one["targets"]:
        assert targets[targets != IGNORE][-1] == tokenizer.eos_token_id


def test_only_deep_steps_keep_more_than_the_published_least():
    from demo_training.batches import LEAST, truncation
    from demo_training.recipe import MEMORY

    relevant = np.array([False, True, False, False])
    random = np.random.default_rng(0)
    shallow = np.stack([truncation(random, relevant, deep=False) for _ in range(200)])
    assert (shallow[:, 1] == LEAST).all()
    assert set(shallow[:, 0]) == {1, 2, 3, LEAST}
    deep = np.stack([truncation(random, relevant, deep=True) for _ in range(500)])
    assert (deep.min(), deep.max()) == (1, MEMORY)
    assert 0.4 < (deep[:, 1] == LEAST).mean() < 0.8  # half, and where few more were drawn
    assert 0.05 < (deep == MEMORY).all(1).mean() < 0.15


def test_how_much_is_kept_changes_nothing_that_is_shown(tokenizer):
    from demo_training.batches import LEAST, Batches
    from demo_training.recipe import SMOKE

    shallow, deep = (
        next(iter(Batches(tokenizer, replace(SMOKE[1], deep=part), seed=7))) for part in (0.0, 1.0)
    )
    assert shallow["kept"].max() <= LEAST < deep["kept"].max()
    for name in ("frames", "queries", "relevant", "told", "cells", "kinds"):
        assert torch.equal(shallow[name], deep[name]), name


def test_later_memory_tokens_are_asked_for_the_cells_of_their_index(tokenizer):
    from demo_training.excerpts import CELLS
    from demo_training.network import CELL_CLASSES, TELLING, Losses
    from demo_training.recipe import MEMORY, WINDOW

    assert MEMORY <= CELLS**2

    class Network:
        """Its head gives what a token says: twenty for a class, nothing for the others."""

        cells = staticmethod(lambda tokens: 20 * tokens)
        _described = Losses._described

    random = torch.Generator().manual_seed(0)
    count, pairs = 3, WINDOW // 2
    labels = [torch.randint(n, (count * pairs, CELLS**2), generator=random) for n in CELL_CLASSES]
    labels = [label * (labels[0] > 0) for label in labels]
    cells = torch.stack([*labels, labels[0]], -1)
    middle = cells.unflatten(0, (count, pairs))[:, pairs // 2, :MEMORY]
    memory = torch.cat(
        [torch.nn.functional.one_hot(middle[..., i], n) for i, n in enumerate(CELL_CLASSES)], -1
    )
    memory = memory[:, None].expand(-1, 2, -1, -1).float()  # two questions
    right = Losses._detailed(Network(), memory, {"cells": cells})["details"]
    assert right < 1e-3
    assert Losses._detailed(Network(), memory.roll(1, 2), {"cells": cells})["details"] > 5
    assert Losses._detailed(Network(), memory[:, :, :TELLING], {"cells": cells}) == {}


def test_training_never_sees_what_is_held_out():
    from demo_training.excerpts import make_excerpt
    from tempo_fast.demo.film import is_held_out

    random = np.random.default_rng(0)
    for _ in range(20):
        for event in make_excerpt(random, 2).film.events:
            assert not is_held_out(event.colour, event.shape, event.motion)
