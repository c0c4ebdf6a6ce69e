"""Commands that tests run: to their end, or their last output is in the failure's message."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from unittest import mock

from infra.services import ROOT
from tests.support.patience import limit_s

_TAIL = 4000  # characters
_WIDTH = 240  # of a terminal: no table of a test is cut


def run(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    accept: Collection[int] = (0,),
    limit: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command in the project's folder, `env` added to ours.

    Raises AssertionError with its last output where its exit status is not one of `accept`, or
    where it hangs: where it takes longer than `limit`, in seconds.
    """
    try:
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | (env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit or limit_s(),
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(
            f"hangs: {' '.join(command)}\n{_tail(error.stdout)}\n{_tail(error.stderr)}"
        ) from None
    assert ended.returncode in accept, (
        f"exit status {ended.returncode}: {' '.join(command)}\n"
        f"{_tail(ended.stdout)}\n{_tail(ended.stderr)}"
    )
    return ended


def run_python(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    accept: Collection[int] = (0,),
    limit: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run this Python with the arguments, as `run` does."""
    return run([sys.executable, *arguments], env, accept, limit)


def ace_here(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `ace-catalog` in this process, from its arguments to its exit status."""
    from flows.cli import main, terminal

    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.dict(os.environ, env),
        mock.patch.object(sys, "argv", ["ace-catalog", *arguments]),
        mock.patch.object(terminal.out, "_width", _WIDTH),
        mock.patch.object(terminal.err, "_width", _WIDTH),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def _tail(text: str | bytes | None) -> str:
    return (text.decode(errors="replace") if isinstance(text, bytes) else text or "")[-_TAIL:]
