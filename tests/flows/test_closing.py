"""Test the page that ends a run. If these break, a person does not find how to try failed rows
again, or the way it names fails."""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime
from typing import Any

from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings

from ace_tasks.runs.results import Summary
from ace_tasks.settings import ReviewSettings
from ace_tasks.specs import DEFAULT_PIXELS
from flows.retry_failed import retry_failed
from flows.review_run import review_run
from flows.ui.run_form import find_form
from flows.ui.summary import retry_parameters, review_parameters, text
from infra.services import HOST, free_ports
from tests.support.processes import ace_here


def summary(**more: Any) -> Summary:
    now = datetime.now(UTC)
    fields: dict[str, Any] = {
        "run_id": "r-1",
        "flow": "edit-catalog",
        "state": "FinishedWithFailures",
        "catalog": "s3://b/c.jsonl",
        "output": "s3://b/out of it",
        "variant": "toy",
        "pixels": DEFAULT_PIXELS,
        "review": ReviewSettings(),
        "started_at": now,
        "ended_at": now,
        "rows": 9,
        "done": 5,
        "done_before": 0,
        "failed": 3,
        "failed_before": 0,
        "rejected": 1,
        "shared": 0,
        "by_error": {"timeout": 1, "source_unavailable": 2, "bad_row": 1},
        "replicas": 2,
        "deaths": 1,
        "seconds": 300.0,
        "items_per_second": 0.03,
        "busy_share": 0.91,
        "results": "s3://b/r.csv",
        "failures": "s3://b/f.jsonl",
        "rejects": "s3://b/rejects.jsonl",
    }
    return Summary(**fields | more)


def test_the_hint_is_what_the_deployment_takes() -> None:
    page = text(summary(), "https://b/report", "http://ui/form")
    assert "[Contact sheet](https://b/report)" in page
    assert "[its form, filled in](http://ui/form)" in page
    given = json.loads(page.partition("```json\n")[2].partition("```")[0])
    assert given == retry_parameters(summary())
    properties = retry_failed.parameters.properties
    assert given.keys() <= properties.keys()
    assert set(retry_failed.parameters.required) <= given.keys()
    prefect, ours = re.findall(r"^\$ (.*)$", page, re.MULTILINE)
    assert shlex.split(prefect)[3:] == [
        "retry-failed/retry-failed",
        "-p",
        "output=s3://b/out of it",
        "-p",
        "failed_run=r-1",
    ]
    program, command, *arguments = shlex.split(ours)
    assert (program, arguments) == ("ace-catalog", ["s3://b/out of it", "r-1"])
    assert ace_here(command, "--help").returncode == 0


def test_held_pictures_have_a_form_of_their_own() -> None:
    page = text(summary(by_error={"needs_review": 3}), None, "http://ui/retry", "http://ui/review")
    assert "Held for a person: 3 rows." in page
    assert "`review-run` ([its form, filled in](http://ui/review))" in page
    assert set(review_parameters(summary())) == set(review_run.parameters.required)
    command = re.findall(r"^\$ (ace-catalog review .*)$", page, re.MULTILINE)
    assert [shlex.split(each)[2:] for each in command] == [["s3://b/out of it", "r-1"]]


def test_each_code_says_whether_the_same_command_tries_it_again() -> None:
    page = text(summary(), None, None)
    assert "| source\\_unavailable | 2 | tries it |" in page
    assert "| timeout | 1 | leaves it |" in page
    assert "1 invalid row." in page
    assert "Contact sheet" not in page


def test_a_clean_run_has_no_hint() -> None:
    page = text(
        summary(state="Completed", failed=0, rejected=0, by_error={}, failures=None, rejects=None),
        "https://b/report",
        None,
    )
    assert "retry" not in page
    assert "at most 2 replicas, busy 91% of their time; 1 died" in page
    assert "`memory`" not in page


def test_a_model_that_did_not_fit_its_device_is_told() -> None:
    page = text(summary(memory={"resident": 2, "blocks": 3}), None, None)
    assert "Pictures by `memory`: blocks 3, resident 2." in page
    assert "`memory`" not in text(summary(memory={"resident": 5}), None, None)


def test_a_form_is_linked_only_where_the_ui_and_its_api_are_known() -> None:
    (port,) = free_ports(1)  # nobody answers there
    away = {PREFECT_API_URL: f"http://{HOST}:{port}/api"}
    for ui_url in ("none", "javascript:alert(1)", "http://[ui.example", "http://ui.example"):
        with temporary_settings(away | {PREFECT_UI_URL: ui_url}):
            assert find_form("review-run/review-run") is None
