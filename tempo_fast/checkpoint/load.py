"""A checkpoint's files to a model on its device, with its tokenizers and settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3Config

from tempo_fast.checkpoint.config import TempoConfig, read_config
from tempo_fast.checkpoint.files import CheckpointFiles
from tempo_fast.checkpoint.router import read_router
from tempo_fast.checkpoint.storage import read_json
from tempo_fast.checkpoint.weights import load_weights, stored_dtype
from tempo_fast.errors import CheckpointError, OptionError
from tempo_fast.models.tempo import TempoModel
from tempo_fast.tokenizer import PromptTokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
END_OF_TURN = "<|im_end|>"


@dataclass(frozen=True)
class ImageLimits:
    """Least and most pixels that a single image is resized to."""

    min_pixels: int
    max_pixels: int


@dataclass(frozen=True)
class Checkpoint:
    """A loaded Tempo. tokenizer: the language model's; base_tokenizer: the compressor's, which has
    the chat template. stop_tokens: ids that end an answer."""

    config: TempoConfig
    model: TempoModel
    tokenizer: PromptTokenizer
    base_tokenizer: PromptTokenizer
    image_limits: ImageLimits
    stop_tokens: frozenset[int]


def load(
    files: CheckpointFiles,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
) -> Checkpoint:
    """Read configuration, tokenizers and weights.

    device: by default CUDA where there is one. dtype: "auto" is what the weights are stored in,
    with float16 read as bfloat16, as the published code ends up with. Raises CheckpointError for
    what is missing or doesn't fit, OptionError for device and dtype.
    """
    config = read_config(
        read_json(files.tempo / "config.json"), read_json(files.base / "config.json")
    )
    place = _device(device)
    model = TempoModel(config, device=place, dtype=_dtype(dtype, files.weights))
    # A tied checkpoint may hold a copy of its embeddings under this name.
    ignore = frozenset({"lm_head.weight"} if config.tied_embeddings else ())
    load_weights(files.weights, model.checkpoint_targets(), ignore=ignore)
    model.set_router(read_router(files))
    tokenizer = _tokenizer(files.tempo)
    return Checkpoint(
        config=config,
        model=model,
        tokenizer=PromptTokenizer(tokenizer),
        base_tokenizer=PromptTokenizer(_tokenizer(files.base)),
        image_limits=_image_limits(files.base),
        stop_tokens=_stop_tokens(files.tempo, config, tokenizer),
    )


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise OptionError(
            f"device {device!r} can't be used here ({error}); this machine has "
            + ("cuda and cpu" if torch.cuda.is_available() else "cpu only")
        ) from error
    return place


def _dtype(dtype: str | torch.dtype, weights: list[Path]) -> torch.dtype:
    if dtype == "auto":
        stored = stored_dtype(weights)
        return torch.bfloat16 if stored == torch.float16 else stored
    chosen = DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if chosen not in DTYPES.values():
        raise OptionError(f"dtype must be auto, {' or '.join(DTYPES)}; got {dtype!r}")
    return chosen


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        # With a config of its own it leaves the folder's alone, whose type it may not know.
        return AutoTokenizer.from_pretrained(folder, config=Qwen3Config(), local_files_only=True)
    except Exception as error:  # the libraries raise nothing narrower
        raise CheckpointError(
            f"the tokenizer in {folder} can't be read ({error!r}); download it again"
        ) from error


def _image_limits(base: Path) -> ImageLimits:
    settings = read_json(base / "preprocessor_config.json")
    size = settings.get("size")
    size = size if isinstance(size, dict) else {}
    least = settings.get("min_pixels") or size.get("shortest_edge")
    most = settings.get("max_pixels") or size.get("longest_edge")
    if not isinstance(least, int) or not isinstance(most, int) or not 0 < least <= most:
        raise CheckpointError(
            f"{base / 'preprocessor_config.json'} gives no limits on an image's pixels (size with "
            "shortest_edge and longest_edge, or min_pixels and max_pixels)"
        )
    return ImageLimits(least, most)


def _stop_tokens(
    folder: Path, config: TempoConfig, tokenizer: PreTrainedTokenizerBase
) -> frozenset[int]:
    end_of_turn = tokenizer.get_vocab().get(END_OF_TURN)
    if end_of_turn is None:
        raise CheckpointError(f"the tokenizer in {folder} has no {END_OF_TURN}: is it a Qwen3's?")
    settings = folder / "generation_config.json"
    eos = read_json(settings).get("eos_token_id") if settings.is_file() else None
    more = eos if isinstance(eos, list) else [eos]
    known = (end_of_turn, tokenizer.eos_token_id, *config.eos_tokens, *more)
    return frozenset(token for token in known if token is not None)
