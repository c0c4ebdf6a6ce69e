"""Test which module imports which. If these break, a plan costs seconds of torch imports on a
machine without a GPU, or a library has leaked into rooms that must not know it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.processes import run_python

ROOT = Path(__file__).resolve().parent.parent

# A file imports only from rungs above its own; each heavy library lives in the rooms named.
LADDER = [
    {"errors", "harmless", "icc"},
    {
        "colour",
        "development_ca",
        "hdr",
        "item_ids",
        "layout",
        "logs",
        "memory",
        "mentions",
        "rewrap",
        "settings",
        "specs",
        "xmp",
    },
    {
        "colour_space",
        "containers",
        "lcu",
        "levels",
        "matting",
        "readers",
        "side_parts",
        "source_metadata",
        "store",
        "templates",
    },
    {"controls", "cutout", "ground", "images", "model", "paste", "provenance"},
    {"people"},
    {"catalog", "frame", "masks", "price", "results", "review", "signing", "stack", "tombstones"},
    {"changes", "feeds", "history", "identify", "mask_hints", "pictures"},
    {"batching", "made", "pairs", "pixels", "plan", "proof", "report", "restyle", "scores"},
    {"audit", "candidates", "fetching", "publishing", "retention", "sweeping", "try_on"},
    {"preflight", "replica", "reproduce", "resume"},
    {"engine", "take_out"},
    {"training"},
    {"evaluation"},
    {"ablation"},
]
HOMES = {
    "ray": {"ace_tasks/engine/", "ace_tasks/training/"},
    "boto3": {"ace_tasks/store.py"},
    "botocore": {"ace_tasks/store.py"},
    "prefect": {"flows/"},
    "pyarrow": {"ace_tasks/plan.py", "ace_tasks/readers/", "ace_tasks/results.py"},
    "pythonjsonlogger": {"ace_tasks/logs.py"},
    "jinja2": {"ace_tasks/report/"},
    "c2pa": {"ace_tasks/signing.py"},
    "cryptography": {"ace_tasks/development_ca.py", "ace_tasks/signing.py"},
    "cv2": {
        "ace_tasks/controls.py",
        "ace_tasks/cutout.py",
        "ace_tasks/evaluation/",
        "ace_tasks/ground.py",
        "ace_tasks/masks.py",
        "ace_tasks/matting.py",
        "ace_tasks/model/dnn.py",
        "ace_tasks/paste.py",
        "ace_tasks/people/",
        "ace_tasks/scores.py",
    },
    "huggingface_hub": {"ace_tasks/model/"},
    "diffusers": {"ace_tasks/ablation/", "ace_tasks/model/", "ace_tasks/training/"},
    "transformers": {"ace_tasks/model/", "ace_tasks/training/"},
    "torch": {
        "ace_tasks/ablation/",
        "ace_tasks/batching.py",
        "ace_tasks/lcu/",
        "ace_tasks/model/",
        "ace_tasks/replica.py",
        "ace_tasks/stack.py",
        "ace_tasks/training/",
    },
}
FILES = sorted(p for folder in ("ace_tasks", "flows") for p in (ROOT / folder).rglob("*.py"))


@cache
def imports(path: Path) -> set[str]:
    """Return every module a file imports, wherever in the file, TYPE_CHECKING blocks aside."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rung(room: str) -> int | None:
    return next((n for n, rooms in enumerate(LADDER) if room in rooms), None)


def test_a_file_imports_only_what_its_room_may() -> None:
    strays = []
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        for module in sorted(imports(path)):
            home = HOMES.get(module.partition(".")[0])
            if home and not any(name.startswith(place) for place in home):
                strays.append(f"{name} imports {module}, which lives in {sorted(home)}")
    assert strays == []


def test_every_room_stands_on_the_ladder_and_imports_downwards() -> None:
    for path in FILES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] != "ace_tasks" or parts[1] == "__init__":
            continue
        own = rung(parts[1])
        assert own is not None, f"{parts[1]} has no rung"
        for module in imports(path):
            bits = module.split(".")
            if bits[0] == "flows":
                pytest.fail(f"{path.name} imports {module}")
            if bits[0] != "ace_tasks" or len(bits) < 2 or bits[1] == parts[1]:
                continue
            other = rung(bits[1])
            # `replica` is made inside the actor only; `engine` may name it there.
            assert other is None or other < own, f"{'/'.join(parts)} imports {module}"


MODELS = ("torch", "diffusers", "transformers")


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        pytest.param(
            ("ace_tasks.specs",),
            ("torch", "ray", "prefect", "boto3", "pyarrow", "PIL"),
            id="specs",
        ),
        pytest.param(("ace_tasks.engine",), (*MODELS, "prefect"), id="engine"),
        pytest.param(
            ("flows.edit_catalog", "flows.restyle_catalog", "flows.try_on_batch"),
            MODELS,
            id="flows",
        ),
        pytest.param(("flows.cli",), (*MODELS, "ray"), id="terminal"),
    ],
)
def test_a_clean_interpreter_loads_no_more_than_it_needs(
    modules: tuple[str, ...], absent: tuple[str, ...]
) -> None:
    code = f"import sys, {', '.join(modules)}; print(*[m for m in {absent} if m in sys.modules])"
    assert run_python("-c", code).stdout.split() == []


def test_there_is_no_room_of_leftovers() -> None:
    names = {path.stem for path in FILES}
    assert not names & {"utils", "common", "base", "helpers", "misc", "registry"}
