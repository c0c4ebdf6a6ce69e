"""The command `python -m ace_tasks.model.weights`: prove that a set of weights works.

It needs no catalog. Exit code 0 means that the weights work; 2 means that one line says what is
wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from ace_tasks.errors import AceError, BadOutput, SettingsError, WeightsError
from ace_tasks.images.codec import Pictures
from ace_tasks.model import places, sources, weights
from ace_tasks.model.ace import AceModel
from ace_tasks.replica import runtime_info
from ace_tasks.replica.edit import PictureEdit
from ace_tasks.settings import WeightsSettings, read_environment
from ace_tasks.specs import ModelIdentity, Sources, parse_spec, resolve
from ace_tasks.wording import counted

_EXIT_FATAL = 2
# The task requires a reference by name; no picture is given for it.
_ROW = {
    "id": "step",
    "task": "reference",
    "reference": "none",
    "prompt": "a red mug",
    "seed": 0,
    "steps": 1,
}


def main() -> None:
    arguments = parse(sys.argv[1:])
    try:
        if arguments.command == "pin":
            hashes = places.pin(arguments.folder)
            print(f"{arguments.folder / places.MANIFEST}: {counted(len(hashes), 'file')}")
        else:
            settings = read_environment().weights(accept_license=arguments.accept_license)
            verify(arguments.variant, settings, arguments.device)
    except AceError as error:
        print(f"failed: {type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(_EXIT_FATAL) from None


def verify(name: str, settings: WeightsSettings, device: str) -> None:
    """Check files, hashes, keys and parameters, and run one step with every adapter.

    Raises WeightsError and SettingsError.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device: accepted: cpu; given cuda, but torch finds no GPU")
    for chatter in (diffusers_logging, transformers_logging):
        chatter.disable_progress_bar()
        chatter.set_verbosity_error()  # else a table of keys, while our error names the first
    variant = sources.open_variant(name, settings)
    folder = weights.ensure(variant, settings)
    print(f"files       {len(weights.verify(folder))} in {folder}, hashes as listed")
    parts = weights.load(variant, folder, device)
    identity = sources.identify(variant, settings)
    model = AceModel(variant, parts, device, identity)
    count = sum(
        p.numel() for n, p in model.parts.transformer.named_parameters() if "lora_" not in n
    )
    print(f"transformer every key in its place, {count:,} parameters")
    for adapter, fingerprint in identity.adapters.items():
        print(f"adapter     {adapter}, rank {variant.adapters[adapter]}, {fingerprint[:12]}")
    print(f"model       {identity.fingerprint[:12]} ({variant.route}, {variant.dtype})")
    for adapter_name in (None, *identity.adapters):
        seconds = _one_step(model, identity, adapter_name)
        print(f"one step    {adapter_name or 'no adapter'} on {device}: {seconds:.2f} s")


def _one_step(model: AceModel, identity: ModelIdentity, adapter: str | None) -> float:
    """Make a picture from nothing in one step, and return the seconds it took.

    Raises WeightsError if it has NaN or infinite pixels.
    """
    resolved = resolve(parse_spec(_ROW), Sources(), identity).model_copy(
        update={"adapter": adapter}
    )
    edit = PictureEdit.prepare(resolved, Pictures(), route=identity.route)
    started = time.monotonic()
    try:
        model.generate(edit.jobs())
    except BadOutput as error:
        raise WeightsError(f"one step with {adapter or 'no adapter'}: {error}") from None
    return time.monotonic() - started


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ace_tasks.model.weights", description="Model files on this machine."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("verify", help="fetch if needed, check, load, and run one step")
    check.add_argument("variant", help="a variant's name, or the place of its variant.json")
    check.add_argument("--device", choices=("cpu", "cuda"), default=runtime_info.best_device())
    check.add_argument("--accept-license", action="store_true")
    listing = commands.add_parser("pin", help="write a folder's sha256.json")
    listing.add_argument("folder", type=Path)
    return parser.parse_args(arguments)
