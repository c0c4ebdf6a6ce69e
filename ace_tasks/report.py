"""The contact sheet: before, mask, references and after of a run, as one HTML file.

Self-contained (pictures are embedded), so it opens from disk or from a link alike. Whatever a
catalog says is escaped by the template engine.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar

import jinja2
import numpy as np

from ace_tasks import images, masks
from ace_tasks.errors import ItemError, StoreError, StoreUnavailable
from ace_tasks.images import Picture
from ace_tasks.provenance import Record, Scores
from ace_tasks.results import Result
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import Resolved, Source, WorkItem
from ace_tasks.store import Store

MAX_ITEMS = 200
_THUMBNAIL_PX = 320
_THREADS = 8

T = TypeVar("T")

_environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)


@dataclass(frozen=True, slots=True)
class Entry:
    """One item to show."""

    item: WorkItem
    result: Result
    record: Record | None = None  # the one it has; or would have, were it not held back


def build_report(
    title: str,
    facts: dict[str, Any],
    entries: Sequence[Entry],
    total: int,
    sources: Store,
    outputs: Store,
    limits: ImageLimits,
) -> bytes:
    """HTML (UTF-8) of at most MAX_ITEMS entries out of `total`.

    A picture that cannot be read is left blank; raises StoreUnavailable when a store is away.
    """
    template = _environment.from_string(
        files("ace_tasks").joinpath("report.html.j2").read_text(encoding="utf-8")
    )
    with sources.in_parallel(_THREADS) as pool:
        cards = list(
            pool.map(lambda entry: _card(entry, sources, outputs, limits), entries[:MAX_ITEMS])
        )
    return template.render(title=title, facts=facts, cards=cards, total=total).encode()


def _card(entry: Entry, sources: Store, outputs: Store, limits: ImageLimits) -> dict[str, Any]:
    item, result = entry.item, entry.result
    before = _picture(item.sources.image, sources, limits)
    mask_file = _picture(item.sources.mask, sources, limits)
    # Each picture becomes a thumbnail at once: full-size ones may be large, and there are many.
    pictures = [("before", _shown(before))] if item.sources.image else []
    mask = None
    if item.resolved.mask is not None and before is not None:
        if mask_file or not item.sources.mask:
            mask = _read(lambda: masks.build(item.resolved, before, mask_file))
        pictures.append(("mask", _data_uri(mask)))
    for each in item.sources.reference:
        reference = _picture(each, sources, limits)
        pictures.append(("reference", _shown(reference)))
    after = _stored(result.output_uri, outputs, limits) if result.output_uri else None
    pictures.append(("after", _shown(after)))
    pictures += _kept_candidates(entry.record, outputs, limits)
    scores = entry.record.scores if entry.record else None
    return {
        "row_id": item.row_id,
        "task": item.spec.task,
        "prompt": item.spec.prompt,
        "status": result.status.replace("_", " "),
        "error": f"{result.error_code}: {result.error}" if result.error_code else None,
        "scores": _scores_line(scores) if scores else None,
        "pictures": pictures,
        "details": {
            "repainted": None if mask is None else f"{masks.coverage(mask):.1%}",
            **_asked(item.resolved),
            **(_made(entry.record) if entry.record else {}),
            "seconds": result.seconds,
            "item": item.item_id,
            "output": result.output_uri,
            "same picture as row": result.same_as,
        },
    }


def _kept_candidates(
    record: Record | None, outputs: Store, limits: ImageLimits
) -> list[tuple[str, str | None]]:
    """(label, data URI) of those that were stored though not chosen."""
    told = record.candidates.candidates if record and record.candidates else ()
    return [
        (
            f"candidate {number}, {each.scores.total:.2f}",
            _shown(picture),
        )
        for number, each in enumerate(told)
        if each.uri and each.scores
        for picture in (_stored(each.uri, outputs, limits),)
    ]


def _asked(resolved: Resolved) -> dict[str, Any]:
    """What row and run decided; None, and not shown, where they left it as it is."""
    steps = resolved.mask_steps
    changed = steps.model_dump(exclude_defaults=True) if steps else {}
    return {
        "seed": resolved.seed,
        "steps": resolved.steps,
        "guidance": resolved.guidance,
        "adapter": resolved.adapter,
        "control": None if resolved.control == "none" else resolved.control,
        "mask steps": ", ".join(f"{k} {v}" for k, v in changed.items()) or None,
        "automatic mask": resolved.auto_mask.method if resolved.auto_mask else None,
        "geometry": resolved.geometry,
        "preset": resolved.preset.name if resolved.preset else None,
        "quality": resolved.quality,
    }


def _made(record: Record) -> dict[str, Any]:
    """What came of it: the part that was repainted, candidates, review."""
    paste, candidates, review = record.paste, record.candidates, record.review
    told: dict[str, Any] = {}
    if paste:
        told["window"] = (
            f"{paste.window_px[0]} to {paste.window_px[2]} across, {paste.window_px[1]} to {paste.window_px[3]} down, px"
        )
        told["feather"] = f"{paste.feather_px} px"
        told["outside the mask"] = f"differs by {paste.outside_max} at most"
    if candidates:
        totals = (
            f"{n}: {each.error or (each.scores.total if each.scores else '')} (seed {each.seed})"
            for n, each in enumerate(candidates.candidates)
        )
        told["candidates"] = (
            f"number {candidates.chosen} of {candidates.count}; {', '.join(totals)}"
        )
    if review:
        told["held back"] = "; ".join(review.reasons)
        told["promoted by"] = review.promoted_by
    return told


def _scores_line(scores: Scores) -> str:
    single = scores.model_dump(exclude={"total"}, exclude_none=True)
    parts = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in single.items())
    return f"score {scores.total:.2f}" + (f" · {parts}" if parts else "")


def _picture(source: Source | None, store: Store, limits: ImageLimits) -> Picture | None:
    if source is None or source.problem:
        return None
    uri = source.uri
    return _read(lambda: images.decode(store.get(uri, max_bytes=limits.max_bytes), limits))


def _stored(uri: str, outputs: Store, limits: ImageLimits) -> Picture | None:
    return _read(lambda: images.decode(outputs.get(uri), limits))


def _read(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except StoreUnavailable:
        raise
    except (ItemError, StoreError):
        return None


def _shown(picture: Picture | None) -> str | None:
    return _data_uri(picture.rgb, picture.icc_profile) if picture else None


def _data_uri(pixels: np.ndarray | None, icc_profile: bytes | None = None) -> str | None:
    if pixels is None:
        return None
    data = base64.b64encode(images.thumbnail(pixels, _THUMBNAIL_PX, icc_profile)).decode()
    return f"data:image/jpeg;base64,{data}"
