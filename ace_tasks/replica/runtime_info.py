"""The code, the packages and the device that a replica computes with, for every record."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Literal

import torch

from ace_tasks.provenance.record import CodeRecord, DeviceRecord

_PACKAGES = (
    "torch",
    "torchao",
    "diffusers",
    "transformers",
    "ray",
    "numpy",
    "opencv-python-headless",
    "pillow",
)
_ROOT = Path(__file__).resolve().parents[2]
_GIT_TIMEOUT_S = 10


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def code() -> CodeRecord | None:
    """Return the commit of this checkout; None if it is not a checkout, or git is missing."""
    if not (_ROOT / ".git").exists():
        return None
    try:
        commit = _git("rev-parse", "HEAD")
        return CodeRecord(commit=commit, modified=bool(_git("status", "--porcelain")))
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    run = subprocess.run(
        ["git", "-C", str(_ROOT), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=_GIT_TIMEOUT_S,
    )
    return run.stdout.strip()


def hardware(device: str) -> DeviceRecord:
    """Return the hardware behind the device `cpu` or `cuda`."""
    threads = torch.get_num_threads()
    if device == "cpu":
        return DeviceRecord(name=_processor(), threads=threads)
    return DeviceRecord(
        name=torch.cuda.get_device_name(),
        driver=_first_line("/sys/module/nvidia/version"),
        cuda=torch.version.cuda,
        threads=threads,
    )


def best_device() -> Literal["cpu", "cuda"]:
    """Return `cuda` if torch finds a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def use_threads(count: int) -> None:
    """Set the number of torch's threads on the CPU."""
    torch.set_num_threads(count)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _first_line(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
