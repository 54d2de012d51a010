"""The published code itself as an opponent: a checkout of it, imported from its folder.

It needs what that code needs, its release of transformers for one, in this environment. It reads a
checkpoint from a folder, so the size must be `tiny` or one. Its weights, which its loader rounds to
float16, are set to the engine's again.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
import torch

from .sizes import Models
from .workload import WINDOW

MODULES = ("builder", "constants", "conversation", "mm_datautils")


@dataclass(frozen=True)
class UpstreamAnswer:
    """token_ids: as generated. timings: its two parts, before and in `generate`."""

    token_ids: list[int]
    timings: dict[str, float]


class Upstream:
    """The published inference on frames in memory.

    path: a checkout, whose package is `tempo`. Raises pytest.UsageError where it isn't one, where
    it can't be imported here, or where the models have no folder.
    """

    def __init__(self, path: Path, models: Models) -> None:
        if models.folder is None:
            raise pytest.UsageError(
                f"--upstream reads a checkpoint's folder and {models.size} has none: take "
                "--size tiny, or give a folder as --size"
            )
        self._modules = _import(path)
        self._device, dtype = models.device, models.dtype
        self._tokenizer, self._model, (self._processor, *_) = self._modules[
            "builder"
        ].load_pretrained_model(
            str(models.folder), device_map=str(self._device), device=str(self._device)
        )
        self._model.eval().to(dtype)
        self._set_weights(models.engine.checkpoint.model.checkpoint_targets())

    def _set_weights(self, weights: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            parameters = dict(self._model.named_parameters())
            for name, tensor in weights.items():
                if name not in parameters:
                    raise pytest.UsageError(f"--upstream: its model has no parameter {name}")
                parameters[name].copy_(tensor)

    @torch.inference_mode()
    def answer(
        self, frames: np.ndarray, fps: float, query: str, *, budget: int, max_new_tokens: int
    ) -> UpstreamAnswer:
        """Answer a question about frames uint8 [F, H, W, 3], greedily."""
        began = perf_counter()
        data, constants = self._modules["mm_datautils"], self._modules["constants"]
        self._model.config.visual_token_budget = budget
        self._model.config.tokenizer_model_max_length = 16384
        inputs = data.process_qwen_content(
            frames, "video", query, self._processor, fps, WINDOW, WINDOW, is_eval=True
        )
        inputs = {name: value.to(self._device) for name, value in inputs.items()}
        moments = data.compute_segment_timestamp(
            len(inputs["video_grid_thw"]), self._tokenizer, fps, WINDOW, WINDOW
        )
        talk = self._modules["conversation"].conv_templates["qwen"].copy()
        talk.append_message(talk.roles[0], f"{constants.DEFAULT_IMAGE_TOKEN}\n{query}")
        talk.append_message(talk.roles[1], None)
        ids = data.tokenizer_image_token(
            talk.get_prompt(), self._tokenizer, constants.IMAGE_TOKEN_INDEX, return_tensors="pt"
        )
        prepared = perf_counter()
        output = self._model.generate(
            ids.unsqueeze(0).to(self._device),
            images=None,
            image_sizes=None,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            use_cache=True,
            vlm_inputs=inputs,
            seg_timestamps=moments,
        )
        output = output[0] if isinstance(output, tuple) else output
        timings = {"prepare": prepared - began, "generate": perf_counter() - prepared}
        return UpstreamAnswer(output[0].tolist(), timings)


def _import(path: Path) -> dict:
    """The modules of the checkout's package by name."""
    package = path.resolve() / "tempo"
    missing = [name for name in MODULES if not _has(package, name)]
    if missing:
        raise pytest.UsageError(
            f"--upstream {path} is no checkout of the published code: there is no "
            f"tempo/{missing[0]}.py in it"
        )
    sys.path.insert(0, str(path.resolve()))
    try:
        modules = {name: importlib.import_module(f"tempo.{name}") for name in MODULES}
    except ImportError as error:
        raise pytest.UsageError(
            f"--upstream {path} can't be imported here ({error}): install what its "
            "requirements.txt asks for"
        ) from error
    finally:
        sys.path.remove(str(path.resolve()))
    place = Path(modules["builder"].__file__).resolve()
    if not place.is_relative_to(package):
        raise pytest.UsageError(f"--upstream {path}: another package `tempo` is at {place.parent}")
    return modules


def _has(package: Path, name: str) -> bool:
    return (package / f"{name}.py").is_file() or (package / name / "__init__.py").is_file()
