"""The exceptions of this project, and who acts on each.

    AceError
    ├── FatalError                 stops the run at once with one message; a person must act
    │   ├── SettingsError          a setting or parameter is wrong
    │   ├── CatalogError           the catalog as a whole cannot be read
    │   ├── WeightsError           model files are missing, wrong or altered
    │   ├── CredentialsError       credentials are missing, or the store refuses them
    │   ├── OutputRefused          the output is missing, not writable or not fit for the request
    │   ├── NoConditionalWrites    the store does not honour If-None-Match
    │   ├── OverBudget             the run would exceed, or has exceeded, its budget
    │   ├── BrokenRun              a row is counted twice or not at all: a bug in this project
    │   ├── PoolFailed             replicas fail to start again and again
    │   └── TrainingFailed         a training's workers fail again and again
    ├── StoreError                 about one object; the caller decides what to do
    │   ├── NotFound               the object does not exist
    │   ├── BucketMissing          the bucket does not exist
    │   ├── Forbidden              our credentials are valid but have no right to the object
    │   ├── TooLarge               the object has more bytes than the caller accepts
    │   ├── PreconditionFailed     If-Match or If-None-Match did not hold (HTTP 412)
    │   └── StoreUnavailable       the store still fails after all retries
    ├── ItemError                  about one item; becomes its failure record
    │   ├── BadRow                 the row is invalid, or asks for something unavailable
    │   ├── BadImage               the bytes are not a picture that we accept
    │   ├── BadMask                the mask does not fit its picture
    │   ├── SuspectMask            the mask looks like a mistake, and the run refuses such masks
    │   ├── BadOutput              the model's output is not a valid picture
    │   ├── OutOfMemory            the item fits on no device, even alone and with offloading
    │   ├── NeedsReview            the picture is held under review/ for a person
    │   ├── Discarded              a person rejected the picture
    │   ├── Forgotten              a tombstone covers the item or one of its sources
    │   ├── BadRecord              another object has the key of its record (transient)
    │   ├── SourceMissing          a source does not exist or may not be read
    │   ├── SourceChanged          a source changed between plan and fetch
    │   ├── SourceUnavailable      the store failed while a source was read (transient)
    │   ├── OutputUnavailable      the store failed while a picture was published (transient)
    │   ├── TimedOut               the item took longer than its time limit
    │   ├── ReplicaLost            the item was lost with its replica several times (transient)
    │   ├── Quarantined            the item ended its process twice while it ran alone
    │   └── InternalError          an unforeseen exception (transient)
    ├── WeightsUnavailable         model files cannot be fetched or stored now; another node may
    ├── DeviceLost                 the GPU no longer answers; its process must end
    └── Cancelled                  the run was cancelled; the item stays undone without blame

A module that wraps a library lets none of that library's exceptions out: `store` translates
botocore's, `images` translates Pillow's, and `engine` translates Ray's.
"""

from __future__ import annotations


class AceError(Exception):
    """The root of all our exceptions."""


class FatalError(AceError):
    """An error that stops the run at once: every further item would fail the same way."""


class SettingsError(FatalError): ...


class CatalogError(FatalError): ...


class WeightsError(FatalError): ...


class CredentialsError(FatalError): ...


class OutputRefused(FatalError): ...


class NoConditionalWrites(FatalError): ...


class OverBudget(FatalError): ...


class BrokenRun(FatalError): ...


class PoolFailed(FatalError): ...


class TrainingFailed(FatalError): ...


class StoreError(AceError):
    """An error about one object; `uri` names it."""

    def __init__(self, uri: str, message: str):
        super().__init__(uri, message)  # pickle calls the class with `args` again
        self.uri = uri

    def __str__(self) -> str:
        return f"{self.uri}: {self.args[1]}"


class NotFound(StoreError): ...


class BucketMissing(StoreError): ...


class Forbidden(StoreError): ...


class TooLarge(StoreError): ...


class PreconditionFailed(StoreError): ...


class StoreUnavailable(StoreError): ...


class ItemError(AceError):
    """An error about one item. `code` is stable and machine-readable; the message is for people.

    `transient` says whether the next run retries the item by itself. Failures that would repeat
    wait until someone asks for a retry.
    """

    code = "item_error"
    transient = False


class BadRow(ItemError):
    """A row that is at fault. `field` names the column; None: the row as a whole."""

    code = "bad_row"

    def __init__(self, field: str | None, message: str):
        super().__init__(field, message)
        self.field = field

    def __str__(self) -> str:
        return str(self.args[1])


class BadImage(ItemError):
    code = "bad_image"


class BadMask(ItemError):
    code = "bad_mask"


class SuspectMask(ItemError):
    code = "suspect_mask"


class BadOutput(ItemError):
    code = "bad_output"


class OutOfMemory(ItemError):
    code = "out_of_memory"


class NeedsReview(ItemError):
    code = "needs_review"


class Discarded(ItemError):
    code = "discarded"


A_PERSON_DECIDES = frozenset({NeedsReview.code, Discarded.code})
"""Codes that a retry takes up only if it names them."""


class SourceMissing(ItemError):
    code = "source_missing"


class SourceChanged(ItemError):
    code = "source_changed"


class Forgotten(ItemError):
    """A tombstone covers the item, or the content of one of its sources.

    It leaves no failure record.
    """

    code = "forgotten"


class BadRecord(ItemError):
    """An object that has the key of an item's record and is not that record.

    No run deletes it, because it may belong to someone. Once it is moved away, the next run edits
    the item.
    """

    code = "bad_record"
    transient = True

    @classmethod
    def at(cls, uri: str, why: str) -> BadRecord:
        return cls(
            f"{uri} is not the record of this item ({why}): move it away, and the next run edits "
            "the row"
        )


class SourceUnavailable(ItemError):
    code = "source_unavailable"
    transient = True


class OutputUnavailable(ItemError):
    code = "output_unavailable"
    transient = True


class TimedOut(ItemError):
    code = "timeout"


class ReplicaLost(ItemError):
    code = "replica_lost"
    transient = True


class Quarantined(ItemError):
    code = "quarantined"


class InternalError(ItemError):
    code = "internal_error"
    transient = True


class WeightsUnavailable(AceError):
    """A failure of a node's disk or of the source of model files, not of the files themselves."""


class DeviceLost(AceError):
    """A lost GPU. After an illegal access or a fault, every further call in this process fails."""


class Cancelled(AceError):
    """A cancellation of the run, raised between two denoise steps."""


def item_error_codes() -> dict[str, bool]:
    """Map the code of each kind of item failure to whether it is transient."""
    return {kind.code: kind.transient for kind in ItemError.__subclasses__()}
