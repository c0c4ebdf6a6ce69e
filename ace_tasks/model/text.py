"""Encoding of prompts, as each of upstream's routes does it (ACE_SPEC 6).

T5 and CLIP get sequences of fixed length, and padding is attended. The FFT route cleans prompts.
Both routes add special tokens to T5's vocabulary; their embeddings exist but were never trained.

Legend: B batch, T text tokens, D features.
"""

from __future__ import annotations

import html
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ftfy
import torch

from ace_tasks.errors import WeightsError
from ace_tasks.model.variants import Variant

if TYPE_CHECKING:
    from ace_tasks.model.weights import Parts

CLIP_TOKENS = 77
_CACHED_PROMPTS = 256  # 4 MB each at T5-XXL's width
# Added after the tokenizer's own, in this order, which decides their ids.
SPECIAL_TOKENS = {
    "fft": (
        "<img>",
        "{image}",
        "{caption}",
        "{mask}",
        "{ref_image}",
        *(f"{{image{n}}}" for n in range(1, 10)),
    ),
    "lora": ("{image}",),
}


@dataclass(frozen=True, eq=False)
class Text:
    """Encoded prompts."""

    hidden_BTD: torch.Tensor
    pooled_BD: torch.Tensor

    @classmethod
    def join(cls, texts: Sequence[Text]) -> Text:
        return cls(
            torch.cat([text.hidden_BTD for text in texts]),
            torch.cat([text.pooled_BD for text in texts]),
        )


def clean_prompt(prompt: str) -> str:
    """Mend broken Unicode, resolve HTML entities twice, and collapse white space."""
    mended = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return " ".join(mended.split())


def add_special_tokens(tokenizer: Any, encoder: Any, route: str) -> None:
    """Add the route's tokens to T5's tokenizer. Raises WeightsError if the encoder lacks rows."""
    added = list(SPECIAL_TOKENS[route])
    tokenizer.add_tokens(added, special_tokens=True)
    rows = encoder.get_input_embeddings().num_embeddings
    if (highest := max(tokenizer.convert_tokens_to_ids(added))) >= rows:
        raise WeightsError(f"text_encoder_2: {rows} embeddings, but token {highest} is used")


class TextEncoder:
    """Both encoders of one model, with a cache of the last prompts.

    So one instruction over a whole catalog is encoded once per replica. The cache lives with the
    encoders, so it never returns embeddings of another model.
    """

    def __init__(self, variant: Variant, parts: Parts, device: str):
        self._route = variant.route
        self._tokens = variant.text_tokens
        self._parts = parts
        self._device = device
        self._texts: OrderedDict[str, Text] = OrderedDict()

    def encode(self, prompt: str) -> Text:
        """Encode one prompt as hidden (1, T, D) and pooled (1, D)."""
        text = clean_prompt(prompt) if self._route == "fft" else prompt
        if text in self._texts:
            self._texts.move_to_end(text)
            return self._texts[text]
        parts = self._parts
        t5_ids = self._ids(parts.t5_tokenizer, text, self._tokens)
        clip_ids = self._ids(parts.clip_tokenizer, text, CLIP_TOKENS)
        # No attention mask: padding is attended, as upstream does.
        encoded = Text(parts.t5(t5_ids)[0], parts.clip(clip_ids).pooler_output)
        self._texts[text] = encoded
        if len(self._texts) > _CACHED_PROMPTS:
            self._texts.popitem(last=False)
        return encoded

    def _ids(self, tokenizer: Any, text: str, length: int) -> torch.Tensor:
        ids: torch.Tensor = tokenizer(
            text, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        return ids.to(self._device)
