"""Parameters outside a group: the sources, the variant, the output, and earlier runs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

_RUN = r"^[A-Za-z0-9-]{1,64}$"
_RUN_OR_NONE = r"^[A-Za-z0-9-]{0,64}$"

Catalog = Annotated[
    str, Field(description="The catalog file: JSONL, CSV or Parquet, at s3:// or a local path.")
]
Output = Annotated[str, Field(description="The place of pictures and records: s3://bucket/prefix.")]
RunId = Annotated[str, Field(description="The run's id: its folder under runs/.", pattern=_RUN)]
Source = Annotated[
    str,
    Field(
        description="The pictures to edit: an s3:// prefix, a table with a column image, or a "
        "product feed of Google Merchant (XML, TSV, CSV) or Shopify (CSV). A table or feed is at "
        "s3:// or a local path."
    ),
]
People = Annotated[
    str,
    Field(
        description="Pictures of people: an s3:// prefix, or a table with a column image. The "
        "columns id and mask are optional."
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
    Field(
        description="The recipe: one of this project, such as mini, or a file that ends in .json."
    ),
]
TrainingOutput = Annotated[
    str,
    Field(
        description="Where the variant is written: s3://bucket/prefix. Checkpoints, metrics and "
        "samples are written beside it."
    ),
]
EvaluationOutput = Annotated[
    str, Field(description="Where tables and scores are written: s3://bucket/prefix, or a folder.")
]

Variant = Annotated[
    str,
    Field(
        description="The model variant: a name such as mini, or the place of a variant.json. The "
        "variant toy has random weights: use it for tests only."
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
        description="What the finished picture shows. {person} and {garment} become their names, "
        "and {garment.colour} becomes that column of the garments' table. Write a brace twice to "
        "keep it: {{."
    ),
]
Mask = Annotated[
    str,
    Field(
        description="Which part to repaint. none: the whole picture. alpha: its transparent part. "
        "auto: a mask made by auto_mask. column: the mask in the table's column mask. Or an s3:// "
        "prefix that holds a mask under each picture's name."
    ),
]
PersonMasks = Annotated[
    str,
    Field(
        description="Which part of a person to repaint. auto: a mask made by auto_mask. column: "
        "the mask in the table's column mask. alpha: the transparent part. Or an s3:// prefix "
        "that holds a mask under each person's name."
    ),
]
AcceptLicense = Annotated[
    bool,
    Field(
        description="I have read and accept the licence of the variant's weights. Needed once for "
        "each variant."
    ),
]

Codes = Annotated[
    str,
    Field(
        description="Error codes to retry, comma-separated, such as timeout. Empty = all except "
        "needs_review and discarded, which a person decides."
    ),
]
Promote = Annotated[
    str, Field(description="Ids of the rows to publish, comma-separated, or all. Empty = none.")
]
Discard = Annotated[
    str,
    Field(
        description="Ids of the rows whose picture is not wanted, comma-separated, or all. Empty "
        "= none."
    ),
]
Decisions = Annotated[
    str,
    Field(
        description="The decisions made on a review's page: their text, pasted, or the place of "
        "the file that the page saved, at s3:// or a local path. Empty = none."
    ),
]
SampleItems = Annotated[
    int,
    Field(
        description="Read the records and pictures of at most N items, spread over the run. 0 = "
        "of all items. For every other row, only check that they exist.",
        ge=0,
    ),
]
NewestOrRun = Annotated[
    str,
    Field(description="The run's id. newest: the catalog run that ended last.", pattern=_RUN),
]
FeedTo = Annotated[
    str,
    Field(
        description="Where to write the feed and its lists: s3://bucket/prefix, or a folder. Not "
        "the place of the feed itself."
    ),
]
PublicBaseUrl = Annotated[
    str,
    Field(
        description="Where the web finds the pictures: an address in place of s3://BUCKET, such as "
        "https://cdn.shop.com. {bucket} in it stands for the bucket, {key} for the picture's key "
        "under the output, and {name} for its file that `ace-catalog pictures` copied. Empty = "
        "ACE_PUBLIC_BASE_URL."
    ),
]
OtherFeed = Annotated[
    str,
    Field(
        description="A newer or moved feed to write instead, with the pictures that it still "
        "names. Empty = the feed that the run read, if it has not changed since."
    ),
]
Overwrite = Annotated[
    bool,
    Field(
        description="Replace the files of an earlier feed in that place. Off = refuse if there are "
        "any."
    ),
]
ForgottenSource = Annotated[
    str,
    Field(
        description="The source whose pictures are deleted: its URI (s3://…) or its SHA-256 in "
        "hex. Empty = give a run instead."
    ),
]
ForgottenRun = Annotated[
    str,
    Field(
        description="The id of the run whose pictures are deleted. Empty = give a source instead.",
        pattern=_RUN_OR_NONE,
    ),
]
DeleteForGood = Annotated[
    bool,
    Field(
        description="Delete for good, and leave tombstones so that nothing of it is made again. "
        "Off = only list what would be deleted."
    ),
]
OlderThanHours = Annotated[
    float,
    Field(
        description="Skip pictures younger than N hours. A run that still works may yet write "
        "their records.",
        ge=0,
    ),
]
SweptRun = Annotated[
    str,
    Field(
        description="The id of a run: list only pictures that it may have written. Empty = those "
        "of every run.",
        pattern=_RUN_OR_NONE,
    ),
]
DeleteOrphans = Annotated[
    bool, Field(description="Delete these pictures for good. Off = only list them.")
]
