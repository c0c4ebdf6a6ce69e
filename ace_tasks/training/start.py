"""What a training starts from: a variant, opened once by the flow, and found by all workers in

    work/start.json      the variant as it is to be trained, and where its files are

The variant may have fewer channels than what is trained: then the loader puts in zero columns, and
the first step sees the model that was.
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

STORY = "training.json"  # of a variant that was trained here: what it was made from
_FILE = "start.json"


class Start(BaseModel):
    """A variant to go on from. `variant` has the route that is trained, not the one that was."""

    model_config = ConfigDict(frozen=True)

    variant: Variant
    base: str  # fingerprints of what it was
    encoders: str
    # None until its files are here; and who learns is asked from them, if nobody said it.
    folder: Path | None = None
    learn_text: bool | None = None

    @classmethod
    def open(
        cls, place: str, settings: WeightsSettings, channels: int | None, learn_text: bool | None
    ) -> Self:
        """By name or place; no file of its weights is fetched for it. `channels` None: as many as
        it has. Raises SettingsError, also for a licence that nobody accepted, and WeightsError.
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
        assert self.folder is not None, "begun"
        return self.folder

    # ------------------------------------------------------------ the work folder

    def begin(self, work: Path, settings: WeightsSettings) -> Self:
        """Fetch its files if they are not here, and tell the workers. Raises WeightsError."""
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
        """As it was begun. Raises SettingsError if it was not."""
        try:
            return cls.model_validate_json((work / _FILE).read_bytes())
        except OSError as error:
            raise SettingsError(f"{work / _FILE}: {error.strerror}: not begun yet") from None

    # ------------------------------------------------------------ loading

    def load(self, device: str, *, exact: bool = False) -> weights.Parts:
        """All parts but adapters, strictly. `exact`: in float32, to learn. Raises WeightsError."""
        return weights.load(self._loaded(exact=exact), self.files, device)

    def load_transformer(self, device: str, *, exact: bool = False) -> FluxTransformer2DModel:
        """The transformer alone, for which the encoders may be too large a neighbour."""
        weights.verify(self.files)
        variant = self._loaded(exact=exact)
        dtype = getattr(torch, variant.dtype)
        return weights.load_transformer(variant, self.files / "transformer", dtype, device)

    def _loaded(self, *, exact: bool) -> Variant:
        dtype = "float32" if exact else self.variant.dtype
        return self.variant.model_copy(update={"adapters": {}, "dtype": dtype})


def _learnt_text(folder: Path) -> bool:
    """Whether the variant's own training taught its text encoders; those of others stay as they
    are. What was made from nothing learnt in all its parts.
    """
    story = folder / STORY
    return story.exists() and bool(json.loads(story.read_bytes()).get("learn_text", True))
