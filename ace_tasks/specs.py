"""Task specs: what a catalog row may ask for, and the identity of an item.

A catalog row is one of four frozen models, told apart by `task`. `resolve` turns a spec and a
model's identity into the settings that decide the pixels; `item_id` hashes those together with
the sources' identities, so the same request on the same bytes is the same item for ever, in
whatever catalog, row or order it comes back.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from ace_tasks.errors import BadRow

# Raise by hand whenever a change of code changes published pixels: every item becomes a new one.
# 2: special tokens, cleaned prompts, guidance in float32; 3: paste-back, alpha and profile kept.
PIXELS_VERSION = 3

MAX_SEED = 2**32 - 1
MAX_URI_CHARS = 2048
_GIVEN_CHARS = 80  # how much of a wrong value an error message quotes
_CONTROL_CHARS = re.compile(r"[\x00-\x1f\x7f]")
# What boto3 takes for a bucket; stores differ in what they allow of it.
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")
_MAX_KEY_BYTES = 1024  # S3 User Guide, "Creating object key names"


class Frozen(BaseModel):
    """Immutable, and refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# ---------------------------------------------------------------- columns


def _check_row_id(value: str) -> str:
    if value in {".", ".."}:
        raise ValueError("an id may not be '.' or '..'")
    return value


def check_uri(value: str) -> str:
    """`s3://bucket/key` or a local path; anything else is refused."""
    if _CONTROL_CHARS.search(value):
        raise ValueError("a URI may not hold control characters")
    if "://" in value:
        scheme, rest = value.split("://", 1)
        bucket, _, key = rest.partition("/")
        if scheme != "s3":
            raise ValueError(f"accepted: s3://bucket/key or a local path; given scheme {scheme!r}")
        if not bucket or not key:
            raise ValueError("an S3 URI needs a bucket and a key: s3://bucket/key")
        # A store answers these with a bare HTTP 400, as it does when our credentials are stale.
        if not _BUCKET.fullmatch(bucket):
            raise ValueError(f"accepted buckets: letters, digits, . _ -; given {quote(bucket)}")
        if {".", ".."} & set(key.split("/")):
            raise ValueError("an S3 key may not have '.' or '..' between its slashes")
        if len(key.encode()) > _MAX_KEY_BYTES:
            raise ValueError(f"accepted: S3 keys of at most {_MAX_KEY_BYTES} bytes")
    return value


def _number_to_text(value: Any) -> Any:
    # Spreadsheets and Parquet give numeric ids as numbers; True is no id.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


RowId = Annotated[
    str,
    # Next to `str`, or the pattern is missing from the JSON Schema.
    StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,128}$"),
    AfterValidator(_check_row_id),
    BeforeValidator(_number_to_text),
]
Uri = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_URI_CHARS), AfterValidator(check_uri)
]
Point = tuple[float, float]
Bounds = tuple[float, float, float, float]


def _check_bounds(bounds: Bounds) -> Bounds:
    left, top, right, bottom = bounds
    if not (0 <= left < right and 0 <= top < bottom):
        raise ValueError(
            f"accepted: [left, top, right, bottom] with 0 <= left < right and "
            f"0 <= top < bottom; given {list(bounds)}"
        )
    return bounds


class Box(Frozen):
    """A rectangle. Fractions of the picture if every number is at most 1, else pixels."""

    box: Annotated[Bounds, AfterValidator(_check_bounds)] = Field(
        description="[left, top, right, bottom]; right and bottom are exclusive."
    )


class Ellipse(Frozen):
    """The ellipse inside a rectangle. Fractions if every number is at most 1, else pixels."""

    ellipse: Annotated[Bounds, AfterValidator(_check_bounds)] = Field(
        description="[left, top, right, bottom] of the bounding box."
    )


class Polygon(Frozen):
    """A filled polygon. Fractions if every number is at most 1, else pixels."""

    polygon: tuple[Point, ...] = Field(
        min_length=3, max_length=10_000, description="Corners as [x, y], at least three."
    )

    @model_validator(mode="after")
    def _inside(self) -> Polygon:
        if any(coordinate < 0 for point in self.polygon for coordinate in point):
            raise ValueError("corners may not be negative")
        return self


Shape = Box | Polygon | Ellipse


def _parse_json_cell(value: Any) -> Any:
    """CSV has text only: a cell that looks like a JSON object or list is read as one."""
    if isinstance(value, str) and value.lstrip()[:1] in {"{", "["}:
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"looks like JSON but is not: {error}") from None
    return value


def _drop_nulls(value: Any) -> Any:
    # A Parquet struct column has every key in every row.
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _mask_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "word" if value in {"alpha", "auto"} else "uri"
    if isinstance(value, dict) and len(value) == 1:
        return next((kind for kind in ("box", "polygon", "ellipse") if kind in value), None)
    for kind, model in (("box", Box), ("polygon", Polygon), ("ellipse", Ellipse)):
        if isinstance(value, model):
            return kind
    return None


Mask = Annotated[
    Annotated[
        Annotated[Box, Tag("box")]
        | Annotated[Polygon, Tag("polygon")]
        | Annotated[Ellipse, Tag("ellipse")]
        | Annotated[Literal["alpha", "auto"], Tag("word")]
        | Annotated[Uri, Tag("uri")],
        Discriminator(
            _mask_kind,
            custom_error_type="mask_kind",
            custom_error_message='accepted: a URI, {"box": [...]}, {"polygon": [...]}, '
            '{"ellipse": [...]}, "alpha" or "auto"',
        ),
    ],
    BeforeValidator(_drop_nulls),
    # "alpha" is text as a URI is: any of these, where the union above makes it one of them.
    BeforeValidator(
        _parse_json_cell,
        json_schema_input_type=Box | Polygon | Ellipse | Literal["alpha", "auto"] | Uri,
    ),
]


def _one_or_many(value: Any) -> Any:
    value = _parse_json_cell(value)
    return (value,) if isinstance(value, str) else value


_UriList = Annotated[tuple[Uri, ...], Field(min_length=1, max_length=8)]
References = Annotated[
    _UriList, BeforeValidator(_one_or_many, json_schema_input_type=Uri | _UriList)
]
Adapter = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,64}$")]
ImageFormat = Literal["png", "jpeg", "webp", "avif"]
Control = Literal["none", "canny", "gray", "mosaic", "depth", "contour"]

_MASK_DESCRIPTION = (
    'A URI of a picture of the same size (white = repaint), {"box": [...]}, {"polygon": [...]}, '
    '{"ellipse": [...]}, "alpha" or "auto".'
)


# ---------------------------------------------------------------- the four tasks


class _Spec(Frozen):
    id: RowId = Field(description="Names the row; unique in a catalog; part of the picture's key.")
    prompt: str = Field(
        min_length=1, max_length=4000, description="What to do, or what shall be seen."
    )
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="Noise seed; derived from the row's content if empty."
    )
    steps: int | None = Field(
        None, ge=1, le=200, description="Denoise steps; the variant's if empty."
    )
    guidance: float | None = Field(
        None, ge=0, le=100, description="Distilled guidance; the variant's if empty."
    )
    adapter: Adapter | None = Field(
        None, description="LoRA adapter; chosen by task if empty. LoRA route only."
    )
    format: ImageFormat | None = Field(
        None, description="Output format; the source's if empty, PNG where there is no source."
    )
    candidates: int | None = Field(
        None, ge=1, le=16, description="How many pictures to try, keeping the best."
    )


class Fill(_Spec):
    """Repaint the masked area."""

    task: Literal["fill"] = Field(description="Repaint the masked area from the prompt.")
    image: Uri = Field(description="The picture to repaint.")
    mask: Mask = Field(description=_MASK_DESCRIPTION)


class Edit(_Spec):
    """Change the picture, or its masked area, as told."""

    task: Literal["edit"] = Field(description="Change the picture, or its masked area, as told.")
    image: Uri = Field(description="The picture to edit.")
    mask: Mask | None = Field(None, description=_MASK_DESCRIPTION + " Empty: the whole picture.")
    control: Control | None = Field(
        None, description="Replace the source by a control map before editing."
    )


class Reference(_Spec):
    """Make a new picture of what the references show."""

    task: Literal["reference"] = Field(
        description="Make a new picture of what the references show."
    )
    reference: References = Field(description="Reference picture: one URI or a list of them.")
    width: int | None = Field(
        None, ge=64, le=4096, description="Width in pixels; the variant's if empty."
    )
    height: int | None = Field(
        None, ge=64, le=4096, description="Height in pixels; the variant's if empty."
    )


class TryOn(_Spec):
    """Put the garment or object of the reference into the masked area."""

    task: Literal["try_on"] = Field(
        description="Put the garment or object of the reference into the masked area."
    )
    image: Uri = Field(description="The person or the scene.")
    mask: Mask = Field(description=_MASK_DESCRIPTION)
    reference: References = Field(description="Garment or object: one URI or a list of them.")


TaskSpec = Annotated[Fill | Edit | Reference | TryOn, Field(discriminator="task")]
TASKS: dict[str, type[Fill | Edit | Reference | TryOn]] = {
    "fill": Fill,
    "edit": Edit,
    "reference": Reference,
    "try_on": TryOn,
}
_spec_adapter: TypeAdapter[Fill | Edit | Reference | TryOn] = TypeAdapter(TaskSpec)


def row_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of one catalog row."""
    schema = _spec_adapter.json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ace-catalog row",
        **schema,
    }


def parse_spec(row: dict[str, Any]) -> Fill | Edit | Reference | TryOn:
    """A row as read from a catalog → its spec. Empty cells (None, "") count as not given.

    Raises BadRow naming the column, what is accepted and what was given.
    """
    given = {str(k): v for k, v in row.items() if v is not None and v != ""}
    task = given.get("task")
    if task is None:
        raise BadRow("task", f"missing (accepted: {', '.join(TASKS)})")
    if not isinstance(task, str) or task not in TASKS:
        raise BadRow("task", f"accepted: {', '.join(TASKS)}; given {quote(task)}")
    model = TASKS[task]
    unknown = sorted(given.keys() - model.model_fields.keys())
    if unknown:
        known = any(unknown[0] in other.model_fields for other in TASKS.values())
        what = f"not a column of task {task!r}" if known else "unknown column"
        raise BadRow(unknown[0], f"{what} (accepted: {', '.join(model.model_fields)})")
    for column, value in given.items():
        if isinstance(value, bool):  # pydantic would read true as the number 1
            raise BadRow(column, f"accepted: text or a number; given {quote(value)}")
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0]) if first["loc"] else None
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing" and len(first["loc"]) == 1:
            raise BadRow(field, f"missing; task {task!r} needs it") from None
        if "given" not in message:
            message = f"{message}; given {quote(first['input'])}"
        raise BadRow(field, message) from None


def quote(value: Any) -> str:
    """A wrong value as an error message shows it: one line, cut short."""
    text = repr(value)
    return text if len(text) <= _GIVEN_CHARS else text[:_GIVEN_CHARS] + "…"


# ---------------------------------------------------------------- identity


class Source(Frozen):
    """One input object as it was when planned. `sha256` is hex."""

    uri: str
    etag: str | None = None
    size_bytes: int = 0
    sha256: str | None = None
    problem: str | None = Field(None, description="Why it could not be identified, if so.")

    def identity(self) -> dict[str, Any]:
        """What tells these bytes from others: the checksum if known, else ETag and size."""
        if self.problem:  # once the object is there, the item is another one
            return {"uri": self.uri, "problem": self.problem}
        if self.sha256:
            return {"sha256": self.sha256}
        return {"etag": self.etag, "size_bytes": self.size_bytes}


class Sources(Frozen):
    """The input objects of one item."""

    image: Source | None = None
    mask: Source | None = None
    reference: tuple[Source, ...] = ()

    def each(self) -> Iterator[Source]:
        yield from (source for source in (self.image, self.mask) if source)
        yield from self.reference


class ModelIdentity(Frozen):
    """What planning must know of a model; no weights are loaded for it.

    Fingerprints are SHA-256 (hex) over the variant's own list of file hashes.
    """

    variant: str
    route: Literal["lora", "fft"]
    base: str = Field(description="Fingerprint of transformer and VAE.")
    encoders: str = Field(description="Fingerprint of text encoders and tokenizers.")
    adapters: dict[str, str] = Field(description="Adapter name → fingerprint.")
    steps: int
    guidance: float
    max_seq_len: int = Field(description="Token budget of a canvas, references included.")
    keep_pixels_rate: float | None = Field(
        None,
        description="References are no higher than this share of the target, and no larger than "
        "they are; None: as high as the target.",
    )
    width_px: int
    height_px: int
    dtype: Literal["float32", "bfloat16"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all of it: the same model, whatever node it is on."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json"))).hexdigest()


class PasteSettings(Frozen):
    """How a model's answer comes back into the picture it repaints a part of."""

    feather: float = Field(
        0.01,
        ge=0,
        le=0.25,
        description="Width of the blend outside the mask, in longer sides of what the model sees.",
    )
    crop_to_mask: bool = Field(
        True,
        description="Show the model a window round a mask that is small in a large picture.",
    )
    context: float = Field(
        0.5, ge=0, le=4, description="Margin of such a window, in sides of the mask."
    )
    min_gain: float = Field(
        1.25, ge=1, description="How much sharper a window must be to be worth less context."
    )


class PixelSettings(Frozen):
    """What a run decides for all its rows."""

    geometry: Literal["catalog", "reference"] = Field(
        "catalog",
        description="catalog: sizes are kept, what is outside a mask stays. reference: as ACE++'s "
        "own code does it.",
    )
    paste: PasteSettings = PasteSettings()


DEFAULT_PIXELS = PixelSettings()


class Resolved(Frozen):
    """Every setting that can change a published pixel or its encoding, defaults filled in."""

    task: Literal["fill", "edit", "reference", "try_on"]
    prompt: str
    mask: Shape | Literal["alpha", "auto", "file"] | None
    control: Control
    repainting_scale: float
    keep_pixels_rate: float | None
    geometry: Literal["catalog", "reference"]
    paste: PasteSettings | None = Field(description="None: the model's answer is taken whole.")
    width: int | None
    height: int | None
    sampler: Literal["flow_match_euler"] = "flow_match_euler"
    steps: int
    guidance: float
    max_seq_len: int
    dtype: str
    adapter: Adapter | None
    seed: int
    candidates: int
    format: Literal["source", "png", "jpeg", "webp", "avif"]
    quality: int = Field(description="0-100, for the lossy formats.")


class WorkItem(Frozen):
    """One planned edit: all a replica needs, and all that identifies it."""

    item_id: str
    line: int = Field(description="1-based line or row number in the catalog.")
    spec: TaskSpec
    resolved: Resolved
    sources: Sources

    @property
    def row_id(self) -> str:
        return self.spec.id


# Adapter by task on the LoRA route (DESIGN, Catalog).
_TASK_ADAPTER: dict[str, Adapter] = {
    "fill": "local_editing",
    "edit": "local_editing",
    "reference": "subject",
    "try_on": "subject",
}
_JPEG_QUALITY = 95


def _repainting_scale(spec: Fill | Edit | Reference | TryOn, route: str) -> float:
    """How much of the masked content is erased: 1 all, 0 none (ACE_SPEC 2, table)."""
    if not isinstance(spec, Edit):
        return 1.0
    return 0.5 if route == "lora" and spec.mask is not None else 0.0


def _adapter(spec: Fill | Edit | Reference | TryOn, model: ModelIdentity) -> Adapter | None:
    if spec.adapter is None:
        chosen = _TASK_ADAPTER[spec.task]
        return chosen if chosen in model.adapters else None
    if spec.adapter not in model.adapters:
        accepted = ", ".join(sorted(model.adapters)) or "none"
        raise BadRow(
            "adapter",
            f"variant {model.variant!r} has no such adapter (accepted: {accepted}); "
            f"given {spec.adapter!r}",
        )
    return spec.adapter


def canonical_json(value: Any) -> bytes:
    """UTF-8, sorted keys, no spaces, None dropped at every level."""

    def clean(each: Any) -> Any:
        if isinstance(each, dict):
            return {k: clean(v) for k, v in each.items() if v is not None}
        if isinstance(each, list | tuple):
            return [clean(v) for v in each]
        return each

    return json.dumps(
        clean(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    ).encode()


def resolve(
    spec: Fill | Edit | Reference | TryOn,
    sources: Sources,
    model: ModelIdentity,
    pixels: PixelSettings = DEFAULT_PIXELS,
) -> Resolved:
    """Fill in every default. Raises BadRow when the model has not what the row asks for."""
    mask = getattr(spec, "mask", None)
    new_picture = isinstance(spec, Reference)
    settings: dict[str, Any] = {
        "task": spec.task,
        "prompt": spec.prompt,
        "mask": "file" if sources.mask else mask,
        "control": getattr(spec, "control", None) or "none",
        "repainting_scale": _repainting_scale(spec, model.route),
        "keep_pixels_rate": model.keep_pixels_rate if sources.reference else None,
        "geometry": pixels.geometry,
        "paste": pixels.paste if mask is not None and pixels.geometry == "catalog" else None,
        "width": (spec.width or model.width_px) if isinstance(spec, Reference) else None,
        "height": (spec.height or model.height_px) if isinstance(spec, Reference) else None,
        "steps": spec.steps or model.steps,
        "guidance": model.guidance if spec.guidance is None else spec.guidance,
        "max_seq_len": model.max_seq_len,
        "dtype": model.dtype,
        "adapter": _adapter(spec, model),
        "candidates": spec.candidates or 1,
        "format": spec.format or ("png" if new_picture else "source"),
        "quality": _JPEG_QUALITY,
    }
    seed = spec.seed if spec.seed is not None else _derived_seed(settings, sources)
    return Resolved(seed=seed, **settings)


def _identities(sources: Sources) -> dict[str, Any]:
    return {
        "image": sources.image.identity() if sources.image else None,
        "mask": sources.mask.identity() if sources.mask else None,
        "reference": [each.identity() for each in sources.reference],
    }


def _derived_seed(settings: dict[str, Any], sources: Sources) -> int:
    content = {
        key: value.model_dump() if isinstance(value, BaseModel) else value
        for key, value in settings.items()
    }
    digest = hashlib.sha256(canonical_json([content, _identities(sources)])).digest()
    return int.from_bytes(digest[:4], "big")


def item_id(resolved: Resolved, sources: Sources, model: ModelIdentity) -> str:
    """SHA-256 (hex) of everything that decides the picture; not of row id, run or place."""
    adapter = model.adapters[resolved.adapter] if resolved.adapter else None
    content = {
        "pixels_version": PIXELS_VERSION,
        "settings": resolved.model_dump(mode="json"),
        "sources": _identities(sources),
        "model": {"base": model.base, "encoders": model.encoders, "adapter": adapter},
    }
    return hashlib.sha256(canonical_json(content)).hexdigest()


def work_item(
    line: int,
    spec: Fill | Edit | Reference | TryOn,
    sources: Sources,
    model: ModelIdentity,
    pixels: PixelSettings = DEFAULT_PIXELS,
) -> WorkItem:
    """Resolve a spec and identify it. Raises BadRow."""
    resolved = resolve(spec, sources, model, pixels)
    return WorkItem(
        item_id=item_id(resolved, sources, model),
        line=line,
        spec=spec,
        resolved=resolved,
        sources=sources,
    )
