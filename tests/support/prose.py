"""Find docstrings of public things that open with a fragment instead of a sentence.

    python -m tests.support.prose            # exit code 1 where there are any

A docstring opens with a noun phrase or a verb. It does not open with a word that needs the sentence
before it ("Of the run.", "What is left."), with a shape, or with an argument's name. Ruff's rules
D401 and D403 hold the rest: a function's docstring begins with an imperative verb.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_WORDS = (
    "About After All Among As At Before Beside Between By For From How If In None Of On Raises Such "
    "Than That Their Those To Told Too Under Until What Whatever When Where Whether Which While Who "
    "Whoever Whom Whose Why With Within Without"
)
_FRAGMENT = re.compile(rf"(?:{'|'.join(_WORDS.split())})\b|[^A-Z`]|`[^`]+`:")

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public_docstrings(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Yield (line, name, docstring) of the module and of each public class and function in it."""
    if found := ast.get_docstring(tree):
        yield 1, "module", found
    waiting: list[ast.Module | Definition] = [tree]
    while waiting:
        for each in waiting.pop().body:
            if not isinstance(each, Definition) or each.name.startswith("_"):
                continue
            if found := ast.get_docstring(each):
                yield each.lineno, each.name, found
            if isinstance(each, ast.ClassDef):
                waiting.append(each)


def main() -> int:
    count = fragments = 0
    for folder in ("ace_tasks", "flows", "infra", "tests/benchmarks", "tests/support"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, name, text in public_docstrings(ast.parse(path.read_text(encoding="utf-8"))):
                count += 1
                if _FRAGMENT.match(text):
                    fragments += 1
                    print(f"{path.relative_to(ROOT)}:{line}: {name}: {text.splitlines()[0]}")
    print(f"{count} public docstrings, {fragments} open with a fragment")
    return int(fragments > 0)


if __name__ == "__main__":
    raise SystemExit(main())
