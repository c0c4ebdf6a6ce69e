"""The identity of an item: a hash of everything that decides its picture.

The same request on the same bytes is always the same item, in whatever catalog, row or order it
returns.
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

# Raise by hand whenever a code change alters published pixels. Every item then becomes a new one.
# 2: special tokens, cleaned prompts, guidance in float32; 3: paste-back, alpha and profile kept;
# 4: mistaken masks are refused, controls, presets, candidates; 5: colours in every form that a file
# states them, 16-bit transparency, mask "alpha" leaves nothing transparent, the owner's metadata.
PIXELS_VERSION = 5
# Earlier versions whose pictures still count, so that an upgrade does not redo finished items.
EARLIER_PIXELS_VERSIONS = (4,)
# Raise by hand whenever a code change may choose another candidate as the best
# (`ace_tasks.images.scores`). 2: spreads are summed in double precision, changes of large parts are
# sampled; 3: near colours count as alike.
SCORES_VERSION = 3


def _identities(sources: Sources) -> dict[str, Any]:
    identities = {
        "image": sources.image.identity() if sources.image else None,
        "mask": sources.mask.identity() if sources.mask else None,
        "reference": [each.identity() for each in sources.reference],
    }
    return dict(without_none(identities))


# These do not change the seed, so asking for more candidates keeps the first one, and a fast edit
# starts from the noise of the exact one.
_NO_PART_OF_A_SEED = frozenset({"seed", "candidates", "scores_version", "clip_model", "shortcuts"})


def derived_seed(resolved: Resolved, sources: Sources) -> int:
    """Return the seed of a row that names none, derived from its content."""
    content = {k: v for k, v in _settings(resolved).items() if k not in _NO_PART_OF_A_SEED}
    return int.from_bytes(_digest([content, _identities(sources)])[:4], "big")


def candidate_seeds(seed: int, count: int) -> tuple[int, ...]:
    """Return the seeds of an item's candidates.

    The first is the item's own. Each other one is from SHA-256 of that and the candidate's number.
    """
    digests = [hashlib.sha256(canonical_json([seed, n])).digest() for n in range(1, count)]
    return (seed, *(int.from_bytes(each[:4], "big") for each in digests))


def item_id(resolved: Resolved, sources: Sources, model: ModelIdentity) -> str:
    """Return SHA-256 (hex) of everything that decides the picture, not of row id, run or place."""
    return _item_ids(resolved, sources, model, (PIXELS_VERSION,))[0]


def earlier_item_ids(item: WorkItem, model: ModelIdentity) -> tuple[str, ...]:
    """Return the ids of the same request under earlier versions whose pictures still count."""
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
    """Hash content that contains no None: like hashing `canonical_json`, in half the time."""
    return hashlib.sha256(CANONICAL.encode(content).encode()).digest()
