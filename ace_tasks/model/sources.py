"""The files that a model is made of, their sources, and its fingerprints. No torch is loaded.

A folder with a `variant.json` (see `Variant`) beside its `sha256.json` is a variant of its own,
named by its place. A vision model is a folder as `save_pretrained` writes it.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from ace_tasks.errors import SettingsError, WeightsError
from ace_tasks.model.places import (
    HUB,
    MANIFEST,
    Folder,
    HubFiles,
    ModelSource,
    at_commit,
    disk_errors,
    open_place,
)
from ace_tasks.model.variants import (
    ADAPTER_FOLDER,
    BASE_FOLDERS,
    ENCODER_FOLDERS,
    Variant,
    adapter_file,
    find_variant,
)
from ace_tasks.settings import Environment, VisionModel, VisionSettings, WeightsSettings
from ace_tasks.specs import AutoMask, Control, ModelIdentity, PixelSettings, canonical_json
from ace_tasks.store import join_uri

DEFINITION = "variant.json"
_FOLDERS = (*BASE_FOLDERS, *ENCODER_FOLDERS, ADAPTER_FOLDER)
_VISION_FILES = re.compile(
    r"(config|preprocessor_config|model\.safetensors\.index|tokenizer|tokenizer_config"
    r"|special_tokens_map|vocab)\.json|merges\.txt|model[0-9a-z-]*\.safetensors"
)
# A repository may hold a network in several precisions. Under onnx/ only the plain one is taken.
_NETWORK = re.compile(r"[A-Za-z0-9_.-]+\.onnx|onnx/model\.onnx")
_NETWORK_FILES = {"preprocessor_config.json"}


# ---------------------------------------------------------------- variants and their sources


def open_variant(name: str, settings: WeightsSettings) -> Variant:
    """Return a variant by name, or by the place of its `variant.json`.

    The place is a folder, `s3://…` or `hf://…`. Raises SettingsError and WeightsError.
    """
    if "/" not in name:
        return find_variant(name)
    place = open_place(name.rstrip("/"), settings, _of_variant)
    home = _pinned(name.rstrip("/"))
    with tempfile.TemporaryDirectory(prefix="ace-variant-") as scratch:
        path = Path(scratch) / DEFINITION
        place.fetch(DEFINITION, path)
        try:
            found = Variant.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            parts = [*map(str, first["loc"]), first["msg"]]
            raise WeightsError(f"{home}/{DEFINITION}: {': '.join(parts)}") from None
    if not found.transformer:
        raise WeightsError(f"{home}/{DEFINITION}: a variant with files needs `transformer`")
    if surplus := sorted({"recipe", "hub", "home", "shipped"} & found.model_fields_set):
        raise WeightsError(
            f"{home}/{DEFINITION}: {surplus[0]}: not accepted, since the files are beside this one"
        )
    return found.model_copy(update={"home": home})


def _pinned(where: str) -> str:
    """Return a place in a form that means the same files to every replica.

    A replica may run later, and in another folder than the one that a relative path starts from.
    """
    if where.startswith(HUB):
        return at_commit(where)
    return where if "://" in where else str(Path(where).expanduser().absolute())


def _of_variant(names: Sequence[str]) -> list[str]:
    """Return a variant's parts and its definition, without other files beside them."""
    return [
        name
        for name in names
        if name == DEFINITION or (name.split("/")[0] in _FOLDERS and "/." not in name)
    ]


def find_source(variant: Variant, settings: WeightsSettings) -> ModelSource:
    """Return where the variant's files are: in this package, its own folder, the mirror or the hub.

    The first of these that exists is taken.
    """
    if variant.shipped_folder:
        return Folder(variant.shipped_folder)
    if variant.home:
        return open_place(variant.home, settings, _of_variant)
    if settings.mirror:
        return open_place(join_uri(settings.mirror, variant.name), settings, _of_variant)
    return HubFiles(variant.hub)


def identify(variant: Variant, settings: WeightsSettings) -> ModelIdentity:
    """Return the variant's fingerprints for planning, loading no weights. Raises WeightsError."""
    return _identity(variant, {} if variant.recipe else node_manifest(variant, settings))


def identify_folder(variant: Variant, folder: Path) -> ModelIdentity:
    """Return the fingerprints of the files in a node's folder. Raises WeightsError."""
    return _identity(variant, Folder(folder).manifest())


def _identity(variant: Variant, hashes: Mapping[str, str]) -> ModelIdentity:
    if variant.recipe:
        return variant.identity()
    for path in (*(file.path for file in variant.hub), *map(adapter_file, variant.adapters)):
        if path not in hashes:
            raise WeightsError(f"variant {variant.name!r}: no file {path} in its {MANIFEST}")
    return variant.identity(hashes)


def node_folder(variant: Variant, settings: WeightsSettings) -> Path:
    """Return where a node keeps the variant's files; a local folder stays where it is."""
    if variant.recipe:
        key = variant.identity().base
    elif local := _local_folder(variant, settings):
        return local
    else:
        key = settings.key or find_source(variant, settings).key
    return settings.folder / f"{variant.name}-{key[:12]}"


def for_replicas(variant: Variant, settings: WeightsSettings) -> WeightsSettings:
    """Return the settings of a run's replicas, once the licence is accepted.

    No node asks for the licence again, and a node that has the files asks no source about them.
    Raises WeightsError.
    """
    remote = not variant.recipe and not _local_folder(variant, settings)
    key = find_source(variant, settings).key if remote else None
    return settings.model_copy(update={"accept_license": True, "key": key})


def _local_folder(variant: Variant, settings: WeightsSettings) -> Path | None:
    if variant.shipped_folder:
        return variant.shipped_folder
    where = variant.home or (join_uri(settings.mirror, variant.name) if settings.mirror else HUB)
    return None if "://" in where else Path(where)


def node_manifest(variant: Variant, settings: WeightsSettings) -> dict[str, str]:
    """Return the hash of each file as this node lists it, else as the source states it."""
    local = node_folder(variant, settings) / MANIFEST
    if local.exists():
        return Folder(local.parent).manifest()
    return find_source(variant, settings).manifest()


# ---------------------------------------------------------------- vision models


def identify_vision(place: str, settings: WeightsSettings) -> VisionModel:
    """Return a small model's place, as replicas will use it, and its fingerprint.

    No weights are loaded. Raises SettingsError and WeightsError.
    """
    where = _pinned(place.rstrip("/"))
    hashes = vision_source(where, settings).manifest()
    return VisionModel(place=where, fingerprint=fingerprint(hashes))


def fingerprint(hashes: Mapping[str, str]) -> str:
    """Return the SHA-256 (hex) over a list of files and their hashes."""
    return hashlib.sha256(canonical_json(dict(hashes))).hexdigest()


def check_planned(model: VisionModel, hashes: Mapping[str, str]) -> None:
    """Raise WeightsError unless these are the files that a run was planned with."""
    if fingerprint(hashes) != model.fingerprint:
        raise WeightsError(f"{model.place}: other files than those the run was planned with")


def vision_source(place: str, settings: WeightsSettings) -> ModelSource:
    """Return where a small model's files are; of a hub's repository only those that are loaded."""
    return open_place(place, settings, _of_vision)


def _of_vision(names: Sequence[str]) -> list[str]:
    """Return the files that transformers' classes load, else an ONNX network and its config.

    The former lie at the top of the repository. The network is taken if there are no weights there.
    """
    top = [name for name in names if _VISION_FILES.fullmatch(name)]
    if any(name.endswith(".safetensors") for name in top):
        return top
    networks = [name for name in names if _NETWORK.fullmatch(name)]
    return [name for name in top if name in _NETWORK_FILES] + networks if networks else top


def vision_folder(model: VisionModel, settings: WeightsSettings) -> Path:
    """Return where a node keeps a small model's files; a local folder stays where it is."""
    if "://" not in model.place:
        return Path(model.place)
    return settings.folder / f"vision-{model.fingerprint[:12]}"


def open_vision(environment: Environment, settings: WeightsSettings) -> VisionSettings:
    """Return the small models that the environment names. Raises SettingsError and WeightsError."""
    places = environment.vision_places
    return VisionSettings(**{use: identify_vision(at, settings) for use, at in places.items()})


def with_vision(pixels: PixelSettings, vision: VisionSettings) -> PixelSettings:
    """Return the settings with the fingerprints of the small models.

    The models that draw a run's controls and masks are a part of its pixels. Raises SettingsError
    if a model is to make masks and none is named.
    """
    drawn_by: dict[Control, VisionModel | None] = {"depth": vision.depth, "contour": vision.contour}
    models = {control: model.fingerprint for control, model in drawn_by.items() if model}
    auto = pixels.auto_mask
    if auto and auto.method == "u2net":
        from ace_tasks.model.dnn import U2NET, shipped_sha256  # OpenCV

        auto = AutoMask(method="u2net", model=shipped_sha256(U2NET))
    if auto and auto.method == "model":
        if vision.segmenter is None:
            raise SettingsError("masks by a model need a segmentation model: set ACE_SEGMENTER")
        auto = AutoMask(method="model", model=vision.segmenter.fingerprint)
    elif auto and auto.garment:
        from ace_tasks.model import people  # OpenCV: only when it is needed

        auto = AutoMask(method=auto.method, model=people.fingerprint())
    clip = vision.clip.fingerprint if vision.clip else None
    return pixels.model_copy(
        update={"control_models": models, "auto_mask": auto, "clip_model": clip}
    )


def check_license(variant: Variant, settings: WeightsSettings) -> None:
    """Raise SettingsError naming the terms of the weights, unless a person has accepted them.

    They are accepted once on a machine: `settings.accept_license` writes that down.
    """
    terms = variant.license
    if terms is None:
        return
    accepted = settings.folder / "licenses" / f"{terms.id}.json"
    if settings.accept_license:
        note = {"license": terms.name, "accepted_at": datetime.now(UTC).isoformat()}
        if not accepted.exists():
            with disk_errors(accepted):
                accepted.parent.mkdir(parents=True, exist_ok=True)
                accepted.write_text(json.dumps(note))
    elif not accepted.exists():
        raise SettingsError(
            f"variant {variant.name!r} is under the {terms.name} ({terms.where}); read it, then "
            "accept it once (parameter accept_license, --accept-license, or "
            "ACE_ACCEPT_LICENSE=true)"
        )
