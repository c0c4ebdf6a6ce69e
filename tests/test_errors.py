"""Test the exception tree. If these break, an error that leaves a worker turns into a puzzle about
`__init__`, or a failure is retried for ever, or never."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from ace_tasks import errors
from ace_tasks.errors import AceError, BadRow, ItemError, NotFound, StoreError, item_error_codes

CLASSES = {
    name: each
    for name, each in vars(errors).items()
    if inspect.isclass(each) and issubclass(each, AceError)
}


def _drawn() -> dict[str, str]:
    """Map each class to its parent, as the docstring of `errors` draws them."""
    parents, path = {}, ["AceError"]
    for indent, name in re.findall(
        r"^    ((?:│   |    )*)[├└]── (\w+)", errors.__doc__ or "", re.M
    ):
        depth = len(indent) // 4 + 1
        path[depth:] = [name]
        parents[name] = path[depth - 1]
    return parents


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    actual = {name: each.__mro__[1].__name__ for name, each in CLASSES.items()}
    assert _drawn() == {name: base for name, base in actual.items() if name != "AceError"}


def test_every_item_error_has_a_code_of_its_own() -> None:
    kinds = [each for each in CLASSES.values() if issubclass(each, ItemError)]
    codes = {each.code: each.transient for each in kinds if each is not ItemError}
    assert len(codes) == len(kinds) - 1
    assert item_error_codes() == codes
    assert "item_error" not in codes


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_an_error_crosses_processes_whole(kind: type[AceError]) -> None:
    """pickle calls the class with `args` again; a constructor that hands on fewer breaks it."""
    arguments = {StoreError: ("s3://b/k", "why"), BadRow: ("mask", "why")}
    given = next((given for base, given in arguments.items() if issubclass(kind, base)), ("why",))
    error = kind(*given)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), vars(again)) == (str(error), vars(error))
    assert "why" in str(again)


def test_an_error_carries_its_culprit() -> None:
    assert str(NotFound("s3://b/k", "no such object")) == "s3://b/k: no such object"
    assert NotFound("s3://b/k", "no such object").uri == "s3://b/k"
    assert (BadRow("mask", "no").field, str(BadRow("mask", "no"))) == ("mask", "no")
