"""Parameters that stand alone in a form: what is edited, by what, and where the result goes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

_RUN = r"^[A-Za-z0-9-]{1,64}$"
_RUN_OR_NONE = r"^[A-Za-z0-9-]{0,64}$"

# ---------------------------------------------------------------- where

Catalog = Annotated[
    str, Field(description="The catalog: JSONL, CSV or Parquet, at s3:// or a local path.")
]
Output = Annotated[str, Field(description="Where pictures and records go: s3://bucket/prefix.")]
RunId = Annotated[str, Field(description="The run's id, as it stands under runs/.", pattern=_RUN)]
Source = Annotated[
    str,
    Field(
        description="The pictures: an s3:// prefix; a table with a column image; a product feed of "
        "Google Merchant (XML, TSV, CSV) or Shopify (CSV). Files are at s3:// or a local path."
    ),
]
People = Annotated[
    str,
    Field(
        description="Pictures of people: an s3:// prefix, or a table with a column image (and id, "
        "mask)."
    ),
]
Garments = Annotated[
    str,
    Field(
        description="Pictures of garments: an s3:// prefix, a table with a column image, or a "
        "product feed."
    ),
]

Recipe = Annotated[
    str,
    Field(description="A recipe of this project, such as mini, or a file that ends in .json."),
]
TrainingOutput = Annotated[
    str,
    Field(
        description="Where the variant goes: s3://bucket/prefix. Checkpoints, metrics and samples "
        "are written beside it."
    ),
]
EvaluationOutput = Annotated[
    str, Field(description="Where tables and scores go: s3://bucket/prefix, or a folder.")
]

# ---------------------------------------------------------------- by what, and what for

Variant = Annotated[
    str,
    Field(
        description="The model variant, such as mini, or the place of a variant.json. The variant "
        "toy has random weights: it edits nothing."
    ),
]
Prompt = Annotated[
    str,
    Field(
        description="What to do with every picture, such as: on a marble table. Only the task "
        "background needs no prompt."
    ),
]
TryOnPrompt = Annotated[
    str,
    Field(
        description="What the picture shows. {person} and {garment} become their names; "
        "{garment.colour} becomes that column of the garments' table. Write a brace twice to "
        "keep it: {{."
    ),
]
Mask = Annotated[
    str,
    Field(
        description="Which part is repainted. none: the whole picture. alpha: the transparent part. "
        "auto: a mask made by auto_mask. column: the table's column mask. Or an s3:// prefix that "
        "holds a mask under each picture's name."
    ),
]
PersonMasks = Annotated[
    str,
    Field(
        description="Which part of a person is repainted. auto: a mask made by auto_mask. column: "
        "the table's column mask. alpha: the transparent part. Or an s3:// prefix that holds a "
        "mask under each person's name."
    ),
]
AcceptLicense = Annotated[
    bool,
    Field(
        description="I have read and accept the licence of the variant's weights. Needed once for "
        "each variant."
    ),
]

# ---------------------------------------------------------------- what earlier runs left

Codes = Annotated[
    str,
    Field(
        description="Error codes to retry, comma-separated, such as timeout. Empty: all but "
        "needs_review and discarded, which a person decides."
    ),
]
Promote = Annotated[
    str, Field(description="Ids of the rows to publish, comma-separated, or all. Empty: none.")
]
Discard = Annotated[
    str,
    Field(
        description="Ids of the rows whose picture is not wanted, comma-separated, or all. Empty: "
        "none."
    ),
]
SampleItems = Annotated[
    int,
    Field(
        description="Read the record and the picture of at most N items, spread over the run. "
        "0: of all. Whether they exist is checked for every row.",
        ge=0,
    ),
]
ForgottenSource = Annotated[
    str,
    Field(
        description="Delete the pictures made of this source, given by its URI (s3://…) or its "
        "SHA-256 in hex. Give a source or a run."
    ),
]
ForgottenRun = Annotated[
    str, Field(description="Delete the pictures of this run, by its id.", pattern=_RUN_OR_NONE)
]
DeleteForGood = Annotated[
    bool,
    Field(description="Delete for good, and leave tombstones. Off: only list what would go."),
]
OlderThanHours = Annotated[
    float,
    Field(
        description="Leave younger pictures alone: a run that still works may write their records.",
        ge=0,
    ),
]
SweptRun = Annotated[
    str,
    Field(
        description="Only pictures that this run can have written, by its id. Empty: those of "
        "every run.",
        pattern=_RUN_OR_NONE,
    ),
]
DeleteOrphans = Annotated[
    bool, Field(description="Delete the pictures for good. Off: only list them.")
]
