"""Test the forms in the UI and the options of the terminal. If these break, a person who writes no
code meets a JSON editor, or a field without a word; or a command takes other options than its flow.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from prefect.utilities.callables import parameter_schema

from ace_tasks.errors import SettingsError
from ace_tasks.evaluation.measure import MAX_EXAMPLES
from ace_tasks.specs import DEFAULT_PIXELS, PRESETS, PixelSettings, Shortcuts
from flows.cli import editing, training
from flows.edit_catalog import edit_catalog
from flows.options.groups import Options, check_names, groups_of, regrouped
from flows.options.masking import MaskOptions
from flows.options.models import MeasureOptions
from flows.options.pixels import CatalogPixels, PixelOptions, PresetName
from flows.options.run import RunOptions
from flows.restyle_catalog import restyle_catalog

ROOT = Path(__file__).resolve().parents[2]
ENTRYPOINTS = re.findall(r"entrypoint: (\S+)", (ROOT / "prefect.yaml").read_text())
PLAIN = {"string", "integer", "number", "boolean"}


def flow_of(entrypoint: str) -> Any:
    path, name = entrypoint.split(":")
    return getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)


def fields_of(flow: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every field that a form shows, those of groups included, as `prefect deploy` reads it."""
    schema = parameter_schema(flow)
    for name, field in schema.properties.items():
        if "$ref" in field:
            yield from schema.definitions[field["$ref"].rpartition("/")[2]]["properties"].items()
        else:
            yield name, field


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_a_form_has_plain_fields_with_a_text_each(entrypoint: str) -> None:
    fields = list(fields_of(flow_of(entrypoint)))
    assert fields
    for name, field in fields:
        assert field.get("type") in PLAIN, name
        assert len(field.get("description", "")) > 10, name
        assert not field.keys() & {"anyOf", "allOf", "oneOf", "$ref", "items"}, name


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_a_form_is_a_few_fields_and_a_few_boxes(entrypoint: str) -> None:
    """A name is in one place only: a flat name of an earlier version leads to its group."""
    flow = flow_of(entrypoint)
    groups = groups_of(flow.fn)
    assert len(groups) <= 5
    assert len(signature(flow.fn).parameters) - len(groups) <= 6
    names = [name for name, _ in fields_of(flow)]
    assert len(names) == len(set(names))
    assert not set(names) & groups.keys()
    for name, group in groups.items():
        assert signature(flow.fn).parameters[name].default == group()
        assert len(group.model_fields) <= 13
        assert len(group.__doc__ or "") > 10


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_few_fields_must_be_filled_in(entrypoint: str) -> None:
    assert len(flow_of(entrypoint).parameters.required) <= 5


def test_limits_are_in_the_form() -> None:
    fields = dict(fields_of(edit_catalog))
    assert (fields["feather"]["minimum"], fields["feather"]["maximum"]) == (0, 0.25)
    assert fields["geometry"]["enum"] == ["catalog", "reference"]


@pytest.mark.parametrize(
    ("command", "entrypoint"),
    [
        (editing.compare, "flows/compare.py:compare"),
        (editing.edit, "flows/edit_catalog.py:edit_catalog"),
        (editing.restyle, "flows/restyle_catalog.py:restyle_catalog"),
        (editing.try_on, "flows/try_on_batch.py:try_on_batch"),
        (editing.retry, "flows/retry_failed.py:retry_failed"),
        (editing.review, "flows/review_run.py:review_run"),
        (training.train, "flows/train_ace.py:train_ace"),
        (training.evaluate, "flows/evaluate.py:evaluate"),
    ],
    ids=["compare", "edit", "restyle", "try-on", "retry", "review", "train", "evaluate"],
)
def test_a_command_takes_what_its_flow_takes(command: Any, entrypoint: str) -> None:
    function = flow_of(entrypoint).fn
    taken, wanted = dict(signature(command).parameters), signature(function).parameters
    taken.pop("as_json", None)
    types = get_type_hints(command)
    assert {name: (types[name], each.default) for name, each in taken.items()} == {
        name: (get_type_hints(function)[name], each.default) for name, each in wanted.items()
    }


def test_choices_and_limits_are_those_of_the_code() -> None:
    assert get_args(PresetName) == ("none", *PRESETS)
    (limit,) = (
        each.le for each in MeasureOptions.model_fields["examples"].metadata if hasattr(each, "le")
    )
    assert limit == MAX_EXAMPLES


def test_none_is_no_setting() -> None:
    settings = CatalogPixels().settings(MaskOptions(auto_mask="none"))
    assert (settings.auto_mask, settings.preset, settings.quality) == (None, None, None)
    assert settings == PixelSettings()
    with pytest.raises(SettingsError, match="auto_mask: accepted with mask auto"):
        MaskOptions(auto_mask="none").check("mask", "auto")


# ---------------------------------------------------------------- names of earlier versions


def test_flat_names_of_earlier_versions_find_their_groups() -> None:
    flat = {
        "source": "s",
        "prompt": "p",
        "mask": "auto",
        "candidates": 4,
        "mask_grow": -9,
        "limit": 2,
        "max_failed": 3,
        "canary": 5,
        "quality": 80,
    }
    assert regrouped(restyle_catalog.fn, flat) == {
        "source": "s",
        "prompt": "p",
        "mask": "auto",
        "pixels": {"candidates": 4, "quality": 80},
        "masking": {"mask_grow": -9},
        "feed": {"limit": 2},
        "run": {"max_failed": 3},
        "review": {"canary": 5},
    }


def test_no_value_is_lost_where_a_name_is_unknown_or_given_twice() -> None:
    given = {"candidates": 4, "pixels": {"candidates": 2, "quality": 80}, "colour": "red"}
    assert regrouped(edit_catalog.fn, given) == given
    assert regrouped(edit_catalog.fn, {"pixels": {"quality": 80}, "candidates": 4}) == {
        "pixels": {"quality": 80, "candidates": 4}
    }


def test_a_flat_name_is_refused_with_the_form_that_is_accepted() -> None:
    with pytest.raises(SettingsError) as error:
        check_names(edit_catalog.fn, {"catalog": "c", "candidates": 4, "dry_run": True})
    assert str(error.value) == (
        "candidates, dry_run: these parameters are in groups now; accepted: "
        '{"pixels": {"candidates": 4}, "run": {"dry_run": true}}; given candidates=4, dry_run=true'
    )
    with pytest.raises(SettingsError, match=re.escape('{"pixels": {"candidates": 4}}')):
        edit_catalog(catalog="c", output="s3://b/out", variant="toy", candidates=4)


def test_a_group_is_frozen_and_knows_its_names() -> None:
    for group in (PixelOptions, MaskOptions):
        assert issubclass(group, Options)
        with pytest.raises(ValueError, match="Extra inputs are not permitted"):
            group.model_validate({"typo": 1})
        with pytest.raises(ValueError, match="frozen"):
            group().candidates = 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("asked", "device", "speed"),
    [
        ("auto", "cpu", "exact"),
        ("auto", "cuda", "compiled"),
        ("exact", "cuda", "exact"),
        ("compiled", "cpu", "compiled"),
        ("fast", "cpu", "fast"),
    ],
)
def test_a_gpu_is_compiled_for_unless_the_run_says_otherwise(
    asked: Any, device: Any, speed: str
) -> None:
    assert RunOptions(speed=asked).speed_on(device) == speed


def test_a_retry_that_names_no_speed_keeps_the_shortcuts_of_its_run() -> None:
    """Or the rows that failed in a fast run would come back as other items."""
    fast = RunOptions(speed="fast").settle(DEFAULT_PIXELS)
    assert fast.shortcuts == Shortcuts()
    assert RunOptions().settle(fast) == fast
    assert RunOptions().settle(DEFAULT_PIXELS) == DEFAULT_PIXELS
    assert RunOptions(speed="exact").settle(fast) == DEFAULT_PIXELS
