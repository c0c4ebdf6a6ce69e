"""A run over a catalog before it starts: its parameters, as a flow takes them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from ace_tasks.catalog.files import Reject
from ace_tasks.catalog.restyle import Instruction, restyle_rows
from ace_tasks.catalog.sources.mask_files import open_masks
from ace_tasks.catalog.sources.pictures import pictures
from ace_tasks.catalog.sources.prefixes import buckets_of, check_apart, uris_of
from ace_tasks.catalog.sources.source_picture import GeneratedRow, Skipped, SourcePicture
from ace_tasks.errors import SettingsError
from ace_tasks.specs import WorkItem, quote
from flows.options.comparison import Alternative
from flows.options.feed import RestyleFeed
from flows.options.groups import NONE, Options
from flows.options.masking import MaskOptions, RowMasks
from flows.options.pixels import CatalogPixels, RestylePixels
from flows.options.review import ReviewOptions
from flows.options.run import RunOptions
from flows.steps.open_run import Run, RunRequest

# A comparison has limits and a dry run of its own.
_OF_ONE_RUN = {"dry_run": False, "max_replica_hours": 0.0, "max_cost": 0.0}


class WholeRun(Options):
    """The parameters of a run over a catalog."""

    command: ClassVar[str]
    deployment: ClassVar[str]
    positional: ClassVar[tuple[str, ...]]

    output: str
    variant: str
    masking: MaskOptions = MaskOptions()
    review: ReviewOptions = ReviewOptions()
    run: RunOptions = RunOptions()

    def changed(self, alternative: Alternative) -> WholeRun:
        """Return this run with what an alternative changes. Raises SettingsError."""
        speed = {} if alternative.speed is None else {"speed": alternative.speed}
        update: dict[str, Any] = {"run": self.run.model_copy(update={**_OF_ONE_RUN, **speed})}
        if alternative.variant is not None:
            update["variant"] = alternative.variant
        if alternative.auto_mask is not None:
            auto_mask = {"auto_mask": alternative.auto_mask}
            update["masking"] = self.masking.model_copy(update=auto_mask)
        return self.model_copy(update=update)

    def request(self) -> RunRequest:
        """Return the request for this run. Raises SettingsError for what cannot make a picture."""
        raise NotImplementedError

    def row(self, item: WorkItem) -> dict[str, Any]:
        """Return the row that this run makes of the one that `item` was planned from."""
        return item.spec.model_dump(mode="json", exclude_none=True)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of the deployment as JSON, without those that are defaults."""
        given = self.model_dump(mode="json", exclude_defaults=True)
        return {name: given[name] for name in self.positional} | given

    def command_words(self) -> list[str]:
        """Return the command of the terminal and its arguments."""
        given = self.parameters()
        places = [given.pop(name) for name in self.positional]
        return ["ace-catalog", self.command, *places, *_flags(given)]

    def command_line(self) -> str:
        """Return the command of the terminal, quoted for a shell."""
        return shlex.join(self.command_words())


def _flags(given: Mapping[str, Any]) -> Iterator[str]:
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, Mapping):
            yield from _flags(value)
        elif isinstance(value, bool):
            yield flag if value else flag.replace("--", "--no-", 1)
        elif str(value).startswith("-"):
            yield f"{flag}={value}"
        else:
            yield from (flag, str(value))


class CatalogRun(WholeRun):
    """The parameters of `edit-catalog`."""

    command = "edit"
    deployment = "edit-catalog/edit-catalog"
    positional = ("catalog", "output")

    catalog: str
    pixels: CatalogPixels = CatalogPixels()

    def changed(self, alternative: Alternative) -> WholeRun:
        """Return this run with what an alternative changes. Raises SettingsError."""
        for name in ("prompt", "steps", "seed"):
            if (value := getattr(alternative, name)) is not None:
                raise SettingsError(
                    f"{name}: accepted with restyle, because the rows of a catalog have their own; "
                    f"given {value!r} for {alternative.name}"
                )
        return super().changed(alternative)

    def request(self) -> RunRequest:
        """Return the request for this run. Raises SettingsError for what cannot make a picture."""
        pixels, review = self.pixels.settings(self.masking), self.review.settings()
        return RunRequest(self.catalog, self.output, self.variant, pixels, review, self.run)


class RestyleRun(WholeRun):
    """The parameters of `restyle-catalog`."""

    command = "restyle"
    deployment = "restyle-catalog/restyle-catalog"
    positional = ("source", "output")

    source: str
    prompt: str = ""
    mask: str = NONE
    feed: RestyleFeed = RestyleFeed()
    pixels: RestylePixels = RestylePixels()
    masking: RowMasks = RowMasks()

    def changed(self, alternative: Alternative) -> WholeRun:
        """Return this run with what an alternative changes. Raises SettingsError."""
        given = alternative.model_dump(include={"steps", "seed"}, exclude_none=True)
        update: dict[str, Any] = {"pixels": self.pixels.model_copy(update=given)}
        if alternative.prompt is not None:
            update["prompt"] = alternative.prompt
        return super().changed(alternative).model_copy(update=update)

    def request(self) -> RunRequest:
        """Return the request for this run. Raises SettingsError for what cannot make a picture."""
        check_apart(source=self.source, output=self.output, mask=self.mask)
        self.masking.check("mask", self.mask)
        self.feed.links()
        instruction = self.instruction
        instruction.check(self.mask)
        return RunRequest(
            self.source,
            self.output,
            self.variant,
            self.pixels.settings(self.masking),
            self.review.settings(),
            self.run,
            buckets_of(self.source, self.mask, self.feed.links_to, *instruction.references),
        )

    @property
    def instruction(self) -> Instruction:
        """The edit that is made of every picture. Raises SettingsError for a bad reference."""
        references = uris_of("reference", self.pixels.reference)
        defaults = self.pixels.row_defaults(self.masking)
        return Instruction(self.prompt, self.pixels.task, references, defaults)

    def rows(self, run: Run) -> Iterator[GeneratedRow | Skipped | Reject]:
        """Yield a row for each picture of the source."""
        feed, main_only = self.feed, self.feed.main_only
        place = run.place("source", run.catalog, feed, main_only=main_only, once=True)
        found = pictures(place, run.sources)
        masked = (each for each in pictures(place, run.sources) if isinstance(each, SourcePicture))
        with open_masks(
            "mask", self.mask, run.sources, run.scratch, optional=True, masked=masked
        ) as rule:
            yield from restyle_rows(found, self.instruction, rule, feed.limit)

    def row(self, item: WorkItem) -> dict[str, Any]:
        """Return the row that this run makes of the one that `item` was planned from."""
        row = super().row(item)
        if self.pixels.task == "background":
            return row
        row["prompt"] = self.prompt
        for name, is_set in (("steps", self.pixels.steps > 0), ("seed", self.pixels.seed >= 0)):
            row.pop(name, None)
            if is_set:
                row[name] = getattr(self.pixels, name)
        return row


def catalog_run(given: RestyleRun) -> CatalogRun:
    """Return the run of an edit catalog with these parameters.

    Raises SettingsError for one that only a restyle has.
    """
    known, unset = CatalogRun.model_fields, RestyleRun.model_fields
    for name in RestyleRun.model_fields.keys() - known.keys() - {"source"}:
        value = getattr(given, name)
        if value != unset[name].default:
            raise _only_of_restyle(name, value)
    groups: dict[str, Options] = {}
    for name, group in (("pixels", CatalogPixels), ("masking", MaskOptions)):
        set_here = getattr(given, name).model_dump(exclude_defaults=True)
        for member in set_here.keys() - group.model_fields.keys():
            raise _only_of_restyle(member, set_here[member])
        groups[name] = group.model_validate(set_here)
    places = {"catalog": given.source, "output": given.output, "variant": given.variant}
    return CatalogRun.model_validate(places | groups | {"run": given.run})


def _only_of_restyle(name: str, value: object) -> SettingsError:
    return SettingsError(f"{name}: accepted with whole_run restyle; given {quote(value)} with edit")
