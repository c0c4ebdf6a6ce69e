"""An item: its sources, the model that makes it, and every setting that decides its pixels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

from pydantic import Field

from ace_tasks.specs.columns import Adapter, Control, Frozen, Shape
from ace_tasks.specs.run_settings import AutoMask, PasteSettings, Preset, Shortcuts
from ace_tasks.specs.tasks import Spec, TaskSpec


def canonical_json(value: Any) -> bytes:
    """Return canonical JSON: UTF-8, sorted keys, no spaces, None dropped at every level."""
    return CANONICAL.encode(without_none(value)).encode()


CANONICAL = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
)


def without_none(each: Any) -> Any:
    if isinstance(each, dict):
        return {k: without_none(v) for k, v in each.items() if v is not None}
    if isinstance(each, list | tuple):
        return [without_none(v) for v in each]
    return each


class Source(Frozen):
    """One input object as it was when planned. `sha256` is hex."""

    uri: str
    etag: str | None = None
    size_bytes: int = 0
    sha256: str | None = None
    problem: str | None = Field(None, description="Why it could not be identified. None: it was.")

    def identity(self) -> dict[str, Any]:
        """Return what distinguishes these bytes: the checksum if known, else ETag and size."""
        if self.problem:
            # Once the object exists, the item is another one. The text is part of the id, so another
            # wording would make the failed items of every old output new ones.
            return {"uri": self.uri, "problem": self.problem}
        if self.sha256:
            return {"sha256": self.sha256}
        return {"etag": self.etag, "size_bytes": self.size_bytes}


class Sources(Frozen):
    """The input objects of one item."""

    image: Source | None = None
    mask: Source | None = None
    reference: tuple[Source, ...] = ()

    @classmethod
    def of(cls, spec: Spec, find: Callable[[str], Source]) -> Sources:
        """Return a row's sources. `find` returns the source of a URI."""
        image, mask, reference = _uris(spec)
        return cls(
            image=find(image) if image else None,
            mask=find(mask) if mask else None,
            reference=tuple(map(find, reference)),
        )

    @staticmethod
    def uris(spec: Spec) -> list[str]:
        """Return the URIs of a row's sources."""
        image, mask, reference = _uris(spec)
        return [each for each in (image, mask, *reference) if each]

    def each(self) -> Iterator[Source]:
        yield from (source for source in (self.image, self.mask) if source)
        yield from self.reference


def _uris(spec: Spec) -> tuple[str | None, str | None, tuple[str, ...]]:
    columns = spec.__dict__  # asking a model for a field that it lacks is slow
    mask = columns.get("mask")
    if not isinstance(mask, str) or mask in {"alpha", "auto"}:
        mask = None
    return columns.get("image"), mask, columns.get("reference", ())


class ModelIdentity(Frozen):
    """The facts about a model that planning needs. No weights are loaded for them.

    Fingerprints are SHA-256 (hex) over the variant's own list of file hashes.
    """

    variant: str
    route: Literal["lora", "fft"]
    base: str = Field(description="Fingerprint of transformer and VAE.")
    encoders: str = Field(description="Fingerprint of text encoders and tokenizers.")
    adapters: dict[str, str] = Field(description="Fingerprint of each adapter, by name.")
    steps: int
    guidance: float
    max_seq_len: int = Field(description="Token budget of a canvas, references included.")
    keep_pixels_rate: float | None = Field(
        None,
        description="References become no higher than this share of the target, and are not "
        "enlarged. None: as high as the target.",
    )
    width_px: int
    height_px: int
    dtype: Literal["float32", "bfloat16"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all fields: the same for a model on any node."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json"))).hexdigest()


class MaskSteps(Frozen):
    """The steps applied to a drawn mask, in this order, and what it may then select."""

    label: str | None = None  # for the mask "auto"
    invert: bool = False
    grow_px: int = 0
    blur_px: float = 0
    allow_empty: bool = False
    allow_full: bool = False


class Resolved(Frozen):
    """Every setting that can change a published pixel or its encoding, with defaults filled in."""

    task: Literal["fill", "edit", "reference", "try_on", "background"]
    prompt: str
    mask: Shape | Literal["alpha", "auto", "file"] | None
    mask_steps: MaskSteps | None = Field(description="None: there is no mask.")
    auto_mask: AutoMask | None
    control: Control
    control_model: str | None = Field(description="Fingerprint of the model that draws the map.")
    repainting_scale: float
    keep_pixels_rate: float | None
    geometry: Literal["catalog", "reference"]
    paste: PasteSettings | None = Field(description="None: the model's answer is used whole.")
    width: int | None
    height: int | None
    sampler: Literal["flow_match_euler"] = "flow_match_euler"
    steps: int
    guidance: float
    max_seq_len: int
    dtype: str
    adapter: Adapter | None
    seed: int
    candidates: int
    scores_version: int | None = Field(
        description="SCORES_VERSION of the choice. None: there is none."
    )
    clip_model: str | None = Field(
        None, description="Fingerprint of the model that helps to choose. None: none does."
    )
    format: Literal["source", "png", "jpeg", "webp", "avif"]
    quality: int | None = Field(description="None: 95 for JPEG and AVIF, lossless for WebP.")
    preset: Preset | None
    background: tuple[int, int, int] | Literal["transparent"] | None = Field(
        None, description="For task background: sRGB, 0-255. None: another task."
    )
    shadow: bool | None = Field(None, description="For task background. None: no.")
    shortcuts: Shortcuts | None = Field(
        None, description="The work that a fast edit leaves out. None: none, also of a fast run."
    )

    @property
    def computed_steps(self) -> int | None:
        """Return how many steps its shortcuts leave to be computed; None without shortcuts."""
        return self.shortcuts.computed(self.steps) if self.shortcuts else None

    @property
    def group(self) -> str:
        """Adapter, known shape and steps as text to sort by. Items of one group run alike."""
        return (
            f"{self.adapter or ''}|{self.task}|"
            f"{self.width or 0:05}x{self.height or 0:05}|{self.steps:04}"
        )


class WorkItem(Frozen):
    """One planned edit: everything that a replica needs, and everything that identifies it."""

    item_id: str
    line: int = Field(description="1-based line or row number in the catalog.")
    spec: TaskSpec
    resolved: Resolved
    sources: Sources

    @property
    def row_id(self) -> str:
        return self.spec.id
