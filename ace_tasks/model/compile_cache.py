"""Compiled code, kept on a node for its next replicas.

It is executable, so it lies in one folder that this user has made and nobody else may enter, and
comes from nowhere else: from no bucket, hub or variant. Torch finds each piece by a hash of what it
was compiled from, the model's shapes among it.

Torch's `save_cache_artifacts`, one file for all pieces, would hold no machine code for a CPU (a
second process compiled for as long as the first), nor anything that is compiled after the start,
such as the first batch of several items.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import re
import stat
from pathlib import Path

import torch

log = logging.getLogger(__name__)

_FOLDER = ".compiled"
_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_CPUINFO = Path("/proc/cpuinfo")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def keep_compiled(weights_folder: Path, device: str) -> None:
    """Have this process keep what it compiles, beside the node's model files, and use what is kept.

    A folder that cannot be used is logged, and costs a minute: torch then keeps its files where it
    does by itself.
    """
    folder = weights_folder / _FOLDER
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if problem := _problem(os.lstat(folder)):
            log.warning("compiled code is not kept: %s: %s", folder, problem)
            return
        mine = folder / _kind(device)
        mine.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        log.warning("compiled code is not kept: %s: %s", folder, error.strerror)
        return
    os.environ[_VARIABLE] = str(mine.absolute())


def _kind(device: str) -> str:
    """Return a name for the machines and versions of torch that may share machine code."""
    chip = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", f"torch-{torch.__version__}-{device}-{chip}")


def _processor() -> str:
    """Return a name for all that this processor can do: code is compiled for just that."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return platform.machine()
    able = sorted({each for each in lines if each.startswith(("model name", "flags", "Features"))})
    return hashlib.sha256("\n".join(able).encode()).hexdigest()[:16]


def _problem(found: os.stat_result) -> str | None:
    """Return why a folder must not be used, or None."""
    if not stat.S_ISDIR(found.st_mode):
        return "accepted: a folder, no link"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}; accepted: of user {os.geteuid()}"
    if found.st_mode & _OTHERS:
        return f"mode {stat.S_IMODE(found.st_mode):04o}; accepted: open to its owner only, 0700"
    return None
