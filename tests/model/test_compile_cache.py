"""Compiled code that is kept on a node. If these break, a replica runs machine code that another
user, or whoever fills a bucket, has put there."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch

from ace_tasks.model.compile_cache import keep_compiled

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "torch's own")


def test_the_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keep_compiled(tmp_path / "node" / "weights", "cpu")
    finally:
        os.umask(before)
    kept = Path(os.environ[VARIABLE])
    assert kept.parent == tmp_path / "node" / "weights" / ".compiled"
    assert {each.stat().st_mode & 0o777 for each in (kept, kept.parent)} == {0o700}


def test_another_torch_or_processor_has_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr("ace_tasks.model.compile_cache._CPUINFO", cpuinfo)
    for version, flags in (("2.13.0", "avx2"), ("2.13.0", "avx2 avx512f"), ("2.14.0", "avx2")):
        monkeypatch.setattr(torch, "__version__", version)
        cpuinfo.write_text(f"model name\t: x\ncpu MHz\t: {len(places)}\nflags\t: {flags}\n")
        keep_compiled(tmp_path, "cpu")
        places.append(os.environ[VARIABLE])
    assert len({*places}) == 3
    keep_compiled(tmp_path, "cpu")
    assert os.environ[VARIABLE] == places[-1]


@pytest.mark.parametrize("kind", ["0750", "0705", "0770", "0777", "link", "file"])
def test_a_folder_that_is_not_ours_alone_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    folder, elsewhere = tmp_path / ".compiled", tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if kind == "link":
        folder.symlink_to(elsewhere)
    elif kind == "file":
        folder.write_bytes(b"")
    else:
        folder.mkdir()
        folder.chmod(int(kind, 8))
    with caplog.at_level(logging.WARNING):
        keep_compiled(tmp_path, "cpu")
    assert "compiled code is not kept" in caplog.text
    assert os.environ[VARIABLE] == "torch's own"
    assert kind == "file" or [*folder.iterdir()] == []


def test_a_folder_of_another_user_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".compiled").mkdir(mode=0o700)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    keep_compiled(tmp_path, "cpu")
    assert os.environ[VARIABLE] == "torch's own"
    assert f"belongs to user {owner}; accepted: of user {owner + 1}" in caplog.text
