"""Collect the facts and pictures that the contact sheet shows for one row."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ace_tasks.errors import NeedsReview, SuspectMask
from ace_tasks.provenance.keys import record_key, review_record_key
from ace_tasks.provenance.record import (
    CandidatesRecord,
    LossRecord,
    PasteRecord,
    Record,
    Scores,
    SourceRecord,
)
from ace_tasks.runs.report.thumbnails import Blank, Thumbnail, Thumbnails, drawn
from ace_tasks.runs.results import Result
from ace_tasks.specs import Resolved, WorkItem
from ace_tasks.store import join_uri

Figure = tuple[str, Thumbnail | Blank]  # its label, and the picture or why it is not shown
Facts = dict[str, Any]  # a fact that is None is not shown


@dataclass(frozen=True, slots=True)
class Entry:
    """A row to show, with its result and record."""

    item: WorkItem
    result: Result
    record: Record | None = None  # of a held-back picture, the record it would get if promoted


def status_of(result: Result) -> str:
    """Return the status of a row as the sheet shows it."""
    if result.error_code == NeedsReview.code:
        return "held back"
    return result.status.replace("_", " ")


def make_card(entry: Entry, album: Thumbnails, output_uri: str) -> dict[str, Any]:
    """Return the values that the template shows for a row. Raises StoreUnavailable."""
    item, result, record = entry.item, entry.result, entry.record
    before = album.source(item.sources.image)
    after = album.output(result.output_uri) if result.output_uri else Blank.UNREADABLE
    pictures = [("before", before)] if item.sources.image else []
    pictures += [("after", after)] if result.output_uri else []
    mask, coverage, note = _mask(entry, album)
    references = [album.reference(each) for each in item.sources.reference]
    return {
        "row_id": item.row_id,
        "task": item.spec.task,
        "prompt": item.spec.prompt,
        "status": status_of(result),
        "error_code": result.error_code,
        "error": result.error,
        "hints": _hints(result, record),
        "scores": score_line(record.scores) if record and record.scores else None,
        "compared": isinstance(before, Thumbnail)
        and isinstance(after, Thumbnail)
        and before.is_shaped_like(after),
        "pictures": pictures,
        "more": [*mask, *_references(references), *_kept_candidates(record, album)],
        "note": note,
        "facts": {
            "asked": {**_asked(item.resolved), "mask selects": coverage},
            "made": _made(result, record) if record else {"same picture as row": result.same_as},
            "scores": _explained(record.scores) if record and record.scores else {},
            "where": _where(entry, output_uri),
        },
    }


def _hints(result: Result, record: Record | None) -> str | None:
    """Return the hints about a mask that looks like a mistake, or None.

    They come from this run, or from the one that made the picture. A row that failed for its mask
    shows its error instead.
    """
    if result.error_code == SuspectMask.code:
        return None
    kept = record.mask.hints.values() if record and record.mask else ()
    return result.hints or "; ".join(kept) or None


def _mask(entry: Entry, album: Thumbnails) -> tuple[list[Figure], str | None, str | None]:
    """Return the mask as it was used, its coverage, and a note if it cannot be shown."""
    item, record = entry.item, entry.record
    if item.resolved.mask is None:
        return [], None, None
    if record and record.mask and record.mask.drawing:
        coverage = f"{record.mask.coverage:.1%}"
        return [("mask", drawn(base64.b64decode(record.mask.drawing)))], coverage, None
    if item.resolved.auto_mask and item.resolved.auto_mask.method == "model":
        return [], None, "The mask is made by a model and kept only with a finished picture."
    made, share = album.mask(item)
    if isinstance(made, Blank) and item.sources.mask:
        return [("mask as given", album.source(item.sources.mask))], None, None
    return [("mask", made)], None if share is None else f"{share:.1%}", None


def _references(thumbnails: list[Thumbnail | Blank]) -> list[Figure]:
    many = len(thumbnails) > 1
    return [(f"reference {n}" if many else "reference", t) for n, t in enumerate(thumbnails, 1)]


def _kept_candidates(record: Record | None, album: Thumbnails) -> Iterator[Figure]:
    """Yield the candidates that were stored although they were not chosen."""
    candidates = record.candidates.candidates if record and record.candidates else ()
    for number, each in enumerate(candidates):
        if each.uri and each.scores:
            yield f"candidate {number}, {each.scores.total:.2f}", album.output(each.uri)


def score_line(scores: Scores) -> str:
    """Return scores as a sheet shows them."""
    parts = single_scores(scores)
    return f"score {scores.total:.2f}" + (f" · {parts}" if parts else "")


def single_scores(scores: Scores) -> str:
    """Return the scores that make up the total, on one line."""
    single = scores.model_dump(exclude={"total"}, exclude_none=True)
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in single.items())


def _explained(scores: Scores) -> Facts:
    """Return each score with its description. Phones show no tooltips, so it is a fact."""
    fields = Scores.model_fields
    return {
        name.replace("_", " "): f"{value:g}: {fields[name].description}"
        for name, value in scores.model_dump(exclude_none=True).items()
    }


def _asked(resolved: Resolved) -> Facts:
    """Return the settings of a row."""
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
        "background": _ground(resolved),
        "geometry": resolved.geometry,
        "preset": resolved.preset.name if resolved.preset else None,
        "quality": resolved.quality,
    }


def _ground(resolved: Resolved) -> str | None:
    if resolved.background is None:
        return None
    colour = resolved.background
    name = colour if isinstance(colour, str) else "#{:02x}{:02x}{:02x}".format(*colour)
    return f"{name}, with its shadow" if resolved.shadow else name


def _made(result: Result, record: Record) -> Facts:
    """Return the facts about the picture and how it was made."""
    output, model, sampling, run = record.output, record.model, record.sampling, record.run
    seconds = ", ".join(f"{phase} {value:g}" for phase, value in record.timings_s.items())
    return {
        "same picture as row": result.same_as,
        "picture": f"{_size(output.size_px)} px, {output.format}, {output.size_bytes} bytes",
        **(_repainted(record.paste) if record.paste else {}),
        **(_chosen(record.candidates) if record.candidates else {}),
        "held back": "; ".join(record.review.reasons) if record.review else None,
        "promoted by": record.review.promoted_by if record.review else None,
        "model": f"{model.variant}, {model.route}, {model.dtype} on {model.device}",
        "speed": _fast(record) if model.speed == "fast" else None,
        "beside exact": _lost(record.loss) if record.loss else None,
        "weights": f"base {model.base}, encoders {model.encoders}"
        + (f", adapter {model.adapter}" if model.adapter else ""),
        "canvas": (
            f"{_size(sampling.canvas_px)} px, {sampling.tokens} tokens, sampled with seed "
            f"{sampling.seed}"
            if sampling
            else "no model ran"
        ),
        "made": f"{record.created_at:%Y-%m-%d %H:%M:%S} UTC, by version {run.code_version}",
        "by run": f"{run.run_id}, replica {run.replica}",
        "seconds": seconds or None,
    }


def _repainted(paste: PasteRecord) -> Facts:
    left, top, right, bottom = paste.window_px
    feather = f"only in the feather's {paste.feather_px} px, by at most {paste.outside_max} of 255"
    return {
        "window": f"x {left} to {right} px, y {top} to {bottom} px",
        "differs outside the mask": feather
        if paste.outside_max
        else "nowhere, before the file's compression",
    }


def _fast(record: Record) -> str:
    steps, precision = record.sampling, record.model.precision
    computed = f", {steps.computed_steps} of {steps.steps} steps computed" if steps else ""
    return f"fast (lossy){computed}{f', in {precision}' if precision else ''}"


def _lost(loss: LossRecord) -> str:
    psnr = "equal" if loss.psnr_db is None else f"PSNR {loss.psnr_db:g} dB"
    return (
        f"{psnr} in the repainted part, at most {loss.largest_difference} of 255; score "
        f"{loss.fast.total:g}, exact {loss.exact.total:g}"
    )


def _chosen(candidates: CandidatesRecord) -> Facts:
    totals = (
        f"{n}: {each.error or (each.scores.total if each.scores else '')} (seed {each.seed})"
        for n, each in enumerate(candidates.candidates)
    )
    return {"candidates": f"number {candidates.chosen} of {candidates.count}; {', '.join(totals)}"}


def _where(entry: Entry, output_uri: str) -> Facts:
    """Return the URIs and hashes of the record, the picture and the sources."""
    item, result, record = entry.item, entry.result, entry.record
    places: Facts = {"item": item.item_id, "output": result.output_uri}
    if record is None:
        single = {"image": item.sources.image, "mask": item.sources.mask}
        places |= {name: each.uri for name, each in single.items() if each}
        return places | _numbered([each.uri for each in item.sources.reference])
    held_back = result.error_code == NeedsReview.code
    key = review_record_key(record) if held_back else record_key(record.item_id)
    places |= {"record": join_uri(output_uri, key), "output sha256": record.output.sha256}
    sources = {"image": record.sources.image, "mask": record.sources.mask}
    places |= {name: _source(each) for name, each in sources.items() if each}
    return places | _numbered([_source(each) for each in record.sources.reference])


def _numbered(references: list[str]) -> Facts:
    many = len(references) > 1
    return {f"reference {n}" if many else "reference": v for n, v in enumerate(references, 1)}


def _source(source: SourceRecord) -> str:
    kept = f", {', '.join(source.converted)}" if source.converted else ""
    return f"{source.uri}, {_size(source.size_px)} px, sha256 {source.sha256}{kept}"


def _size(size_px: tuple[int, int]) -> str:
    return f"{size_px[0]}×{size_px[1]}"
