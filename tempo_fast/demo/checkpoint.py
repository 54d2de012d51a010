"""A small checkpoint of Tempo's layout with random weights.

It runs everything that a trained one runs, in seconds on a laptop, but it has learnt nothing: its
answers are noise. It serves the tests.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tempo_fast.checkpoint.config import read_config
from tempo_fast.models.tempo import TempoModel

BASE_NAME = "demo-qwen3-vl"
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEMPLATE = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}\
{% if part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>\
{% elif part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with Qwen's special tokens and `Yes` and `No` as words."""
    merges = [("Y", "e"), ("Ye", "s"), ("N", "o")]
    words = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(pair) for pair in merges]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return wrap_tokenizer(tokenizer)


def wrap_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer of plain words with Qwen's special tokens and the chat template."""
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
        chat_template=TEMPLATE,
    )


def small_configs(
    tokenizer: PreTrainedTokenizerFast,
    base_name: str,
    *,
    compressor: dict,
    vision: dict,
    tempo: dict,
) -> tuple[dict, dict]:
    """Tempo's and the base's config.json of a small checkpoint, in the official layout.

    compressor, vision, tempo: entries of the three parts to add or to set differently, the sizes
    among them.
    """
    decoder = {
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "hidden_act": "silu",
        "attention_bias": False,
        "rms_norm_eps": 1e-6,
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": True,
    }
    rotary = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [6, 5, 5],
        "mrope_interleaved": True,
    }
    encoder = {
        "model_type": "qwen3_vl",
        "depth": 4,
        "out_hidden_size": compressor["hidden_size"],
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "in_channels": 3,
        "deepstack_visual_indexes": [0, 1, 2],
    }
    text = {"model_type": "qwen3_vl_text", "rope_parameters": rotary}
    image, video = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
    base = {
        "model_type": "qwen3_vl",
        "image_token_id": image,
        "video_token_id": video,
        "tie_word_embeddings": True,
        "text_config": decoder | text | compressor,
        "vision_config": encoder | vision,
    }
    whole = {
        "model_type": "tempo_qwen",
        "rope_theta": 1e6,
        "eos_token_id": tokenizer.eos_token_id,
        "mm_vision_tower_aux_list": [base_name],
        "mm_projector_type": "mlp2x_gelu",
        "num_compression_tokens": 16,
        "dynamic_compress": True,
    }
    return decoder | whole | tempo, base


def random_configs(tokenizer: PreTrainedTokenizerFast, changes: dict) -> tuple[dict, dict]:
    """Those of the checkpoint with random weights. changes: entries of Tempo's to set otherwise."""
    return small_configs(
        tokenizer,
        f"Qwen/{BASE_NAME}",
        compressor={"hidden_size": 64, "intermediate_size": 128},
        vision={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "num_position_embeddings": 2304,
        },
        tempo={"hidden_size": 96, "intermediate_size": 192} | changes,
    )


def _write_folder(folder: Path, config: dict, tokenizer: PreTrainedTokenizerFast) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    tokenizer.save_pretrained(folder)


def fill_randomly(model: TempoModel, generator: torch.Generator) -> None:
    """Give every parameter of the checkpoint a random value, on the model's device.

    Matrices keep the size of what they multiply; norms start at one and biases at zero.
    """
    for name, target in model.checkpoint_targets().items():
        if target.ndim > 1:
            target.normal_(0, target[0].numel() ** -0.5, generator=generator)
        else:
            target.fill_(0.0 if name.endswith("bias") else 1.0)


def make_checkpoint(folder: Path, *, seed: int = 0, **changes: object) -> Path:
    """Write a checkpoint and, beside it, its base; return the checkpoint's folder.

    changes: entries of Tempo's config.json to set differently, such as mm_projector_type="linear".
    """
    tokenizer = make_tokenizer()
    tempo, base = random_configs(tokenizer, changes)
    beside = folder.parent / BASE_NAME
    _write_folder(folder, tempo, tokenizer)
    _write_folder(beside, base, tokenizer)
    limits = {"size": {"shortest_edge": 65536, "longest_edge": 16777216}}
    (beside / "preprocessor_config.json").write_text(json.dumps(limits))

    model = TempoModel(read_config(tempo, base), device=torch.device("cpu"), dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    fill_randomly(model, generator)
    weights = {name: target.clone() for name, target in model.checkpoint_targets().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    table = torch.randn(len(tokenizer), base["text_config"]["hidden_size"], generator=generator)
    save_file(
        {"model.language_model.embed_tokens.weight": table},
        beside / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder
