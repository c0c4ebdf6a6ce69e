"""Test the forms in the UI and the options of the terminal. If these break, a person who writes no
code meets a JSON editor, or a field without a word; or a command takes other options than its flow.
"""

from __future__ import annotations

import importlib
import re
from inspect import signature
from pathlib import Path
from typing import Any, get_args

import pytest

from ace_tasks.errors import SettingsError
from ace_tasks.specs import PRESETS, PixelSettings
from flows import options
from flows.cli import editing

ROOT = Path(__file__).resolve().parents[2]
ENTRYPOINTS = re.findall(r"entrypoint: (\S+)", (ROOT / "prefect.yaml").read_text())

# A run that is suspended comes back on a worker: one that a terminal started has none.
UI_ONLY = {"canary", "canary_wait_hours"}


def flow_of(entrypoint: str) -> Any:
    path, name = entrypoint.split(":")
    return getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_a_form_has_plain_fields_with_a_text_each(entrypoint: str) -> None:
    schema = flow_of(entrypoint).parameters
    assert schema.properties
    for name, field in schema.properties.items():
        assert field.get("type") in {"string", "integer", "number", "boolean"}, name
        assert len(field.get("description", "")) > 10, name
        assert not field.keys() & {"anyOf", "allOf", "oneOf", "$ref", "items"}, name


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_few_fields_must_be_filled_in(entrypoint: str) -> None:
    assert len(flow_of(entrypoint).parameters.required) <= 5


def test_limits_are_in_the_form() -> None:
    fields = flow_of("flows/edit_catalog.py:edit_catalog").parameters.properties
    assert (fields["feather"]["minimum"], fields["feather"]["maximum"]) == (0, 0.25)
    assert fields["geometry"]["enum"] == ["catalog", "reference"]


@pytest.mark.parametrize(
    ("command", "entrypoint"),
    [
        ("edit", "flows/edit_catalog.py:edit_catalog"),
        ("restyle", "flows/restyle_catalog.py:restyle_catalog"),
        ("try_on", "flows/try_on_batch.py:try_on_batch"),
        ("retry", "flows/retry_failed.py:retry_failed"),
        ("review", "flows/review_run.py:review_run"),
    ],
)
def test_a_command_takes_what_its_flow_takes(command: str, entrypoint: str) -> None:
    taken = dict(signature(getattr(editing, command)).parameters)
    taken.pop("as_json", None)
    wanted = signature(flow_of(entrypoint).fn).parameters
    assert {name: (each.annotation, each.default) for name, each in taken.items()} == {
        name: (each.annotation, each.default)
        for name, each in wanted.items()
        if name not in UI_ONLY
    }


def test_the_presets_of_the_form_are_those_there_are() -> None:
    choice, *_ = get_args(options.PresetName)
    assert get_args(choice) == ("none", *PRESETS)


def test_none_is_no_setting() -> None:
    plain: Any = ("catalog", 0.01, True, 1, "none", False, False, "none", 0)
    settings = options.pixel_settings(*plain)
    assert (settings.auto_mask, settings.preset, settings.quality) == (None, None, None)
    assert settings == PixelSettings()
    other: Any = ("catalog", 0.01, True, 1, "magic", False, False, "none", 0)
    with pytest.raises(SettingsError, match="auto_mask: accepted"):
        options.pixel_settings(*other)
