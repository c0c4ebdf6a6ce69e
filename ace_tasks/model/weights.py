"""Model files on a node: made or found once, checked by SHA-256, loaded strictly.

A variant's folder has diffusers' layout, as FLUX.1-Fill-dev has:

    transformer/ vae/ text_encoder/ (CLIP) text_encoder_2/ (T5) tokenizer/ tokenizer_2/
    sha256.json   file → hash, written last; a folder without it is not there

Safetensors only: a pickle is never opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import string
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from ace_tasks.errors import WeightsError
from ace_tasks.model.variants import ToyRecipe, Variant

_MANIFEST = "sha256.json"
_CLIP_TOKENS = 77
_EXTRA_IDS = 8


@dataclass(frozen=True, eq=False)
class Parts:
    """The loaded pieces of a model, in eval mode, on one device."""

    transformer: FluxTransformer2DModel
    vae: AutoencoderKL
    clip: CLIPTextModel
    t5: T5EncoderModel
    clip_tokenizer: CLIPTokenizer
    t5_tokenizer: T5Tokenizer


def ensure(variant: Variant, weights_dir: Path) -> Path:
    """The variant's folder on this node, made if it is not there; one maker at a time.

    However many replicas ask, one builds while the others wait; a half-written folder is never
    seen, because it gets its name last.
    """
    folder = weights_dir / f"{variant.name}-{variant.identity().base[:12]}"
    weights_dir.mkdir(parents=True, exist_ok=True)
    with _locked(weights_dir / f"{folder.name}.lock"):
        if not (folder / _MANIFEST).exists():
            with tempfile.TemporaryDirectory(dir=weights_dir) as scratch:
                made = Path(scratch) / folder.name
                _build_toy(variant, made)
                (made / _MANIFEST).write_text(json.dumps(_hashes(made), indent=1))
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)
    return folder


def load(variant: Variant, folder: Path, device: str) -> Parts:
    """Check every file's hash, then load every part strictly. Raises WeightsError."""
    verify(folder)
    dtype = getattr(torch, variant.dtype)
    return Parts(
        transformer=_strict(FluxTransformer2DModel, folder / "transformer", dtype, device),
        vae=_strict(AutoencoderKL, folder / "vae", dtype, device),
        clip=_strict(CLIPTextModel, folder / "text_encoder", dtype, device),
        t5=_strict(T5EncoderModel, folder / "text_encoder_2", dtype, device),
        clip_tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
        t5_tokenizer=T5Tokenizer.from_pretrained(folder / "tokenizer_2", local_files_only=True),
    )


def verify(folder: Path) -> None:
    """Raises WeightsError naming the first file that is missing, surplus or altered."""
    try:
        expected: dict[str, str] = json.loads((folder / _MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder / _MANIFEST}: unreadable ({type(error).__name__})") from None
    found = _hashes(folder)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise WeightsError(f"{folder / name}: missing")
        if name not in expected:
            raise WeightsError(f"{folder / name}: not in {_MANIFEST}")
        if found[name] != expected[name]:
            raise WeightsError(
                f"{folder / name}: altered; expected SHA-256 {expected[name]}, "
                f"found {found[name]} (delete the folder to have it made again)"
            )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _hashes(folder: Path) -> dict[str, str]:
    hashes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != _MANIFEST:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            hashes[path.relative_to(folder).as_posix()] = digest
    return hashes


def _strict(kind: Any, folder: Path, dtype: torch.dtype, device: str) -> Any:
    """from_pretrained, but a missing, surplus or misshapen key is an error that names it."""
    try:
        model, info = kind.from_pretrained(
            folder,
            torch_dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{folder}: {type(error).__name__}: {error}"[:500]) from None
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(problem):
            raise WeightsError(f"{folder}: {problem.replace('_', ' ')}: {sorted(info[problem])[0]}")
    return model.to(device).eval()


# ---------------------------------------------------------------- toy


def _build_toy(variant: Variant, folder: Path) -> None:
    recipe = variant.recipe
    clip_tokenizer, t5_tokenizer = _toy_tokenizers()
    parts: dict[str, torch.nn.Module] = {
        "transformer": FluxTransformer2DModel(
            in_channels=recipe.in_channels,
            out_channels=64,
            num_layers=recipe.blocks,
            num_single_layers=recipe.single_blocks,
            attention_head_dim=recipe.head_dim,
            num_attention_heads=recipe.heads,
            joint_attention_dim=recipe.text_dim,
            pooled_projection_dim=recipe.pooled_dim,
            guidance_embeds=True,
            axes_dims_rope=recipe.rope_axes,
        ),
        "vae": AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=recipe.vae_widths,
            layers_per_block=1,
            latent_channels=16,
            norm_num_groups=4,
            use_quant_conv=False,
            use_post_quant_conv=False,
            mid_block_add_attention=False,
            scaling_factor=0.3611,
            shift_factor=0.1159,
        ),
        "text_encoder": CLIPTextModel(_toy_clip_config(recipe, len(clip_tokenizer))),
        "text_encoder_2": T5EncoderModel(_toy_t5_config(recipe, len(t5_tokenizer))),
    }
    generator = torch.Generator().manual_seed(recipe.seed)
    for name, part in parts.items():
        _randomise(part, generator)
        part.save_pretrained(folder / name, safe_serialization=True)  # type: ignore[operator]
    clip_tokenizer.save_pretrained(folder / "tokenizer")
    t5_tokenizer.save_pretrained(folder / "tokenizer_2")


def _randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Gaussian weights of variance 1 / fan-in: signals keep their size, whatever the class."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim >= 2:
                fan_in = value[0].numel()
                value.normal_(0, fan_in**-0.5, generator=generator)
            elif name.endswith("bias"):
                value.normal_(0, 0.02, generator=generator)
            else:
                value.fill_(1)  # scales of norms


def _toy_clip_config(recipe: ToyRecipe, vocab: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocab,
        hidden_size=recipe.pooled_dim,
        intermediate_size=2 * recipe.pooled_dim,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=_CLIP_TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def _toy_t5_config(recipe: ToyRecipe, vocab: int) -> T5Config:
    return T5Config(
        vocab_size=vocab,
        d_model=recipe.text_dim,
        d_kv=16,
        d_ff=2 * recipe.text_dim,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )


def _toy_tokenizers() -> tuple[CLIPTokenizer, T5Tokenizer]:
    """One token a character: no training, no files, any prompt."""
    characters = [c for c in string.printable if not c.isspace()]
    clip_vocab = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for piece in [*characters, *(f"{c}</w>" for c in characters)]:
        clip_vocab[piece] = len(clip_vocab)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(c, -3.0) for c in characters]
    pieces += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(_EXTRA_IDS))]
    return (
        CLIPTokenizer(vocab=clip_vocab, merges=[], model_max_length=_CLIP_TOKENS),
        T5Tokenizer(vocab=pieces, extra_ids=_EXTRA_IDS),
    )
