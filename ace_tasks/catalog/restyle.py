"""The rows of a restyle: one instruction for every picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ace_tasks.catalog.files import Reject
from ace_tasks.catalog.sources.mask_files import MaskRule
from ace_tasks.catalog.sources.source_picture import GeneratedRow, Skipped, SourcePicture
from ace_tasks.errors import BadRow, SettingsError


@dataclass(frozen=True)
class RowDefaults:
    """The settings that all rows of a run share.

    An empty text, steps 0 and seed -1 mean that a form left the field unset.
    """

    mask_invert: bool = False
    mask_grow: int = 0
    mask_label: str = ""
    format: Literal["source", "png", "jpeg", "webp", "avif"] = "source"
    steps: int = 0
    seed: int = -1
    adapter: str = ""
    shadow: bool = False

    def cells(self, *, masked: bool) -> dict[str, Any]:
        """Return these settings as columns of a row that a model edits, without those unset."""
        cells: dict[str, Any] = {
            "format": None if self.format == "source" else self.format,
            "steps": self.steps or None,
            "seed": None if self.seed < 0 else self.seed,
            "adapter": self.adapter or None,
        }
        if masked:
            cells |= {
                "mask_invert": self.mask_invert or None,
                "mask_grow": self.mask_grow or None,
                "mask_label": self.mask_label or None,
            }
        return {name: cell for name, cell in cells.items() if cell is not None}


@dataclass(frozen=True)
class Instruction:
    """The edit that a restyle makes of every picture.

    `task` applies without references. With them, each row is a try-on, which puts the reference
    into the masked part.
    """

    prompt: str
    task: Literal["edit", "fill", "background"]
    references: tuple[str, ...]
    defaults: RowDefaults

    def check(self, mask: str) -> None:
        """Raise SettingsError for a combination of options that cannot make a picture.

        `mask` is the name of the mask rule.
        """
        if self.task == "background":
            self._check_background(mask)
            return
        if self.defaults.shadow:
            raise SettingsError("shadow: accepted only with task background")
        if not self.prompt.strip():
            raise SettingsError("prompt: accepted: what to do with every picture; given none")
        if mask != "none":
            return
        needs = "reference" if self.references else "task fill" if self.task == "fill" else None
        if needs:
            raise SettingsError(f"mask: {needs} needs one; given 'none'")
        if self.defaults.mask_invert or self.defaults.mask_grow or self.defaults.mask_label:
            raise SettingsError(
                "mask: mask_invert, mask_grow and mask_label need one; given 'none'"
            )

    def _check_background(self, mask: str) -> None:
        """Refuse the settings of a model, since a background needs no model."""
        defaults = self.defaults
        given = {
            "prompt": self.prompt.strip(),
            "reference": self.references,
            "mask": "" if mask == "none" else mask,
            "mask_invert": defaults.mask_invert,
            "mask_grow": defaults.mask_grow,
            "mask_label": defaults.mask_label,
            "steps": defaults.steps,
            "seed": defaults.seed >= 0,
            "adapter": defaults.adapter,
        }
        for name, value in given.items():
            if value:
                raise SettingsError(f"{name}: accepted: none with task background")

    def row(self, picture: SourcePicture, mask: Any) -> dict[str, Any]:
        if self.task == "background":
            cells: dict[str, Any] = {
                "id": picture.row_id,
                "task": self.task,
                "image": picture.uri,
                "format": None if self.defaults.format == "source" else self.defaults.format,
                "shadow": self.defaults.shadow or None,
            }
            return {name: cell for name, cell in cells.items() if cell is not None}
        row: dict[str, Any] = {
            "id": picture.row_id,
            "task": "try_on" if self.references else self.task,
            "prompt": self.prompt,
            "image": picture.uri,
        }
        if mask is not None:
            row["mask"] = mask
        if self.references:
            row["reference"] = list(self.references)
        return row | self.defaults.cells(masked=mask is not None)


def restyle_rows(
    pictures: Iterable[SourcePicture | Skipped | Reject],
    instruction: Instruction,
    mask: MaskRule,
    limit: int = 0,
) -> Iterator[GeneratedRow | Skipped | Reject]:
    """Yield a row for each of the first `limit` pictures, in order. 0 means all pictures."""
    made = 0
    for each in pictures:
        if not isinstance(each, SourcePicture):
            yield each
            continue
        try:
            yield GeneratedRow(instruction.row(each, mask(each)), each.where)
        except BadRow as error:
            cells = {"id": each.row_id, "image": each.uri}
            where = f"{each.where}: " if each.where else ""
            yield Reject(0, error.field, f"{where}{error}", cells)
        made += 1
        if made == limit:
            return
