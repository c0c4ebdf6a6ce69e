"""The way back: diffusers' weights → a checkpoint in Black Forest Labs' layout, to be read again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ace_tasks.model import keymap


def to_bfl(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the inverse of `keymap.from_bfl`, without prefix."""
    joined = {}
    for module in keymap.modules(config):
        for key, targets, _ in module.parameters():
            value = torch.cat([state[target] for target in targets])
            joined[key] = torch.cat(value.chunk(2)[::-1]) if module.swapped else value
    return joined
