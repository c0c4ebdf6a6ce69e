"""From a row to an item: every setting that decides its pixels, and its identity.

`resolve` turns a spec and a model's identity into those settings; `item_id` hashes them together
with the sources' identities, so the same request on the same bytes is the same item for ever, in
whatever catalog, row or order it comes back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from ace_tasks.errors import BadRow
from ace_tasks.specs.columns import Adapter, Control, Frozen, Shape, quote
from ace_tasks.specs.rows import Edit, Fill, OnBackground, Reference, Spec, TaskSpec, TryOn
from ace_tasks.specs.settings import (
    DEFAULT_PIXELS,
    PRESETS,
    AutoMask,
    PasteSettings,
    PixelSettings,
    Preset,
)

# Raise by hand whenever a change of code changes published pixels: every item becomes a new one.
# 2: special tokens, cleaned prompts, guidance in float32; 3: paste-back, alpha and profile kept;
# 4: masks that are mistakes are refused, controls, presets, candidates; 5: colours however a file
# says them, transparency of 16 bits, nothing left transparent by mask "alpha", the owner's metadata.
PIXELS_VERSION = 5
# Earlier versions whose pictures still count, so that an upgrade edits nothing anew that is done.
EARLIER_PIXELS_VERSIONS = (4,)
# Raise by hand whenever another of several candidates may be taken for the best (`ace_tasks.scores`).
# 2: spreads are added up in double precision, changes of large parts are sampled; 3: near colours
# are alike.
SCORES_VERSION = 3


class Source(Frozen):
    """One input object as it was when planned. `sha256` is hex."""

    uri: str
    etag: str | None = None
    size_bytes: int = 0
    sha256: str | None = None
    problem: str | None = Field(None, description="Why it could not be identified, if so.")

    def identity(self) -> dict[str, Any]:
        """What tells these bytes from others: the checksum if known, else ETag and size."""
        if self.problem:  # once the object is there, the item is another one
            return {"uri": self.uri, "problem": self.problem}
        if self.sha256:
            return {"sha256": self.sha256}
        return {"etag": self.etag, "size_bytes": self.size_bytes}


class Sources(Frozen):
    """The input objects of one item."""

    image: Source | None = None
    mask: Source | None = None
    reference: tuple[Source, ...] = ()

    def each(self) -> Iterator[Source]:
        yield from (source for source in (self.image, self.mask) if source)
        yield from self.reference


class ModelIdentity(Frozen):
    """What planning must know of a model; no weights are loaded for it.

    Fingerprints are SHA-256 (hex) over the variant's own list of file hashes.
    """

    variant: str
    route: Literal["lora", "fft"]
    base: str = Field(description="Fingerprint of transformer and VAE.")
    encoders: str = Field(description="Fingerprint of text encoders and tokenizers.")
    adapters: dict[str, str] = Field(description="Adapter name → fingerprint.")
    steps: int
    guidance: float
    max_seq_len: int = Field(description="Token budget of a canvas, references included.")
    keep_pixels_rate: float | None = Field(
        None,
        description="References are no higher than this share of the target, and no larger than "
        "they are; None: as high as the target.",
    )
    width_px: int
    height_px: int
    dtype: Literal["float32", "bfloat16"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all of it: the same model, whatever node it is on."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json"))).hexdigest()


class MaskSteps(Frozen):
    """What is done to a mask once it is drawn, in this order, and what it may then select."""

    label: str | None = None  # of the mask "auto"
    invert: bool = False
    grow_px: int = 0
    blur_px: float = 0
    allow_empty: bool = False
    allow_full: bool = False


class Resolved(Frozen):
    """Every setting that can change a published pixel or its encoding, defaults filled in."""

    task: Literal["fill", "edit", "reference", "try_on", "background"]
    prompt: str
    mask: Shape | Literal["alpha", "auto", "file"] | None
    mask_steps: MaskSteps | None = Field(description="None where there is no mask.")
    auto_mask: AutoMask | None
    control: Control
    control_model: str | None = Field(description="Fingerprint of the model that draws it.")
    repainting_scale: float
    keep_pixels_rate: float | None
    geometry: Literal["catalog", "reference"]
    paste: PasteSettings | None = Field(description="None: the model's answer is taken whole.")
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
    scores_version: int | None = Field(description="Of what chooses; None: there is no choice.")
    clip_model: str | None = Field(
        None, description="Fingerprint of the model that helped to choose, if one did."
    )
    format: Literal["source", "png", "jpeg", "webp", "avif"]
    quality: int | None = Field(description="None: 95 for JPEG and AVIF, and WebP is lossless.")
    preset: Preset | None
    background: tuple[int, int, int] | Literal["transparent"] | None = Field(
        None, description="Of task background: sRGB, 0-255. None: another task."
    )
    shadow: bool | None = Field(None, description="Of task background; None: no.")

    @property
    def group(self) -> str:
        """Adapter, then what is known of the shape, then steps: items of one group run alike."""
        return (
            f"{self.adapter or ''}|{self.task}|"
            f"{self.width or 0:05}x{self.height or 0:05}|{self.steps:04}"
        )


class WorkItem(Frozen):
    """One planned edit: all a replica needs, and all that identifies it."""

    item_id: str
    line: int = Field(description="1-based line or row number in the catalog.")
    spec: TaskSpec
    resolved: Resolved
    sources: Sources

    @property
    def row_id(self) -> str:
        return self.spec.id


# Adapter by task on the LoRA route (DESIGN, Catalog).
_TASK_ADAPTER: dict[str, Adapter] = {
    "fill": "local_editing",
    "edit": "local_editing",
    "reference": "subject",
    "try_on": "subject",
}
_NEEDS_MODEL = frozenset({"depth", "contour"})


def _repainting_scale(spec: Fill | Edit | Reference | TryOn, route: str) -> float:
    """How much of the masked content is erased: 1 all, 0 none (ACE_SPEC 2, table)."""
    if not isinstance(spec, Edit):
        return 1.0
    return 0.5 if route == "lora" and spec.mask is not None else 0.0


def _adapter(spec: Fill | Edit | Reference | TryOn, model: ModelIdentity) -> Adapter | None:
    if spec.adapter is None:
        chosen = _TASK_ADAPTER[spec.task]
        return chosen if chosen in model.adapters else None
    if spec.adapter not in model.adapters:
        accepted = ", ".join(sorted(model.adapters)) or "none"
        raise BadRow(
            "adapter",
            f"variant {model.variant!r} has no such adapter (accepted: {accepted}); "
            f"given {spec.adapter!r}",
        )
    return spec.adapter


def _mask_steps(spec: Fill | Edit | Reference | TryOn, pixels: PixelSettings) -> MaskSteps | None:
    if isinstance(spec, Reference):
        return None
    given = {
        "mask_label": spec.mask_label,
        "mask_grow": spec.mask_grow,
        "mask_blur": spec.mask_blur,
        "mask_invert": spec.mask_invert,
    }
    if spec.mask is None:
        for column, value in given.items():
            if value is not None:
                raise BadRow(column, f"needs a mask; given {quote(value)} without one")
        return None
    if spec.mask_label and spec.mask != "auto":
        raise BadRow("mask_label", f'accepted with mask "auto" only; given {spec.mask_label!r}')
    return MaskSteps(
        label=spec.mask_label,
        invert=bool(spec.mask_invert),
        grow_px=spec.mask_grow or 0,
        blur_px=spec.mask_blur or 0,
        allow_empty=pixels.masks.allow_empty,
        allow_full=pixels.masks.allow_full,
    )


def _cut_out(pixels: PixelSettings) -> AutoMask:
    if pixels.auto_mask is None:
        raise BadRow(
            "task", '"background" needs a way to cut out, and the run names none (auto_mask)'
        )
    return pixels.auto_mask


def _auto_mask(spec: Fill | Edit | Reference | TryOn, pixels: PixelSettings) -> AutoMask | None:
    if isinstance(spec, Reference) or spec.mask != "auto":
        return None
    auto = pixels.auto_mask
    if auto is None:
        raise BadRow("mask", '"auto" needs a way to make it, and the run names none (auto_mask)')
    if spec.mask_label and auto.method != "model":
        raise BadRow(
            "mask_label",
            f"accepted where a segmentation model makes masks; this run makes them by "
            f"{auto.method}; given {spec.mask_label!r}",
        )
    return auto


def _control_model(control: str, pixels: PixelSettings) -> str | None:
    if control not in _NEEDS_MODEL:
        return None
    fingerprint = pixels.control_models.get(control)  # type: ignore[call-overload]
    if fingerprint is None:
        raise BadRow("control", f"{control!r} needs a model, and the run names none")
    return str(fingerprint)


def _preset(name: str | None) -> Preset | None:
    if name is None:
        return None
    if name not in PRESETS:
        raise BadRow("preset", f"accepted: {', '.join(PRESETS)}; given {name!r}")
    return PRESETS[name]


def canonical_json(value: Any) -> bytes:
    """UTF-8, sorted keys, no spaces, None dropped at every level."""
    return _CANONICAL.encode(_without_none(value)).encode()


_CANONICAL = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
)


def _without_none(each: Any) -> Any:
    if isinstance(each, dict):
        return {k: _without_none(v) for k, v in each.items() if v is not None}
    if isinstance(each, list | tuple):
        return [_without_none(v) for v in each]
    return each


def _colour(background: str) -> tuple[int, int, int]:
    """sRGB of `white` or #rrggbb."""
    digits = "ffffff" if background == "white" else background.removeprefix("#")
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue


def _resolve_background(spec: OnBackground, pixels: PixelSettings) -> Resolved:
    """It is the same item whatever model the run has, for none is asked."""
    name = spec.background or pixels.background or "white"
    transparent = name == "transparent"
    colour = None if transparent else _colour(name)
    preset, format_ = _preset(spec.preset or pixels.preset), spec.format or "source"
    if transparent and preset:
        raise BadRow("preset", "accepted: none with a transparent background, since it lays one on")
    if transparent and format_ == "jpeg":
        raise BadRow(
            "format", "accepted with a transparent background: png, webp, avif; given 'jpeg'"
        )
    if colour and preset:
        preset = preset.model_copy(update={"background": colour})
    return Resolved(
        task="background",
        prompt="",
        mask="auto",
        mask_steps=MaskSteps(),
        auto_mask=_cut_out(pixels),
        control="none",
        control_model=None,
        repainting_scale=0,
        keep_pixels_rate=None,
        geometry="catalog",
        paste=None,
        width=None,
        height=None,
        steps=0,
        guidance=0,
        max_seq_len=0,
        dtype="uint8",
        adapter=None,
        seed=0,
        candidates=1,
        scores_version=None,
        format="png" if transparent and format_ == "source" else format_,
        quality=spec.quality or pixels.quality,
        preset=preset,
        background="transparent" if transparent else colour,
        shadow=spec.shadow or None,
    )


def resolve(
    spec: Spec,
    sources: Sources,
    model: ModelIdentity,
    pixels: PixelSettings = DEFAULT_PIXELS,
) -> Resolved:
    """Fill in every default. Raises BadRow when the model has not what the row asks for."""
    if isinstance(spec, OnBackground):
        return _resolve_background(spec, pixels)
    mask = getattr(spec, "mask", None)
    control = getattr(spec, "control", None) or "none"
    new_picture = isinstance(spec, Reference)
    settings: dict[str, Any] = {
        "task": spec.task,
        "prompt": spec.prompt,
        "mask": "file" if sources.mask else mask,
        "mask_steps": _mask_steps(spec, pixels),
        "auto_mask": _auto_mask(spec, pixels),
        "control": control,
        "control_model": _control_model(control, pixels),
        "repainting_scale": _repainting_scale(spec, model.route),
        "keep_pixels_rate": model.keep_pixels_rate if sources.reference else None,
        "geometry": pixels.geometry,
        "paste": pixels.paste if mask is not None and pixels.geometry == "catalog" else None,
        "width": (spec.width or model.width_px) if isinstance(spec, Reference) else None,
        "height": (spec.height or model.height_px) if isinstance(spec, Reference) else None,
        "steps": spec.steps or model.steps,
        "guidance": model.guidance if spec.guidance is None else spec.guidance,
        "max_seq_len": model.max_seq_len,
        "dtype": model.dtype,
        "adapter": _adapter(spec, model),
        "format": spec.format or ("png" if new_picture else "source"),
        "quality": spec.quality or pixels.quality,
        "preset": _preset(spec.preset or pixels.preset),
    }
    count = spec.candidates or pixels.candidates
    settings["candidates"] = count
    settings["scores_version"] = SCORES_VERSION if count > 1 else None
    settings["clip_model"] = pixels.clip_model if count > 1 else None
    resolved = Resolved(seed=spec.seed or 0, **settings)
    if spec.seed is None:
        seed = _derived_seed(_settings(resolved), _identities(sources))
        return resolved.model_copy(update={"seed": seed})
    return resolved


def _identities(sources: Sources) -> dict[str, Any]:
    identities = {
        "image": sources.image.identity() if sources.image else None,
        "mask": sources.mask.identity() if sources.mask else None,
        "reference": [each.identity() for each in sources.reference],
    }
    return dict(_without_none(identities))


# Whoever asks for more candidates has the same first one.
_NO_PART_OF_A_SEED = frozenset({"seed", "candidates", "scores_version", "clip_model"})


def _derived_seed(settings: dict[str, Any], identities: dict[str, Any]) -> int:
    content = {k: v for k, v in settings.items() if k not in _NO_PART_OF_A_SEED}
    return int.from_bytes(_digest([content, identities])[:4], "big")


def candidate_seeds(seed: int, count: int) -> tuple[int, ...]:
    """The seeds of an item's candidates: its own first, then SHA-256 of it and their number."""
    digests = [hashlib.sha256(canonical_json([seed, n])).digest() for n in range(1, count)]
    return (seed, *(int.from_bytes(each[:4], "big") for each in digests))


def item_id(resolved: Resolved, sources: Sources, model: ModelIdentity) -> str:
    """SHA-256 (hex) of everything that decides the picture; not of row id, run or place."""
    return _item_ids(resolved, sources, model, (PIXELS_VERSION,))[0]


def earlier_item_ids(item: WorkItem, model: ModelIdentity) -> tuple[str, ...]:
    """The ids of the same request under the earlier versions whose pictures still count."""
    return _item_ids(item.resolved, item.sources, model, EARLIER_PIXELS_VERSIONS)


def _item_ids(
    resolved: Resolved, sources: Sources, model: ModelIdentity, versions: tuple[int, ...]
) -> tuple[str, ...]:
    content = {
        "sources": _identities(sources),
        "model": _model(model, resolved),
        "settings": _settings(resolved),
    }
    return tuple(_digest(content | {"pixels_version": each}).hex() for each in versions)


def _model(model: ModelIdentity, resolved: Resolved) -> dict[str, str]:
    if resolved.background is not None:
        return {}
    adapter = resolved.adapter
    parts = {"base": model.base, "encoders": model.encoders}
    return parts | ({"adapter": model.adapters[adapter]} if adapter else {})


def _settings(resolved: Resolved) -> dict[str, Any]:
    return resolved.model_dump(mode="json", exclude_none=True)


def _digest(content: Any) -> bytes:
    """Of what has no None left: as of `canonical_json`, in half the time."""
    return hashlib.sha256(_CANONICAL.encode(content).encode()).digest()


def work_item(
    line: int,
    spec: Spec,
    sources: Sources,
    model: ModelIdentity,
    pixels: PixelSettings = DEFAULT_PIXELS,
) -> WorkItem:
    """Resolve a spec and identify it. Raises BadRow."""
    resolved = resolve(spec, sources, model, pixels)
    return WorkItem.model_construct(  # its parts are checked; a catalog has a million
        item_id=item_id(resolved, sources, model),
        line=line,
        spec=spec,
        resolved=resolved,
        sources=sources,
    )
