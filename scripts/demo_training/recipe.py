"""What is trained: the sizes of the network and the stages of its training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from transformers import PreTrainedTokenizerFast

from tempo_fast.demo.checkpoint import small_configs

SIDE = 128  # pixels of a frame
WINDOW = 8  # frames of a segment
MEMORY = 16  # memory tokens of a segment
BASE_NAME = "tempo-demo-base"


@dataclass(frozen=True)
class Stage:
    """Some steps of training on batches of one make.

    steps: how many. segments: lengths of a film, each as often, that divide `batch`, the segments
    of all films of a step. questions: about each film. learning_rate: at its start and end. learns:
    the vision encoder alone, everything, or the projector and the language model alone. hints,
    counting: weights of the auxiliary losses, and of the one that says how many there are. deep:
    part of the steps in which more memory tokens are kept than the published least (`truncation`).
    """

    name: str
    steps: int
    segments: tuple[int, ...]
    batch: int
    questions: int
    learning_rate: tuple[float, float]
    learns: Literal["vision", "all", "language"] = "all"
    hints: float = 0.3
    counting: float = 0.0
    deep: float = 0.0


STAGES = (
    # What stands where in a frame.
    Stage("see", 2200, (4,), 48, 1, (2e-3, 5e-4), learns="vision", counting=0.6),
    # What happens in a few seconds.
    Stage("look", 700, (2, 3, 4), 48, 3, (2e-3, 2e-3), counting=0.5, deep=0.3),
    # What happens in up to a minute and a half.
    Stage(
        "watch", 1400, (4, 6, 8, 12, 16, 24), 48, 3, (2e-3, 2e-4), hints=0.2, counting=0.5, deep=0.3
    ),
    # To find it in many minutes.
    Stage(
        "remember", 550, (16, 24, 32, 48, 96), 96, 8, (1.5e-3, 2e-5), learns="language", deep=0.5
    ),
)
SMOKE = tuple(
    replace(stage, steps=2, segments=(2,), batch=4, questions=2, deep=float(stage.deep > 0))
    for stage in STAGES
)


def tempo_config(tokenizer: PreTrainedTokenizerFast) -> tuple[dict, dict]:
    """Tempo's and the base's config.json, in the official layout."""
    return small_configs(
        tokenizer,
        f"tempo_fast/{BASE_NAME}",
        compressor={"hidden_size": 128, "intermediate_size": 384},
        vision={
            "hidden_size": 96,
            "intermediate_size": 288,
            "num_heads": 3,
            "num_position_embeddings": (SIDE // 16) ** 2,
        },
        tempo={
            "num_hidden_layers": 5,
            "hidden_size": 160,
            "intermediate_size": 448,
            "num_compression_tokens": MEMORY,
            "video_longest_side": SIDE,
            "video_min_pixels": SIDE * SIDE,
        },
    )
