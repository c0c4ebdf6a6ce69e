"""Tiny releases: folders as real weights come in, with a `variant.json` and a `sha256.json`.

A toy is made where it is used; a release has files of its own, in either layout, and is loaded,
fetched and planned with by the code that real weights go through. A few hundred kilobytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from ace_tasks.model import places, sources, toy
from ace_tasks.model.variants import Variant, find_variant
from tests.support import bfl

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
BFL_TRANSFORMER = "transformer/ace_plus_fft.safetensors"
_SMALL = {"steps": 2, "width_px": 64, "height_px": 64, "text_tokens": 16}


def make_release(folder: Path, base: str = "toy", layout: str = "diffusers", **recipe: Any) -> Path:
    """The files of a toy variant as a release. `recipe`: of it, to be changed."""
    built = find_variant(base)
    assert built.recipe is not None
    changed = built.recipe.model_copy(update=recipe)
    toy.build(built.model_copy(update={"recipe": changed}), folder)
    transformer: dict[str, Any] = {"layout": layout, "channels": changed.in_channels}
    if layout == "bfl":
        transformer["config"] = to_bfl(folder)
    known = built.model_dump(mode="json", exclude={"recipe", "hub", "home", "shipped", "license"})
    define(folder, known | _SMALL | {"name": f"tiny-{base}", "transformer": transformer})
    pin(folder)
    return folder


def to_bfl(folder: Path) -> dict[str, Any]:
    """Put the transformer into one file in BFL's layout; its config, which has no file there."""
    config = json.loads((folder / "transformer" / "config.json").read_text())
    state = bfl.to_bfl(load_file(folder / TRANSFORMER), config)
    for path in (folder / "transformer").iterdir():
        path.unlink()
    save_file({k: v.contiguous() for k, v in state.items()}, folder / BFL_TRANSFORMER)
    return {key: value for key, value in config.items() if not key.startswith("_")}


def define(folder: Path, fields: dict[str, Any]) -> None:
    (folder / sources.DEFINITION).write_text(json.dumps(fields))


def redefine(folder: Path, **fields: Any) -> None:
    """Change fields of variant.json; of `transformer` those given."""
    known = json.loads((folder / sources.DEFINITION).read_text())
    transformer = known["transformer"] | fields.pop("transformer", {})
    define(folder, known | fields | {"transformer": transformer})
    pin(folder)


def pin(folder: Path) -> None:
    """State the hashes that the files have now, whatever was done to them."""
    hashes = places.hash_folder(folder)
    (folder / places.MANIFEST).write_text(json.dumps(hashes))


def definition(folder: Path) -> Variant:
    return Variant.model_validate_json((folder / sources.DEFINITION).read_bytes())
