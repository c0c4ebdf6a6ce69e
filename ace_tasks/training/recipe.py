"""The recipe of a training: every width, step and seed, in a JSON file.

Committed recipes are files beside this one. A recipe is checked and described before any work.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Discriminator, Field, Tag, ValidationError, model_validator
from torch import nn

from ace_tasks.errors import AceError, SettingsError
from ace_tasks.images.canvas_size import TOKEN_PX
from ace_tasks.model.variants import Transformer, Variant
from ace_tasks.settings import WeightsSettings
from ace_tasks.specs import Frozen, canonical_json
from ace_tasks.training import latents, objective, vae
from ace_tasks.training.latents import DataSettings
from ace_tasks.training.loop import LoopSettings
from ace_tasks.training.lora import LoraSettings
from ace_tasks.training.objective import ObjectiveSettings
from ace_tasks.training.rows import CatalogData
from ace_tasks.training.sample import GUIDANCE
from ace_tasks.training.small import SmallSettings, Tokenizers, Trained
from ace_tasks.training.start import Start
from ace_tasks.training.vae import VaeSettings
from ace_tasks.training.world.grammar import VOCABULARY

# The intervals of checkpoints and logs do not affect the weights.
_LOOP_EXCLUDED = {"checkpoint_every_s": True, "log_every_steps": True}
_STEPS = 8  # for sampling; a trial found 4, 12 and 24 no better
# Fields that are given by the variant that a training starts from.
_BROUGHT = ("vae", "vae_from", "small")


# The places of a variant's files. The trained variant's files are elsewhere.
_PLACES = ("recipe", "hub", "home", "shipped")


def _kind_of_data(value: Any) -> str:
    given = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return "catalog" if "catalog" in given else "world"


Data = Annotated[
    Annotated[DataSettings, Tag("world")] | Annotated[CatalogData, Tag("catalog")],
    Discriminator(_kind_of_data),
]


class Recipe(Frozen):
    """The settings of a training.

    Together with the variant it starts from, the catalog, the photographs and the library versions,
    they decide the trained model.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    summary: str
    vae: VaeSettings = VaeSettings()
    vae_from: str | None = Field(
        None,
        pattern=r"^[a-z0-9-]+$",
        description="A folder beside this file with the VAE, which is then not trained again.",
    )
    small: SmallSettings = SmallSettings()
    start_from: str | None = Field(
        None,
        description="A variant to start from, by name or URI. Its VAE and its sizes are used. "
        "Empty: train from scratch.",
    )
    channels: Literal[384, 448] | None = Field(
        None,
        description="Channels of the trained model. 448 from a variant of 384 adds zero columns "
        "for the change. Empty: as many as the variant has.",
    )
    learn_text: bool | None = Field(
        None,
        description="Whether the variant's text encoders are trained as well. Empty: only if its "
        "own training did so.",
    )
    lora: LoraSettings | None = Field(
        None, description="Train this adapter and leave the weights unchanged."
    )
    checkpointing: bool = Field(
        False,
        description="Recompute activations in the backward pass: far less memory, a third more "
        "time.",
    )
    data: Data = DataSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    loop: LoopSettings = LoopSettings(steps=100_000, lr=1e-3)
    sampling_steps: int | None = Field(
        None, ge=1, description=f"Empty: {_STEPS}, or the steps of the variant to start from."
    )

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        fields = type(self).model_fields
        if self.start_from:
            for name in _BROUGHT:
                if getattr(self, name) != fields[name].default:
                    raise ValueError(f"{name}: not accepted with start_from, whose variant has it")
            if self.lora and self.learn_text:
                raise ValueError("learn_text: a LoRA trains no text encoders")
            return self
        for name in ("channels", "learn_text", "lora"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: needs start_from")
        return self

    @classmethod
    def read(cls, name: str) -> Recipe:
        """Read a committed recipe by its name, or a file. Raises SettingsError."""
        path = Path(name) if name.endswith(".json") else Path(__file__).with_name(f"{name}.json")
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            committed = ", ".join(sorted(each.stem for each in path.parent.glob("*.json")))
            hint = "" if name.endswith(".json") else f"; accepted: {committed}, or a .json file"
            raise SettingsError(f"recipe {name!r}: {error.strerror}{hint}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            parts = [
                *([".".join(map(str, first["loc"]))] if first["loc"] else []),
                first["msg"].removeprefix("Value error, "),
            ]
            raise SettingsError(f"recipe {name!r}: {': '.join(parts)}") from None

    def given(self, start_from: str = "", catalog: str = "") -> Recipe:
        """Return the recipe with another variant to start from, or another catalog.

        An empty value leaves the recipe's own.
        """
        changes: dict[str, Any] = {}
        dropped: set[str] = set()
        if start_from:
            changes["start_from"], dropped = start_from, set(_BROUGHT)
        if catalog:
            known = self.data if isinstance(self.data, CatalogData) else CatalogData()
            changes["data"] = known.model_copy(update={"catalog": catalog}).model_dump()
        content = self.model_dump(exclude_unset=True, exclude=dropped)
        return Recipe.model_validate(content | changes)

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of the settings that decide the weights.

        Names, texts and places are left out.
        """
        return self.fingerprint_from()

    def fingerprint_from(self, *given: str) -> str:
        """Return the fingerprint together with those of the inputs.

        `given` are the fingerprints of `Start.open`'s variant and the SHA-256 of a catalog.
        """
        excluded: Any = {"name": True, "summary": True, "sampling_steps": True, "start_from": True}
        excluded |= {"loop": _LOOP_EXCLUDED, "vae": {"loop": _LOOP_EXCLUDED}, "checkpointing": True}
        if self.start_from:
            excluded |= dict.fromkeys(_BROUGHT, True)
        if isinstance(self.data, CatalogData):
            excluded["data"] = {"catalog": True}
        content = self.model_dump(mode="json", exclude=excluded)
        # None is dropped, so a recipe without `channels`, `lora` … keeps its earlier fingerprint.
        return hashlib.sha256(canonical_json([content, *given] if given else content)).hexdigest()


def check(recipe: Recipe, workers: int = 1) -> None:
    """Build and try every part once, so that mistakes are found before hours of work.

    For a recipe that starts from a variant, only what needs no variant is checked. Raises
    SettingsError.
    """
    side = recipe.vae.crop_px
    try:
        recipe.objective.share(workers)
        if recipe.start_from:
            return  # `Start.open` checks the rest
        tokenizers = Tokenizers.make(recipe.small, VOCABULARY)
        model = Trained.make(recipe.small, tokenizers)
        describe(recipe, None, model.transformer)
        with torch.inference_mode():
            vae.make(recipe.vae)(torch.zeros(1, 3, side, side))
            nothing = latents.encode_nothing(tokenizers)
            noise, sigma = torch.zeros(nothing.target_BCHW.shape), torch.ones(1)
            objective.loss(model, nothing, noise, sigma, recipe.objective)
    except AceError as error:
        raise SettingsError(f"recipe {recipe.name!r}: {error}") from None
    except Exception as error:  # a wrong number can fail anywhere in torch or diffusers
        line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise SettingsError(f"recipe {recipe.name!r}: makes no model: {line}") from None


def open_start(recipe: Recipe, settings: WeightsSettings) -> Start | None:
    """Open the variant that a recipe starts from, if any. Raises SettingsError and WeightsError."""
    if recipe.start_from is None:
        return None
    learn_text = False if recipe.lora else recipe.learn_text
    return Start.open(recipe.start_from, settings, recipe.channels, learn_text)


def describe(recipe: Recipe, start: Start | None, transformer: nn.Module | None = None) -> Variant:
    """Return the variant that a recipe makes. The parameters of `transformer` are counted."""
    count = sum(p.numel() for p in transformer.parameters()) if transformer else None
    content: dict[str, Any]
    if start is None:
        content = {
            "route": "fft",
            "transformer": Transformer(channels=448, parameters=count),
            "steps": _STEPS,
            "guidance": GUIDANCE,
            "text_tokens": recipe.small.text_tokens,
            "dtype": "float32",
        }
    else:
        content = {k: v for k, v in start.variant if k not in _PLACES}
        if recipe.lora:  # its files stay those of the variant to start from
            content["adapters"] = start.variant.adapters | {recipe.lora.name: recipe.lora.rank}
        else:
            content["transformer"] = Transformer(channels=start.variant.channels, parameters=count)
            content["adapters"] = {}  # they belong to the old weights
    if isinstance(recipe.data, DataSettings):
        side = max(recipe.data.sizes_px)
        budget = 2 * (side // TOKEN_PX) ** 2
        content |= {"max_seq_len": budget, "width_px": side, "height_px": side}
    elif start is None:
        side = TOKEN_PX * math.isqrt(recipe.data.max_seq_len // 2)
        content |= {"max_seq_len": recipe.data.max_seq_len, "width_px": side, "height_px": side}
    if recipe.sampling_steps:
        content["steps"] = recipe.sampling_steps
    return Variant.model_validate(content | {"name": recipe.name, "summary": recipe.summary})
