"""Models with random weights in the real classes, drawn on the device where they work.

Speed does not depend on weights. Nothing passes through the host's memory or a disk: the full
geometry's 34 GB are there in seconds. One seed gives the same weights each time on one device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from ace_tasks.lcu.canvas import Inputs
from ace_tasks.lcu.policies import build_canvas
from ace_tasks.model import keymap, toy
from ace_tasks.model.ace import ModelJob
from ace_tasks.model.text import add_special_tokens
from ace_tasks.model.variants import FLUX_CONFIG, Variant, find_variant
from ace_tasks.model.weights import Parts

PROMPT = "a red mug on a white table"
ADAPTER_RANK = 16  # of two of ACE++'s three LoRAs
_SEED = 1
_GUIDANCE = 50.0
# A trained FLUX moves its residual stream little with each block. Random modulations of full size
# would make of the loop a random walk, and any rounding would end as another picture.
_MODULATION_SHARE = 0.1


@dataclass(frozen=True)
class Geometry:
    """The shapes of a model, and of the picture that is edited by it."""

    name: str
    variant: str
    transformer: Mapping[str, Any]
    t5: Mapping[str, Any]
    clip: Mapping[str, Any]
    vae: Mapping[str, Any]
    side_px: int  # of the target, a square
    steps: int

    @property
    def config(self) -> dict[str, Any]:
        """Return the arguments of FluxTransformer2DModel."""
        return {**self.transformer, "in_channels": 384}


_TINY = {
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "axes_dims_rope": (4, 6, 6),
}
_TINY_VAE = {"block_out_channels": (8, 16, 16, 16), "layers_per_block": 1, "norm_num_groups": 4}

GEOMETRIES = {
    each.name: each
    for each in (
        Geometry(
            name="full",  # FLUX.1-Fill-dev, as its config.json files have it
            variant="flux-fill-lora",
            transformer=FLUX_CONFIG,
            t5={"vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24,
                "num_heads": 64},
            clip={"vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072,
                  "num_hidden_layers": 12, "num_attention_heads": 12},
            vae={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
                 "norm_num_groups": 32},
            side_px=1024,
            steps=28,
        ),
        Geometry(
            name="tiny",  # to rehearse the command
            variant="toy-lora",
            transformer=FLUX_CONFIG | _TINY,
            t5={"vocab_size": 256, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1,
                "num_heads": 2},
            clip={"vocab_size": 256, "hidden_size": 32, "intermediate_size": 64,
                  "num_hidden_layers": 1, "num_attention_heads": 2},
            vae=_TINY_VAE,
            side_px=64,
            steps=8,
        ),
    )
}  # fmt: skip


@contextmanager
def _drawn_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Make new parameters on the device and in this type from the first moment."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def _generator(device: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(_SEED)


def dtype_on(device: str) -> torch.dtype:
    return torch.bfloat16 if device == "cuda" else torch.float32


def make_transformer(geometry: Geometry, device: str) -> FluxTransformer2DModel:
    with _drawn_on(device, dtype_on(device)):
        model = FluxTransformer2DModel(**geometry.config)
    toy.randomise(model, _generator(device))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".norm" in name and name.endswith("linear.weight"):
                value.mul_(_MODULATION_SHARE)
    return model.eval().requires_grad_(False)


def make_adapter(transformer: FluxTransformer2DModel) -> dict[str, torch.Tensor]:
    """Return a LoRA for every linear of every block, by PEFT's keys."""
    generator = _generator(transformer.device.type)
    lora = toy.random_lora(transformer, ADAPTER_RANK, generator)
    adapter = keymap.lora_from_comfy(lora, transformer.config)
    return {key: value.to(transformer.dtype) for key, value in adapter.items()}


def make_parts(geometry: Geometry, device: str) -> Parts:
    """Make all parts of a model, without adapters."""
    with _drawn_on(device, dtype_on(device)):
        vae = AutoencoderKL(
            **geometry.vae,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=16,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=0.3611,
            shift_factor=0.1159,
        )
        clip = CLIPTextModel(
            CLIPTextConfig(
                **geometry.clip,
                max_position_embeddings=77,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )
        t5 = T5EncoderModel(
            T5Config(
                **geometry.t5,
                feed_forward_proj="gated-gelu",
                is_encoder_decoder=False,
                use_cache=False,
            )
        )
    for part in (vae, clip, t5):
        toy.randomise(part, _generator(device))
        part.eval().requires_grad_(False)
    clip_tokenizer, t5_tokenizer = toy.letter_tokenizer(), toy.letter_t5_tokenizer()
    add_special_tokens(t5_tokenizer, t5, find_variant(geometry.variant).route)
    transformer = make_transformer(geometry, device)
    return Parts(transformer, vae, clip, t5, clip_tokenizer, t5_tokenizer)


def with_transformer(
    parts: Parts, transformer: FluxTransformer2DModel, adapters: Mapping[str, Any]
) -> Parts:
    """Return the same encoders and VAE around another transformer."""
    return replace(parts, transformer=transformer, adapters=adapters)


def make_job(geometry: Geometry, side_px: int, references: int = 0) -> ModelJob:
    """Make a square picture of noise whose left half is repainted, and references of its size.

    The canvas may have as many tokens as that takes, however few the variant's budget allows.
    """
    variant: Variant = find_variant(geometry.variant)
    rng = np.random.default_rng(_SEED)

    def noise() -> np.ndarray:
        return rng.integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)

    mask = np.zeros((side_px, side_px), np.uint8)
    mask[:, : side_px // 2] = 255
    unit, _ = build_canvas(
        Inputs(
            image=noise(),
            mask=mask,
            references=tuple(noise() for _ in range(references)),
            width=0,
            height=0,
            max_seq_len=(1 + references) * (side_px // 16) ** 2,
            repainting_scale=1.0,
            keep_pixels_rate=None,
            use_change=variant.route == "fft",
        )
    )
    return ModelJob(unit, PROMPT, seed=_SEED, steps=geometry.steps, guidance=_GUIDANCE)
