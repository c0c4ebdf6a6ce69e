"""Try-on batches on a real Prefect server, real Ray and a real store. If these break, a team pays
for pairs that nobody asked for, or gets a garment on the wrong person."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ace_tasks.images import codec
from ace_tasks.model.people import fingerprint
from ace_tasks.provenance.record import Record
from ace_tasks.runs.results import Summary
from ace_tasks.store import Store
from flows.try_on_batch import try_on_batch
from tests.looks.masks import photograph
from tests.support.grouped import grouped

pytestmark = pytest.mark.usefixtures("replicas_here")


@pytest.fixture
def places(store: Store, prefix: str, picture: Callable[..., bytes]) -> dict[str, str]:
    """Two people with a mask each, two garments."""
    pixels = np.zeros((64, 96), np.uint8)
    pixels[10:40, 20:70] = 255
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    for seed, name in enumerate(("anna", "eva")):
        store.put(f"{prefix}/people/{name}.png", picture(seed=seed), "image/png")
        store.put(f"{prefix}/masks/{name}.png", out.getvalue(), "image/png")
    for seed, name in enumerate(("dress", "shirt"), start=5):
        store.put(f"{prefix}/garments/{name}.png", picture(64, 64, seed), "image/png")
    return {name: f"{prefix}/{name}" for name in ("people", "garments", "masks")} | {
        "output": f"{prefix}/out"
    }


def try_on(places: dict[str, str], **parameters: Any) -> Any:
    given = grouped(try_on_batch, variant="toy", steps=1, **places, **parameters)
    return try_on_batch(**given, return_state=True)


def test_more_pairs_than_allowed_stop_it_before_any_work(
    places: dict[str, str], store: Store
) -> None:
    state = try_on(places, max_pairs=3)
    assert state.is_failed()
    assert "2 people and 2 garments, paired by cross, are 4 pairs" in state.message
    (note,) = store.list(places["output"])
    assert note.uri.endswith("/ending.json")


def test_two_hundred_people_and_fifty_garments_have_a_price_and_stop(
    places: dict[str, str],
    store: Store,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tables, since 250 names may be a few pictures."""
    monkeypatch.setenv("ACE_PRICE_PER_HOUR", "3")
    for name, files, count in (
        ("people", ("anna", "eva"), 200),
        ("garments", ("dress", "shirt"), 50),
    ):
        rows = [
            f"{name}-{n},{prefix}/{name}/{files[n % 2]}.png,{prefix}/masks/anna.png"
            for n in range(count)
        ]
        text = "\n".join(["id,image,mask", *rows])
        store.put(f"{prefix}/{name}.csv", text.encode(), "text/csv")
    tables = {name: f"{prefix}/{name}.csv" for name in ("people", "garments")}
    wanted = places | tables | {"masks": "column"}
    state = try_on(wanted)
    assert state.is_failed()
    assert "200 people and 50 garments, paired by cross, are 10,000 pairs" in state.message
    assert "(duration not known yet); accepted: at most 1,000" in state.message

    # A canvas of two pictures side by side has so many tokens; a step each.
    monkeypatch.setenv("ACE_SECONDS_PER_MILLION_TOKEN_STEPS", "1000")
    state = try_on(wanted)
    price = re.search(r"about ([\d.]+) replica-hours, cost ([\d.]+)\)", state.message)
    assert price is not None, state.message
    hours, cost = map(float, price.groups())
    assert cost == pytest.approx(3 * hours, abs=0.02)
    assert hours > 0
    tokens = hours * 3600 / 1000 * 1e6 / 10_000
    dry = try_on(wanted, max_pairs=10_000, limit=20, dry_run=True)
    assert dry.result()["tokens"] == pytest.approx(tokens, rel=0.1)
    assert list(store.list(f"{places['output']}/images/")) == []


def test_every_one_wears_every_one_and_the_next_garment_only_is_new(
    places: dict[str, str], store: Store, prefix: str, picture: Callable[..., bytes]
) -> None:
    state = try_on(places, prompt="{person} wears the {garment}")
    assert state.name == "Completed", state.message
    records = [
        Record.model_validate_json(store.get(each.uri))
        for each in store.list(f"{places['output']}/records/")
    ]
    pairs = {(each.spec["image"][-8:], each.spec["prompt"]) for each in records}
    assert pairs == {
        ("anna.png", "anna wears the dress"),
        ("anna.png", "anna wears the shirt"),
        ("/eva.png", "eva wears the dress"),
        ("/eva.png", "eva wears the shirt"),
    }
    for record in records:
        assert record.mask is not None
        assert record.mask.coverage == pytest.approx(30 * 50 / (64 * 96), abs=1e-5)
        assert record.sources.reference[0].uri in record.spec["reference"]
        person, garment = record.row_id.split("-")[:2]
        assert record.sources.image is not None
        assert (person, garment) == (
            record.sources.image.uri[:-4].rpartition("/")[2],
            record.sources.reference[0].uri[:-4].rpartition("/")[2],
        )

    store.put(f"{prefix}/garments/coat.png", picture(64, 64, 9), "image/png")
    state = try_on(places, prompt="{person} wears the {garment}")
    summary = Summary.model_validate(state.result())
    assert (summary.rows, summary.done, summary.done_before) == (6, 2, 4)


def test_a_person_needs_no_mask_of_its_own(
    places: dict[str, str], store: Store, prefix: str, picture: Callable[..., bytes]
) -> None:
    """Masks made from the photograph; the picture without anybody fails, and says why."""
    small = Image.fromarray(photograph("astronaut").rgb).resize((128, 128))
    photo = codec.encode(np.asarray(small), "png", None)
    store.put(f"{prefix}/crew/astronaut.png", photo, "image/png")
    store.put(f"{prefix}/crew/nobody.png", picture(seed=3), "image/png")
    wanted = places | {"people": f"{prefix}/crew", "masks": "auto"}
    state = try_on(wanted, auto_mask="person-top", pairing="order", max_failed=1)
    assert state.is_completed(), state.message
    records = [
        Record.model_validate_json(store.get(each.uri))
        for each in store.list(f"{places['output']}/records/")
    ]
    (record,) = records
    assert record.row_id.startswith("astronaut")
    assert record.mask is not None
    assert 0.35 < record.mask.coverage < 0.5
    assert record.resolved["auto_mask"] == {"method": "person-top", "model": fingerprint()}
    (failed,) = [store.get(each.uri) for each in store.list(f"{places['output']}/failures/")]
    assert b"no person was found; accepted" in failed
