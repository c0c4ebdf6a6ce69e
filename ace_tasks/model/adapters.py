"""LoRA adapters of one transformer: all held at once, one in use.

Both modes make the same picture except for rounding:

- `resident`: PEFT computes the adapter beside each linear. A switch costs nothing. A step costs
  about 1.2 times as much (some 990 small products). A compiled transformer has one adapter, as wide as
  the widest: a switch copies numbers into it, since another adapter would be compiled anew.
- `fused`: the adapter is added into the weights, always from a pristine copy in host memory. A
  step costs nothing more. A switch moves 23 GB. Adding to and subtracting from the weights in
  place would drift: 20 cycles in bf16 changed 5 % of a layer's weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel
from torch import Tensor

from ace_tasks.model.speed import Speed

Mode = Literal["resident", "fused"]
_NOTHING_SURE = object()  # while weights are being changed
_SLOT = "slot"


class Adapters:
    """The adapters of a transformer, of which at most one is in use.

    `states` maps each adapter's name to its weights under PEFT's keys, at scale 1.
    """

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        states: Mapping[str, Mapping[str, Tensor]],
        mode: Mode,
        speed: Speed = "exact",
    ):
        self.mode = mode
        self.names = frozenset(states)
        self._selected: object = None
        beside = _Slot if speed == "compiled" else _Resident
        self._chooser: _Resident | _Slot | _Fused
        self._chooser = (beside if mode == "resident" else _Fused)(transformer, states)

    def select(self, name: str | None) -> None:
        """Use this adapter from now on, or the plain weights for None. Raises KeyError."""
        if name is not None and name not in self.names:
            raise KeyError(f"no adapter {name!r}; there are {sorted(self.names)}")
        if name == self._selected:
            return
        self._selected = _NOTHING_SURE  # if what follows fails, the next call does it again
        self._chooser.select(name)
        self._selected = name

    def remove(self) -> None:
        """Leave the plain weights, and nothing of the adapters beside them. For good."""
        self.select(None)
        self._chooser.remove()


class _Resident:
    def __init__(
        self, transformer: FluxTransformer2DModel, states: Mapping[str, Mapping[str, Tensor]]
    ):
        self._transformer = transformer
        device, dtype = transformer.device, transformer.dtype
        for name, state in states.items():
            placed = {key: value.to(device, dtype) for key, value in state.items()}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "already found a peft_config": several is the aim
                transformer.load_lora_adapter(placed, adapter_name=name, prefix=None)
        if states:
            transformer.disable_adapters()
            transformer.requires_grad_(False)

    def select(self, name: str | None) -> None:
        if name is None:
            self._transformer.disable_adapters()
            return
        self._transformer.enable_adapters()
        self._transformer.set_adapters(name)
        self._transformer.requires_grad_(False)  # PEFT makes the chosen one trainable

    def remove(self) -> None:
        for name in getattr(self._transformer, "peft_config", {}).copy():
            self._transformer.delete_adapters(name)


class _Slot(_Resident):
    """One adapter in PEFT, filled with the numbers of the one that is in use."""

    def __init__(
        self, transformer: FluxTransformer2DModel, states: Mapping[str, Mapping[str, Tensor]]
    ):
        self._states = states
        self._rank = max((_rank(state) for state in states.values()), default=0)
        first = next(iter(states.values()), None)
        super().__init__(transformer, {_SLOT: self._widened(first)} if first else {})
        self._weights = {
            name: value for name, value in transformer.named_parameters() if _SLOT in name
        }

    @torch.inference_mode()
    def select(self, name: str | None) -> None:
        if name is None:
            super().select(None)
            return
        for key, value in self._widened(self._states[name]).items():
            self._weights[key.replace(".weight", f".{_SLOT}.weight")].copy_(value)
        super().select(_SLOT)

    def _widened(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With zeros up to the slot's rank, which change no product."""
        missing = self._rank - _rank(state)
        return {
            key: F.pad(value, (0, 0, 0, missing) if ".lora_A." in key else (0, missing))
            for key, value in state.items()
        }


class _Fused:
    def __init__(
        self, transformer: FluxTransformer2DModel, states: Mapping[str, Mapping[str, Tensor]]
    ):
        self._transformer = transformer
        self._weights: dict[str, Tensor] = dict(transformer.named_parameters())
        self._pairs = {name: _pairs(state) for name, state in states.items()}
        adapted = {key for pairs in self._pairs.values() for key in pairs}
        self._pristine = {key: self._weights[key].detach().to("cpu", copy=True) for key in adapted}

    @torch.inference_mode()
    def select(self, name: str | None) -> None:
        pairs = self._pairs[name] if name else {}
        device = self._transformer.device  # where it works, wherever a weight lies just now
        for key, pristine in self._pristine.items():
            weight = self._weights[key]
            weight.copy_(pristine)
            if key in pairs:
                down, up = (each.to(device, torch.float32) for each in pairs[key])
                # In float32, rounded once.
                weight.copy_(pristine.to(device, torch.float32) + up @ down)

    def remove(self) -> None:
        """Nothing lies beside the weights."""


def _rank(state: Mapping[str, Tensor]) -> int:
    return max((value.shape[0] for key, value in state.items() if ".lora_A." in key), default=0)


def _pairs(state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return (down, up) by the name of the weight that they adapt."""
    suffix = ".lora_A.weight"
    return {
        key.replace(suffix, ".weight"): (state[key], state[key.replace(suffix, ".lora_B.weight")])
        for key in state
        if key.endswith(suffix)
    }
