"""Rows and records as a run leaves them, for contact sheets that need no run."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ace_tasks.masks import masks
from ace_tasks.model.variants import find_variant
from ace_tasks.provenance.record import (
    MaskRecord,
    ModelRecord,
    OutputRecord,
    Record,
    RunRecord,
    SamplingRecord,
    Scores,
    SourceRecord,
    SourcesRecord,
)
from ace_tasks.runs.report.cards import Entry
from ace_tasks.runs.report.pages import DecisionPanel, PageLink, Sheet
from ace_tasks.runs.results import Result
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import DEFAULT_PIXELS, PixelSettings, Source, Sources, parse_spec, work_item
from ace_tasks.store import Store
from infra.services import ROOT

PHOTOS = sorted((ROOT / "infra" / "sample" / "photos").glob("*.jpg"))


def entry(
    row: dict[str, Any],
    *,
    line: int = 1,
    problem: str | None = None,
    pixels: PixelSettings = DEFAULT_PIXELS,
    **result: Any,
) -> Entry:
    """A row and what became of it; `problem` is that of every source."""
    spec = parse_spec({"id": "row-1", "prompt": "p"} | row)

    def source(uri: str) -> Source:
        return Source(uri=uri, problem=problem)

    mask = getattr(spec, "mask", None)
    sources = Sources(
        image=source(spec.image) if hasattr(spec, "image") else None,
        mask=source(mask) if isinstance(mask, str) and mask not in {"alpha", "auto"} else None,
        reference=tuple(source(each) for each in getattr(spec, "reference", ())),
    )
    item = work_item(line, spec, sources, find_variant("toy").identity(), pixels)
    outcome = {"status": "done"} | result
    row_result = Result(line=line, row_id=spec.id, task=spec.task, item_id=item.item_id, **outcome)
    return Entry(item, row_result)


def record(entry: Entry, mask: np.ndarray | None = None, **more: Any) -> Record:
    """The record that an entry's picture has; `mask`: (H, W) uint8 that was used."""
    item = entry.item
    sources = item.sources

    def fetched(source: Source) -> SourceRecord:
        return SourceRecord(
            uri=source.uri, etag="1", sha256="a1" * 32, size_bytes=9, size_px=(64, 48)
        )

    drawing = None if mask is None else base64.b64encode(masks.drawing(mask)).decode()
    return Record(
        row_id=item.row_id,
        item_id=item.item_id,
        spec=item.spec.model_dump(mode="json", exclude_none=True),
        resolved=item.resolved.model_dump(mode="json"),
        sources=SourcesRecord(
            image=fetched(sources.image) if sources.image else None,
            mask=fetched(sources.mask) if sources.mask else None,
            reference=tuple(map(fetched, sources.reference)),
        ),
        output=OutputRecord(
            uri=entry.result.output_uri or "s3://b/o.png",
            sha256="b2" * 32,
            pixels_sha256="c3" * 32,
            size_px=(64, 48),
            size_bytes=1234,
            format="png",
        ),
        model=ModelRecord(
            variant="toy",
            route="lora",
            base="d4" * 32,
            encoders="e5" * 32,
            adapter=None,
            dtype="float32",
            device="cpu",
        ),
        sampling=SamplingRecord(
            sampler="flow_match_euler",
            steps=2,
            guidance=50,
            seed=7,
            geometry="catalog",
            canvas_px=(96, 64),
            tokens=24,
        ),
        mask=None if mask is None else MaskRecord(coverage=masks.coverage(mask), drawing=drawing),
        scores=more.pop("scores", Scores(total=0.71, sharpness=0.5)),
        run=RunRecord(
            run_id="run-1",
            shard=0,
            attempt="x",
            replica="replica-0",
            code_version="0.1.0",
            versions={},
        ),
        timings_s={"fetch": 0.25, "generate": 1.5},
        **more,
    )


def sheet(
    entries: list[Entry],
    sources: Store,
    outputs: Store,
    *,
    title: str = "t",
    facts: dict[str, Any] | None = None,
    total: int | None = None,
    limits: ImageLimits | None = None,
    panel: DecisionPanel | None = None,
    note: str = "",
) -> Sheet:
    """The contact sheet of these entries, in their order."""
    of = {id(each.result): each for each in entries}
    return Sheet(
        title=title,
        facts=facts or {},
        results=[each.result for each in entries],
        entry_of=lambda result: of[id(result)],
        total=len(entries) if total is None else total,
        output_uri="s3://b/out",
        sources=sources,
        outputs=outputs,
        limits=limits or ImageLimits(),
        panel=panel,
        note=note,
    )


def panel(ui_url: str = "https://ui.example", **more: Any) -> DecisionPanel:
    """The panel of a review, as `flows.steps.review` makes it where it knows the UI."""
    form = "/deployments/deployment/d-1/run?parameters="
    fields = {
        "run_id": "run-1",
        "output_uri": "s3://b/out",
        "file": "decisions-run-1.json",
        "command": "ace-catalog review s3://b/out run-1 --decisions decisions-run-1.json",
        "classic_form": f"{ui_url}{form}",
        "v2_form": f"{ui_url}/v2{form}",
    }
    return DecisionPanel(**fields | more)


def links(sheet: Sheet, signature: str = "X-Amz-Signature=s") -> list[PageLink]:
    """Return links as `flows.ui.sheet` makes them."""
    names = [f"report{'' if n == 1 else f'-{n}'}.html" for n in range(1, sheet.pages + 1)]
    return [PageLink(name, f"https://store.example/b/{name}?{signature}") for name in names]


def pages(sheet: Sheet) -> list[str]:
    """The HTML of every page."""
    return [page.decode() for page in sheet.build(links(sheet))]


def pictures(folder: Path, number: int) -> tuple[str, str]:
    """Return the paths of a small photograph and its negative, wide or high, made only once."""
    before, after = folder / f"{number}-in.png", folder / f"{number}-out.png"
    if not before.exists():
        with Image.open(PHOTOS[number % len(PHOTOS)]) as image:
            photo = image.convert("RGB").resize([(96, 64), (64, 96)][number % 2])
        photo.save(before)
        Image.eval(photo, lambda level: 255 - level).save(after)
    return str(before), str(after)
