"""Settings: where things are, and how much of each is allowed. The environment is read here only.

Credentials are no settings: boto3 finds them by its own chain (environment, profile, role), so
none passes through our objects, logs or records.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ace_tasks.errors import SettingsError


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoreSettings(_Model):
    """One identity on one S3 store. Empty fields: boto3's own defaults and environment."""

    endpoint_url: str | None = None
    profile: str | None = None
    connect_timeout_s: float = 5
    read_timeout_s: float = 60
    # boto3's own quick retries (jittered, "standard" mode), inside one try of ours.
    max_attempts: int = 3
    patience_s: float = Field(
        180, ge=0, description="How long a store may be away before a call gives up."
    )
    max_connections: int = 32


class ImageLimits(_Model):
    """What is refused before it is decoded."""

    max_bytes: int = 64 * 2**20
    max_px: int = 100_000_000
    min_side_px: int = 16  # below one token of the model (ACE_SPEC 9.3)


class WeightsSettings(_Model):
    """Where model files come from, and where a node keeps them."""

    folder: Path = Field(description="Where a node keeps them.")
    mirror: str | None = Field(
        None,
        description="A folder or s3:// prefix that holds a folder for each named variant; empty: "
        "the model hub.",
    )
    store: StoreSettings = StoreSettings()
    accept_license: bool = False
    key: str | None = Field(
        None, description="Tells the planned files from others, so that a node need not ask."
    )


class ReviewSettings(_Model):
    """What is not simply published, and what is kept beside it. None of it changes a pixel."""

    max_blankness: float = Field(
        0.9, ge=0, le=1, description="A picture blanker than that waits for a person; 1: none does."
    )
    below: float = Field(
        0, ge=0, le=1, description="So does one whose total score is lower; 0: none."
    )
    hold: str = Field("", description="Why every picture waits for a person; empty: it does not.")
    keep_candidates: bool = Field(False, description="Store the candidates that were not chosen.")
    strict_masks: bool = Field(
        False, description="An item fails where its mask file looks like a mistake."
    )


class VisionModel(_Model):
    """A small model that looks at pictures, as a run was planned with it."""

    place: str = Field(description="A folder, s3://… or hf://owner/name@commit.")
    fingerprint: str = Field(description="SHA-256 (hex) over the list of its files.")


class VisionSettings(_Model):
    """The small models that a replica loads when an item needs one; None: not to be had."""

    depth: VisionModel | None = None
    contour: VisionModel | None = None
    segmenter: VisionModel | None = None
    clip: VisionModel | None = None


class MarkSettings(_Model):
    """What a picture's file says of itself. None of it changes a pixel.

    Of the key there are names only: each replica reads it where it is, and it never leaves its
    process.
    """

    xmp: bool = True
    prompt: bool = Field(False, description="Whether the XMP may hold the prompt.")
    key: str | None = Field(None, description="A PEM file on each node: the private key.")
    certificates: str | None = Field(
        None, description="A PEM file on each node: the certificate that signs, then its chain."
    )
    block: str | None = Field(
        None, description="A Prefect block of type Secret with both, in place of files."
    )
    timestamp_url: str | None = Field(None, description="A timestamp authority, RFC 3161.")

    @property
    def signs(self) -> bool:
        return bool(self.block or self.key)


class Origin(_Model):
    """What started a run; for its records."""

    flow: str | None = None
    url: str | None = None
    deployment: str | None = None


class ReplicaSettings(_Model):
    """One replica: which model, where, and what it may use."""

    variant: str = Field(description="A name, or the place of a variant.json.")
    weights: WeightsSettings
    variant_json: str | None = Field(
        None, description="The variant as the flow opened it; its place is not asked again."
    )
    planned_model: str | None = Field(
        None, description="Fingerprint of the model the plan was made for; checked at the start."
    )
    vision: VisionSettings = VisionSettings()
    # Both give the same picture but for rounding, so neither is part of an item's identity.
    adapter_mode: Literal["resident", "fused"] = Field(
        "resident",
        description="resident: all adapters stay beside the weights, switched for each item. "
        "fused: added into them from a pristine copy; no extra work a step, slower to switch.",
    )
    batch_size: int = Field(
        1, ge=1, le=64, description="Items of one shape that share a pass of the transformer."
    )
    device: Literal["cpu", "cuda"] = "cpu"
    torch_threads: int | None = Field(
        None, ge=1, description="CPU threads of one replica; torch's own choice if empty."
    )
    output_uri: str
    source_store: StoreSettings = StoreSettings()
    output_store: StoreSettings = StoreSettings()
    limits: ImageLimits = ImageLimits()
    review: ReviewSettings = ReviewSettings()
    marks: MarkSettings = MarkSettings()
    origin: Origin = Origin()


class PoolSettings(_Model):
    """The pool of replicas and its dispatcher."""

    min_replicas: int = Field(
        1, ge=1, description="Asked for as soon as there is work, and kept when there is less."
    )
    max_replicas: int | None = Field(
        1,
        ge=1,
        description="One a GPU. Where the cluster has fewer, one at a time waits for a GPU to come, "
        "which is what an autoscaler goes by. Empty: as many as the cluster has GPUs just now, or "
        "one.",
    )
    idle_release_s: float = Field(
        30, ge=0, description="How long a replica that is not needed any more is kept."
    )
    items_in_flight: int = Field(3, ge=1, description="Items inside one replica at once.")
    item_timeout_s: float = Field(900, gt=0, description="Times the batch size.")
    # A cold node fetches 34 GB first, and its other replicas wait for it.
    start_timeout_s: float = Field(4 * 3600, gt=0)
    max_start_failures: int = Field(
        3, ge=1, description="In a row, before a run stops that has no working replica."
    )
    start_backoff_s: float = Field(
        1, ge=0, description="After the first failed start; doubled after each in a row."
    )
    deaths_alone_to_quarantine: int = Field(2, ge=1)
    cancel_grace_s: float = Field(5, ge=0, description="For the step in progress to end.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max_replicas is not None and self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas: accepted: at most max_replicas, {self.max_replicas}; "
                f"given {self.min_replicas}"
            )
        return self


class Environment(BaseSettings):
    """What the environment of a process says. Variables start with `ACE_`, Ray's aside."""

    model_config = SettingsConfigDict(
        env_prefix="ACE_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    weights_dir: Path = Field(
        default_factory=lambda: Path.home() / ".cache" / "ace-catalog" / "weights",
        description="Where model files are kept on a node.",
    )
    allowed_buckets: Annotated[tuple[str, ...], NoDecode] | None = Field(
        None,
        description="Buckets a catalog may read from, comma-separated. Empty: an S3 catalog's "
        "own bucket; any bucket for a local catalog.",
    )
    weights_mirror: str | None = Field(
        None,
        description="A folder or s3:// prefix with a folder for each named variant. Empty: the "
        "model hub.",
    )
    accept_license: bool = Field(
        False, description="The licence of the variant's weights has been read and is accepted."
    )
    adapter_mode: Literal["resident", "fused"] = Field(
        "resident", description="How LoRA adapters are held; see ReplicaSettings."
    )
    batch_size: int = Field(
        1, ge=1, le=64, description="Items of one shape that share a pass of the transformer."
    )
    depth_model: str | None = Field(
        None,
        description="Draws the control depth: the place of a DPT or Depth Anything model. "
        "Empty: that control is refused.",
    )
    contour_model: str | None = Field(
        None,
        description="Draws the control contour: the place of a segmentation model with a label "
        "contour, line or edge. Empty: that control is refused.",
    )
    segmenter: str | None = Field(
        None,
        description="The place of a segmentation model, or of an ONNX network that tells what "
        'stands out, for the mask "auto" made by auto_mask model.',
    )
    clip_model: str | None = Field(
        None, description="The place of a CLIP model that tells how well a picture fits its prompt."
    )
    source_endpoint_url: str | None = None
    source_profile: str | None = None
    output_endpoint_url: str | None = None
    output_profile: str | None = None
    device: Literal["cpu", "cuda"] | None = Field(
        None, description="Empty: cuda where Ray reports GPUs, else cpu."
    )
    torch_threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads of one replica without a GPU. Empty: all cores. Pictures are the "
        "same to the bit only for the same number.",
    )
    price_per_hour: float | None = Field(
        None, ge=0, description="What an hour of one replica costs, in your currency."
    )
    seconds_per_million_token_steps: float | None = Field(
        None,
        gt=0,
        description="Seconds one replica takes for a million tokens × steps. Empty: as an earlier "
        "run under the same output measured it.",
    )
    report_pages: int = Field(
        25, ge=1, le=1000, description="Pages of a contact sheet at most, of 200 rows each."
    )
    alert_failure_share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Of the items that a run has edited: once more have failed, of at least 20, it "
        "tells the automation that notifies.",
    )
    public_base_url: str | None = Field(
        None,
        description="What takes the place of s3://BUCKET in the links to contact sheets; {bucket} "
        "in it stands for the bucket. Empty: signed links, which open for 7 days at most.",
    )
    xmp: bool = Field(True, description="Whether pictures say in XMP that a model made them.")
    embed_prompt: bool = Field(False, description="Whether that XMP holds the prompt, too.")
    c2pa_key: Path | None = Field(
        None,
        description="On each node: the private key that signs pictures, PEM. Empty: none does.",
    )
    c2pa_certificates: Path | None = Field(
        None, description="On each node: the certificate of that key, then its chain, PEM."
    )
    c2pa_block: str | None = Field(
        None,
        description='A Prefect block of type Secret, JSON with "key" and "certificates" (PEM), in '
        "place of files.",
    )
    c2pa_timestamp_url: str | None = Field(
        None, description="A timestamp authority (RFC 3161) that is asked at each signature."
    )
    ray_address: str | None = Field(None, validation_alias="RAY_ADDRESS")

    @field_validator("allowed_buckets", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(each.strip() for each in value.split(",") if each.strip()) or None
        return value

    @field_validator("ray_address")
    @classmethod
    def _a_cluster(cls, value: str | None) -> str | None:
        """`local`, to Ray, is this machine: no cluster is joined."""
        return None if value == "local" else value

    @field_validator("public_base_url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        if value and not value.startswith(("https://", "http://")):
            raise ValueError(f"accepted: https://…; given {value!r}")
        return value

    @property
    def source_store(self) -> StoreSettings:
        return StoreSettings(endpoint_url=self.source_endpoint_url, profile=self.source_profile)

    @property
    def output_store(self) -> StoreSettings:
        return StoreSettings(endpoint_url=self.output_endpoint_url, profile=self.output_profile)

    @property
    def marks(self) -> MarkSettings:
        """Raises SettingsError for half of what signing takes, or for both ways to it."""
        key, certificates = self.c2pa_key, self.c2pa_certificates
        if bool(key) != bool(certificates):
            raise SettingsError(
                "environment: ACE_C2PA_KEY and ACE_C2PA_CERTIFICATES: accepted: both or none"
            )
        if key and self.c2pa_block:
            raise SettingsError(
                "environment: ACE_C2PA_BLOCK: accepted: a block, or files; given both"
            )
        return MarkSettings(
            xmp=self.xmp,
            prompt=self.embed_prompt,
            key=_absolute(str(key)) if key else None,
            certificates=_absolute(str(certificates)) if certificates else None,
            block=self.c2pa_block,
            timestamp_url=self.c2pa_timestamp_url,
        )

    @property
    def vision_places(self) -> dict[str, str]:
        """Field of VisionSettings → place, of those that are set."""
        places = {
            "depth": self.depth_model,
            "contour": self.contour_model,
            "segmenter": self.segmenter,
            "clip": self.clip_model,
        }
        return {use: place for use, place in places.items() if place}

    def weights(self, *, accept_license: bool = False) -> WeightsSettings:
        """Model files are read with the identity that reads sources."""
        return WeightsSettings(
            folder=self.weights_dir.resolve(),
            mirror=_absolute(self.weights_mirror),
            store=self.source_store,
            accept_license=accept_license or self.accept_license,
        )


def _absolute(place: str | None) -> str | None:
    """A replica may work in another folder than the one that a relative path was meant from."""
    if place is None or "://" in place:
        return place
    return str(Path(place).expanduser().absolute())


def read_environment() -> Environment:
    """Raises SettingsError naming the variable at fault."""
    try:
        return Environment()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0])
        variable = f"ACE_{name.upper()}" if name in Environment.model_fields else name
        raise SettingsError(f"environment: {variable}: {first['msg']}") from None


def cpu_count() -> int:
    """CPU cores this process may run on."""
    return len(os.sched_getaffinity(0))
