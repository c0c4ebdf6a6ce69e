"""Resolution of a row into an item: defaults are filled in, and the item is identified."""

from __future__ import annotations

from typing import Any

from ace_tasks.errors import BadRow
from ace_tasks.specs.columns import Adapter, quote
from ace_tasks.specs.identity import SCORES_VERSION, derived_seed, item_id
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


def resolve(
    spec: Spec,
    sources: Sources,
    model: ModelIdentity,
    pixels: PixelSettings = DEFAULT_PIXELS,
) -> Resolved:
    """Fill in every default. Raises BadRow if the model lacks what the row asks for."""
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
    resolved = Resolved(seed=spec.seed or 0, **settings)
    if spec.seed is None:
        return resolved.model_copy(update={"seed": derived_seed(resolved, sources)})
    return resolved


def work_item(
    line: int,
    spec: Spec,
    sources: Sources,
    model: ModelIdentity,
    pixels: PixelSettings = DEFAULT_PIXELS,
) -> WorkItem:
    """Resolve a spec and identify it. Raises BadRow."""
    resolved = resolve(spec, sources, model, pixels)
    return WorkItem.model_construct(  # its parts are valid; there may be a million
        item_id=item_id(resolved, sources, model),
        line=line,
        spec=spec,
        resolved=resolved,
        sources=sources,
    )
