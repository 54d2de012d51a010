"""The sizes of a Tempo, read from the two Hugging Face configurations of its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, fields

from transformers import Qwen3Config, Qwen3VLConfig

from tempo_fast.errors import CheckpointError
from tempo_fast.video.resize import PUBLISHED, FrameLimits

# Pixels, frames and merged neighbours of a patch: the frames are cut so before they are seen.
PATCHES = (16, 2, 2)


@dataclass(frozen=True)
class DecoderConfig:
    """A Qwen3 decoder: the compressor's (mrope_section set) or the language model's (None).

    float16_frequencies: the published code carries this decoder's rotary frequencies through
    float16 before it computes with them, which the weights' numbers include.
    """

    layers: int
    width: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    rms_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int] | None = None
    float16_frequencies: bool = False


@dataclass(frozen=True)
class VisionConfig:
    """The Qwen3-VL vision encoder. `positions`: rows of the square position table, side²."""

    layers: int
    width: int
    ffn: int
    heads: int
    patch: int
    temporal_patch: int
    merge: int
    channels: int
    positions: int
    out_width: int
    deepstack: tuple[int, ...]


@dataclass(frozen=True)
class TempoConfig:
    """Everything about a checkpoint that the engine needs to know before it reads a weight."""

    vision: VisionConfig
    compressor: DecoderConfig
    language_model: DecoderConfig
    memory_tokens: int
    projector: str
    tied_embeddings: bool
    dynamic_compress: bool
    image_start_end: bool
    eos_tokens: tuple[int, ...]
    base_id: str | None
    frames: FrameLimits = PUBLISHED


def _rope_theta(config) -> float:
    return float(config.rope_parameters["rope_theta"])


def _decoder(config, mrope_section: tuple[int, int, int] | None = None) -> DecoderConfig:
    if config.hidden_act != "silu" or config.attention_bias:
        raise CheckpointError(
            "a Tempo decoder has the silu activation and no attention bias; the checkpoint's "
            f"config says hidden_act={config.hidden_act!r}, attention_bias={config.attention_bias}"
        )
    return DecoderConfig(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        ffn=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocabulary=config.vocab_size,
        rms_eps=config.rms_norm_eps,
        rope_theta=_rope_theta(config),
        mrope_section=mrope_section,
        float16_frequencies=mrope_section is not None,
    )


def _with_rope_parameters(config: dict) -> dict:
    """A decoder's config.json in transformers 5's terms, whichever release wrote it."""
    old = {"rope_scaling", "rope_theta"}
    if not old & config.keys():
        return config
    rope = {**(config.get("rope_scaling") or {"rope_type": "default"})}
    if "rope_theta" in config:
        rope["rope_theta"] = config["rope_theta"]
    kept = {name: value for name, value in config.items() if name not in old}
    return {**kept, "rope_parameters": {**rope, **(config.get("rope_parameters") or {})}}


def _frame_limits(tempo: dict) -> FrameLimits:
    """The published limits on a frame's size, but for those that the checkpoint has of its own."""
    given = {
        name: tempo[f"video_{name}"]
        for name in (field.name for field in fields(FrameLimits))
        if f"video_{name}" in tempo
    }
    wrong = {k: v for k, v in given.items() if type(v) is not int or v < 1}
    if wrong:
        raise CheckpointError(
            "limits on a frame's size are whole numbers of at least 1; the checkpoint's config "
            f"says {', '.join(f'video_{name}={value!r}' for name, value in wrong.items())}"
        )
    return FrameLimits(**given)


def _eos_tokens(eos: int | list[int] | None) -> tuple[int, ...]:
    if eos is None:
        return ()
    return (eos,) if isinstance(eos, int) else tuple(eos)


def read_config(tempo: dict, base: dict) -> TempoConfig:
    """Read Tempo's and the base's `config.json` (as dictionaries).

    Raises CheckpointError when a key is missing or names a layout that this engine doesn't run.
    """
    try:
        if int(tempo["num_compression_tokens"]) < 1:
            raise ValueError("num_compression_tokens must be at least 1")
        # Tempo's own rope_scaling is ignored: the language model always has plain rotary positions.
        language = Qwen3Config.from_dict(
            {**_with_rope_parameters({**tempo, "rope_scaling": None}), "model_type": "qwen3"}
        )
        vl = Qwen3VLConfig.from_dict(
            {**base, "text_config": _with_rope_parameters(base["text_config"])}
        )
        names = tempo.get("mm_vision_tower_aux_list") or [None]
        vision, text = vl.vision_config, vl.text_config
        cut = (vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size)
        if cut != PATCHES:
            raise CheckpointError(
                "Qwen3-VL cuts patches of 16 pixels and 2 frames and merges 2 × 2 of them; the "
                f"base's config says {cut[0]}, {cut[1]} and {cut[2]}"
            )
        return TempoConfig(
            vision=VisionConfig(
                layers=vision.depth,
                width=vision.hidden_size,
                ffn=vision.intermediate_size,
                heads=vision.num_heads,
                patch=vision.patch_size,
                temporal_patch=vision.temporal_patch_size,
                merge=vision.spatial_merge_size,
                channels=vision.in_channels,
                positions=vision.num_position_embeddings,
                out_width=vision.out_hidden_size,
                deepstack=tuple(vision.deepstack_visual_indexes),
            ),
            compressor=_decoder(text, tuple(text.rope_parameters["mrope_section"])),
            language_model=_decoder(language),
            memory_tokens=int(tempo["num_compression_tokens"]),
            projector=str(tempo["mm_projector_type"]),
            tied_embeddings=bool(language.tie_word_embeddings),
            dynamic_compress=bool(tempo.get("dynamic_compress", True)),
            image_start_end=bool(tempo.get("mm_use_im_start_end", False)),
            eos_tokens=_eos_tokens(language.eos_token_id),
            base_id=names[0],
            frames=_frame_limits(tempo),
        )
    except CheckpointError:
        raise
    except Exception as error:  # transformers checks the types with errors of its own
        raise CheckpointError(
            f"the checkpoint's config.json is not a Tempo's: {type(error).__name__}: {error}"
        ) from error
