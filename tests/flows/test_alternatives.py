"""Test what a person writes for a comparison, and the command that chooses an alternative. If these
break, a mistyped alternative is paid for, or the whole run makes other pictures than were shown."""

from __future__ import annotations

from collections import Counter
from inspect import signature
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ace_tasks.errors import SettingsError
from ace_tasks.plan.item_ids import ItemIds
from ace_tasks.plan.outline import Outline
from ace_tasks.specs import Sources, parse_spec, work_item
from ace_tasks.specs.run_settings import AUTO_METHODS
from flows.cli import app
from flows.options.comparison import Alternative, ComparisonOptions
from flows.options.masking import RowMasks
from flows.options.pixels import CatalogPixels, RestylePixels
from flows.options.run import RunOptions
from flows.restyle_catalog import restyle_catalog
from flows.steps.comparison import whole_runs
from flows.steps.stratified import stratified
from flows.steps.whole_run import RestyleRun, catalog_run
from tests.support.replicas import MODEL

BASE = RestyleRun(source="s3://b/in", output="s3://b/out", variant="toy", prompt="as it is")

texts = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1)
prompts = texts.map(str.strip).filter(lambda text: text and "=" not in text)
alternatives = st.builds(
    Alternative,
    name=st.text("aZ7öß漢_.-", max_size=20).map(lambda more: f"é{more}"),
    prompt=st.none() | prompts,
    variant=st.none() | st.sampled_from(["mini", "toy", "s3://b/v"]),
    steps=st.none() | st.integers(1, 200),
    speed=st.none() | st.sampled_from(["auto", "exact", "compiled", "fast"]),
    auto_mask=st.none() | st.sampled_from(AUTO_METHODS),
    seed=st.none() | st.integers(0, 2**32 - 1),
)


def alternative(text: str) -> Alternative:
    return Alternative.parse("first", text)


# ---------------------------------------------------------------- what a person writes


def test_the_first_value_without_a_key_is_the_prompt() -> None:
    expected = Alternative(name="oak", prompt="on oak; with a plant, at dawn: soft", steps=8)
    assert alternative(" oak : on oak; with a plant, at dawn: soft ; steps = 8") == expected
    assert alternative("oak") == Alternative(name="oak")
    assert alternative("oak: on oak,\n\tat dawn").prompt == "on oak,\n\tat dawn"
    assert alternative("oak:").text == "as given"
    assert alternative("größer: on oak") == Alternative(name="größer", prompt="on oak")
    assert alternative("tea: prompt=E=mc2 on a cup").prompt == "E=mc2 on a cup"


@given(alternatives)
def test_an_alternative_is_read_as_it_is_written(each: Alternative) -> None:
    written = each.text if each.text != "as given" else ""
    assert alternative(f"{each.name}: {written}") == each


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (": on oak", "a NAME of 1 to 40 letters"),
        (f"{'a' * 41}: x", "a NAME of 1 to 40 letters"),
        ("on oak", "or one word as a NAME; given 'on oak', without a colon; write 'name: on oak'"),
        ("steps=8", "without a colon; write 'name: steps=8'"),
        ("tea: E=mc2 on a cup", "if it is a prompt, write 'prompt=E=mc2 on a cup'"),
        ("tea: on oak; iso=100", "use a comma in place of the semicolon"),
        ("oak: stepz=8", "accepted: the keys prompt, variant, steps, speed, auto_mask, seed"),
        ("oak: name=x", "accepted: the keys prompt"),
        ("oak: on oak; prompt=on pine", "a value once for each of"),
        ("oak: steps=", "a value once for each of"),
        ("oak: steps=many", "first: steps: .*given 'many'"),
        ("oak: steps=201", "less than or equal to 200"),
        ("oak: seed=-1", "greater than or equal to 0"),
        ("oak: speed=slow", "'auto', 'exact', 'compiled' or 'fast'"),
        ("oak: auto_mask=magic", "'u2net'"),
        ("oak: on\0 oak", "without control characters; given 'oak: on.*x00 oak'"),
        ("oak: on \x1b[2J oak", "without control characters"),
        ("oak: on \x9b2J oak", "without control characters"),
    ],
    ids=[
        "no-name", "long-name", "no-colon", "no-name-but-key", "equation", "later-key", "key", "name-as-key", "twice", "empty", "word", "many", "negative",
        "speed", "mask", "nul", "escape", "c1",
    ],
)  # fmt: skip
def test_a_mistake_is_refused_with_what_is_accepted(text: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        alternative(text)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "accepted: 2 to 6; given 0"),
        ({"third": "oak: on oak"}, "accepted: 2 to 6; given 1"),
        ({"first": "oak: a", "sixth": "Oak: b"}, "sixth: accepted: a name of its own; given 'Oak'"),
    ],
    ids=["none", "one", "same-name"],
)
def test_there_are_two_to_six_of_different_names(given: dict[str, str], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        ComparisonOptions(**given).alternatives()


@pytest.mark.parametrize("given", [{"seventh": "oak: a"}, {"rows": 0}, {"rows": 51}], ids=str)
def test_a_seventh_or_an_empty_sample_is_no_option(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        ComparisonOptions.model_validate(given)


@given(st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=1, max_size=60), st.integers(1, 20))
def test_a_sample_has_its_share_of_every_task(tasks: list[int], count: int) -> None:
    rows = len(tasks)
    outline = Outline(
        ItemIds(), np.arange(rows), np.zeros(rows, bool), np.array(tasks), ("edit", "fill", "x")
    )
    positions = np.arange(rows)[::2]
    chosen = stratified(outline, positions, count)
    assert chosen <= set(positions.tolist())
    assert len(chosen) == min(count, len(positions))
    there = Counter(tasks[::2])
    shares = Counter(tasks[each] for each in chosen)
    for task, of_task in there.items():
        assert shares[task] >= min(of_task, count // len(there))
    assert stratified(outline, positions, count) == chosen


# ---------------------------------------------------------------- the whole run


@given(
    alternatives,
    st.builds(RestylePixels, seed=st.integers(-1, 9), quality=st.integers(0, 100)),
    st.builds(RowMasks, mask_grow=st.integers(-9, 9), crop_to_mask=st.booleans()),
    st.builds(RunOptions, dry_run=st.booleans(), max_cost=st.floats(0, 9), strict=st.booleans()),
)
def test_the_command_is_the_whole_run(
    each: Alternative, pixels: RestylePixels, masking: RowMasks, run: RunOptions
) -> None:
    base = BASE.model_copy(update={"pixels": pixels, "masking": masking, "run": run})
    whole = base.changed(each)
    program, *arguments = whole.command_words()
    assert program == "ace-catalog"
    _, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    bound.apply_defaults()
    taken = bound.arguments
    taken.pop("as_json")
    assert {**taken} == {name: getattr(whole, name) for name in taken}
    assert taken.keys() == signature(restyle_catalog.fn).parameters.keys()
    assert RestyleRun.model_validate(whole.parameters()) == whole
    # The limits of the comparison, and its dry run, are its own.
    assert (whole.run.dry_run, whole.run.max_cost, whole.run.strict) == (False, 0, run.strict)


@given(alternatives, st.integers(0, 9), st.integers(-1, 9))
def test_a_row_of_an_alternative_is_the_row_of_the_whole_run(
    each: Alternative, steps: int, seed: int
) -> None:
    """Whichever alternative the sample was planned by."""
    pixels = RestylePixels(steps=steps, seed=seed)
    base = BASE.model_copy(update={"pixels": pixels})
    whole = base.changed(each)
    assert isinstance(whole, RestyleRun)
    by_first = base.changed(Alternative(name="first", prompt="x", steps=7, seed=3))
    rows = {}
    for run in (by_first, whole):
        assert isinstance(run, RestyleRun)
        cells = {"id": "r", "task": "edit", "image": "s3://b/in/1.png", "prompt": run.prompt}
        rows[run] = cells | run.instruction.defaults.cells(masked=False)
    item = work_item(1, parse_spec(rows[by_first]), Sources(), MODEL)
    assert parse_spec(whole.row(item)) == parse_spec(rows[whole])


def test_a_catalog_varies_by_what_its_rows_do_not_say() -> None:
    given = BASE.model_copy(update={"prompt": "", "pixels": RestylePixels(quality=80)})
    whole = catalog_run(given)
    assert whole.pixels == CatalogPixels(quality=80)
    changed = whole.changed(alternative("sharp: variant=mini; speed=fast; auto_mask=border"))
    assert changed.command_line() == (
        "ace-catalog edit s3://b/in s3://b/out --variant mini --auto-mask border --speed fast "
        "--quality 80"
    )
    for key in ("prompt=x", "steps=2", "seed=1"):
        with pytest.raises(SettingsError, match="the rows of a catalog have their own"):
            whole.changed(alternative(f"x: {key}"))


@pytest.mark.parametrize(
    "update",
    [
        {"prompt": "x"},
        {"mask": "auto"},
        {"pixels": RestylePixels(steps=2)},
        {"masking": RowMasks(mask_invert=True)},
    ],
    ids=["prompt", "mask", "steps", "mask-invert"],
)
def test_what_only_a_restyle_has_is_refused_for_a_catalog(update: dict[str, Any]) -> None:
    given = BASE.model_copy(update={"prompt": ""} | update)
    with pytest.raises(SettingsError, match="accepted with whole_run restyle"):
        catalog_run(given)


def test_an_alternative_that_can_make_no_picture_is_named() -> None:
    base = BASE.model_copy(update={"prompt": ""})
    named = {"first": alternative("oak: on oak"), "second": alternative("bare: steps=2")}
    with pytest.raises(SettingsError, match=r"second \(bare\): prompt: accepted: what to do"):
        whole_runs(base, named)
