"""Test what makes others' text harmless. If these break, a catalog writes on a person's terminal, or
hides in a log what it says."""

from __future__ import annotations

import io
import json
import logging
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ace_tasks.harmless import harmless, harmless_json
from ace_tasks.replica.logs import make_harmless

UNSEEN = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"}


def unseen(text: str) -> set[str]:
    return {ascii(each) for each in text if unicodedata.category(each) in UNSEEN}


@given(st.text())
@example("\x1b]0;t\x07\x9b2J\x85\u202e\u2066\u200b\u2028\ufeff\x7f\u00ad\ud800\U000e0041")
def test_no_character_that_is_not_seen_is_left(text: str) -> None:
    shown = harmless(text)
    assert unseen(shown) == set()
    assert harmless(shown) == shown
    assert unseen(harmless(text, keep="\n")) <= {ascii("\n")}
    if text.isascii() and text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("Größe マグ 杯子 🙂 — “x”", "Größe マグ 杯子 🙂 — “x”", id="words"),
        pytest.param("a\x1b[2Jb", "a\\x1b[2Jb", id="escape"),
        pytest.param("a\u202eb", "a\\u202eb", id="direction"),
        pytest.param("a\nb", "a\\nb", id="line break"),
    ],
)
def test_text_stays_and_controls_are_written_out(text: str, shown: str) -> None:
    assert harmless(text) == shown


@given(st.recursive(st.text() | st.integers(), lambda inner: st.dictionaries(st.text(), inner)))
@example({"\U000e0041\x9b": "\u202e"})
def test_json_says_the_same(value: object) -> None:
    text = harmless_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value
    assert unseen(text) == set()


def test_a_log_of_a_run_says_no_control_character() -> None:
    """In the message, its arguments, and the text of an exception."""
    make_harmless()
    make_harmless()
    shown = io.StringIO()
    handler = logging.StreamHandler(shown)
    log = logging.getLogger("ace_tasks.of_this_test")
    log.addHandler(handler)
    try:
        log.warning("column %s", "a\x1b[2J\u202e\nDONE")
        try:
            raise ValueError("b\x1b[2J")
        except ValueError:
            log.exception("stopped")
    finally:
        log.removeHandler(handler)
    first, *rest = shown.getvalue().splitlines()
    assert first == "column a\\x1b[2J\\u202e\\nDONE"
    assert rest[-1] == "ValueError: b\\x1b[2J"
    assert unseen(shown.getvalue()) == {ascii("\n")}
