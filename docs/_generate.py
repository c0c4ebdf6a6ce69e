"""The tables of the reference pages, read off the code.

    python docs/_generate.py            # write them into the pages
    python docs/_generate.py --check    # exit code 1 where a page differs from the code

A page names a table between two comments, and the function of that name here writes it there. Where
the code has no text for a thing, the text is here; a thing without one is an error.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow

from ace_tasks import errors
from ace_tasks.masks import hints
from ace_tasks.model.variants import VARIANTS
from ace_tasks.provenance import keys
from ace_tasks.provenance.record import record_schema
from ace_tasks.runs.results import SCHEMA as RESULTS
from ace_tasks.settings import Environment
from ace_tasks.specs import PRESETS, TASKS, row_schema
from flows.cli import app
from flows.options.groups import groups_of

ROOT = Path(__file__).resolve().parents[1]

# ---------------------------------------------------------------- a catalog's row


def columns() -> str:
    """Return which task takes which column."""
    fields = [each for model in TASKS.values() for each in model.model_fields.items()]
    needed = dict.fromkeys(name for name, field in fields if field.is_required())
    names = dict.fromkeys(["id", "task", *needed, *(name for name, _ in fields)])

    def mark(task: str, name: str) -> str:
        field = TASKS[task].model_fields.get(name)
        if field is None:
            return "–"
        return "yes" if field.is_required() else "optional"

    return table(
        ["column", *TASKS],
        [[code(name), *(mark(task, name) for task in TASKS)] for name in names],
    )


def column_texts() -> str:
    """Return what each column means, and what it may hold."""
    schema = row_schema()
    texts: dict[str, dict[str, str]] = {}
    accepted: dict[str, str] = {}
    for task, model in TASKS.items():
        properties = schema["$defs"][model.__name__]["properties"]
        for name, field in properties.items():
            texts.setdefault(name, {})[task] = field.get("description", "")
            if name != "task":
                accepted[name] = describe_type(field, schema)
    accepted["task"] = ", ".join(map(code, TASKS))
    return table(
        ["column", "what it is", "accepted"],
        [[code(name), _by_task(each), accepted[name]] for name, each in texts.items()],
    )


def _by_task(texts: Mapping[str, str]) -> str:
    """Return one text, or one for each group of tasks that share it."""
    tasks: dict[str, list[str]] = {}
    for task, text in texts.items():
        tasks.setdefault(text, []).append(task)
    if len(tasks) == 1:
        return plain(next(iter(tasks)))
    return "<br>".join(f"{', '.join(map(code, who))}: {plain(text)}" for text, who in tasks.items())


def presets() -> str:
    """Return the sizes that marketplaces want."""
    return table(
        ["preset", "width × height, px", "free on each side", "background"],
        [
            [
                code(name),
                f"{preset.width_px} × {preset.height_px}",
                _percent(preset.margin),
                "#{:02x}{:02x}{:02x}".format(*preset.background),
            ]
            for name, preset in PRESETS.items()
        ],
    )


def _percent(share: float) -> str:
    return f"{share * 100:g} %" if share else "–"


# ---------------------------------------------------------------- flows and commands


def options() -> str:
    """Return the parameters of every flow, and the members of its groups."""
    return "\n\n".join(map(_flow, deployed()))


def deployed() -> Iterator[Flow[Any, Any]]:
    """Yield the flow of each deployment, as prefect.yaml has them."""
    for each in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        file, _, name = each["entrypoint"].partition(":")
        yield getattr(import_module(file.removesuffix(".py").replace("/", ".")), name)


def _flow(flow: Flow[Any, Any]) -> str:
    groups = groups_of(flow.fn)
    schema = flow.parameters.model_dump()
    alone = {name: field for name, field in schema["properties"].items() if name not in groups}
    text = inspect.getdoc(flow.fn) or ""
    parts = [
        f"## {flow.name}",
        plain(text.partition("\n\nArgs:")[0]),
        _parameters(alone, schema["required"], schema),
    ]
    for name, model in groups.items():
        title = f"### {code(name)} of {flow.name}"
        members = model.model_json_schema()
        parts += [
            title,
            plain(inspect.getdoc(model) or ""),
            _parameters(members["properties"], [], members),
        ]
    return "\n\n".join(parts)


def _parameters(
    fields: Mapping[str, Any], required: Iterable[str], schema: Mapping[str, Any]
) -> str:
    return table(
        ["parameter", "default", "what it does"],
        [
            [
                code(name),
                "needed" if name in required else default_of(field),
                with_limits(field.get("description", ""), field, schema),
            ]
            for name, field in fields.items()
        ],
    )


def command_line() -> str:
    """Return the help of every command, as cyclopts writes it."""
    text = app.generate_docs(output_format="markdown")
    first = text.index("## ace-catalog ")
    return _escape_placeholders(text[first:])


def _escape_placeholders(text: str) -> str:
    return text.replace("ace-catalog-", "").replace("```console", "```text")


# ---------------------------------------------------------------- the environment

# Of variables that the code describes by their names only.
_VARIABLES = {
    "source_endpoint_url": "The S3 store that sources and weights are read from. Empty: boto3's "
    "own setting, `AWS_ENDPOINT_URL`.",
    "source_profile": "The profile of boto3 that reads sources and weights. Empty: boto3's own "
    "chain of credentials.",
    "output_endpoint_url": "The S3 store that pictures and records are written to. Empty: boto3's "
    "own setting, `AWS_ENDPOINT_URL`.",
    "output_profile": "The profile of boto3 that reads and writes the output. Empty: boto3's own "
    "chain of credentials.",
    "ray_address": "The Ray cluster to join. Empty: Ray starts on this machine.",
}


def environment() -> str:
    """Return every variable that is read."""
    without = {name for name, each in Environment.model_fields.items() if not each.description}
    same("variables without a description", without, _VARIABLES)
    schema = Environment.model_json_schema(by_alias=False)
    rows = []
    for name, field in Environment.model_fields.items():
        alias = field.validation_alias
        variable = alias if isinstance(alias, str) else f"ACE_{name.upper()}"
        shown = schema["properties"][name]
        default = "`~/.cache/ace-catalog/weights`" if field.default_factory else default_of(shown)
        text = field.description or _VARIABLES[name]
        rows.append([code(variable), default, with_limits(text, shown, schema)])
    return table(["variable", "default", "what it does"], rows)


# ---------------------------------------------------------------- errors and hints


def error_codes() -> str:
    """Return the codes of failed rows."""
    meanings = _meanings()
    return table(
        ["`error_code`", "what happened", "the next run"],
        [
            [code(kind.code), meanings[kind.__name__], _next_run(kind)]
            for kind in errors.ItemError.__subclasses__()
        ],
    )


def _next_run(kind: type[errors.ItemError]) -> str:
    if kind.transient:
        return "tries the row again"
    if kind.code in errors.A_PERSON_DECIDES:
        return "leaves the row to `review`"
    if kind is errors.Forgotten:
        return "leaves the row; it is no failure"
    return "leaves the row to `retry`"


def fatal_errors() -> str:
    """Return the errors that stop a run."""
    meanings = _meanings()
    return table(
        ["error", "what happened"],
        [
            [code(kind.__name__), meanings[kind.__name__]]
            for kind in errors.FatalError.__subclasses__()
        ],
    )


def _meanings() -> dict[str, str]:
    """Return the text of each error, as the tree in the docstring of `errors` has it."""
    found = re.findall(r"[├└]── (\w+) {2,}(.+)$", errors.__doc__ or "", re.MULTILINE)
    return {name: sentence(text.removesuffix(" (transient)")) for name, text in found}


def mask_hints() -> str:
    """Return what a run says of a mask that looks like a mistake."""
    return table(
        ["hint", "what was seen of the mask"],
        [[code(name), sentence(text)] for name, text in hints.CODES.items()],
    )


# ---------------------------------------------------------------- what a run leaves

_KEYS = {
    "image_key": "A picture, in the folder of the row that asked for it first.",
    "record_key": "The record: what made the picture. If it exists, the item is done.",
    "failure_key": "What failed, and why.",
    "candidate_key": "A candidate that was not chosen, with `keep_candidates`.",
    "review_picture_key": "A picture that waits for a person.",
    "review_record_key": "The record that this picture would have.",
    "catalog_key": "The rows that a restyle, a try-on batch or a comparison generated.",
    "feed_key": "Which table or feed a restyle read, its SHA-256, and how it was read.",
    "plan_key": "The items of the run, in the order of work.",
    "rejects_key": "Rows that are not a valid request: line, column, reason, and the first 10,000 "
    "characters of the row.",
    "results_key": "One line for every row of the catalog, with its picture. Also as `.csv`.",
    "failures_key": "The failed rows, as a catalog that can be run again.",
    "canary_key": "Which pictures were made first, and what a person answered.",
    "ending_key": "How a run ended if it edited nothing itself: a dry run, a rejected canary, a refusal, "
    "a comparison, with the run of each alternative.",
    "summary_key": "The totals of the run. It is written last.",
    "audit_key": "What the last audit of the run found.",
    "report_key": "The contact sheet, failures first, 200 rows a page; then `report-2.html` … "
    "While the run works: its newest 100 pictures. Of a comparison: its alternatives side by side.",
    "review_report_key": "The pictures that wait, with their reasons, to decide about; then "
    "`review-2.html` …",
    "tombstone_key": "A tombstone: a hash of a source or item that no later run makes again.",
    "rate_key": "How fast a model was on a device, as the last run under this output measured it.",
}


class _Placeholder(str):
    """A name in angle brackets. A part of it is itself, or its first two digits."""

    def __getitem__(self, key: Any) -> str:
        return "<xx>" if isinstance(key, slice) and key.stop == 2 else str(self)


class _AnyRecord:
    row_id, item_id = _Placeholder("<row id>"), _Placeholder("<item>")

    class output:  # as the attribute of a record is called
        uri, sha256 = "<name>.<ext>", _Placeholder("<hash>")


def layout() -> str:
    """Return the key of every object under an output."""
    known = {
        name: function
        for name, function in inspect.getmembers(keys, inspect.isfunction)
        if name.endswith("_key")
    }
    same("keys without a text", known, _KEYS)
    return table(
        ["key under the output", "what it is"],
        [[code(_example(known[name])), text] for name, text in _KEYS.items()],
    )


def _example(key: Callable[..., str]) -> str:
    given: dict[str, Any] = {
        "row_id": _Placeholder("<row id>"),
        "item_id": _Placeholder("<item>"),
        "sha256": _Placeholder("<hash>"),
        "extension": _Placeholder("<ext>"),
        "number": "<number>",
        "run_id": "<run>",
        "model": _Placeholder("<model>"),
        "device": "<device>",
        "digest": "<hash>",
        "record": _AnyRecord(),
    }
    if key is keys.results_key:
        given["extension"] = "parquet"
    parameters = inspect.signature(key).parameters
    return key(**{name: given[name] for name in parameters if name in given})


_RESULTS = {
    "line": "The row's line in the catalog, from 1.",
    "row_id": "The row's `id`. Empty for a reject without one.",
    "task": "The row's task.",
    "status": "`done` by this run, `done_before`, `failed`, `failed_before`, `rejected` or "
    "`forgotten`.",
    "item_id": "The identity of the item.",
    "record": "The key of the record, under the output.",
    "output_uri": "The picture.",
    "sha256": "The SHA-256 of the picture's file.",
    "seconds": "How long the item took, if this run made it.",
    "score": "The total score, 0 to 1, if this run made it.",
    "same_as": "The id of the row whose picture this row shares.",
    "error_code": "Why the row has no picture.",
    "error": "The same as a sentence.",
    "hint_codes": "What looks like a mistake in the mask, comma-separated.",
    "hints": "The same as sentences.",
}


def results() -> str:
    """Return the columns of results.parquet and results.csv."""
    same("columns of the results without a text", set(RESULTS.names), _RESULTS)
    return table(
        ["column", "type", "what it is"],
        [[code(field.name), str(field.type), _RESULTS[field.name]] for field in RESULTS],
    )


def record() -> str:
    """Return the fields of a record."""
    schema = record_schema()
    return _fields(schema, schema)


def record_parts() -> str:
    """Return the fields of each part of a record, under a heading of its own."""
    schema = record_schema()
    parts = [
        part
        for name, each in schema["$defs"].items()
        for part in (f"## {name}", plain(each.get("description", "")), _fields(each, schema))
    ]
    return "\n\n".join(filter(None, parts))


def _fields(part: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    return table(
        ["field", "type", "what it is"],
        [
            [
                code(name),
                describe_type(field, schema, link=True),
                plain(field.get("description", "")),
            ]
            for name, field in part["properties"].items()
        ],
    )


# ---------------------------------------------------------------- models


def variants() -> str:
    """Return the variants that have a name."""
    return table(
        ["variant", "what it is", "route", "steps", "guidance", "tokens", "adapters"],
        [
            [
                code(name),
                plain(each.summary),
                each.route,
                str(each.steps),
                f"{each.guidance:g}",
                str(each.max_seq_len),
                ", ".join(f"{code(adapter)} ({rank})" for adapter, rank in each.adapters.items())
                or "–",
            ]
            for name, each in VARIANTS.items()
        ],
    )


# ---------------------------------------------------------------- Markdown


def same(what: str, found: Iterable[str], described: Iterable[str]) -> None:
    """Raises ValueError where the code has other things than are described here."""
    if set(found) != set(described):
        raise ValueError(f"{what}: {sorted(set(found) ^ set(described))}")


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(each) for each in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def code(text: object) -> str:
    return f"`{text}`"


def sentence(text: str) -> str:
    return plain(f"{text[:1].upper()}{text[1:]}.")


def plain(text: str) -> str:
    """Return a text of the code as Markdown that shows it as it is, backticks aside."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        each if each.startswith("`") else re.sub(r"([<>*_#\[\]{}\\])", r"\\\1", each)
        for each in pieces
    )


def with_limits(text: str, field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return a text, and what is accepted where that is more than its default shows."""
    accepted = describe_type(field, schema)
    if accepted in {"text", "a list of text", "`true` or `false`"} or "`^" in accepted:
        return plain(text)
    return f"{plain(text)} Accepted: {accepted}."


def default_of(field: Mapping[str, Any]) -> str:
    default = field.get("default")
    if default is None or default == "":
        return "empty"
    return code(json.dumps(default) if not isinstance(default, str) else default)


def describe_type(
    field: Mapping[str, Any], schema: Mapping[str, Any], *, link: bool = False
) -> str:
    """Return what a field of a JSON Schema accepts, in words."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        if link:
            return f"[{name}](#{name.lower()})"
        target = schema.get("$defs", {}).get(name, {})
        return ", ".join(map(code, target["enum"])) if "enum" in target else _shape(name)
    if "anyOf" in field or "oneOf" in field:
        kinds = [
            describe_type(each, schema, link=link)
            for each in field.get("anyOf", field.get("oneOf"))
            if each.get("type") != "null"
        ]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in field:
        return ", ".join(map(code, field["enum"]))
    if "const" in field:
        return code(field["const"])
    kind = field.get("type")
    if kind == "array":
        if "prefixItems" in field:
            return f"a list of {len(field['prefixItems'])}"
        inner = describe_type(field.get("items", {}), schema, link=link)
        return f"a list of {inner}" + _limits(field, "minItems", "maxItems")
    words = {
        "string": "text",
        "integer": "a whole number",
        "number": "a number",
        "boolean": "`true` or `false`",
        "object": "an object",
    }
    text = words.get(kind or "", "anything")
    if kind == "string" and "pattern" in field:
        return code(field["pattern"])
    if kind == "string":
        return text + _limits(field, "minLength", "maxLength", " characters")
    return text + _limits(field, "minimum", "maximum") + _above(field)


def _shape(name: str) -> str:
    return code(f'{{"{name.lower()}": […]}}') if name in {"Box", "Ellipse", "Polygon"} else name


def _limits(field: Mapping[str, Any], low: str, high: str, unit: str = "") -> str:
    least, most = field.get(low), field.get(high)
    if least is not None and most is not None:
        return f", {least:,} to {most:,}{unit}"
    if most is not None:
        return f", at most {most:,}{unit}"
    return f", at least {least:,}{unit}" if least is not None else ""


def _above(field: Mapping[str, Any]) -> str:
    least = field.get("exclusiveMinimum")
    return f", more than {least:g}" if least is not None else ""


# ---------------------------------------------------------------- the pages

TABLES: dict[str, Callable[[], str]] = {
    "columns": columns,
    "column-texts": column_texts,
    "presets": presets,
    "options": options,
    "command-line": command_line,
    "environment": environment,
    "error-codes": error_codes,
    "fatal-errors": fatal_errors,
    "mask-hints": mask_hints,
    "layout": layout,
    "results": results,
    "record": record,
    "record-parts": record_parts,
    "variants": variants,
}


_PLACE = re.compile(r"(<!-- from the code: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """Return a page with each of its tables as the code has it now."""
    return _PLACE.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", page)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = []
    for path in sorted((ROOT / "docs").rglob("*.md")):
        page = path.read_text(encoding="utf-8")
        if (anew := filled(page)) != page:
            stale.append(path.relative_to(ROOT).as_posix())
            if not check:
                path.write_text(anew, encoding="utf-8")
    if check and stale:
        print(f"not as the code has it: {', '.join(stale)}; run: python docs/_generate.py")
    return int(check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
