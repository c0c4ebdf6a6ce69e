"""The audit of a run, on a real store and a real Prefect server. If these break, a swapped picture or
an edited record passes for what was made."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import ray
from PIL import Image

from ace_tasks.errors import StoreUnavailable
from ace_tasks.provenance.keys import audit_key, image_key, record_key, results_key
from ace_tasks.provenance.record import Record, record_sha256_of, seal_of
from ace_tasks.runs.results import Summary
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store, join_uri
from flows.audit_run import audit_run, look
from flows.edit_catalog import edit_catalog
from flows.ui.summary import text
from infra.object_store import ObjectStore
from infra.prefect_server import PrefectServer
from tests.images.test_rewrap import stored
from tests.images.test_source_metadata import TAG, metadata_of, texts
from tests.provenance.test_xmp import PART, TRAINED
from tests.replica.test_publishing import MARKED, RIGHTS, converted, marked_as
from tests.support import hostile, signing_keys
from tests.support.faults import FaultyStore
from tests.support.processes import ace_here
from tests.support.signing_keys import SigningKeys

Make = Callable[..., bytes]
ROWS = 6
CREDENTIALS = {
    "HF_TOKEN": "hf_dummyTokenOfNobody0123456789",
    "PREFECT_API_AUTH_STRING": "nobody:dummyPasswordOfTheServer",
    "AWS_SESSION_TOKEN_OF_ANOTHER_JOB": "dummySessionTokenThatIsNotOurs",
}
"""Such as lie in the environment of whoever starts a run."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> SigningKeys:
    return signing_keys.make(tmp_path_factory.mktemp("ca"), "Shop")


@pytest.fixture(autouse=True)
def environment(certificate: SigningKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pictures here are signed."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ACE_C2PA_KEY", str(certificate.key))
    monkeypatch.setenv("ACE_C2PA_CERTIFICATES", str(certificate.chain))


@pytest.fixture
def summary(store: Store, prefix: str, picture: Make, replicas_here: None) -> Summary:
    return run(store, prefix, picture)


def run(store: Store, prefix: str, picture: Make) -> Summary:
    """Run a catalog of six pictures, a twin of the first, and a reject."""
    rows = []
    for n in range(ROWS):
        image = join_uri(prefix, f"in/{n}.png")
        store.put(image, picture(seed=n), "image/png")
        rows.append({"id": f"row-{n}", "task": "edit", "image": image, "prompt": "p", "steps": 1})
    rows += [rows[0] | {"id": "twin"}, rows[0] | {"id": "bad", "steps": -1}]
    store.put(f"{prefix}/c.jsonl", "\n".join(map(json.dumps, rows)).encode(), "text/plain")
    state = edit_catalog(
        catalog=f"{prefix}/c.jsonl", output=f"{prefix}/out", variant="toy", return_state=True
    )
    return Summary.model_validate(state.result(raise_on_failure=False))


def audit(prefix: str, summary: Summary, **more: Any) -> tuple[Any, set[tuple[str, str]]]:
    state = audit_run(output=f"{prefix}/out", run=summary.run_id, return_state=True, **more)
    result = state.result(raise_on_failure=False)
    return state, {(each["problem"], each["row_id"]) for each in result["findings"]}


def seal_anew(content: dict[str, Any]) -> bytes:
    content["seal"] = seal_of(content)
    content["record_sha256"] = record_sha256_of(content)
    return json.dumps(content).encode()


def forge(store: Store, prefix: str, record: Record, part: str, **changes: Any) -> None:
    """Change a part of a record that lies in the store, its hashes made anew."""
    content = json.loads(record.to_json())
    content[part] |= changes
    marker = f"{prefix}/out/{record_key(record.item_id)}"
    store.put(marker, seal_anew(content), "application/json")


def edit_again(prefix: str) -> Summary:
    state = edit_catalog(
        catalog=f"{prefix}/c.jsonl", output=f"{prefix}/out", variant="toy", return_state=True
    )
    return Summary.model_validate(state.result(raise_on_failure=False))


def records(store: Store, prefix: str) -> dict[str, Record]:
    found = [
        Record.model_validate_json(store.get(each.uri))
        for each in store.list(f"{prefix}/out/records/")
    ]
    return {record.row_id: record for record in found}


def edit_record(store: Store, prefix: str, record: Record, **changes: Any) -> None:
    content = json.loads(record.to_json())
    content["sampling"] |= changes
    marker = f"{prefix}/out/{record_key(record.item_id)}"
    store.put(marker, json.dumps(content).encode(), "application/json")


def test_an_untouched_run_is_proved_and_every_touch_is_named(
    summary: Summary, store: Store, prefix: str, picture: Make
) -> None:
    state, found = audit(prefix, summary)
    assert (state.name, found) == ("Completed", set())
    assert f"{ROWS + 2} rows, {ROWS} items with a picture, {ROWS} of them read, {ROWS} signed" in (
        state.message
    )

    made = records(store, prefix)
    store.put(made["row-0"].output.uri, picture(seed=99), "image/png")
    store.delete(f"{prefix}/out/{record_key(made['row-1'].item_id)}")
    store.delete(made["row-2"].output.uri)
    edit_record(store, prefix, made["row-3"], seed=1)
    state, found = audit(prefix, summary)
    assert state.name == "AuditFailed"
    assert found == {
        ("picture_changed", "row-0"),
        ("record_missing", "row-1"),
        ("picture_missing", "row-2"),
        ("record_edited", "row-3"),
    }
    written = json.loads(store.get(f"{prefix}/out/{audit_key(summary.run_id)}"))
    assert {each["row_id"] for each in written["findings"]} == {f"row-{n}" for n in range(4)}
    _, sampled = audit(prefix, summary, sample=1)
    assert ("record_missing", "row-1") in sampled


def test_a_background_is_proved_in_the_run_of_another_variant_too(
    store: Store, prefix: str, replicas_here: None
) -> None:
    image = join_uri(prefix, "in/coffee.jpg")
    photo = Path(__file__).resolve().parents[2] / "infra" / "sample" / "photos" / "coffee.jpg"
    store.put(image, photo.read_bytes(), "image/jpeg")
    row = {"id": "cup", "task": "background", "image": image}
    store.put(f"{prefix}/c.jsonl", json.dumps(row).encode(), "text/plain")
    for variant, status in (("toy", "done"), ("toy-lora", "done_before")):
        state = edit_catalog(
            catalog=f"{prefix}/c.jsonl", output=f"{prefix}/out", variant=variant, return_state=True
        )
        summary = Summary.model_validate(state.result(raise_on_failure=False))
        assert getattr(summary, status) == 1
        state, found = audit(prefix, summary)
        assert (state.name, found) == ("Completed", set())


def test_nothing_that_a_run_leaves_holds_a_credential(
    ray_here: None,
    weights_dir: Path,
    store: Store,
    prefix: str,
    picture: Make,
    prefect_server: PrefectServer,
) -> None:
    """Neither pictures, records, tables and reports, nor the logs of Ray's session, nor Prefect's
    database of runs, logs and artifacts. Tables are searched as what they hold: they are packed.
    """
    summary = run(store, prefix, picture)
    key = Path(os.environ["ACE_C2PA_KEY"])
    secrets = [
        os.environ["AWS_SECRET_ACCESS_KEY"],
        str(key),
        *key.read_text().splitlines()[1:-1],
        *CREDENTIALS.values(),
    ]
    files = {each.uri: store.get(each.uri) for each in store.list(f"{prefix}/out/")}
    for uri in [each for each in files if each.endswith(".parquet")]:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(files[uri])).to_pylist()
        files[f"{uri}, read"] = json.dumps(table, default=str).encode()
    assert any(summary.run_id in uri for uri in files)
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    for folder in (logs, prefect_server.data_dir):
        for each in folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # servers at work take files away
                if each.is_file():
                    files[str(each)] = each.read_bytes()
    assert any("worker" in name for name in files)
    database = b"".join(body for name, body in files.items() if "prefect.db" in name)
    assert summary.run_id.encode() in database  # what Prefect keeps is among them
    assert summary.line.encode() in database
    for name, body in files.items():
        assert not any(secret.encode() in body for secret in secrets), name


def test_a_record_that_was_sealed_anew_is_given_away_by_its_picture_s_signature(
    summary: Summary, store: Store, prefix: str
) -> None:
    made = records(store, prefix)
    forged = made["row-0"].model_copy(update={"scores": None}).sealed()
    store.put(f"{prefix}/out/{record_key(forged.item_id)}", forged.to_json(), "application/json")
    _, found = audit(prefix, summary)
    assert found == {("record_edited", "row-0")}


def test_pictures_that_no_record_names_and_records_that_are_none_are_reported(
    summary: Summary, store: Store, prefix: str
) -> None:
    made = records(store, prefix)
    uri = made["row-0"].output.uri
    stray = f"{uri.rpartition('.')[0][:-8]}00000000.png"
    store.put(stray, b"left over", "image/png")
    invalid = f"{prefix}/out/{record_key(made['row-1'].item_id)}"
    store.put(invalid, b'{"schema_version": 2}', "application/json")
    other = f"{prefix}/out/{record_key(made['row-2'].item_id)}"
    store.put(other, made["row-3"].to_json(), "application/json")
    _, found = audit(prefix, summary)
    assert found == {
        ("picture_without_record", "row-0"),
        ("record_invalid", "row-1"),
        ("record_invalid", "row-2"),
    }


def test_a_row_without_a_result_is_reported(
    summary: Summary, store: Store, prefix: str, tmp_path: Any
) -> None:
    uri, path = f"{prefix}/out/{results_key(summary.run_id, 'parquet')}", tmp_path / "r"
    store.download(uri, path)
    table = pyarrow.parquet.read_table(path)
    kept = [row != "row-4" for row in table["row_id"].to_pylist()]
    pyarrow.parquet.write_table(table.filter(kept), path)
    store.upload(path, uri, "application/vnd.apache.parquet")
    state, found = audit(prefix, summary)
    assert ("not_accounted", "row-4") in found
    assert state.name == "AuditFailed"


@pytest.mark.usefixtures("replicas_here")
def test_a_run_over_marked_and_owned_pictures_passes_its_audit(store: Store, prefix: str) -> None:
    """The catalog, the command's flow and the audit: edited, untouched, with rights."""
    exif = Image.Exif()
    exif[TAG.Copyright], exif[TAG.Artist] = "(c) 2026 Studio Nord", "A. Photographer"
    sources = {
        "marked": hostile.file("JPEG", xmp=MARKED),
        "owned": hostile.file("JPEG", xmp=RIGHTS, exif=exif, dpi=(300, 300)),
        "empty": hostile.file("PNG", Image.new("L", (96, 64))),
    }
    for name, data in sources.items():
        store.put(f"{prefix}/in/{name}", data, "image/any")
    row = {"task": "fill", "prompt": "x", "steps": 1, "mask": {"box": [0, 0, 0.2, 0.2]}}
    rows = [
        row | {"id": "untouched", "image": f"{prefix}/in/marked", "mask": f"{prefix}/in/empty"},
        row | {"id": "edited", "image": f"{prefix}/in/marked"},
        row | {"id": "owned", "image": f"{prefix}/in/owned"},
    ]
    store.put(f"{prefix}/c.jsonl", "\n".join(map(json.dumps, rows)).encode(), "text/plain")
    state = edit_catalog(
        catalog=f"{prefix}/c.jsonl",
        output=f"{prefix}/out",
        variant="toy",
        masking={"allow_empty_masks": True},
        return_state=True,
    )
    assert state.name == "Completed"
    state, found = audit(prefix, Summary.model_validate(state.result()))
    assert (state.name, found) == ("Completed", set())
    made = records(store, prefix)
    files = {name: store.get(each.output.uri) for name, each in made.items()}
    assert {name: converted(each) for name, each in made.items()} == dict.fromkeys(files, ())
    types = {name: marked_as(files[name], each) for name, each in made.items()}
    assert types == {"untouched": TRAINED, "edited": TRAINED, "owned": PART}
    assert stored(files["untouched"]) == stored(sources["marked"])
    owned = metadata_of(files["owned"])
    assert (owned.copyright, owned.artist) == ("(c) 2026 Studio Nord", "A. Photographer")
    assert owned.dpi == (300, 300)
    assert texts(owned)["xmpRights:WebStatement"] == ["https://shop.test/licence"]


def test_an_output_that_was_moved_is_proved_where_it_is_now(
    summary: Summary, store: Store, prefix: str
) -> None:
    """Records and results name the old place; a run there finds all done and names the new one."""
    for each in [*store.list(f"{prefix}/out/")]:
        store.put(each.uri.replace("/out/", "/moved/out/"), store.get(each.uri), "x/x")
        store.delete(each.uri)
    state, found = audit(f"{prefix}/moved", summary)
    assert (state.name, found) == ("Completed", set())
    again = edit_catalog(
        catalog=f"{prefix}/c.jsonl", output=f"{prefix}/moved/out", variant="toy", return_state=True
    )
    later = Summary.model_validate(again.result(raise_on_failure=False))
    assert (later.done, later.done_before) == (0, ROWS + 1)
    state, found = audit(f"{prefix}/moved", later)
    assert (state.name, found) == ("Completed", set())
    table = store.get(f"{prefix}/moved/out/{results_key(later.run_id, 'csv')}").decode()
    assert table.count(f"{prefix}/moved/out/images/") == ROWS + 1
    assert f"{prefix}/out/" not in table


@pytest.mark.usefixtures("replicas_here")
def test_an_unsigned_record_that_contradicts_its_plan_is_named_though_its_hashes_fit(
    store: Store, prefix: str, picture: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every field is changed in `test_proof.py`; here are some of each kind, by the flow itself. A
    picture lies without a record under the key of a row that failed.
    """
    monkeypatch.delenv("ACE_C2PA_KEY")
    monkeypatch.delenv("ACE_C2PA_CERTIFICATES")
    store.put(f"{prefix}/in/broken.png", b"no picture", "image/png")
    catalog = "".join(
        json.dumps(
            {
                "id": f"row-{n}",
                "task": "edit",
                "image": f"{prefix}/in/{name}.png",
                "prompt": "p",
                "steps": 1,
            }
        )
        + "\n"
        for n, name in enumerate((0, 1, 2, 3, "broken"))
    )
    for n in range(4):
        store.put(f"{prefix}/in/{n}.png", picture(seed=n), "image/png")
    store.put(f"{prefix}/c.jsonl", catalog.encode(), "text/plain")
    summary = edit_again(prefix)
    assert (summary.done, summary.failed) == (4, 1)
    _, found = audit(prefix, summary)
    assert found == set()

    changes = {
        "row-0": ("sources", "image", {"uri": "s3://tests/another.png"}),
        "row-1": ("model", None, {"base": "0" * 64}),
        "row-2": ("output", None, {"pixels_sha256": "0" * 64}),
        "row-3": ("spec", None, {"prompt": "another"}),
    }
    for row_id, record in records(store, prefix).items():
        content = json.loads(record.to_json())
        part, inner, change = changes[row_id]
        holder = content[part][inner] if inner else content[part]
        holder |= change
        marker = f"{prefix}/out/{record_key(record.item_id)}"
        store.put(marker, seal_anew(content), "application/json")
    (failure,) = store.list(f"{prefix}/out/failures/")
    item_id = failure.uri.rpartition("/")[2].removesuffix(".json")
    stray = picture(seed=99)
    key = image_key("row-4", item_id, hashlib.sha256(stray).hexdigest(), "png")
    store.put(f"{prefix}/out/{key}", stray, "image/png")
    state, found = audit(prefix, summary)
    assert state.name == "AuditFailed"
    assert found == {
        *(("record_edited", row_id) for row_id in changes),
        ("picture_without_record", "row-4"),
    }


@pytest.mark.thorough
@pytest.mark.usefixtures("replicas_here")
def test_signing_that_is_switched_on_later_is_reported_and_an_earlier_run_s_plan_still_proves(
    store: Store, prefix: str, picture: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as unsigned:
        unsigned.delenv("ACE_C2PA_KEY")
        unsigned.delenv("ACE_C2PA_CERTIFICATES")
        first = run(store, prefix, picture)
    assert (first.signed, first.unsigned_before) == (False, None)
    later = edit_again(prefix)
    assert (later.signed, later.done, later.done_before) == (True, 0, ROWS + 1)
    note = later.unsigned_before
    assert note is not None
    assert f"done before ({ROWS + 1})" in note
    assert note in ace_here("status", f"{prefix}/out").stdout
    assert note[1:] in text(later, None, None)
    state, found = audit(prefix, later)
    assert (state.name, found) == ("Completed", set())
    assert "0 signed" in state.message

    content = json.loads(records(store, prefix)["row-0"].to_json())
    content["spec"]["prompt"] = "another"  # of which this run's own identity knows nothing
    marker = f"{prefix}/out/{record_key(content['item_id'])}"
    store.put(marker, seal_anew(content), "application/json")
    for summary in (first, later):
        _, found = audit(prefix, summary)
        assert found == {("record_edited", "row-0")}
    content["run"]["run_id"] = "no-such-run"  # which this run's results contradict
    store.put(marker, seal_anew(content), "application/json")
    _, found = audit(prefix, first)
    assert found == {("record_edited", "row-0")}


def test_what_stands_in_a_record_s_place_fails_its_row_by_its_key_and_stays(
    summary: Summary, store: Store, prefix: str
) -> None:
    """Whoever moves it away has the row edited again, without another word."""
    made = records(store, prefix)
    places = {n: f"{prefix}/out/{record_key(made[n].item_id)}" for n in ("row-0", "row-1", "row-2")}
    files = {"row-0": b"\xff no JSON", "row-1": b'{"shop": 1}', "row-2": made["row-3"].to_json()}
    for row_id, place in places.items():
        store.put(place, files[row_id], "application/json")
    again = edit_again(prefix)
    assert (again.done_before, again.by_error) == (ROWS - 3, {"bad_record": 4, "bad_row": 1})
    results = f"{prefix}/out/{results_key(again.run_id, 'csv')}"
    errors = {
        row["row_id"]: row["error"]
        for row in csv.DictReader(store.get(results).decode().splitlines())
        if row["error_code"] == "bad_record"
    }
    assert errors.keys() == {"row-0", "row-1", "row-2", "twin"}
    assert all(places[row_id] in errors[row_id] for row_id in places)
    assert {row_id: store.get(place) for row_id, place in places.items()} == files
    state = audit_run(output=f"{prefix}/out", run=summary.run_id, return_state=True)
    table = state.result(raise_on_failure=False)["findings"]
    assert {(each["problem"], each["row_id"]) for each in table} == {
        ("record_invalid", row_id) for row_id in places
    }
    assert all(record_key(made[each["row_id"]].item_id) in each["detail"] for each in table)

    store.delete(places["row-0"])
    mended = edit_again(prefix)
    assert (mended.done, mended.by_error) == (2, {"bad_record": 2, "bad_row": 1})


def test_what_a_run_s_own_tables_or_another_run_s_plan_contradict_is_told(
    summary: Summary, store: Store, prefix: str, tmp_path: Path
) -> None:
    """A record that names another run to get out of what this one planned: by a name that is none,
    or by a plan whose row is spoilt.
    """
    made = records(store, prefix)
    path, runs = tmp_path / "table", f"{prefix}/out/runs"
    store.download(f"{runs}/{summary.run_id}/plan.parquet", path)
    plan = pyarrow.parquet.read_table(path)
    at = plan.schema.get_field_index("item")
    spoilt = plan.set_column(at, plan.schema.field(at), pyarrow.array(["{}"] * plan.num_rows))
    pyarrow.parquet.write_table(spoilt, path)
    store.upload(path, f"{runs}/spoilt/plan.parquet", "application/vnd.apache.parquet")
    for row_id, run_id in (("row-0", "../elsewhere"), ("row-1", "spoilt")):
        forge(store, prefix, made[row_id], "run", run_id=run_id)
    forge(store, prefix, made["row-2"], "output", **made["row-3"].output.model_dump(mode="json"))

    results = f"{runs}/{summary.run_id}/results.parquet"
    store.download(results, path)
    table = pyarrow.parquet.read_table(path)
    unplanned = table.slice(4, 1).to_pylist()[0] | {"line": 99, "row_id": "invented"}
    invented = pyarrow.Table.from_pylist([unplanned], schema=table.schema)
    pyarrow.parquet.write_table(pyarrow.concat_tables([table, invented]), path)
    store.upload(path, results, "application/vnd.apache.parquet")

    state, _ = audit(prefix, summary)
    found = state.result(raise_on_failure=False)["findings"]
    findings = {(each["problem"], each["row_id"], each["detail"]) for each in found}
    not_planned = "run.run_id: '{}', which did not plan it; this run made it"
    assert findings >= {
        ("record_edited", "row-0", not_planned.format("../elsewhere")),
        ("record_edited", "row-1", not_planned.format("spoilt")),
        ("record_edited", "row-2", "output: its picture is not the one in the results"),
        ("not_accounted", "invented", "line 99 was not planned"),
    }
    assert {row_id for _, row_id, _ in findings} == {"row-0", "row-1", "row-2", "invented"}


@pytest.mark.usefixtures("replicas_here")
def test_a_kept_candidate_that_was_replaced_or_went_is_told(
    store: Store, prefix: str, picture: Make
) -> None:
    image = f"{prefix}/in/0.png"
    store.put(image, picture(), "image/png")
    row = {"task": "edit", "image": image, "prompt": "p", "steps": 1}
    rows = [row | {"id": name, "seed": seed} for seed, name in enumerate(("other", "gone", "kept"))]
    store.put(f"{prefix}/c.jsonl", "\n".join(map(json.dumps, rows)).encode(), "text/plain")
    state = edit_catalog(
        catalog=f"{prefix}/c.jsonl",
        output=f"{prefix}/out",
        variant="toy",
        return_state=True,
        pixels={"candidates": 2},
        review={"keep_candidates": True},
    )
    summary = Summary.model_validate(state.result(raise_on_failure=False))
    kept = {name: [*each.pictures()][1] for name, each in records(store, prefix).items()}
    state, found = audit(prefix, summary)
    assert (state.name, found) == ("Completed", set())
    store.put(kept["other"], picture(seed=99), "image/png")
    store.delete(kept["gone"])
    _, found = audit(prefix, summary)
    assert found == {("picture_changed", "other"), ("picture_missing", "gone")}


def test_what_goes_or_cannot_be_asked_meanwhile_is_not_told_as_forged(
    summary: Summary,
    store: Store,
    prefix: str,
    object_store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A record is deleted once it was listed. The store is away when a picture is read, and when
    another run's plan is: then nothing is proved of it, nor held against it.
    """
    made = records(store, prefix)
    gone = f"{prefix}/out/{record_key(made['row-0'].item_id)}"
    with monkeypatch.context() as patch:

        def list_then_delete(uri: str) -> list[Any]:
            found = [*listed(uri)]
            if uri.startswith(f"{prefix}/out/records/"):
                store.delete(gone)
            return found

        listed = store.list
        patch.setattr(store, "list", list_then_delete)
        (finding,) = look(store, f"{prefix}/out", summary.run_id, 0).findings
    assert (finding.problem, finding.row_id) == ("record_missing", "row-0")
    store.put(gone, made["row-0"].to_json(), "application/json")

    forge(store, prefix, made["row-1"], "run", run_id="another")
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    proxy = FaultyStore(object_store.endpoint_url)
    through = Store(StoreSettings(endpoint_url=proxy.endpoint_url, patience_s=0))
    for part in ("/images/", "/another/plan.parquet"):
        proxy.times(1000, "503", part=part)
        with pytest.raises(StoreUnavailable):
            look(through, f"{prefix}/out", summary.run_id, 0)
        assert any(fault and part in path for _, path, fault in proxy.requests)
    proxy.stop()
