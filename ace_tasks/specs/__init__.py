"""Task specs: what a catalog row may ask for, and the identity of an item.

columns    what a cell may hold
rows       the four tasks: a row, checked
settings   what a run decides for all its rows
items      row + settings + model → what decides the pixels, and its hash
"""

from ace_tasks.specs.columns import (
    MAX_SEED,
    MAX_URI_CHARS,
    Adapter,
    Box,
    Control,
    Ellipse,
    Frozen,
    ImageFormat,
    Mask,
    Polygon,
    Shape,
    check_uri,
    quote,
)
from ace_tasks.specs.items import (
    PIXELS_VERSION,
    MaskSteps,
    ModelIdentity,
    Resolved,
    Source,
    Sources,
    WorkItem,
    canonical_json,
    item_id,
    resolve,
    work_item,
)
from ace_tasks.specs.rows import (
    TASKS,
    Edit,
    Fill,
    Reference,
    TaskSpec,
    TryOn,
    parse_spec,
    row_schema,
)
from ace_tasks.specs.settings import (
    DEFAULT_PIXELS,
    PRESETS,
    AutoMask,
    MaskRules,
    PasteSettings,
    PixelSettings,
    Preset,
)

__all__ = [
    "DEFAULT_PIXELS",
    "MAX_SEED",
    "MAX_URI_CHARS",
    "PIXELS_VERSION",
    "PRESETS",
    "TASKS",
    "Adapter",
    "AutoMask",
    "Box",
    "Control",
    "Edit",
    "Ellipse",
    "Fill",
    "Frozen",
    "ImageFormat",
    "Mask",
    "MaskRules",
    "MaskSteps",
    "ModelIdentity",
    "PasteSettings",
    "PixelSettings",
    "Polygon",
    "Preset",
    "Reference",
    "Resolved",
    "Shape",
    "Source",
    "Sources",
    "TaskSpec",
    "TryOn",
    "WorkItem",
    "canonical_json",
    "check_uri",
    "item_id",
    "parse_spec",
    "quote",
    "resolve",
    "row_schema",
    "work_item",
]
