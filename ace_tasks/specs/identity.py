"""The identity of an item: a hash of everything that decides its picture.

The same request on the same bytes is always the same item, in whatever catalog, row or order it
returns.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from ace_tasks.specs.columns import Shape
from ace_tasks.specs.item import (
    CANONICAL,
    ModelIdentity,
    Resolved,
    Source,
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


# These do not change the seed, so asking for more candidates keeps the first one, and a fast edit
# starts from the noise of the exact one.
_NO_PART_OF_A_SEED = frozenset({"seed", "candidates", "scores_version", "clip_model", "shortcuts"})
_HOLE = re.compile(r'"\\u0000(\w+)"')  # as JSON has what `_hole` returns


class RequestText:
    """The JSON of a request, for many rows of the same settings: to be hashed, and to be planned.

    Only the mask's shape, the prompt, the seed and the sources differ between such rows. The text
    between them is written once, and what stands before the first of them is hashed once.
    """

    def __init__(self, resolved: Resolved, model: ModelIdentity):
        """Take the settings of any of the rows, and the model that makes them all."""
        settings = resolved.model_dump(mode="json") | {"prompt": _hole("prompt")}
        settings["seed"] = _hole("seed")
        if isinstance(resolved.mask, Shape):
            settings["mask"] = _hole("mask")
        self._resolved = _Template(json.dumps(settings, ensure_ascii=False, separators=(",", ":")))
        hashed = {k: v for k, v in without_none(settings).items() if k not in _NO_PART_OF_A_SEED}
        self._seed = _Template(CANONICAL.encode([hashed, _hole("sources")]))
        content = {
            "model": _model(model, resolved),
            "settings": without_none(settings),
            "sources": _hole("sources"),
        }
        # Where the versions stand, all that differs comes after them.
        self._ids = [
            _Template(CANONICAL.encode(content | {"pixels_version": each}))
            for each in (PIXELS_VERSION, *EARLIER_PIXELS_VERSIONS)
        ]

    def identify(
        self, prompt: str, mask: object, sources: Sources, seed: int | None
    ) -> tuple[int, list[str], str]:
        """Return the seed, derived if it is None, the item's ids, and the JSON of its settings.

        The first id is that of PIXELS_VERSION. The others are of EARLIER_PIXELS_VERSIONS.
        """
        texts = {"prompt": CANONICAL.encode(prompt), "sources": _identities(sources)}
        if isinstance(mask, Shape):
            texts["mask"] = CANONICAL.encode(mask.model_dump(mode="json"))
        if seed is None:
            digest = self._seed.hash(self._seed.fill(texts)).digest()
            seed = int.from_bytes(digest[:4], "big")
        texts["seed"] = str(seed)
        rest = self._ids[0].fill(texts)
        ids = [each.hash(rest).hexdigest() for each in self._ids]
        return seed, ids, self._resolved.beginning + self._resolved.fill(texts)


class _Template:
    """JSON with holes, whose beginning is hashed."""

    def __init__(self, text: str):
        self.beginning, *self._rest = _HOLE.split(text)
        self._names = self._rest[::2]
        self._begun = hashlib.sha256(self.beginning.encode())

    def fill(self, texts: dict[str, str]) -> str:
        """Return what stands after the beginning, with these texts in its holes."""
        rest = self._rest.copy()
        rest[::2] = [texts[name] for name in self._names]
        return "".join(rest)

    def hash(self, rest: str) -> Any:
        """Return the SHA-256 of the beginning and the rest of the text."""
        sha256 = self._begun.copy()
        sha256.update(rest.encode())
        return sha256


def _hole(name: str) -> str:
    return f"\0{name}"  # no setting may hold this character


def _identities(sources: Sources) -> str:
    """Return the canonical JSON of what distinguishes the sources."""
    parts = [f'"image":{_identity(sources.image)}'] if sources.image else []
    if sources.mask:
        parts.append(f'"mask":{_identity(sources.mask)}')
    references = ",".join(map(_identity, sources.reference))
    return "{" + ",".join([*parts, f'"reference":[{references}]']) + "}"


def _identity(source: Source) -> str:
    parts = [
        f'"{name}":{CANONICAL.encode(value) if isinstance(value, str) else value}'
        for name, value in sorted(source.identity().items())
        if value is not None
    ]
    return "{" + ",".join(parts) + "}"


def _model(model: ModelIdentity, resolved: Resolved) -> dict[str, str]:
    if resolved.background is not None:
        return {}
    adapter = resolved.adapter
    parts = {"base": model.base, "encoders": model.encoders}
    return parts | ({"adapter": model.adapters[adapter]} if adapter else {})


def item_id(resolved: Resolved, sources: Sources, model: ModelIdentity) -> str:
    """Return SHA-256 (hex) of everything that decides the picture, not of row id, run or place."""
    return _item_ids(resolved, sources, model)[0]


def earlier_item_ids(item: WorkItem, model: ModelIdentity) -> tuple[str, ...]:
    """Return the ids of the same request under earlier versions whose pictures still count."""
    return tuple(_item_ids(item.resolved, item.sources, model)[1:])


def _item_ids(resolved: Resolved, sources: Sources, model: ModelIdentity) -> list[str]:
    text = RequestText(resolved, model)
    return text.identify(resolved.prompt, resolved.mask, sources, resolved.seed)[1]


def candidate_seeds(seed: int, count: int) -> tuple[int, ...]:
    """Return the seeds of an item's candidates.

    The first is the item's own. Each other one is from SHA-256 of that and the candidate's number.
    """
    digests = [hashlib.sha256(canonical_json([seed, n])).digest() for n in range(1, count)]
    return (seed, *(int.from_bytes(each[:4], "big") for each in digests))
