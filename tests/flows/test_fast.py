"""A run with speed fast. If these break, fast pictures pass for exact ones, a finished catalog is
paid for again, or nobody is told what was lost."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from ace_tasks.provenance.keys import report_key, summary_key
from ace_tasks.provenance.record import Record
from ace_tasks.runs.results import Summary
from ace_tasks.store import Store, join_uri
from flows.edit_catalog import edit_catalog
from flows.ui import summary as shown
from tests.support.grouped import grouped

pytestmark = pytest.mark.usefixtures("replicas_here")
ROWS, STEPS = 8, 8


@pytest.fixture
def catalog(store: Store, prefix: str, picture: Callable[..., bytes]) -> str:
    product = Image.new("RGB", (96, 64), "white")
    product.paste("red", (30, 20, 70, 50))
    out = io.BytesIO()
    product.save(out, "PNG")
    store.put(join_uri(prefix, "in/product.png"), out.getvalue(), "image/png")
    rows: list[dict[str, Any]] = [
        {"id": "cut-out", "task": "background", "image": join_uri(prefix, "in/product.png")}
    ]
    for number in range(ROWS):
        image = join_uri(prefix, f"in/{number}.png")
        store.put(image, picture(seed=number), "image/png")
        rows.append({"id": f"row-{number}", "task": "edit", "image": image, "prompt": "p",
                     "steps": STEPS})  # fmt: skip
    uri = join_uri(prefix, "catalog.jsonl")
    store.put(uri, "\n".join(map(json.dumps, rows)).encode(), "text/plain")
    return uri


def run(catalog: str, prefix: str, **parameters: Any) -> Summary:
    state: Any = edit_catalog(
        catalog=catalog, output=f"{prefix}/out", variant="toy", return_state=True,
        **grouped(edit_catalog, auto_mask="border", **parameters),
    )  # fmt: skip
    return Summary.model_validate(state.result())


@pytest.mark.thorough
def test_a_fast_run_makes_other_items_measures_them_and_is_resumed(
    catalog: str, store: Store, prefix: str
) -> None:
    exact = run(catalog, prefix)
    assert (exact.done, exact.loss) == (ROWS + 1, None)

    fast = run(catalog, prefix, speed="fast")
    assert (fast.done, fast.done_before) == (ROWS, 1)  # a background has nothing to leave out
    assert fast.loss is not None
    assert fast.loss.items == 2  # one in four
    assert fast.loss.scores.keys() >= {"total", "sharpness", "change"}
    records = [
        Record.model_validate_json(store.get(each.uri))
        for each in store.list(f"{prefix}/out/records/")
    ]
    assert sorted(each.model.speed for each in records) == ["exact"] * (ROWS + 1) + ["fast"] * ROWS
    ratios = sorted(each.loss.psnr_db for each in records if each.loss)
    assert len(ratios) == 2
    assert fast.loss.least_psnr_db == ratios[0] > 0
    assert fast.loss.psnr_db == pytest.approx(sum(ratios) / 2, abs=0.01)

    kept = store.get(f"{prefix}/out/{summary_key(fast.run_id)}")
    assert Summary.model_validate_json(kept) == fast
    report = store.get(f"{prefix}/out/{report_key(fast.run_id)}").decode()
    assert fast.loss.line in report
    assert f"fast (lossy), 5 of {STEPS} steps computed" in report
    assert report.count("beside exact") == 2
    total = fast.loss.scores["total"]
    assert f"| total | {total.fast:g} | {total.exact:g} |" in shown.text(fast, None, None)

    # What a fast run took says nothing of an exact one, nor the other way round.
    rates = [each.uri.rpartition("-cpu")[2] for each in store.list(f"{prefix}/out/rates/")]
    assert sorted(rates) == ["-fast.json", ".json"]

    again = run(catalog, prefix, speed="fast")
    assert (again.done, again.done_before, again.loss) == (0, ROWS + 1, None)
    back = run(catalog, prefix)
    assert (back.done, back.done_before) == (0, ROWS + 1)
