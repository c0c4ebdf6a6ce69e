"""Named model variants, as data: parameters, files, fingerprints. No torch is loaded.

Planning needs only a model's identity, so this module stays light, and `weights` does the heavy
half.

A variant is made of exactly one of: a `recipe` (random weights, built in seconds), files on the
`hub`, or a `home` (a folder that holds its `variant.json`; see `sources.open_variant`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from ace_tasks.errors import SettingsError
from ace_tasks.specs import Adapter, Frozen, ModelIdentity, canonical_json

# Folders of a variant, as in FLUX.1-Fill-dev. Those that end in _2 are T5's, the others CLIP's.
BASE_FOLDERS = ("transformer", "vae")
ENCODER_FOLDERS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
ADAPTER_FOLDER = "adapters"


def adapter_file(name: str) -> str:
    return f"{ADAPTER_FOLDER}/{name}.safetensors"


class ToyRecipe(Frozen):
    """The numbers from which `toy` builds random weights, and which are hashed.

    Raise `version` when the builder changes what it builds from the same numbers.
    """

    version: int = 2
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


class Transformer(Frozen):
    """The layout of the transformer's files, and what they must hold."""

    layout: Literal["diffusers", "bfl"] = Field(
        "diffusers", description="bfl: one checkpoint in Black Forest Labs' key layout."
    )
    channels: Literal[384, 448] = Field(
        description="Channels of the files. On route fft, 384 are widened to 448 by zero columns."
    )
    config: dict[str, Any] | None = Field(
        None, description="Arguments of FluxTransformer2DModel. Empty: transformer/config.json."
    )
    parameters: int | None = Field(None, description="Number of parameters; checked if given.")


class HubFile(Frozen):
    """One file of a variant, and where it is published."""

    path: str = Field(description="Path in the variant's folder.")
    repo: str = Field(description="owner/name on the model hub.")
    revision: str = Field(description="Commit, branch or tag.")
    remote: str = Field(description="Path in the repository.")
    sha256: str | None = Field(
        None, description="SHA-256 (hex). Empty: the hash that the hub states for the revision."
    )


class License(Frozen):
    """A licence that a person must accept before the weights are used."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")  # names a file on the machine
    name: str
    where: str


class Variant(Frozen):
    """A model by name. All variants go through the same classes, loader and denoise loop."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    summary: str
    route: Literal["lora", "fft"] = Field(
        description="lora: 384 channels, FLUX.1-Fill-dev with adapters; fft: 448 channels."
    )
    recipe: ToyRecipe | None = None
    transformer: Transformer | None = None
    hub: tuple[HubFile, ...] = ()
    home: str | None = Field(None, description="The place of its variant.json.")
    shipped: bool = Field(False, description="Its files come with this package.")
    license: License | None = None
    adapters: dict[Adapter, PositiveInt] = Field(default={}, description="Adapter name → rank.")
    steps: PositiveInt
    guidance: float = Field(allow_inf_nan=False)
    max_seq_len: PositiveInt = Field(description="Token budget of a canvas, references included.")
    text_tokens: PositiveInt = Field(description="Length of the T5 sequence, padding included.")
    keep_pixels_rate: float | None = Field(
        None, gt=0, le=1, description="References are at most this share of the target's height."
    )
    width_px: int = Field(ge=16, description="Default size of pictures made without a source.")
    height_px: int = Field(ge=16)
    dtype: Literal["float32", "bfloat16"]

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        if self.route == "lora" and self.transformer and self.transformer.channels != 384:
            raise ValueError("route lora takes a transformer of 384 channels")
        return self

    @property
    def _is_widened(self) -> bool:
        """Return whether files of 384 channels are read on the fft route.

        The fft route makes other pictures of these files than the lora route does. Files of 448
        channels have no other route.
        """
        return self.route == "fft" and bool(self.transformer and self.transformer.channels == 384)

    @property
    def channels(self) -> Literal[384, 448]:
        """Return how many channels a canvas has on its route."""
        return 384 if self.route == "lora" else 448

    @property
    def files(self) -> Transformer:
        """Return how its transformer's files are to be read."""
        return self.transformer or Transformer(channels=self.channels)

    @property
    def shipped_folder(self) -> Path | None:
        """The folder of its files, if they come with this package."""
        return _SHIPPED / self.name if self.shipped else None

    def identity(self, hashes: Mapping[str, str] | None = None) -> ModelIdentity:
        """Return the identity that planning needs.

        `hashes` holds the SHA-256 of each file of a variant with files. A recipe needs none, so
        nothing is built to plan with it.
        """

        def fingerprint(part: str, *folders: str) -> str:
            declared = {file.path for file in self.hub}  # a mirror may hold more
            files = {
                path: sha256
                for path, sha256 in (hashes or {}).items()
                if path.split("/")[0] in folders and (not declared or path in declared)
            }
            content = self.recipe or self.transformer
            shape = content.model_dump(exclude={"parameters"}) if content else None
            route = ["fft"] if part == "base" and self._is_widened else []
            return _digest([part, shape, files, self.text_tokens, *route])

        def adapter(name: str) -> str:
            if self.recipe:
                return _digest([name, self.recipe.model_dump(), self.adapters[name]])
            return (hashes or {})[adapter_file(name)]

        return ModelIdentity(
            variant=self.name,
            route=self.route,
            base=fingerprint("base", *BASE_FOLDERS),
            encoders=fingerprint("encoders", *ENCODER_FOLDERS),
            adapters={name: adapter(name) for name in self.adapters},
            steps=self.steps,
            guidance=self.guidance,
            max_seq_len=self.max_seq_len,
            keep_pixels_rate=self.keep_pixels_rate,
            width_px=self.width_px,
            height_px=self.height_px,
            dtype=self.dtype,
        )


def _digest(content: Any) -> str:
    return hashlib.sha256(canonical_json(content)).hexdigest()


_FLUX_LICENSE = License(
    id="flux-1-dev-non-commercial",
    name="FLUX.1 [dev] Non-Commercial License",
    where="LICENSE.md of black-forest-labs/FLUX.1-Fill-dev on the model hub",
)
_FILL = ("black-forest-labs/FLUX.1-Fill-dev", "358293da0354175698b67ec8299acf928313a78a")
_ACE = ("ali-vilab/ACE_Plus", "main")

_FILL_TRANSFORMER = (
    "transformer/config.json",
    *(f"transformer/diffusion_pytorch_model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)),
    "transformer/diffusion_pytorch_model.safetensors.index.json",
)
_FILL_REST = tuple(
    f"{folder}/{name}"
    for folder, names in {
        "vae": "config.json diffusion_pytorch_model.safetensors",
        "text_encoder": "config.json model.safetensors",
        "text_encoder_2": "config.json model-00001-of-00002.safetensors "
        "model-00002-of-00002.safetensors model.safetensors.index.json",
        "tokenizer": "merges.txt special_tokens_map.json tokenizer_config.json vocab.json",
        "tokenizer_2": "special_tokens_map.json spiece.model tokenizer.json tokenizer_config.json",
    }.items()
    for name in names.split()
)
_ADAPTERS = {
    "portrait": (64, "portrait/comfyui_portrait_lora64.safetensors"),
    "subject": (16, "subject/comfyui_subject_lora16.safetensors"),
    "local_editing": (16, "local_editing/comfyui_local_lora16.safetensors"),
}
# FLUX.1's geometry (black-forest-labs/flux, util.py): 19 + 38 blocks, 24 heads of 128.
FLUX_CONFIG = {
    "patch_size": 1,
    "out_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}
_KEEP_PIXELS_RATE = 0.8  # upstream's FFT examples (ACE_SPEC 1)
_PARAMETERS_384 = 11_902_391_360
_PARAMETERS_448 = _PARAMETERS_384 + 3072 * 64


def _hub(place: tuple[str, str], path: str, remote: str | None = None) -> HubFile:
    return HubFile(path=path, repo=place[0], revision=place[1], remote=remote or path)


_ACE_PLUS: dict[str, Any] = {
    "license": _FLUX_LICENSE,
    "steps": 28,
    "guidance": 50.0,
    "max_seq_len": 4096,
    "text_tokens": 512,
    "width_px": 1024,
    "height_px": 1024,
    "dtype": "bfloat16",
}
_TOY: dict[str, Any] = {
    "steps": 4,
    "guidance": 50.0,
    "max_seq_len": 1024,
    "text_tokens": 64,
    "width_px": 512,
    "height_px": 512,
    "dtype": "float32",
}

_SHIPPED = Path(__file__).with_name("shipped")


def _shipped(name: str) -> Variant:
    variant = Variant.model_validate_json((_SHIPPED / name / "variant.json").read_bytes())
    return variant.model_copy(update={"shipped": True})


VARIANTS: dict[str, Variant] = {
    each.name: each
    for each in (
        _shipped("mini"),
        Variant(
            name="toy",
            summary="Random seeded weights, 448 channels; for tests, edits nothing.",
            route="fft",
            recipe=ToyRecipe(seed=1, in_channels=448),
            keep_pixels_rate=_KEEP_PIXELS_RATE,
            **_TOY,
        ),
        Variant(
            name="toy-lora",
            summary="Random seeded weights, 384 channels, three adapters; for tests of the other route.",
            route="lora",
            recipe=ToyRecipe(seed=2, in_channels=384),
            adapters={"portrait": 8, "subject": 4, "local_editing": 4},
            **_TOY,
        ),
        Variant(
            name="flux-fill-lora",
            summary="FLUX.1-Fill-dev with ACE++'s portrait, subject and local editing LoRAs.",
            route="lora",
            transformer=Transformer(channels=384, parameters=_PARAMETERS_384),
            hub=(
                *(_hub(_FILL, path) for path in (*_FILL_TRANSFORMER, *_FILL_REST)),
                *(_hub(_ACE, adapter_file(n), remote) for n, (_, remote) in _ADAPTERS.items()),
            ),
            adapters={name: rank for name, (rank, _) in _ADAPTERS.items()},
            **_ACE_PLUS,
        ),
        Variant(
            name="ace-fft",
            summary="ACE++ fully fine-tuned: 448 channels, one model for every task.",
            route="fft",
            transformer=Transformer(
                layout="bfl",
                channels=448,
                config=FLUX_CONFIG | {"in_channels": 448},
                parameters=_PARAMETERS_448,
            ),
            hub=(
                _hub(_ACE, "transformer/ace_plus_fft.safetensors", "ace_plus_fft.safetensors"),
                *(_hub(_FILL, path) for path in _FILL_REST),
            ),
            keep_pixels_rate=_KEEP_PIXELS_RATE,
            **_ACE_PLUS,
        ),
    )
}


def find_variant(name: str) -> Variant:
    """Return a variant that ships with this project. Raises SettingsError listing the names."""
    if name not in VARIANTS:
        raise SettingsError(
            f"variant: accepted: {', '.join(VARIANTS)}, or a folder, s3:// prefix or "
            f"hf://owner/name with a variant.json; given {name!r}"
        )
    return VARIANTS[name]
