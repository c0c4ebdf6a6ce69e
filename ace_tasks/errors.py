"""Every exception of this project, and who acts on it.

    AceError
    ├── FatalError                 stops the run at once, with one message; a person acts
    │   ├── SettingsError          a setting or parameter is wrong
    │   ├── CatalogError           the catalog as a whole cannot be read
    │   ├── WeightsError           model files are missing, wrong or altered
    │   ├── CredentialsError       the store refuses our credentials, or there are none
    │   ├── OutputRefused          the output bucket is missing or may not be written
    │   ├── NoConditionalWrites    the store ignores If-None-Match
    │   ├── OverBudget             the run would take, or has taken, more than it may
    │   ├── BrokenRun              a row accounted for twice, or not at all: a bug of ours
    │   ├── PoolFailed             replicas fail to start, again and again
    │   └── TrainingFailed         a training's workers fail, again and again
    ├── StoreError                 about one object; the caller decides
    │   ├── NotFound               no such object
    │   ├── BucketMissing          no such bucket
    │   ├── Forbidden              our credentials are known but have no right to it
    │   ├── TooLarge               more bytes than the caller accepts
    │   ├── PreconditionFailed     If-Match or If-None-Match did not hold (HTTP 412)
    │   └── StoreUnavailable       still failing after boto3's own retries
    ├── ItemError                  about one item; becomes its failure record
    │   ├── BadRow                 the row is no valid spec, or asks for what is not there
    │   ├── BadImage               bytes that are no picture we take
    │   ├── BadMask                a mask that does not fit its picture
    │   ├── SuspectMask            a mask that looks like a mistake, where a run takes none such
    │   ├── BadOutput              the model made numbers that are no picture
    │   ├── OutOfMemory            it fits no device, alone and with all else off it
    │   ├── NeedsReview            a picture below a floor; it waits under review/ for a person
    │   ├── Discarded              a picture that a person did not want
    │   ├── Forgotten              a tombstone covers it, or one of its sources
    │   ├── BadRecord              what stands in its record's place is none (transient)
    │   ├── SourceMissing          a source that is not there, or may not be read
    │   ├── SourceChanged          a source that changed between plan and fetch
    │   ├── SourceUnavailable      the store failed while a source was read (transient)
    │   ├── OutputUnavailable      the store failed while a picture was published (transient)
    │   ├── TimedOut               longer than the item's time limit
    │   ├── ReplicaLost            lost with its machine time and again (transient)
    │   ├── Quarantined            ended its process twice while it ran alone
    │   └── InternalError          an exception nobody foresaw (transient)
    ├── WeightsUnavailable         model files cannot be reached or kept just now; another node may
    ├── DeviceLost                 the GPU answers no more; its process must end
    └── Cancelled                  the run was cancelled; the item stays undone, nobody is blamed

Nothing below the border of a library lets that library's exceptions out: `store` translates
botocore's, `images` translates Pillow's, `engine` translates Ray's.
"""

from __future__ import annotations


class AceError(Exception):
    """Root of all our exceptions."""


class FatalError(AceError):
    """Stops the run at once: every further item would fail the same way."""


class SettingsError(FatalError):
    pass


class CatalogError(FatalError):
    pass


class WeightsError(FatalError):
    pass


class CredentialsError(FatalError):
    pass


class OutputRefused(FatalError):
    pass


class NoConditionalWrites(FatalError):
    pass


class OverBudget(FatalError):
    pass


class BrokenRun(FatalError):
    pass


class PoolFailed(FatalError):
    pass


class TrainingFailed(FatalError):
    pass


class StoreError(AceError):
    """About one object; `uri` names it."""

    def __init__(self, uri: str, message: str):
        super().__init__(uri, message)  # its own arguments: pickle calls it with `args` again
        self.uri = uri

    def __str__(self) -> str:
        return f"{self.uri}: {self.args[1]}"


class NotFound(StoreError):
    pass


class BucketMissing(StoreError):
    pass


class Forbidden(StoreError):
    pass


class TooLarge(StoreError):
    pass


class PreconditionFailed(StoreError):
    pass


class StoreUnavailable(StoreError):
    pass


class ItemError(AceError):
    """About one item. `code` is stable and machine-readable; the message is for a person.

    `transient`: whether the next run tries the item again by itself. Failures that would
    repeat wait until someone asks for them.
    """

    code = "item_error"
    transient = False


class BadRow(ItemError):
    """`field` is the column at fault, or None when the row as a whole is."""

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
"""No retry takes these up unless it names them."""


class SourceMissing(ItemError):
    code = "source_missing"


class SourceChanged(ItemError):
    code = "source_changed"


class Forgotten(ItemError):
    """A tombstone covers the item, or the content of one of its sources. Leaves no failure record."""

    code = "forgotten"


class BadRecord(ItemError):
    """Nobody deletes it: it may be somebody's. Once it is moved away, the next run edits the item."""

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
    """A node's disk, or the place that model files come from, says no: not the weights' fault."""


class DeviceLost(AceError):
    """After an illegal access or a broken GPU every further call in this process fails."""


class Cancelled(AceError):
    """Raised between two denoise steps when the run is being cancelled."""


def item_error_codes() -> dict[str, bool]:
    """code → transient, for every kind of item failure."""
    return {kind.code: kind.transient for kind in ItemError.__subclasses__()}
