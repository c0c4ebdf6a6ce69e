"""Run services as child processes, for the local stack, the tests and the benchmarks.

Every process listens on 127.0.0.1 and a free port. It is stopped by its pid, and ends with the
process that started it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Limits that end a hang; they are long enough for a slow machine.
_START_LIMIT_S = 300
_ANSWER_LIMIT_S = 30


class ServiceFailed(RuntimeError):
    """The error of a service that ended or does not answer. It quotes the tail of its log."""


def free_ports(count: int) -> list[int]:
    """Return distinct TCP ports that are free now. Another process may still take one."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def preferred_port(port: int) -> int:
    """Return `port` if it is free, and any free port otherwise."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return free_ports(1)[0]
    return port


def die_with_parent() -> None:
    # Linux sends it when the *thread* that started the process ends, so start from a lasting one.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Service:
    """One child process, and the log it writes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, name: str, command: Sequence[str], env: Mapping[str, str], log: Path) -> Service:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            process = subprocess.Popen(
                command,
                env=dict(env),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                # In its own session, so that Ctrl-C reaches only us, and we stop children in order.
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        return cls(name, process, log)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until the service is ready. Raises ServiceFailed if it ends or hangs instead."""
        deadline = time.monotonic() + _START_LIMIT_S
        while not ready():
            if self.process.poll() is not None:
                raise ServiceFailed(f"{self.name} ended while starting:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServiceFailed(
                    f"{self.name} was not ready within {_START_LIMIT_S} s:\n{self.log_tail()}"
                )
            time.sleep(0.1)

    def log_tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, timeout_s: float = 10) -> None:
        """Send SIGTERM, and SIGKILL after `timeout_s` seconds."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def kill(self) -> None:
        """Send SIGKILL, to end the process as a crash would."""
        self.process.kill()
        self.process.wait()


def answers(url: str, accept: Sequence[int] = (200,)) -> bool:
    """Return whether a URL answers with one of these statuses."""
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_LIMIT_S) as answer:
            return answer.status in accept
    except urllib.error.HTTPError as error:
        return error.code in accept
    except OSError:
        return False


def body(url: str, context: ssl.SSLContext | None = None) -> str:
    with urllib.request.urlopen(url, timeout=_ANSWER_LIMIT_S, context=context) as answer:
        return str(answer.read().decode()).replace(" ", "")


def script(name: str) -> str:
    """Return the path of a console script of this environment, or of PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise ServiceFailed(f"no {name!r} beside {sys.executable} or on PATH; run `make install`")
    return found


def run(command: Sequence[str], env: Mapping[str, str]) -> str:
    """Run a console script of this environment, and return what it printed.

    `env` is added to our environment. Raises ServiceFailed with the output if the script fails.
    """
    return run_command([script(command[0]), *command[1:]], env)


def run_command(command: Sequence[str], env: Mapping[str, str]) -> str:
    """Run any program, as `run` runs a console script."""
    ended = subprocess.run(
        command,
        env=os.environ | env,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if ended.returncode:
        raise ServiceFailed(f"{' '.join(command)} failed:\n{ended.stdout}")
    return ended.stdout
