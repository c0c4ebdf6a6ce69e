"""A recorded picture made again. If these break, a record does not hold what its picture was made
with, or a changed source or model passes for the recorded one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ace_tasks.errors import SettingsError, SourceChanged, SourceMissing, WeightsError
from ace_tasks.provenance.keys import record_key
from ace_tasks.provenance.outcomes import Done
from ace_tasks.provenance.record import Record
from ace_tasks.runs.reproduce import Asked, Reproducer
from ace_tasks.settings import MarkSettings, read_environment
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, join_uri
from tests.replica.test_replica import FILL, TASKS, new_replica, on_background
from tests.support import signing_keys
from tests.support.processes import ace_here, run_python

pytestmark = pytest.mark.usefixtures("object_store", "weights_dir")


@pytest.fixture
def reproducer() -> Reproducer:
    return Reproducer(read_environment(), "cpu", Asked())


def uri_of(prefix: str, item: WorkItem) -> str:
    return join_uri(prefix, record_key(item.item_id))


@pytest.mark.parametrize("variant", ["toy", "toy-lora"])
def test_each_task_s_picture_is_made_again_to_the_bit(
    planned: Callable[..., WorkItem],
    weights_dir: Path,
    prefix: str,
    reproducer: Reproducer,
    tmp_path: Path,
    variant: str,
) -> None:
    """This holds for signed pictures and for the chosen one of several candidates."""
    made = signing_keys.make(tmp_path / "ca", "Shop")
    marks = MarkSettings(key=str(made.key), certificates=str(made.chain))
    replica = new_replica(weights_dir, prefix, variant, marks=marks, torch_threads=1)
    rows = [*TASKS, FILL | {"candidates": 3, "format": "jpeg", "preset": "white-1000"}]
    for row in rows:
        item = planned(variant, **row)
        assert isinstance(replica.run(item, 0), Done)
        again = reproducer.reproduce(uri_of(prefix, item))
        assert again.identical, again
        assert again.differs == ()
        assert (again.psnr_db is None) == (row.get("format") != "jpeg")


@pytest.mark.thorough
def test_a_product_on_another_ground_is_made_again_to_the_bit(
    weights_dir: Path, prefix: str, store: Store, reproducer: Reproducer
) -> None:
    item = on_background(store, prefix, "flower", background="#f2e8dc", format="png")
    replica = new_replica(weights_dir, prefix, torch_threads=1)
    assert isinstance(replica.run(item, 0), Done)
    again = reproducer.reproduce(uri_of(prefix, item))
    assert again.identical, again
    assert again.differs == ()


def test_what_differs_is_reported(
    planned: Callable[..., WorkItem], weights_dir: Path, prefix: str, store: Store
) -> None:
    item = planned(**FILL)
    assert isinstance(new_replica(weights_dir, prefix, torch_threads=1).run(item, 0), Done)
    record = Record.model_validate_json(store.get(uri_of(prefix, item)))
    sampling = record.sampling.model_copy(update={"seed": record.sampling.seed ^ 1})
    run = record.run.model_copy(update={"versions": record.run.versions | {"torch": "1.0"}})
    other = record.model_copy(update={"sampling": sampling, "run": run})
    store.put(f"{prefix}/other.json", other.to_json(), "application/json")
    asked = Asked(threads=2, batch_size=2)
    again = Reproducer(read_environment(), "cpu", asked).reproduce(f"{prefix}/other.json")
    assert not again.identical
    assert again.psnr_db is not None
    assert again.psnr_db < 60
    kinds = {each.split()[0] for each in again.differs}
    assert kinds == {"torch", "threads", "batch"}


def test_a_source_that_changed_or_went_is_not_taken_for_the_recorded_one(
    planned: Callable[..., WorkItem],
    weights_dir: Path,
    prefix: str,
    store: Store,
    reproducer: Reproducer,
    picture: Callable[..., bytes],
) -> None:
    item = planned(**FILL)
    assert isinstance(new_replica(weights_dir, prefix).run(item, 0), Done)
    store.put(f"{prefix}/in/image.png", picture(seed=9), "image/png")
    with pytest.raises(SourceChanged, match="recorded"):
        reproducer.reproduce(uri_of(prefix, item))
    store.delete(f"{prefix}/in/image.png")
    with pytest.raises(SourceMissing):
        reproducer.reproduce(uri_of(prefix, item))
    with pytest.raises(SettingsError, match="record"):
        reproducer.reproduce(f"{prefix}/in/mask.png")


def test_another_model_is_not_taken_for_the_recorded_one(
    planned: Callable[..., WorkItem], weights_dir: Path, prefix: str
) -> None:
    item = planned(**FILL)
    assert isinstance(new_replica(weights_dir, prefix).run(item, 0), Done)
    with pytest.raises(WeightsError, match="other weights"):
        Reproducer(read_environment(), "cpu", Asked(variant="toy-lora")).reproduce(
            uri_of(prefix, item)
        )


def test_the_command_says_how_many_are_the_same(
    planned: Callable[..., WorkItem], weights_dir: Path, prefix: str
) -> None:
    """It runs in a process of its own, as for a person on the next day."""
    replica = new_replica(weights_dir, join_uri(prefix, "out"), torch_threads=1)
    for seed in (1, 2):
        assert isinstance(replica.run(planned(**FILL, seed=seed), 0), Done)
    ended = run_python("-m", "flows.cli", "reproduce", f"{prefix}/out", "--json")
    results = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [each["identical"] for each in results] == [True, True]


def test_a_source_that_was_a_local_file_is_read_from_the_folder_that_is_said(
    planned: Callable[..., WorkItem],
    weights_dir: Path,
    prefix: str,
    store: Store,
    reproducer: Reproducer,
    tmp_path: Path,
) -> None:
    """By its name alone, whatever path a record names."""
    item = planned(**FILL)
    assert isinstance(new_replica(weights_dir, prefix, torch_threads=1).run(item, 0), Done)
    record = Record.model_validate_json(store.get(uri_of(prefix, item)))
    (tmp_path / "image.png").write_bytes(store.get(f"{prefix}/in/image.png"))
    for uri in ("image.png", "../../elsewhere/image.png"):
        image = record.sources.image.model_copy(update={"uri": uri})  # type: ignore[union-attr]
        sources = record.sources.model_copy(update={"image": image})
        local = record.model_copy(update={"sources": sources})
        store.put(f"{prefix}/local.json", local.to_json(), "application/json")
        with pytest.raises(SourceMissing, match="was a local file: name the folder that holds it"):
            reproducer.reproduce(f"{prefix}/local.json")
        ended = ace_here("reproduce", f"{prefix}/local.json", "--sources", str(tmp_path), "--json")
        (again,) = map(json.loads, ended.stdout.splitlines())
        assert (again["record"], again["identical"]) == (f"{prefix}/local.json", True)


def test_where_there_is_nothing_to_compare_with_the_pixels_still_are(
    planned: Callable[..., WorkItem],
    weights_dir: Path,
    prefix: str,
    store: Store,
    reproducer: Reproducer,
    picture: Callable[..., bytes],
) -> None:
    """The published picture is one of another size, or gone; the recorded hash is there."""
    item = planned(**FILL)
    done = new_replica(weights_dir, prefix, torch_threads=1).run(item, 0)
    assert isinstance(done, Done)
    store.put(done.output_uri, picture(40, 40), "image/png")
    other = reproducer.reproduce(uri_of(prefix, item))
    store.delete(done.output_uri)
    gone = reproducer.reproduce(uri_of(prefix, item))
    for again in (other, gone):
        assert again.identical
        assert (again.psnr_db, again.largest_difference) == (None, None)


def test_a_control_by_a_model_that_is_not_at_hand_is_not_drawn_by_another(
    planned: Callable[..., WorkItem],
    weights_dir: Path,
    prefix: str,
    store: Store,
    reproducer: Reproducer,
) -> None:
    item = planned(task="edit", image="in/image.png", control="canny")
    assert isinstance(new_replica(weights_dir, prefix).run(item, 0), Done)
    record = Record.model_validate_json(store.get(uri_of(prefix, item)))
    resolved = record.resolved | {"control": "depth", "control_model": "f" * 64}
    drawn = record.model_copy(update={"resolved": resolved})
    store.put(f"{prefix}/drawn.json", drawn.to_json(), "application/json")
    with pytest.raises(SettingsError, match=f"no vision model with the .* fingerprint {'f' * 64}"):
        reproducer.reproduce(f"{prefix}/drawn.json")
