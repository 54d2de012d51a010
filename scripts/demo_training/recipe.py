"""What is trained: the sizes of the network and the stages of its training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from transformers import PreTrainedTokenizerFast

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
    counting: weights of the auxiliary losses, and of the one that says how many there are.
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


STAGES = (
    # What stands where in a frame.
    Stage("see", 1400, (4,), 48, 1, (2e-3, 2e-3), learns="vision", counting=0.3),
    # What happens in a few seconds.
    Stage("look", 700, (2, 3, 4), 48, 3, (2e-3, 2e-3), counting=0.3),
    # What happens in up to a minute and a half.
    Stage("watch", 1200, (4, 6, 8, 12, 16, 24), 48, 3, (2e-3, 2e-4), hints=0.2, counting=0.3),
    # To find it in many minutes.
    Stage("remember", 450, (16, 24, 32, 48, 96), 96, 8, (1.5e-3, 2e-5), learns="language"),
)
SMOKE = tuple(replace(stage, steps=2, segments=(2,), batch=4, questions=2) for stage in STAGES)


def tempo_config(tokenizer: PreTrainedTokenizerFast) -> tuple[dict, dict]:
    """Tempo's and the base's config.json, in the official layout."""
    decoder = {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "hidden_act": "silu",
        "attention_bias": False,
        "rms_norm_eps": 1e-6,
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": True,
    }
    image, video = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
    base = {
        "model_type": "qwen3_vl",
        "image_token_id": image,
        "video_token_id": video,
        "tie_word_embeddings": True,
        "text_config": decoder
        | {
            "model_type": "qwen3_vl_text",
            "num_hidden_layers": 4,
            "hidden_size": 128,
            "intermediate_size": 384,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": 4,
            "hidden_size": 96,
            "intermediate_size": 288,
            "num_heads": 3,
            "num_position_embeddings": (SIDE // 16) ** 2,
            "out_hidden_size": 128,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "in_channels": 3,
            "deepstack_visual_indexes": [0, 1, 2],
        },
    }
    tempo = decoder | {
        "model_type": "tempo_qwen",
        "num_hidden_layers": 5,
        "hidden_size": 160,
        "intermediate_size": 448,
        "rope_theta": 1e6,
        "eos_token_id": tokenizer.eos_token_id,
        "mm_vision_tower_aux_list": [f"tempo_fast/{BASE_NAME}"],
        "mm_projector_type": "mlp2x_gelu",
        "num_compression_tokens": MEMORY,
        "dynamic_compress": True,
        "video_longest_side": SIDE,
        "video_min_pixels": SIDE * SIDE,
    }
    return tempo, base
