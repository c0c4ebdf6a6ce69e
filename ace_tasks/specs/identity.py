"""Who an item is: a hash of everything that decides its picture.

The same request on the same bytes is the same item for ever, in whatever catalog, row or order it
comes back.
"""

from __future__ import annotations

import hashlib
from typing import Any

from ace_tasks.specs.item import (
    CANONICAL,
    ModelIdentity,
    Resolved,
    Sources,
    WorkItem,
    canonical_json,
    without_none,
)

# Raise by hand whenever a change of code changes published pixels: every item becomes a new one.
# 2: special tokens, cleaned prompts, guidance in float32; 3: paste-back, alpha and profile kept;
# 4: masks that are mistakes are refused, controls, presets, candidates; 5: colours however a file
# says them, transparency of 16 bits, nothing left transparent by mask "alpha", the owner's metadata.
PIXELS_VERSION = 5
# Earlier versions whose pictures still count, so that an upgrade edits nothing anew that is done.
EARLIER_PIXELS_VERSIONS = (4,)
# Raise by hand whenever another of several candidates may be taken for the best (`ace_tasks.images.scores`).
# 2: spreads are added up in double precision, changes of large parts are sampled; 3: near colours
# are alike.
SCORES_VERSION = 3


def _identities(sources: Sources) -> dict[str, Any]:
    identities = {
        "image": sources.image.identity() if sources.image else None,
        "mask": sources.mask.identity() if sources.mask else None,
        "reference": [each.identity() for each in sources.reference],
    }
    return dict(without_none(identities))


# Whoever asks for more candidates has the same first one.
_NO_PART_OF_A_SEED = frozenset({"seed", "candidates", "scores_version", "clip_model"})


def derived_seed(resolved: Resolved, sources: Sources) -> int:
    """The seed of a row that names none: from its content."""
    content = {k: v for k, v in _settings(resolved).items() if k not in _NO_PART_OF_A_SEED}
    return int.from_bytes(_digest([content, _identities(sources)])[:4], "big")


def candidate_seeds(seed: int, count: int) -> tuple[int, ...]:
    """The seeds of an item's candidates: its own first, then SHA-256 of it and their number."""
    digests = [hashlib.sha256(canonical_json([seed, n])).digest() for n in range(1, count)]
    return (seed, *(int.from_bytes(each[:4], "big") for each in digests))


def item_id(resolved: Resolved, sources: Sources, model: ModelIdentity) -> str:
    """SHA-256 (hex) of everything that decides the picture; not of row id, run or place."""
    return _item_ids(resolved, sources, model, (PIXELS_VERSION,))[0]


def earlier_item_ids(item: WorkItem, model: ModelIdentity) -> tuple[str, ...]:
    """The ids of the same request under the earlier versions whose pictures still count."""
    return _item_ids(item.resolved, item.sources, model, EARLIER_PIXELS_VERSIONS)


def _item_ids(
    resolved: Resolved, sources: Sources, model: ModelIdentity, versions: tuple[int, ...]
) -> tuple[str, ...]:
    content = {
        "sources": _identities(sources),
        "model": _model(model, resolved),
        "settings": _settings(resolved),
    }
    return tuple(_digest(content | {"pixels_version": each}).hex() for each in versions)


def _model(model: ModelIdentity, resolved: Resolved) -> dict[str, str]:
    if resolved.background is not None:
        return {}
    adapter = resolved.adapter
    parts = {"base": model.base, "encoders": model.encoders}
    return parts | ({"adapter": model.adapters[adapter]} if adapter else {})


def _settings(resolved: Resolved) -> dict[str, Any]:
    return resolved.model_dump(mode="json", exclude_none=True)


def _digest(content: Any) -> bytes:
    """Of what has no None left: as of `canonical_json`, in half the time."""
    return hashlib.sha256(CANONICAL.encode(content).encode()).digest()
