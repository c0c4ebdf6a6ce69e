"""Settings: locations and limits. Only this module reads the environment.

Credentials are not settings. boto3 finds them through its own chain (environment, profile, role),
so they never pass through our objects, logs or records.
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
    """One identity on one S3 store. Empty fields take boto3's own defaults and environment."""

    endpoint_url: str | None = None
    profile: str | None = None
    connect_timeout_s: float = 5
    read_timeout_s: float = 60
    # boto3's own quick retries (jittered, "standard" mode) within each of our attempts.
    max_attempts: int = 3
    patience_s: float = Field(
        180, ge=0, description="How long a call retries an unavailable store before it fails."
    )
    max_connections: int = 32


class ImageLimits(_Model):
    """Limits of a picture that are checked before it is decoded."""

    max_bytes: int = 64 * 2**20
    max_px: int = 100_000_000
    min_side_px: int = 16  # below one token of the model (ACE_SPEC 9.3)


class WeightsSettings(_Model):
    """The source of model files, the folder where a node keeps them, and what a GPU holds."""

    folder: Path = Field(description="The folder where a node keeps model files.")
    mirror: str | None = Field(
        None,
        description="A folder or s3:// prefix with a folder for each named variant. Empty: the "
        "model hub.",
    )
    store: StoreSettings = StoreSettings()
    accept_license: bool = False
    key: str | None = Field(
        None, description="Identifies the planned files, so that a node that has them asks no one."
    )
    memory: Literal["auto", "resident", "text_offload", "blocks", "offload"] = Field(
        "auto", description="What stays on a GPU. auto: the fastest way that fits it."
    )


class ReviewSettings(_Model):
    """Rules for holding pictures back and keeping extra ones. They change no pixel."""

    max_blankness: float = Field(
        0.9, ge=0, le=1, description="Hold pictures blanker than this for a person. 1: hold none."
    )
    below: float = Field(
        0, ge=0, le=1, description="Hold pictures whose total score is lower. 0: hold none."
    )
    hold: str = Field("", description="Why every picture is held for a person. Empty: not all are.")
    keep_candidates: bool = Field(False, description="Store the candidates that were not chosen.")
    strict_masks: bool = Field(
        False, description="Fail an item if its mask file looks like a mistake."
    )


class VisionModel(_Model):
    """A small vision model that a run was planned with."""

    place: str = Field(description="A folder, s3://… or hf://owner/name@commit.")
    fingerprint: str = Field(description="SHA-256 (hex) over the list of its files.")


class VisionSettings(_Model):
    """The small models that a replica loads when an item needs one. None: not available."""

    depth: VisionModel | None = None
    contour: VisionModel | None = None
    segmenter: VisionModel | None = None
    clip: VisionModel | None = None


class MarkSettings(_Model):
    """The metadata and signature that go into a picture's file. They change no pixel.

    The key appears here by name only. Each replica reads it from its place, and it never leaves
    that process.
    """

    xmp: bool = True
    prompt: bool = Field(False, description="Whether the XMP may contain the prompt.")
    key: str | None = Field(None, description="A PEM file on each node: the private key.")
    certificates: str | None = Field(
        None, description="A PEM file on each node: the signing certificate, then its chain."
    )
    block: str | None = Field(
        None, description="A Prefect block of type Secret with both, instead of files."
    )
    timestamp_url: str | None = Field(None, description="URL of a timestamp authority (RFC 3161).")

    @property
    def signs(self) -> bool:
        return bool(self.block or self.key)


class Origin(_Model):
    """The flow or deployment that started a run, for its records."""

    flow: str | None = None
    url: str | None = None
    deployment: str | None = None


class ReplicaSettings(_Model):
    """The settings of one replica: its model, its stores and its limits."""

    variant: str = Field(description="The name of a variant, or the place of a variant.json.")
    weights: WeightsSettings
    variant_json: str | None = Field(
        None, description="The variant as the flow read it. Replicas do not read it again."
    )
    planned_model: str | None = Field(
        None, description="Fingerprint of the model of the plan. Checked at the start."
    )
    vision: VisionSettings = VisionSettings()
    # Modes and speeds are no part of an item's identity: they differ only by rounding, and what
    # `fast` leaves out is in the settings of each item.
    adapter_mode: Literal["resident", "fused"] = Field(
        "resident",
        description="resident: all adapters stay beside the weights and are switched for each "
        "item. fused: the adapter is added into the weights from a pristine copy, which takes no "
        "extra work per step but is slower to switch.",
    )
    speed: Literal["exact", "compiled", "fast"] = Field(
        "exact",
        description="exact: the same item gives the same bits. compiled: the transformer's blocks "
        "are compiled when the replica starts; the same picture except for rounding. fast: prepared "
        "for items with shortcuts.",
    )
    made_twice: frozenset[str] = Field(
        frozenset(),
        description="Ids of items that are also made without their shortcuts, to measure the loss.",
    )
    batch_size: int = Field(
        1, ge=1, le=64, description="Items of one shape that share a pass of the transformer."
    )
    device: Literal["cpu", "cuda"] = "cpu"
    torch_threads: int | None = Field(
        None, ge=1, description="CPU threads of one replica. Empty: torch decides."
    )
    output_uri: str
    source_store: StoreSettings = StoreSettings()
    output_store: StoreSettings = StoreSettings()
    limits: ImageLimits = ImageLimits()
    review: ReviewSettings = ReviewSettings()
    marks: MarkSettings = MarkSettings()
    origin: Origin = Origin()


class PoolSettings(_Model):
    """The settings of the replica pool and its dispatcher."""

    min_replicas: int = Field(
        1, ge=1, description="Replicas requested once there is work, and kept when there is less."
    )
    max_replicas: int | None = Field(
        1,
        ge=1,
        description="The most replicas, one per GPU. If the cluster has fewer GPUs, one replica "
        "at a time waits for a GPU, which makes an autoscaler add one. Empty: the number of GPUs "
        "that the cluster has now, at least one.",
    )
    idle_release_s: float = Field(
        30, ge=0, description="How long a replica is kept after it is last needed."
    )
    items_in_flight: int = Field(3, ge=1, description="Items in one replica at a time.")
    item_timeout_s: float = Field(
        900, gt=0, description="Time limit of an item, times the batch size."
    )
    # A cold node first fetches 34 GB, and its other replicas wait for that.
    start_timeout_s: float = Field(4 * 3600, gt=0)
    max_start_failures: int = Field(
        3, ge=1, description="Consecutive failures that stop a run without a working replica."
    )
    start_backoff_s: float = Field(
        1, ge=0, description="Pause after a failed start, doubled after each further one in a row."
    )
    deaths_alone_to_quarantine: int = Field(2, ge=1)
    cancel_grace_s: float = Field(5, ge=0, description="Time for the step in progress to end.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max_replicas is not None and self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas: accepted: at most max_replicas, {self.max_replicas}; "
                f"given {self.min_replicas}"
            )
        return self


class Environment(BaseSettings):
    """Settings read from the environment. Variable names start with `ACE_`, except Ray's."""

    model_config = SettingsConfigDict(
        env_prefix="ACE_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    weights_dir: Path = Field(
        default_factory=lambda: Path.home() / ".cache" / "ace-catalog" / "weights",
        description="The folder where a node keeps model files.",
    )
    allowed_buckets: Annotated[tuple[str, ...], NoDecode] | None = Field(
        None,
        description="Buckets that a catalog may read from, comma-separated. Empty: an S3 catalog's "
        "own bucket, or any bucket for a local catalog.",
    )
    weights_mirror: str | None = Field(
        None,
        description="A folder or s3:// prefix with a folder for each named variant. Empty: the "
        "model hub.",
    )
    accept_license: bool = Field(
        False, description="You have read and accept the licence of the variant's weights."
    )
    adapter_mode: Literal["resident", "fused"] = Field(
        "resident",
        description="How LoRA adapters are held. resident: beside the weights, switched for each "
        "item. fused: added into the weights, which takes longer to switch.",
    )
    batch_size: int = Field(
        1, ge=1, le=64, description="Items of one shape that share a pass of the transformer."
    )
    depth_model: str | None = Field(
        None,
        description="The place of a DPT or Depth Anything model, which draws the control depth. "
        "Empty: that control is refused.",
    )
    contour_model: str | None = Field(
        None,
        description="The place of a segmentation model with a label contour, line or edge, which "
        "draws the control contour. Empty: that control is refused.",
    )
    segmenter: str | None = Field(
        None,
        description="The place of a segmentation model, or of an ONNX network that finds the "
        'prominent object. It makes the mask "auto" if auto_mask is model.',
    )
    clip_model: str | None = Field(
        None,
        description="The place of a CLIP model, which scores how well a picture fits a prompt.",
    )
    source_endpoint_url: str | None = None
    source_profile: str | None = None
    output_endpoint_url: str | None = None
    output_profile: str | None = None
    device: Literal["cpu", "cuda"] | None = Field(
        None, description="Device of the replicas. Empty: cuda if Ray reports GPUs, else cpu."
    )
    torch_threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads of one replica without a GPU. Empty: all cores. Pictures are "
        "bit-identical only if the number is the same.",
    )
    price_per_hour: float | None = Field(
        None, ge=0, description="Cost of one replica for an hour, in your currency."
    )
    seconds_per_million_token_steps: float | None = Field(
        None,
        gt=0,
        description="Seconds that one replica takes for a million tokens × steps. Empty: what an "
        "earlier run under the same output measured.",
    )
    report_pages: int = Field(
        25,
        ge=1,
        le=1000,
        description="Largest number of pages of a contact sheet, with 200 rows each.",
    )
    alert_failure_share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Notify once more than this share of a run's edited items has failed, if at "
        "least 20 are edited. Needs the automation of infra.deploy.",
    )
    public_base_url: str | None = Field(
        None,
        description="Replaces s3://BUCKET in links to contact sheets. {bucket} in it stands for "
        "the bucket. Empty: signed links, which work for 7 days at most.",
    )
    xmp: bool = Field(
        True, description="Whether the XMP of pictures states that a model made them."
    )
    embed_prompt: bool = Field(False, description="Whether that XMP also contains the prompt.")
    c2pa_key: Path | None = Field(
        None,
        description="A PEM file on each node: the private key that signs pictures. Empty: none.",
    )
    c2pa_certificates: Path | None = Field(
        None, description="A PEM file on each node: the certificate of that key, then its chain."
    )
    c2pa_block: str | None = Field(
        None,
        description='A Prefect block of type Secret, JSON with "key" and "certificates" (PEM), '
        "instead of files.",
    )
    c2pa_timestamp_url: str | None = Field(
        None, description="URL of a timestamp authority (RFC 3161), asked for each signature."
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
        """Return None for `local`: to Ray that is this machine, so no cluster is joined."""
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
        """The settings of XMP and signing.

        Raises SettingsError for a key without certificates, for certificates without a key, and
        for files and a block together.
        """
        key, certificates = self.c2pa_key, self.c2pa_certificates
        if bool(key) != bool(certificates):
            raise SettingsError(
                "environment: ACE_C2PA_KEY and ACE_C2PA_CERTIFICATES: accepted: both or none"
            )
        if key and self.c2pa_block:
            raise SettingsError(
                "environment: ACE_C2PA_BLOCK: accepted: a block or files; given both"
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
        """The places of the vision models that are set, by field of VisionSettings."""
        places = {
            "depth": self.depth_model,
            "contour": self.contour_model,
            "segmenter": self.segmenter,
            "clip": self.clip_model,
        }
        return {use: place for use, place in places.items() if place}

    def weights(self, *, accept_license: bool = False) -> WeightsSettings:
        """Return the settings of model files, which are read with the identity of sources."""
        return WeightsSettings(
            folder=self.weights_dir.resolve(),
            mirror=_absolute(self.weights_mirror),
            store=self.source_store,
            accept_license=accept_license or self.accept_license,
        )


def _absolute(place: str | None) -> str | None:
    """Return a local path as absolute, because a replica may work in another folder."""
    if place is None or "://" in place:
        return place
    return str(Path(place).expanduser().absolute())


def read_environment() -> Environment:
    """Read the environment. Raises SettingsError, which names the variable at fault."""
    try:
        return Environment()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0])
        variable = f"ACE_{name.upper()}" if name in Environment.model_fields else name
        raise SettingsError(f"environment: {variable}: {first['msg']}") from None


def cpu_count() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))
