"""The toy variants: random, seeded weights in the real classes, built in seconds.

They prove the whole path, from the files of a node to the record of a picture, but edit nothing.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)
from transformers.utils import logging as transformers_logging

from ace_tasks.model import keymap
from ace_tasks.model.text import CLIP_TOKENS
from ace_tasks.model.variants import Variant, adapter_file

CHARACTERS = [c for c in string.printable if not c.isspace()]
_EXTRA_IDS = 8
_SPARE_ROWS = 28  # like the real one, T5's embedding has rows to spare for added tokens


def build(variant: Variant, folder: Path) -> None:
    """Write a toy variant's folder: diffusers' layout, LoRAs in Comfy's."""
    recipe = variant.recipe
    assert recipe is not None
    clip_tokenizer, t5_tokenizer = letter_tokenizer(), letter_t5_tokenizer()
    parts: dict[str, torch.nn.Module] = {
        "transformer": small_flux(recipe, recipe.in_channels),
        "vae": small_vae(recipe.vae_widths, groups=4, scaling_factor=0.3611, shift_factor=0.1159),
        "text_encoder": small_clip(recipe.pooled_dim, len(clip_tokenizer)),
        "text_encoder_2": small_t5(recipe.text_dim, len(t5_tokenizer) + _SPARE_ROWS),
    }
    transformers_logging.disable_progress_bar()  # the files have only kilobytes
    generator = torch.Generator().manual_seed(recipe.seed)
    for name, part in parts.items():
        randomise(part, generator)
        part.save_pretrained(folder / name, safe_serialization=True)  # type: ignore[operator]
    clip_tokenizer.save_pretrained(folder / "tokenizer")
    t5_tokenizer.save_pretrained(folder / "tokenizer_2")
    for name, rank in variant.adapters.items():
        path = folder / adapter_file(name)
        path.parent.mkdir(exist_ok=True)
        save_file(random_lora(parts["transformer"], rank, generator), path)


def random_lora(
    transformer: torch.nn.Module, rank: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Return a LoRA on every linear of every block, in Comfy's layout, strong enough to be seen."""
    lora, where = {}, generator.device
    for name, (rows, columns) in keymap.lora_linears(transformer.config).items():  # type: ignore[arg-type]
        down = torch.randn(rank, columns, generator=generator, device=where) * columns**-0.5
        up = torch.randn(rows, rank, generator=generator, device=where) * 0.3
        lora[f"{name}.lora_down.weight"], lora[f"{name}.lora_up.weight"] = down, up
        lora[f"{name}.alpha"] = torch.tensor(float(rank))
    return lora


def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Fill a model with Gaussian weights of variance 1 / fan-in, so signals keep their size."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim >= 2:
                fan_in = value[0].numel()
                value.normal_(0, fan_in**-0.5, generator=generator)
            elif name.endswith("bias"):
                value.normal_(0, 0.02, generator=generator)
            else:
                value.fill_(1)  # scales of norms


def small_flux(sizes: Any, channels: int) -> FluxTransformer2DModel:
    """Return a transformer of a `ToyRecipe`'s sizes, or of a training's `SmallSettings`."""
    return FluxTransformer2DModel(
        in_channels=channels,
        out_channels=64,
        num_layers=sizes.blocks,
        num_single_layers=sizes.single_blocks,
        attention_head_dim=sizes.head_dim,
        num_attention_heads=sizes.heads,
        joint_attention_dim=sizes.text_dim,
        pooled_projection_dim=sizes.pooled_dim,
        guidance_embeds=True,
        axes_dims_rope=sizes.rope_axes,
    )


def small_vae(
    widths: tuple[int, ...], *, groups: int, layers: int = 1, **config: Any
) -> AutoencoderKL:
    """Return a VAE of FLUX's kind: factor 8, 16 channels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths,
        layers_per_block=layers,
        latent_channels=16,
        norm_num_groups=groups,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        **config,
    )


def small_clip(width: int, vocab: int) -> CLIPTextModel:
    """Return a CLIP text encoder of one layer."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=CLIP_TOKENS,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def small_t5(
    width: int, rows: int, *, layers: int = 1, heads: int = 2, head_dim: int = 16, **more: Any
) -> T5EncoderModel:
    """Return a T5 encoder with `rows` embeddings."""
    return T5EncoderModel(
        T5Config(
            vocab_size=rows,
            d_model=width,
            d_kv=head_dim,
            d_ff=2 * width,
            num_layers=layers,
            num_heads=heads,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
            **more,
        )
    )


def letter_tokenizer() -> CLIPTokenizer:
    """Return a tokenizer with one token a character: no training, no files, any prompt."""
    vocab = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for piece in [*CHARACTERS, *(f"{c}</w>" for c in CHARACTERS)]:
        vocab[piece] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=CLIP_TOKENS)


def letter_t5_tokenizer() -> T5Tokenizer:
    """Return the same for T5."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(c, -3.0) for c in CHARACTERS]
    pieces += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(_EXTRA_IDS))]
    return T5Tokenizer(vocab=pieces, extra_ids=_EXTRA_IDS)
