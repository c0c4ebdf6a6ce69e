"""Training data from an edit catalog whose column `target` names the wanted pictures.

    latents/catalog.json          the catalog's hash and counts; written after the next two
    latents/rows.jsonl            the good rows, in order: example n is line n
    latents/rejects.jsonl         rows that are no valid request
    latents/rejects-00007.jsonl   rows of a chunk whose pictures are missing or do not fit

A row becomes a sample by upstream's training rules, with as much of the masked content erased as
in an edit of the same row. Unusable rows are left out and listed. An unreachable store stops the
stage, which continues from there when it is started again.

Columns with editing settings (seed, steps, guidance, adapter, format, width, height) are checked,
but have no effect.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from ace_tasks.catalog.files import Reject, Spec, read_rows, to_examples
from ace_tasks.errors import (
    BadRow,
    CatalogError,
    ItemError,
    SettingsError,
    StoreError,
    StoreUnavailable,
)
from ace_tasks.images import codec, colour, controls
from ace_tasks.images.canvas_size import TOKEN_PX
from ace_tasks.images.codec import Picture
from ace_tasks.lcu.canvas import MASK_THRESHOLD
from ace_tasks.masks import masks
from ace_tasks.model.places import hash_file
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import Frozen, ModelIdentity, Source, Sources, TaskSpec, resolve
from ace_tasks.store import Store
from ace_tasks.training import latents, sample
from ace_tasks.training.latents import Encoder, Latents

_CATALOG, _ROWS, _REJECTS = "catalog.json", "rows.jsonl", "rejects.jsonl"
_WHITE = 255
_spec: TypeAdapter[Spec] = TypeAdapter(TaskSpec)


class CatalogData(Frozen):
    """A catalog to learn from."""

    catalog: str | None = Field(None, description="The catalog's URI. Empty: given to the flow.")
    max_seq_len: int = Field(  # upstream's value (ACE_SPEC 8)
        2048, ge=1, description="Token budget of a canvas, its reference included."
    )
    chunk: int = Field(64, ge=1, description="Rows in a file.")
    empty_prompts: float = Field(0.1, ge=0, le=1)
    seed: int = 3

    def count(self, folder: Path) -> int:
        """Return the number of good rows of the catalog planned in the latents' folder."""
        return planned(folder).rows


class PlannedCatalog(BaseModel):
    """The hash and the row counts of a planned catalog."""

    model_config = ConfigDict(frozen=True)

    sha256: str  # of the file
    rows: int  # good rows
    without_references: int
    rejected: int  # rows rejected before any picture was read


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A good row: its spec, the URI of its target, and its cells as given."""

    line: int
    spec: Spec
    target: str
    cells: dict[str, Any]

    @property
    def mask_uri(self) -> str | None:
        mask = getattr(self.spec, "mask", None)
        return mask if isinstance(mask, str) and mask not in {"alpha", "auto"} else None

    @property
    def references(self) -> tuple[str, ...]:
        return getattr(self.spec, "reference", None) or ()

    def reject(self, field: str | None, reason: str) -> Reject:
        return Reject(self.line, field, reason, self.cells)


def plan(
    catalog: Path, uri: str, allowed_buckets: tuple[str, ...] | None, folder: Path
) -> PlannedCatalog:
    """Sort a catalog's rows into good ones and rejects, in the latents' folder.

    `catalog` is the local file, `uri` its origin. Raises CatalogError if no row is good.
    """
    folder.mkdir(parents=True, exist_ok=True)
    coming = {name: folder / f"{name}.coming" for name in (_ROWS, _REJECTS)}
    good, alone, bad, first = 0, 0, 0, None
    with (
        coming[_ROWS].open("w", encoding="utf-8") as rows,
        coming[_REJECTS].open("w", encoding="utf-8") as rejects,
    ):
        for each in _checked(catalog, uri, allowed_buckets):
            if isinstance(each, Reject):
                first, bad = first or each, bad + 1
                rejects.write(each.to_json() + "\n")
                continue
            good, alone = good + 1, alone + (not each.references)
            content = {
                "line": each.line,
                "spec": each.spec.model_dump(mode="json"),
                "target": each.target,
                "cells": each.cells,
            }
            rows.write(json.dumps(content, ensure_ascii=False, default=str) + "\n")
    if not good:
        why = f"; line {first.line}: {first.field}: {first.reason}" if first else ""
        raise CatalogError(f"{uri}: no row to learn from{why}")
    for name, path in coming.items():
        path.rename(folder / name)
    found = PlannedCatalog(
        sha256=hash_file(catalog), rows=good, without_references=alone, rejected=bad
    )
    (folder / _CATALOG).write_text(found.model_dump_json(indent=1))
    return found


def planned(folder: Path) -> PlannedCatalog:
    """Return the catalog planned in a folder. Raises SettingsError if there is none."""
    try:
        return PlannedCatalog.model_validate_json((folder / _CATALOG).read_bytes())
    except OSError as error:
        raise SettingsError(f"{folder / _CATALOG}: {error.strerror}; no catalog planned") from None


def _checked(
    catalog: Path, uri: str, allowed_buckets: tuple[str, ...] | None
) -> Iterator[TrainingRow | Reject]:
    seen: dict[str, int] = {}
    for each in to_examples(read_rows(catalog), uri, allowed_buckets):
        if isinstance(each, Reject):
            yield each
            continue
        row = TrainingRow(*each)
        try:
            if len(row.references) > 1:
                raise BadRow("reference", "accepted in training: one picture; given several")
            if (line := seen.setdefault(row.spec.id, row.line)) != row.line:
                raise BadRow("id", f"used in line {line} already; ids must be unique in a catalog")
        except BadRow as error:
            yield row.reject(error.field, str(error))
        else:
            yield row


def read(folder: Path, numbers: range) -> Iterator[TrainingRow]:
    """Yield the good rows with these numbers."""
    with (folder / _ROWS).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if number in numbers:
                content = json.loads(line)
                spec = _spec.validate_python(content["spec"])
                yield TrainingRow(content["line"], spec, content["target"], content["cells"])


def rejects(folder: Path) -> list[dict[str, Any]]:
    """Return every row that was left out so far, in the catalog's order."""
    found = []
    for path in folder.glob("rejects*.jsonl"):
        found += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return sorted(found, key=lambda each: int(each["line"]))


# ---------------------------------------------------------------- pictures


def make_chunk(
    folder: Path,
    chunk: int,
    settings: CatalogData,
    encoder: Encoder,
    store: Store,
    model: ModelIdentity,
) -> None:
    """Fetch, encode and write one chunk of a catalog, and list the rows that were left out.

    `model` is the identity of the model to train. Raises StoreUnavailable.
    """
    numbers = latents.numbers_of(chunk, folder, settings)
    left_out: list[Reject] = []

    def made() -> Iterator[Latents]:
        for number, row in zip(numbers, read(folder, numbers), strict=True):
            found = _encode(row, number, settings, encoder, store, model)
            if isinstance(found, Reject):
                left_out.append(found)
            else:
                yield found

    examples = list(made())
    # This is written before the chunk, because rows of a finished chunk are not read again.
    text = "".join(each.to_json() + "\n" for each in left_out)
    (folder / f"rejects-{chunk:05}.jsonl").write_text(text, encoding="utf-8")
    latents.write_chunk(folder, chunk, examples)


def _encode(
    row: TrainingRow,
    number: int,
    settings: CatalogData,
    encoder: Encoder,
    store: Store,
    model: ModelIdentity,
) -> Latents | Reject:
    rng = random.Random(f"{settings.seed}/{number}")
    prompt = "" if rng.random() < settings.empty_prompts else row.spec.prompt
    fetch = _Fetch(store)
    try:
        canvas = _canvas(row, rng, settings, fetch, model, use_change=encoder.use_change)
    except StoreUnavailable:
        raise
    except (ItemError, StoreError) as error:
        return row.reject(getattr(error, "field", None) or fetch.column, str(error))
    seam = round(canvas.reference_px / TOKEN_PX)  # the larger part gets the token they share
    if seam * TOKEN_PX >= canvas.mask_1HW.shape[2]:
        return row.reject("target", "beside the reference, less than half a token of it is left")
    found = latents.encode_canvas(canvas, prompt, number, encoder, stage_1=not row.references)
    return replace(found, seam=2 * seam)  # a token is two latents wide


class _Fetch:
    """A reader of pictures that remembers the last column it read, for messages."""

    def __init__(self, store: Store):
        self._store = store
        self._limits = ImageLimits()
        self.column: str | None = None

    def __call__(self, column: str, uri: str) -> Picture:
        self.column = column
        return codec.decode(self._store.get(uri, max_bytes=self._limits.max_bytes), self._limits)


def _srgb(picture: Picture) -> np.ndarray:
    """Return a picture (H, W, 3) uint8 as an edit shows it to the model."""
    return colour.to_srgb(picture.rgb, picture.icc_profile)


def _canvas(
    row: TrainingRow,
    rng: random.Random,
    settings: CatalogData,
    fetch: _Fetch,
    model: ModelIdentity,
    *,
    use_change: bool,
) -> sample.Sample:
    """Return a row's sample. Raises ItemError, and StoreError for a picture that is missing."""
    spec = row.spec.model_copy(update={"adapter": None})
    mask_uri = row.mask_uri
    resolved = resolve(spec, Sources(mask=Source(uri=mask_uri) if mask_uri else None), model)
    target = _srgb(fetch("target", row.target))
    image_uri = getattr(spec, "image", None)
    image = fetch("image", image_uri) if image_uri else None
    mask_file = fetch("mask", mask_uri) if mask_uri else None
    reference = _srgb(fetch("reference", row.references[0])) if row.references else None
    fetch.column = "mask"
    mask = masks.build(resolved, image, mask_file) if image else None
    shown = controls.draw(resolved.control, _srgb(image), mask, None) if image else None
    if mask is not None:  # binary, as in an edit
        mask = np.where(mask > MASK_THRESHOLD, _WHITE, 0).astype(np.uint8)
    fetch.column = "reference" if row.references else "target"
    return sample.build(
        sample.TrainingExample(target, shown, mask, reference),
        max_seq_len=settings.max_seq_len,
        reference_h=sample.draw_reference_h(len(target), rng),
        repainting_scale=resolved.repainting_scale,
        modify_mode=use_change,
    )
