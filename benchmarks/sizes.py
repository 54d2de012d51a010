"""The models that are timed: engine and baseline around the same weights, made on the device.

`tiny` is the golden checkpoint. `small`, `wide` and `tempo-6b` have random weights and no file;
`tempo-6b` has the full sizes of Tempo-6B and needs a GPU, `wide` its widths and few of its layers,
in float32 and 16 GB of memory. A folder is a checkpoint to read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tempo_fast import TempoFastPipeline
from tempo_fast.checkpoint.config import read_config
from tempo_fast.checkpoint.files import resolve
from tempo_fast.checkpoint.load import Checkpoint, ImageLimits
from tempo_fast.checkpoint.storage import read_json
from tempo_fast.compression.prompt import SYSTEM
from tempo_fast.demo.checkpoint import SPECIAL, TEMPLATE, fill_randomly
from tempo_fast.models.tempo import TempoModel
from tempo_fast.tokenizer import PromptTokenizer

from .baseline import Baseline, build_networks

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
CHECKPOINT = GOLDEN / "checkpoint" / "tiny-tempo"
END = "<|im_end|>"
# Qwen's way of cutting text into words; every digit is one.
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"


@dataclass(frozen=True)
class Shape:
    """What the two config.json of a size differ in. heads and kv_heads are of `head_dim` each."""

    vision: dict
    compressor: dict
    language_model: dict
    sections: tuple[int, int, int]
    vocabulary: int
    memory_tokens: int
    frame: tuple[int, int]


def _vision(depth: int, width: int, heads: int, deepstack: list[int]) -> dict:
    return {
        "depth": depth,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_heads": heads,
        "deepstack_visual_indexes": deepstack,
    }


def _decoder(layers: int, width: int, ffn: int, heads: int, kv_heads: int, head_dim: int) -> dict:
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
    }


FULL = Shape(
    vision=_vision(24, 1024, 16, [5, 11, 17]),
    compressor=_decoder(28, 2048, 6144, 16, 8, 128),
    language_model=_decoder(36, 2560, 9728, 32, 8, 128),
    sections=(24, 20, 20),
    vocabulary=151936,
    memory_tokens=128,
    frame=(256, 512),
)

RANDOM = {
    "small": Shape(
        vision=_vision(6, 256, 4, [1, 2, 3]),
        compressor=_decoder(6, 256, 768, 4, 2, 64),
        language_model=_decoder(8, 384, 1152, 6, 2, 64),
        sections=(12, 10, 10),
        vocabulary=4096,
        memory_tokens=32,
        frame=(180, 320),
    ),
    "wide": replace(
        FULL,
        vision={**FULL.vision, "depth": 6, "deepstack_visual_indexes": [1, 2, 3]},
        compressor={**FULL.compressor, "num_hidden_layers": 4},
        language_model={**FULL.language_model, "num_hidden_layers": 4},
    ),
    "tempo-6b": FULL,
}
SIZES = ("tiny", *RANDOM)
GOLDEN_FRAME = (180, 320)


@dataclass(frozen=True)
class Models:
    """Engine and baseline around one set of weights. frame: height and width of their videos.

    tempo, base: the two config.json, for another baseline around other weights. folder: of the
    checkpoint, where the weights have one.
    """

    size: str
    engine: TempoFastPipeline
    baseline: Baseline
    tempo: dict
    base: dict
    frame: tuple[int, int]
    folder: Path | None = None

    @property
    def device(self) -> torch.device:
        return self.engine.device

    @property
    def dtype(self) -> torch.dtype:
        return self.engine.dtype


def load_size(size: str, device: torch.device, dtype: torch.dtype | None = None) -> Models:
    """size: of SIZES, or a checkpoint's folder. dtype: by default bfloat16 for `tempo-6b`, as
    stored for a folder and float32 for the others."""
    if size not in RANDOM:
        folder = CHECKPOINT if size == "tiny" else Path(size)
        files = resolve(folder, local_files_only=True)
        engine = TempoFastPipeline.from_pretrained(folder, device=device, dtype=dtype or "auto")
        tempo, base = (read_json(each / "config.json") for each in (files.tempo, files.base))
        name = "tiny" if size == "tiny" else folder.name
        return _with_baseline(name, engine, tempo, base, GOLDEN_FRAME, files.tempo)
    shape = RANDOM[size]
    tokenizer = make_tokenizer()
    tempo, base = configs(shape, tokenizer)
    dtype = dtype or (torch.bfloat16 if size == "tempo-6b" else torch.float32)
    config = read_config(tempo, base)
    model = TempoModel(config, device=device, dtype=dtype)
    generator = torch.Generator(device).manual_seed(0)
    fill_randomly(model, generator)
    end = tokenizer.convert_tokens_to_ids(END)
    model.yes_minus_no.normal_(0, config.compressor.width**-0.5, generator=generator)
    # No logit of this token is above zero, so no answer ends before it has its length.
    model.lm_head[end] = 0
    engine = TempoFastPipeline(
        Checkpoint(
            config=config,
            model=model,
            tokenizer=PromptTokenizer(tokenizer),
            base_tokenizer=PromptTokenizer(tokenizer),
            image_limits=ImageLimits(65536, 16777216),
            stop_tokens=frozenset({end}),
        )
    )
    return _with_baseline(size, engine, tempo, base, shape.frame)


def _with_baseline(
    size: str,
    engine: TempoFastPipeline,
    tempo: dict,
    base: dict,
    frame: tuple[int, int],
    folder: Path | None = None,
) -> Models:
    checkpoint = engine.checkpoint
    model = checkpoint.model
    baseline = Baseline(
        build_networks(tempo, base, model.checkpoint_targets(), model.yes_minus_no),
        checkpoint.tokenizer.tokenizer,
        checkpoint.base_tokenizer.tokenizer,
        sorted(checkpoint.stop_tokens),
    )
    return Models(size, engine, baseline, tempo, base, frame, folder)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that cuts prompts into as many tokens as Qwen's does: a word each, a digit each.

    Text that it doesn't know comes in bytes.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False)
    turns = "system\nuser\nassistant\nYou are a helpful assistant.\n\nQuery:\n<0.0 seconds> Yes No"
    tokenizer.train_from_iterator([SYSTEM, turns, *QUESTIONS], trainer)
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
        chat_template=TEMPLATE,
    )


QUESTIONS = (
    "What color is the ball?",
    "When does it stop?",
    "Who opens the door?",
    "What happens at the end?",
)


def configs(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> tuple[dict, dict]:
    """Tempo's and the base's config.json of a size."""
    decoder = {
        "hidden_act": "silu",
        "attention_bias": False,
        "rms_norm_eps": 1e-6,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": True,
    }
    image, video = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
    base = {
        "model_type": "qwen3_vl",
        "image_token_id": image,
        "video_token_id": video,
        "tie_word_embeddings": True,
        "text_config": {
            **decoder,
            **shape.compressor,
            "model_type": "qwen3_vl_text",
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": list(shape.sections),
                "mrope_interleaved": True,
            },
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "num_position_embeddings": 2304,
            "out_hidden_size": shape.compressor["hidden_size"],
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "in_channels": 3,
            **shape.vision,
        },
    }
    tempo = {
        **decoder,
        **shape.language_model,
        "model_type": "tempo_qwen",
        "rope_theta": 1e6,
        "eos_token_id": tokenizer.eos_token_id,
        "mm_vision_tower_aux_list": ["Qwen/Qwen3-VL-2B-Instruct"],
        "mm_projector_type": "mlp2x_gelu",
        "num_compression_tokens": shape.memory_tokens,
        "dynamic_compress": True,
    }
    return tempo, base
