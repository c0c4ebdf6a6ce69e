"""How a variant is trained, and how one is measured."""

from __future__ import annotations

from pydantic import Field

from flows.options.groups import Options
from flows.options.places import AcceptLicense


class TrainingInputs(Options):
    """What the variant learns from."""

    start_from: str = Field(
        "",
        description="Start from this variant instead of the recipe's own start: a name, a folder "
        "or s3://… with a variant.json.",
    )
    catalog: str = Field(
        "",
        description="Learn from this catalog instead of the recipe's own data: an edit catalog with "
        "a column `target`, the wanted picture.",
    )
    photos: str = Field(
        "", description="A local folder of photographs that the VAE also learns from. Empty: none."
    )
    accept_license: AcceptLicense = False


class TrainingWork(Options):
    """How the training works."""

    workers: int = Field(
        1, ge=1, description="Processes that share each step of the denoiser, one for each GPU."
    )
    threads: int = Field(
        0, ge=0, description="CPU threads of each process. 0: share the cores among them."
    )
    stop_after_minutes: float = Field(
        0, ge=0, description="Stop after N minutes; the same run then goes on. 0: when it is done."
    )


class MeasureOptions(Options):
    """What is measured."""

    tasks: str = Field(
        "", description="Tasks of the world, comma-separated, as in add,recolour. Empty: all."
    )
    examples: int = Field(
        64, ge=1, le=10_000, description="How many held-back examples of each task."
    )
    seed: int = Field(1, ge=0, description="Which examples: another seed draws others.")
    size_px: int = Field(
        0, ge=0, description="Side of the pictures, a multiple of 16. 0: as the variant says."
    )
    baselines: bool = Field(
        True, description="Also measure what needs no training: copies, fills, random weights."
    )
