"""Edit pictures in Python, one after another: no catalog, no Prefect, no Ray, no S3.

A picture comes out as in a run over a catalog with that row. The environment's settings (`ACE_…`)
apply as they do to a run.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from PIL import Image

from ace_tasks.errors import BadImage, BadRow, SettingsError, SourceMissing
from ace_tasks.images import codec
from ace_tasks.images.codec import Picture, Pictures
from ace_tasks.model.ace import AceModel
from ace_tasks.model.sources import check_license, open_variant, open_vision, with_vision
from ace_tasks.model.speed import Speed
from ace_tasks.model.vision import Vision
from ace_tasks.provenance.record import Scores
from ace_tasks.replica import runtime_info
from ace_tasks.replica.batching import Batcher
from ace_tasks.replica.edit import EditedPixels
from ace_tasks.replica.painter import Painter
from ace_tasks.replica.picture_file import File, FileMaker
from ace_tasks.replica.progress import Progress
from ace_tasks.settings import (
    Environment,
    ImageLimits,
    WeightsSettings,
    cpu_count,
    read_environment,
)
from ace_tasks.specs import (
    AutoMask,
    PixelSettings,
    Shape,
    Source,
    Sources,
    WorkItem,
    parse_spec,
    quote,
    work_item,
)

_AS_A_RUN = PixelSettings(auto_mask=AutoMask(method="u2net"))
_ACCEPTED = "a path on this machine, the bytes of a file, or a PIL.Image.Image"
_SHAPES = '{"box": […]}, {"polygon": […]}, {"ellipse": […]}, "alpha" or "auto"'
_LIMITS = ImageLimits()


@dataclass(frozen=True, eq=False)
class Edited:
    """An edited picture, and what it was made from."""

    item: WorkItem  # `item.resolved` has every setting, defaults filled in
    pixels: EditedPixels
    file: File  # as a run publishes it: `file.data` are its bytes
    seed: int  # of the best candidate
    scores: Scores
    hints: Mapping[str, str] = field(default_factory=dict)  # what looks like a mistake in its mask

    @property
    def picture(self) -> Image.Image:
        """The picture for Pillow: RGB, or RGBA if it has transparency, with its colour profile."""
        rgb, alpha, profile = self.pixels.rgb, self.pixels.alpha, self.pixels.icc_profile
        made = Image.fromarray(rgb)
        if alpha is not None:
            made.putalpha(Image.fromarray(alpha))
        if profile is not None:
            made.info["icc_profile"] = profile
        return made

    def save(self, path: str | Path) -> None:
        """Write the file. Raises SettingsError if the name ends like that of another format."""
        accepted = {f".{self.file.extension}", f".{self.file.format}"}
        if Path(path).suffix.lower() not in accepted:
            raise SettingsError(
                f"accepted: a name that ends in {' or '.join(sorted(accepted))}, or another "
                f"`format` of the edit; given {str(path)!r}"
            )
        Path(path).write_bytes(self.file.data)


class Editor:
    """One loaded model. Thread-safe.

        editor = Editor("mini")
        edited = editor.edit(task="edit", image="mug.png", prompt="the mug is red", seed=1)
        edited.save("red.png")

    On a CPU it sets torch's number of threads for the whole process, as a run does: that number
    decides a picture's last bits (`ACE_TORCH_THREADS`; all cores if it is empty).
    """

    def __init__(
        self,
        variant: str,
        *,
        device: Literal["cpu", "cuda"] | None = None,
        pixels: PixelSettings = _AS_A_RUN,
        accept_license: bool = False,
    ):
        """Load a variant, named by its name or by the place of its `variant.json`.

        If `device` is None, it is `ACE_DEVICE`, else a GPU if there is one. `pixels` is what a run
        decides for all its rows. Raises SettingsError and WeightsError.
        """
        environment = read_environment()
        device = device or environment.device or runtime_info.best_device()
        weights = environment.weights(accept_license=accept_license)
        speed: Speed = "fast" if pixels.shortcuts else "exact"
        model = _load(variant, environment, weights, device, speed)
        vision = open_vision(environment, weights)
        self._identity, self._pixels = model.identity, with_vision(pixels, vision)
        self._gpu = Batcher(
            lambda jobs, memory: model.generate(jobs, memory=memory),
            environment.batch_size,
            model.memory,
        )
        self._painter = Painter(model.variant.route, self._gpu, Vision(vision, weights, device))
        self._files = FileMaker(model.identity, environment.marks, _LIMITS)

    def edit(self, **columns: Any) -> Edited:
        """Edit one picture. `columns` are those of a catalog's row; the `id` may be left out.

        `image`, `mask` and `reference` (one, or a list) take a path on this machine, the bytes of a
        file, or a Pillow image, which counts as a PNG. A mask may also be a shape, "alpha" or
        "auto", as in a catalog. Raises BadRow naming the column, what is accepted and what was
        given. Raises SourceMissing, BadImage, BadMask, BadOutput and OutOfMemory.
        """
        item, pictures = self._read(columns)
        edit = self._painter.prepare(item.resolved, pictures)
        painted = self._painter.paint(edit, Progress())
        pixels = edit.framed(painted.best.pixels)
        file = self._files.encode(edit, pixels, item.item_id, ran=painted.ran)
        return Edited(item, pixels, file, painted.seed, painted.best.scores, edit.hints)

    def close(self) -> None:
        """End the model's thread. Further edits raise Cancelled."""
        self._gpu.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, columns: Mapping[str, Any]) -> tuple[WorkItem, Pictures]:
        files = _GivenFiles()
        spec = parse_spec({"id": "picture", **files.named(columns)})
        sources = Sources.of(spec, files.source)
        item = work_item(1, spec, sources, self._identity, self._pixels)
        return item, Pictures(
            files.picture(sources.image) if sources.image else None,
            files.picture(sources.mask) if sources.mask else None,
            tuple(map(files.picture, sources.reference)),
        )


def _load(
    variant: str,
    environment: Environment,
    weights: WeightsSettings,
    device: Literal["cpu", "cuda"],
    speed: Speed,
) -> AceModel:
    if device == "cpu":
        runtime_info.use_threads(environment.torch_threads or cpu_count())
    found = open_variant(variant, weights)
    check_license(found, weights)
    return AceModel.load(found, weights, device, adapter_mode=environment.adapter_mode, speed=speed)


class _GivenFiles:
    """The pictures given to one edit, by the names that its row has for them."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}

    def named(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns with a name for each picture, as in a catalog's row. Raises BadRow."""
        row = dict(columns)
        for column in ("image", "mask", "reference"):
            value = row.get(column)
            if column == "reference" and isinstance(value, list | tuple):
                row[column] = [
                    self._name(f"reference {n}", each) for n, each in enumerate(value, 1)
                ]
            elif value is not None:
                row[column] = self._name(column, value)
        return row

    def _name(self, name: str, value: Any) -> Any:
        """Return the name of a picture. A path is its own name; a mask's shape stays as it is."""
        if isinstance(value, str) and "://" not in value:
            return value
        if isinstance(value, Path):
            return str(value)
        if name == "mask" and isinstance(value, dict | Shape):
            return value
        self._files[f"<{name}>"] = _file_of(name, value)
        return f"<{name}>"

    def source(self, uri: str) -> Source:
        """Return a picture's identity, made from its content. Raises SourceMissing."""
        if uri not in self._files:
            self._files[uri] = _read_file(uri)
        data = self._files[uri]
        return Source(uri=uri, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    def picture(self, source: Source) -> Picture:
        try:
            return codec.decode(self._files[source.uri], _LIMITS)
        except BadImage as error:
            raise BadImage(f"{source.uri}: {error}") from None


def _file_of(column: str, value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, Image.Image):
        return _as_png(column, value)
    accepted = f"{_ACCEPTED}, {_SHAPES}" if column == "mask" else _ACCEPTED
    given = " ".join(quote(value).split())  # that of an array has line breaks
    raise BadRow(column.partition(" ")[0], f"{column}: accepted: {accepted}; given {given}")


def _as_png(column: str, picture: Image.Image) -> bytes:
    """Return a PNG of the picture, with its colour profile and its orientation. Raises BadRow."""
    out = io.BytesIO()
    profile = picture.info.get("icc_profile")
    try:
        picture.save(out, "PNG", icc_profile=profile, exif=picture.getexif())
    except OSError as error:
        raise BadRow(
            column.partition(" ")[0],
            f"{column}: accepted: a picture that PNG can hold; given {picture.mode}: {error}",
        ) from None
    return out.getvalue()


def _read_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SourceMissing(f"{path}: {error.strerror}") from None
