"""The contact sheet of a long run: what it weighs, how long it takes, how a browser bears it.

    .venv/bin/python -m tests.benchmarks.report --items 5000

Pictures are crops of the sample photographs, 1024×1024 JPEG, in an object store of its own; half of
the rows have a mask, a third a reference, one in a hundred failed. `--distinct` of each are made
and take turns; that is more than a page, and of several pages nothing is kept, so each is read and
made small again. The browser needs Chromium; without it that part is left out.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import resource
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ace_tasks.provenance.keys import record_key
from ace_tasks.provenance.record import Record
from ace_tasks.runs.report.cards import Entry
from ace_tasks.runs.report.pages import Sheet
from ace_tasks.runs.results import Result
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store, join_uri
from infra.object_store import ObjectStore
from infra.services import ROOT
from tests.support import sheets

_BUCKET = "s3://sheets"
_SIDE_PX = 1024
# Frame by frame to the end of the page, as far as a wheel turns at once.
_SCROLL = """async () => {
  const gaps = [];
  let last = performance.now();
  while (scrollY + innerHeight < document.documentElement.scrollHeight - 1) {
    scrollBy(0, 120);
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    gaps.push(now - last);
    last = now;
  }
  return gaps;
}"""
_PAINTED = """() => new Promise((done) => new PerformanceObserver((list) =>
  done(list.getEntriesByName("first-contentful-paint")[0].startTime)
).observe({ type: "paint", buffered: true }))"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--distinct", type=int, default=400)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sheet-") as scratch:
        folder = Path(scratch)
        service = ObjectStore(folder / "store").start()
        try:
            os.environ.update(service.env)
            store = Store(StoreSettings())
            store.create_bucket(_BUCKET.removeprefix("s3://"))
            entries = [upload(store, number) for number in range(min(asked.distinct, asked.items))]
            build(sheet(store, entries, asked.items), folder)
        finally:
            service.stop()
        if any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
            browse(folder / "report.html")


def upload(store: Store, number: int) -> Entry:
    """One row, its pictures and its record in the store."""
    random = np.random.default_rng(number)
    photos = sorted((ROOT / "infra" / "sample" / "photos").glob("*.jpg"))
    with Image.open(photos[number % len(photos)]) as image:
        side = int(min(image.size) * random.uniform(0.6, 1))
        left, top = (int(random.integers(0, each - side + 1)) for each in image.size)
        crop = image.convert("RGB").crop((left, top, left + side, top + side))
    before = crop.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
    mask = np.zeros((_SIDE_PX, _SIDE_PX), np.uint8)
    mask[256:768, 300:700] = 255
    after = Image.composite(Image.eval(before, lambda v: 255 - v), before, Image.fromarray(mask))
    places = {name: f"{_BUCKET}/{name}/{number}.jpg" for name in ("before", "after", "reference")}
    for name, picture in (("before", before), ("after", after), ("reference", before)):
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=90)
        store.put(places[name], out.getvalue(), "image/jpeg")
    row: dict[str, Any] = {
        "id": f"row-{number:05}",
        "task": "edit",
        "image": places["before"],
        "prompt": "the mug is cobalt blue, on a plain white wall, in soft light from the left",
    }
    if number % 3 == 0:
        row |= {
            "task": "try_on",
            "mask": {"box": [0.3, 0.25, 0.7, 0.75]},
            "reference": [places["reference"]],
        }
    elif number % 2:
        row["mask"] = {"box": [0.3, 0.25, 0.7, 0.75]}
    if number % 100 == 99:
        return sheets.entry(row, line=number, status="failed", error_code="timeout", error="900 s")
    entry = sheets.entry(row, line=number, output_uri=places["after"], seconds=4.2)
    record = sheets.record(entry, mask if "mask" in row else None)
    place = join_uri(_BUCKET, record_key(entry.item.item_id))
    store.put(place, record.to_json(), "application/json")
    return entry


def sheet(store: Store, entries: list[Entry], count: int) -> Sheet:
    """A sheet of `count` rows; each one's record is read as its page is made, as a run does it."""
    of = [entries[number % len(entries)] for number in range(count)]
    results = [replace(each.result, line=number) for number, each in enumerate(of)]

    def entry_of(result: Result) -> Entry:
        entry = of[result.line]
        if result.output_uri is None:
            return entry
        place = join_uri(_BUCKET, record_key(entry.item.item_id))
        return replace(entry, record=Record.model_validate_json(store.get(place)))

    shown = sheets.sheet(entries, store, store, title="Edits of s3://shop/catalog.jsonl")
    return replace(shown, results=results, entry_of=entry_of, total=count)


def build(sheet: Sheet, folder: Path) -> None:
    """Write every page, and say what that took."""
    sizes, seconds, peaks_mb, thumbnails, records = [], [], [], 0, 0
    started = time.monotonic()
    cpu = time.process_time()
    links = sheets.links(sheet)
    for link, page in zip(links, sheet.build(links), strict=True):
        (folder / link.name).write_bytes(page)
        sizes.append(len(page))
        seconds.append(time.monotonic() - started)
        peaks_mb.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        thumbnails += sum(map(len, re.findall(rb"data:image/webp;base64,[^\"]+", page)))
        records += page.count(b"<article")
    total, took = sum(sizes), time.monotonic() - started
    print(
        "| rows | pages | a page | thumbnails | all pages | built in | CPU | peak memory, "
        "first page | middle | last page |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    print(
        f"| {records} | {len(sizes)} | {np.mean(sizes[:-1] or sizes) / 1e6:.1f} MB | "
        f"{thumbnails / total:.0%} | {total / 1e6:.0f} MB | {took:.0f} s | "
        f"{time.process_time() - cpu:.0f} s | {peaks_mb[0]:.0f} MB | "
        f"{peaks_mb[len(sizes) // 2]:.0f} MB | {peaks_mb[-1]:.0f} MB |"
    )


def browse(page: Path) -> None:
    """Open the first page, read it to its end, and filter it."""
    from tests.support.browser import chromium

    with chromium() as browser:
        tab = browser.new_page(viewport={"width": 1400, "height": 900})
        started = time.monotonic()
        tab.goto(page.as_uri(), wait_until="commit")
        painted_ms = tab.evaluate(_PAINTED)
        tab.wait_for_load_state("load")
        loaded_ms = 1000 * (time.monotonic() - started)
        gaps = np.array(tab.evaluate(_SCROLL))
        started = time.monotonic()
        tab.get_by_label("Row id").fill("row-0001")
        tab.evaluate("new Promise(requestAnimationFrame)")
        filtered_ms = 1000 * (time.monotonic() - started)
    print(
        "\n| first paint | loaded | frames to the end | median | 99 % within | longest | "
        "filtered |\n|---|---|---|---|---|---|---|"
    )
    print(
        f"| {painted_ms:.0f} ms | {loaded_ms:.0f} ms | {len(gaps)} | {np.median(gaps):.0f} ms | "
        f"{np.percentile(gaps, 99):.0f} ms | {gaps.max():.0f} ms | {filtered_ms:.0f} ms |"
    )


if __name__ == "__main__":
    main()
