"""The five tasks that a catalog row may ask for: frozen models, distinguished by `task`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, TypeAdapter, ValidationError

from ace_tasks.errors import BadRow
from ace_tasks.specs.columns import (
    MAX_SEED,
    Adapter,
    Background,
    Control,
    Flag,
    Frozen,
    ImageFormat,
    Label,
    Mask,
    Name,
    References,
    RowId,
    Uri,
    quote,
)

_MASK_DESCRIPTION = (
    'A URI of a picture of the same size (white = repaint), {"box": [...]}, {"polygon": [...]}, '
    '{"ellipse": [...]}, "alpha" or "auto".'
)


class _Spec(Frozen):
    id: RowId = Field(
        description="Name of the row, unique in a catalog. Part of the picture's key."
    )
    prompt: str = Field(
        min_length=1, max_length=4000, description="What to do, or what the picture should show."
    )
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="Noise seed. Empty: derived from the row's content."
    )
    steps: int | None = Field(
        None, ge=1, le=200, description="Denoise steps. Empty: the variant's."
    )
    guidance: float | None = Field(
        None, ge=0, le=100, description="Distilled guidance. Empty: the variant's."
    )
    adapter: Adapter | None = Field(
        None, description="LoRA adapter, on the LoRA route only. Empty: chosen by task."
    )
    format: ImageFormat | None = Field(
        None, description="Output format. Empty: the source's, or PNG without a source."
    )
    quality: int | None = Field(
        None,
        ge=1,
        le=100,
        description="Quality of JPEG, AVIF, WebP. Empty: the run's. WebP without one is lossless.",
    )
    preset: Name | None = Field(
        None, description="Size and background for a marketplace. Empty: the run's."
    )
    candidates: int | None = Field(
        None, ge=1, le=16, description="How many pictures to make, keeping the best."
    )


class _Masked(_Spec):
    mask_label: Label | None = Field(
        None, description='What the mask "auto" selects, as the segmentation model calls it.'
    )
    mask_grow: int | None = Field(
        None,
        ge=-1024,
        le=1024,
        description="Grow the mask by this many pixels. Negative: shrink it.",
    )
    mask_blur: float | None = Field(
        None, ge=0, le=256, description="Smooth the mask's outline over this many pixels."
    )
    mask_invert: Flag | None = Field(None, description="Repaint the area outside the mask.")


class Fill(_Masked):
    """Repaint the masked area."""

    task: Literal["fill"] = Field(description="Repaint the masked area from the prompt.")
    image: Uri = Field(description="The picture to repaint.")
    mask: Mask = Field(description=_MASK_DESCRIPTION)


class Edit(_Masked):
    """Change the picture, or its masked area, as the prompt says."""

    task: Literal["edit"] = Field(
        description="Change the picture, or its masked area, as the prompt says."
    )
    image: Uri = Field(description="The picture to edit.")
    mask: Mask | None = Field(None, description=_MASK_DESCRIPTION + " Empty: the whole picture.")
    control: Control | None = Field(
        None, description="Replace the source with a control map before editing."
    )


class Reference(_Spec):
    """Make a new picture of what the references show."""

    task: Literal["reference"] = Field(
        description="Make a new picture of what the references show."
    )
    reference: References = Field(description="Reference picture: one URI or a list of them.")
    width: int | None = Field(
        None, ge=64, le=4096, description="Width in pixels. Empty: the variant's."
    )
    height: int | None = Field(
        None, ge=64, le=4096, description="Height in pixels. Empty: the variant's."
    )


class TryOn(_Masked):
    """Put the garment or object of the reference into the masked area."""

    task: Literal["try_on"] = Field(
        description="Put the garment or object of the reference into the masked area."
    )
    image: Uri = Field(description="The person or the scene.")
    mask: Mask = Field(description=_MASK_DESCRIPTION)
    reference: References = Field(description="Garment or object: one URI or a list of them.")


class OnBackground(Frozen):
    """Cut the product out and place it on another background. No ACE++ model runs."""

    prompt: ClassVar[str] = ""  # no model is asked for anything
    id: RowId = Field(
        description="Name of the row, unique in a catalog. Part of the picture's key."
    )
    task: Literal["background"] = Field(
        description="Cut the product out and place it on another background."
    )
    image: Uri = Field(description="The picture of the product.")
    background: Background | None = Field(
        None, description="white, transparent or #rrggbb. Empty: the run's."
    )
    shadow: Flag | None = Field(
        None, description="Keep the shadow that the product casts, if a plain background shows it."
    )
    format: ImageFormat | None = Field(
        None, description="Output format. Empty: the source's, or PNG if transparent."
    )
    quality: int | None = Field(
        None, ge=1, le=100, description="Quality of JPEG, AVIF, WebP. Empty: the run's."
    )
    preset: Name | None = Field(
        None, description="Size and margin for a marketplace. Empty: the run's."
    )


_FLAGS = frozenset({"mask_invert", "shadow"})

Spec = Fill | Edit | Reference | TryOn | OnBackground
TaskSpec = Annotated[Spec, Field(discriminator="task")]
TASKS: dict[str, type[Spec]] = {
    "fill": Fill,
    "edit": Edit,
    "reference": Reference,
    "try_on": TryOn,
    "background": OnBackground,
}
_COLUMNS = {task: frozenset(model.model_fields) for task, model in TASKS.items()}
_spec_adapter: TypeAdapter[Spec] = TypeAdapter(TaskSpec)


def row_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of one catalog row."""
    schema = _spec_adapter.json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ace-catalog row",
        **schema,
    }


def parse_spec(row: dict[str, Any]) -> Spec:
    """Return the spec of a row that was read from a catalog.

    Empty cells (None, "") count as not given. Raises BadRow, which names the column, what is
    accepted and what was given.
    """
    given = {str(k): v for k, v in row.items() if v is not None and v != ""}
    task = given.get("task")
    if task is None:
        raise BadRow("task", f"missing (accepted: {', '.join(TASKS)})")
    if not isinstance(task, str) or task not in TASKS:
        raise BadRow("task", f"accepted: {', '.join(TASKS)}; given {quote(task)}")
    model = TASKS[task]
    if not given.keys() <= _COLUMNS[task]:
        unknown = sorted(given.keys() - _COLUMNS[task])
        known = any(unknown[0] in other.model_fields for other in TASKS.values())
        what = f"not a column of task {task!r}" if known else "unknown column"
        raise BadRow(unknown[0], f"{what} (accepted: {', '.join(model.model_fields)})")
    for column, value in given.items():
        if (
            isinstance(value, bool) and column not in _FLAGS
        ):  # pydantic would read True as the number 1
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
