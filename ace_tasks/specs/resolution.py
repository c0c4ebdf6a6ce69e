"""Resolution of a row into an item: defaults are filled in, and the item is identified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ace_tasks.errors import BadRow
from ace_tasks.specs.columns import Adapter, Shape, quote
from ace_tasks.specs.identity import SCORES_VERSION, RequestText
from ace_tasks.specs.item import MaskSteps, ModelIdentity, Resolved, Sources, WorkItem
from ace_tasks.specs.run_settings import DEFAULT_PIXELS, PRESETS, AutoMask, PixelSettings, Preset
from ace_tasks.specs.tasks import Edit, Fill, OnBackground, Reference, Spec, TryOn

# The default adapter of each task on the LoRA route.
_TASK_ADAPTER: dict[str, Adapter] = {
    "fill": "local_editing",
    "edit": "local_editing",
    "reference": "subject",
    "try_on": "subject",
}
_NEEDS_MODEL = frozenset({"depth", "contour"})
_ALIKE = 10_000  # combinations of settings that are kept, at some 10 KB each


def _repainting_scale(spec: Fill | Edit | Reference | TryOn, route: str) -> float:
    """Return how much of the masked content is erased: 1 all, 0 none (ACE_SPEC 2, table)."""
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
            f"accepted only if a segmentation model makes masks; this run makes them by "
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


def _colour(background: str) -> tuple[int, int, int]:
    """Return the sRGB values of `white` or #rrggbb."""
    digits = "ffffff" if background == "white" else background.removeprefix("#")
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue


def _resolve_background(spec: OnBackground, pixels: PixelSettings) -> Resolved:
    """Resolve a row of task background. It uses no model, so its item depends on none."""
    name = spec.background or pixels.background or "white"
    transparent = name == "transparent"
    colour = None if transparent else _colour(name)
    preset, format_ = _preset(spec.preset or pixels.preset), spec.format or "source"
    if transparent and preset:
        raise BadRow(
            "preset", "accepted: none with a transparent background, since a preset adds one"
        )
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


def _settle(spec: Spec, sources: Sources, model: ModelIdentity, pixels: PixelSettings) -> Resolved:
    """Fill in every default but the seed. Raises BadRow if the model lacks what the row asks for."""
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
        "shortcuts": pixels.shortcuts,
    }
    count = spec.candidates or pixels.candidates
    settings["candidates"] = count
    settings["scores_version"] = SCORES_VERSION if count > 1 else None
    settings["clip_model"] = pixels.clip_model if count > 1 else None
    return Resolved(seed=0, **settings)


@dataclass(frozen=True, slots=True)
class Identified:
    """A row as a plan needs it. Most rows never need their `WorkItem`."""

    line: int
    spec: Spec
    sources: Sources
    item_id: str
    earlier_ids: list[str]  # under EARLIER_PIXELS_VERSIONS
    group: str  # see `Resolved.group`
    _resolved_json: str

    def to_json(self) -> str:
        """Return the JSON of the item."""
        return (
            f'{{"item_id":"{self.item_id}","line":{self.line},'
            f'"spec":{self.spec.model_dump_json()},"resolved":{self._resolved_json},'
            f'"sources":{self.sources.model_dump_json()}}}'
        )

    @property
    def item(self) -> WorkItem:
        return WorkItem.model_validate_json(self.to_json())


class ItemMaker:
    """Identifies rows for one model and the settings of one run.

    Rows of a catalog mostly differ in their sources, their prompt, their mask's shape and their
    seed. All else is settled, validated and written down once for each combination.
    """

    def __init__(self, model: ModelIdentity, pixels: PixelSettings = DEFAULT_PIXELS):
        self._model, self._pixels = model, pixels
        self._alike: dict[tuple[Any, ...], tuple[Resolved, RequestText, str]] = {}

    def identify(self, line: int, spec: Spec, sources: Sources) -> Identified:
        """Resolve a spec and identify it.

        Raises BadRow if the model lacks what the row asks for.
        """
        _, group, (_, (item_id, *earlier_ids), resolved_json) = self._resolve(spec, sources)
        return Identified(line, spec, sources, item_id, earlier_ids, group, resolved_json)

    def make(self, line: int, spec: Spec, sources: Sources) -> WorkItem:
        """Resolve a spec into an item. Raises BadRow if the model lacks what the row asks for."""
        settings, _, (seed, (item_id, *_), _) = self._resolve(spec, sources)
        own: dict[str, Any] = {"prompt": spec.prompt, "seed": seed}
        if isinstance(settings.mask, Shape) and not isinstance(spec, OnBackground | Reference):
            own["mask"] = spec.mask
        resolved = settings.model_copy(update=own)
        return WorkItem(item_id=item_id, line=line, spec=spec, resolved=resolved, sources=sources)

    def _resolve(
        self, spec: Spec, sources: Sources
    ) -> tuple[Resolved, str, tuple[int, list[str], str]]:
        settings, text, group = self._settings(spec, sources)
        columns = spec.__dict__
        # A background needs no seed.
        seed = settings.seed if isinstance(spec, OnBackground) else columns["seed"]
        mask = columns.get("mask")
        return settings, group, text.identify(spec.prompt, mask, sources, seed)

    def _settings(self, spec: Spec, sources: Sources) -> tuple[Resolved, RequestText, str]:
        """Return what rows like this one have in common: their settings, text and group."""
        columns = dict(spec.__dict__)
        for column in ("id", "prompt", "image", "reference", "seed"):
            columns.pop(column, None)
        mask = columns.pop("mask", None)
        kind = mask if isinstance(mask, str) and not sources.mask else type(mask)
        # 0.0 and -0.0 are equal, but their texts differ.
        guidance = str(columns.get("guidance"))
        key = (*columns.values(), kind, guidance, bool(sources.mask), bool(sources.reference))
        known = self._alike.get(key)
        if known is None:
            settled = _settle(spec, sources, self._model, self._pixels)
            if len(self._alike) >= _ALIKE:
                self._alike.clear()
            text = RequestText(settled, self._model)
            known = self._alike[key] = settled, text, settled.group
        return known


def resolve(
    spec: Spec,
    sources: Sources,
    model: ModelIdentity,
    pixels: PixelSettings = DEFAULT_PIXELS,
) -> Resolved:
    """Fill in every default. Raises BadRow if the model lacks what the row asks for."""
    return work_item(1, spec, sources, model, pixels).resolved


def work_item(
    line: int,
    spec: Spec,
    sources: Sources,
    model: ModelIdentity,
    pixels: PixelSettings = DEFAULT_PIXELS,
) -> WorkItem:
    """Resolve a spec and identify it. Raises BadRow."""
    return ItemMaker(model, pixels).make(line, spec, sources)
