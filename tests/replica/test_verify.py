"""Test the command that proves a set of weights before a catalog is sent to them. If these break, a
night's run is the first to find out that the weights are cut, or give noise."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from ace_tasks.replica import verify
from tests.support.processes import run_python
from tests.support.releases import BFL_TRANSFORMER, TRANSFORMER, make_release, pin, redefine

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run `python -m ace_tasks.model.weights …` in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("ACE_WEIGHTS_DIR", str(tmp_path / "node"))

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["weights", *map(str, arguments)])
        capsys.readouterr()
        try:
            verify.main()
        except SystemExit as ended:
            code = ended.code
        else:
            code = 0
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("releases")
    return {base: make_release(folder / base, base) for base in ("toy", "toy-lora")}


@pytest.fixture
def release(originals: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return a copy of a tiny release, to be spoilt."""
    return lambda base: Path(shutil.copytree(originals[base], tmp_path / "tiny"))


def spoil(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


@pytest.mark.thorough
def test_a_folder_as_published_is_pinned_and_proved(here: Command, tmp_path: Path) -> None:
    """A person with an own mirror types two commands."""
    folder = make_release(tmp_path / "tiny", "toy", "bfl")
    (folder / "sha256.json").unlink()
    assert here("pin", folder) == (0, f"{folder}/sha256.json: 12 files\n", "")
    proved = run_python("-m", "ace_tasks.model.weights", "verify", str(folder))
    assert proved.stderr == ""
    lines = [line.split(maxsplit=1) for line in proved.stdout.splitlines()]
    assert [key for key, _ in lines] == ["files", "transformer", "model", "one"]
    parameters = sum(value.numel() for value in load_file(folder / BFL_TRANSFORMER).values())
    assert f"{parameters:,} parameters" in proved.stdout


def test_a_fault_is_one_line_and_exit_code_2(here: Command, release: Callable[[str], Path]) -> None:
    """transformers would print a table of its own about such a file."""
    printed: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = printed.append  # type: ignore[method-assign]
    transformers_logging.set_verbosity_warning()
    transformers_logging.add_handler(handler)
    folder = release("toy")
    path = folder / "text_encoder_2" / "model.safetensors"
    spoil(path, lambda state: state.update(more=torch.zeros(2)))
    pin(folder)
    code, _, complaint = here("verify", folder)
    transformers_logging.remove_handler(handler)
    assert code == 2
    assert complaint == f"failed: WeightsError: {path}: more: unexpected\n"
    assert printed == []


@pytest.mark.parametrize(
    ("name", "adapters"), [("toy", 0), ("toy-lora", 3)]
)  # a step without, and one with each
def test_every_toy_is_proved_with_every_adapter(
    here: Command, weights_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str, adapters: int
) -> None:
    monkeypatch.setenv("ACE_WEIGHTS_DIR", str(weights_dir))
    code, output, _ = here("verify", name)
    assert code == 0
    starts = [line.split()[0] for line in output.splitlines()]
    assert starts.count("one") == 1 + adapters
    assert starts.count("adapter") == adapters


@pytest.mark.parametrize(
    "name",
    [
        TRANSFORMER,
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
        "adapters/subject.safetensors",
    ],
)
def test_weights_that_are_no_numbers_are_refused(
    here: Command, release: Callable[[str], Path], name: str
) -> None:
    """The files are whole, their hashes are right, every key is in its place; and every picture
    would be black."""
    folder = release("toy-lora")

    def break_one(state: dict[str, torch.Tensor]) -> None:
        key = max(state, key=lambda each: state[each].numel())
        state[key][:] = torch.nan

    spoil(folder / name, break_one)
    pin(folder)
    code, _, complaint = here("verify", folder)
    assert code == 2
    adapter = "subject" if name.startswith("adapters") else "no adapter"
    assert complaint.splitlines()[-1].startswith(f"failed: WeightsError: one step with {adapter}: ")


def test_a_licence_is_asked_for_and_accepted_once(
    here: Command, release: Callable[[str], Path]
) -> None:
    folder = release("toy")
    redefine(folder, license={"id": "strict-1", "name": "Strict Licence", "where": "LICENSE.md"})
    code, output, complaint = here("verify", folder)
    assert (code, output) == (2, "")
    assert "is under the Strict Licence (LICENSE.md)" in complaint
    assert here("verify", folder, "--accept-license")[0] == 0
    assert here("verify", folder)[0] == 0


def test_what_cannot_be_done_is_reported_in_a_line(
    here: Command, release: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    empty = tmp_path / "empty"
    empty.mkdir()
    pickled = release("toy")
    (pickled / "vae" / "model.bin").write_bytes(b"\x80\x04.")
    for arguments, message in (
        (("verify", "grand"), "SettingsError: variant: accepted: mini, toy, toy-lora"),
        (("verify", tmp_path / "none"), "WeightsError: "),
        (("verify", "toy", "--device", "cuda"), "SettingsError: device: accepted: cpu; given cuda"),
        (("pin", empty), f"WeightsError: {empty}: lists no files"),
        (("pin", tmp_path / "none"), f"WeightsUnavailable: {tmp_path}/none: No such file"),
        (("pin", pickled), f"WeightsError: {pickled}: vae/model.bin: a pickle"),
    ):
        code, output, complaint = here(*arguments)
        assert (code, output) == (2, "")
        assert complaint.startswith(f"failed: {message}")
        assert complaint.count("\n") == 1
