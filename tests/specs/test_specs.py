"""Test specs and the identity of items. If these break, a wrong row reaches a GPU, a rerun of a
finished catalog pays for everything again, or a changed request is answered with an old picture."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import jsonschema  # Prefect and Ray bring it
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from ace_tasks.errors import BadRow, SettingsError
from ace_tasks.specs import (
    MAX_SEED,
    PIXELS_VERSION,
    PRESETS,
    TASKS,
    AutoMask,
    MaskSteps,
    ModelIdentity,
    PasteSettings,
    PixelSettings,
    Resolved,
    Shortcuts,
    Source,
    Sources,
    WorkItem,
    candidate_seeds,
    canonical_json,
    earlier_item_ids,
    identity,
    item_id,
    parse_spec,
    resolve,
    row_schema,
    work_item,
)
from infra.sample.make import ROWS as SAMPLE

COMMON = {"id", "task", "format", "quality", "preset"}
OF_A_MODEL = {"prompt", "seed", "steps", "guidance", "adapter", "candidates"}
MASK_STEPS = {"mask_label", "mask_grow", "mask_blur", "mask_invert"}
# task → (columns it must have, columns it may have), COMMON and OF_A_MODEL aside
COLUMNS: dict[str, tuple[set[str], set[str]]] = {
    "fill": ({"image", "mask"}, MASK_STEPS),
    "edit": ({"image"}, {"mask", "control"} | MASK_STEPS),
    "reference": ({"reference"}, {"width", "height"}),
    "try_on": ({"image", "mask", "reference"}, MASK_STEPS),
    "background": ({"image"}, {"background", "shadow"}),
}


def needed(task: str) -> set[str]:
    return {"id", "task"} | COLUMNS[task][0] | (set() if task == "background" else {"prompt"})


FILL: dict[str, Any] = {
    "id": "f",
    "task": "fill",
    "image": "s3://b/i.png",
    "mask": "s3://b/m.png",
    "prompt": "p",
}
EDIT: dict[str, Any] = {"id": "e", "task": "edit", "image": "s3://b/i.png", "prompt": "p"}
REFERENCE = {"id": "r", "task": "reference", "reference": "s3://b/r.png", "prompt": "p"}
TRY_ON = FILL | {"id": "t", "task": "try_on", "reference": "s3://b/r.png"}
BACKGROUND = {"id": "b", "task": "background", "image": "s3://b/i.png"}
EXAMPLES = {
    "fill": FILL,
    "edit": EDIT,
    "reference": REFERENCE,
    "try_on": TRY_ON,
    "background": BACKGROUND,
}
ANY_COLUMN: dict[str, Any] = {
    "image": "s3://b/i.png",
    "mask": "alpha",
    "reference": "s3://b/r.png",
    "width": 512,
    "height": 512,
    "control": "canny",
    "mask_label": "shirt",
    "mask_grow": -3,
    "mask_blur": 1.5,
    "mask_invert": True,
    "background": "#102030",
    "shadow": True,
}
LORA = ModelIdentity(
    variant="flux-fill-lora",
    route="lora",
    base="base-1",
    encoders="encoders-1",
    adapters={"local_editing": "local-1", "subject": "subject-1"},
    steps=28,
    guidance=50,
    max_seq_len=4096,
    width_px=1024,
    height_px=768,
    dtype="bfloat16",
)
FFT = LORA.model_copy(
    update={"variant": "ace-fft", "route": "fft", "adapters": {}, "keep_pixels_rate": 0.8}
)


def sources_of(row: dict[str, Any]) -> Sources:
    """Return sources with an identity each, as if the store had been asked."""

    def source(uri: str) -> Source:
        return Source(uri=uri, etag=f"etag of {uri}", size_bytes=len(uri))

    spec = parse_spec(row)
    mask = getattr(spec, "mask", None)
    return Sources(
        image=source(spec.image) if hasattr(spec, "image") else None,
        mask=source(mask) if isinstance(mask, str) and mask not in {"alpha", "auto"} else None,
        reference=tuple(source(each) for each in getattr(spec, "reference", ())),
    )


def item(row: dict[str, Any], model: ModelIdentity = LORA, line: int = 1) -> WorkItem:
    return work_item(line, parse_spec(row), sources_of(row), model)


# ---------------------------------------------------------------- columns


@pytest.mark.parametrize("task", TASKS)
def test_each_task_takes_its_columns_and_no_others(task: str) -> None:
    must, may = COLUMNS[task]
    fields = TASKS[task].model_fields
    model = set() if task == "background" else OF_A_MODEL
    assert fields.keys() == COMMON | model | must | may
    required = {name for name, field in fields.items() if field.is_required()}
    assert required == needed(task)
    for column in ANY_COLUMN.keys() - must - may:
        with pytest.raises(BadRow, match=f"not a column of task '{task}'") as caught:
            parse_spec(EXAMPLES[task] | {column: ANY_COLUMN[column]})
        assert caught.value.field == column
    for column in may:
        assert getattr(parse_spec(EXAMPLES[task] | {column: ANY_COLUMN[column]}), column)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("empty", [None, "", "left out"])
def test_a_missing_column_is_named(task: str, empty: str | None) -> None:
    for column in needed(task) - {"task"}:
        row: dict[str, Any] = EXAMPLES[task] | {column: empty}
        if empty == "left out":
            del row[column]
        with pytest.raises(BadRow, match="missing; task") as caught:
            parse_spec(row)
        assert caught.value.field == column


@pytest.mark.parametrize("task", TASKS)
def test_a_spec_is_frozen_closed_and_described(task: str) -> None:
    spec = parse_spec(EXAMPLES[task])
    for name, field in type(spec).model_fields.items():
        assert field.description, name
        with pytest.raises(ValidationError, match="frozen"):
            setattr(spec, name, getattr(spec, name))
    with pytest.raises(ValidationError, match="not permitted"):
        type(spec).model_validate(EXAMPLES[task] | {"colour": "red"})


WRONG: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    # name: (row, the column at fault, what its message must say)
    "no task": (FILL | {"task": None}, "task", ["missing", "fill, edit, reference, try_on"]),
    "unknown task": (FILL | {"task": "paint"}, "task", ["fill, edit, reference", "'paint'"]),
    "list as task": (FILL | {"task": ["fill"]}, "task", ["accepted", "['fill']"]),
    "unknown column": (FILL | {"promt": "p"}, "promt", ["unknown column", "prompt"]),
    "id with a slash": (FILL | {"id": "a/b"}, "id", ["[A-Za-z0-9._-]{1,128}", "'a/b'"]),
    "id of a dot": (FILL | {"id": "."}, "id", ["'.'"]),
    "id of two dots": (FILL | {"id": ".."}, "id", ["'..'", "given '..'"]),
    "id too long": (FILL | {"id": "i" * 129}, "id", ["{1,128}", "iii…"]),
    "id ends a line": (FILL | {"id": "a\n"}, "id", ["'a\\n'"]),
    "id that is no text": (FILL | {"id": 1.5}, "id", ["string", "1.5"]),
    "prompt too long": (FILL | {"prompt": "p" * 4001}, "prompt", ["4000", "ppp…"]),
    "prompt is a list": (FILL | {"prompt": ["p"]}, "prompt", ["string", "['p']"]),
    "http source": (FILL | {"image": "http://h/i"}, "image", ["s3://bucket/key", "'http'"]),
    "file source": (FILL | {"image": "file:///i"}, "image", ["local path", "'file'"]),
    "no key": (FILL | {"image": "s3://b"}, "image", ["s3://bucket/key", "'s3://b'"]),
    "no bucket": (FILL | {"image": "s3:///i"}, "image", ["s3://bucket/key", "'s3:///i'"]),
    "no such bucket name": (FILL | {"image": "s3://a b/i"}, "image", ["letters", "'a b'"]),
    "key climbs": (FILL | {"image": "s3://b/../i"}, "image", ["'..'", "s3://b/../i"]),
    "key too long": (FILL | {"image": "s3://b/" + "é" * 513}, "image", ["1024 bytes", "ééé…"]),
    "zero byte": (FILL | {"image": "a\0b"}, "image", ["control characters", "'a\\x00b'"]),
    "unknown mask": (FILL | {"mask": {"circle": 1}}, "mask", ['"polygon"', "{'circle': 1}"]),
    "two shapes": (FILL | {"mask": {"box": 1, "ellipse": 2}}, "mask", ['"box"', "'ellipse': 2"]),
    "short box": (FILL | {"mask": {"box": [0, 0, 1]}}, "mask", ["given", "[0, 0, 1]"]),
    "inverted box": (FILL | {"mask": {"box": [9, 0, 1, 1]}}, "mask", ["left < right", "[9.0, "]),
    "outside box": (FILL | {"mask": {"box": [-1, 0, 1, 1]}}, "mask", ["0 <= left", "[-1.0, "]),
    "flat ellipse": (FILL | {"mask": {"ellipse": [0, 1, 1, 1]}}, "mask", ["top < bottom", "1.0]"]),
    "two corners": (FILL | {"mask": {"polygon": [[0, 0], [1, 1]]}}, "mask", ["at least 3", "[[0"]),
    "corner outside": (
        FILL | {"mask": {"polygon": [[-1, 0], [1, 1], [0, 1]]}},
        "mask",
        ["negative", "-1"],
    ),
    "NaN corner": (FILL | {"mask": '{"box": [NaN, 0, 1, 1]}'}, "mask", ["finite", "nan"]),
    "endless corner": (FILL | {"mask": {"box": [0, 0, 1, float("inf")]}}, "mask", ["finite"]),
    "broken cell": (FILL | {"mask": '{"box": [0, 0'}, "mask", ["looks like JSON", '\'{"box"']),
    "key twice in a cell": (
        FILL | {"mask": '{"box": [0, 0, 1, 1], "box": [0, 0, 2, 2]}'},
        "mask",
        ["looks like JSON", "key 'box' appears twice"],
    ),
    "deep cell": (FILL | {"mask": "[" * 100_000}, "mask", ["looks like JSON", "[[["]),
    "deep value": (FILL | {"mask": [[[[[[[[1]]]]]]]]}, "mask", ['"box"', "[[[["]),
    "no references": (REFERENCE | {"reference": []}, "reference", ["at least 1", "[]"]),
    "nine references": (REFERENCE | {"reference": ["a"] * 9}, "reference", ["at most 8", "['a'"]),
    "number as reference": (REFERENCE | {"reference": ["a", 5]}, "reference", ["string", "5"]),
    "seed below": (FILL | {"seed": -1}, "seed", ["or equal to 0", "-1"]),
    "seed above": (FILL | {"seed": MAX_SEED + 1}, "seed", [str(MAX_SEED), str(MAX_SEED + 1)]),
    "huge seed": (FILL | {"seed": 10**4000}, "seed", [str(MAX_SEED), "000…"]),
    "seed of truth": (FILL | {"seed": True}, "seed", ["number", "True"]),
    "steps in words": (FILL | {"steps": "many"}, "steps", ["integer", "'many'"]),
    "half a step": (FILL | {"steps": 2.5}, "steps", ["integer", "2.5"]),
    "no steps": (FILL | {"steps": 0}, "steps", ["or equal to 1", "given 0"]),
    "no guidance": (FILL | {"guidance": "nan"}, "guidance", ["finite", "'nan'"]),
    "strong guidance": (FILL | {"guidance": 101}, "guidance", ["100", "101"]),
    "odd adapter": (FILL | {"adapter": "My Style"}, "adapter", ["[a-z0-9_]", "'My Style'"]),
    "unknown format": (FILL | {"format": "gif"}, "format", ["'avif'", "'gif'"]),
    "unknown control": (EDIT | {"control": "sketch"}, "control", ["'canny'", "'sketch'"]),
    "narrow": (REFERENCE | {"width": 63}, "width", ["64", "63"]),
    "width on a fill": (FILL | {"width": 512}, "width", ["not a column of task 'fill'", "mask"]),
    "many candidates": (FILL | {"candidates": 17}, "candidates", ["16", "17"]),
}


@pytest.mark.parametrize(("row", "column", "phrases"), WRONG.values(), ids=WRONG)
def test_a_wrong_row_says_column_accepted_and_given(
    row: dict[str, Any], column: str, phrases: list[str]
) -> None:
    with pytest.raises(BadRow) as caught:
        parse_spec(row)
    message = str(caught.value)
    assert caught.value.field == column
    assert [phrase for phrase in phrases if phrase not in message] == [], message
    assert len(message) < 400
    assert "\n" not in message


MASKS: dict[str, Any] = {
    "object": "s3://b/m.png",
    "file": "masks/m.png",
    "alpha": "alpha",
    "auto": "auto",
    "box": {"box": [0, 0, 10, 20]},
    "ellipse": {"ellipse": [0.1, 0.1, 0.9, 0.9]},
    "polygon": {"polygon": [[0, 0], [1, 0], [1, 1]]},
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_every_kind_of_mask_is_taken(mask: Any) -> None:
    given = parse_spec(FILL | {"mask": mask})
    assert (
        parse_spec(given.model_dump()) == given == parse_spec(json.loads(given.model_dump_json()))
    )
    if isinstance(mask, dict):
        assert parse_spec(FILL | {"mask": json.dumps(mask)}) == given


# ---------------------------------------------------------------- the published schema


def test_the_published_schema_is_the_one_of_the_code() -> None:
    """Editors and validators check rows by the published one; `ace-catalog schema` writes it."""
    text = files("ace_tasks").joinpath("catalog-row.schema.json").read_text(encoding="utf-8")
    assert json.loads(text) == row_schema()


def test_the_published_schema_takes_what_the_parser_takes() -> None:
    validator = jsonschema.Draft202012Validator(row_schema())
    masks = ["alpha", {"box": [0, 0, 1, 1]}, None]
    good = [*SAMPLE, *EXAMPLES.values(), *(EDIT | {"mask": mask} for mask in masks)]
    for row in good:
        parse_spec(row)
        assert [error.message for error in validator.iter_errors(row)] == []


# Rules that JSON Schema cannot say.
BEYOND_SCHEMA = {
    *("id of a dot", "id of two dots", "id ends a line", "http source", "file source", "no key"),
    *("no bucket", "no such bucket name", "key climbs", "key too long", "zero byte"),
    *("inverted box", "outside box", "flat ellipse", "corner outside", "endless corner"),
    # A text of JSON is for tables; in JSON it reads as the path of a mask.
    *("NaN corner", "broken cell", "key twice in a cell"),
}


def test_the_published_schema_refuses_what_the_parser_refuses() -> None:
    validator = jsonschema.Draft202012Validator(row_schema())
    refused = {name for name, (row, _, _) in WRONG.items() if not validator.is_valid(row)}
    assert WRONG.keys() - BEYOND_SCHEMA - refused == set()


# ---------------------------------------------------------------- identity

# One request as JSONL, CSV and Parquet bring it.
SAME: dict[str, list[dict[str, Any]]] = {
    "numbers": [
        REFERENCE | {"id": "7", "seed": 7, "steps": 4, "guidance": 30, "width": 512},
        REFERENCE | {"id": "7", "seed": "7", "steps": "4", "guidance": "30", "width": "512"},
        REFERENCE | {"id": 7, "seed": 7.0, "steps": 4, "guidance": 30.0, "width": 512.0},
    ],
    "empty cells": [
        EDIT,
        EDIT | {"mask": "", "seed": "", "control": "", "width": "", "reference": ""},
        EDIT | {"mask": None, "seed": None, "control": None, "width": None, "reference": None},
    ],
    "a shape": [
        FILL | {"mask": {"box": [0, 0, 10, 20.5]}},
        FILL | {"mask": '{"box": [0, 0, 10, 20.5]}'},
        FILL | {"mask": {"box": [0.0, 0.0, 10.0, 20.5], "ellipse": None, "polygon": None}},
    ],
    "references": [
        REFERENCE | {"reference": ["s3://b/1", "s3://b/2"]},
        REFERENCE | {"reference": '["s3://b/1", "s3://b/2"]'},
        REFERENCE | {"reference": ("s3://b/1", "s3://b/2")},
    ],
    "one reference": [
        REFERENCE | {"reference": ["s3://b/1"]},
        REFERENCE | {"reference": '["s3://b/1"]'},
        REFERENCE | {"reference": "s3://b/1"},
    ],
}


@pytest.mark.parametrize("rows", SAME.values(), ids=SAME)
def test_json_csv_and_parquet_mean_the_same(rows: list[dict[str, Any]]) -> None:
    first, *others = (parse_spec(row) for row in rows)
    assert [first] * len(others) == others
    assert len({item(row).item_id for row in rows}) == 1


def test_an_item_is_the_same_whatever_its_row_line_and_column_order() -> None:
    expected = item(TRY_ON).item_id
    assert len(expected) == 64
    assert item(TRY_ON | {"id": "other"}, line=99).item_id == expected
    assert item(dict(reversed(TRY_ON.items()))).item_id == expected


@pytest.mark.parametrize(
    ("row", "spelled_out"),
    [
        (FILL, {"steps": 28, "guidance": 50, "adapter": "local_editing", "candidates": 1}),
        (EDIT, {"control": "none"}),
        (REFERENCE, {"width": 1024, "height": 768, "format": "png", "adapter": "subject"}),
    ],
    ids=["fill", "edit", "reference"],
)
def test_a_default_written_out_is_the_same_item(
    row: dict[str, Any], spelled_out: dict[str, Any]
) -> None:
    assert item(row | spelled_out).item_id == item(row).item_id


@pytest.mark.parametrize(
    ("method", "label", "column", "message"),
    [
        (None, None, "mask", "the run names none"),
        ("u2net", "shirt", "mask_label", "makes them by u2net; given 'shirt'"),
        ("border", "shirt", "mask_label", "makes them by border; given 'shirt'"),
        ("grabcut", "shirt", "mask_label", "makes them by grabcut"),
    ],
)
def test_a_mask_that_the_run_cannot_make_is_refused(
    method: Any, label: str | None, column: str, message: str
) -> None:
    """A label that GrabCut cannot follow must not be taken for followed."""
    pixels = PixelSettings(auto_mask=AutoMask(method=method) if method else None)
    row = FILL | {"mask": "auto", "mask_label": label}
    with pytest.raises(BadRow, match=message) as caught:
        resolve(parse_spec(row), sources_of(row), LORA, pixels)
    assert caught.value.field == column


def test_an_auto_mask_is_resolved_to_the_runs_way() -> None:
    row = FILL | {"mask": "auto"}
    pixels = PixelSettings(auto_mask=AutoMask(method="model", model="0" * 64))
    labelled = resolve(parse_spec(row | {"mask_label": "shirt"}), sources_of(row), LORA, pixels)
    assert labelled.auto_mask == pixels.auto_mask
    assert labelled.mask_steps == MaskSteps(label="shirt")
    assert resolve(parse_spec(FILL), sources_of(FILL), LORA, pixels).auto_mask is None


@pytest.mark.parametrize("name", ["u2net", "grabcut", "border", "person-top"])
def test_the_way_is_named_by_a_runs_parameter(name: str) -> None:
    assert AutoMask.named(name) == AutoMask.model_validate({"method": name})
    assert AutoMask.named("") is None
    with pytest.raises(
        SettingsError, match=r"auto_mask: accepted: u2net, grabcut, border, .*; given 'magic'"
    ):
        AutoMask.named("magic")


CUT_OUT = PixelSettings(auto_mask=AutoMask(method="u2net", model="0" * 64))


def on_background(pixels: PixelSettings = CUT_OUT, model: Any = None, **row: Any) -> Any:
    row = {"id": "a", "task": "background", "image": "s3://b/a.jpg"} | row
    return work_item(1, parse_spec(row), sources_of(row), model or LORA, pixels)


def test_a_background_is_a_colour_the_runs_or_white() -> None:
    assert on_background().resolved.background == (255, 255, 255)
    assert on_background(background="#0aF010").resolved.background == (10, 240, 16)
    run = CUT_OUT.model_copy(update={"background": "#102030"})
    assert on_background(run).resolved.background == (16, 32, 48)
    assert on_background(run, background="white").resolved.background == (255, 255, 255)
    transparent = on_background(background="transparent").resolved
    assert (transparent.background, transparent.format) == ("transparent", "png")
    assert on_background(background="transparent", format="webp").resolved.format == "webp"
    assert on_background().resolved.format == "source"


def test_a_preset_on_a_background_has_its_colour() -> None:
    preset = on_background(background="#102030", preset="packshot-2000").resolved.preset
    assert preset.background == (16, 32, 48)
    assert preset.width_px == 2000


def test_on_a_background_no_model_is_part_of_the_item() -> None:
    """Or an upgrade of weights that are never asked would cut a whole catalog out again."""
    upgraded = LORA.model_copy(update={"base": "base-2", "encoders": "encoders-2"})
    assert on_background(model=LORA).item_id == on_background(model=upgraded).item_id
    other = CUT_OUT.model_copy(update={"auto_mask": AutoMask(method="u2net", model="1" * 64)})
    ids = {
        on_background(other).item_id,
        *(on_background(background=each).item_id for each in ("white", "#fffffe", "transparent")),
        on_background(shadow=True).item_id,
        on_background(image="s3://b/b.jpg").item_id,
    }
    assert len(ids) == 6
    assert on_background(shadow=False).item_id == on_background().item_id


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        pytest.param({"background": "blue"}, "background", "pattern", id="name"),
        pytest.param({"background": "#12345"}, "background", "pattern", id="digits"),
        pytest.param({"prompt": "x"}, "prompt", "not a column of task 'background'", id="prompt"),
        pytest.param(
            {"background": "transparent", "format": "jpeg"}, "format", "given 'jpeg'", id="jpeg"
        ),
        pytest.param(
            {"background": "transparent", "preset": "white-1000"}, "preset", "none", id="preset"
        ),
    ],
)
def test_a_background_that_cannot_be_had_is_refused(
    row: dict[str, Any], column: str, message: str
) -> None:
    with pytest.raises(BadRow, match=message) as caught:
        on_background(**row)
    assert caught.value.field == column


def test_a_background_needs_a_way_to_cut_out() -> None:
    with pytest.raises(BadRow, match="the run names none"):
        on_background(PixelSettings())


def test_the_id_of_one_request_is_pinned() -> None:
    """If it moves without PIXELS_VERSION, every catalog ever edited is edited again."""
    assert item(FILL).item_id == "90ecb2648b8eeaf1f7e9da10b75d7a6804e510297ee4f5d67b3887b76e92dcb2"
    (under_4,) = earlier_item_ids(item(FILL), LORA)
    assert under_4 == "d8d850a4bf7fd9fe4fd3bb1c9d65ea00474e9c18340528bdb30aa9f6730ef0aa"


def test_a_fast_item_is_another_one_from_the_same_noise() -> None:
    """Or a fast picture would be taken for the exact one, and could not be compared with it."""
    exact = item(FILL)
    fast, other = (
        work_item(1, exact.spec, exact.sources, LORA, PixelSettings(shortcuts=each))
        for each in (Shortcuts(), Shortcuts(interval=2))
    )
    assert len({exact.item_id, fast.item_id, other.item_id}) == 3
    assert exact.resolved.seed == fast.resolved.seed == other.resolved.seed
    assert (exact.resolved.computed_steps, fast.resolved.computed_steps) == (None, 12)


def test_a_background_has_nothing_to_leave_out() -> None:
    run = CUT_OUT.model_copy(update={"shortcuts": Shortcuts()})
    assert on_background(run).item_id == on_background().item_id


OTHER: dict[str, Any] = {  # every setting of `Resolved`, and another value for it
    "task": "edit",
    "prompt": "another",
    "mask": "alpha",
    "control": "gray",
    "repainting_scale": 0.25,
    "keep_pixels_rate": 0.7,
    "geometry": "other",
    "paste": PasteSettings(feather=0.02),
    "width": 640,
    "height": 640,
    "sampler": "other",
    "steps": 29,
    "guidance": 50.5,
    "max_seq_len": 4097,
    "dtype": "float32",
    "adapter": "subject",
    "seed": 1,
    "candidates": 2,
    "scores_version": 9,
    "format": "webp",
    "quality": 94,
    "mask_steps": MaskSteps(invert=True),
    "auto_mask": AutoMask(method="border"),
    "control_model": "0" * 64,
    "clip_model": "0" * 64,
    "preset": PRESETS["white-1000"],
    "background": "transparent",
    "shadow": True,
    "shortcuts": Shortcuts(),
}


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("name", Resolved.model_fields)
def test_every_setting_is_part_of_the_id(name: str) -> None:
    planned = item(FILL)
    changed = planned.resolved.model_copy(update={name: OTHER[name]})
    assert getattr(changed, name) != getattr(planned.resolved, name)
    assert item_id(changed, planned.sources, LORA) != planned.item_id


@pytest.mark.parametrize(
    "changed",
    [{"base": "base-2"}, {"encoders": "encoders-2"}, {"adapters": {"local_editing": "local-2"}}],
    ids=["base", "encoders", "adapters"],
)
def test_every_fingerprint_in_use_is_part_of_the_id(changed: dict[str, Any]) -> None:
    planned = item(FILL)
    model = LORA.model_copy(update=changed)
    assert item_id(planned.resolved, planned.sources, model) != planned.item_id


def test_an_adapter_out_of_use_and_the_variants_name_are_not() -> None:
    adapters = LORA.adapters | {"subject": "subject-2", "portrait": "portrait-1"}
    model = LORA.model_copy(update={"adapters": adapters, "variant": "renamed"})
    assert item(FILL, model).item_id == item(FILL).item_id


@pytest.mark.parametrize("which", ["image", "mask", "reference"])
@pytest.mark.parametrize(
    ("name", "value"), [("etag", "new"), ("size_bytes", 1), ("sha256", "00"), ("problem", "gone")]
)
def test_every_source_is_part_of_the_id(which: str, name: str, value: str | int) -> None:
    planned = item(TRY_ON)
    source = getattr(planned.sources, which)
    change = {name: value}
    if which == "reference":
        changed: Any = (source[0].model_copy(update=change),)
    else:
        changed = source.model_copy(update=change)
    sources = planned.sources.model_copy(update={which: changed})
    assert item_id(planned.resolved, sources, LORA) != planned.item_id


def test_image_and_mask_are_not_interchangeable() -> None:
    planned = item(FILL)
    swapped = Sources(image=planned.sources.mask, mask=planned.sources.image)
    assert item_id(planned.resolved, swapped, LORA) != planned.item_id


def test_the_same_bytes_elsewhere_are_the_same_item() -> None:
    """A checksum names the bytes; where they lie and how they were uploaded does not matter."""
    spec = parse_spec(EDIT)
    here = Source(uri="s3://b/i.png", etag="1", size_bytes=9, sha256="ab")
    there = Source(uri="s3://c/j.png", etag="2-parts", size_bytes=9, sha256="ab")
    items = [work_item(1, spec, Sources(image=each), LORA) for each in (here, there)]
    assert items[0].item_id == items[1].item_id


def test_pixels_version_makes_every_item_new(monkeypatch: pytest.MonkeyPatch) -> None:
    before = item(FILL).item_id
    monkeypatch.setattr(identity, "PIXELS_VERSION", PIXELS_VERSION + 1)
    assert item(FILL).item_id != before


def test_canonical_json_is_one_text_for_one_value() -> None:
    assert canonical_json({"b": (1, None), "a": {"x": None, "é": "ü"}}) == (
        '{"a":{"é":"ü"},"b":[1,null]}'.encode()
    )
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"a": float("nan")})


# ---------------------------------------------------------------- seeds and defaults


def test_a_derived_seed_is_stable_in_range_and_of_the_content() -> None:
    changes: list[dict[str, Any]] = [
        {"prompt": "q"},
        {"mask": "s3://b/other.png"},
        {"image": "s3://b/other.png"},
        {"mask": {"box": [0, 0, 1, 1]}},
        {"mask": {"box": [0, 0, 2, 2]}},
        {"steps": 3},
    ]
    seeds = [item(FILL | each).resolved.seed for each in [{}, *changes]]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed <= MAX_SEED for seed in seeds)
    assert item(FILL | {"id": "other"}, line=5).resolved.seed == seeds[0]


def test_whoever_asks_for_more_candidates_keeps_the_first_ones() -> None:
    """Eight candidates hold the picture that a run of one candidate made."""
    one, eight = (item(FILL | {"candidates": n}).resolved for n in (1, 8))
    assert one.seed == eight.seed
    assert one.scores_version is None  # how to choose is nothing to one picture
    seeds = candidate_seeds(eight.seed, 8)
    assert seeds[0] == one.seed
    assert len(set(seeds)) == 8
    assert all(0 <= seed <= MAX_SEED for seed in seeds)
    assert candidate_seeds(eight.seed, 3) == seeds[:3]
    assert candidate_seeds(7, 3) == (7, 392610622, 3078074718)


@given(st.integers(0, MAX_SEED))
@example(0)
@example(MAX_SEED)
def test_a_given_seed_is_used(seed: int) -> None:
    assert item(FILL | {"seed": seed}).resolved.seed == seed


BY_ROUTE = {  # (row, route, repainting scale, rate of kept pixels, adapter, mask)
    "fill, LoRA": (FILL, LORA, 1.0, None, "local_editing", "file"),
    "masked edit, LoRA": (EDIT | {"mask": "alpha"}, LORA, 0.5, None, "local_editing", "alpha"),
    "edit, LoRA": (EDIT, LORA, 0.0, None, "local_editing", None),
    "reference, LoRA": (REFERENCE, LORA, 1.0, None, "subject", None),
    "try-on, LoRA": (TRY_ON, LORA, 1.0, None, "subject", "file"),
    "fill, FFT": (FILL, FFT, 1.0, None, None, "file"),
    "masked edit, FFT": (EDIT | {"mask": "alpha"}, FFT, 0.0, None, None, "alpha"),
    "edit, FFT": (EDIT, FFT, 0.0, None, None, None),
    "reference, FFT": (REFERENCE, FFT, 1.0, 0.8, None, None),
    "try-on, FFT": (TRY_ON, FFT, 1.0, 0.8, None, "file"),
}


@pytest.mark.parametrize(
    ("row", "route", "scale", "rate", "adapter", "mask"), BY_ROUTE.values(), ids=BY_ROUTE
)
def test_a_task_becomes_the_settings_of_its_route(
    row: dict[str, Any],
    route: ModelIdentity,
    scale: float,
    rate: float | None,
    adapter: str | None,
    mask: str | None,
) -> None:
    resolved = resolve(parse_spec(row), sources_of(row), route)
    assert (resolved.repainting_scale, resolved.keep_pixels_rate) == (scale, rate)
    assert (resolved.adapter, resolved.mask) == (adapter, mask)


def test_the_models_defaults_fill_what_the_row_leaves_open() -> None:
    resolved = item(REFERENCE).resolved
    assert (resolved.steps, resolved.guidance, resolved.dtype) == (28, 50.0, "bfloat16")
    assert (resolved.width, resolved.height, resolved.format) == (1024, 768, "png")
    given = item(REFERENCE | {"steps": 2, "guidance": 0, "width": 64, "format": "avif"}).resolved
    assert (given.steps, given.guidance, given.width, given.height) == (2, 0.0, 64, 768)
    assert given.format == "avif"
    edited = item(EDIT).resolved
    assert (edited.width, edited.height, edited.format) == (None, None, "source")


@pytest.mark.parametrize(
    ("model", "accepted"),
    [(LORA, "local_editing, subject"), (FFT, "none")],
    ids=["LoRA", "FFT"],
)
def test_an_adapter_the_model_lacks_is_refused(model: ModelIdentity, accepted: str) -> None:
    with pytest.raises(
        BadRow, match=rf"'{model.variant}' .*accepted: {accepted}\); given"
    ) as caught:
        item(FILL | {"adapter": "portrait"}, model)
    assert caught.value.field == "adapter"
