"""Make a recorded picture again, and compare it with the one that was published.

It uses the same sources (by version, or by hash), the same model, the recorded settings and the
seed of the chosen candidate. Files differ, because each signature is different. Pixels do not
differ on the same stack.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from pydantic import ValidationError

from ace_tasks.errors import NotFound, SettingsError, SourceChanged, SourceMissing, WeightsError
from ace_tasks.images import codec
from ace_tasks.images.closeness import psnr
from ace_tasks.images.codec import Picture, Pictures
from ace_tasks.model.ace import AceModel
from ace_tasks.model.sources import check_license, open_variant, open_vision
from ace_tasks.model.vision import Vision
from ace_tasks.provenance.record import Record, SourceRecord
from ace_tasks.replica import runtime_info
from ace_tasks.replica.edit import EditedPixels, PictureEdit
from ace_tasks.settings import Environment, ImageLimits, VisionSettings
from ace_tasks.specs import PIXELS_VERSION, Resolved
from ace_tasks.store import Store, is_s3, join_uri, open_stores


@dataclass(frozen=True)
class Asked:
    """The options of a reproduction. Everything else is as recorded."""

    variant: str = ""  # the variant's URI, if the record does not name it
    folder: Path | None = None  # holds the sources that were local files
    threads: int = 0  # 0: as recorded
    batch_size: int = 1  # copies of the picture that are made in one pass
    accept_license: bool = False


@dataclass(frozen=True)
class Reproduction:
    """The comparison of a picture that was made again. Differences are in levels of 0-255."""

    record: str
    identical: bool
    pixels_sha256: str
    recorded_pixels_sha256: str
    psnr_db: float | None  # to the published file; None: it is equal, or missing
    largest_difference: int | None
    differs: tuple[str, ...]  # the parts of the stack that are not as recorded

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Reproducer:
    """Makes recorded pictures again. It keeps the last model, which one run's records share."""

    def __init__(self, environment: Environment, device: str, asked: Asked):
        self._sources, self._outputs = open_stores(
            environment.source_store, environment.output_store
        )
        self._weights = environment.weights(accept_license=asked.accept_license)
        self._environment, self._device, self._asked = environment, device, asked
        self._loaded: tuple[tuple[str, str, str], AceModel] | None = None
        self._vision: VisionSettings | None = None

    def reproduce(self, uri: str) -> Reproduction:
        """Make the picture of the record at `uri` again and compare it.

        Raises SettingsError for anything but a record, SourceMissing, SourceChanged, WeightsError
        for another model than recorded, and StoreError.
        """
        record = self._record(uri)
        resolved = Resolved.model_validate(record.resolved)
        pictures = self._pictures(record)
        if record.model.hardware and self._device == "cpu":
            runtime_info.use_threads(self._asked.threads or record.model.hardware.threads)
        model = self._model(record)
        made = self._make(record, resolved, pictures, model)
        found = codec.pixels_sha256(made.rgb, made.alpha)
        identical = found == record.output.pixels_sha256
        psnr_db, largest = self._distance(record, made)
        return Reproduction(
            record=uri,
            identical=identical,
            pixels_sha256=found,
            recorded_pixels_sha256=record.output.pixels_sha256,
            psnr_db=psnr_db,
            largest_difference=largest,
            differs=tuple(self._differences(record, model)),
        )

    def _record(self, uri: str) -> Record:
        try:
            return Record.model_validate_json(self._outputs.get(uri))
        except ValidationError:
            raise SettingsError(f"{uri}: accepted: the record of a picture") from None

    def _pictures(self, record: Record) -> Pictures:
        recorded = record.sources
        return Pictures(
            self._picture(recorded.image) if recorded.image else None,
            self._picture(recorded.mask) if recorded.mask else None,
            tuple(self._picture(each) for each in recorded.reference),
        )

    def _picture(self, source: SourceRecord) -> Picture:
        """Return a source in its recorded version, if it has one, checked by its hash."""
        uri = source.uri
        if not is_s3(uri):
            if self._asked.folder is None:
                raise SourceMissing(f"{uri} was a local file: name the folder that holds it")
            uri = str(self._asked.folder / PurePath(uri).name)  # a record may name any path
        try:
            data, _ = self._sources.get_version(uri, source.version_id)
        except NotFound as error:
            raise SourceMissing(str(error)) from None
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != source.sha256:
            raise SourceChanged(f"{uri}: sha256 {sha256}, recorded {source.sha256}")
        return codec.decode(data, ImageLimits())

    def _model(self, record: Record) -> AceModel:
        recorded = record.model
        name = self._asked.variant or recorded.place or recorded.variant
        made_so = name, recorded.adapter_mode or "resident", recorded.speed
        if self._loaded is None or self._loaded[0] != made_so:
            variant = open_variant(name, self._weights)
            check_license(variant, self._weights)
            _, mode, speed = made_so
            loaded = AceModel.load(
                variant,
                self._weights,
                self._device,
                adapter_mode=mode,  # type: ignore[arg-type]
                speed=speed,  # type: ignore[arg-type]
            )
            self._loaded = made_so, loaded
        model = self._loaded[1]
        adapters = model.identity.adapters.values()
        if (model.identity.base, model.identity.encoders) != (recorded.base, recorded.encoders) or (
            recorded.adapter and recorded.adapter not in adapters
        ):
            raise WeightsError(f"variant {name!r} is not the recorded model: other weights")
        return model

    def _make(
        self, record: Record, resolved: Resolved, pictures: Pictures, model: AceModel
    ) -> EditedPixels:
        vision = Vision(self._vision_for(resolved), self._weights, self._device)
        edit = PictureEdit.prepare(
            resolved,
            pictures,
            route=model.variant.route,
            segment=vision.segment,
            estimate=vision.draw,
        )
        if record.sampling is None:
            return edit.finish(None)
        jobs = edit.jobs([record.sampling.seed] * self._asked.batch_size)
        return edit.finish(model.generate(jobs)[0])

    def _vision_for(self, resolved: Resolved) -> VisionSettings:
        """Return the vision models that the environment names.

        Raises SettingsError if a model that the record needs is not among them.
        """
        if self._vision is None:
            self._vision = open_vision(self._environment, self._weights)
        settings = self._vision
        made = resolved.auto_mask
        auto = made.model if made and made.method == "model" else None
        drawn = getattr(settings, resolved.control, None)
        for wanted, given in ((resolved.control_model, drawn), (auto, settings.segmenter)):
            if wanted and (given is None or given.fingerprint != wanted):
                raise SettingsError(
                    f"the environment names no vision model with the recorded fingerprint {wanted}"
                )
        return settings

    def _distance(self, record: Record, made: EditedPixels) -> tuple[float | None, int | None]:
        """Return PSNR and largest difference to the published file, its compression included."""
        try:
            published = codec.decode(self._outputs.get(record.output.uri), ImageLimits())
        except NotFound:
            return None, None
        rgb = published.rgb if published.straight is None else published.straight
        if rgb.shape != made.rgb.shape:
            return None, None
        psnr_db, largest = psnr(rgb, made.rgb), int(np.abs(rgb.astype(np.int16) - made.rgb).max())
        return (psnr_db if largest else None), largest

    def _differences(self, record: Record, model: AceModel) -> Iterator[str]:
        run, recorded = record.run, record.model
        now = runtime_info.versions()
        for name, version in sorted(run.versions.items()):
            if now.get(name) != version:
                yield f"{name} {now.get(name, 'absent')}, recorded {version}"
        hardware = runtime_info.hardware(self._device)
        batch_size = record.sampling.batch_size if record.sampling else self._asked.batch_size
        pairs: dict[str, tuple[object, object]] = {
            "pixels version": (PIXELS_VERSION, record.pixels_version),
            "device": (self._device, recorded.device),
            "speed": (model.speed, recorded.speed),
            "attention": (model.attention, recorded.attention),
            "precision": (
                model.fast_path.precision or model.identity.dtype,
                recorded.precision or recorded.dtype,
            ),
            "batch size": (self._asked.batch_size, batch_size),
        }
        if recorded.hardware:
            pairs |= {
                "hardware": (hardware.name, recorded.hardware.name),
                "driver": (hardware.driver, recorded.hardware.driver),
                "threads": (hardware.threads, recorded.hardware.threads),
            }
        if run.code:
            pairs["code"] = (runtime_info.code(), run.code)
        for name, (here, there) in pairs.items():
            if there is not None and here != there:
                yield f"{name} {here}, recorded {there}"


def record_uris(store: Store, place: str) -> Iterator[str]:
    """Yield `place` itself if it is the URI of a record, else all records under that output."""
    if place.endswith(".json"):
        yield place
        return
    for each in store.list(join_uri(place, "records/")):
        yield each.uri
