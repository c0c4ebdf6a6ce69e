"""A few pictures first, and a person's word. If these break, thousands of pictures are made that
somebody has just rejected, or approved ones are made again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import AwaitingRetry
from pydantic import ValidationError

from ace_tasks.catalog.files import Reject, Row, to_specs
from ace_tasks.catalog.overrides import Overrides
from ace_tasks.errors import SettingsError
from ace_tasks.provenance.record import Record
from ace_tasks.store import Store, join_uri
from flows.review_run import review_run
from flows.steps.canary import Approval
from infra.prefect_server import PrefectServer
from infra.services import Service
from tests.support.patience import wait_until
from tests.support.serving import serving

# ---------------------------------------------------------------- what is changed


def specs(*prompts: str) -> Iterator[Any]:
    rows = [
        Row(n, {"id": f"r{n}", "task": "edit", "image": "s3://tests/a.png", "prompt": prompt})
        for n, prompt in enumerate(prompts, start=1)
    ]
    return to_specs(rows, "s3://tests/catalog.jsonl", None)


def test_a_changed_prompt_may_hold_the_old_one() -> None:
    changes = Overrides(prompt="{prompt}, at dawn", seed=7)
    changed = [spec for _, spec, _ in changes.applied(specs("a mug", "a {bag}"))]  # type: ignore[misc]
    assert [each.prompt for each in changed] == ["a mug, at dawn", "a {bag}, at dawn"]
    assert {each.seed for each in changed} == {7}
    assert [spec.prompt for _, spec, _ in Overrides().applied(specs("a mug"))] == ["a mug"]  # type: ignore[misc]


def test_a_row_without_a_prompt_stays_as_it_is() -> None:
    row = Row(1, {"id": "r", "task": "background", "image": "s3://tests/a.png"})
    (before,) = to_specs([row], "s3://tests/catalog.jsonl", None)
    assert [*Overrides(prompt="at dawn", seed=7).applied([before])] == [before]


def test_a_row_that_is_too_long_then_is_a_reject() -> None:
    (reject,) = Overrides(prompt="{prompt}" * 2).applied(specs("x" * 3000))
    assert isinstance(reject, Reject)
    assert reject.field == "prompt"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"decision": "approve", "prompt": "other"}, "'approve' with one"),
        ({"decision": "approve with changes"}, "'approve with changes' without one"),
        ({"decision": "approve with changes", "prompt": "{id}"}, "no braces but {prompt}"),
    ],
    ids=["approve-and-change", "no-change", "braces"],
)
def test_an_answer_that_contradicts_itself_is_reported(
    answer: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SettingsError, match=problem):
        Approval(**answer).changes()


@pytest.mark.parametrize("answer", [{"decision": "perhaps"}, {}], ids=["another", "none"])
def test_an_answer_has_one_of_three_decisions(answer: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Approval(**answer)


# ---------------------------------------------------------------- the run, as the UI answers it


@pytest.fixture
def worker(prefect_server: PrefectServer, weights_dir: Path, tmp_path: Path) -> Iterator[Service]:
    with serving(prefect_server, tmp_path / "worker.log") as worker:
        yield worker


class Runs:
    """Runs of edit-catalog with a canary, and what a person answers."""

    def __init__(self, store: Store, prefix: str, worker: Service, picture: Callable[..., bytes]):
        self.store = store
        self.worker = worker
        self.catalog = f"{prefix}/catalog.jsonl"
        rows = []
        for number in range(6):
            image = f"{prefix}/in/{number}.png"
            store.put(image, picture(seed=number), "image/png")
            row = {"id": f"r{number}", "image": image, "prompt": "p"}
            masked = {"task": "fill", "mask": {"box": [0, 0, 0.5, 0.5]}}
            rows.append(row | {"steps": 1} | (masked if number == 4 else {"task": "edit"}))
        text = "\n".join(map(json.dumps, rows))
        store.put(self.catalog, text.encode(), "text/plain")

    def start(self, output: str) -> UUID:
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name("edit-catalog/edit-catalog")
            parameters = {
                "catalog": self.catalog,
                "output": output,
                "variant": "toy",
                "review": {"canary": 3},
            }
            return client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id

    def wait(self, run: UUID, *states: str) -> FlowRun:
        with get_client(sync_client=True) as client:

            def met() -> FlowRun | None:
                found = client.read_flow_run(run)
                return found if found.state_name in states else None

            return wait_until(met, " or ".join(states), output=self.worker.log_tail, every_s=1)

    def answer(self, run: UUID, **fields: Any) -> None:
        with get_client(sync_client=True) as client:
            client.resume_flow_run(run, run_input=fields)

    def names(self, output: str, kind: str) -> set[str]:
        """Return the ids of rows that have pictures there."""
        found = (each.uri for each in self.store.list(join_uri(output, f"{kind}/")))
        return {uri.split(f"/{kind}/")[1].split("/")[0] for uri in found if uri.endswith(".png")}

    def prompts(self, output: str) -> set[str]:
        found = [each.uri for each in self.store.list(join_uri(output, "records/"))]
        records = [Record.model_validate_json(self.store.get(uri)) for uri in found]
        return {str(each.spec["prompt"]) for each in records}

    def asked(self, run: UUID) -> str:
        """Wait for the run to wait for a word; return the text of its form."""
        state = self.wait(run, "Suspended").state
        assert state is not None
        keys = state.state_details.run_input_keyset
        assert keys is not None
        with get_client(sync_client=True) as client:
            return client.read_flow_run_input(run, keys["description"])


@pytest.mark.thorough
def test_the_run_waits_until_it_is_approved(
    store: Store, prefix: str, worker: Service, picture: Callable[..., bytes]
) -> None:
    """`test_ui_approval` gives the other answers."""
    runs = Runs(store, prefix, worker, picture)
    output = f"{prefix}/out"
    run = runs.start(output)
    runs.wait(run, "Suspended")
    shown = runs.names(output, "review")
    assert len(shown) == 3
    assert "r4" in shown, "each task has its share"
    assert not runs.names(output, "images"), "nothing is published before the word"

    with get_client(sync_client=True) as client:
        for silence in (None, {}, {"prompt": "", "seed": -1}):
            assert client.resume_flow_run(run, run_input=silence).status.value == "REJECT"
        # As a retry, or an automation that changes a state, starts it: it asks again.
        client.set_flow_run_state(run, AwaitingRetry(), force=True)
    runs.wait(run, "Running", "Pending", "AwaitingRetry")
    assert "not accepted" not in runs.asked(run)
    assert not runs.names(output, "images")

    runs.answer(run, decision="approve", prompt="another")
    runs.wait(run, "Running", "Pending")
    assert "The last answer was not accepted: approval: accepted" in runs.asked(run)
    assert not runs.names(output, "images")
    assert runs.names(output, "review") == shown

    # Before its results are there, a review can say how they stand, and decide.
    state = review_run(output=output, run=str(run), discard="r4", return_state=True)
    assert state.message == "2 waiting, 1 discarded, of 3 rows held back"

    runs.answer(run, decision="approve")
    ended = runs.wait(run, "Completed", "Rejected", "FinishedWithFailures", "Failed", "Crashed")
    assert ended.state_name == "FinishedWithFailures", "one was discarded"
    assert runs.names(output, "images") == {f"r{number}" for number in range(6)} - {"r4"}
    assert runs.prompts(output) == {"p"}
    assert runs.names(output, "review") == set()
