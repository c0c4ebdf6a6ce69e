"""Options for training a variant, and for measuring one."""

from __future__ import annotations

from pydantic import Field

from flows.options.groups import Options
from flows.options.places import AcceptLicense


class TrainingInputs(Options):
    """The data that a variant learns from, and the variant it starts from."""

    start_from: str = Field(
        "",
        description="The variant to start from: a name, or a folder or s3:// prefix with a "
        "variant.json. Empty = start as the recipe says.",
    )
    catalog: str = Field(
        "",
        description="The catalog to learn from: an edit catalog with the wanted picture in a "
        "column `target`. Empty = the recipe's own data.",
    )
    photos: str = Field(
        "", description="A local folder of photographs that the VAE also learns from. Empty = none."
    )
    accept_license: AcceptLicense = False


class TrainingWork(Options):
    """The processes, threads and time of a training."""

    workers: int = Field(
        1,
        ge=1,
        description="Number of processes that share each training step of the denoiser, one for "
        "each GPU.",
    )
    threads: int = Field(
        0, ge=0, description="CPU threads of each process. 0 = divide the cores among them."
    )
    stop_after_minutes: float = Field(
        0,
        ge=0,
        description="Stop after N minutes. The same run, started again, goes on from there. 0 = "
        "no limit.",
    )


class MeasureOptions(Options):
    """The tasks, examples and baselines of a measurement."""

    tasks: str = Field(
        "", description="Tasks to measure, comma-separated, such as add,recolour. Empty = all."
    )
    examples: int = Field(
        64, ge=1, le=10_000, description="Number of held-out examples of each task."
    )
    seed: int = Field(1, ge=0, description="Seed of the examples. Another seed draws others.")
    size_px: int = Field(
        0,
        ge=0,
        description="Side of the pictures in pixels: a multiple of 16, at least 64. 0 = the "
        "variant's own size.",
    )
    baselines: bool = Field(
        True,
        description="Also measure baselines that need no training: copies, fills, random weights.",
    )
