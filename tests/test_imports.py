"""Test what an import loads. If these break, a plan costs seconds of torch imports on a machine
without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes import run_python

ROOT = Path(__file__).resolve().parents[1]

MODELS = ("torch", "diffusers", "transformers")


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        pytest.param(
            ("ace_tasks",),
            (*MODELS, "ray", "prefect", "boto3", "pyarrow", "PIL", "numpy", "pydantic"),
            id="package",
        ),
        pytest.param(("ace_tasks.replica.editor",), ("ray", "prefect", "pyarrow"), id="editor"),
        pytest.param(
            ("ace_tasks.specs",),
            ("torch", "ray", "prefect", "boto3", "pyarrow", "PIL"),
            id="specs",
        ),
        pytest.param(("ace_tasks.engine.dispatcher",), (*MODELS, "prefect"), id="engine"),
        pytest.param(
            ("flows.compare", "flows.edit_catalog", "flows.restyle_catalog", "flows.try_on_batch"),
            MODELS,
            id="flows",
        ),
        pytest.param(("flows.cli",), (*MODELS, "ray"), id="terminal"),
    ],
)
def test_a_clean_interpreter_loads_no_more_than_it_needs(
    modules: tuple[str, ...], absent: tuple[str, ...]
) -> None:
    code = f"import sys, {', '.join(modules)}; print(*[m for m in {absent} if m in sys.modules])"
    assert run_python("-c", code).stdout.split() == []


def test_there_is_no_room_of_leftovers() -> None:
    names = {path.stem for part in ("ace_tasks", "flows") for path in (ROOT / part).rglob("*.py")}
    assert not names & {"utils", "common", "base", "helpers", "misc", "registry"}
