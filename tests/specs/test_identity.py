"""Test the ids of rows that have their settings in common. If these break, finished pictures get
other ids, and every catalog that was edited is edited and paid for again."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from ace_tasks.specs import (
    ItemMaker,
    ModelIdentity,
    PixelSettings,
    Source,
    Sources,
    WorkItem,
    canonical_json,
    parse_spec,
    work_item,
)
from ace_tasks.specs.identity import EARLIER_PIXELS_VERSIONS, PIXELS_VERSION
from ace_tasks.specs.run_settings import AutoMask
from tests.specs.test_specs import FFT, LORA

PIXELS = PixelSettings(auto_mask=AutoMask(method="border"))

fractions = st.floats(0, 0.4) | st.sampled_from([0, -0.0, 1e-7, 5e-324, 0.1 + 0.2])
box = st.tuples(fractions, fractions).map(lambda at: [*at, at[0] + 0.5, 1e22])
corners = st.lists(st.tuples(fractions, fractions), min_size=3, max_size=4)
masks = (
    st.sampled_from(["alpha", "auto", "s3://b/mask.png"])
    | box.map(lambda each: {"box": each})
    | box.map(lambda each: {"ellipse": each})
    | corners.map(lambda each: {"polygon": each})
)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
prompts = texts | st.sampled_from(['"%s" {prompt}\\', "\0prompt", '\\u0000seed"', "é\u2028雪"])


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


# Few values of each column, so that rows of one catalog often have them in common.
common = {
    "seed": maybe(st.sampled_from([0, 7, 2**32 - 1])),
    "guidance": maybe(st.sampled_from([0.0, -0.0, 1e-7, 30.5])),
    "steps": maybe(st.just(3)),
    "candidates": maybe(st.just(4)),
    "format": maybe(st.just("webp")),
    "quality": maybe(st.just(80)),
    "preset": maybe(st.just("white-1000")),
}
masked = {
    "image": st.just("s3://b/image.png"),
    "mask": masks,
    "mask_grow": maybe(st.sampled_from([0, 3])),
    "mask_blur": maybe(st.sampled_from([0.0, 1.5])),
    "mask_invert": maybe(st.booleans()),
}
reference = st.just("s3://b/reference.png")
prompt = {"prompt": prompts}
rows = (
    st.fixed_dictionaries({"task": st.just("fill")} | prompt | masked | common)
    | st.fixed_dictionaries(
        {"task": st.just("edit"), "control": maybe(st.just("canny"))} | prompt | masked | common
    )
    | st.fixed_dictionaries(
        {"task": st.just("try_on"), "reference": reference} | prompt | masked | common
    )
    | st.fixed_dictionaries(
        {"task": st.just("reference"), "reference": reference, "width": maybe(st.just(512))}
        | prompt
        | common
    )
    | st.fixed_dictionaries(
        {
            "task": st.just("background"),
            "image": st.just("s3://b/image.png"),
            "background": maybe(st.just("#102030")),
            "shadow": maybe(st.booleans()),
        }
    )
)
sources = st.sampled_from(
    [
        {"etag": "abc", "size_bytes": 3},
        {"etag": '"é\\', "size_bytes": 2**40},
        {"sha256": "00ff", "etag": "abc", "size_bytes": 3},
        {"problem": 'no such "object"\n'},
    ]
)


def naive_identities(item: WorkItem) -> dict[str, Any]:
    image, mask = (each and each.identity() for each in (item.sources.image, item.sources.mask))
    references = [each.identity() for each in item.sources.reference]
    return {"image": image, "mask": mask, "reference": references}


def naive_id(item: WorkItem, model: ModelIdentity, version: int) -> str:
    """Return an item's id as the documents define it: the hash of one canonical JSON."""
    parts = {"base": model.base, "encoders": model.encoders}
    if item.resolved.adapter:
        parts["adapter"] = model.adapters[item.resolved.adapter]
    content = {
        "sources": naive_identities(item),
        "model": {} if item.spec.task == "background" else parts,
        "settings": item.resolved.model_dump(mode="json"),
        "pixels_version": version,
    }
    return hashlib.sha256(canonical_json(content)).hexdigest()


def naive_seed(item: WorkItem) -> int:
    settings = item.resolved.model_dump(mode="json")
    for name in ("seed", "candidates", "scores_version", "clip_model"):
        del settings[name]
    digest = hashlib.sha256(canonical_json([settings, naive_identities(item)])).digest()
    return int.from_bytes(digest[:4], "big")


@given(st.lists(st.tuples(rows, sources), min_size=1, max_size=8), st.sampled_from([LORA, FFT]))
@example(
    [
        ({"task": "edit", "image": "s3://b/i", "prompt": "p", "guidance": each}, {"etag": "e"})
        for each in (0.0, -0.0)
    ],
    LORA,
)
def test_rows_that_have_settings_in_common_are_hashed_as_each_alone(
    catalog: list[tuple[dict[str, Any], dict[str, Any]]], model: ModelIdentity
) -> None:
    maker = ItemMaker(model, PIXELS)
    for line, (row, known) in enumerate(catalog, start=1):
        spec = parse_spec(row | {"id": f"row-{line}"})
        found = Sources.of(spec, lambda uri, known=known: Source(uri=uri, **known))
        item = work_item(line, spec, found, model, PIXELS)
        row_found = maker.identify(line, spec, found)
        assert row_found.item == maker.make(line, spec, found) == item
        assert (row_found.item_id, row_found.group) == (item.item_id, item.resolved.group)
        assert json.loads(row_found.to_json()) == json.loads(item.model_dump_json())
        assert item.item_id == naive_id(item, model, PIXELS_VERSION)
        earlier_ids = [naive_id(item, model, each) for each in EARLIER_PIXELS_VERSIONS]
        assert row_found.earlier_ids == earlier_ids
        if row["task"] == "background":
            assert item.resolved.seed == 0
        else:
            given = row.get("seed")
            assert item.resolved.seed == (naive_seed(item) if given is None else given)
            assert item.resolved.prompt == row["prompt"]


def test_settings_are_settled_anew_once_too_many_are_known(monkeypatch: Any) -> None:
    monkeypatch.setattr("ace_tasks.specs.resolution._ALIKE", 2)
    maker = ItemMaker(LORA)
    for steps in (1, 2, 3, 1):
        row = {"id": "a", "task": "edit", "image": "s3://b/i", "prompt": "p", "steps": steps}
        item = maker.make(1, parse_spec(row), Sources(image=Source(uri="s3://b/i", etag="e")))
        assert item.resolved.steps == steps
        assert item.item_id == naive_id(item, LORA, PIXELS_VERSION)
