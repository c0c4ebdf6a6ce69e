"""Named model variants, as data: parameters, recipe, fingerprints. Loads no torch.

Planning needs a model's identity and nothing else; so this file stays light, and `weights`
does the heavy half.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import Field

from ace_tasks.errors import SettingsError
from ace_tasks.specs import Frozen, ModelIdentity, canonical_json


class ToyRecipe(Frozen):
    """Random, seeded weights in the real classes: what `weights` builds, and what is hashed.

    Raise `version` when the builder changes what it builds from the same numbers.
    """

    version: int = 1
    seed: int
    in_channels: Literal[384, 448]
    blocks: int = 1
    single_blocks: int = 1
    heads: int = 2
    head_dim: int = 16
    rope_axes: tuple[int, int, int] = (4, 6, 6)
    text_dim: int = 32
    pooled_dim: int = 32
    vae_widths: tuple[int, int, int, int] = (8, 16, 16, 16)


class Variant(Frozen):
    """A model by name. All variants go through the same classes, loader and denoise loop."""

    name: str
    summary: str
    route: Literal["lora", "fft"] = Field(
        description="lora: 384 channels, FLUX.1-Fill-dev with adapters; fft: 448 channels."
    )
    recipe: ToyRecipe
    steps: int
    guidance: float
    max_seq_len: int = Field(description="Token budget of a canvas, references included.")
    text_tokens: int = Field(description="Length of the T5 sequence, padding included.")
    width_px: int = Field(description="Default size of pictures made without a source.")
    height_px: int
    dtype: Literal["float32", "bfloat16"]

    def identity(self) -> ModelIdentity:
        """What planning needs; fingerprints come from the recipe, so nothing is built for it."""

        def fingerprint(part: str) -> str:
            return hashlib.sha256(
                canonical_json([part, self.recipe.model_dump(), self.text_tokens])
            ).hexdigest()

        return ModelIdentity(
            variant=self.name,
            route=self.route,
            base=fingerprint("base"),
            encoders=fingerprint("encoders"),
            adapters={},
            steps=self.steps,
            guidance=self.guidance,
            max_seq_len=self.max_seq_len,
            width_px=self.width_px,
            height_px=self.height_px,
            dtype=self.dtype,
        )


_TOY = {
    "steps": 4,
    "guidance": 50.0,
    "max_seq_len": 1024,
    "text_tokens": 64,
    "width_px": 512,
    "height_px": 512,
    "dtype": "float32",
}

VARIANTS: dict[str, Variant] = {
    each.name: each
    for each in (
        Variant(
            name="toy",
            summary="Random seeded weights, 448 channels; proves the path, edits nothing.",
            route="fft",
            recipe=ToyRecipe(seed=1, in_channels=448),
            **_TOY,
        ),
        Variant(
            name="toy-lora",
            summary="Random seeded weights, 384 channels; proves the other route.",
            route="lora",
            recipe=ToyRecipe(seed=2, in_channels=384),
            **_TOY,
        ),
    )
}


def find_variant(name: str) -> Variant:
    """Raises SettingsError listing the names."""
    if name not in VARIANTS:
        raise SettingsError(f"variant: accepted: {', '.join(VARIANTS)}; given {name!r}")
    return VARIANTS[name]
