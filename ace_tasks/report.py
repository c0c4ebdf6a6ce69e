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
from ace_tasks.results import Result
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import Source, WorkItem
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
    pictures = [("before", _data_uri(before.rgb if before else None))] if item.sources.image else []
    mask = None
    if item.resolved.mask is not None and before is not None:
        if mask_file or not item.sources.mask:
            mask = _read(lambda: masks.build(item.resolved, before, mask_file))
        pictures.append(("mask", _data_uri(mask)))
    for each in item.sources.reference:
        reference = _picture(each, sources, limits)
        pictures.append(("reference", _data_uri(reference.rgb if reference else None)))
    after = None
    if result.output_uri:
        after = _read(lambda: images.decode(outputs.get(result.output_uri or ""), limits))
    pictures.append(("after", _data_uri(after.rgb if after else None)))
    return {
        "row_id": item.row_id,
        "task": item.spec.task,
        "prompt": item.spec.prompt,
        "status": result.status.replace("_", " "),
        "error": f"{result.error_code}: {result.error}" if result.error_code else None,
        "pictures": pictures,
        "details": {
            "repainted": None if mask is None else f"{masks.coverage(mask):.1%}",
            "seed": item.resolved.seed,
            "steps": item.resolved.steps,
            "guidance": item.resolved.guidance,
            "seconds": result.seconds,
            "item": item.item_id,
            "output": result.output_uri,
            "same picture as row": result.same_as,
        },
    }


def _picture(source: Source | None, store: Store, limits: ImageLimits) -> Picture | None:
    if source is None or source.problem:
        return None
    uri = source.uri
    return _read(lambda: images.decode(store.get(uri, max_bytes=limits.max_bytes), limits))


def _read(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except StoreUnavailable:
        raise
    except (ItemError, StoreError):
        return None


def _data_uri(pixels: np.ndarray | None) -> str | None:
    if pixels is None:
        return None
    data = base64.b64encode(images.thumbnail(pixels, _THUMBNAIL_PX)).decode()
    return f"data:image/jpeg;base64,{data}"
