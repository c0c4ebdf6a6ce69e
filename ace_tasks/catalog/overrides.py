"""Overrides that a person applies to every row of a run after seeing a few of its pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import BaseModel, ConfigDict, Field

from ace_tasks.catalog.files import Checked, Reject
from ace_tasks.errors import BadRow, SettingsError
from ace_tasks.specs import MAX_SEED, OnBackground, parse_spec

_OLD = "{prompt}"


class Overrides(BaseModel):
    """A prompt and a seed for every row. An empty field leaves the row's own."""

    model_config = ConfigDict(frozen=True)
    prompt: str = Field("", description=f"The new prompt. {_OLD} in it stands for the row's own.")
    seed: int | None = Field(None, ge=0, le=MAX_SEED)

    def __bool__(self) -> bool:
        return bool(self.prompt) or self.seed is not None

    def check(self) -> None:
        """Raise SettingsError if the prompt has braces other than `{prompt}`."""
        rest = self.prompt.replace(_OLD, "")
        if "{" in rest or "}" in rest:
            raise SettingsError(
                f"prompt: accepted: no braces but {_OLD}; given {self.prompt[:200]!r}"
            )

    def applied(self, specs: Iterable[Checked | Reject]) -> Iterator[Checked | Reject]:
        """Yield each row with its new prompt and seed, or a Reject if that makes it invalid."""
        for each in specs:
            if isinstance(each, Reject) or not self:
                yield each
                continue
            line, spec, cells = each
            if isinstance(spec, OnBackground):  # such a row has neither prompt nor seed
                yield each
                continue
            row = spec.model_dump(exclude_none=True)
            if self.prompt:
                row["prompt"] = self.prompt.replace(_OLD, spec.prompt)
            if self.seed is not None:
                row["seed"] = self.seed
            try:
                yield line, parse_spec(row), cells
            except BadRow as error:
                yield Reject(line, error.field, str(error), cells)


NO_OVERRIDES = Overrides()
