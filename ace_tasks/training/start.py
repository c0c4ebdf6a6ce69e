"""The variant that a training starts from, opened once by the flow and read by all workers.

    work/start.json      the variant as it will be trained, and the folder of its files

The variant may have fewer channels than the model to train. The loader then adds zero columns, so
that the first step starts with the variant's own behaviour.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

import torch
from diffusers import FluxTransformer2DModel
from pydantic import BaseModel, ConfigDict

from ace_tasks.errors import SettingsError
from ace_tasks.model import sources, weights
from ace_tasks.model.variants import Variant
from ace_tasks.settings import WeightsSettings

STORY = "training.json"  # in the folder of a variant that was trained here: how it was made
_FILE = "start.json"


class Start(BaseModel):
    """A variant to start from. `variant` has the route to train, not the variant's own route."""

    model_config = ConfigDict(frozen=True)

    variant: Variant
    base: str  # the variant's own fingerprints
    encoders: str
    # None until the files are here. They decide `learn_text` if it was not given.
    folder: Path | None = None
    learn_text: bool | None = None

    @classmethod
    def open(
        cls, place: str, settings: WeightsSettings, channels: int | None, learn_text: bool | None
    ) -> Self:
        """Open a variant by name or URI, without fetching its weights.

        Without `channels`, it keeps its own number. Raises WeightsError, and SettingsError, also
        for a licence that nobody accepted.
        """
        variant = sources.open_variant(place, settings)
        sources.check_license(variant, settings)
        identity = sources.identify(variant, settings)
        has = variant.channels
        if channels not in (None, has, 448):
            raise SettingsError(
                f"channels: accepted: {has}, as {variant.name!r} has, or more; given {channels}"
            )
        changes: dict[str, object] = {"transformer": variant.files}
        if channels not in (None, has):
            files = variant.files.model_copy(update={"parameters": None})
            changes = {"route": "fft", "transformer": files}
        return cls(
            variant=variant.model_copy(update=changes),
            base=identity.base,
            encoders=identity.encoders,
            learn_text=learn_text,
        )

    @property
    def files(self) -> Path:
        assert self.folder is not None, "not begun"
        return self.folder

    def begin(self, work: Path, settings: WeightsSettings) -> Self:
        """Fetch the files if they are not here, and write `start.json`. Raises WeightsError."""
        folder = weights.ensure(self.variant, settings)
        learns = _learnt_text(folder) if self.learn_text is None else self.learn_text
        begun = self.model_copy(update={"folder": folder, "learn_text": learns})
        work.mkdir(parents=True, exist_ok=True)
        coming = work / f"{_FILE}.coming"
        coming.write_text(begun.model_dump_json(indent=1))
        coming.rename(work / _FILE)
        return begun

    @classmethod
    def read(cls, work: Path) -> Self:
        """Read the `start.json` of a work folder. Raises SettingsError if there is none."""
        try:
            return cls.model_validate_json((work / _FILE).read_bytes())
        except OSError as error:
            raise SettingsError(f"{work / _FILE}: {error.strerror}; not begun yet") from None

    def load(self, device: str, *, exact: bool = False) -> weights.Parts:
        """Load all parts but adapters, strictly; with `exact` in float32. Raises WeightsError."""
        return weights.load(self._loaded(exact=exact), self.files, device)

    def load_transformer(self, device: str, *, exact: bool = False) -> FluxTransformer2DModel:
        """Load the transformer alone, because the encoders may not fit beside it."""
        weights.verify(self.files)
        variant = self._loaded(exact=exact)
        dtype = getattr(torch, variant.dtype)
        return weights.load_transformer(variant, self.files / "transformer", dtype, device)

    def _loaded(self, *, exact: bool) -> Variant:
        dtype = "float32" if exact else self.variant.dtype
        return self.variant.model_copy(update={"adapters": {}, "dtype": dtype})


def _learnt_text(folder: Path) -> bool:
    """Return whether the variant's own training trained its text encoders.

    It did if the variant was trained here from scratch. Variants of others count as frozen.
    """
    story = folder / STORY
    return story.exists() and bool(json.loads(story.read_bytes()).get("learn_text", True))
