"""Test a person's decisions as a review's page saves them. If these break, somebody's typing mistake
publishes another row, or half of a file is carried out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ace_tasks.errors import SettingsError
from ace_tasks.runs.decisions import DecisionsFile, ReviewDecision, read_decisions, resolve
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store

RUN = "run-1"
ROWS = {"a": "1" * 64, "b": "2" * 64, "twin": "1" * 64, "__proto__": "3" * 64}
SAVED = {"run": RUN, "promote": ["a", "__proto__"], "discard": ["b"]}
DECIDED = {"1" * 64: "promote", "3" * 64: "promote", "2" * 64: "discard"}


def typed(promote: str = "", discard: str = "") -> dict[ReviewDecision, str]:
    return {"promote": promote, "discard": discard}


def test_a_file_is_read_by_its_uri_its_path_and_as_text(
    store: Store, prefix: str, tmp_path: Path
) -> None:
    text = json.dumps(SAVED, indent=1)
    store.put(f"{prefix}/decisions.json", text.encode(), "application/json")
    path = tmp_path / "decisions.json"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())  # as Windows' editors save it
    on_one_line = text.replace("\n", "")  # as a field of one line takes it
    for given in (f"{prefix}/decisions.json", str(path), f"\n {text} ", on_one_line):
        file = read_decisions(given, store)
        assert file == DecisionsFile(**SAVED)
        assert resolve(ROWS, RUN, typed(), file) == DECIDED
    assert read_decisions("  ", store) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('{"run": "run-1"', "given the pasted text: it is something else", id="cut"),
        pytest.param("{}", "its field run is another", id="no-run"),
        pytest.param('{"run": "run-1", "promote": "a"}', "its field promote", id="no-list"),
        pytest.param('{"run": "r", "sk-4711": "x"}', "it is something else", id="another-field"),
    ],
)
def test_a_text_that_holds_no_decisions_is_refused_and_never_quoted(
    text: str, message: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        read_decisions(text, Store(StoreSettings()))
    assert 'decisions: accepted: {"run": …' in str(refused.value)
    assert message in str(refused.value)
    assert "4711" not in str(refused.value)


def test_a_place_without_a_file_is_named(store: Store, prefix: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('{"key": "hunter2"}')
    for given, message in (
        (f"{prefix}/none.json", "none.json"),
        (str(tmp_path / "none.json"), "no such file"),
        ("ftp://b/k", "accepted: s3://bucket/key or a local path"),
        (str(secret), "given .*: its field run is another"),  # a long place is cut
    ):
        with pytest.raises(SettingsError, match=f"decisions: .*{message}") as refused:
            read_decisions(given, store)
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"promote": ["a", "nobody"]}, "decisions: accepted: rows that the run held back"),
        ({"discard": [f"no-{n}" for n in range(300)]}, "'no-9' and 290 more"),
        ({"promote": ["a"], "discard": ["twin"]}, "the picture of row twin is also promoted"),
        ({"run": "run-2"}, "accepted: those on run run-1; given those on 'run-2'"),
    ],
    ids=["unknown", "many-unknown", "contradiction", "another-run"],
)
def test_a_file_with_one_wrong_row_is_refused_as_a_whole(
    changes: dict[str, object], message: str
) -> None:
    file = DecisionsFile.model_validate(SAVED | changes)
    with pytest.raises(SettingsError) as refused:
        resolve(ROWS, RUN, typed(), file)
    assert message in str(refused.value)


def test_a_file_and_typed_rows_go_together_unless_they_contradict() -> None:
    file = DecisionsFile(run=RUN, promote=["a"])
    both = resolve(ROWS, RUN, typed(discard="b"), file)
    assert both == {"1" * 64: "promote", "2" * 64: "discard"}
    with pytest.raises(SettingsError, match="row a is also promoted"):
        resolve(ROWS, RUN, typed(discard="a"), file)


def test_a_row_called_all_is_not_all_rows() -> None:
    rows = {"all": "1" * 64, "b": "2" * 64}
    with pytest.raises(SettingsError, match="one of them is called 'all'"):
        resolve(rows, RUN, typed("all"))
    decided = {"1" * 64: "promote", "2" * 64: "discard"}
    assert resolve(rows, RUN, typed("all,", "b")) == decided
    assert (
        resolve(rows, RUN, typed(discard="b"), DecisionsFile(run=RUN, promote=["all"])) == decided
    )
    assert resolve({"a": "1" * 64}, RUN, typed("all")) == {"1" * 64: "promote"}
