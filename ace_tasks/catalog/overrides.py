"""What a person changes in every row of a run, after having seen a few pictures of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import BaseModel, ConfigDict, Field

from ace_tasks.catalog.files import Checked, Reject
from ace_tasks.errors import BadRow, SettingsError
from ace_tasks.specs import MAX_SEED, OnBackground, parse_spec

_OLD = "{prompt}"


class Overrides(BaseModel):
    """Empty: what the row says stays."""

    model_config = ConfigDict(frozen=True)
    prompt: str = Field("", description=f"The new prompt; {_OLD} in it stands for the row's own.")
    seed: int | None = Field(None, ge=0, le=MAX_SEED)

    def __bool__(self) -> bool:
        return bool(self.prompt) or self.seed is not None

    def check(self) -> None:
        """Raises SettingsError for braces that are no place of the old prompt."""
        rest = self.prompt.replace(_OLD, "")
        if "{" in rest or "}" in rest:
            raise SettingsError(
                f"prompt: accepted: no braces but {_OLD}; given {self.prompt[:200]!r}"
            )

    def applied(self, specs: Iterable[Checked | Reject]) -> Iterator[Checked | Reject]:
        """Rows with their new prompts and seeds; a Reject for one that is no valid spec then."""
        for each in specs:
            if isinstance(each, Reject) or not self:
                yield each
                continue
            line, spec, cells = each
            if isinstance(spec, OnBackground):  # it has neither prompt nor seed
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
