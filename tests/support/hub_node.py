"""A process that knows a model hub by its environment, as a node of a cluster does."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support.hub import Hub
from tests.support.patience import limit_s

T = TypeVar("T")


class Node:
    """A process that makes calls, one after another.

    The hub's client reads its address once, when it is imported; so each address needs a process.
    """

    def __init__(self, endpoint: str, home: Path):
        processes = get_context("spawn")
        self._connection, theirs = processes.Pipe()
        self._process = processes.Process(target=_serve, args=(theirs,))
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("HF_")]:
                patch.delenv(name)
            patch.setenv("HF_ENDPOINT", endpoint)
            patch.setenv("HF_HOME", str(home))
            patch.setenv("HF_HUB_DISABLE_XET", "1")
            patch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
            self._process.start()
        theirs.close()

    @classmethod
    @contextlib.contextmanager
    def running(cls, endpoint: str, home: Path) -> Iterator[Node]:
        node = cls(endpoint, home)
        try:
            yield node
        finally:
            node._process.terminate()
            node._process.join()

    def __call__(self, call: Callable[..., T], *arguments: Any, token: str | None = None) -> T:
        """Return the call's result, or raise its error."""
        self._connection.send((call, arguments, token))
        assert self._connection.poll(limit_s()), f"{call} hangs"
        result, error, written = self._connection.recv()
        # The whole of it: "hf_" alone may well begin the name of a temporary folder.
        assert (token or Hub.token) not in f"{written} {result} {error}", "the token is written"
        if error:
            raise error
        return result  # type: ignore[no-any-return]


def _serve(connection: Connection) -> None:
    with contextlib.suppress(EOFError):
        while True:
            connection.send(_answer(*connection.recv()))


def _answer(
    call: Callable[..., T], arguments: tuple[Any, ...], token: str | None
) -> tuple[T | None, Exception | None, str]:
    """Return the call's result or error, and all that is written and logged meanwhile."""
    written = io.StringIO()
    logging.basicConfig(level=logging.DEBUG, stream=written, force=True)
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(written),
        contextlib.redirect_stderr(written),
    ):
        patch.setattr("time.sleep", lambda _: None)  # between the client's own tries
        if token:
            patch.setenv("HF_TOKEN", token)
        try:
            return call(*arguments), None, written.getvalue()
        except Exception as error:
            return None, error, written.getvalue()
