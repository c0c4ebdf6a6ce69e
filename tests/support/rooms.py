"""Draw the rooms of the house: which package imports from which.

    python -m tests.support.rooms            # a Mermaid diagram, and the numbers
    python -m tests.support.rooms --check    # exit code 1 where they are over the limits

A room is a package under `ace_tasks`, the files beside those packages together (`ground`), `flows`
and each package under it, and `infra`. Imports for types alone count as well. What may import from
what is the contract in `pyproject.toml`, which `lint-imports` holds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[2]
_MOST_ROOMS, _MOST_ARROWS = 20, 110


def room_of(module: str) -> str:
    top, *rest = module.split(".")
    if top == "infra":
        return top
    is_package = bool(rest) and (ROOT / top / rest[0]).is_dir()
    if top == "ace_tasks":
        return rest[0] if is_package else "ground"
    return f"flows.{rest[0]}" if is_package else "flows"


def draw() -> tuple[set[str], set[tuple[str, str]]]:
    """Return the rooms, and the pairs (importer, imported)."""
    graph = grimp.build_graph("ace_tasks", "flows", "infra", cache_dir=None)
    arrows = {
        (room_of(importer), room_of(imported))
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
    }
    rooms = {room_of(module) for module in graph.modules}
    return rooms, {(start, end) for start, end in arrows if start != end}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="numbers only; exit code 1 if too many"
    )
    check = parser.parse_args().check
    rooms, arrows = draw()
    if not check:
        print("graph TD")
        for start, end in sorted(arrows):
            print(f"    {start} --> {end}")
    print(
        f"{len(rooms)} rooms (at most {_MOST_ROOMS}), {len(arrows)} arrows (at most {_MOST_ARROWS})"
    )
    return int(check and (len(rooms) > _MOST_ROOMS or len(arrows) > _MOST_ARROWS))


if __name__ == "__main__":
    raise SystemExit(main())
