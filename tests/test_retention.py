"""A source, or a run, forgotten, on a real store and a real Prefect server. If these break, a person's
picture stays somewhere, or the next schedule makes it again."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import uuid
from collections.abc import Callable
from typing import Any

import pyarrow.parquet
import pytest
from prefect.client.orchestration import get_client

from ace_tasks.results import Summary
from ace_tasks.store import Store, split_uri
from flows.audit_run import audit_run
from flows.edit_catalog import edit_catalog
from flows.forget import forget

pytestmark = pytest.mark.usefixtures("replicas_here")

Make = Callable[..., bytes]


@pytest.fixture
def prefix(store: Store) -> str:
    """A bucket of its own, since all of it is searched."""
    bucket = f"forget-{uuid.uuid4().hex[:12]}"
    store.create_bucket(bucket)
    return f"s3://{bucket}/shop"


def edit(prefix: str, rows: list[dict[str, Any]], store: Store) -> Summary:
    body = "\n".join(json.dumps({"steps": 1, "prompt": "p"} | row) for row in rows)
    store.put(f"{prefix}/c.jsonl", body.encode(), "text/plain")
    state = edit_catalog(
        catalog=f"{prefix}/c.jsonl", output=f"{prefix}/out", variant="toy", return_state=True
    )
    return Summary.model_validate(state.result(raise_on_failure=False))


def holding(store: Store, prefix: str, words: list[str]) -> set[str]:
    """Keys of the whole bucket's objects that hold one of the words, in what Parquet packs, too;
    those of the output without its prefix. Sources and catalogs are the user's own.
    """
    found = set()
    for each in store.list(f"s3://{split_uri(prefix)[0]}/"):
        if each.uri.startswith((f"{prefix}/in/", f"{prefix}/c.jsonl")):
            continue
        body = store.get(each.uri)
        with contextlib.suppress(pyarrow.ArrowInvalid):  # other tests' objects may be broken ones
            table = pyarrow.parquet.read_table(pyarrow.BufferReader(body))
            body += json.dumps(table.to_pylist(), default=str).encode()
        if any(word.encode() in body or word in each.uri for word in words):
            found.add(each.uri.removeprefix(f"{prefix}/out/"))
    return found


def told_by_prefect(words: list[str]) -> int:
    """How many artifacts hold one of the words."""
    artifacts: list[Any] = []
    with get_client(sync_client=True) as client:
        while page := client.read_artifacts(limit=200, offset=len(artifacts)):
            artifacts += page
    texts = [f"{each.data} {each.description}" for each in artifacts]
    return sum(any(word in text for word in words) for text in texts)


def outcome(state: Any) -> dict[str, Any]:
    assert state.is_completed(), state.message
    return dict(state.result())


def test_a_source_is_forgotten_with_all_that_was_made_of_it(
    store: Store, prefix: str, picture: Make
) -> None:
    secret, other = picture(seed=7001), picture(seed=7002)  # no other test's
    store.put(f"{prefix}/in/person.png", secret, "image/png")
    store.put(f"{prefix}/in/person.png.png", other, "image/png")  # its name begins alike
    rows = [
        {"id": "first", "task": "edit", "image": f"{prefix}/in/person.png"},
        {"id": "twin", "task": "edit", "image": f"{prefix}/in/person.png"},
        {"id": "dressed", "task": "try_on", "image": f"{prefix}/in/person.png.png",
         "mask": {"box": [0.2, 0.2, 0.8, 0.8]}, "reference": f"{prefix}/in/person.png"},
        {"id": "other", "task": "edit", "image": f"{prefix}/in/person.png.png"},
        {"id": "broken", "task": "fill", "image": f"{prefix}/in/person.png", "mask": "alpha"},
        {"id": "odd", "task": "edit", "image": f"{prefix}/in/person.png", "steps": -1},
    ]  # fmt: skip
    summary = edit(prefix, rows, store)
    assert (summary.done, summary.failed, summary.rejected) == (4, 1, 1)
    table = pyarrow.parquet.read_table(
        io.BytesIO(store.get(f"{prefix}/out/runs/{summary.run_id}/results.parquet"))
    ).to_pylist()
    made = {row["row_id"]: row for row in table}
    again = edit(prefix, [{"id": "second", "task": "edit", "image": made["first"]["output_uri"]}],
                 store)  # fmt: skip
    assert again.done == 1

    gone = [each["item_id"] for each in table if each["row_id"] in {"first", "dressed", "broken"}]
    words = [f'{prefix}/in/person.png"', hashlib.sha256(secret).hexdigest(), *gone, "/second/"]
    before = holding(store, prefix, words)
    assert len(before) > 8
    assert told_by_prefect(words)
    source = f"{prefix}/in/person.png"
    dry = outcome(forget(output=f"{prefix}/out", source=source, return_state=True))
    assert (dry["counts"]["items"], dry["counts"]["pictures"]) == (4, 3)
    assert holding(store, prefix, words) == before

    done = outcome(forget(output=f"{prefix}/out", source=source, delete=True, return_state=True))
    assert done["counts"] == dry["counts"]
    assert holding(store, prefix, words) == set()
    assert told_by_prefect(words) == 0
    assert [key for key in holding(store, prefix, ["forgotten/"]) if key.startswith("forgotten/")]
    assert holding(store, prefix, [made["other"]["item_id"]])  # who is not meant stays
    audited = audit_run(output=f"{prefix}/out", run=summary.run_id, return_state=True)
    assert audited.name == "Completed", audited.message

    # The next schedule, with the very catalog; and a copy of the picture under another name.
    store.put(f"{prefix}/in/copy.png", secret, "image/png")
    copied = {"id": "copied", "task": "edit", "image": f"{prefix}/in/copy.png"}
    later = edit(prefix, [*rows[:5], copied], store)
    assert (later.done, later.done_before, later.forgotten, later.rejected) == (0, 1, 5, 0)
    assert (
        outcome(forget(output=f"{prefix}/out", source=source, return_state=True))["counts"][
            "pictures"
        ]
        == 0
    )


def test_a_run_is_forgotten_and_its_neighbour_stays(
    store: Store, prefix: str, picture: Make
) -> None:
    store.put(f"{prefix}/in/0.png", picture(seed=1), "image/png")
    row = {"task": "edit", "image": f"{prefix}/in/0.png"}
    first = edit(prefix, [row | {"id": "a", "seed": 1}], store)
    second = edit(prefix, [row | {"id": "b", "seed": 2}], store)
    done = outcome(forget(output=f"{prefix}/out", run=first.run_id, delete=True, return_state=True))
    assert done["counts"]["items"] == 1
    assert holding(store, prefix, [first.run_id]) == {
        key for key in holding(store, prefix, [first.run_id]) if key.startswith("rates/")
    }
    assert holding(store, prefix, [second.run_id])
    later = edit(prefix, [row | {"id": "a", "seed": 1}, row | {"id": "b", "seed": 2}], store)
    assert (later.done, later.done_before, later.forgotten) == (0, 1, 1)


def test_older_versions_go_too(store: Store, object_store: Any) -> None:
    bucket = "versioned"
    store.create_bucket(bucket)
    store._client.put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    uri = f"s3://{bucket}/a.json"
    for body in (b"1", b"2", b"3"):
        store.put(uri, body, "text/plain")
    store.put(f"{uri}.other", b"4", "text/plain")
    store.purge_older(uri)
    assert (store.get(uri), len([*store._versions(uri)])) == (b"3", 1)
    store.put(uri, b"5", "text/plain")
    store.purge(uri)
    assert [*store._versions(uri)] == []
    assert store.get(f"{uri}.other") == b"4"


@pytest.mark.parametrize(
    "given",
    [{}, {"source": "s3://b/k", "run": "r"}, {"source": "in/local.png"}],
    ids=["nothing", "both", "a-local-file"],
)
def test_what_is_to_be_forgotten_must_be_named(prefix: str, given: dict[str, str]) -> None:
    state = forget(output=f"{prefix}/out", return_state=True, **given)
    assert state.is_failed()
    assert "accepted: " in state.message
