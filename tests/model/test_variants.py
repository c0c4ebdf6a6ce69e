"""Test what a variant's fingerprints go by. If these break, a picture of one route is taken for that
of another; or every catalog ever edited is edited again."""

from __future__ import annotations

from typing import Any

import pytest

from ace_tasks.model.variants import Transformer, Variant, find_variant
from ace_tasks.specs import ModelIdentity, Source, Sources, parse_spec, work_item

FILES = find_variant("flux-fill-lora").model_copy(update={"hub": (), "adapters": {}})
FFT = FILES.model_copy(update={"route": "fft"})
WIDE = FFT.model_copy(update={"transformer": Transformer(channels=448)})
ROWS: dict[str, dict[str, Any]] = {
    "fill": {"task": "fill", "mask": {"box": [0, 0, 0.5, 0.5]}},
    "edit": {"task": "edit"},
}


def identity(variant: Variant) -> ModelIdentity:
    """As by files whose hashes are all zeros."""
    paths = [each.path for each in variant.hub] or [
        "transformer/model.safetensors",
        "text_encoder/config.json",
    ]
    paths += [f"adapters/{name}.safetensors" for name in variant.adapters]
    return variant.identity({} if variant.recipe else dict.fromkeys(paths, "0" * 64))


def item_id(row: dict[str, Any], variant: Variant) -> str:
    image = Sources(image=Source(uri="s3://b/a.png", sha256="ab"))
    spec = parse_spec({"id": "a", "image": "s3://b/a.png", "prompt": "p"} | row)
    return work_item(1, spec, image, identity(variant)).item_id


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_the_same_files_on_another_route_make_another_item(row: dict[str, Any]) -> None:
    """Prompts are cleaned or not, what is masked goes elsewhere, levels are cut or rounded."""
    assert item_id(row, FILES) != item_id(row, FFT)
    assert identity(FILES).encoders == identity(FFT).encoders


@pytest.mark.parametrize(
    ("variant", "base"),
    [
        pytest.param(find_variant("mini"), "34a85f33013d", id="mini"),
        pytest.param(find_variant("toy"), "617b315cde8c", id="toy"),
        pytest.param(find_variant("toy-lora"), "19c677615d61", id="toy-lora"),
        pytest.param(find_variant("flux-fill-lora"), "d8d3cd1cc717", id="flux-fill-lora"),
        pytest.param(find_variant("ace-fft"), "d0e18da89f3e", id="ace-fft"),
        pytest.param(FILES, "924723c998af", id="384 channels on the lora route"),
        pytest.param(WIDE, "de5f663621de", id="448 channels on the fft route"),
    ],
)
def test_fingerprints_from_before_the_route_was_recorded_stay(variant: Variant, base: str) -> None:
    assert identity(variant).base[:12] == base
