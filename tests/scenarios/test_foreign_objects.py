"""What a shop keeps beside and among our objects, through whatever is done to an output. If these
break, something that we did not write is changed or deleted, or a record stands without its
picture."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from ace_tasks.catalog.files import Row, to_specs
from ace_tasks.errors import AceError, Cancelled
from ace_tasks.model.variants import find_variant
from ace_tasks.plan.plan_file import Basis, PlanFiles, build_plan, read_plan
from ace_tasks.plan.resume import RetryRules, find_finished
from ace_tasks.provenance.keys import plan_key
from ace_tasks.provenance.record import Record
from ace_tasks.provenance.tombstones import Guard, Tombstones
from ace_tasks.replica.publisher import Publisher
from ace_tasks.replica.replica import Replica
from ace_tasks.runs.forget import Forget
from ace_tasks.runs.review import Review
from ace_tasks.runs.sweep import sweep
from ace_tasks.settings import ReplicaSettings, ReviewSettings, StoreSettings, WeightsSettings
from ace_tasks.store import Store, join_uri
from flows.edit_catalog import edit_catalog
from flows.forget import forget
from flows.retry_failed import retry_failed
from flows.review_run import review_run
from flows.sweep_output import sweep_output

IN_FULL = hypothesis.settings.default is not hypothesis.settings.get_profile("quick")
ROWS = 3

# Names that others give, and such as we give; `{item}`: the first characters of an item of ours.
NAMES = [
    "images/hero.jpg",
    "images/r0/notes.txt",
    "images/r0/{item}.00000000.png",
    "images/r0/{item}.png",
    "images/{item}.00000000.png",
    "images/r0/sub/{item}.00000000.png",
    "images/r1/ffffffffffffffff.00000000.webp",
    "candidates/cv.pdf",
    "candidates/r0/{item}.1.00000000.png",
    "review/r0/letter.docx",
    "review/r1/{item}.00000000.jpg",
    "review/r2/{item}.00000000.json",
    "records/readme.txt",
    "records/ab/ours.json",
    "failures/list.csv",
    "runs/index.html",
    "runs/old/report.html",
    "runs/{run}/notes.txt",
    "runs/{run}/report.pdf",
    "forgotten/readme.txt",
    "rates/mine.csv",
    ".probe-mine",
    "logo.svg",
    "../out-old/images/r0/{item}.00000000.png",
    "../out2/records/x.json",
    "../images/r0/mug.png",
]

names = st.sampled_from(NAMES)
rows = st.integers(0, ROWS - 1)
steps = st.one_of(
    st.tuples(st.just("put"), names, st.binary(max_size=4)),
    st.tuples(
        st.just("edit"), st.sampled_from(["", "cancel", "sweep"]), st.integers(0, 12), st.booleans()
    ),
    st.tuples(st.just("retry"), st.sampled_from(["", "discarded", "needs_review"])),
    st.tuples(st.just("sweep"), st.booleans(), st.booleans()),
    st.tuples(st.just("forget a source"), rows),
    st.tuples(st.just("forget a run")),
    st.tuples(st.just("review"), st.sampled_from(["promote", "discard"]), rows),
)


@dataclass
class Shop:
    """An output, a catalog of three rows, and all that others keep beside."""

    store: Store
    place: str
    picture: Callable[..., bytes]
    foreign: dict[str, bytes] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number in range(ROWS):
            self.store.put(self.source(number), self.picture(32, 32, seed=number), "image/png")
        self.rows = [
            {
                "id": f"r{number}",
                "task": "edit",
                "image": self.source(number),
                "prompt": "p",
                "steps": 1,
            }
            for number in range(ROWS)
        ]

    @property
    def output(self) -> str:
        return f"{self.place}/out"

    def source(self, number: int) -> str:
        return f"{self.place}/in/{number}.png"

    def do(self, name: str, *how: Any) -> None:
        """Take a step. What is refused, as where no run has written yet, changes nothing."""
        with suppress(AceError):
            getattr(self, name.replace(" ", "_"))(*how)

    def put(self, name: str, content: bytes) -> None:
        known = [each.uri for each in self.store.list(f"{self.output}/records/")]
        item = known[0].rpartition("/")[2][:16] if known else "0" * 16
        key = name.format(item=item, run=self.runs[0] if self.runs else uuid.uuid4())
        uri = f"{self.place}/{key[3:]}" if key.startswith("../") else f"{self.output}/{key}"
        # It tells of a source of ours, as a shop's own list may.
        self.foreign[uri] = content + self.source(0).encode()
        self.store.put(uri, self.foreign[uri], "text/plain")

    def check(self) -> None:
        """Nothing foreign is touched; each record has its picture."""
        for uri, content in self.foreign.items():
            assert self.store.get(uri) == content, uri
        for each in self.store.list(f"{self.output}/records/"):
            if each.uri in self.foreign:
                continue
            output = Record.model_validate_json(self.store.get(each.uri)).output
            assert hashlib.sha256(self.store.get(output.uri)).hexdigest() == output.sha256


class Interrupted(Store):
    """Does something before its n-th write: raises Cancelled, or has a sweep come between."""

    def __init__(self, store: Store, when: int, what: Callable[[], None]):
        self.__dict__ |= store.__dict__  # a client of its own takes megabytes
        self._left, self._what = when, what

    def _count(self) -> None:
        self._left -= 1
        if self._left == -1:
            self._what()

    def put(self, uri: str, data: bytes, content_type: str) -> str:
        self._count()
        return super().put(uri, data, content_type)

    def put_if_absent(self, uri: str, data: bytes, content_type: str) -> bool:
        self._count()
        return super().put_if_absent(uri, data, content_type)


class ReplicaHere(Replica):
    """A real one, whose model is loaded once for all examples."""

    model: Any = None

    def _load_model(self) -> Any:
        if ReplicaHere.model is None:
            ReplicaHere.model = super()._load_model()
        return ReplicaHere.model


class ShopHere(Shop):
    """Everything in this process, without flows: each step takes a tenth of a second."""

    def edit(self, interrupt: str, at: int, is_held: bool) -> None:
        self._run(interrupt, at, 1.0 if is_held else 0.0, retry=False, named=())

    def retry(self, codes: str) -> None:
        self._run("", 0, 0.0, retry=True, named=tuple(filter(None, [codes])))

    def _run(
        self, interrupt: str, at: int, below: float, *, retry: bool, named: tuple[str, ...]
    ) -> None:
        run_id = str(uuid.uuid4())
        self.runs.append(run_id)
        given_rows = [Row(n, row) for n, row in enumerate(self.rows, start=1)]
        specs = to_specs(given_rows, f"{self.place}/c.jsonl", None)
        model = find_variant("toy").identity()
        forgotten = Tombstones.read(self.store, self.output)
        with tempfile.TemporaryDirectory() as folder:
            path, rejects = Path(folder) / "plan.parquet", Path(folder) / "rejects.jsonl"
            build_plan(specs, Basis(model), self.store, PlanFiles(path, rejects), forgotten)
            plan_uri = join_uri(self.output, plan_key(run_id))
            self.store.upload(path, plan_uri, "application/vnd.apache.parquet")
            rules = RetryRules(failures=retry, named=frozenset(named))
            before = find_finished(self.store, self.output, path, rules)
            items = [row.item for row in read_plan(path) if not row.same_as]
        replica = self._replica(run_id, interrupt, at, below)
        try:
            for item in items:
                if item.item_id not in before.records and item.item_id not in before.failures:
                    replica.run(item, 0)
        finally:
            replica.cancel()
        for failure in before.reopened:
            Review(self.store, self.output, by=run_id).clear_published(failure.item_id)

    def _replica(self, run_id: str, interrupt: str, at: int, below: float) -> Replica:
        replica = ReplicaHere(
            ReplicaSettings(
                variant="toy",
                weights=WeightsSettings(folder=Path(os.environ["ACE_WEIGHTS_DIR"])),
                output_uri=self.output,
                device="cpu",
                review=ReviewSettings(below=below),
            ),
            run_id,
            "replica",
        )
        with mock.patch(
            "ace_tasks.replica.replica.open_stores", return_value=(self.store, self.store)
        ):
            replica.start()
        if interrupt:
            outputs = Interrupted(
                self.store, at, self._cancel if interrupt == "cancel" else self._sweep_now
            )
            replica._output = outputs
            replica._publisher = replica._recorder._publisher = Publisher(outputs, self.output)
            replica._guard = Guard(outputs, self.output, run_id)
        return replica

    def _cancel(self) -> None:
        raise Cancelled("cut")

    def _sweep_now(self) -> None:
        self.sweep(False, True)

    def sweep(self, of_a_run: bool, delete: bool) -> None:
        run_id = self.runs[-1] if of_a_run and self.runs else ""
        for _ in sweep(self.store, self.output, 0.0, run_id, delete=delete):
            pass

    def forget_a_source(self, number: int) -> None:
        self._forget(source=self.source(number))

    def forget_a_run(self) -> None:
        if self.runs:
            self._forget(run=self.runs[0])

    def _forget(self, **what: str) -> None:
        forgetting = Forget(self.store, self.store, self.output, **what)
        deletion = forgetting.look()
        forgetting.write_tombstones(deletion, by="test")
        forgetting.delete(deletion)

    def review(self, decision: str, number: int) -> None:
        """Decide about all that waits of a row."""
        review = Review(self.store, self.output, by="test")
        prefix = f"{self.output}/review/r{number}/"
        for each in [*self.store.list(prefix)]:
            if each.uri.endswith(".json") and each.uri not in self.foreign:
                record = Record.model_validate_json(self.store.get(each.uri))
                getattr(review, decision)(record.item_id)


class ShopByFlows(Shop):
    """The flows, with replicas in Ray's processes."""

    def edit(self, interrupt: str, at: int, is_held: bool) -> None:
        body = "\n".join(map(json.dumps, self.rows)).encode()
        self.store.put(f"{self.place}/c.jsonl", body, "text/plain")
        state = edit_catalog(
            catalog=f"{self.place}/c.jsonl",
            output=self.output,
            variant="toy",
            review={"review_below": 1.0 if is_held else 0.0},
            return_state=True,
        )
        self.runs.append(state.result(raise_on_failure=False)["run_id"])

    def retry(self, codes: str) -> None:
        if self.runs:
            retry_failed(
                output=self.output, failed_run=self.runs[-1], codes=codes, return_state=True
            )

    def sweep(self, of_a_run: bool, delete: bool) -> None:
        run = self.runs[-1] if of_a_run and self.runs else ""
        sweep_output(
            output=self.output, older_than_hours=0, run=run, delete=delete, return_state=True
        )

    def forget_a_source(self, number: int) -> None:
        forget(output=self.output, source=self.source(number), delete=True, return_state=True)

    def forget_a_run(self) -> None:
        if self.runs:
            forget(output=self.output, run=self.runs[0], delete=True, return_state=True)

    def review(self, decision: str, number: int) -> None:
        if self.runs:
            decisions = {decision: f"r{number}"}
            review_run(output=self.output, run=self.runs[-1], return_state=True, **decisions)


@pytest.fixture(scope="module")
def shops(
    object_store: Any, weights_dir: Path, picture: Callable[..., bytes]
) -> Callable[..., Shop]:
    store = Store(StoreSettings())
    store.create_bucket("shops")
    return lambda kind: kind(store, f"s3://shops/{uuid.uuid4().hex[:12]}", picture)


@settings(max_examples=500 if IN_FULL else 8)
@given(taken=st.lists(steps, min_size=3, max_size=12))
def test_nothing_foreign_is_touched_and_each_record_has_its_picture(
    shops: Callable[..., Shop], taken: list[tuple[Any, ...]]
) -> None:
    follow(shops(ShopHere), taken)


@pytest.mark.thorough
@settings(max_examples=50 if IN_FULL else 2)
@given(taken=st.lists(steps, min_size=3, max_size=8))
def test_nor_by_the_flows_over_ray(
    shops: Callable[..., Shop], ray_here: None, taken: list[tuple[Any, ...]]
) -> None:
    follow(shops(ShopByFlows), taken)


def follow(shop: Shop, taken: list[tuple[Any, ...]]) -> None:
    """An edit first, or most steps have nothing to work on."""
    for step in [("edit", "", 0, False), *taken]:
        note(f"{step}")
        shop.do(*step)
        shop.check()
