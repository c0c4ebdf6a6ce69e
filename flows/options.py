"""The parameters that flows share, each described once: for the form in the UI and for a terminal.

An alias is a type with its limits and its text. Prefect makes a field of a form of it, Typer an
option or an argument. What a flow takes, and by which default, its signature says. No parameter is
a union, a dict or a list: the UI would show a JSON editor.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
from pydantic import Field

from ace_tasks.errors import SettingsError
from ace_tasks.settings import ReviewSettings
from ace_tasks.specs import AutoMask, AutoMethod, MaskRules, PasteSettings, PixelSettings
from ace_tasks.specs.columns import BACKGROUND
from ace_tasks.specs.run_settings import AUTO_METHODS

NONE = "none"  # of a parameter that is chosen from a few words


class _Described:
    """The text under a field. Prefect drops that of `Field`: it takes a docstring's or none."""

    def __init__(self, text: str):
        self._text = text

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        return {**handler(core), "description": self._text}


def param(
    text: str,
    *,
    ge: float | None = None,
    le: float | None = None,
    pattern: str | None = None,
    argument: bool = False,
    flag: str | None = None,
) -> tuple[Any, ...]:
    """What stands in `Annotated` behind a parameter's type.

    `argument`: a terminal takes it by its place. `flag`: as it is called there, if not by its name.
    """
    limits: dict[str, Any] = {"ge": ge, "le": le, "pattern": pattern}
    field = Field(**{name: limit for name, limit in limits.items() if limit is not None})
    if argument:
        return field, _Described(text), typer.Argument(help=text)
    flags = [flag] if flag else []
    return field, _Described(text), typer.Option(*flags, help=text, min=ge, max=le)


# ---------------------------------------------------------------- what is edited, and where to

Catalog = Annotated[
    str, *param("The catalog: JSONL, CSV or Parquet, at s3:// or a local path.", argument=True)
]
Output = Annotated[str, *param("Where pictures and records go: s3://bucket/prefix.", argument=True)]
RunId = Annotated[
    str, *param("The run's id, as under runs/.", pattern=r"^[A-Za-z0-9-]{1,64}$", argument=True)
]
Variant = Annotated[
    str,
    *param(
        "The model variant, such as mini, or the place of a variant.json. (toy is of random weights: "
        "it edits nothing.)"
    ),
]
Source = Annotated[
    str,
    *param(
        "The pictures: an s3:// prefix; a table with a column image; a product feed of Google "
        "Merchant (XML, TSV, CSV) or Shopify (CSV). Files are at s3:// or a local path.",
        argument=True,
    ),
]
Prompt = Annotated[
    str,
    *param(
        "What to do with every picture, such as: on a marble table. Only task background needs none."
    ),
]
People = Annotated[
    str,
    *param(
        "Pictures of people: an s3:// prefix, or a table with a column image (and id, mask).",
        argument=True,
    ),
]
Garments = Annotated[
    str,
    *param(
        "Pictures of garments: an s3:// prefix, a table with a column image, or a product feed.",
        argument=True,
    ),
]
TryOnPrompt = Annotated[
    str,
    *param(
        "What shall be seen. {person} and {garment} are their names; {garment.colour} is a column "
        "of the table that the garment came from. A brace is written twice: {{."
    ),
]
LinksFrom = Annotated[
    str,
    *param(
        "Of a feed with web links: what they begin with, such as https://cdn.shop.com/. Other "
        "links are rejected. Empty: all web links are."
    ),
]
LinksTo = Annotated[str, *param("Where what lies behind these links is on S3, such as s3://shop/.")]
Encoding = Annotated[
    str,
    *param(
        "Of a table or feed that is no UTF-8: its encoding, such as shift_jis, euc-jp, gbk, big5, "
        "euc-kr or windows-1252. XML mostly says it itself. Empty: UTF-8."
    ),
]
MainOnly = Annotated[bool, *param("Of a product feed: the first picture of each product only.")]
Limit = Annotated[int, *param("For a trial: only the first so many; 0: all.", ge=0)]

# ---------------------------------------------------------------- what is asked for

TaskName = Annotated[
    Literal["edit", "fill", "background"],
    *param(
        "edit: change the picture, or its masked part. fill: repaint the masked part from "
        "nothing. With a reference both put what it shows into the masked part. background: cut "
        "the product out and lay it on another ground, without a prompt."
    ),
]
Masks = Annotated[
    str,
    *param(
        "What is repainted. none: the whole picture. alpha: what is transparent. auto: made by "
        "auto_mask. column: the table's column mask. Or an s3:// prefix that holds a mask of "
        "each picture's name."
    ),
]
PersonMasks = Annotated[
    str,
    *param(
        "What of a person is repainted. auto: made by auto_mask. column: the table's column mask. "
        "alpha: what is transparent. Or an s3:// prefix that holds a mask of each person's name."
    ),
]
MaskInvert = Annotated[
    bool, *param("Repaint what the mask leaves out: a mask of the product, and its background.")
]
MaskGrow = Annotated[
    int, *param("Grow each mask by so many pixels; negative: shrink it.", ge=-1024, le=1024)
]
MaskLabel = Annotated[
    str, *param("With auto_mask model: what is repainted, as that model calls it. Empty: all.")
]
References = Annotated[
    str,
    *param("Pictures of what to put in: s3:// URIs, comma-separated; needs a mask. Empty: none."),
]
BackgroundColour = Annotated[
    str,
    *param(
        "Of rows of task background that name none: what the product is laid on. white, "
        "transparent, or a colour as #rrggbb.",
        pattern=BACKGROUND,
    ),
]
Shadow = Annotated[
    bool,
    *param("With task background: keep the shadow of the product, where a plain ground shows it."),
]
FormatName = Annotated[
    Literal["source", "png", "jpeg", "webp", "avif"],
    *param("Of the finished pictures. source: that of the picture that is edited."),
]
Steps = Annotated[int, *param("Denoise steps; 0: the variant's.", ge=0, le=200)]
Seed = Annotated[
    int, *param("Noise seed of every picture; -1: its own, from its content.", ge=-1, le=2**32 - 1)
]
AdapterName = Annotated[str, *param("LoRA adapter, such as portrait. Empty: chosen by the task.")]
Pairing = Annotated[
    Literal["cross", "order", "column", "table"],
    *param(
        "Who wears what. cross: every person every garment. order: the first person the first "
        "garment, and so on. column: what the column garment of the people's table names. table: "
        "what the table `pairs` says."
    ),
]
PairsTable = Annotated[
    str,
    *param(
        "With pairing table: a table with the columns person and garment, which name pictures by "
        "id or file name. Else empty."
    ),
]
MaxPairs = Annotated[
    int, *param("Stop before any work if there are more pairs.", ge=1, le=10_000_000)
]

# ---------------------------------------------------------------- what decides a pixel

Geometry = Annotated[
    Literal["catalog", "reference"],
    *param(
        "catalog: sizes are kept, and all outside a mask. reference: as ACE++'s own code does it."
    ),
]
Feather = Annotated[
    float,
    *param("Width of the blend at a mask's edge, in sides of the picture.", ge=0, le=0.25),
]
CropToMask = Annotated[bool, *param("Work on a window where the mask is small in a large picture.")]
Candidates = Annotated[
    int, *param("Pictures to try for a row that says none; the best is kept.", ge=1, le=16)
]
AutoMaskName = Annotated[
    Literal["none", AutoMethod],
    *param(
        'How the mask "auto" is made. u2net: what stands out, by a small network that comes with '
        "this project. grabcut: what stands out in the middle, by its colours. border: all that "
        "the colour of the picture's rim does not reach. model: what the worker's segmentation "
        "model calls by the row's label. person-top, person-bottom, person-dress: where a person "
        "wears such a garment. none: such rows are rejected."
    ),
]
AllowEmptyMasks = Annotated[
    bool, *param("Publish a picture as it is where its mask selects nothing; else fail.")
]
AllowFullMasks = Annotated[
    bool, *param("Repaint all of a picture where its mask selects it all; else fail.")
]
PresetName = Annotated[
    Literal[
        "none",
        "white-1000",
        "white-1500",
        "white-2000",
        "white-2200",
        "packshot-2000",
        "portrait-1200x1600",
        "portrait-2048x2730",
    ],
    *param("Size and background of rows that name none. none: a picture keeps its own."),
]
Quality = Annotated[
    int,
    *param(
        "JPEG, AVIF and WebP quality of rows that say none. 0: 95, and WebP is lossless.",
        ge=0,
        le=100,
    ),
]

# ---------------------------------------------------------------- how it is run

KeepCandidates = Annotated[
    bool, *param("Also store those that were not chosen, under candidates/.")
]
ReviewBelow = Annotated[
    float,
    *param(
        "Hold a picture back for review if its total score is lower; 0: none is. A blank one "
        "always waits.",
        ge=0,
        le=1,
    ),
]
StrictMasks = Annotated[
    bool,
    *param(
        "Fail a row whose mask file looks like a mistake: a label map, the wrong way round, not "
        "turned as its picture is … Off: the picture is made, and the report names the mask."
    ),
]
Strict = Annotated[bool, *param("Stop before any GPU work if a row is no valid spec.")]
MaxFailed = Annotated[int, *param("How many rejects and failures a completed run may have.", ge=0)]
RetryFailures = Annotated[
    bool,
    *param(
        "Try again what failed for good in an earlier run; not what waits for a person, or was "
        "discarded."
    ),
]
RedoOlder = Annotated[
    bool,
    *param(
        "Edit again what an earlier version of this software finished, where this version makes "
        "other pixels of it; else such pictures count as done."
    ),
]
Codes = Annotated[
    str,
    *param(
        "Error codes to retry, comma-separated, such as timeout. Empty: all but needs_review and "
        "discarded, which a person decides about."
    ),
]
DryRun = Annotated[bool, *param("Say what the run would do and take, and end there.")]
MaxReplicaHours = Annotated[
    float,
    *param(
        "Stop the run if it would take, or has taken, more hours of replicas (GPU-hours, where each "
        "has a GPU); 0: no limit.",
        ge=0,
    ),
]
MaxCost = Annotated[
    float,
    *param("The same in money, where the worker knows what an hour costs; 0: no limit.", ge=0),
]
CanaryItems = Annotated[
    int,
    *param(
        "Make so many pictures first, show them, and wait for your word before the others are "
        "made; 0: make all.",
        ge=0,
        le=200,
    ),
]
CanaryWaitHours = Annotated[float, *param("How long that word may take.", ge=0.01, le=720)]
Replicas = Annotated[
    int, *param("Model replicas at most; 0: one for each GPU, or one on a CPU.", ge=0)
]
ShardSize = Annotated[int, *param("Rows in one task run of the UI.", ge=1, le=10_000)]
AcceptLicense = Annotated[
    bool, *param("I have read and accept the licence of the variant's weights (once).")
]
AllowUnguardedWrites = Annotated[
    bool, *param("Go on with a store that ignores If-None-Match; runs may then collide.")
]
SampleItems = Annotated[
    int,
    *param(
        "Read record and picture of so many items at most, spread over the run; 0: of all. "
        "What is there at all is checked of every row.",
        ge=0,
    ),
]
ForgottenSource = Annotated[
    str,
    *param(
        "A source whose pictures go, by its URI (s3://…) or its SHA-256 in hex; or name a run.",
    ),
]
ForgottenRun = Annotated[
    str, *param("A run whose pictures go, by its id.", pattern=r"^[A-Za-z0-9-]{0,64}$")
]
DeleteForGood = Annotated[
    bool, *param("Delete for good, and leave tombstones. Off: only say what would go.")
]
Promote = Annotated[str, *param("Rows to publish, by id, comma-separated; or: all. Empty: none.")]
Discard = Annotated[
    str,
    *param("Rows whose picture is not wanted, by id, comma-separated; or: all. Empty: none."),
]
OlderThanHours = Annotated[
    float,
    *param("Leave younger pictures: their record may still come from a run that works.", ge=0),
]
SweptRun = Annotated[
    str,
    *param(
        "Only pictures that this run can have written, by its id. Empty: those of every run.",
        pattern=r"^[A-Za-z0-9-]{0,64}$",
    ),
]
DeleteOrphans = Annotated[bool, *param("Delete the pictures for good. Off: only list them.")]
Json = Annotated[
    bool, *param("Print the summary as one JSON object, and nothing else.", flag="--json")
]

DEFAULT_FEATHER = PasteSettings().feather


def pixel_settings(
    geometry: Geometry,
    feather: Feather,
    crop_to_mask: CropToMask,
    candidates: Candidates,
    auto_mask: AutoMaskName,
    allow_empty_masks: AllowEmptyMasks,
    allow_full_masks: AllowFullMasks,
    preset: PresetName,
    quality: Quality,
    background: BackgroundColour = "white",
) -> PixelSettings:
    """What decides a pixel, and so which items are done. Raises SettingsError."""
    return PixelSettings(
        geometry=geometry,
        paste=PasteSettings(feather=feather, crop_to_mask=crop_to_mask),
        candidates=candidates,
        masks=MaskRules(allow_empty=allow_empty_masks, allow_full=allow_full_masks),
        auto_mask=AutoMask.named("" if auto_mask == NONE else auto_mask),
        preset=None if preset == NONE else preset,
        quality=quality or None,
        background=None if background == "white" else background,
    )


def check_auto_mask(column: str, masks: str, auto_mask: AutoMaskName) -> None:
    """Raises SettingsError where every row would be refused for want of a way to make its mask."""
    if masks == "auto" and auto_mask == NONE:
        raise SettingsError(
            f"auto_mask: accepted with {column} auto: {', '.join(AUTO_METHODS)}; given none"
        )


def review_settings(
    review_below: ReviewBelow, keep_candidates: KeepCandidates, strict_masks: StrictMasks
) -> ReviewSettings:
    """What is held back or not made at all, and what is kept beside it."""
    return ReviewSettings(
        below=review_below, keep_candidates=keep_candidates, strict_masks=strict_masks
    )
