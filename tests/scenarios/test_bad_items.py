"""Bad pictures and deadly items in a real run. If these break, one bad row ends a batch, or a
nightly schedule loses a replica to the same row every night."""

from __future__ import annotations

import csv
import io
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

import flows.steps.pool
from ace_tasks.engine.dispatcher import Dispatcher
from ace_tasks.provenance.keys import failures_key
from ace_tasks.runs.results import Summary
from ace_tasks.settings import ReplicaSettings
from ace_tasks.store import Store, join_uri
from flows.edit_catalog import edit_catalog
from flows.retry_failed import retry_failed
from tests.support.grouped import grouped

Make = Callable[..., bytes]


def png_of(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")
    )


def bad_files(picture: Make) -> dict[str, bytes]:
    animation = io.BytesIO()
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    frames[0].save(animation, "WEBP", save_all=True, append_images=frames[1:])
    jpeg = picture(96, 64, kind="JPEG")
    return {
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "header-only.jpg": jpeg[:20],
        "truncated.png": picture()[:2000],
        "html.jpg": b"<html><body>404 Not Found</body></html>",
        "empty.png": b"",
        "one-pixel.png": picture(1, 1),
        "narrow.png": picture(8, 64),
        "huge.png": png_of(60_000, 60_000),
        "huge-side.png": png_of(2_000_000, 100),
        "animated.webp": animation.getvalue(),
        "tiff.jpg": picture(64, 64, kind="TIFF"),
        "bmp.png": picture(64, 64, kind="BMP"),
        "gif.png": picture(64, 64, kind="GIF", mode="P"),
        "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "noise.png": bytes(range(256)) * 100,
        "pickle.png": b"\x80\x04\x95\x0e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.",
    }


def run(catalog: str, prefix: str, **parameters: Any) -> tuple[Any, Summary]:
    given = grouped(edit_catalog, **parameters)
    state = edit_catalog(
        catalog=catalog, output=f"{prefix}/out", variant="toy", return_state=True, **given
    )
    return state, Summary.model_validate(state.result(raise_on_failure=False))


def results_by_row(store: Store, summary: Summary) -> dict[str, dict[str, str]]:
    rows = csv.DictReader(io.StringIO(store.get(summary.results).decode()))
    return {row["row_id"]: row for row in rows}


def write(store: Store, prefix: str, rows: list[dict[str, Any]]) -> str:
    uri = join_uri(prefix, "catalog.jsonl")
    store.put(uri, "\n".join(map(json.dumps, rows)).encode(), "text/plain")
    return uri


def test_twenty_bad_pictures_among_forty_good_rows(
    replicas_here: None, store: Store, prefix: str, picture: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACE_ALLOWED_BUCKETS", "tests,no-such-bucket")
    rows = []
    for number in range(40):
        image = join_uri(prefix, f"in/good-{number}.png")
        store.put(image, picture(64, 48, seed=number), "image/png")
        rows.append({"id": f"good-{number}", "task": "edit", "image": image})
    for name, data in bad_files(picture).items():
        image = join_uri(prefix, f"in/{name}")
        store.put(image, data, "image/png")
        rows.append({"id": f"bad-{name}", "task": "edit", "image": image})
    good = rows[0]["image"]
    small = join_uri(prefix, "in/small.png")
    store.put(small, picture(32, 32), "image/png")
    fill = {"task": "fill", "image": good}
    rows += [
        {"id": "bad-wrong-size-mask", **fill, "mask": small},
        {"id": "bad-mask-outside", **fill, "mask": {"box": [0, 0, 900, 900]}},
        {"id": "bad-missing-key", "task": "edit", "image": join_uri(prefix, "in/none.png")},
        {"id": "bad-missing-bucket", "task": "edit", "image": "s3://no-such-bucket/a.png"},
    ]
    state, summary = run(
        write(store, prefix, [row | {"prompt": "p", "steps": 1} for row in rows]), prefix
    )
    assert state.name == "FinishedWithFailures"
    assert (summary.done, summary.failed, summary.rejected) == (40, 20, 0)
    assert len(list(store.list(f"{prefix}/out/images/"))) == 40
    results = results_by_row(store, summary)
    assert {row_id for row_id, row in results.items() if row["status"] == "failed"} == {
        row["id"] for row in rows if row["id"].startswith("bad-")
    }
    assert all(row["error"] for row in results.values() if row["status"] == "failed")
    codes = {row["error_code"] for row in results.values()} - {""}
    assert codes == {"bad_image", "bad_mask", "source_missing"}


class Deadly(Dispatcher):
    """The real dispatcher over the real replica, whose process ends at one prompt."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        """Take replicas of ours in the place of the flow's."""
        super().__init__(*arguments, **more | {"make": make_deadly_replica})


def make_deadly_replica(settings: ReplicaSettings, run_id: str, name: str) -> Any:
    import os

    from ace_tasks.replica.replica import Replica
    from ace_tasks.specs import Resolved

    class DeadlyReplica(Replica):
        def _prepare(self, resolved: Resolved, pictures: Any) -> Any:
            if resolved.prompt == "die":
                os._exit(1)
            return super()._prepare(resolved, pictures)

    return DeadlyReplica(settings, run_id, name)


@pytest.mark.thorough
def test_a_quarantined_item_kills_no_replica_in_the_next_run(
    ray_here: None,
    weights_dir: Any,
    store: Store,
    prefix: str,
    picture: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flows.steps.pool, "Dispatcher", Deadly)
    image = join_uri(prefix, "in/a.png")
    store.put(image, picture(), "image/png")
    rows = [
        {"id": f"row-{n}", "task": "edit", "image": image, "prompt": f"p{n}", "steps": 1}
        for n in range(4)
    ]
    rows[1]["prompt"] = "die"
    _, first = run(write(store, prefix, rows), prefix)
    assert (first.done, first.failed, first.deaths) == (3, 1, 3)
    assert results_by_row(store, first)["row-1"]["error_code"] == "quarantined"
    _, nightly = run(write(store, prefix, rows), prefix)
    assert (nightly.done_before, nightly.failed_before, nightly.deaths) == (3, 1, 0)

    # Asked for by its code, on replicas that bear it, it is edited.
    monkeypatch.setattr(flows.steps.pool, "Dispatcher", Dispatcher)
    state = retry_failed(
        output=f"{prefix}/out", failed_run=nightly.run_id, codes="quarantined", return_state=True
    )
    summary = Summary.model_validate(state.result())
    assert (summary.rows, summary.done, summary.failed) == (1, 1, 0)
    # And the failure list of the first run is a catalog by itself.
    failures = f"{prefix}/out/{failures_key(first.run_id)}"
    assert run(failures, prefix)[1].done_before == 1


def test_a_retry_names_what_it_was_given(
    replicas_here: None, store: Store, prefix: str, picture: Make
) -> None:
    image = join_uri(prefix, "in/none.png")
    rows = [{"id": "a", "task": "edit", "image": image, "prompt": "p"}]
    _, summary = run(write(store, prefix, rows), prefix)
    for parameters, message in (
        ({"failed_run": summary.run_id, "codes": "timeout"}, "source_missing; given 'timeout'"),
        ({"failed_run": "no-such-run"}, "no-such-run has no summary"),
    ):
        state = retry_failed(output=f"{prefix}/out", return_state=True, **parameters)
        assert message in state.message
