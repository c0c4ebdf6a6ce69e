"""The model to train: the transformer, and text encoders that may be trained with it.

The small models that are made here, such as `mini`, have the channels, the conditioning and the
classes of ACE++, with small widths, depths and vocabularies. Their T5 is trained as well, because
FLUX gives text no positions, so its tokens must come contextualised. Words of the world's grammar
are tokens; other words are split into letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from diffusers import FluxTransformer2DModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from ace_tasks.model.text import CLIP_TOKENS, SPECIAL_TOKENS, clean_prompt
from ace_tasks.model.toy import CHARACTERS, letter_tokenizer, small_clip, small_flux, small_t5
from ace_tasks.specs import Frozen

_WORD, _LETTER = -2.0, -10.0  # log-probabilities, so that a whole word always beats its letters


class SmallSettings(Frozen):
    """The sizes of the trained parts except the VAE."""

    channels: int = 448
    blocks: int = 2
    single_blocks: int = 4
    heads: int = 4  # 4 × 64 ran faster than 8 × 32 on a CPU
    head_dim: int = 64
    rope_axes: tuple[int, int, int] = (8, 28, 28)
    text_dim: int = 128
    text_layers: int = 2
    text_tokens: int = 24
    pooled_dim: int = 64
    seed: int = 2


def make_tokenizers(vocabulary: Sequence[str]) -> tuple[CLIPTokenizer, T5Tokenizer]:
    """Return both tokenizers.

    T5 has a token for each word of the vocabulary, and letters for others. CLIP has a token for
    each letter.
    """
    pieces = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, "▁": _LETTER}
    for token in vocabulary:
        pieces.setdefault(f"▁{token}", _WORD)
    for character in CHARACTERS:
        pieces.setdefault(character, _LETTER)
    return letter_tokenizer(), T5Tokenizer(vocab=list(pieces.items()), extra_ids=0)


def make_t5(settings: SmallSettings, tokenizer: T5Tokenizer) -> T5EncoderModel:
    """Return a T5 with embedding rows for the special tokens that our loaders add."""
    rows = len(tokenizer) + max(map(len, SPECIAL_TOKENS.values()))
    width, layers = settings.text_dim, settings.text_layers
    return small_t5(width, rows, layers=layers, heads=4, head_dim=width // 4, dropout_rate=0.0)


@dataclass(frozen=True, eq=False)
class Tokenizers:
    """The tokenizers of a variant, with the settings it will be loaded with."""

    clip: CLIPTokenizer
    t5: T5Tokenizer
    text_tokens: int
    clean: bool = True  # whether prompts are cleaned, as on the 448-channel route

    @classmethod
    def make(cls, settings: SmallSettings, vocabulary: Sequence[str]) -> Self:
        return cls(*make_tokenizers(vocabulary), settings.text_tokens)

    def tokens(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the token ids of prompts, (B, T) for T5 and (B, 77) for CLIP."""
        how: dict[str, Any] = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        texts = [clean_prompt(each) if self.clean else each for each in prompts]
        t5 = self.t5(texts, max_length=self.text_tokens, **how)
        clip = self.clip(texts, max_length=CLIP_TOKENS, **how)
        return t5.input_ids, clip.input_ids


class Trained(nn.Module):
    """The transformer, and the text encoders if they are trained with it.

    Without text encoders it takes their stored outputs instead of tokens.
    """

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        clip: CLIPTextModel | None = None,
        t5: T5EncoderModel | None = None,
    ):
        super().__init__()
        self.transformer, self.clip, self.t5 = transformer, clip, t5

    @classmethod
    def make(cls, settings: SmallSettings, tokenizers: Tokenizers) -> Self:
        """Return a model with random weights, all of which are trained."""
        torch.manual_seed(settings.seed)
        transformer = small_flux(settings, settings.channels)
        clip = small_clip(settings.pooled_dim, len(tokenizers.clip))
        return cls(transformer, clip, make_t5(settings, tokenizers.t5))

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the transformer only.

        Encoders stay in evaluation mode, without dropout, so that a step is a function of its
        number.
        """
        super().train(mode)
        for encoder in (self.clip, self.t5):
            if encoder is not None:
                encoder.eval()
        return self

    def forward(
        self,
        tokens_BND: torch.Tensor,
        sigma_B: torch.Tensor,
        guidance_B: torch.Tensor,
        t5: torch.Tensor,
        clip: torch.Tensor,
        image_ids: torch.Tensor,
    ) -> torch.Tensor:
        """Return the velocity (B, N, 64) for packed noise and condition (B, N, channels).

        `t5` and `clip` are ids (B, T) for trained encoders, else hidden states (B, T, D) and pooled
        ones (B, D).
        """
        hidden_BTD = t5 if self.t5 is None else self.t5(t5)[0]
        (velocity,) = self.transformer(
            hidden_states=tokens_BND,
            encoder_hidden_states=hidden_BTD,
            pooled_projections=clip if self.clip is None else self.clip(clip).pooler_output,
            timestep=sigma_B,
            guidance=guidance_B,
            img_ids=image_ids,
            txt_ids=torch.zeros(hidden_BTD.shape[1], 3, device=tokens_BND.device),
            return_dict=False,
        )
        out: torch.Tensor = velocity
        return out
