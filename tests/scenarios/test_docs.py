"""Test the documents against the code. If these break, a newcomer types a command that does not
exist."""

from __future__ import annotations

import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from ace_tasks.errors import item_error_codes
from ace_tasks.model.variants import VARIANTS
from ace_tasks.replica import verify
from ace_tasks.settings import Environment
from ace_tasks.specs import TASKS, parse_spec
from flows.cli import app
from infra import deploy
from tests.support import tutorial_pictures

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {path.parent.name for path in (ROOT / "ace_tasks").glob("*/__init__.py")}
TOP = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
MOVED = ["infra/OPERATIONS.md", "infra/SCALE.md"]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
DOCUMENTS = [*TOP, *MOVED, *PAGES]
TEXTS = {name: (ROOT / name).read_text() for name in DOCUMENTS}
README = TEXTS["README.md"]
MAP = TEXTS["docs/explanation/architecture.md"] + TEXTS["docs/explanation/commit-protocol.md"]


def commands() -> list[str]:
    """Return every line after a `$` in the documents, without its comment."""
    lines = re.findall(r"^\$ (.*)$", "\n".join(TEXTS.values()), re.MULTILINE)
    return [line.partition("  #")[0].strip() for line in lines]


def blocks(language: str) -> list[tuple[str, str]]:
    """Return the document and the text of each block of code in a language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [(name, code) for name, text in TEXTS.items() for code in fence.findall(text)]


def exists(command: str) -> bool:
    # A file of keys is written in a shell of its own, for its owner alone.
    program, *arguments = shlex.split(re.sub(r"^\(umask 077; (.*)\)$", r"\1", command))
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return arguments[0] in targets
    if program.endswith("ace-catalog"):
        app.parse_args(arguments, exit_on_error=False, print_error=False)
        return True
    if program == "source":
        return arguments == [".local/env"]  # `make up` writes it
    if arguments[:2] == ["-m", "ace_tasks.model.weights"]:
        given = verify.parse(arguments[2:])
        return given.command != "verify" or given.variant in VARIANTS
    if arguments[:2] == ["-m", "pytest"]:
        return (ROOT / arguments[2]).exists()
    if arguments[:2] == ["-m", "infra.deploy"]:
        deploy.parse(arguments[2:])
        return True
    if program in {"kubectl", "docker"} or program.startswith("infra/"):
        files = [each for each in (program, *arguments) if each.startswith("infra/")]
        return all((ROOT / each).exists() for each in files if each != "infra/.env")
    if arguments[:1] == ["-m"]:
        return (ROOT / f"{arguments[1].replace('.', '/')}.py").exists()
    pytest.fail(f"no rule for {command!r}")


def test_a_file_of_keys_is_written_for_its_owner_alone() -> None:
    files = [ROOT / "infra" / "compose.yaml", ROOT / "infra" / "secrets.sh"]
    texts = [*(each.read_text() for each in files), *TEXTS.values()]
    written = re.findall(r"(.{0,12})infra/secrets\.sh >", "\n".join(texts))
    assert len(written) >= 3
    assert all(before.endswith("(umask 077; ") for before in written)


def test_every_documented_command_exists() -> None:
    assert [command for command in sorted(set(commands())) if not exists(command)] == []


def headings(file: Path) -> set[str]:
    """Return the headings of a document, and of what it includes, as links name them."""
    text = file.read_text()
    for included in re.findall(r"^```{include} (.*)$", text, re.MULTILINE):
        text += (file.parent / included).read_text()
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in titles}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    """A link leads to a file, and to a heading of it where one is named."""
    here = ROOT / name
    for target, _, anchor in re.findall(r"\]\(([^)#]*)(#([^)]*))?\)", TEXTS[name]):
        if target.startswith("https://"):
            continue
        file = here.parent / target if target else here
        assert file.exists(), target
        if anchor:
            assert anchor in headings(file), f"{target}#{anchor}"


def names_something(name: str) -> bool:
    """Return whether a class of a module, or a member of it, is there: `engine.pool.Pool.lose`."""
    module, kind, member = re.fullmatch(r"([a-z_.]+)\.([A-Z]\w*)\.?(\w*)", name).groups()  # type: ignore[union-attr]
    found = getattr(import_module(f"ace_tasks.{module}"), kind, None)
    if found is None or not member:
        return found is not None
    return hasattr(found, member) or member in found.__annotations__


def test_the_code_that_pages_name_is_there() -> None:
    text = "\n".join(TEXTS[name] for name in ["ARCHITECTURE.md", *PAGES])
    files = set(re.findall(r"`((?:[a-z_0-9]+/)+[a-z_0-9]+\.py)`", text))
    assert len(files) > 30
    roots = (ROOT, ROOT / "ace_tasks")
    assert {file for file in files if not any((root / file).exists() for root in roots)} == set()
    packages = "|".join(sorted({*ROOMS, "store"}))
    names = set(re.findall(rf"`((?:{packages})(?:\.[a-z_]+)*\.[A-Z]\w*(?:\.\w+)?)`", text))
    assert len(names) >= 8
    assert {name for name in names if not names_something(name)} == set()


def test_the_names_behind_a_file_are_in_it() -> None:
    """ARCHITECTURE sends a developer to `model/speed.py` (`_BACKENDS`)."""
    named = re.findall(r"`([\w/]+\.py)` \(((?:`\w+`(?:, )?)+)\)", TEXTS["ARCHITECTURE.md"])
    assert len(named) >= 6
    for file, names in named:
        source = next(path for root in (ROOT, ROOT / "ace_tasks") if (path := root / file).exists())
        defined = set(re.findall(r"\b\w+\b", source.read_text()))
        assert set(re.findall(r"\w+", names)) <= defined, file


def test_rows_in_the_documents_are_rows() -> None:
    rows = [json.loads(line) for _, code in blocks("json") for line in code.splitlines()]
    assert [parse_spec(row).task for row in rows]
    assert {row["task"] for row in rows} == set(TASKS)


def test_every_block_of_code_is_run() -> None:
    """Queries in test_queries.py, Python there and in test_editor.py. Another place is not run."""
    assert {name for name, _ in blocks("sql")} <= {"README.md", "docs/how-to/query-results.md"}
    assert {name for name, _ in blocks("python")} == {
        "README.md",
        "docs/how-to/python.md",
        "docs/how-to/query-results.md",
    }


def sections(text: str) -> dict[str, int]:
    """Return the words under each heading of a document, but for tables, code and made lists."""
    made = re.compile(r"^```.*?^```$|<!-- from the code.*?<!-- end -->", re.MULTILINE | re.DOTALL)
    lines = [line for line in made.sub("", text).splitlines() if not line.startswith("|")]
    _, *parts = re.split(r"^(#+ .*)$", "\n".join(lines), flags=re.MULTILINE)
    return {title: len(part.split()) for title, part in zip(parts[::2], parts[1::2], strict=True)}


def test_a_page_says_little_under_a_heading() -> None:
    """170 words at most under every heading of every page."""
    pages = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", *PAGES]
    found = {(name, title): n for name in pages for title, n in sections(TEXTS[name]).items()}
    assert len(found) > 300
    assert {place: words for place, words in found.items() if words > 170} == {}


def test_screenshots_are_small_and_shown() -> None:
    there = {path.name: path.stat().st_size for path in tutorial_pictures.FOLDER.glob("*.png")}
    assert set(there) == tutorial_pictures.shown()
    assert max(there.values()) <= tutorial_pictures.MOST_BYTES


def test_the_readme_is_one_screen() -> None:
    """Nine hundred words at most, 110 for each heading; code and pictures count as words too."""
    words, count = len(README.split()), README.count("\n#") + 1
    assert words <= 900
    assert words <= 110 * count


def test_every_claim_of_security_has_its_test() -> None:
    """A claim names `test_x.py::test_y`, `::test_z` (of the same file), or a whole file."""
    files = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    file, count = "", 0
    for name, test in re.findall(
        r"`(test_\w+\.py)?(?:::(test_\w+))?`", (ROOT / "SECURITY.md").read_text()
    ):
        file = name or file
        if test:
            assert f"def {test}(" in files[file].read_text(), f"{file}::{test}"
        elif name:
            assert name in files
        count += bool(name or test)
    assert count > 25


def test_environment_variables_are_read() -> None:
    known = {f"ACE_{name.upper()}" for name in Environment.model_fields}
    guides = [text for name, text in TEXTS.items() if name.startswith(("docs/how", "docs/tut"))]
    documented = set(re.findall(r"\bACE_[A-Z0-9_]+", "\n".join([README, *guides])))
    assert documented
    assert documented <= known


def test_every_room_and_transient_code_is_on_the_map() -> None:
    assert {room for room in ROOMS if f"`{room}/`" not in MAP} == set()
    transient = {code for code, again in item_error_codes().items() if again}
    assert {code for code in transient if f"`{code}`" not in MAP} == set()


def test_prefect_yaml_deploys_every_flow() -> None:
    text = (ROOT / "prefect.yaml").read_text()
    entrypoints = set(re.findall(r"entrypoint: (flows/\w+\.py):", text))
    flows = {
        f"flows/{path.name}"
        for path in (ROOT / "flows").glob("*.py")
        if re.search(r"^@form_flow\(", path.read_text(), re.MULTILINE)
    }
    assert entrypoints == flows
