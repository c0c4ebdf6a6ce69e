"""Which files a model is made of, where they come from, and its fingerprints. Loads no torch.

A folder that has a `variant.json` (see `Variant`) beside its `sha256.json` is a variant of its
own, named by its place. A vision model is a folder as `save_pretrained` writes it.
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
# A repository may hold a network several times, in halves and bytes: under onnx/ the plain one.
_NETWORK = re.compile(r"[A-Za-z0-9_.-]+\.onnx|onnx/model\.onnx")
_NETWORK_FILES = {"preprocessor_config.json"}


# ---------------------------------------------------------------- which variant, from where


def open_variant(name: str, settings: WeightsSettings) -> Variant:
    """A variant by name, or by the place of its `variant.json`: a folder, `s3://…` or `hf://…`.

    Raises SettingsError and WeightsError.
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
        raise WeightsError(f"{home}/{DEFINITION}: {surplus[0]}: the files are where this one is")
    return found.model_copy(update={"home": home})


def _pinned(where: str) -> str:
    """A place as a replica shall know it, which may work in another folder than the one that a
    relative path was meant from, and later.
    """
    if where.startswith(HUB):
        return at_commit(where)
    return where if "://" in where else str(Path(where).expanduser().absolute())


def _of_variant(names: Sequence[str]) -> list[str]:
    """Its parts and its definition, and nothing that lies beside them."""
    return [
        name
        for name in names
        if name == DEFINITION or (name.split("/")[0] in _FOLDERS and "/." not in name)
    ]


def find_source(variant: Variant, settings: WeightsSettings) -> ModelSource:
    """Where its files are: its own folder or this package, else the mirror, else the hub."""
    if variant.shipped_folder:
        return Folder(variant.shipped_folder)
    if variant.home:
        return open_place(variant.home, settings, _of_variant)
    if settings.mirror:
        return open_place(join_uri(settings.mirror, variant.name), settings, _of_variant)
    return HubFiles(variant.hub)


def identify(variant: Variant, settings: WeightsSettings) -> ModelIdentity:
    """The variant's fingerprints as planning needs them; loads no weights. Raises WeightsError."""
    return _identity(variant, {} if variant.recipe else node_manifest(variant, settings))


def identify_folder(variant: Variant, folder: Path) -> ModelIdentity:
    """The fingerprints of what lies in a node's folder. Raises WeightsError."""
    return _identity(variant, Folder(folder).manifest())


def _identity(variant: Variant, hashes: Mapping[str, str]) -> ModelIdentity:
    if variant.recipe:
        return variant.identity()
    missing = [path for path in _needed(variant) if path not in hashes]
    if missing:
        raise WeightsError(f"variant {variant.name!r}: no file {missing[0]} in its {MANIFEST}")
    return variant.identity(hashes)


def _needed(variant: Variant) -> list[str]:
    return [file.path for file in variant.hub] + [adapter_file(name) for name in variant.adapters]


def node_folder(variant: Variant, settings: WeightsSettings) -> Path:
    """Where a node keeps the variant's files; a local folder stays where it is."""
    if variant.recipe:
        key = variant.identity().base
    elif local := _local_folder(variant, settings):
        return local
    else:
        key = settings.key or find_source(variant, settings).key
    return settings.folder / f"{variant.name}-{key[:12]}"


def for_replicas(variant: Variant, settings: WeightsSettings) -> WeightsSettings:
    """What a run's replicas get once its licence is accepted: no node asks for that again, and
    one that has the files asks nobody for them. Raises WeightsError.
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
    """What this node has of it, else what its source states."""
    local = node_folder(variant, settings) / MANIFEST
    if local.exists():
        return Folder(local.parent).manifest()
    return find_source(variant, settings).manifest()


# ---------------------------------------------------------------- vision models


def identify_vision(place: str, settings: WeightsSettings) -> VisionModel:
    """A small model's place, as a replica shall know it, and the SHA-256 (hex) over the list of its
    files; loads no weights. Raises SettingsError and WeightsError.
    """
    where = _pinned(place.rstrip("/"))
    hashes = vision_source(where, settings).manifest()
    return VisionModel(place=where, fingerprint=fingerprint(hashes))


def fingerprint(hashes: Mapping[str, str]) -> str:
    """SHA-256 (hex) over file → SHA-256."""
    return hashlib.sha256(canonical_json(dict(hashes))).hexdigest()


def check_planned(model: VisionModel, hashes: Mapping[str, str]) -> None:
    """Raises WeightsError unless these are the files that a run was planned with."""
    if fingerprint(hashes) != model.fingerprint:
        raise WeightsError(f"{model.place}: other files than those the run was planned with")


def vision_source(place: str, settings: WeightsSettings) -> ModelSource:
    """Where its files are: those of a hub's repository that are loaded."""
    return open_place(place, settings, _of_vision)


def _of_vision(names: Sequence[str]) -> list[str]:
    """At the top, what classes of transformers load; or, where that has no weights, a network."""
    top = [name for name in names if _VISION_FILES.fullmatch(name)]
    if any(name.endswith(".safetensors") for name in top):
        return top
    networks = [name for name in names if _NETWORK.fullmatch(name)]
    return [name for name in top if name in _NETWORK_FILES] + networks if networks else top


def vision_folder(model: VisionModel, settings: WeightsSettings) -> Path:
    """Where a node keeps its files; a local folder stays where it is."""
    if "://" not in model.place:
        return Path(model.place)
    return settings.folder / f"vision-{model.fingerprint[:12]}"


def open_vision(environment: Environment, settings: WeightsSettings) -> VisionSettings:
    """The small models that the environment names. Raises SettingsError and WeightsError."""
    places = environment.vision_places
    return VisionSettings(**{use: identify_vision(at, settings) for use, at in places.items()})


def with_vision(pixels: PixelSettings, vision: VisionSettings) -> PixelSettings:
    """The models that draw a run's controls and masks are a part of its pixels. Raises
    SettingsError for masks by a model that nobody named.
    """
    drawn_by: dict[Control, VisionModel | None] = {"depth": vision.depth, "contour": vision.contour}
    models = {control: model.fingerprint for control, model in drawn_by.items() if model}
    auto = pixels.auto_mask
    if auto and auto.method == "u2net":
        from ace_tasks.model.dnn import U2NET, shipped_sha256  # OpenCV

        auto = AutoMask(method="u2net", model=shipped_sha256(U2NET))
    if auto and auto.method == "model":
        if vision.segmenter is None:
            raise SettingsError("masks by a model need one: ACE_SEGMENTER")
        auto = AutoMask(method="model", model=vision.segmenter.fingerprint)
    elif auto and auto.garment:
        from ace_tasks.model import people  # OpenCV: only when it is needed

        auto = AutoMask(method=auto.method, model=people.fingerprint())
    clip = vision.clip.fingerprint if vision.clip else None
    return pixels.model_copy(
        update={"control_models": models, "auto_mask": auto, "clip_model": clip}
    )


# ---------------------------------------------------------------- licences


def check_license(variant: Variant, settings: WeightsSettings) -> None:
    """Some weights may be used under terms that a person must accept, once on a machine.

    Raises SettingsError that names them.
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
            "say accept_license once (parameter accept_license, --accept-license, or "
            "ACE_ACCEPT_LICENSE=true)"
        )
