"""The columns of a catalog row: what each may hold, and how text is parsed into it."""

from __future__ import annotations

import json
import re
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
    model_validator,
)

MAX_SEED = 2**32 - 1
MAX_URI_CHARS = 2048
_CONTROL_CHARS = re.compile(r"[\x00-\x1f\x7f]")
# Bucket names that boto3 accepts. Stores differ in which of them they allow.
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")
_MAX_KEY_BYTES = 1024  # S3 User Guide, "Creating object key names"
_GIVEN_CHARS = 80  # how much of a wrong value an error message quotes


class Frozen(BaseModel):
    """An immutable model that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def quote(value: Any) -> str:
    """Return a wrong value as an error message shows it: one line, cut short."""
    text = repr(value)
    return text if len(text) <= _GIVEN_CHARS else text[:_GIVEN_CHARS] + "…"


def _check_row_id(value: str) -> str:
    if value in {".", ".."}:
        raise ValueError("an id may not be '.' or '..'")
    return value


def check_uri(value: str) -> str:
    """Return `s3://bucket/key` or a local path unchanged. Raises ValueError for anything else."""
    if _CONTROL_CHARS.search(value):
        raise ValueError("a URI may not hold control characters")
    if "://" in value:
        scheme, rest = value.split("://", 1)
        bucket, _, key = rest.partition("/")
        if scheme != "s3":
            raise ValueError(f"accepted: s3://bucket/key or a local path; given scheme {scheme!r}")
        if not bucket or not key:
            raise ValueError("an S3 URI needs a bucket and a key: s3://bucket/key")
        # A store answers other names with a bare HTTP 400, as it does for stale credentials.
        if not _BUCKET.fullmatch(bucket):
            raise ValueError(f"accepted buckets: letters, digits, . _ -; given {quote(bucket)}")
        if {".", ".."} & set(key.split("/")):
            raise ValueError("an S3 key may not have '.' or '..' between its slashes")
        if len(key.encode()) > _MAX_KEY_BYTES:
            raise ValueError(f"accepted: S3 keys of at most {_MAX_KEY_BYTES} bytes")
    return value


def _number_to_text(value: Any) -> Any:
    # Spreadsheets and Parquet give numeric ids as numbers. True is not an id.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


RowId = Annotated[
    str,
    # This must stand next to `str`, or the JSON Schema lacks the pattern.
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
    """A rectangle, in fractions of the picture if every number is at most 1, else in pixels."""

    box: Annotated[Bounds, AfterValidator(_check_bounds)] = Field(
        description="[left, top, right, bottom]; right and bottom are exclusive."
    )


class Ellipse(Frozen):
    """The ellipse inside a rectangle, in fractions if every number is at most 1, else in pixels."""

    ellipse: Annotated[Bounds, AfterValidator(_check_bounds)] = Field(
        description="[left, top, right, bottom] of the bounding box."
    )


class Polygon(Frozen):
    """A filled polygon, in fractions if every number is at most 1, else in pixels."""

    polygon: tuple[Point, ...] = Field(
        min_length=3, max_length=10_000, description="Corners as [x, y], at least three."
    )

    @model_validator(mode="after")
    def _inside(self) -> Polygon:
        if any(coordinate < 0 for point in self.polygon for coordinate in point):
            raise ValueError("corners may not be negative")
        return self


Shape = Box | Polygon | Ellipse


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object as a dict. Raises ValueError for a repeated key."""
    cells = dict(pairs)
    if len(cells) < len(pairs):
        keys = [key for key, _ in pairs]
        again = next(key for n, key in enumerate(keys) if key in keys[:n])
        raise ValueError(f"key {again!r} appears twice")
    return cells


def _parse_json_cell(value: Any) -> Any:
    """Parse a cell that looks like a JSON object or list, because CSV has text only."""
    if isinstance(value, str) and value.lstrip()[:1] in {"{", "["}:
        try:
            return json.loads(value, object_pairs_hook=unique_keys)
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
    # In the schema a value is any of these, not exactly one: "alpha" is text just as a URI is.
    BeforeValidator(
        _parse_json_cell,
        json_schema_input_type=Box | Polygon | Ellipse | Literal["alpha", "auto"] | Uri,
    ),
]


def _text_to_flag(value: Any) -> Any:
    # CSV has text only. pydantic alone would also accept 1, "on" and "y".
    return (
        {"true": True, "false": False}.get(value.lower(), value)
        if isinstance(value, str)
        else value
    )


def _one_or_many(value: Any) -> Any:
    value = _parse_json_cell(value)
    return (value,) if isinstance(value, str) else value


_UriList = Annotated[tuple[Uri, ...], Field(min_length=1, max_length=8)]
References = Annotated[
    _UriList, BeforeValidator(_one_or_many, json_schema_input_type=Uri | _UriList)
]
Flag = Annotated[bool, BeforeValidator(_text_to_flag)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Label = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f,]{1,64}$")]
Adapter = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,64}$")]
BACKGROUND = r"^(white|transparent|#[0-9A-Fa-f]{6})$"
Background = Annotated[str, StringConstraints(pattern=BACKGROUND)]
ImageFormat = Literal["png", "jpeg", "webp", "avif"]
EXTENSIONS: dict[str, str] = {"png": "png", "jpeg": "jpg", "webp": "webp", "avif": "avif"}
MEDIA_TYPES: dict[str, str] = {name: f"image/{name}" for name in EXTENSIONS}
Control = Literal["none", "canny", "gray", "mosaic", "depth", "contour"]
